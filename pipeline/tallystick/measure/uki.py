"""What a unified kernel image alone determines: its parts of PCR 4, PCR 9 and PCR 11.

Sources: systemd v252, src/boot/efi/stub.c, src/boot/efi/measure.c, src/fundamental/tpm-pcr.c; Linux 6.12,
drivers/firmware/efi/libstub/efi-stub-helper.c; edk2-stable202211. Boots that show each rule:
docs/decisions/0012-measured-boot-facts.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Unsupported
from tallystick.formats import pe
from tallystick.formats.uki import Uki
from tallystick.measure.records import Event

_WHAT = "UKI"
SEPARATOR = Digest.of(bytes(4))  # EV_SEPARATOR, no error
CALLING = Event(
    register=4,
    digest=Digest.of(b"Calling EFI Application from Boot Option"),  # without a NUL
    what="EV_EFI_ACTION: Calling EFI Application from Boot Option",
)

# Stub version -> the sections it measures, in its own order whatever the file's (tpm-pcr.h, UnifiedSection).
# .pcrsig is never measured. Later stubs measure .uname, .sbat and more: each needs a row, from its own source.
_STUB_ORDER: dict[int, tuple[str, ...]] = {
    252: (".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrpkey"),
}
# The stub hands these on beside the initrd, or changes what the kernel sees; no boot has shown how.
_NOT_MODELLED = (".dtb", ".pcrsig", ".pcrpkey", ".ucode")


class Boot(Enum):
    """How the firmware comes to start the image. The order of PCR 4 depends on it."""

    KERNEL = "kernel"  # QEMU's -kernel: loaded before the boot option that is then said to be called
    DISK = "disk"  # from the EFI system partition of a disk


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEvents:
    """The events of one image, each list in the order of its register."""

    loaded: Event  # PCR 4: the image itself
    sections: tuple[Event, ...]  # PCR 11
    kernel: Event  # PCR 4: the inner kernel
    options: tuple[Event, ...]  # PCR 9


def image_events(uki: Uki) -> ImageEvents:
    """Return the events that ``uki`` causes when no command line is given from outside.

    Raises:
        Malformed: the inner kernel is not a PE image.
        Unsupported: a stub whose rules are not known, or a section whose effect is not.
    """
    order = known_sections(uki)
    digests = {name: _digest(uki.sections[name]) for name in order}
    inner = pe.authenticode(pe.parse(uki.sections[".linux"]))
    sections = tuple(_section_events(digests, order))
    return ImageEvents(
        loaded=_pcr(4, pe.authenticode(uki.image), "EV_EFI_BOOT_SERVICES_APPLICATION: the UKI, Authenticode"),
        sections=sections,
        kernel=_pcr(4, inner, "EV_EFI_BOOT_SERVICES_APPLICATION: .linux, Authenticode"),
        options=_option_events(uki, digests),
    )


def application_events(events: ImageEvents, boot: Boot) -> tuple[Event, ...]:
    """Return what goes into PCR 4, in order."""
    separator = _pcr(4, SEPARATOR, "EV_SEPARATOR")
    if boot is Boot.KERNEL:
        return (events.loaded, CALLING, separator, events.kernel)
    return (CALLING, separator, events.loaded, events.kernel)


def pcr11_events(sections: Iterable[tuple[str, bytes | memoryview]], stub_version: int) -> tuple[Event, ...]:
    """Return the events of PCR 11 for sections given by name, as ``systemd-measure`` takes them.

    Raises:
        Unsupported: the stub's order is not known.
    """
    given = dict(sections)
    order = tuple(name for name in _known_order(stub_version) if name in given)
    return tuple(_section_events({name: _digest(given[name]) for name in order}, order))


def _section_events(digests: dict[str, Digest], order: tuple[str, ...]) -> Iterable[Event]:
    """Give two events for each section: its name with a NUL, then its content."""
    for name in order:
        yield _pcr(11, Digest.of(name.encode("ascii") + b"\0"), f"EV_IPL: the name {name}")
        yield _pcr(11, digests[name], f"EV_IPL: the content of {name}")


def known_sections(uki: Uki) -> tuple[str, ...]:
    """Return the sections that the stub of ``uki`` measures, in its order, when all effects are known.

    Raises:
        Unsupported: a stub, or a section, whose effect is not known.
    """
    order = tuple(name for name in _known_order(uki.stub_version) if name in uki.sections)
    for name in _NOT_MODELLED:
        if name in uki.sections:
            raise Unsupported(
                _WHAT, at=f"section {name}", want="none", got=f"{len(uki.sections[name])} bytes"
            )
    if not uki.sections.get(".cmdline"):
        raise Unsupported(
            _WHAT, at="section .cmdline", want="one, so that the image alone determines PCR 9", got="none"
        )
    return order


def _known_order(stub_version: int) -> tuple[str, ...]:
    if stub_version not in _STUB_ORDER:
        raise Unsupported(
            _WHAT,
            at="systemd-stub version",
            want="one of " + ", ".join(map(str, sorted(_STUB_ORDER))),
            got=f"{stub_version}",
            code="uki.stub-version",
        )
    return _STUB_ORDER[stub_version]


def _option_events(uki: Uki, digests: dict[str, Digest]) -> tuple[Event, ...]:
    """Return what the kernel's EFI stub measures; without an initrd it measures none."""
    options = _pcr(
        9, _load_options(uki), "EV_EVENT_TAG: LOADED_IMAGE::LoadOptions, .cmdline as UTF-16 with NUL"
    )
    if ".initrd" not in digests:
        return (options,)
    return (options, _pcr(9, digests[".initrd"], "EV_EVENT_TAG: Linux initrd"))


def command_line(uki: Uki) -> str:
    """Return .cmdline as the kernel receives it.

    The stub takes white space off its end (mangle_stub_cmdline); PCR 11 has the section as it is.

    Raises:
        Unsupported: a byte that is not printable ASCII.
    """
    cmdline = bytes(uki.sections[".cmdline"]).rstrip(b" \t\r\n")
    for offset, byte in enumerate(cmdline):
        if not 0x20 <= byte < 0x7F:
            raise Unsupported(
                _WHAT, at=f"section .cmdline offset {offset}", want="printable ASCII", got=f"0x{byte:02x}"
            )
    return cmdline.decode("ascii")


def _load_options(uki: Uki) -> Digest:
    """Return the digest of .cmdline as the kernel measures it: each byte a UTF-16 unit, then a NUL."""
    return Digest.of((command_line(uki) + "\0").encode("utf-16-le"))


def _digest(data: bytes | memoryview) -> Digest:
    return Digest(Algorithm.SHA256, hashlib.sha256(data).digest())  # a view is hashed where it lies


def _pcr(register: int, digest: Digest, what: str) -> Event:
    return Event(register=register, digest=digest, what=what)

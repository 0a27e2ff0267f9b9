"""Unified kernel images: a PE stub whose named sections are what systemd-stub measures and boots.

Sources: UAPI.5 Unified Kernel Image; systemd v252, src/boot/efi/stub.c and src/fundamental/tpm-pcr.c.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tallystick.core.errors import Malformed
from tallystick.formats import pe

_WHAT = "UKI"
_MAGIC = re.compile(rb"#### LoaderInfo: systemd-stub ([0-9]+)([^\s#]*) ####")


@dataclass(frozen=True, slots=True, kw_only=True)
class Uki:
    """A unified kernel image. Section contents are views of the file, not copies."""

    image: pe.PeImage
    stub_version: int  # systemd's, from the stub's .sdmagic: 252
    stub_release: str  # the whole version text: "252.39-1~deb12u2"
    sections: Mapping[str, memoryview]  # name -> content, in the order of the section table


def parse(data: bytes | memoryview) -> Uki:
    """Return the unified kernel image in ``data``.

    Raises:
        Malformed: not a PE image, a section twice, one whose memory is larger than its bytes in the file,
            no ``.linux``, or no ``.sdmagic`` of a systemd-stub.
        Unsupported: a kind of PE image that is not known.
    """
    image = pe.parse(data)
    sections: dict[str, memoryview] = {}
    for section in image.sections:
        if section.name in sections:
            raise Malformed(_WHAT, at=f"section {section.name}", want="each section once", got="a second one")
        if section.virtual_size > section.raw_size and section.name in _CONTENT:
            raise Malformed(
                _WHAT,
                at=f"section {section.name} VirtualSize",
                want=f"at most its {section.raw_size} bytes in the file",
                got=f"{section.virtual_size}",
            )
        sections[section.name] = image.content(section)
    if not sections.get(".linux"):
        raise Malformed(_WHAT, at="section .linux", want="a kernel", got="none")
    match = _MAGIC.fullmatch(bytes(sections.get(".sdmagic", b"")).rstrip(b"\0"))
    if match is None or len(match[1]) > _MAX_VERSION_DIGITS:
        raise Malformed(
            _WHAT,
            at="section .sdmagic",
            want="#### LoaderInfo: systemd-stub VERSION ####",
            got=repr(bytes(sections.get(".sdmagic", b""))[:80]),
        )
    return Uki(
        image=image,
        stub_version=int(match[1]),
        stub_release=(match[1] + match[2]).decode("ascii", "replace"),
        sections=MappingProxyType(sections),
    )


_MAX_VERSION_DIGITS = 6
# Sections that the stub hands on or measures by their size in memory, where a larger VirtualSize adds zeros.
_CONTENT = frozenset(
    (".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".uname", ".sbat", ".pcrsig", ".pcrpkey")
)

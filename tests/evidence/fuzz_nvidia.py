"""Fuzz one parser of NVIDIA's formats with atheris: ``fuzz_nvidia.py TARGET [libFuzzer's arguments]``.

Anything but the errors that a parser promises ends the run: another exception, a hang, or memory past the limit.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

import atheris

with atheris.instrument_imports(include=["tallystick"]):
    from tallystick.core.errors import Malformed, NotGenuine, Unsupported
    from tallystick.evidence import nvidia, nvidia_forms, ocsp, rim, xml_signature
    from tallystick.formats import dice, nvidia_opaque, safexml, spdm
    from tallystick.formats import rim as rim_format


def report(data: bytes) -> None:
    parsed = spdm.parse(data)
    for read in (nvidia_opaque.gpu_fields, nvidia_opaque.switch_fields):
        read(parsed.opaque)


def fwid(data: bytes) -> None:
    dice.fwid((dice.TCB_INFO, dice.COMPOSITE_DEVICE_ID)[data[:1] > b"\x7f"], data[1:])


def manifest(data: bytes) -> None:
    rim_format.read(safexml.parse(data, "RIM"))


def signature(data: bytes) -> None:
    xml_signature.signers(safexml.parse(data, "RIM"), [], "RIM", rim.CODE)


def forms(data: bytes) -> None:
    nvidia_forms.parse(data)


def response(data: bytes) -> None:
    ocsp.load(data)


def show(data: bytes) -> None:
    nvidia.show(nvidia.GPU_KIND, data)


TARGETS: dict[str, Callable[[bytes], None]] = {
    f.__name__: f for f in (report, fwid, manifest, signature, forms, response, show)
}


def seeds(target: str) -> list[bytes]:
    """Return inputs that the parser takes, to begin from."""
    import support_nvidia as made

    authority = made.Authority("NVIDIA Device Identity CA", ("Identity",))
    device = made.Device(authority)
    small = device.report(measurements={1: b"m" * 48})
    signed = made.RimMaker().rim()
    key = made.new_key().public_key()
    return {
        "report": [small, device.report(fields=made.switch_opaque())],
        "fwid": [b"\0" + made.tcb_info(b"f" * 48)[1], b"\xff" + made.composite_device_id(key, b"f" * 48)[1]],
        "manifest": [made.rim_xml().encode()],
        "signature": [signed],
        "forms": [made.dump(device.evidence()), small.hex().encode()],
        "response": [made.make_ocsp(device.rom, *authority.issuer)],
        "show": [made.dump(device.evidence()), small],
    }[target]


def main(target: str) -> None:
    parse = TARGETS[target]

    def one(data: bytes) -> None:
        with contextlib.suppress(Malformed, Unsupported, NotGenuine):
            parse(data)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1])

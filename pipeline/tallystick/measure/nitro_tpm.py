"""NitroTPM, and any firmware that boots a unified kernel image from a disk: PCR 4, 7 and 12 of one bank.

Source: TCG PC Client Platform Firmware Profile 1.06, 3.3.4.5 (PCR 4) and 3.3.4.8 (PCR 7); Amazon EC2 User Guide, "UEFI
Secure Boot": a platform key turns it on; systemd v252, src/boot/efi/linux.c: with Secure Boot on, the stub starts the
inner kernel past the firmware's loader, which then measures nothing of it. The order in PCR 4 is that of boots from a
disk (docs/decisions/0012-measured-boot-facts.md).
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Misuse, Unsupported
from tallystick.formats import esl, pe
from tallystick.formats.uki import Uki
from tallystick.measure.records import Event
from tallystick.measure.uki import known_sections

GLOBAL_VARIABLE = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")  # EFI_GLOBAL_VARIABLE
SECURITY_DATABASE = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")  # EFI_IMAGE_SECURITY_DATABASE_GUID
REGISTERS = (4, 7, 12)
_ACTION = b"Calling EFI Application from Boot Option"
_PKCS_SIGNED_DATA = 0x0002  # WIN_CERT_TYPE_PKCS_SIGNED_DATA
_CERTIFICATE_HEADER_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureBoot:
    """The machine's variables, as EFI signature lists; empty ones when a variable is not set."""

    pk: bytes = b""
    kek: bytes = b""
    db: bytes = b""
    dbx: bytes = b""

    def __post_init__(self) -> None:
        if not self.pk and (self.kek or self.db or self.dbx):
            raise Misuse("KEK, db and dbx go with a PK: without one Secure Boot is off", code="measure.no-pk")
        for name in ("pk", "kek", "db", "dbx"):
            esl.parse(getattr(self, name), f"variable {name}")

    @property
    def on(self) -> bool:
        """Whether the firmware checks signatures: a platform key ends setup mode."""
        return bool(self.pk)


def events(uki: Uki, variables: SecureBoot, algorithm: Algorithm) -> tuple[Event, ...]:
    """Return what a boot of ``uki`` extends into PCR 4 and 7; PCR 12 stays zero when no command line is added.

    Raises:
        Unsupported: a stub that is not known, or an image that no X.509 certificate of db vouches for.
        Malformed: a signature of the image that breaks its format.
    """
    known_sections(uki)
    return (*pcr4_events(uki, variables, algorithm), *pcr7_events(uki.image, variables, algorithm))


def pcr4_events(uki: Uki, variables: SecureBoot, algorithm: Algorithm) -> tuple[Event, ...]:
    """Return the events of PCR 4, in order."""
    made = [
        _event(4, _ACTION, algorithm, f"EV_EFI_ACTION: {_ACTION.decode()}"),
        _event(4, bytes(4), algorithm, "EV_SEPARATOR"),
        _image(uki.image, algorithm, "the UKI"),
    ]
    if not variables.on:
        made.append(_image(pe.parse(uki.sections[".linux"]), algorithm, ".linux"))
    return tuple(made)


def pcr7_events(image: pe.PeImage, variables: SecureBoot, algorithm: Algorithm) -> tuple[Event, ...]:
    """Return the events of PCR 7, in order; with Secure Boot on, the entry of db that vouches for ``image``."""
    state = bytes([variables.on])
    made = [
        _variable(GLOBAL_VARIABLE, "SecureBoot", state, algorithm),
        _variable(GLOBAL_VARIABLE, "PK", variables.pk, algorithm),
        _variable(GLOBAL_VARIABLE, "KEK", variables.kek, algorithm),
        _variable(SECURITY_DATABASE, "db", variables.db, algorithm),
        _variable(SECURITY_DATABASE, "dbx", variables.dbx, algorithm),
        _event(7, bytes(4), algorithm, "EV_SEPARATOR"),
    ]
    if variables.on:
        authority = _authority(image, variables.db)
        data = variable_data(SECURITY_DATABASE, "db", authority.measured)
        made.append(
            _event(7, data, algorithm, "EV_EFI_VARIABLE_AUTHORITY: db, the certificate that signs the UKI")
        )
    return tuple(made)


def variable_data(vendor: uuid.UUID, name: str, data: bytes) -> bytes:
    """Return UEFI_VARIABLE_DATA (TCG PFP 1.06, 10.2.6)."""
    return vendor.bytes_le + struct.pack("<QQ", len(name), len(data)) + name.encode("utf-16-le") + data


def _authority(image: pe.PeImage, db: bytes) -> esl.Signature:
    """Return the entry of db that one of the image's own certificates is. Whether its signature holds is not asked."""
    trusted = {one.data: one for one in reversed(esl.parse(db, "variable db")) if one.kind == esl.X509}
    for der in _certificates(image):
        if der in trusted:
            return trusted[der]
    raise Unsupported(
        "UKI",
        at="certificate table",
        want="a signature by a certificate of db, since Secure Boot is on",
        got="none" if image.certificates_size else "no signature",
        code="measure.not-in-db",
    )


def _certificates(image: pe.PeImage) -> list[bytes]:
    """Return the certificates inside the image's signatures, as DER, in order (PE Format, attribute certificates)."""
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

    table, found, at = image.data[len(image.data) - image.certificates_size :], list[bytes](), 0
    while at + _CERTIFICATE_HEADER_BYTES <= len(table):
        length, _, kind = struct.unpack_from("<IHH", table, at)
        if not _CERTIFICATE_HEADER_BYTES <= length <= len(table) - at:
            raise Malformed(
                "UKI", at=f"dwLength at {at}", want=f"8 to {len(table) - at} bytes", got=f"{length}"
            )
        if kind == _PKCS_SIGNED_DATA:
            data = _der(bytes(table[at + _CERTIFICATE_HEADER_BYTES : at + length]))
            try:
                loaded = pkcs7.load_der_pkcs7_certificates(data)
            except Exception as error:  # whatever the reader raises on bytes that are no PKCS #7
                raise Malformed(
                    "UKI", at=f"certificate at {at}", want="PKCS #7 SignedData", got=type(error).__name__
                ) from None
            found += [one.public_bytes(Encoding.DER) for one in loaded]
        at += -(-length // 8) * 8
    return found


def _der(data: bytes) -> bytes:
    """Return ``data`` without the filling behind its outermost DER element."""
    if len(data) < 2 or data[1] < 0x80:
        return data
    count = data[1] & 0x7F
    return data[: 2 + count + int.from_bytes(data[2 : 2 + count], "big")]


def _image(image: pe.PeImage, algorithm: Algorithm, what: str) -> Event:
    digest = pe.authenticode(image, algorithm)
    return Event(register=4, digest=digest, what=f"EV_EFI_BOOT_SERVICES_APPLICATION: {what}, Authenticode")


def _variable(vendor: uuid.UUID, name: str, data: bytes, algorithm: Algorithm) -> Event:
    return _event(7, variable_data(vendor, name, data), algorithm, f"EV_EFI_VARIABLE_DRIVER_CONFIG: {name}")


def _event(register: int, data: bytes, algorithm: Algorithm, what: str) -> Event:
    return Event(register=register, digest=Digest.of(data, algorithm), what=what)

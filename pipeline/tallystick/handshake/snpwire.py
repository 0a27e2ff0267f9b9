"""SEV-SNP reports as KBS clients send them: the fields of virtee's ``sev`` crate as JSON, and back to AMD's bytes.

The JSON has no reserved bytes, so bytes come back exactly when those are zero, which AMD requires; a report where
they are not has another signature and is refused for that.

Source: virtee/sev, src/firmware/guest/types/snp.rs, ``AttestationReport`` and its ``Encoder``;
src/firmware/host/types/snp.rs, ``TcbVersion``, ``CertTableEntry``; AMD 56860, ATTESTATION_REPORT, Table 23.
"""

from __future__ import annotations

import struct
import uuid
from contextlib import suppress
from typing import Any

from tallystick.core.errors import Malformed
from tallystick.handshake.fields import Fields

REPORT_BYTES = 1184
MAX_CERTIFICATES = 16
MAX_CERTIFICATE_BYTES = 64 << 10
_WHAT = "SNP evidence"
_NUMBERS = {  # name -> offset, bytes (little-endian)
    "version": (0x00, 4),
    "guest_svn": (0x04, 4),
    "policy": (0x08, 8),
    "vmpl": (0x30, 4),
    "sig_algo": (0x34, 4),
    "plat_info": (0x40, 8),
    "key_info": (0x48, 4),
}
_BYTES = {
    "family_id": (0x10, 16),
    "image_id": (0x20, 16),
    "report_data": (0x50, 64),
    "measurement": (0x90, 48),
    "host_data": (0xC0, 32),
    "id_key_digest": (0xE0, 48),
    "author_key_digest": (0x110, 48),
    "report_id": (0x140, 32),
    "report_id_ma": (0x160, 32),
    "chip_id": (0x1A0, 64),
}
_TCBS = {"current_tcb": 0x38, "reported_tcb": 0x180, "committed_tcb": 0x1E0, "launch_tcb": 0x1F0}
_VERSIONS = {"current": 0x1E8, "committed": 0x1EC}
_CPUID = {"cpuid_fam_id": 0x188, "cpuid_mod_id": 0x189, "cpuid_step": 0x18A}  # from version 3
_VECTORS = {"launch_mit_vector": 0x1F8, "current_mit_vector": 0x200}  # from version 5
_SIGNATURE = {"r": 0x2A0, "s": 0x2E8}
_SIGNATURE_BYTES = 72
_LEGACY_TCB = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
_TURIN_TCB = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}
_TURIN_FAMILY = 0x1A
_ENTRY = struct.Struct("<16sII")
_CERTIFICATES = {  # src/firmware/host/types/snp.rs, CertType
    "c0b406a4-a803-4952-9743-3fb6014cd0ae": "ARK",
    "4ab7b379-bbac-4fe4-a02f-05aef327c782": "ASK",
    "63da758d-e664-4564-adc5-f4b93be8accd": "VCEK",
    "a8074bc2-a25a-483e-aae6-39c045a0b8a1": "VLEK",
}


def document(report: bytes, certificates: dict[str, bytes] | None = None) -> dict[str, Any]:
    """Return the primary evidence for ``report``.

    Args:
        certificates: DER by the kind that the GHCB table gives it: "VCEK", "ASK", …

    Raises:
        Malformed: no report.
    """
    if len(report) != REPORT_BYTES:
        raise Malformed(_WHAT, at="report", want=f"{REPORT_BYTES} bytes", got=f"{len(report)}")
    version = int.from_bytes(report[:4], "little")
    family, chip_id = report[_CPUID["cpuid_fam_id"]], report[0x1A0:0x1E0]
    layout = _tcb_layout(version, family, chip_id)
    made: dict[str, Any] = {
        **{n: int.from_bytes(report[at : at + size], "little") for n, (at, size) in _NUMBERS.items()},
        **{name: list(report[at : at + size]) for name, (at, size) in _BYTES.items()},
    }
    for name, at in _TCBS.items():
        made[name] = {"fmc": None} | {part: report[at + offset] for part, offset in layout.items()}
    for name, at in _VERSIONS.items():
        made[name] = {"build": report[at], "minor": report[at + 1], "major": report[at + 2]}
    for name, at in _CPUID.items():
        made[name] = report[at] if version >= 3 else None
    for name, at in _VECTORS.items():
        made[name] = int.from_bytes(report[at : at + 8], "little") if version >= 5 else None
    made["signature"] = {name: list(report[at : at + _SIGNATURE_BYTES]) for name, at in _SIGNATURE.items()}
    entries = [{"cert_type": kind, "data": list(der)} for kind, der in (certificates or {}).items()]
    return {"attestation_report": made, "cert_chain": entries or None}


def parse(evidence: Any) -> tuple[bytes, tuple[bytes, ...]]:
    """Return the report's bytes, and the certificates (DER or PEM) that came with it.

    Raises:
        Malformed: not the fields of a report, or a number that does not fit its field.
    """
    outer = Fields(evidence, _WHAT)
    fields = outer.child("attestation_report")
    report = bytearray(REPORT_BYTES)
    for name, (at, size) in _NUMBERS.items():
        report[at : at + size] = _number(fields, name, size)
    for name, (at, size) in _BYTES.items():
        report[at : at + size] = _byte_list(fields, name, size)
    version = int.from_bytes(report[:4], "little")
    for names, since, size in ((_CPUID, 3, 1), (_VECTORS, 5, 8)):
        for name, at in names.items():
            if version >= since or fields.has(name):
                report[at : at + size] = _number(fields, name, size)
    layout = _tcb_layout(version, report[_CPUID["cpuid_fam_id"]], bytes(report[0x1A0:0x1E0]))
    for name, at in _TCBS.items():
        parts = fields.child(name)
        for part, offset in layout.items():
            report[at + offset : at + offset + 1] = _number(parts, part, 1)
    for name, at in _VERSIONS.items():
        parts = fields.child(name)
        for offset, part in enumerate(("build", "minor", "major")):
            report[at + offset : at + offset + 1] = _number(parts, part, 1)
    signature = fields.child("signature")
    for name, at in _SIGNATURE.items():
        report[at : at + _SIGNATURE_BYTES] = _byte_list(signature, name, _SIGNATURE_BYTES)
    return bytes(report), _certificates(outer)


def certificate_table(data: bytes) -> dict[str, bytes]:
    """Return the certificates of the table that the host gave, by the names of ``CertType``; empty for no table.

    Source: AMD 56421 (GHCB), section 4.1.8.1: GUID, offset and length of each, ended by zeros.

    Raises:
        Malformed: an entry outside the table, or no end.
    """
    found: dict[str, bytes] = {}
    for at in range(0, len(data), _ENTRY.size):
        if at + _ENTRY.size > len(data):
            break
        guid, offset, size = _ENTRY.unpack_from(data, at)
        if guid == bytes(16):
            return found
        if offset + size > len(data):
            raise Malformed(
                "SNP certificate table", at=f"offset {at}", want="an entry inside", got="one outside"
            )
        if (name := _CERTIFICATES.get(str(uuid.UUID(bytes=guid)))) is not None:
            found[name] = data[offset : offset + size]
    if data:
        raise Malformed("SNP certificate table", at="end", want="an entry of zeros", got="none")
    return found


def _tcb_layout(version: int, family: int, chip_id: bytes) -> dict[str, int]:
    """Return where the parts of a TCB_VERSION lie: Turin moved them, and its chip ids have 8 bytes."""
    turin = family == _TURIN_FAMILY if version >= 3 else any(chip_id) and not any(chip_id[8:])
    return _TURIN_TCB if turin else _LEGACY_TCB


def _certificates(outer: Fields) -> tuple[bytes, ...]:
    entries = outer.raw("cert_chain")
    if entries is None:
        return ()
    if not isinstance(entries, list) or len(entries) > MAX_CERTIFICATES:
        raise outer.bad("cert_chain", want=f"at most {MAX_CERTIFICATES} certificates", got="something else")
    found = []
    for number, entry in enumerate(entries):
        one = Fields(entry, f"{_WHAT}: cert_chain[{number}]")
        found.append(_byte_list(one, "data", None))
    return tuple(found)


def _number(fields: Fields, name: str, size: int) -> bytes:
    value = fields.raw(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 8 * size:
        raise fields.bad(name, want=f"a number of {size} byte(s)", got=type(value).__name__)
    return value.to_bytes(size, "little")


def _byte_list(fields: Fields, name: str, size: int | None) -> bytes:
    value = fields.raw(name)
    most = MAX_CERTIFICATE_BYTES if size is None else size
    if not isinstance(value, list) or len(value) > most or (size is not None and len(value) != size):
        want = f"at most {most} bytes as numbers" if size is None else f"{size} bytes as numbers"
        raise fields.bad(name, want=want, got=type(value).__name__)
    if set(map(type, value)) <= {
        int
    }:  # thousands of numbers: each look at one by name costs more than the signature
        with suppress(ValueError):
            return bytes(value)
    raise fields.bad(name, want="numbers from 0 to 255", got="something else")

"""AMD SEV-SNP attestation reports and the certificate table that comes beside them.

Source: AMD 56860 (SEV-SNP Firmware ABI): ATTESTATION_REPORT, Table 23 (versions 2, 3, 5); TCB_VERSION, Tables 3 to 5;
GUEST_POLICY, Table 10; PLATFORM_INFO, Table 24. AMD 56421 (GHCB), section 4.1.8.1, for the certificate table.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats.cursor import Cursor

REPORT_BYTES = 1184
SIGNED_BYTES = 0x2A0
_WHAT = "SNP report"
_VERSIONS = (2, 3, 4, 5)  # 4 differs from 3 in no field that is read here
_ECDSA_P384_SHA384 = 1
# ATTESTATION_REPORT, Table 23, in its order; integers are little-endian. The last three are the SIGNATURE.
_FIELDS = struct.Struct("<IIQ16s16sII8sQI4s64s48s32s48s48s32s32s8s3s21s64s8s3s1s3s1s8sQQ152s72s72s368s")
SIGNING_KEYS = {0: "vcek", 1: "vlek"}  # 7: none, the report is not signed
_PRODUCTS = {  # CPUID family, model range (AMD 57230 and the kernel's cpu tables)
    "Milan": (0x19, range(0x10)),
    "Genoa": (0x19, (*range(0x10, 0x20), *range(0xA0, 0xB0))),
    "Turin": (0x1A, range(0x12)),
}
TABLE_GUIDS = {
    "c0b406a4-a803-4952-9743-3fb6014cd0ae": "ark",
    "4ab7b379-bbac-4fe4-a02f-05aef327c782": "ask",
    "63da758d-e664-4564-adc5-f4b93be8accd": "vcek",
    "a8074bc2-a25a-483e-aae6-39c045a0b8a1": "vlek",
    "92f81bc3-5811-4d3d-97ff-d19f88dc67ea": "crl",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tcb:
    """A TCB_VERSION, taken apart by the product's layout."""

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None  # Turin alone has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The fields of an attestation report. Whether it is genuine is not asked here."""

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    platform_info: int
    key_info: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    cpuid: tuple[int, int, int] | None  # family, model, stepping; from version 3
    chip_id: bytes
    current_tcb: bytes
    reported_tcb: bytes
    committed_tcb: bytes
    launch_tcb: bytes
    current_version: tuple[int, int, int]  # major, minor, build of the firmware
    committed_version: tuple[int, int, int]
    mitigations: tuple[int, int] | None  # LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR; from version 5
    signed: bytes
    signature: tuple[int, int]  # r and s

    @property
    def signing_key(self) -> str:
        """Which key signed: "vcek" or "vlek"."""
        return SIGNING_KEYS[self.key_info >> 2 & 7]

    @property
    def product(self) -> str | None:
        """The processor generation by CPUID; None in version 2, which does not say."""
        if self.cpuid is None:
            return None
        family, model, _ = self.cpuid
        for name, (of_family, models) in _PRODUCTS.items():
            if family == of_family and model in models:
                return name
        raise Unsupported(
            _WHAT, at="CPUID at offset 0x188", want="Milan, Genoa or Turin", got=f"{family:#x}/{model:#x}"
        )


def tcb(value: bytes, product: str) -> Tcb:
    """Return a TCB_VERSION taken apart: Turin moved every field."""
    if product == "Turin":
        return Tcb(fmc=value[0], bootloader=value[1], tee=value[2], snp=value[3], microcode=value[7])
    return Tcb(fmc=None, bootloader=value[0], tee=value[1], snp=value[6], microcode=value[7])


def parse(data: bytes) -> Report:
    """Return the report in ``data``.

    Raises:
        Malformed: another length, a reserved field that is not zero, or a policy bit that must be one and is not.
        Unsupported: another version, signature algorithm or signing key.
    """
    if len(data) != REPORT_BYTES:
        raise Malformed(_WHAT, at="size", want=f"{REPORT_BYTES} bytes", got=f"{len(data)}")
    (
        version, guest_svn, policy, family_id, image_id, vmpl, algorithm, current_tcb, platform_info, key_info,
        reserved, report_data, measurement, host_data, id_key, author_key, report_id, report_id_ma, reported_tcb,
        cpuid, reserved_1, chip_id, committed_tcb, current, reserved_2, committed, reserved_3, launch_tcb,
        launch_mit, current_mit, reserved_4, r, s, reserved_5,
    ) = _FIELDS.unpack(data)  # fmt: skip
    if version not in _VERSIONS:
        raise Unsupported(_WHAT, at="VERSION", want="2 to 5", got=str(version))
    if not policy >> 17 & 1:
        raise Malformed(
            _WHAT, at="POLICY at offset 8", want="bit 17 set (reserved, must be one)", got=hex(policy)
        )
    if algorithm != _ECDSA_P384_SHA384:
        raise Unsupported(_WHAT, at="SIGNATURE_ALGO", want="1 (ECDSA P-384 with SHA-384)", got=str(algorithm))
    if key_info >> 2 & 7 not in SIGNING_KEYS or key_info >> 5:
        raise Unsupported(_WHAT, at="KEY_INFO", want="signed by VCEK or VLEK", got=hex(key_info))
    if version == 2 and any(cpuid):
        raise Malformed(_WHAT, at="CPUID at offset 0x188", want="zero in version 2", got=cpuid.hex())
    if version < 5 and (launch_mit or current_mit):
        got = f"{launch_mit:x}, {current_mit:x}"
        raise Malformed(_WHAT, at="reserved at offset 0x1f8", want="all zero before version 5", got=got)
    for offset, zeros in (
        (0x4C, reserved),
        (0x18B, reserved_1),
        (0x1EB, reserved_2),
        (0x1EF, reserved_3),
        (0x208, reserved_4),
        (0x330, reserved_5),
    ):
        if zeros.strip(b"\0"):
            raise Malformed(_WHAT, at=f"reserved at offset {offset:#x}", want="all zero", got=zeros.hex())
    return Report(
        version=version,
        guest_svn=guest_svn,
        policy=policy,
        family_id=family_id,
        image_id=image_id,
        vmpl=vmpl,
        platform_info=platform_info,
        key_info=key_info,
        report_data=report_data,
        measurement=measurement,
        host_data=host_data,
        id_key_digest=id_key,
        author_key_digest=author_key,
        report_id=report_id,
        report_id_ma=report_id_ma,
        cpuid=(cpuid[0], cpuid[1], cpuid[2]) if version >= 3 else None,
        chip_id=chip_id,
        current_tcb=current_tcb,
        reported_tcb=reported_tcb,
        committed_tcb=committed_tcb,
        launch_tcb=launch_tcb,
        current_version=(current[2], current[1], current[0]),
        committed_version=(committed[2], committed[1], committed[0]),
        mitigations=(launch_mit, current_mit) if version >= 5 else None,
        signed=data[:SIGNED_BYTES],
        signature=(int.from_bytes(r, "little"), int.from_bytes(s, "little")),
    )


def certificate_table(data: bytes) -> dict[str, bytes]:
    """Return the certificates of a GHCB table by name; entries of unknown GUIDs are kept under their GUID.

    Raises:
        Malformed: an entry outside the data, the same GUID twice, or no terminator.
    """
    cursor, found = Cursor(data, "GHCB certificate table"), dict[str, bytes]()
    while True:
        guid = str(uuid.UUID(bytes=cursor.take("GUID", 16)))
        offset, size = cursor.little("offset", 4), cursor.little("length", 4)
        if guid == str(uuid.UUID(int=0)):
            if offset or size:
                raise cursor.bad("terminator", want="zeros", got=f"{offset}, {size}")
            return found
        name = TABLE_GUIDS.get(guid, guid)
        if name in found or offset + size > len(data) or size == 0:
            raise cursor.bad(
                f"entry {name}", want="one certificate inside the table", got=f"{size} bytes at {offset}"
            )
        found[name] = data[offset : offset + size]

"""Azure's HCL reports: a hardware report, and the runtime data whose hash it carries in REPORT_DATA.

A confidential VM of Azure reads one from its vTPM (NV index 0x01400001). The paravisor (HCL) that runs below the guest
made it: the runtime data name the attestation key of the vTPM that the paravisor emulates.

Source: Microsoft, "Attestation of confidential VMs: guest attestation design detail"; openvmm, ``IgvmAttestRequest``
(openhcl/openhcl_attestation_protocol/src/igvm_attest/get.rs); kinvolk/azure-cvm-tooling, az-cvm-vtpm/src/hcl/mod.rs.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats.cursor import Cursor

SIGNATURE = b"HCLA"
SNP, TDX = 2, 4  # IGVM report types
HW_REPORT_BYTES = 1184  # the larger of the two: a TDREPORT is filled up with zeros
TD_REPORT_BYTES = 1024
_HEADER_BYTES = 32
_VERSIONS = (1, 2)
_REQUEST_TYPE = 2  # AK_CERT_REQUEST: the report that the vTPM serves
_HASHES = {1: "sha256", 2: "sha384", 3: "sha512"}
_AK, _EK = "HCLAkPub", "HCLEkPub"
_RUNTIME_FIELDS = 20  # bytes of the five integers before the runtime JSON
_USER_DATA = re.compile(r"(?:[0-9a-fA-F]{2}){0,64}")
_WHAT = "HCL report"
_MAX_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class HclReport:
    """An HCL report, taken apart. Whether the hardware signed it is not asked here."""

    kind: int  # SNP or TDX
    header: bytes
    hardware_report: bytes  # an SNP report (1,184 bytes) or a TDREPORT (1,024 bytes)
    hash_name: str
    runtime: bytes  # the JSON text that REPORT_DATA covers
    keys: tuple[dict[str, Any], ...]  # JSON Web Keys
    configuration: dict[str, Any]  # vm-configuration
    user_data: bytes  # 64 bytes that the guest chose

    @property
    def bound(self) -> bytes:
        """The 64 bytes that the hardware's REPORT_DATA must be: the runtime data's hash, then zeros."""
        return hashlib.new(self.hash_name, self.runtime).digest().ljust(64, b"\0")

    def attestation_key(self) -> dict[str, Any]:
        """Return the vTPM's attestation key.

        Raises:
            Malformed: there is none, or more than one that might be meant.
        """
        found = [key for key in self.keys if key.get("kid") == _AK]
        if len(found) != 1:
            raise Malformed(_WHAT, at="runtime data keys", want=f"one {_AK}", got=f"{len(found)}")
        return found[0]


def is_hcl(data: bytes) -> bool:
    """Return whether ``data`` begins as an HCL report does."""
    return data[:4] == SIGNATURE


def parse(data: bytes) -> HclReport:
    """Return the report in ``data``. Only zeros, which fill the NV index, may follow the runtime data.

    Raises:
        Malformed: lengths that do not add up, a field that must be zero, or runtime data that are no such JSON.
        Unsupported: another version, request, report type or hash.
    """
    if len(data) > _MAX_BYTES:
        raise Malformed(_WHAT, at="size", want=f"at most {_MAX_BYTES} bytes", got=f"{len(data)}")
    cursor = Cursor(data, _WHAT)
    if (signature := cursor.take("signature", 4)) != SIGNATURE:
        raise cursor.bad("signature", want=SIGNATURE.decode(), got=signature.hex())
    version, whole = cursor.little("version", 4), cursor.little("report_size", 4)
    request, status = cursor.little("request_type", 4), cursor.little("status", 4)
    cursor.reserved("reserved", 12)
    for name, want, got in (
        ("version", _VERSIONS, version),
        ("request_type", (_REQUEST_TYPE,), request),
        ("status", (0,), status),
    ):
        if got not in want:
            raise Unsupported(_WHAT, at=name, want=" or ".join(map(str, want)), got=str(got))
    hardware = cursor.take("hw_report", HW_REPORT_BYTES)
    size, _version, kind = (
        cursor.little(f"runtime {name}", 4) for name in ("size", "version", "report_type")
    )
    hashed, length = cursor.little("report_data_hash_type", 4), cursor.little("variable_data_size", 4)
    if kind not in (SNP, TDX):
        raise Unsupported(_WHAT, at="report_type", want="2 (SNP) or 4 (TDX)", got=str(kind))
    if hashed not in _HASHES:
        raise Unsupported(_WHAT, at="report_data_hash_type", want="1, 2 or 3", got=str(hashed))
    if size != length + _RUNTIME_FIELDS:
        raise cursor.bad("runtime data size", want=f"{length + _RUNTIME_FIELDS}", got=f"{size}")
    if whole != _HEADER_BYTES + HW_REPORT_BYTES + size:
        raise Malformed(
            _WHAT, at="report_size", want=f"{_HEADER_BYTES + HW_REPORT_BYTES + size}", got=f"{whole}"
        )
    runtime = cursor.take("runtime data", length)
    cursor.reserved("bytes after the runtime data", cursor.left)
    if kind == TDX and any(hardware[TD_REPORT_BYTES:]):
        raise cursor.bad("hw_report", want="zeros after the TDREPORT", got="other bytes")
    keys, configuration, user_data = _runtime(runtime)
    return HclReport(
        kind=kind,
        header=data[:_HEADER_BYTES],
        hardware_report=hardware if kind == SNP else hardware[:TD_REPORT_BYTES],
        hash_name=_HASHES[hashed],
        runtime=runtime,
        keys=keys,
        configuration=configuration,
        user_data=user_data,
    )


def _runtime(text: bytes) -> tuple[tuple[dict[str, Any], ...], dict[str, Any], bytes]:
    """Return (keys, vm-configuration, user-data) of the runtime JSON; what else it has is left alone."""
    value = jsondoc.loads(text, f"{_WHAT} runtime data")
    if not isinstance(value, dict):
        raise Malformed(_WHAT, at="runtime data", want="a JSON object", got=type(value).__name__)
    keys, configuration = value.get("keys"), value.get("vm-configuration", {})
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise Malformed(_WHAT, at="runtime data keys", want="JSON Web Keys", got=type(keys).__name__)
    if not isinstance(configuration, dict):
        raise Malformed(_WHAT, at="vm-configuration", want="an object", got=type(configuration).__name__)
    user_data = value.get("user-data", "")
    if not isinstance(user_data, str) or not _USER_DATA.fullmatch(user_data):
        raise Malformed(_WHAT, at="user-data", want="hex of at most 64 bytes", got=repr(user_data))
    return tuple(keys), configuration, bytes.fromhex(user_data)


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReportStruct:
    """The parts of a TDREPORT that a remote verifier can compare with a quote of the same TD.

    Its own MAC only the machine that made it can check.
    """

    report_data: bytes
    attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr: tuple[bytes, bytes, bytes, bytes]


def td_report(data: bytes) -> TdReportStruct:
    """Return the TDREPORT_STRUCT in 1,024 bytes.

    Source: Intel TDX Module 1.0 architecture specification, 22.6 (REPORTMACSTRUCT, TEE_TCB_INFO, TDINFO_STRUCT).

    Raises:
        Malformed: not a TD's report.
    """
    cursor = Cursor(data, "TDREPORT")
    if (kind := cursor.little("REPORTTYPE.TYPE", 1)) != 0x81:
        raise cursor.bad("REPORTTYPE.TYPE", want="0x81 (TDX)", got=hex(kind))
    cursor.take("REPORTTYPE, CPUSVN, hashes", 15 + 16 + 48 + 48)
    report_data = cursor.take("REPORTDATA", 64)
    cursor.take("reserved, MAC", 64)
    cursor.take("TEE_TCB_INFO, reserved", 239 + 17)
    attributes, xfam = cursor.take("ATTRIBUTES", 8), cursor.take("XFAM", 8)
    td, config = cursor.take("MRTD", 48), cursor.take("MRCONFIGID", 48)
    owner, owner_config = cursor.take("MROWNER", 48), cursor.take("MROWNERCONFIG", 48)
    first, second, third, fourth = (cursor.take(f"RTMR{i}", 48) for i in range(4))
    cursor.take("SERVTD_HASH, reserved", 112)
    cursor.end()
    return TdReportStruct(
        report_data=report_data,
        attributes=attributes,
        xfam=xfam,
        mr_td=td,
        mr_config_id=config,
        mr_owner=owner,
        mr_owner_config=owner_config,
        rtmr=(first, second, third, fourth),
    )

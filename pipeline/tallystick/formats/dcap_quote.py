"""Intel SGX and TDX quotes (ECDSA, versions 3, 4 and 5) and the PCK certificate's extension.

Source: Intel SGX ECDSA QuoteLibReference, Appendix A (version 3); Intel TDX DCAP Quoting Library API, Appendix A
(versions 4 and 5); Intel SGX PCK Certificate and CRL Profile Specification, 1.5, section 1.3.5.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats.cursor import Cursor

_WHAT = "quote"
_ECDSA_P256 = 2
_SGX, _TDX = 0x00, 0x81
_INTEL_QE = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_ENCLAVE_BYTES, _TD10_BYTES, _TD15_BYTES = 384, 584, 648
_PCK_CHAIN, _QE_REPORT = 5, 6  # certification data types
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveReport:
    """An SGX enclave report body."""

    cpu_svn: bytes
    misc_select: bytes
    attributes: bytes  # flags u64 and XFRM u64, little-endian
    mr_enclave: bytes
    mr_signer: bytes
    config_id: bytes
    isv_prod_id: int
    isv_svn: int
    config_svn: int
    isv_ext_prod_id: bytes
    isv_family_id: bytes
    report_data: bytes
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReport:
    """A TDX report body; the last two fields exist from TDX 1.5 on."""

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn2: bytes | None
    mr_service_td: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A quote, taken apart. Whether it is genuine is not asked here."""

    version: int
    header: bytes
    body_type: int | None  # version 5 alone
    body: EnclaveReport | TdReport
    signed: bytes  # header and body: what the attestation key signs
    signature: bytes
    attestation_key: bytes  # x and y of a P-256 point
    qe_report: EnclaveReport
    qe_signature: bytes
    qe_auth_data: bytes
    pck_chain: bytes | None  # PEM, leaf first; None when the quote names its PCK in another way

    @property
    def is_tdx(self) -> bool:
        """Whether the body is a TD's."""
        return isinstance(self.body, TdReport)


def parse(data: bytes) -> Quote:
    """Return the quote in ``data``; zeros after its end, which some drivers leave, are ignored.

    Raises:
        Malformed: lengths that do not add up, or other bytes after the end.
        Unsupported: another version, key type, TEE or quoting enclave's vendor.
    """
    if len(data) > _MAX_BYTES:
        raise Malformed(_WHAT, at="size", want=f"at most {_MAX_BYTES} bytes", got=f"{len(data)}")
    cursor = Cursor(data, _WHAT)
    header = cursor.take("header", 48)
    version, key_type = int.from_bytes(header[:2], "little"), int.from_bytes(header[2:4], "little")
    tee = int.from_bytes(header[4:8], "little") if version != 3 else _SGX
    for name, want, got in (
        ("version", (3, 4, 5), version),
        ("attestation key type", (_ECDSA_P256,), key_type),
        ("TEE type", (_SGX, _TDX), tee),
    ):
        if got not in want:
            raise Unsupported(_WHAT, at=name, want=" or ".join(map(str, want)), got=str(got))
    if header[12:28] != _INTEL_QE:
        raise Unsupported(_WHAT, at="QE vendor", want=_INTEL_QE.hex(), got=header[12:28].hex())
    body_type: int | None = None
    if version == 5:
        body_type, size = cursor.little("body type", 2), cursor.little("body size", 4)
    else:
        size = _TD10_BYTES if tee == _TDX else _ENCLAVE_BYTES
    raw = cursor.take("body", size)
    body = _body(tee, body_type, raw)
    signed = data[: cursor.at]
    length = cursor.little("signature data length", 4)
    signature = Cursor(cursor.take("signature data", length), "quote signature data")
    by_key, key = signature.take("signature", 64), signature.take("attestation key", 64)
    qe, qe_signature, auth, chain = _certification(signature.rest(), version)
    rest = cursor.rest()
    if any(rest):
        raise Malformed(
            _WHAT, at=f"end at offset {len(data) - len(rest)}", want="nothing, or zeros", got=rest[:16].hex()
        )
    return Quote(
        version=version,
        header=header,
        body_type=body_type,
        body=body,
        signed=signed,
        signature=by_key,
        attestation_key=key,
        qe_report=qe,
        qe_signature=qe_signature,
        qe_auth_data=auth,
        pck_chain=chain,
    )


def _body(tee: int, body_type: int | None, raw: bytes) -> EnclaveReport | TdReport:
    want = {None: None, 1: (_SGX, _ENCLAVE_BYTES), 2: (_TDX, _TD10_BYTES), 3: (_TDX, _TD15_BYTES)}
    if body_type not in want:
        raise Unsupported(_WHAT, at="body type", want="1, 2 or 3", got=str(body_type))
    if body_type is not None and want[body_type] != (tee, len(raw)):
        raise Malformed(
            _WHAT, at="body", want=f"the size of type {body_type}", got=f"{len(raw)} bytes, TEE {tee:#x}"
        )
    return _td_report(raw) if tee == _TDX else enclave_report(raw)


def enclave_report(raw: bytes) -> EnclaveReport:
    """Return the enclave report in 384 bytes."""
    cursor = Cursor(raw, "enclave report")
    cpu_svn, misc = cursor.take("CPUSVN", 16), cursor.take("MISCSELECT", 4)
    cursor.take("reserved", 12)
    ext_prod, attributes = cursor.take("ISVEXTPRODID", 16), cursor.take("ATTRIBUTES", 16)
    enclave = cursor.take("MRENCLAVE", 32)
    cursor.take("reserved", 32)
    signer = cursor.take("MRSIGNER", 32)
    cursor.take("reserved", 32)
    config, prod, svn = cursor.take("CONFIGID", 64), cursor.little("ISVPRODID", 2), cursor.little("ISVSVN", 2)
    config_svn = cursor.little("CONFIGSVN", 2)
    cursor.take("reserved", 42)
    family, report_data = cursor.take("ISVFAMILYID", 16), cursor.take("REPORTDATA", 64)
    cursor.end()
    return EnclaveReport(
        cpu_svn=cpu_svn,
        misc_select=misc,
        attributes=attributes,
        mr_enclave=enclave,
        mr_signer=signer,
        config_id=config,
        isv_prod_id=prod,
        isv_svn=svn,
        config_svn=config_svn,
        isv_ext_prod_id=ext_prod,
        isv_family_id=family,
        report_data=report_data,
        raw=raw,
    )


_TD_FIELDS = struct.Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")  # TEE_TCB_SVN to REPORTDATA


def _td_report(raw: bytes) -> TdReport:
    (
        tcb, seam, signer, seam_attributes, attributes, xfam, td, config, owner, owner_config,
        first, second, third, fourth, report_data,
    ) = _TD_FIELDS.unpack_from(raw)  # fmt: skip
    return TdReport(
        tee_tcb_svn=tcb,
        mr_seam=seam,
        mr_signer_seam=signer,
        seam_attributes=seam_attributes,
        td_attributes=attributes,
        xfam=xfam,
        mr_td=td,
        mr_config_id=config,
        mr_owner=owner,
        mr_owner_config=owner_config,
        rtmr=(first, second, third, fourth),
        report_data=report_data,
        tee_tcb_svn2=raw[584:600] if len(raw) == _TD15_BYTES else None,
        mr_service_td=raw[600:648] if len(raw) == _TD15_BYTES else None,
    )


@lru_cache(maxsize=1024)
def _certification(data: bytes, version: int) -> tuple[EnclaveReport, bytes, bytes, bytes | None]:
    """Return (QE report, its signature, authentication data, PCK chain) out of what follows the attestation key.

    Kept by its bytes: a quoting enclave sends the same with each of its quotes.
    """
    cursor = Cursor(data, "quote certification data")
    if version > 3:
        kind, size = cursor.little("certification data type", 2), cursor.little("certification data size", 4)
        if kind != _QE_REPORT:
            raise Unsupported(_WHAT, at="certification data type", want=str(_QE_REPORT), got=str(kind))
        if size != cursor.left:
            raise cursor.bad("certification data size", want=f"{cursor.left}", got=f"{size}")
    qe = enclave_report(cursor.take("QE report", _ENCLAVE_BYTES))
    qe_signature = cursor.take("QE report signature", 64)
    auth = cursor.take("QE authentication data", cursor.little("QE authentication data size", 2))
    kind, size = cursor.little("certification data type", 2), cursor.little("certification data size", 4)
    certification = cursor.take("certification data", size)
    cursor.end()
    return qe, qe_signature, auth, certification.rstrip(b"\0") if kind == _PCK_CHAIN else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PckExtension:
    """The SGX extension of a PCK certificate."""

    ppid: bytes
    cpu_svn: tuple[int, ...]  # sixteen component SVNs
    pce_svn: int
    pce_id: bytes
    fmspc: bytes
    platform_instance_id: bytes | None


def pck_extension(der: bytes) -> PckExtension:
    """Return the values of the SGX extension (1.2.840.113741.1.13.1) of a PCK certificate.

    Raises:
        Malformed: not the DER that Intel's profile prescribes.
    """
    values = dict(_pairs(_content(der, 0x30)))
    tcb = dict(_pairs(values.get(b"\x02", b"")))
    try:
        components = tuple(int.from_bytes(tcb[bytes([i])], "big") for i in range(1, 17))
        return PckExtension(
            ppid=values[b"\x01"],
            cpu_svn=components,
            pce_svn=int.from_bytes(tcb[b"\x11"], "big"),
            pce_id=values[b"\x03"],
            fmspc=values[b"\x04"],
            platform_instance_id=values.get(b"\x06"),
        )
    except KeyError as missing:
        raise Malformed(
            "PCK certificate", at="SGX extension", want="every value of the profile", got=f"no {missing}"
        ) from None


def _pairs(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return (last arc of the OID, value) of each SEQUENCE { OID, value } in ``data``."""
    found, at = [], 0
    while at < len(data):
        start, end = _element(data, at, 0x30)
        oid, oid_end = _element(data, start, 0x06)
        if not oid < oid_end < end:
            raise _malformed("an OID and a value", f"{end - oid_end} bytes after the OID")
        value, value_end = _element(data, oid_end, data[oid_end])
        if value_end != end:
            raise _malformed("pairs", "more than two values")
        found.append((data[oid_end - 1 : oid_end], data[value:value_end]))
        at = end
    return found


def _content(data: bytes, tag: int) -> bytes:
    start, end = _element(data, 0, tag)
    if end != len(data):
        raise _malformed("one value", f"{len(data) - end} bytes over")
    return data[start:end]


def _element(data: bytes, at: int, tag: int) -> tuple[int, int]:
    """Return (start of the content, end) of the DER element at ``at``."""
    head = data[at : at + 4]
    if len(head) < 2 or head[0] != tag:
        raise _malformed(f"tag {tag:#x} at offset {at}", head[:1].hex() or "the end")
    size, start = head[1], at + 2
    if size & 0x80:
        width = size & 0x7F
        if not 1 <= width <= 2 or len(head) < 2 + width:
            raise _malformed(f"a length of at most two bytes at offset {at}", head.hex())
        size, start = int.from_bytes(head[2 : 2 + width], "big"), start + width
    if start + size > len(data):
        raise _malformed(f"{size} bytes at offset {start}", f"{len(data) - start} left")
    return start, start + size


def _malformed(want: str, got: str) -> Malformed:
    return Malformed("PCK certificate", at="SGX extension", want=want, got=got)

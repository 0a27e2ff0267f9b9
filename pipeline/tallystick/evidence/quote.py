"""``tdx-quote`` and ``sgx-quote``: the claims of an Intel quote, in Trustee's names.

Source: confidential-containers/trustee, deps/verifier/src/tdx/claims.rs and sgx/claims.rs; Intel TDX Module ABI,
TD attributes; Intel SDM Vol. 3D, ATTRIBUTES.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tallystick.core.errors import Malformed, NotGenuine
from tallystick.core.findings import Finding
from tallystick.evidence import dcap, dump
from tallystick.evidence.claims import Claims
from tallystick.evidence.dcap import Verified
from tallystick.formats import dcap_quote
from tallystick.formats.dcap_quote import EnclaveReport, Quote, TdReport

TDX_KIND, SGX_KIND = "tdx-quote", "sgx-quote"
KINDS = (TDX_KIND, SGX_KIND)
_TD_ATTRIBUTES = {"debug": 0, "septve_disable": 28, "protection_keys": 30, "key_locker": 31, "perfmon": 63}
_SGX_DEBUG = 1  # ATTRIBUTES.FLAGS bit 1
_HEX_DIGITS = b"0123456789abcdefABCDEF \r\n\t"


def verify(
    kind: str, data: bytes, endorsements: Sequence[bytes], *, nonce: bytes | None, at: datetime
) -> Claims:
    """Return the claims of a quote that is genuine at ``at``.

    Args:
        data: the quote, or its hex.
        endorsements: collateral for the platform, as dcap-qvl's JSON or in the parts that the PCS serves; for a TDX
            quote also its event log (CCEL), which must then replay to the RTMRs.
        nonce: the 64 bytes that REPORTDATA must be; None when the caller compares it.

    Raises:
        Malformed, Unsupported: bytes that are no quote of this kind.
        NotGenuine: what does not hold, each named. TCB status, advisories and debug are claims, not findings.
    """
    quote = dcap_quote.parse(binary(data))
    if quote.is_tdx != (kind == TDX_KIND):
        raise Malformed("quote", at="TEE type", want=kind, got=TDX_KIND if quote.is_tdx else SGX_KIND)
    collaterals, logs = dcap.gathered(tuple(endorsements))
    verified = dcap.verify(quote, collaterals, at=at)
    findings = list(_replay(quote, logs))
    report_data = quote.body.report_data
    if nonce is not None and nonce != report_data:
        findings.append(Finding("quote.report-data.mismatch", "REPORTDATA", nonce.hex(), report_data.hex()))
    if findings:
        raise NotGenuine("the quote is not genuine", findings=findings)
    return Claims(
        kind=kind,
        values=claims(quote) | _collateral_claims(verified),
        roots=("intel",),
        report_data=report_data,
        valid_from=verified.valid_from,
        valid_until=verified.valid_until,
    )


def show(kind: str, data: bytes) -> dict[str, Any]:
    """Return every field of the quote, down to the PCK certificate's extension. Nothing of it is verified."""
    quote = dcap_quote.parse(binary(data))
    if quote.is_tdx != (kind == TDX_KIND):
        raise Malformed("quote", at="TEE type", want=kind, got=TDX_KIND if quote.is_tdx else SGX_KIND)
    shown = claims(quote) | {
        "version": quote.version,
        "body_type": quote.body_type,
        "signature": quote.signature.hex(),
        "attestation_key": quote.attestation_key.hex(),
        "qe_report": dump.plain(quote.qe_report, without=("raw",)),
        "qe_report_signature": quote.qe_signature.hex(),
        "qe_authentication_data": quote.qe_auth_data.hex(),
    }
    if quote.pck_chain is not None:
        shown["pck_chain"] = dump.certificates(quote.pck_chain, "PCK chain")
        extension = dcap.pck_extension_of(quote.pck_chain)
        if extension is not None:
            shown["pck_extension"] = dump.plain(extension)
    return shown


def binary(data: bytes) -> bytes:
    """Return the quote itself when ``data`` is its hex."""
    digits = data.removeprefix(b"0x")
    if digits[:2] in (b"03", b"04", b"05") and not digits.strip(_HEX_DIGITS):
        try:
            return bytes.fromhex(digits.decode("ascii"))
        except ValueError:
            raise Malformed(
                "quote", at="hex", want="pairs of digits", got=f"{len(digits)} characters"
            ) from None
    return data


def _replay(quote: Quote, logs: Sequence[bytes]) -> list[Finding]:
    """Compare a CC event log with the RTMRs."""
    if not logs or not isinstance(quote.body, TdReport):
        return []
    from tallystick.formats import eventlog

    findings: list[Finding] = []
    for data in logs:
        found = eventlog.replay_rtmrs(eventlog.parse(data))
        for index, (want, got) in enumerate(zip(quote.body.rtmr, found, strict=True)):
            if got != want:
                findings.append(Finding(f"quote.eventlog.rtmr{index}", f"RTMR{index}", want.hex(), got.hex()))
    return findings


def claims(quote: Quote) -> dict[str, Any]:
    """Return what the quote itself says."""
    header = {
        "version": quote.header[:2].hex(),
        "att_key_type": quote.header[2:4].hex(),
        "vendor_id": quote.header[12:28].hex(),
        "user_data": quote.header[28:48].hex(),
    }
    if isinstance(quote.body, TdReport):
        return _td_claims(quote, quote.body, header)
    return _enclave_claims(quote.body, header)


def _td_claims(quote: Quote, body: TdReport, header: dict[str, str]) -> dict[str, Any]:
    header |= {"tee_type": quote.header[4:8].hex(), "reserved": quote.header[8:12].hex()}
    report = {
        "tcb_svn": body.tee_tcb_svn.hex(),
        "mr_seam": body.mr_seam.hex(),
        "mrsigner_seam": body.mr_signer_seam.hex(),
        "seam_attributes": body.seam_attributes.hex(),
        "td_attributes": body.td_attributes.hex(),
        "xfam": body.xfam.hex(),
        "mr_td": body.mr_td.hex(),
        "mr_config_id": body.mr_config_id.hex(),
        "mr_owner": body.mr_owner.hex(),
        "mr_owner_config": body.mr_owner_config.hex(),
        "report_data": body.report_data.hex(),
    } | {f"rtmr_{i}": value.hex() for i, value in enumerate(body.rtmr)}
    if body.tee_tcb_svn2 is not None and body.mr_service_td is not None:
        report |= {"tee_tcb_svn2": body.tee_tcb_svn2.hex(), "mr_servicetd": body.mr_service_td.hex()}
    bits = int.from_bytes(body.td_attributes, "little")
    flags = {name: bool(bits >> bit & 1) for name, bit in _TD_ATTRIBUTES.items()}
    return {
        "quote": {"header": header, "body": report},
        "td_attributes": flags,
        "debug": flags["debug"],
        "report_data": body.report_data.hex(),
        "init_data": body.mr_config_id.hex(),
    }


def _enclave_claims(body: EnclaveReport, header: dict[str, str]) -> dict[str, Any]:
    flags = int.from_bytes(body.attributes[:8], "little")
    report = {
        "cpu_svn": body.cpu_svn.hex(),
        "misc_select": body.misc_select.hex(),
        "mr_enclave": body.mr_enclave.hex(),
        "mr_signer": body.mr_signer.hex(),
        "isv_prod_id": body.isv_prod_id,
        "isv_svn": body.isv_svn,
        "config_id": body.config_id.hex(),
        "config_svn": body.config_svn,
        "isv_ext_prod_id": body.isv_ext_prod_id.hex(),
        "isv_family_id": body.isv_family_id.hex(),
        "report_data": body.report_data.hex(),
        "attributes": {"flags": body.attributes[:8].hex(), "xfrm": body.attributes[8:].hex()},
    }
    return {
        "header": header,
        "body": report,
        "debug": bool(flags >> _SGX_DEBUG & 1),
        "report_data": body.report_data.hex(),
        "init_data": body.config_id.hex(),
    }


def _collateral_claims(verified: Verified) -> dict[str, Any]:
    values: dict[str, Any] = {
        "tcb_status": verified.level.status,
        "advisory_ids": list(verified.level.advisories),
        "tcb_date": verified.level.tcb_date,
        "tcb_eval_num": verified.level.evaluation_number,
        "fmspc": verified.pck.fmspc.hex(),
        "platform_provider_id": verified.pck.ppid.hex(),
        "earliest_expiration_date": verified.valid_until.isoformat().replace("+00:00", "Z"),
        "collateral_expiration_status": "0",
    }
    if verified.pck.platform_instance_id is not None:
        values["platform_instance_id"] = verified.pck.platform_instance_id.hex()
    return values

"""``azure-snp-vtpm`` and ``azure-tdx-vtpm``: a confidential VM of Azure, from the processor's signature to the PCRs.

The chain: the hardware signs a report (SNP) or quote (TDX) whose REPORT_DATA is the hash of the runtime data; these
name the attestation key of the vTPM; that key signs the quote over the PCRs. The root is the processor maker's; that
the vTPM itself is honest rests on the launch measurement of Microsoft's paravisor, a claim for a policy to compare.

Source: confidential-containers/trustee, deps/verifier/src/az_snp_vtpm/mod.rs and az_tdx_vtpm/mod.rs (steps and claim
names); formats/hcl.py for the report.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from tallystick.core.errors import Malformed, NotGenuine
from tallystick.core.findings import Finding
from tallystick.evidence import azure_forms, dcap, dump, tpm_checks, tpm_keys
from tallystick.evidence import quote as td_quotes
from tallystick.evidence.azure_forms import AzureEvidence, VtpmQuote
from tallystick.evidence.claims import Claims
from tallystick.formats import dcap_quote, eventlog, hcl, jws, tpm
from tallystick.formats.dcap_quote import TdReport
from tallystick.formats.hcl import HclReport

SNP_KIND, TDX_KIND = "azure-snp-vtpm", "azure-tdx-vtpm"
KINDS = (SNP_KIND, TDX_KIND)
_REPORT_TYPES = {SNP_KIND: hcl.SNP, TDX_KIND: hcl.TDX}
_HCL_VMPL = 0  # the paravisor's own level: another one's report would be the guest's
_USER_DATA_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """Endorsement files, sorted by what they are."""

    quotes: tuple[VtpmQuote, ...]
    td_quotes: tuple[bytes, ...]
    logs: tuple[bytes, ...]
    others: tuple[bytes, ...]  # certificates, lists and collateral, for the hardware's own verifier


def verify(
    kind: str, data: bytes, endorsements: Sequence[bytes], *, nonce: bytes | None, at: datetime
) -> Claims:
    """Return the claims of an Azure confidential VM whose evidence is genuine at ``at``.

    Args:
        data: Trustee's evidence, or an HCL report alone.
        endorsements: what the hardware's kind takes (certificates and lists; collateral); a TPM event log, which must
            then replay to the PCRs; beside a bare HCL report also the vTPM's quote and the TD quote.
        nonce: what the vTPM quote's ``extraData`` must be; None when the caller compares it. Without a quote it is
            compared with the runtime data's user-data.

    Raises:
        Malformed, Unsupported: bytes that are no such evidence.
        NotGenuine: a signature, chain, date or binding that does not hold, each named.
    """
    given, files = azure_forms.parse(data), _sorted(endorsements)
    report = hcl.parse(given.hcl_report)
    if report.kind != _REPORT_TYPES[kind]:
        got = SNP_KIND if report.kind == hcl.SNP else TDX_KIND
        raise Malformed("HCL report", at="report type", want=kind, got=got)
    hardware = _snp(given, report, files, at) if kind == SNP_KIND else _tdx(given, report, files, at)
    quoted = _one_quote(given, files)
    findings = list(_bound(report, hardware.report_data))
    findings += _nonce_in_user_data(report, nonce) if quoted is None else ()
    values: dict[str, Any] = dict(hardware.values)
    report_data, notes = report.user_data, list(hardware.notes)
    if quoted is None:
        notes.append(Finding("azure.quote.absent", "vTPM quote", "one that shows the PCRs", "none"))
    else:
        attested, wrong = _vtpm(report, quoted, files.logs, nonce, given.version)
        findings += wrong
        report_data = attested.extra_data
        values |= _vtpm_claims(quoted)
        notes += _notes(files, nonce)
    if findings:
        raise NotGenuine(f"the {kind} evidence is not genuine", findings=findings)
    values |= {"report_data": report_data.hex(), "hcl": _hcl_claims(report)}
    return Claims(
        kind=kind,
        values=values,
        roots=hardware.roots,
        report_data=report_data,
        valid_from=hardware.valid_from,
        valid_until=hardware.valid_until,
        notes=tuple(notes),
    )


def show(kind: str, data: bytes) -> dict[str, Any]:
    """Return every field of the HCL report, the hardware's report in it, and the vTPM's quote. Unverified."""
    given = azure_forms.parse(data)
    report = hcl.parse(given.hcl_report)
    if report.kind != _REPORT_TYPES[kind]:
        raise Malformed("HCL report", at="report type", want=kind, got=f"type {report.kind}")
    shown: dict[str, Any] = {
        "evidence_version": given.version,
        "runtime_data": {
            "hash": report.hash_name,
            "digest": report.bound.hex(),
            "keys": list(report.keys),
            "vm_configuration": report.configuration,
            "user_data": report.user_data.hex(),
        },
    }
    if kind == SNP_KIND:
        from tallystick.evidence import snp_report

        shown["hardware_report"] = snp_report.show(report.hardware_report)
    else:
        shown["hardware_report"] = dump.plain(hcl.td_report(report.hardware_report))
    if given.vcek is not None:
        shown["vcek"] = dump.certificates(given.vcek, "VCEK")
    if given.td_quote is not None:
        shown["td_quote"] = td_quotes.show(td_quotes.TDX_KIND, given.td_quote)
    if given.quote is not None:
        shown["tpm_quote"] = dump.plain(tpm.parse_quote(given.quote.message))
        shown["tpm_quote"]["signature"] = given.quote.signature.hex()
        shown["tpm"] = _vtpm_claims(given.quote)["tpm"]
    return shown


def _sorted(endorsements: Sequence[bytes]) -> _Files:
    quotes: list[VtpmQuote] = []
    tds: list[bytes] = []
    logs: list[bytes] = []
    others: list[bytes] = []
    for data in endorsements:
        if dcap.is_collateral(data):
            others.append(data)
        elif data[:8] in (b"\4\0\2\0\x81\0\0\0", b"\5\0\2\0\x81\0\0\0"):
            tds.append(data)
        elif eventlog.is_log(data):
            logs.append(data)
        elif (quote := azure_forms.quote_file(data)) is not None:
            quotes.append(quote)
        else:
            others.append(data)
    return _Files(quotes=tuple(quotes), td_quotes=tuple(tds), logs=tuple(logs), others=tuple(others))


def _one_quote(given: AzureEvidence, files: _Files) -> VtpmQuote | None:
    if given.quote is not None:
        return given.quote
    if len(files.quotes) > 1:
        raise Malformed("endorsements", at="vTPM quote", want="at most one", got=f"{len(files.quotes)}")
    return files.quotes[0] if files.quotes else None


def _snp(given: AzureEvidence, report: HclReport, files: _Files, at: datetime) -> Claims:
    from tallystick.evidence import snp_report

    own = [given.vcek] if given.vcek is not None else []
    claims = snp_report.verify(report.hardware_report, [*own, *files.others], nonce=None, at=at)
    if claims.values["vmpl"] != _HCL_VMPL:
        finding = Finding("azure.vmpl", "VMPL", str(_HCL_VMPL), str(claims.values["vmpl"]))
        raise NotGenuine("the SNP report is not the paravisor's", findings=[finding])
    return claims


def _tdx(given: AzureEvidence, report: HclReport, files: _Files, at: datetime) -> Claims:
    quotes = [given.td_quote] if given.td_quote is not None else list(files.td_quotes)
    if len(quotes) != 1:
        finding = Finding("azure.td-quote.absent", "TD quote", "one", f"{len(quotes)}")
        raise NotGenuine(
            "a TDREPORT proves nothing elsewhere than on its own machine: its quote is needed",
            findings=[finding],
        )
    claims = td_quotes.verify(td_quotes.TDX_KIND, quotes[0], files.others, nonce=None, at=at)
    body = dcap_quote.parse(td_quotes.binary(quotes[0])).body
    findings = list(_same_td(report, body)) if isinstance(body, TdReport) else []
    if findings:
        raise NotGenuine("the HCL report and the TD quote are of different machines", findings=findings)
    return claims


def _same_td(report: HclReport, body: TdReport) -> Iterable[Finding]:
    """Compare the TDREPORT in the HCL report with the quote: nobody else can check the TDREPORT's own MAC."""
    inner = hcl.td_report(report.hardware_report)
    pairs = {
        "REPORTDATA": (body.report_data, inner.report_data),
        "ATTRIBUTES": (body.td_attributes, inner.attributes),
        "XFAM": (body.xfam, inner.xfam),
        "MRTD": (body.mr_td, inner.mr_td),
        "MRCONFIGID": (body.mr_config_id, inner.mr_config_id),
        "MROWNER": (body.mr_owner, inner.mr_owner),
        "MROWNERCONFIG": (body.mr_owner_config, inner.mr_owner_config),
    } | {f"RTMR{i}": pair for i, pair in enumerate(zip(body.rtmr, inner.rtmr, strict=True))}
    for name, (want, got) in pairs.items():
        if want != got:
            code = f"azure.tdreport.{name.lower()}"
            yield Finding(code, f"TDREPORT {name}", f"{want.hex()}, as the quote", got.hex())


def _bound(report: HclReport, report_data: bytes) -> Iterable[Finding]:
    if report.bound != report_data:
        yield Finding(
            "azure.runtime-data.mismatch",
            "REPORT_DATA",
            f"{report.hash_name} of the runtime data {report.bound.hex()}",
            report_data.hex(),
        )


def _nonce_in_user_data(report: HclReport, nonce: bytes | None) -> Iterable[Finding]:
    if nonce is not None and nonce.ljust(_USER_DATA_BYTES, b"\0") != report.user_data:
        yield Finding("azure.user-data.mismatch", "user-data", nonce.hex(), report.user_data.hex())


def _vtpm(
    report: HclReport, given: VtpmQuote, logs: Sequence[bytes], nonce: bytes | None, version: int
) -> tuple[tpm.Quote, list[Finding]]:
    """Return the quote as the vTPM attested it, and what is wrong with it."""
    quote = tpm.parse_quote(given.message)
    signature = tpm.Signature(
        algorithm=tpm.ALG_RSASSA, hash_algorithm=tpm.ALG_SHA256, rsa=given.signature, ecdsa=None
    )
    pcrs = dict(enumerate(given.pcrs))
    key = attestation_key(report)
    findings = [
        *tpm_keys.signature_findings(key, signature, given.message),
        *tpm_checks.selection_findings(quote, tuple(pcrs.items())),
        *tpm_checks.digest_findings(quote, signature, pcrs),
        *tpm_checks.nonce_findings(quote, nonce),
    ]
    for log in logs:
        findings += tpm_checks.log_findings(eventlog.parse(log), pcrs)
    if version >= 2 and quote.extra_data.ljust(_USER_DATA_BYTES, b"\0") != report.user_data:
        findings.append(
            Finding(
                "azure.user-data.mismatch",
                "user-data",
                f"extraData of the quote {quote.extra_data.hex()}",
                report.user_data.hex(),
            )
        )
    return quote, findings


def attestation_key(report: HclReport) -> tpm_keys.AttestationKey:
    """Return the vTPM's attestation key that the runtime data name.

    Raises:
        Malformed: none, or not an RSA key for signing.
        Unsupported: a size that is not accepted.
    """
    jwk = report.attestation_key()
    if jwk.get("kty") != "RSA" or "sign" not in (jwk.get("key_ops") or []):
        raise Malformed("HCL report", at="HCLAkPub", want="an RSA key for signing", got=str(jwk.get("kty")))
    exponent, modulus = (jws.decode(str(jwk.get(name, "")), f"HCLAkPub {name}") for name in ("e", "n"))
    try:
        numbers = rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big"))
        return tpm_keys.checked(numbers.public_key())
    except ValueError as error:
        raise Malformed("HCL report", at="HCLAkPub", want="numbers of a key", got=str(error)) from None


def _vtpm_claims(given: VtpmQuote) -> dict[str, Any]:
    """Return Trustee's claims of the vTPM: ``init_data`` is PCR 8, whatever the hardware's own field says."""
    values: dict[str, Any] = {
        "tpm": {f"pcr{number:02}": value.hex() for number, value in enumerate(given.pcrs)}
    }
    if len(given.pcrs) > tpm_checks.INIT_DATA_PCR:
        values["init_data"] = given.pcrs[tpm_checks.INIT_DATA_PCR].hex()
    return values


def _hcl_claims(report: HclReport) -> dict[str, Any]:
    return {
        "user_data": report.user_data.hex(),
        "vm_configuration": report.configuration,
        "hash": report.hash_name,
    }


def _notes(files: _Files, nonce: bytes | None) -> Iterable[Finding]:
    if not files.logs:
        yield Finding("tpm.eventlog.absent", "event log", "one that explains the registers", "none")
    if nonce is None:
        yield Finding(
            "tpm.nonce.not-given", "extraData of the quote", "compared with a nonce", "not compared"
        )

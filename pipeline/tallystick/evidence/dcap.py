"""Intel DCAP: is this quote from a genuine processor, and what does Intel say of its security level?

PyPI's dcap-qvl is the second opinion in the tests. It does not serve here because it refuses what is genuine and not
liked (debug enclaves, Azure's TDs): those are claims, and a policy's business.

Source: Intel SGX/TDX DCAP Quote Verification Library, and "Intel PCS API v4" for collateral, TCB levels and statuses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, NotGenuine
from tallystick.core.findings import Finding
from tallystick.evidence import roots
from tallystick.evidence.chain import Chain, build_chain, check_revocation, load_certificates, load_crl
from tallystick.formats.dcap_quote import PckExtension, Quote, TdReport, pck_extension

_ROOT = "Intel-SGX-Root-CA"
_PCK_OID = "1.2.840.113741.1.13.1"
_TCB_SIGNER = "Intel SGX TCB Signing"
# From best to worst (Intel QVL, convergence of platform, module and QE status).
STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collateral:
    """What Intel's PCS says of one platform family, as a PCCS serves it. Fields as in dcap-qvl's JSON."""

    tcb_info: dict[str, Any]
    tcb_info_text: bytes
    tcb_info_signature: bytes
    tcb_info_chain: bytes
    qe_identity: dict[str, Any]
    qe_identity_text: bytes
    qe_identity_signature: bytes
    qe_identity_chain: bytes
    lists: tuple[bytes, ...]  # root CA and PCK CA revocation lists, DER
    pck_chain: bytes | None


def forget() -> None:
    """Forget every chain and collateral that was verified before."""
    for memo in (_parsed, _pck_chain, _verified):
        memo.cache_clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What the collateral says of a platform."""

    status: str
    advisories: tuple[str, ...]
    tcb_date: str
    evaluation_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A quote whose signatures hold up to Intel's root, and what Intel says of the machine."""

    level: Level
    pck: PckExtension
    valid_from: datetime
    valid_until: datetime


def parse_collateral(data: bytes) -> Collateral:
    """Return the collateral in ``data``: JSON with the names that dcap-qvl and PCCS mirrors use.

    Raises:
        Malformed: a field missing or of another type.
    """
    document = jsondoc.loads(data, "collateral")
    if not isinstance(document, dict):
        raise Malformed("collateral", at="document", want="a JSON object", got=type(document).__name__)

    def text(name: str) -> str:
        value = document.get(name)
        if not isinstance(value, str):
            raise Malformed("collateral", at=name, want="text", got=type(value).__name__)
        return value

    def binary(name: str) -> bytes:
        try:
            return bytes.fromhex(text(name))
        except ValueError:
            raise Malformed("collateral", at=name, want="hex", got=text(name)) from None

    def inner(name: str) -> dict[str, Any]:
        value = jsondoc.loads(text(name).encode(), f"collateral {name}")
        if not isinstance(value, dict):
            raise Malformed("collateral", at=name, want="a JSON object", got=type(value).__name__)
        return value

    chain = document.get("pck_certificate_chain")
    return Collateral(
        tcb_info=inner("tcb_info"),
        tcb_info_text=text("tcb_info").encode(),
        tcb_info_signature=binary("tcb_info_signature"),
        tcb_info_chain=text("tcb_info_issuer_chain").encode(),
        qe_identity=inner("qe_identity"),
        qe_identity_text=text("qe_identity").encode(),
        qe_identity_signature=binary("qe_identity_signature"),
        qe_identity_chain=text("qe_identity_issuer_chain").encode(),
        lists=(binary("root_ca_crl"), binary("pck_crl")),
        pck_chain=chain.encode() if isinstance(chain, str) and chain else None,
    )


def is_collateral(data: bytes) -> bool:
    """Return whether ``data`` looks like collateral, so that other endorsements can stand beside it."""
    return data.lstrip()[:1] == b"{" and b'"tcb_info"' in data


def verify(quote: Quote, collaterals: Sequence[bytes], *, at: datetime) -> Verified:
    """Return what is known of the machine that made ``quote``, judged at ``at``.

    Raises:
        NotGenuine: a signature, chain, list, date or platform that does not hold, each named.
    """
    chain, key, extension = _pck(quote, collaterals)
    collateral, window = _matching(quote, extension, collaterals)
    findings = [*chain.expiry("dcap.certificate", at), *_windows(window, at)]
    revoked, missing = check_revocation(chain, _lists(collateral), "dcap.certificate", at)
    findings += [*revoked, *missing]  # Intel's collateral has both lists: one that is missing is a finding
    findings += _signatures(quote, key)
    level: Level | None = None
    try:
        level = _level(quote, extension, collateral)
    except NotGenuine as refused:
        findings += refused.findings
    if findings or level is None:
        raise NotGenuine("the quote is not genuine", findings=findings)
    return Verified(
        level=level,
        pck=extension,
        valid_from=max(chain.not_before, window[0]),
        valid_until=min(chain.not_after, window[1]),
    )


def _bad(code: str, where: str, want: str, got: str) -> NotGenuine:
    finding = Finding(f"dcap.{code}", where, want, got)
    return NotGenuine(finding.message, findings=[finding])


def _pck(quote: Quote, collaterals: Sequence[bytes]) -> tuple[Chain, ec.EllipticCurvePublicKey, PckExtension]:
    pem = quote.pck_chain
    if pem is None:
        given = [c.pck_chain for c in map(_parsed, collaterals) if c.pck_chain]
        if not given:
            raise _bad("pck.missing", "PCK certificate", "in the quote or the collateral", "in neither")
        pem = given[0]
    return _pck_chain(pem)


_parsed = lru_cache(maxsize=64)(parse_collateral)


@lru_cache(maxsize=256)
def _pck_chain(pem: bytes) -> tuple[Chain, ec.EllipticCurvePublicKey, PckExtension]:
    """Return the verified PCK chain; cached by its bytes, since it says itself when it is valid."""
    chain = _chain(pem, "PCK certificate")
    leaf = chain.certificates[0]
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _bad("pck.key", "PCK certificate", "a P-256 key", type(key).__name__)
    try:
        value = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier(_PCK_OID)).value
    except x509.ExtensionNotFound:
        raise _bad("pck.extension", "PCK certificate", f"the extension {_PCK_OID}", "none") from None
    return chain, key, pck_extension(getattr(value, "value", b""))


def _chain(pem: bytes, what: str) -> Chain:
    certificates = load_certificates(pem, what)
    if not certificates:
        raise _bad("certificate.chain", what, "a chain to Intel's root", "no certificate")
    chain = build_chain(certificates[0], certificates[1:], [roots.certificate(_ROOT)])
    if chain is None:
        raise _bad("certificate.chain", what, f"a chain to {_ROOT}", "none that holds")
    unused = [c for c in certificates if c not in chain.certificates]
    if unused:  # a copy of the root with a flipped byte would otherwise pass unread
        raise _bad(
            "certificate.unused", what, "only certificates of its chain", unused[0].subject.rfc4514_string()
        )
    return chain


def _matching(
    quote: Quote, extension: PckExtension, collaterals: Sequence[bytes]
) -> tuple[Collateral, tuple[datetime, datetime]]:
    """Return the collateral for this quote's TEE and platform family, verified, with its window."""
    wanted = ("TDX" if quote.is_tdx else "SGX", extension.fmspc.hex(), extension.pce_id.hex())
    seen: list[str] = []
    for data in collaterals:
        info = _parsed(data).tcb_info
        family = str(info.get("fmspc", "")).lower(), str(info.get("pceId", "")).lower()
        found = (str(info.get("id", "SGX")), *family)
        if found == wanted:
            return _parsed(data), _verified(data)
        seen.append(" ".join(found))
    raise _bad("collateral.missing", "collateral", " ".join(wanted), ", ".join(seen) or "none was given")


@lru_cache(maxsize=64)
def _verified(data: bytes) -> tuple[datetime, datetime]:
    """Check the collateral's own signatures; return the window in which all of it holds. Cached by its bytes."""
    collateral = _parsed(data)
    starts: list[datetime] = []
    ends: list[datetime] = []
    for name, text, signature, pem, document in (
        (
            "TCB info",
            collateral.tcb_info_text,
            collateral.tcb_info_signature,
            collateral.tcb_info_chain,
            collateral.tcb_info,
        ),
        (
            "QE identity",
            collateral.qe_identity_text,
            collateral.qe_identity_signature,
            collateral.qe_identity_chain,
            collateral.qe_identity,
        ),
    ):
        chain = _chain(pem, f"{name} issuer")
        leaf = chain.certificates[0]
        if _TCB_SIGNER not in leaf.subject.rfc4514_string():
            raise _bad("collateral.signer", f"{name} issuer", _TCB_SIGNER, leaf.subject.rfc4514_string())
        if not _ecdsa(leaf.public_key(), signature, text):
            raise _bad("collateral.signature", name, "a signature by its issuer", "another")
        revoked, _ = check_revocation(chain, _lists(collateral), "dcap.collateral", chain.not_before)
        if revoked and any(f.code.endswith("revoked") for f in revoked):
            raise NotGenuine(f"the issuer of the {name} is revoked", findings=revoked)
        starts += [chain.not_before, _time(document, "issueDate", name)]
        ends += [chain.not_after, _time(document, "nextUpdate", name)]
    for crl in _lists(collateral):
        starts.append(crl.last_update_utc)
        ends.append(crl.next_update_utc or crl.last_update_utc)
    return max(starts), min(ends)


def _time(document: dict[str, Any], field: str, what: str) -> datetime:
    value = document.get(field)
    try:
        return datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    except ValueError:
        raise Malformed(what, at=field, want="an RFC 3339 time", got=str(value)) from None


def _windows(window: tuple[datetime, datetime], at: datetime) -> Iterator[Finding]:
    if not window[0] <= at <= window[1]:
        code = "dcap.collateral.expired" if at > window[1] else "dcap.collateral.not-yet-valid"
        got = f"valid from {window[0].isoformat()} to {window[1].isoformat()}"
        yield Finding(code, "collateral", f"valid at {at.isoformat()}", got)


def _lists(collateral: Collateral) -> list[x509.CertificateRevocationList]:
    found = [crl for crl in map(load_crl, collateral.lists) if crl is not None]
    if len(found) != len(collateral.lists):
        raise Malformed("collateral", at="revocation lists", want="X.509 in DER", got="something else")
    return found


def _ecdsa(key: object, signature: bytes, data: bytes) -> bool:
    if not isinstance(key, ec.EllipticCurvePublicKey) or len(signature) != 64:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def _signatures(quote: Quote, pck: ec.EllipticCurvePublicKey) -> Iterator[Finding]:
    """Check PCK -> QE report -> attestation key -> quote."""
    if not _ecdsa(pck, quote.qe_signature, quote.qe_report.raw):
        yield Finding("dcap.qe.signature", "QE report", "a signature by the PCK", "another")
    bound = hashlib.sha256(quote.attestation_key + quote.qe_auth_data).digest().ljust(64, b"\0")
    if quote.qe_report.report_data != bound:
        yield Finding("dcap.qe.binding", "QE REPORTDATA", bound.hex(), quote.qe_report.report_data.hex())
    try:
        point = b"\x04" + quote.attestation_key
        key: object = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        key = None
    if not _ecdsa(key, quote.signature, quote.signed):
        yield Finding("dcap.signature", "quote", "a signature by the attestation key", "another")


def _level(quote: Quote, pck: PckExtension, collateral: Collateral) -> Level:
    """Return the security level that Intel gives this platform, module and quoting enclave."""
    info, identity = collateral.tcb_info, collateral.qe_identity
    try:
        platform = _platform_level(quote, pck, info)
        parts = [platform, _qe_level(quote, identity)]
        if isinstance(quote.body, TdReport):
            _check_module(quote.body, info)
            parts += _module_level(quote.body, info)
        statuses = [str(part["tcbStatus"]) for part in parts]
        advisories = sorted({str(a) for part in parts for a in part.get("advisoryIDs", [])})
        date, number = str(platform["tcbDate"]), int(info["tcbEvaluationDataNumber"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise Malformed(
            "collateral", at="TCB info", want="Intel's format", got=f"{type(error).__name__} {error}"
        ) from None
    status = _worst(statuses)
    if status == "Revoked":
        raise _bad("tcb.revoked", "TCB level", "not revoked", status)
    return Level(status=status, advisories=tuple(advisories), tcb_date=date, evaluation_number=number)


def _worst(statuses: Sequence[str]) -> str:
    """Return the convergence of several statuses (Intel QVL, convergeTcbStatus)."""
    for status in statuses:
        if status not in STATUSES:
            raise _bad("tcb.status", "TCB level", "one of " + ", ".join(STATUSES), status)
    worst = max(statuses, key=STATUSES.index)
    configuration = any("Configuration" in status for status in statuses)
    if worst == "OutOfDate" and configuration:
        return "OutOfDateConfigurationNeeded"
    if worst == "ConfigurationNeeded" and any("SWHardening" in status for status in statuses):
        return "ConfigurationAndSWHardeningNeeded"
    return worst


def _platform_level(quote: Quote, pck: PckExtension, info: dict[str, Any]) -> dict[str, Any]:
    """Return the first TCB level that the platform reaches (PCS API v4, "Verifying TCB level")."""
    for level in info["tcbLevels"]:
        tcb = level["tcb"]
        components = [int(c["svn"]) for c in tcb["sgxtcbcomponents"]]
        reached = all(have >= need for have, need in zip(pck.cpu_svn, components, strict=True))
        if not reached or pck.pce_svn < int(tcb["pcesvn"]):
            continue
        if isinstance(quote.body, TdReport):
            needed = [int(c["svn"]) for c in tcb["tdxtcbcomponents"]]
            have = quote.body.tee_tcb_svn
            first = (
                2 if have[1] > 0 else 0
            )  # from module 1.5 on the module's own identity judges the first two
            if not all(have[i] >= needed[i] for i in range(first, 16)):
                continue
        found: dict[str, Any] = level
        return found
    got = f"CPUSVN {bytes(pck.cpu_svn).hex()}, PCESVN {pck.pce_svn}"
    raise _bad("tcb.unrecognised", "TCB level", "one that Intel lists", got)


def _qe_level(quote: Quote, identity: dict[str, Any]) -> dict[str, Any]:
    report = quote.qe_report
    want_id = "TD_QE" if quote.is_tdx else "QE"
    checks = (
        ("id", want_id, str(identity["id"])),
        ("MRSIGNER", identity["mrsigner"].lower(), report.mr_signer.hex()),
        ("ISVPRODID", str(identity["isvprodid"]), str(report.isv_prod_id)),
        ("MISCSELECT", *_masked(identity, "miscselect", report.misc_select[::-1])),
        ("ATTRIBUTES", *_masked(identity, "attributes", report.attributes)),
    )
    for name, want, got in checks:
        if want != got:
            raise _bad("qe.identity", f"QE {name}", want, got)
    for level in identity["tcbLevels"]:
        if report.isv_svn >= int(level["tcb"]["isvsvn"]):
            found: dict[str, Any] = level
            return found
    raise _bad("qe.unrecognised", "QE ISVSVN", "one that Intel lists", str(report.isv_svn))


def _masked(document: dict[str, Any], field: str, value: bytes) -> tuple[str, str]:
    """Return (wanted, got) of a field under its mask, both as hex."""
    mask, want = bytes.fromhex(document[f"{field}Mask"]), bytes.fromhex(document[field])
    pairs = zip(want, mask, strict=True), zip(value, mask, strict=True)
    wanted, got = (bytes(a & b for a, b in pair).hex() for pair in pairs)
    return wanted, got


def _check_module(body: TdReport, info: dict[str, Any]) -> None:
    """Check that the TDX module is Intel's (PCS API v4, "tdxModule" and "tdxModuleIdentities")."""
    module = _module_identity(body, info) or info["tdxModule"]
    if body.mr_signer_seam.hex() != module["mrsigner"].lower():
        raise _bad("module.signer", "MRSIGNERSEAM", module["mrsigner"].lower(), body.mr_signer_seam.hex())
    want, got = _masked(module, "attributes", body.seam_attributes)
    if want != got:
        raise _bad("module.attributes", "SEAMATTRIBUTES", want, got)


def _module_identity(body: TdReport, info: dict[str, Any]) -> dict[str, Any] | None:
    version = body.tee_tcb_svn[1]
    if version == 0:
        return None
    for identity in info.get("tdxModuleIdentities", []):
        if identity["id"] == f"TDX_{version:02X}":
            found: dict[str, Any] = identity
            return found
    raise _bad("module.unrecognised", "TDX module", "a version that Intel lists", f"TDX_{version:02X}")


def _module_level(body: TdReport, info: dict[str, Any]) -> list[dict[str, Any]]:
    identity = _module_identity(body, info)
    if identity is None:
        return []
    for level in identity["tcbLevels"]:
        if body.tee_tcb_svn[0] >= int(level["tcb"]["isvsvn"]):
            return [level]
    raise _bad("module.unrecognised", "TDX module ISVSVN", "one that Intel lists", str(body.tee_tcb_svn[0]))

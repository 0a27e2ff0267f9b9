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

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tallystick.core.errors import NotGenuine
from tallystick.core.findings import Finding
from tallystick.evidence import dcap_collateral
from tallystick.evidence.chain import Chain, Standing, load_certificates, standing
from tallystick.evidence.dcap_collateral import Checked, bad, gathered, intel_chain, is_collateral, signed_by
from tallystick.evidence.dcap_level import Level, Module, level, module_of
from tallystick.formats.dcap_quote import EnclaveReport, PckExtension, Quote, enclave_report, pck_extension

__all__ = ["Verified", "forget", "gathered", "is_collateral", "pck_extension_of", "verify"]
_PCK_OID = x509.ObjectIdentifier("1.2.840.113741.1.13.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A quote whose signatures hold up to Intel's root, and what Intel says of the machine."""

    level: Level
    pck: PckExtension
    valid_from: datetime
    valid_until: datetime


@dataclass(frozen=True, slots=True)
class _Pck:
    """A PCK certificate whose chain holds. It says itself when it is valid."""

    chain: Chain
    key: ec.EllipticCurvePublicKey
    extension: PckExtension


def verify(quote: Quote, collaterals: Sequence[bytes], *, at: datetime) -> Verified:
    """Return what is known of the machine that made ``quote``, judged at ``at``.

    Raises:
        NotGenuine: a signature, chain, list, date or platform that does not hold, each named.
    """
    pem = _pck_pem(quote, collaterals)
    pck = _pck(pem)
    data, collateral = _matching(quote, pck.extension, collaterals, at)
    stands = _standing(pem, data)
    findings = [*stands.findings(at), *collateral.findings(at)]
    findings += stands.notes  # Intel's collateral has both lists: one that is missing is a finding
    findings += _signatures(quote, pem)
    found: Level | None = None
    try:
        found = _level(pem, data, quote.qe_report, module_of(quote))
    except NotGenuine as refused:
        findings += refused.findings
    if findings or found is None:
        raise NotGenuine("the quote is not genuine", findings=findings)
    return Verified(
        level=found,
        pck=pck.extension,
        valid_from=max(stands.valid_from, collateral.valid_from),
        valid_until=min(stands.valid_until, collateral.valid_until),
    )


def forget() -> None:
    """Forget every chain and collateral that was verified before."""
    for memo in (
        dcap_collateral.gathered,
        dcap_collateral.parse,
        dcap_collateral.checked,
        _pck,
        _standing,
        _level,
        _attestation_key,
    ):
        memo.cache_clear()


def _pck_pem(quote: Quote, collaterals: Sequence[bytes]) -> bytes:
    if quote.pck_chain is not None:
        return quote.pck_chain
    for data in collaterals:
        chain = dcap_collateral.parse(data).pck_chain
        if chain is not None:
            return chain
    raise bad("pck.missing", "PCK certificate", "in the quote or the collateral", "in neither")


def pck_extension_of(pem: bytes) -> PckExtension | None:
    """Return the SGX extension of the first certificate in ``pem``, unverified; None when it has none.

    Raises:
        Malformed: no certificates, or an extension that breaks Intel's profile.
    """
    leaf = load_certificates(pem, "PCK certificate")[0]
    try:
        value = leaf.extensions.get_extension_for_oid(_PCK_OID).value
    except x509.ExtensionNotFound:
        return None
    return pck_extension(getattr(value, "value", b""))


@lru_cache(maxsize=256)
def _pck(pem: bytes) -> _Pck:
    """Return the verified PCK chain; cached by its bytes, since it says itself when it is valid."""
    chain = intel_chain(pem, "PCK certificate")
    leaf = chain.certificates[0]
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise bad("pck.key", "PCK certificate", "a P-256 key", type(key).__name__)
    try:
        value = leaf.extensions.get_extension_for_oid(_PCK_OID).value
    except x509.ExtensionNotFound:
        raise bad(
            "pck.extension", "PCK certificate", f"the extension {_PCK_OID.dotted_string}", "none"
        ) from None
    return _Pck(chain, key, pck_extension(getattr(value, "value", b"")))


@lru_cache(maxsize=256)
def _standing(pem: bytes, collateral: bytes) -> Standing:
    """Return the PCK chain with what the collateral's lists say of it; cached by the bytes of both."""
    return standing(_pck(pem).chain, dcap_collateral.checked(collateral).lists, "dcap.certificate")


def _matching(
    quote: Quote, extension: PckExtension, collaterals: Sequence[bytes], at: datetime
) -> tuple[bytes, Checked]:
    """Return the collateral for this quote's TEE and platform family, its signatures checked.

    Of several the first that is valid at ``at`` is taken, or the first.
    """
    wanted = ("TDX" if quote.is_tdx else "SGX", extension.fmspc.hex(), extension.pce_id.hex())
    seen: list[str] = []
    fitting: list[tuple[bytes, Checked]] = []
    for data in collaterals:
        family = dcap_collateral.parse(data).family
        if family != wanted:
            seen.append(" ".join(family))
            continue
        found = dcap_collateral.checked(data)
        if not found.findings(at):
            return data, found
        fitting.append((data, found))
    if fitting:
        return fitting[0]
    raise bad("collateral.missing", "collateral", " ".join(wanted), ", ".join(seen) or "none was given")


@lru_cache(maxsize=1024)
def _level(pem: bytes, collateral: bytes, qe: EnclaveReport, module: Module | None) -> Level:
    """Return the level of a platform; cached by everything that it depends on, which time is no part of."""
    return level(_pck(pem).extension, qe, module, dcap_collateral.parse(collateral))


def _signatures(quote: Quote, pem: bytes) -> Iterator[Finding]:
    """Check PCK -> QE report -> attestation key -> quote."""
    key, findings = _attestation_key(
        pem, quote.qe_report.raw, quote.qe_signature, quote.qe_auth_data, quote.attestation_key
    )
    yield from findings
    if not signed_by(key, quote.signature, quote.signed):
        yield Finding("dcap.signature", "quote", "a signature by the attestation key", "another")


@lru_cache(maxsize=1024)
def _attestation_key(
    pem: bytes, report: bytes, signature: bytes, auth: bytes, key: bytes
) -> tuple[object, tuple[Finding, ...]]:
    """Return the attestation key, and why the quoting enclave does not vouch for it if it does not.

    Cached by all its bytes: the enclave makes a key once, and signs many quotes with it.
    """
    findings: list[Finding] = []
    if not signed_by(_pck(pem).key, signature, report):
        findings.append(Finding("dcap.qe.signature", "QE report", "a signature by the PCK", "another"))
    bound, said = hashlib.sha256(key + auth).digest().ljust(64, b"\0"), enclave_report(report).report_data
    if said != bound:
        findings.append(Finding("dcap.qe.binding", "QE REPORTDATA", bound.hex(), said.hex()))
    try:
        point: object = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + key)
    except ValueError:
        point = None
    return point, tuple(findings)

"""``tpm-quote``: is this quote by an attestation key that somebody we believe vouches for, and what does it say?

Verified, each with its finding: the key's certificate chain at the given time, or the key itself; that it is a
restricted signing key; the signature; the PCR selection against the registers that are claimed; the PCR
digest; the event log against the registers; the nonce; the init-data.

Sources: TCG TPM 2.0 Library 1.59, Part 3, TPM2_Quote; TCG PC Client Platform Firmware Profile 1.06, 3.3.4
(which PCR is whose); Trustee, deps/verifier/src/tpm/mod.rs (claim names, the rule of PCR 8).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine
from tallystick.core.findings import Finding
from tallystick.evidence import dump, tpm_chain, tpm_checks, tpm_forms, tpm_keys
from tallystick.evidence.chain import Chain, load_certificate, load_certificates
from tallystick.evidence.claims import Claims
from tallystick.evidence.endorsements import Endorsements, TrustedKey
from tallystick.evidence.tpm_forms import TpmEvidence
from tallystick.formats import eventlog, tpm
from tallystick.signing.records import Endorser

KIND = "tpm-quote"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """The attestation key, and on whose word."""

    key: tpm_keys.AttestationKey
    area: tpm.Public | None
    roots: tuple[str, ...]
    valid_from: datetime | None
    valid_until: datetime | None
    findings: tuple[Finding, ...]


def verify(data: bytes, endorsements: Sequence[bytes], *, nonce: bytes | None, at: datetime) -> Claims:
    """Return the claims of a quote that is genuine at ``at``.

    Args:
        data: a form of :mod:`tpm_forms`; or the message that ``tpm2_quote`` wrote, with its signature and PCR files
            among ``endorsements``.
        endorsements: files of :func:`endorsement`, and event logs, which must replay to the registers. Who is
            believed because of a file is labelled by its key's digest.
        nonce: as :func:`verify_under`.

    Raises:
        Malformed, Unsupported, NotGenuine: as :func:`verify_under`.
    """
    given, files = Endorsements(), list(endorsements)
    if data.startswith(tpm_forms.MESSAGE_START):
        data, files = tpm_forms.joined(data, files)
    logs = [file for file in files if eventlog.is_log(file)]
    for file in files:
        if file not in logs:
            given = given.plus(endorsement(file))
    return verify_under(data, given, at=at, nonce=nonce, logs=logs)


def verify_under(
    evidence: bytes,
    endorsements: Endorsements,
    *,
    at: datetime,
    nonce: bytes | None = None,
    init_data: bytes | None = None,
    logs: Sequence[bytes] = (),
) -> Claims:
    """Return what the quote in ``evidence`` claims, genuine under whom ``endorsements`` believes.

    Args:
        nonce: what ``extraData`` must be, to the byte. None leaves it to who compares ``report_data``.
        init_data: SHA-256 of the init-data that PCR 8 must hold, and only that.
        logs: event logs beside the one in the evidence.

    Raises:
        Malformed, Unsupported: a structure breaks its format, or is of a kind that is not accepted.
        NotGenuine: with a finding for every check that does not hold.
    """
    given = tpm_forms.parse(evidence)
    quote, signature = tpm.parse_quote(given.message), tpm.parse_signature(given.signature)
    inner = () if given.event_log is None else (given.event_log,)
    read = [eventlog.parse(data) for data in (*inner, *logs)]
    log = read[0] if read else None
    key = _attestation_key(given, endorsements, at)
    pcrs = dict(given.pcrs)
    findings = (
        *key.findings,
        *(tpm_keys.scheme_findings(key.area, signature) if key.area else ()),
        *tpm_keys.signature_findings(key.key, signature, given.message),
        *tpm_checks.selection_findings(quote, given.pcrs),
        *tpm_checks.digest_findings(quote, signature, pcrs),
        *tpm_checks.nonce_findings(quote, nonce),
        *(finding for one in read for finding in tpm_checks.log_findings(one, pcrs)),
        *tpm_checks.init_data_findings(pcrs, init_data),
    )
    if findings:
        raise NotGenuine(f"{KIND}: {findings[0].message}", findings=findings)
    return Claims(
        kind=KIND,
        values=_claims(quote, pcrs, key.key),
        roots=key.roots,
        report_data=quote.extra_data,
        valid_from=key.valid_from,
        valid_until=key.valid_until,
        notes=tuple(_notes(log, pcrs, nonce, init_data)),
    )


def show(evidence: bytes) -> dict[str, Any]:
    """Return every field of ``evidence`` as JSON values. Nothing of it is verified."""
    if evidence.startswith(tpm_forms.MESSAGE_START):
        return {"quote": dump.plain(tpm.parse_quote(evidence))}
    given = tpm_forms.parse(evidence)
    quote, signature = tpm.parse_quote(given.message), tpm.parse_signature(given.signature)
    shown: dict[str, Any] = {
        "quote": {
            "qualified_signer": quote.qualified_signer.hex(),
            "extra_data": quote.extra_data.hex(),
            "clock": quote.clock,
            "reset_count": quote.reset_count,
            "restart_count": quote.restart_count,
            "safe": quote.safe,
            "firmware_version": quote.firmware_version,
            "selections": [{"bank": one.bank, "registers": list(one.registers)} for one in quote.selections],
            "pcr_digest": quote.pcr_digest.hex(),
        },
        "signature": {
            "algorithm": f"{signature.algorithm:04x}",
            "hash": tpm.HASHES[signature.hash_algorithm],
        },
        "pcrs": {f"{register}": value.hex() for register, value in given.pcrs},
    }
    if given.key_spki is not None:
        shown["ak_public"] = {"sha256": Digest.of(given.key_spki).hex}
    if given.key_area is not None:
        area = tpm.parse_public(given.key_area)
        names = [flag.name for flag in area.attributes]
        shown["ak_public_area"] = {"name": area.name.hex(), "attributes": names}
    if given.certificate is not None:
        shown["ak_certificate"] = dump.certificate(load_certificate(given.certificate, "AK certificate"))
    if given.event_log is not None:
        log = eventlog.parse(given.event_log)
        shown["event_log"] = {"banks": list(log.banks), "events": len(log.events)}
    return shown


def endorsement(data: bytes, label: str = "") -> Endorsements:
    """Return what the endorsement file ``data`` is: a believed authority, a link, or a believed key.

    A certificate that names itself as its issuer is an authority, any other is collateral. A bare public key
    (PEM, DER, or a TPM2B_PUBLIC as tpm2-tools writes it) is an attestation key that is believed as it is.

    Args:
        label: names whoever is believed because of this file; without one, the digest of its key does.

    Raises:
        Malformed: none of these.
        NotGenuine: a public area that is not a restricted signing key's.
    """
    if b"-----BEGIN PUBLIC KEY-----" in data:
        try:
            return _believed(tpm_keys.from_spki(base64.b64decode(data.split(b"-----")[2])), label)
        except binascii.Error:
            raise Malformed("endorsement", at="PEM", want="a public key", got="other text") from None
    if data[:1] != b"\x30" and b"-----BEGIN" not in data:
        area = tpm.parse_sized_public(data)
        if wrong := tpm_keys.attribute_findings(area):
            raise NotGenuine(f"endorsement: {wrong[0].message}", findings=wrong)
        return _believed(tpm_keys.from_area(area), label)
    try:
        certificates = load_certificates(data, "endorsement")
    except Malformed:
        if b"-----BEGIN" in data:
            raise
        return _believed(tpm_keys.from_spki(data), label)
    found = Endorsements()
    for certificate in certificates:
        found = found.plus(_certificate(certificate, label))
    return found


def _attestation_key(given: TpmEvidence, endorsements: Endorsements, at: datetime) -> _Key:
    """Return the key that the evidence is by, and whether anybody we believe vouches for it."""
    area = None if given.key_area is None else tpm.parse_public(given.key_area)
    leaf = None if given.certificate is None else load_certificate(given.certificate, "AK certificate")
    said: list[tuple[str, tpm_keys.AttestationKey]] = []
    if leaf is not None:
        said.append(("ak_certificate", tpm_keys.from_spki(tpm_chain.spki(leaf))))
    if area is not None:
        said.append(("ak_public_area", tpm_keys.from_area(area)))
    if given.key_spki is not None:
        said.append(("ak_public", tpm_keys.from_spki(given.key_spki)))
    if not said and len(endorsements.keys) == 1:
        said.append(("endorsement", tpm_keys.from_spki(endorsements.keys[0].spki)))
    if not said:
        missing = Finding(
            "tpm.ak.absent", "attestation key", "one in the evidence, or just one believed", "none"
        )
        raise NotGenuine(f"{KIND}: {missing.message}", findings=[missing])
    name, key = said[0]
    spki = tpm_keys.spki(key)
    findings = [
        Finding(
            "tpm.ak-public.mismatch",
            other,
            f"the key of {name}",
            f"sha256 {Digest.of(tpm_keys.spki(its)).hex}",
        )
        for other, its in said[1:]
        if tpm_keys.spki(its) != spki
    ]
    findings += tpm_keys.attribute_findings(area) if area else ()
    labels = tuple(believed.label for believed in endorsements.keys if believed.spki == spki)
    if labels:
        return _Key(
            key=key, area=area, roots=labels[:1], valid_from=None, valid_until=None, findings=tuple(findings)
        )
    found = _chain(leaf, given, endorsements, at)
    if isinstance(found, Finding):
        return _Key(
            key=key, area=area, roots=(), valid_from=None, valid_until=None, findings=(*findings, found)
        )
    label, chain, wrong = found
    return _Key(
        key=key,
        area=area,
        roots=(label,),
        valid_from=chain.not_before,
        valid_until=chain.not_after,
        findings=(*findings, *wrong),
    )


def _chain(
    leaf: x509.Certificate | None, given: TpmEvidence, endorsements: Endorsements, at: datetime
) -> tuple[str, Chain, tuple[Finding, ...]] | Finding:
    if leaf is None:
        return Finding(
            "tpm.ak-certificate.absent",
            "ak_certificate",
            "a certificate, or a key that is believed",
            "neither",
        )
    links = [
        load_certificate(der, "intermediate certificate") for der in (*given.links, *endorsements.collateral)
    ]
    return tpm_chain.find(leaf, endorsements.endorsers, links, at=at)


def _notes(
    log: eventlog.EventLog | None, pcrs: Mapping[int, bytes], nonce: bytes | None, init_data: bytes | None
) -> Iterable[Finding]:
    """Give what was not there to be checked, so that a policy may require it."""
    if log is None:
        yield Finding("tpm.eventlog.absent", "event log", "one that explains the registers", "none")
    if nonce is None:
        yield Finding(
            "tpm.nonce.not-given", "extraData of the quote", "compared with a nonce", "not compared"
        )
    held = pcrs.get(tpm_checks.INIT_DATA_PCR, tpm_checks.ZERO)
    explained = log is not None and tpm_checks.INIT_DATA_PCR in eventlog.replay(log, tpm_checks.BANK)
    if held != tpm_checks.ZERO and init_data is None and not explained:
        yield Finding("tpm.init-data.not-given", "PCR 8", "compared with init-data", held.hex())


def _claims(quote: tpm.Quote, pcrs: Mapping[int, bytes], key: tpm_keys.AttestationKey) -> Mapping[str, Any]:
    values: dict[str, Any] = {f"pcr{register:02}": value.hex() for register, value in pcrs.items()}
    values |= {
        "ak_public": base64.b64encode(tpm_keys.spki(key)).decode("ascii"),
        "report_data": quote.extra_data.hex(),
        "firmware_version": quote.firmware_version,
        "reset_count": quote.reset_count,
        "restart_count": quote.restart_count,
        "clock": quote.clock,
        "safe": quote.safe,
    }
    if tpm_checks.INIT_DATA_PCR in pcrs:
        values["init_data"] = pcrs[tpm_checks.INIT_DATA_PCR].hex()
    return values


def _certificate(certificate: x509.Certificate, label: str) -> Endorsements:
    der = certificate.public_bytes(Encoding.DER)
    if certificate.subject != certificate.issuer:
        return Endorsements(collateral=(der,))
    key = Digest.of(tpm_chain.spki(certificate))
    endorser = Endorser(kind=tpm_chain.AK_AUTHORITY, label=label or str(key), spki=key, certificates=(der,))
    return Endorsements(endorsers=(endorser,))


def _believed(key: tpm_keys.AttestationKey, label: str) -> Endorsements:
    spki = tpm_keys.spki(key)
    return Endorsements(keys=(TrustedKey(label=label or str(Digest.of(spki)), spki=spki),))

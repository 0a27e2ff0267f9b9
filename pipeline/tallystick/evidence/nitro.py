"""AWS Nitro Enclaves: is this attestation document signed by a Nitro hypervisor, and what does it claim?

Source: aws/aws-nitro-enclaves-nsm-api, docs/attestation_process.md: COSE_Sign1 with ES384, the document's fields and
limits, and the chain in ``cabundle`` from the root to the issuer of the leaf.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from tallystick.core.errors import Malformed, NotGenuine
from tallystick.core.findings import Finding
from tallystick.evidence import dump, roots
from tallystick.evidence.chain import Standing, build_chain, load_certificate, load_crl, quiet, standing
from tallystick.evidence.claims import Claims
from tallystick.evidence.cose_signature import holds
from tallystick.formats import dstack
from tallystick.formats.cose import Lengths, Sign1, cbor_map, loads, parse_sign1

KIND = "nitro"
_WHAT = "Nitro document"
_ROOT = "AWS-Nitro-Enclaves-Root-G1"
_ES384 = -35
_PCR_SIZES = (32, 48, 64)
_MAX_PCRS = 32
_OPTIONAL = ("public_key", "user_data", "nonce")
_MAX_FIELD_BYTES = 1024  # public_key always; user_data and nonce since they grew from 512
_BASE64 = re.compile(rb"[A-Za-z0-9+/\s]+={0,2}\s*")


def verify(data: bytes, endorsements: Sequence[bytes], *, nonce: bytes | None, at: datetime) -> Claims:
    """Return the claims of a Nitro document that is genuine at ``at``.

    Args:
        data: the COSE_Sign1, its base64, or the NSM's response around it.
        endorsements: revocation lists; the chain is in the document and its root is embedded.
        nonce: what the document's ``nonce`` must be; None when the caller compares it.

    Raises:
        Malformed, Unsupported: bytes that are no document.
        NotGenuine: a signature, chain, date or binding that does not hold, each named. Leaf certificates live three
            hours, so a document is judged at the time it was made for.
    """
    message = parse_sign1(_unwrapped(data), _WHAT)
    document = _document(message)
    stands = _standing(document["certificate"], tuple(document["cabundle"]), tuple(endorsements))
    findings: list[Finding] = []
    if message.algorithm != _ES384:
        findings.append(Finding("nitro.algorithm", "COSE algorithm", "ES384", str(message.algorithm)))
    findings += stands.findings(at)
    made = datetime.fromtimestamp(document["timestamp"] / 1000, UTC)
    leaf = stands.chain.certificates[0]
    if not leaf.not_valid_before_utc <= made <= leaf.not_valid_after_utc:
        window = f"{leaf.not_valid_before_utc.isoformat()} to {leaf.not_valid_after_utc.isoformat()}"
        findings.append(Finding("nitro.timestamp", "timestamp", f"inside {window}", made.isoformat()))
    if nonce is not None and nonce != document.get("nonce"):
        got = document.get("nonce")
        findings.append(Finding("nitro.nonce.mismatch", "nonce", nonce.hex(), got.hex() if got else "none"))
    if not holds(message, leaf.public_key()):
        findings.append(
            Finding("nitro.signature", "signature", "a signature by the leaf certificate", "another")
        )
    if findings:
        raise NotGenuine("the Nitro document is not genuine", findings=findings)
    return Claims(
        kind=KIND,
        values=_claims(document),
        roots=("aws-nitro",),
        report_data=document.get("nonce") or b"",
        valid_from=stands.valid_from,
        valid_until=stands.valid_until,
        notes=stands.notes,
    )


def show(data: bytes) -> dict[str, Any]:
    """Return every field of the document. Nothing of it is verified."""
    message = parse_sign1(_unwrapped(data), _WHAT)
    document = _document(message)
    return {
        "cose_algorithm": message.algorithm,
        "signature": message.signature.hex(),
        **{name: value for name, value in _claims(document).items() if not name.startswith("pcr")},
        "pcrs": {str(number): value.hex() for number, value in sorted(document["pcrs"].items())},
        "certificate": dump.certificates(document["certificate"], "certificate")[0],
        "cabundle": [one for der in document["cabundle"] for one in dump.certificates(der, "cabundle")],
    }


def _unwrapped(data: bytes) -> bytes:
    """Return the COSE_Sign1 inside base64, or inside the NSM's response map."""
    for _ in range(2):
        if not _BASE64.fullmatch(data):
            break
        try:
            data = base64.b64decode(b"".join(data.split()), validate=True)
        except binascii.Error as error:
            raise Malformed(_WHAT, at="base64", want="base64", got=str(error)) from None
    data = dstack.unwrapped(data)
    if data[:1] and data[0] >> 5 == 5:  # a CBOR map: {"Attestation": {"document": …}}
        response = loads(data, "NSM response")
        inner: Any = response.get("Attestation") if hasattr(response, "get") else None
        document = inner.get("document") if hasattr(inner, "get") else None
        if not isinstance(document, bytes):
            raise Malformed(
                _WHAT, at="NSM response", want='{"Attestation": {"document": bytes}}', got="another map"
            )
        return document
    return data


def _document(message: Sign1) -> dict[str, Any]:
    """Return the payload with every field of the type and size that the API promises."""
    document = cbor_map(message.payload, _WHAT, Lengths.ANY)
    known = {"module_id", "timestamp", "digest", "pcrs", "certificate", "cabundle", *_OPTIONAL}
    if unknown := set(document) - known:
        raise Malformed(_WHAT, at="payload", want="the NSM API's fields", got=str(sorted(map(str, unknown))))

    def need(field: str, holds_type: bool, want: str) -> None:  # noqa: FBT001
        if not holds_type:
            raise Malformed(_WHAT, at=field, want=want, got=type(document.get(field)).__name__)

    need("module_id", isinstance(document.get("module_id"), str) and bool(document["module_id"]), "text")
    stamp = document.get("timestamp")
    need("timestamp", type(stamp) is int and 0 < stamp < 1 << 47, "milliseconds since 1970")
    need("digest", document.get("digest") == "SHA384", "SHA384")
    need("certificate", isinstance(document.get("certificate"), bytes), "DER")
    bundle = (
        document.setdefault("cabundle", ()) or ()
    )  # a document without one has no chain, and is not genuine
    good = isinstance(bundle, (list, tuple)) and all(
        isinstance(c, bytes) and 0 < len(c) <= 1024 for c in bundle
    )
    need("cabundle", good, "certificates of at most 1,024 bytes")
    document["cabundle"] = bundle
    pcrs = document.get("pcrs")
    good = hasattr(pcrs, "items") and 0 < len(pcrs) <= _MAX_PCRS  # type: ignore[arg-type]
    good = good and all(type(i) is int and 0 <= i < _MAX_PCRS for i in pcrs)  # type: ignore[union-attr]
    good = good and all(isinstance(v, bytes) and len(v) in _PCR_SIZES for v in pcrs.values())  # type: ignore[union-attr]
    need("pcrs", good, "a map of PCR numbers to digests")
    for field in _OPTIONAL:
        value = document.get(field)
        good = value is None or (isinstance(value, bytes) and len(value) <= _MAX_FIELD_BYTES)
        need(field, good, "at most 1,024 bytes")
    return document


@lru_cache(maxsize=256)
def _standing(leaf: bytes, bundle: tuple[bytes, ...], endorsements: tuple[bytes, ...]) -> Standing:
    """Return the verified chain; cached by all its bytes, since it says itself when it is valid."""
    with quiet():
        certificate = load_certificate(leaf, _WHAT)
        others = [load_certificate(der, _WHAT) for der in bundle]
        chain = build_chain(certificate, others, [roots.certificate(_ROOT)])
    if chain is None:
        raise NotGenuine(
            "the document's certificate does not chain to AWS",
            findings=[
                Finding("nitro.certificate.chain", "cabundle", f"a chain to {_ROOT}", "none that holds")
            ],
        )
    lists = [crl for crl in map(load_crl, endorsements) if crl is not None]
    return standing(chain, lists, "nitro.certificate")


def _claims(document: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "module_id": document["module_id"],
        "timestamp": document["timestamp"],
        "digest": document["digest"],
        "debug": not any(any(document["pcrs"].get(i, b"")) for i in range(3)),
    }
    values |= {f"pcr{i}": value.hex() for i, value in sorted(document["pcrs"].items())}
    values |= {field: document[field].hex() for field in _OPTIONAL if document.get(field) is not None}
    return values

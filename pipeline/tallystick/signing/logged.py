"""Whether the log's entry is about this signature: for entries and keys that sigstore-python does not take.

Source: sigstore/rekor, pkg/types/{hashedrekord,dsse,intoto}; rekor-tiles, rekor-v2-spec 6.1.4.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from tallystick.core import jsondoc
from tallystick.formats import canonical_base64, dsse
from tallystick.formats.sigstore_bundle import Bundle, LogEntry
from tallystick.signing.refusals import refusal

_HASHES = {"SHA2_256": hashlib.sha256, "SHA2_384": hashlib.sha384, "SHA2_512": hashlib.sha512}


def check(entry: LogEntry, bundle: Bundle, verifier: bytes, digest: bytes, what: str) -> None:
    """Check that ``entry`` logs the bundle's signature, what it is over, and who made it.

    Args:
        verifier: DER of the certificate, or of the managed key.
        digest: SHA-256 of the file, for a message signature.

    Raises:
        NotGenuine: ``bundle.log-entry``.
    """
    readers: dict[str, Callable[[dict[str, Any], Bundle, bytes], dict[str, tuple[object, object]]]] = {
        "hashedrekord/0.0.1": _hashedrekord_1,
        "hashedrekord/0.0.2": _hashedrekord_2,
        "dsse/0.0.1": _dsse,
        "intoto/0.0.2": _intoto,
    }
    kind = f"{entry.kind}/{entry.version}"
    reader = readers.get(kind)
    if reader is None:
        raise refusal(what, "bundle.log-entry", "kindVersion", " or ".join(readers), kind)
    try:
        pairs = reader(jsondoc.loads(entry.body, what)["spec"], bundle, digest)
        pairs["verifier"] = (verifier, pairs["verifier"][1])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        got = f"{type(error).__name__}: {error}"
        raise refusal(what, "bundle.log-entry", "body", f"one of {kind}", got) from None
    for name, (want, got_value) in pairs.items():
        if want != got_value:
            raise refusal(what, "bundle.log-entry", name, _shown(want), _shown(got_value))


def _hashedrekord_1(spec: dict[str, Any], bundle: Bundle, digest: bytes) -> dict[str, tuple[object, object]]:
    hashed = spec["data"]["hash"]
    return {
        "digest": (
            f"sha256:{_over(bundle, digest, hashlib.sha256).hex()}",
            f"{hashed['algorithm']}:{hashed['value']}",
        ),
        "signature": (_signature(bundle), _decoded(spec["signature"]["content"])),
        "verifier": (None, _der_of_pem(_decoded(spec["signature"]["publicKey"]["content"]))),
    }


def _hashedrekord_2(spec: dict[str, Any], bundle: Bundle, digest: bytes) -> dict[str, tuple[object, object]]:
    record = spec["hashedRekordV002"]
    algorithm, verifier = record["data"]["algorithm"], record["signature"]["verifier"]
    raw = (
        verifier["publicKey"]["rawBytes"]
        if "publicKey" in verifier
        else verifier["x509Certificate"]["rawBytes"]
    )
    return {
        "digest": (_over(bundle, digest, _HASHES[algorithm]), _decoded(record["data"]["digest"])),
        "signature": (_signature(bundle), _decoded(record["signature"]["content"])),
        "verifier": (None, _decoded(raw)),
    }


def _dsse(spec: dict[str, Any], bundle: Bundle, _: bytes) -> dict[str, tuple[object, object]]:
    (signature,), hashed = spec["signatures"], spec["payloadHash"]
    return {
        "payload": (_payload_hash(bundle), f"{hashed['algorithm']}:{hashed['value']}"),
        "signature": (_signature(bundle), _decoded(signature["signature"])),
        "verifier": (None, _der_of_pem(_decoded(signature["verifier"]))),
    }


def _intoto(spec: dict[str, Any], bundle: Bundle, _: bytes) -> dict[str, tuple[object, object]]:
    """Read the form of before ``dsse``: signatures in it are base64 twice over."""
    (signature,), hashed = spec["content"]["envelope"]["signatures"], spec["content"]["payloadHash"]
    return {
        "payload": (_payload_hash(bundle), f"{hashed['algorithm']}:{hashed['value']}"),
        "signature": (_signature(bundle), base64.b64decode(_decoded(signature["sig"]), validate=True)),
        "verifier": (None, _der_of_pem(_decoded(signature["publicKey"]))),
    }


def _over(bundle: Bundle, digest: bytes, hasher: Callable[[bytes], Any]) -> bytes:
    """Return the digest that the signature is over: of the envelope's PAE, or of the file."""
    if isinstance(bundle.content, dsse.Envelope):
        value: bytes = hasher(bundle.content.signed_bytes).digest()
        return value
    return digest


def _payload_hash(bundle: Bundle) -> str:
    if not isinstance(bundle.content, dsse.Envelope):
        raise ValueError("the entry is of an envelope, the bundle has none")
    return f"sha256:{hashlib.sha256(bundle.content.payload).hexdigest()}"


def _signature(bundle: Bundle) -> bytes:
    content = bundle.content
    if isinstance(content, dsse.Envelope):
        (only,) = content.signatures
        return only.sig
    return content.signature


def _der_of_pem(pem: bytes) -> bytes:
    if b"BEGIN CERTIFICATE" in pem:
        return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    return load_pem_public_key(pem).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _decoded(text: Any) -> bytes:
    return canonical_base64.decode(text, "log entry", "body")


def _shown(value: object) -> str:
    return value.hex()[:64] if isinstance(value, bytes) else str(value)

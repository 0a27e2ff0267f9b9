"""A CoRIM signed by its Reference Value Provider, and whether such a signature holds.

Source: draft-ietf-rats-corim-10, 4.2 (protected headers: algorithm, content type, kid, corim-meta); RFC 9052, 4.4.
"""

from __future__ import annotations

from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tallystick.core.digests import Digest
from tallystick.core.errors import NotGenuine, Unsupported
from tallystick.core.findings import Finding
from tallystick.evidence.cose_signature import holds
from tallystick.formats import corim, cose
from tallystick.formats.corim import CONTENT_TYPE, META_HEADER, Corim

_BY_CURVE: dict[str, tuple[int, hashes.HashAlgorithm]] = {
    "secp256r1": (-7, hashes.SHA256()),
    "secp384r1": (-35, hashes.SHA384()),
    "secp521r1": (-36, hashes.SHA512()),
}


def sign(data: bytes, key: ec.EllipticCurvePrivateKey, signer: str) -> bytes:
    """Return the signed manifest. ECDSA draws a nonce, so two signatures differ; both hold.

    Args:
        data: an unsigned manifest.
        signer: the name in corim-meta.

    Raises:
        Malformed: ``data`` is no manifest. Unsupported: the key's curve.
    """
    corim.parse(data)
    if key.curve.name not in _BY_CURVE:
        raise Unsupported("signing key", at="curve", want=", ".join(_BY_CURVE), got=key.curve.name)
    algorithm, scheme = _BY_CURVE[key.curve.name]
    meta = cbor2.dumps({0: {0: signer}}, canonical=True)
    header = {1: algorithm, 3: CONTENT_TYPE, 4: key_id(key.public_key()), META_HEADER: meta}
    protected = cbor2.dumps(header, canonical=True)
    message = cose.Sign1(algorithm, protected, {}, data, b"")
    r, s = decode_dss_signature(key.sign(message.to_be_signed(), ec.ECDSA(scheme)))
    size = cose.ECDSA[algorithm][1]
    signature = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    return cbor2.dumps(cbor2.CBORTag(cose.SIGN1_TAG, [protected, {}, data, signature]), canonical=True)


def verify(data: bytes, key: object) -> Corim:
    """Return the manifest in ``data``, signed by ``key``.

    Raises:
        Malformed, Unsupported: no signed manifest. NotGenuine: the signature does not hold under ``key``.
    """
    message = corim.parse_signed(data)
    if not holds(message, key):
        finding = Finding("corim.signature", "COSE_Sign1", want="a signature by this key", got="another")
        raise NotGenuine("the CoRIM is not signed by this key", findings=[finding])
    return corim.parse(message.payload)


def key_id(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the kid: SHA-256 of the key's SubjectPublicKeyInfo."""
    return Digest.of(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).value


def summary(found: Corim) -> dict[str, Any]:
    """Return what a manifest says of itself, as a document."""
    return {
        "id": found.corim_id if isinstance(found.corim_id, str) else repr(found.corim_id),
        "profile": None if found.profile is None else str(getattr(found.profile, "value", found.profile)),
        "not_before": None if found.not_before is None else found.not_before.isoformat(),
        "not_after": None if found.not_after is None else found.not_after.isoformat(),
        "tags": [
            {
                "id": str(one.tag_id),
                "reference_triples": len(one.triples),
                "other_triples": list(one.other_triples),
            }
            for one in found.comids
        ],
        "other_tags": found.other_tags,
    }

"""Wrapped data keys: 32 bytes under a key of the broker, bound to one artifact, one release and one policy.

The wrapping lies beside the artifact in a file of its own. Another policy, another release, another epoch or another
key of the broker means that these few bytes are made again, and the artifact stays as it is.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.digests import Digest
from tallystick.core.errors import NotGenuine, Unsupported
from tallystick.core.findings import Finding
from tallystick.handshake.artifact import KEY_BYTES, Header
from tallystick.handshake.fields import Fields
from tallystick.handshake.kbs import check_key
from tallystick.handshake.manifest import Artifact, Manifest

SCHEMA = "tallystick/wrapped-key/v1"
SUFFIX = ".key"  # of the wrapping's file, behind the name of the artifact's
MAX_BYTES = 4096

_WHAT = "wrapped key"
_LABEL = b"tallystick wrapped key v1"
_NONCE_BYTES, _WRAPPED_BYTES = 12, KEY_BYTES + 16
_LEAST_KEY_BYTES = 16
_BOUND = ("artifact", "encryption", "key", "policy", "release")
_FIELDS = ("schema", *_BOUND, "nonce", "wrapped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What a data key is wrapped for. All of it is authenticated."""

    artifact: Digest  # sha256 of the plaintext
    encryption: Digest  # of the encrypted artifact's header
    key: str  # KBS resource path of the broker's key; its last part names the epoch where there are epochs
    policy: Digest  # sha256 of the policy file under which the broker gives that key
    release: Digest  # of the artifact release: sha256 of its manifest

    def document(self) -> dict[str, Any]:
        """Return the binding as JSON."""
        return {
            "schema": SCHEMA,
            "artifact": str(self.artifact),
            "encryption": str(self.encryption),
            "key": self.key,
            "policy": str(self.policy),
            "release": str(self.release),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """A wrapped data key and what it is bound to. Nothing is believed before it was unwrapped."""

    binding: Binding
    nonce: bytes
    ciphertext: bytes


def binding(manifest: Manifest, one: Artifact, header: Header) -> Binding:
    """Return what the data key of ``one``, an artifact of ``manifest`` with this header, is wrapped for."""
    return Binding(
        artifact=one.plaintext,
        encryption=header.digest,
        key=one.key,
        policy=manifest.policy,
        release=manifest.digest,
    )


def wrap(data_key: bytes, broker_key: bytes, bound: Binding, *, nonce: bytes) -> bytes:
    """Return ``data_key`` wrapped: RFC 8785 bytes.

    Args:
        broker_key: the key called ``bound.key``, 16 bytes or more.
        nonce: 12 random bytes.
    """
    import rfc8785
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(data_key) != KEY_BYTES or len(nonce) != _NONCE_BYTES:
        raise ValueError(f"a data key has {KEY_BYTES} bytes and a nonce {_NONCE_BYTES}")
    document = bound.document()
    sealed = AESGCM(_wrapping_key(broker_key)).encrypt(nonce, data_key, rfc8785.dumps(document))
    return rfc8785.dumps({**document, "nonce": nonce.hex(), "wrapped": sealed.hex()})


def parse(data: bytes) -> Wrapped:
    """Return the wrapped key in the file ``data``.

    Raises:
        Malformed: no wrapped key, or an unknown field. Unsupported: another schema.
    """
    document = jsondoc.loads(data, _WHAT, max_bytes=MAX_BYTES)
    fields = Fields(document, _WHAT)
    if fields.text("schema") != SCHEMA:
        raise Unsupported(_WHAT, at="schema", want=SCHEMA, got=fields.text("schema"))
    fields.only(*_FIELDS)
    bound = Binding(
        artifact=fields.sha256("artifact"),
        encryption=fields.sha256("encryption"),
        key=check_key(fields.text("key")),
        policy=fields.sha256("policy"),
        release=fields.sha256("release"),
    )
    return Wrapped(
        binding=bound,
        nonce=fields.hex_bytes("nonce", _NONCE_BYTES),
        ciphertext=fields.hex_bytes("wrapped", _WRAPPED_BYTES),
    )


def unwrap(wrapped: Wrapped, broker_key: bytes, wanted: Binding) -> bytes:
    """Return the data key, when it is wrapped for exactly ``wanted``.

    Raises:
        NotGenuine: ``wrapping.<field>`` for each field that is another's (a policy that was replaced, another
            release, a foreign artifact); ``wrapping.key-bytes`` when the broker's key is another one.
    """
    import rfc8785
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    want, got = wanted.document(), wrapped.binding.document()
    findings = [
        Finding(f"wrapping.{name}", f"{_WHAT}: {name}", want[name], got[name])
        for name in _BOUND
        if want[name] != got[name]
    ]
    if findings:
        raise NotGenuine(findings[0].message, findings=findings)
    try:
        cipher = AESGCM(_wrapping_key(broker_key))
        return cipher.decrypt(wrapped.nonce, wrapped.ciphertext, rfc8785.dumps(got))
    except InvalidTag:
        message = f"{_WHAT}: it was changed, or {wanted.key} is not the key that it is wrapped under"
        raise NotGenuine(message, code="wrapping.key-bytes") from None


def rewrap(
    data: bytes, broker_key: bytes, new_key: bytes, *, key: str, policy: Digest, release: Digest, nonce: bytes
) -> bytes:
    """Return the wrapped key ``data`` made again, under ``new_key``, which the broker calls ``key``.

    Raises:
        NotGenuine: ``broker_key`` does not open it. Malformed, Unsupported: as :func:`parse`.
    """
    old = parse(data)
    data_key = unwrap(old, broker_key, old.binding)
    return wrap(data_key, new_key, replace(old.binding, key=key, policy=policy, release=release), nonce=nonce)


def _wrapping_key(broker_key: bytes) -> bytes:
    """Return the AES key: HKDF-SHA256 (RFC 5869) of the broker's key without salt, one block.

    Raises:
        NotGenuine: what the broker gave is too short for a key.
    """
    if len(broker_key) < _LEAST_KEY_BYTES:
        message = f"{_WHAT}: want a key of {_LEAST_KEY_BYTES} bytes or more, got {len(broker_key)}"
        raise NotGenuine(message, code="wrapping.key-bytes")
    extracted = hmac.digest(bytes(32), broker_key, "sha256")
    return hmac.digest(extracted, _LABEL + b"\x01", "sha256")

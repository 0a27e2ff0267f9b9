"""A key wrapped to the attester's ephemeral key: JSON Web Encryption, flattened JSON.

RSA-OAEP-256 or ECDH-ES+A256KW over P-256 or P-521, always with A256GCM. RSA1_5, which KBS still lists, is not here.

Source: RFC 7516, sections 5 and 7.2.2; RFC 7518, sections 4.3, 4.6 and 5.3; Trustee, kbs/src/jwe/mod.rs.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import TYPE_CHECKING, Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.handshake.fields import Fields, b64url
from tallystick.handshake.kbs import encode
from tallystick.handshake.teekey import ECDH_ES_A256KW, RSA_OAEP_256, TeePublicKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.padding import OAEP
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

_WHAT = "wrapped key"
_ENC = "A256GCM"  # RFC 7518, section 5.3
_CEK_BYTES = 32
_IV_BYTES = 12
_TAG_BYTES = 16


class TeeKeyPair:
    """The attester's private half. It never leaves this process and is never printed."""

    __slots__ = ("_private", "public")

    def __init__(self, private: EllipticCurvePrivateKey | RSAPrivateKey) -> None:
        self._private = private
        self.public = TeePublicKey.of(private.public_key())

    @classmethod
    def make(cls, alg: str = ECDH_ES_A256KW) -> TeeKeyPair:
        """Return a new key pair: P-256 as guest-components makes by default, or RSA-2048.

        Raises:
            Unsupported: another algorithm.
        """
        if alg == ECDH_ES_A256KW:
            from cryptography.hazmat.primitives.asymmetric import ec

            return cls(ec.generate_private_key(ec.SECP256R1()))
        if alg == RSA_OAEP_256:
            from cryptography.hazmat.primitives.asymmetric import rsa

            return cls(rsa.generate_private_key(65537, 2048))
        raise Unsupported("ephemeral key", at="alg", want=f"{ECDH_ES_A256KW} or {RSA_OAEP_256}", got=alg)

    def decrypt(self, data: bytes) -> bytes:
        """Return the plaintext of the JWE in ``data``.

        Raises:
            Malformed: not a flattened JWE.
            Unsupported: another algorithm than our key's, another content encryption, or ``crit``.
            NotGenuine: it was not wrapped to this key, or was changed (``jwe.not-ours``).
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        message = Fields(jsondoc.loads(data, _WHAT), _WHAT)
        protected = message.text("protected")
        header = _header(message)
        alg = header.text("alg", max_characters=40)
        if alg != self.public.alg:
            raise Unsupported(_WHAT, at="alg", want=self.public.alg, got=alg)
        cek = self._unwrap(header, message.base64url("encrypted_key", max_bytes=1024))
        iv, tag = message.base64url("iv", max_bytes=64), message.base64url("tag", max_bytes=64)
        if len(iv) != _IV_BYTES or len(tag) != _TAG_BYTES:
            want = f"iv of {_IV_BYTES} bytes, tag of {_TAG_BYTES}"
            raise message.bad("iv, tag", want=want, got=f"{len(iv)} and {len(tag)}")
        try:
            ciphertext = message.base64url("ciphertext")
            return AESGCM(cek).decrypt(iv, ciphertext + tag, _aad(message, protected))
        except InvalidTag:
            raise _not_ours("the content does not authenticate") from None

    def _unwrap(self, header: Fields, encrypted_key: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
        from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

        try:
            if isinstance(self._private, RSAPrivateKey):
                cek = self._private.decrypt(encrypted_key, _oaep())
            else:
                from cryptography.hazmat.primitives.asymmetric.ec import ECDH

                given = {**_object(header.raw("epk")), "alg": ECDH_ES_A256KW}
                epk: Any = TeePublicKey.parse(given).public_key()
                secret = self._private.exchange(ECDH(), epk)
                party_u, party_v = _party(header, "apu"), _party(header, "apv")
                cek = aes_key_unwrap(concat_kdf(secret, ECDH_ES_A256KW, 256, party_u, party_v), encrypted_key)
        except (ValueError, InvalidUnwrap):
            raise _not_ours("it is wrapped to another key") from None
        if len(cek) != _CEK_BYTES:
            raise _not_ours("its content key has the wrong size")
        return cek


def encrypt(plaintext: bytes, to: TeePublicKey) -> bytes:
    """Return ``plaintext`` as a flattened JWE that only the private half of ``to`` opens."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cek, iv = os.urandom(_CEK_BYTES), os.urandom(_IV_BYTES)
    header, encrypted_key = _wrap(cek, to)
    protected = b64url(encode(header))
    sealed = AESGCM(cek).encrypt(iv, plaintext, protected.encode("ascii"))
    message = {
        "protected": protected,
        "encrypted_key": b64url(encrypted_key),
        "iv": b64url(iv),
        "ciphertext": b64url(sealed[:-_TAG_BYTES]),
        "tag": b64url(sealed[-_TAG_BYTES:]),
    }
    return encode(message)


def _wrap(cek: bytes, to: TeePublicKey) -> tuple[dict[str, object], bytes]:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.keywrap import aes_key_wrap

    key = to.public_key()
    header: dict[str, object] = {"alg": to.alg, "enc": _ENC}
    if isinstance(key, rsa.RSAPublicKey):
        return header, key.encrypt(cek, _oaep())
    ephemeral = ec.generate_private_key(key.curve)
    epk = TeePublicKey.of(ephemeral.public_key()).document()
    del epk["alg"]
    wrapping_key = concat_kdf(ephemeral.exchange(ec.ECDH(), key), ECDH_ES_A256KW, 256)
    return {**header, "epk": epk}, aes_key_wrap(wrapping_key, cek)


def concat_kdf(
    secret: bytes, algorithm: str, key_bits: int, party_u: bytes = b"", party_v: bytes = b""
) -> bytes:
    """Return ``key_bits`` bits derived from the agreed ``secret``: the Concat KDF with SHA-256.

    Source: RFC 7518, section 4.6.2; NIST SP 800-56A revision 2, section 5.8.1.
    """
    fields = (algorithm.encode("ascii"), party_u, party_v)
    info = b"".join(struct.pack(">I", len(field)) + field for field in fields) + struct.pack(">I", key_bits)
    rounds = -(-key_bits // 256)
    made = b"".join(
        hashlib.sha256(struct.pack(">I", n) + secret + info).digest() for n in range(1, rounds + 1)
    )
    return made[: key_bits // 8]


def _header(message: Fields) -> Fields:
    """Return the protected header. ``crit`` names what must be understood, and we understand none of it."""
    what = f"{_WHAT}: protected"
    header = Fields(jsondoc.loads(message.base64url("protected", max_bytes=8192), what), what)
    enc = header.text("enc", max_characters=40)
    if enc != _ENC:
        raise Unsupported(_WHAT, at="enc", want=_ENC, got=enc)
    for name in ("crit", "zip"):
        if header.has(name):
            raise Unsupported(_WHAT, at=name, want="no such header", got=repr(header.raw(name)))
    return header


def _aad(message: Fields, protected: str) -> bytes:
    """Return what is authenticated with the ciphertext (RFC 7516, section 5.2, step 15)."""
    if message.has("aad"):
        protected += "." + b64url(message.base64url("aad", max_bytes=8192))
    return protected.encode("ascii")


def _party(header: Fields, name: str) -> bytes:
    return header.base64url(name, max_bytes=1024) if header.has(name) else b""


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(_WHAT, at="epk", want="an ephemeral public key", got="none")
    return value


def _oaep() -> OAEP:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


def _not_ours(why: str) -> NotGenuine:
    return NotGenuine(f"{_WHAT}: {why}", code="jwe.not-ours")

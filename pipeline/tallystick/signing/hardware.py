"""Private keys that stay in a token, used through PKCS#11. A key file then holds one line: an RFC 7512 URI.

The objects stand where ``cryptography`` has private keys of its own, so the CA, the logs and approvers sign by the same
code with either. The PIN comes the way a passphrase does, and never from the URI.

Source: RFC 7512 (the PKCS #11 URI scheme); PKCS #11 v3.0, current mechanisms, sections 2.3 (CKM_ECDSA: raw r and s;
CKM_EDDSA).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

from tallystick.core.errors import Malformed, Misuse, Unreachable, Unsupported

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        KeySerializationEncryption,
        PrivateFormat,
    )

SCHEME = "pkcs11:"
_MODULE_VARIABLE = "TALLY_PKCS11_MODULE"
_WHAT = "PKCS#11 URI"
_ED25519_POINT_BYTES = 32
_AES_BYTES = 32
_CURVES: dict[
    bytes, ec.EllipticCurve
] = {  # CKA_EC_PARAMS, DER object identifiers (RFC 5480, section 2.1.1.1)
    bytes.fromhex("06082a8648ce3d030107"): ec.SECP256R1(),
    bytes.fromhex("06052b81040022"): ec.SECP384R1(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a key is."""

    token: str
    label: str  # CKA_LABEL of both halves
    module: str  # path of the token's library


def parse(uri: str) -> Place:
    """Return the place that ``pkcs11:token=…;object=…[?module-path=…]`` names.

    Raises:
        Malformed: another form, or a PIN in it: who can read the file would have the key.
        Misuse: no module in it, nor in $TALLY_PKCS11_MODULE.
    """
    path, _, query = uri.removeprefix(SCHEME).partition("?")
    pairs = [pair.partition("=") for pair in (*path.split(";"), *query.split("&")) if pair]
    said = {name: unquote(value) for name, _, value in pairs}
    known = {"token", "object", "module-path", "type"}
    if not uri.startswith(SCHEME) or len(said) != len(pairs) or set(said) - known or not said.get("token"):
        raise Malformed(
            _WHAT, at="attributes", want="token, object and perhaps module-path, each once", got=uri
        )
    module = said.get("module-path") or os.environ.get(_MODULE_VARIABLE, "")
    if not module:
        message = f"{uri[:60]} names no module-path, and there is no ${_MODULE_VARIABLE}"
        raise Misuse(message, code="key.module")
    if not said.get("object"):
        raise Malformed(_WHAT, at="object", want="the key's label", got="none")
    return Place(token=said["token"], label=said["object"], module=module)


def load(uri: str, pin: bytes | None) -> ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey:
    """Return the key at ``uri``.

    Raises:
        Misuse: the PIN is missing or wrong (``key.passphrase``), or there is no such key (``key.missing``).
        Unreachable: no such token, or its library can not be loaded (``key.token``).
        Unsupported: a key that is neither P-256, P-384 nor Ed25519.
    """
    place = parse(uri)
    try:
        from pkcs11 import Attribute, KeyType, ObjectClass
        from pkcs11.exceptions import PKCS11Error
    except ImportError:
        raise Unsupported(
            "hardware key", at=uri, want="the package python-pkcs11", got="it is not installed"
        ) from None
    session = _session(place.module, place.token, pin)
    try:
        private = list(
            session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: place.label})
        )
        public = list(
            session.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.LABEL: place.label})
        )
        if len(private) != 1 or len(public) != 1:
            got = f"{len(private)} private, {len(public)} public"
            raise Misuse(f"{uri}: want one key of that label, got {got}", code="key.missing")
        point, parameters = _octets(public[0][Attribute.EC_POINT]), bytes(public[0][Attribute.EC_PARAMS])
        kind = public[0][Attribute.KEY_TYPE]
    except PKCS11Error as error:
        raise Unreachable(f"{uri}: {type(error).__name__} {error}".rstrip(), code="key.token") from None
    if kind == KeyType.EC_EDWARDS and len(point) == _ED25519_POINT_BYTES:
        return TokenEd25519(private[0], ed25519.Ed25519PublicKey.from_public_bytes(point))
    curve = _CURVES.get(parameters) if kind == KeyType.EC else None
    if curve is None:
        raise Unsupported("hardware key", at=uri, want="P-256, P-384 or Ed25519", got=parameters.hex())
    return TokenEllipticCurve(private[0], ec.EllipticCurvePublicKey.from_encoded_point(curve, point))


def load_aes(uri: str, pin: bytes | None) -> Any:
    """Return the handle of the 256-bit AES key at ``uri``, which encrypts and decrypts; errors as :func:`load`."""
    place = parse(uri)
    try:
        from pkcs11 import Attribute, KeyType, ObjectClass
        from pkcs11.exceptions import PKCS11Error
    except ImportError:
        raise Unsupported(
            "hardware key", at=uri, want="the package python-pkcs11", got="it is not installed"
        ) from None
    session = _session(place.module, place.token, pin)
    try:
        wanted = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: place.label}
        found = list(session.get_objects(wanted))
        if len(found) != 1:
            raise Misuse(f"{uri}: want one secret key of that label, got {len(found)}", code="key.missing")
        kind, size = found[0][Attribute.KEY_TYPE], found[0][Attribute.VALUE_LEN]
    except PKCS11Error as error:
        raise Unreachable(f"{uri}: {type(error).__name__} {error}".rstrip(), code="key.token") from None
    if kind != KeyType.AES or size != _AES_BYTES:
        got = f"{getattr(kind, 'name', kind)} of {size} bytes"
        raise Unsupported("hardware key", at=uri, want=f"AES of {_AES_BYTES} bytes", got=got)
    return found[0]


class TokenEllipticCurve(ec.EllipticCurvePrivateKey):
    """An elliptic-curve key in a token."""

    def __init__(self, handle: Any, public: ec.EllipticCurvePublicKey) -> None:
        self._handle, self._public = handle, public

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Return the DER signature over ``data``; only the digest goes to the token."""
        from pkcs11 import Mechanism

        algorithm = signature_algorithm.algorithm
        if isinstance(algorithm, utils.Prehashed):
            digest = bytes(data)
        else:
            hasher = hashes.Hash(algorithm)
            hasher.update(data)
            digest = hasher.finalize()
        with _told():
            raw = bytes(self._handle.sign(digest, mechanism=Mechanism.ECDSA))
        half = len(raw) // 2
        return utils.encode_dss_signature(
            int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
        )

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Return the public half."""
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """Bits of the curve."""
        return self._public.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        """Refuse: these keys sign."""
        _stays()

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        """Refuse: the key stays in its token."""
        _stays()

    def private_bytes(
        self, encoding: Encoding, format: PrivateFormat, encryption_algorithm: KeySerializationEncryption
    ) -> bytes:
        """Refuse: the key stays in its token."""
        _stays()

    def __copy__(self) -> TokenEllipticCurve:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> TokenEllipticCurve:
        return self


class TokenEd25519(ed25519.Ed25519PrivateKey):
    """An Ed25519 key in a token."""

    def __init__(self, handle: Any, public: ed25519.Ed25519PublicKey) -> None:
        self._handle, self._public = handle, public

    def sign(self, data: Any) -> bytes:
        """Return the signature over ``data`` (RFC 8032, pure Ed25519)."""
        from pkcs11 import Mechanism

        with _told():
            return bytes(self._handle.sign(bytes(data), mechanism=Mechanism.EDDSA))

    def public_key(self) -> ed25519.Ed25519PublicKey:
        """Return the public half."""
        return self._public

    def private_bytes(
        self, encoding: Encoding, format: PrivateFormat, encryption_algorithm: KeySerializationEncryption
    ) -> bytes:
        """Refuse: the key stays in its token."""
        _stays()

    def private_bytes_raw(self) -> bytes:
        """Refuse: the key stays in its token."""
        _stays()

    def __copy__(self) -> TokenEd25519:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> TokenEd25519:
        return self


@lru_cache(maxsize=16)
def _session(module: str, label: str, pin: bytes | None) -> Any:
    """Return a session of the token, logged in, kept for the process: a token counts wrong PINs."""
    import pkcs11
    from pkcs11 import exceptions

    try:
        token = pkcs11.lib(module).get_token(token_label=label)
        if pin is None:
            raise Misuse(f"token {label}: its PIN is missing", code="key.passphrase")
        return token.open(user_pin=pin.decode("utf-8", "replace"))
    except (
        exceptions.PinIncorrect,
        exceptions.PinInvalid,
        exceptions.PinLenRange,
        exceptions.PinLocked,
    ) as error:
        raise Misuse(f"token {label}: {type(error).__name__}", code="key.passphrase") from None
    except (exceptions.PKCS11Error, RuntimeError) as error:
        said = f"{type(error).__name__} {error}".rstrip()
        raise Unreachable(f"token {label} by {module}: {said}", code="key.token") from None


@contextmanager
def _told() -> Iterator[None]:
    """Turn what a token says while it signs into our error."""
    from pkcs11.exceptions import PKCS11Error

    try:
        yield
    except PKCS11Error as error:
        raise Unreachable(f"the token does not sign: {type(error).__name__}", code="key.token") from None


def _octets(value: bytes) -> bytes:
    """Return the point inside its DER OCTET STRING; some tokens give it bare."""
    match = re.fullmatch(rb"\x04([\x01-\x7f])(.+)", bytes(value), re.DOTALL)
    if match and match[1][0] == len(match[2]):
        return match[2]
    return bytes(value)


def _stays() -> NoReturn:
    raise Misuse("a hardware key stays in its token", code="key.token")

"""A request that an administrator signed: for one broker, one method, one path, one body, for a minute, once.

The signature is a compact JWS in the ``Authorization`` header. There is no password, no session and no way without it.

Source: RFC 7515 and RFC 7518, section 3.4 (ES256); RFC 9449, section 4.2, for ``htm``, ``htu`` and ``jti``; RFC 7638.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from tallystick.broker.admins import Admin, by_thumbprint
from tallystick.broker.secretfiles import read_secret, write_secret
from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, NotGenuine, TallystickError, Unsupported
from tallystick.core.findings import Finding
from tallystick.formats import jws
from tallystick.handshake.fields import Fields, b64url
from tallystick.handshake.kbs import encode
from tallystick.handshake.teekey import TeePublicKey

SCHEME = "Bearer"
TYPE = "tally-admin+jwt"
ALGORITHM = "ES256"
LIFE = timedelta(seconds=60)
KEY_SCHEMA = "tallystick/admin-key/v1"
_SKEW = timedelta(seconds=10)  # between the administrator's clock and the broker's
_INTEGER_BYTES = 32
_MAX_TOKEN_BYTES = 4 << 10
_MAX_KEY_BYTES = 16 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a signature is for."""

    audience: str  # the broker, by the line that its log is verified with
    method: str
    path: str
    body: bytes

    def claims(self) -> dict[str, str]:
        """Return what a token for this call says of it."""
        digest = f"sha256:{hashlib.sha256(self.body).hexdigest()}"
        return {"aud": self.audience, "htm": self.method, "htu": self.path, "digest": digest}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AdminKey:
    """An administrator's private key, and the broker that it is for."""

    audience: str
    private: ec.EllipticCurvePrivateKey

    @property
    def public(self) -> TeePublicKey:
        """The public half, which the broker enrols."""
        return TeePublicKey.of(self.private.public_key())

    def sign(self, method: str, path: str, body: bytes, *, now: datetime) -> str:
        """Return the token for one request."""
        call = Call(audience=self.audience, method=method, path=path, body=body)
        header = {"typ": TYPE, "alg": ALGORITHM, "kid": self.public.thumbprint()}
        times = {"iat": int(now.timestamp()), "exp": int((now + LIFE).timestamp())}
        claims: dict[str, str | int] = {**call.claims(), **times, "jti": secrets.token_hex(16)}
        signed = f"{b64url(encode(header))}.{b64url(encode(claims))}"
        r, s = decode_dss_signature(self.private.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{b64url(r.to_bytes(_INTEGER_BYTES, 'big') + s.to_bytes(_INTEGER_BYTES, 'big'))}"

    def write(self, path: Path) -> None:
        """Keep the key in a 0600 file at ``path``."""
        pem = self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        document = {"schema": KEY_SCHEMA, "broker": self.audience, "key": pem.decode()}
        write_secret(path, rfc8785.dumps(document))


def load_key(path: Path) -> AdminKey:
    """Return the key that :meth:`AdminKey.write` kept.

    Raises:
        Misuse: there is no file. NotGenuine: others can read it. Malformed, Unsupported: another file.
    """
    what = "administrator's key"
    fields = Fields(jsondoc.loads(read_secret(path, what, max_bytes=_MAX_KEY_BYTES), what), what)
    if fields.text("schema") != KEY_SCHEMA:
        raise Unsupported(what, at="schema", want=KEY_SCHEMA, got=fields.text("schema"))
    try:
        private = serialization.load_pem_private_key(fields.text("key").encode(), None)
    except (ValueError, TypeError):
        raise fields.bad("key", want="a PEM private key", got="other bytes") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        raise Unsupported(what, at="key", want="a P-256 key", got=type(private).__name__)
    return AdminKey(audience=fields.text("broker"), private=private)


def verify(header: str, admins: tuple[Admin, ...], call: Call, *, now: datetime) -> tuple[Admin, bytes]:
    """Return who signed ``call``, and the nonce that is used up by it.

    Args:
        header: the value of ``Authorization``.

    Raises:
        NotGenuine: nobody who is enrolled signed it, or they signed something else. What is wrong with it is told
            only to who is enrolled: everybody else gets one code, ``admin.unauthorised``.
    """
    scheme, _, token = header.partition(" ")
    try:
        if scheme != SCHEME or not 0 < len(token) <= _MAX_TOKEN_BYTES:
            raise _nobody()
        shown = jws.parse(token.encode("ascii", "replace"))
        admin = by_thumbprint(admins, str(shown.header.get("kid")))
        if admin is None or shown.header.get("typ") != TYPE or shown.algorithm != ALGORITHM:
            raise _nobody()
        _check_signature(admin, shown)
    except TallystickError:
        raise _nobody() from None
    said = Fields(shown.claims, "administrator's request")
    for name, want in call.claims().items():
        got = said.text(name)
        if not hmac.compare_digest(got.encode("utf-8", "surrogatepass"), want.encode()):
            raise _no(f"admin.{name}", f"{name} of the signed request", want, got)
    since, until = _time(said, "iat"), _time(said, "exp")
    if not since - _SKEW <= now < until or until - since > LIFE:
        got = f"from {since.isoformat()} to {until.isoformat()}"
        raise _no(
            "admin.expired", "the signed request", f"valid at {now.isoformat()}, for {LIFE.seconds} s", got
        )
    nonce = f"admin {admin.key.thumbprint()} {said.text('jti', max_characters=128)}"
    return admin, hashlib.sha256(nonce.encode("utf-8", "surrogatepass")).digest()


def _check_signature(admin: Admin, shown: jws.Token) -> None:
    key = admin.key.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or len(shown.signature) != 2 * _INTEGER_BYTES:
        raise _nobody()
    r, s = (int.from_bytes(shown.signature[at : at + _INTEGER_BYTES], "big") for at in (0, _INTEGER_BYTES))
    try:
        key.verify(encode_dss_signature(r, s), shown.signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise _nobody() from None


def _time(said: Fields, name: str) -> datetime:
    value = said.raw(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 35:
        raise Malformed("administrator's request", at=name, want="seconds since 1970", got=str(value))
    return datetime.fromtimestamp(value, UTC)


def _nobody() -> NotGenuine:
    return NotGenuine("this is for enrolled administrators, by signed requests", code="admin.unauthorised")


def _no(code: str, where: str, want: str, got: str) -> NotGenuine:
    finding = Finding(code, where, want, got[:200])
    return NotGenuine(finding.message, code=code, findings=[finding])

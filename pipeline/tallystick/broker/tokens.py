"""Attestation results (EAR) that this broker issues for others: never an input to its own release."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tallystick import __version__
from tallystick.broker import apitokens
from tallystick.broker.secretfiles import read_secret, write_secret
from tallystick.core.errors import Malformed, Unsupported
from tallystick.evidence.claims import Claims
from tallystick.formats import ear
from tallystick.handshake import dpop

DEVELOPER = "https://tallystick.dev"
# AR4SI §2.3: the values that this verifier uses, one meaning each.
APPROVED_BOOT = 3  # executables: "approved-boot"
UNRECOGNIZED_RUNTIME = 33  # executables: "unrecognized-rt"
APPROVED_CONFIGURATION = 2  # configuration: "approved-config"
GENUINE_HARDWARE = 2  # hardware: "genuine"
UNSAFE_HARDWARE = 32  # hardware: "unsafe": genuine evidence of a root that is for development only
_KEY_BYTES = 64 << 10
_INTEGER_BYTES = 32  # RFC 7518 §3.4, P-256


class TokenIssuer:
    """Signs attestation results with one P-256 key."""

    __slots__ = ("_issuer", "_jwk", "_key", "_life")

    def __init__(self, key: ec.EllipticCurvePrivateKey, *, issuer: str, life: timedelta) -> None:
        self._key = key
        self._issuer = issuer
        self._life = life
        self._jwk = public_jwk(key.public_key())

    @property
    def jwk(self) -> Mapping[str, str]:
        """The public key that a relying party checks tokens against."""
        return self._jwk

    def issue(self, submods: tuple[tuple[str, ear.Submod], ...], *, now: datetime) -> str:
        """Return the signed token of the appraisals of one machine and its devices, by name."""
        claims = ear.Ear(
            profile=ear.PROFILE,
            issuer=self._issuer,
            developer=DEVELOPER,
            build=f"tallystick {__version__}",
            issued_at=int(now.timestamp()),
            expires_at=int((now + self._life).timestamp()),
            submods=submods,
        )
        signed = ear.signing_input(claims, self._jwk)
        return ear.compact(signed, self._sign(signed))

    def api_token(
        self,
        request: apitokens.Request,
        *,
        holder: str,
        said: Mapping[str, str],
        until: datetime,
        now: datetime,
    ) -> str:
        """Return an API token for a workload; arguments as :func:`apitokens.issue`."""
        return apitokens.issue(
            request,
            self._sign,
            key_id=self.key_id,
            issuer=self._issuer,
            holder=holder,
            said=said,
            until=until,
            now=now,
        )

    @property
    def key_id(self) -> str:
        """The key's thumbprint (RFC 7638), by which tokens name it."""
        return dpop.public(self._jwk).thumbprint()

    def _sign(self, data: bytes) -> bytes:
        r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(_INTEGER_BYTES, "big") + s.to_bytes(_INTEGER_BYTES, "big")


def create_key(path: Path) -> None:
    """Make the signing key in a 0600 file at ``path``."""
    key = ec.generate_private_key(ec.SECP256R1())
    write_secret(
        path,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def load_key(path: Path, what: str) -> ec.EllipticCurvePrivateKey:
    """Return the P-256 key in the file at ``path``.

    Raises:
        Misuse: there is none.
        NotGenuine: others can read it.
        Malformed: not a PEM key.
        Unsupported: another kind of key.
    """
    try:
        key = serialization.load_pem_private_key(read_secret(path, what, max_bytes=_KEY_BYTES), None)
    except (ValueError, TypeError):
        raise Malformed(what, at=str(path), want="a PEM private key", got="other bytes") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Unsupported(what, at=str(path), want="a P-256 key", got=type(key).__name__)
    return key


def public_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """Return ``key`` as a JWK, coordinates at their full length (RFC 7518 §6.2.1.2)."""
    numbers = key.public_numbers()
    x, y = (
        base64.urlsafe_b64encode(value.to_bytes(_INTEGER_BYTES, "big")).rstrip(b"=").decode("ascii")
        for value in (numbers.x, numbers.y)
    )
    return {"kty": "EC", "crv": "P-256", "alg": ear.ALGORITHM, "x": x, "y": y}


def annotated(tee: str, claims: Claims, *, runtime: Mapping[str, Any], init: object) -> dict[str, Any]:
    """Return the annotated evidence of a token, arranged as Trustee's ``transform_claims`` does."""
    inside = {
        name: value for name, value in claims.values.items() if name not in ("init_data", "report_data")
    }
    found: dict[str, Any] = {tee: inside, "runtime_data_claims": dict(runtime)}
    found["report_data"] = claims.report_data.hex()
    if "init_data" in claims.values:
        found["init_data"] = claims.values["init_data"]
        found["init_data_claims"] = init
    return found

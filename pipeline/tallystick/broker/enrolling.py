"""Enrolment: proof that an attestation key lives in the TPM of a certified endorsement key.

Two messages: a secret that only that TPM can open, and the secret back. What follows is a short-lived
certificate of the attestation key. Bounded and in memory; a session has one attempt.

Source: TPM 2.0 Part 1, §24; Part 2, §8.3 (object attributes); TCG TPM 2.0 Keys for Device Identity and
Attestation, §5 (enrolment of an attestation key).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import rsa

from tallystick.broker.credential import make_credential
from tallystick.broker.endorsement import EndorsedKey, endorsed_key
from tallystick.core.errors import NotGenuine, Unsupported
from tallystick.core.findings import Finding
from tallystick.formats import tpm
from tallystick.formats.tpm import ObjectAttributes
from tallystick.handshake.kbs import Enrolment
from tallystick.signing.records import Endorser

_SECRET_BYTES = 32
_SESSION_BYTES = 16
_AK_BITS = 2048
# A key made inside this TPM that signs only what the TPM itself made, and can not be moved out of it.
_REQUIRED = (
    ObjectAttributes.FIXED_TPM
    | ObjectAttributes.FIXED_PARENT
    | ObjectAttributes.SENSITIVE_DATA_ORIGIN
    | ObjectAttributes.RESTRICTED
    | ObjectAttributes.SIGN_ENCRYPT
)
_FORBIDDEN = ObjectAttributes.DECRYPT | ObjectAttributes.X509_SIGN | ObjectAttributes.ENCRYPTED_DUPLICATION


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationKey:
    """The public half of a key with the attributes of an attestation key."""

    key: rsa.RSAPublicKey
    name: bytes


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Offer:
    """Two keys that may live in one TPM, and the secret that only that TPM can open."""

    endorsed: EndorsedKey
    key: AttestationKey
    secret: bytes
    credential_blob: bytes  # TPM2B_ID_OBJECT
    encrypted_secret: bytes  # TPM2B_ENCRYPTED_SECRET


class Enrolments:
    """At most ``limit`` offers that wait for their secret; the oldest give way. Belongs to the event loop."""

    __slots__ = ("_life", "_limit", "_pending")

    def __init__(self, *, limit: int, life: timedelta) -> None:
        self._limit = limit
        self._life = life
        self._pending: OrderedDict[bytes, tuple[Offer, datetime]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pending)

    def open(self, offer: Offer, *, now: datetime) -> str:
        """Return the session in which the secret of ``offer`` is to come back."""
        while self._pending:
            _, expires_at = next(iter(self._pending.values()))
            if expires_at > now and len(self._pending) < self._limit:
                break
            self._pending.popitem(last=False)
        session = secrets.token_hex(_SESSION_BYTES)
        self._pending[_key(session)] = (offer, now + self._life)
        return session

    def close(self, session: str, secret: bytes, *, now: datetime) -> Offer:
        """Return the offer whose secret came back; right or wrong, its session is over.

        Raises:
            NotGenuine: no such enrolment (``enrolment.unknown``), or another secret (``enrolment.secret``).
        """
        found = self._pending.pop(_key(session), None)
        if found is None or found[1] <= now:
            raise NotGenuine("there is no such enrolment, or it has expired", code="enrolment.unknown")
        offer, _ = found
        if not hmac.compare_digest(offer.secret, secret):
            raise NotGenuine(
                "the secret is not the one that this TPM would have opened", code="enrolment.secret"
            )
        return offer


def offer(message: Enrolment, endorsers: Sequence[Endorser], *, now: datetime) -> Offer:
    """Return both keys of ``message``, checked, and a new secret for the TPM that holds them.

    Raises:
        NotGenuine: the endorsement key is nobody's we know, or the other is no attestation key.
        Malformed, Unsupported: not the structures they should be.
    """
    endorsed = endorsed_key(message.ek_certificate, endorsers, now=now)
    key = attestation_key(message.ak_public_area)
    secret = secrets.token_bytes(_SECRET_BYTES)
    blob, encrypted = make_credential(endorsed.key, key.name, secret)
    return Offer(endorsed=endorsed, key=key, secret=secret, credential_blob=blob, encrypted_secret=encrypted)


def attestation_key(public_area: bytes) -> AttestationKey:
    """Return the key in a TPM2B_PUBLIC when its attributes make it an attestation key.

    Raises:
        NotGenuine: its attributes let it sign foreign data, decrypt, or leave the TPM (``ak.attributes``).
        Unsupported: not RSA-2048 with RSASSA and SHA-256, which is what Trustee's verifier takes.
        Malformed: not a TPM2B_PUBLIC.
    """
    public = tpm.parse_sized_public(public_area)
    missing, extra = _REQUIRED & ~public.attributes, _FORBIDDEN & public.attributes
    if missing or extra:
        want = f"{_names(_REQUIRED)}, and none of {_names(_FORBIDDEN)}"
        finding = Finding("ak.attributes", "objectAttributes", want, _names(public.attributes))
        raise NotGenuine(f"attestation key: {finding.message}", findings=[finding])
    scheme = (public.scheme.algorithm, public.scheme.hash_algorithm, public.name_algorithm)
    if not isinstance(public.key, tpm.RsaKey) or scheme != (tpm.ALG_RSASSA, tpm.ALG_SHA256, tpm.ALG_SHA256):
        want = "RSA with RSASSA, SHA-256 and nameAlg SHA-256"
        got = f"{type(public.key).__name__} with {', '.join(f'{part or 0:04x}' for part in scheme)}"
        raise Unsupported("attestation key", at="scheme", want=want, got=got)
    if public.key.bits != _AK_BITS:
        raise Unsupported("attestation key", at="keyBits", want=f"{_AK_BITS}", got=f"{public.key.bits}")
    numbers = rsa.RSAPublicNumbers(public.key.exponent, public.key.modulus)
    try:
        return AttestationKey(key=numbers.public_key(), name=public.name)
    except ValueError as error:
        raise Unsupported("attestation key", at="unique", want="an RSA public key", got=str(error)) from None


def _names(attributes: ObjectAttributes) -> str:
    return " ".join(str(flag.name) for flag in ObjectAttributes if flag & attributes) or "none"


def _key(session: str) -> bytes:
    """Return what a session is looked up by: no time of the look-up depends on how much of it is right."""
    return hashlib.sha256(session.encode("utf-8", "surrogatepass")).digest()

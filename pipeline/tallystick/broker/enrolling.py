"""Enrolment: proof that an attestation key lives in the TPM of a certified endorsement key.

Two messages: a secret that only that TPM can open, and the secret back. What follows is a short-lived
certificate of the attestation key. Nothing is remembered between the two; a session has one attempt.

Source: TPM 2.0 Part 1, §24; Part 2, §8.3 (object attributes); TCG TPM 2.0 Keys for Device Identity and
Attestation, §5 (enrolment of an attestation key).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import rsa

from tallystick.broker.credential import make_credential
from tallystick.broker.endorsement import endorsed_key
from tallystick.broker.sessions import mac
from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import NotGenuine, Unsupported
from tallystick.core.findings import Finding
from tallystick.formats import tpm
from tallystick.formats.tpm import ObjectAttributes
from tallystick.handshake.kbs import Enrolment, EnrolmentChallenge
from tallystick.signing.records import Endorser

_MAC_BYTES = 16
_STAMP_BYTES = 5  # seconds since 1970-01-01T00:00:00Z
_NAME_BYTES = 8  # no two enrolments have one text
_EXPONENT_BYTES = 4  # TPMS_RSA_PARMS.exponent
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """An attestation key that has been proven to live in one TPM with an endorsed key."""

    label: str  # of the TPM's manufacturer
    ek_certificate: Digest
    key: rsa.RSAPublicKey


class Enrolments:
    """Enrolments that wait for their secret, each of them nowhere but in its session's text, under a MAC.

    The secret is a MAC of that text, so that no process has to remember it, and any of them can compare it.
    """

    __slots__ = ("_key", "_life")

    def __init__(self, key: bytes, *, life: timedelta) -> None:
        """Hold the broker's key for MACs."""
        self._key = key
        self._life = life

    def open(self, message: Enrolment, endorsers: Sequence[Endorser], *, now: datetime) -> EnrolmentChallenge:
        """Return a new secret for the TPM that holds both keys of ``message``, which have been checked.

        Raises:
            NotGenuine: the endorsement key is nobody's we know, or the other is no attestation key.
            Malformed, Unsupported: not the structures they should be.
        """
        endorsed = endorsed_key(message.ek_certificate, endorsers, now=now)
        key = attestation_key(message.ak_public_area)
        until = int((now + self._life).timestamp())
        body = _write(Enrolled(label=endorsed.label, ek_certificate=endorsed.certificate, key=key.key), until)
        blob, encrypted = make_credential(endorsed.key, key.name, self._secret(body))
        session = base64.urlsafe_b64encode(self._mac(body) + body).decode("ascii").rstrip("=")
        return EnrolmentChallenge(credential_blob=blob, encrypted_secret=encrypted, session=session)

    def close(self, session: str, secret: bytes, *, now: datetime) -> Enrolled:
        """Return the enrolment whose secret came back. The caller uses up what :func:`spent` gives for it.

        Raises:
            NotGenuine: no such enrolment (``enrolment.unknown``), or another secret (``enrolment.secret``).
        """
        body = self._body(session)
        if body is None or int.from_bytes(body[:_STAMP_BYTES], "big") <= now.timestamp():
            raise NotGenuine("there is no such enrolment, or it has expired", code="enrolment.unknown")
        if not hmac.compare_digest(self._secret(body), secret):
            raise NotGenuine(
                "the secret is not the one that this TPM would have opened", code="enrolment.secret"
            )
        return _read(body)

    def _body(self, session: str) -> bytes | None:
        try:
            data = base64.b64decode(session + "=" * (-len(session) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        if base64.urlsafe_b64encode(data).decode("ascii").rstrip("=") != session:
            return None  # one spelling each: it is used up by its text
        body = data[_MAC_BYTES:]
        return body if hmac.compare_digest(data[:_MAC_BYTES], self._mac(body)) else None

    def _mac(self, body: bytes) -> bytes:
        return mac(self._key, b"tallystick/enrolment/v1", body)[:_MAC_BYTES]

    def _secret(self, body: bytes) -> bytes:
        return mac(self._key, b"tallystick/enrolment-secret/v1", body)


def spent(session: str) -> bytes:
    """Return what the store remembers when an enrolment's only attempt was made."""
    return hashlib.sha256(b"enrolment " + session.encode("utf-8", "surrogatepass")).digest()


def _write(enrolled: Enrolled, until: int) -> bytes:
    """Return what a session's text carries: so little that the text has 512 characters at most (handshake/kbs.py)."""
    numbers = enrolled.key.public_numbers()
    return b"".join(
        (
            until.to_bytes(_STAMP_BYTES, "big"),
            secrets.token_bytes(_NAME_BYTES),
            enrolled.ek_certificate.value,
            numbers.e.to_bytes(_EXPONENT_BYTES, "big"),
            numbers.n.to_bytes(_AK_BITS // 8, "big"),
            enrolled.label.encode(),
        )
    )


def _read(body: bytes) -> Enrolled:
    """Return the enrolment that :func:`_write` wrote."""
    rest = body[_STAMP_BYTES + _NAME_BYTES :]
    digest, rest = rest[:32], rest[32:]
    exponent, rest = int.from_bytes(rest[:_EXPONENT_BYTES], "big"), rest[_EXPONENT_BYTES:]
    modulus, label = int.from_bytes(rest[: _AK_BITS // 8], "big"), rest[_AK_BITS // 8 :]
    key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    return Enrolled(label=label.decode(), ek_certificate=Digest(Algorithm.SHA256, digest), key=key)


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

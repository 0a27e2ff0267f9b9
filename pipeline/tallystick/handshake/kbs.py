"""The messages of the KBS protocol 0.4.0, typed, plus our own enrolment of an attestation key.

Read strictly where a field matters, and blind to fields that another implementation added.

Source: confidential-containers/trustee, kbs/docs/kbs_attestation_protocol.md; kbs/src/attestation/backend.rs
(the version must be exactly this one); confidential-containers/guest-components, kbs_protocol/src/client.
Our extensions are written down in docs/evidence-tpm.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Unsupported
from tallystick.core.findings import Finding
from tallystick.handshake.fields import Fields, b64
from tallystick.handshake.teekey import TeePublicKey

PROTOCOL_VERSION = "0.4.0"
AUTH_PATH = "/kbs/v0/auth"
ATTEST_PATH = "/kbs/v0/attest"
RESOURCE_PATH = "/kbs/v0/resource/"
ENROL_PATH = "/tally/v0/enrol"
ACTIVATE_PATH = "/tally/v0/enrol/activate"
RENEW_PATH = "/tally/v0/leases/renew"
RETURN_PATH = "/tally/v0/leases/return"
TOKEN_PATH = "/tally/v0/token"  # noqa: S105 - a path
SESSION_COOKIE = "kbs-session-id"
ERROR_TYPE = "https://github.com/confidential-containers/kbs/errors/"
HASH_ALGORITHMS = ("sha256", "sha384", "sha512")
MAX_MESSAGE_BYTES = 1 << 20

# repository/type/tag, in the characters that Trustee's resource plugin accepts
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*){2}")


def encode(document: object) -> bytes:
    """Return a message as the bytes that are sent."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def _fields(data: bytes, what: str) -> Fields:
    return Fields(jsondoc.loads(data, what, max_bytes=MAX_MESSAGE_BYTES), what)


def lease_states(data: bytes, key: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the state and the reasons of each lease of ``key`` in a broker's answer to a renewal.

    Raises:
        Malformed: not such an answer.
    """
    rows = _fields(data, "renewed leases").raw("leases")
    if not isinstance(rows, list):
        raise Malformed("renewed leases", at="leases", want="an array", got=type(rows).__name__)
    found = [Fields(row, "renewed leases") for row in rows]
    return tuple(
        (row.text("state"), tuple(map(str, row.raw("reasons") or ())))
        for row in found
        if row.text("key") == key
    )


def check_key(key: str) -> str:
    """Return ``key`` when it is a resource path, ``repository/type/tag``.

    Raises:
        Malformed: it is not.
    """
    if len(key) > 256 or not _KEY.fullmatch(key):
        raise Malformed("key", at="path", want="repository/type/tag", got=repr(key))
    return key


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Step 1, client to broker: what the client is, and which hashes it can bind with."""

    tee: str
    hash_algorithms: tuple[str, ...] = HASH_ALGORITHMS

    def document(self) -> dict[str, object]:
        """Return the message as a JSON object."""
        params = {"supported-hash-algorithms": list(self.hash_algorithms)}
        return {"version": PROTOCOL_VERSION, "tee": self.tee, "extra-params": params}

    @classmethod
    def parse(cls, data: bytes) -> Request:
        """Return the request in ``data``.

        Raises:
            Malformed: not a request.
            Unsupported: another protocol version; Trustee too takes exactly one.
        """
        fields = _fields(data, "KBS request")
        version = fields.text("version", max_characters=40)
        if version != PROTOCOL_VERSION:
            raise Unsupported("KBS request", at="version", want=PROTOCOL_VERSION, got=version)
        extra = fields.raw("extra-params")
        names = extra.get("supported-hash-algorithms") if isinstance(extra, dict) else None
        if names is None:
            return cls(tee=fields.text("tee", max_characters=40), hash_algorithms=())
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise fields.bad("supported-hash-algorithms", want="an array of strings", got="something else")
        lowered = tuple(name.lower() for name in names)
        return cls(tee=fields.text("tee", max_characters=40), hash_algorithms=lowered)


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """Step 2, broker to client: the nonce, and the hash that binds it."""

    nonce: str  # base64 of random bytes; used as the string it is
    hash_algorithm: str | None = None  # None: the broker did not say

    def document(self) -> dict[str, object]:
        """Return the message as a JSON object."""
        chosen = self.hash_algorithm
        return {"nonce": self.nonce, "extra-params": {"selected-hash-algorithm": chosen} if chosen else ""}

    @classmethod
    def parse(cls, data: bytes) -> Challenge:
        """Return the challenge in ``data``.

        Raises:
            Malformed: not a challenge.
            Unsupported: the broker chose a hash that we do not have.
        """
        fields = _fields(data, "KBS challenge")
        extra = fields.raw("extra-params")
        chosen = extra.get("selected-hash-algorithm") if isinstance(extra, dict) else None
        if chosen is not None and (not isinstance(chosen, str) or chosen.lower() not in HASH_ALGORITHMS):
            want = "one of " + ", ".join(HASH_ALGORITHMS)
            raise Unsupported("KBS challenge", at="selected-hash-algorithm", want=want, got=repr(chosen))
        algorithm = chosen.lower() if isinstance(chosen, str) else None
        return cls(nonce=fields.text("nonce", max_characters=4096), hash_algorithm=algorithm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """Step 3, client to broker: the evidence and what it is bound to."""

    nonce: str
    tee_pubkey: TeePublicKey
    primary_evidence: Any  # the attester's own JSON; evidence/ reads it
    additional_evidence: str = ""  # a JSON text of its own: {"nvidia": {…}}
    init_data: str | None = None  # the TOML text

    def document(self) -> dict[str, object]:
        """Return the message as a JSON object."""
        message: dict[str, object] = {
            "runtime-data": {"nonce": self.nonce, "tee-pubkey": self.tee_pubkey.document()},
            "tee-evidence": {
                "primary_evidence": self.primary_evidence,
                "additional_evidence": self.additional_evidence,
            },
        }
        if self.init_data is not None:
            message["init-data"] = {"format": "toml", "body": self.init_data}
        return message

    @classmethod
    def parse(cls, data: bytes) -> Attestation:
        """Return the attestation in ``data``.

        Raises:
            Malformed: not an attestation.
            Unsupported: init-data in another format than TOML, which Trustee's own service refuses too.
        """
        fields = _fields(data, "KBS attestation")
        runtime, evidence = fields.child("runtime-data"), fields.child("tee-evidence")
        init_data = None
        if fields.has("init-data"):
            given = fields.child("init-data")
            if given.text("format") != "toml":
                raise Unsupported("KBS attestation", at="init-data", want="toml", got=given.text("format"))
            init_data = given.text("body")
        if not evidence.has("primary_evidence"):
            raise evidence.bad("primary_evidence", want="evidence", got="nothing")
        return cls(
            nonce=runtime.text("nonce", max_characters=4096),
            tee_pubkey=TeePublicKey.parse(runtime.raw("tee-pubkey")),
            primary_evidence=evidence.raw("primary_evidence"),
            additional_evidence=evidence.text("additional_evidence"),
            init_data=init_data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """Step 4, broker to client: the attestation result (an EAR, as a JWT)."""

    token: str

    def document(self) -> dict[str, object]:
        """Return the message as a JSON object."""
        return {"token": self.token}

    @classmethod
    def parse(cls, data: bytes) -> Token:
        """Return the token message in ``data``."""
        return cls(token=_fields(data, "KBS token").text("token"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDocument:
    """What the broker answers when it will not do what was asked.

    What follows ``detail`` is our extension: what failed, so far as the broker tells a client.
    """

    kind: str  # the last part of the type: "PolicyDeny"
    detail: str
    code: str = ""  # a stable code: "tpm.pcr04.mismatch"
    decision: str = ""  # names the decision in the broker's own records, where the operator sees all of it
    findings: tuple[Finding, ...] = ()

    def document(self) -> dict[str, object]:
        """Return the message as a JSON object."""
        message: dict[str, object] = {"type": ERROR_TYPE + self.kind, "detail": self.detail}
        for name, value in (("code", self.code), ("decision", self.decision)):
            if value:
                message[name] = value
        if self.findings:
            message["findings"] = [finding.document() for finding in self.findings]
        return message

    @classmethod
    def parse(cls, data: bytes) -> ErrorDocument:
        """Return the error in ``data``.

        Raises:
            Malformed: not an error document.
        """
        fields = _fields(data, "KBS error")
        return cls(
            kind=fields.text("type", max_characters=512).removeprefix(ERROR_TYPE),
            detail=fields.text("detail"),
            code=_optional(fields, "code"),
            decision=_optional(fields, "decision"),
            findings=tuple(_findings(fields.raw("findings"))),
        )


def _optional(fields: Fields, name: str) -> str:
    return fields.text(name, max_characters=512) if fields.has(name) else ""


def _findings(value: Any) -> Iterable[Finding]:
    for entry in value if isinstance(value, list) else []:
        fields = Fields(entry, "KBS error finding")
        code, where, want, got = (_optional(fields, name) for name in ("code", "where", "want", "got"))
        yield Finding(code, where, want, got)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """Our own endpoint, client to broker: which TPM, and which attestation key in it."""

    ek_certificate: bytes  # DER
    ak_public_area: bytes  # TPM2B_PUBLIC, its size included

    def document(self) -> dict[str, object]:
        """Return the message as a JSON object."""
        return {"ek_certificate": b64(self.ek_certificate), "ak_public_area": b64(self.ak_public_area)}

    @classmethod
    def parse(cls, data: bytes) -> Enrolment:
        """Return the enrolment in ``data``."""
        fields = _fields(data, "enrolment")
        return cls(
            ek_certificate=fields.base64("ek_certificate", max_bytes=16384),
            ak_public_area=fields.base64("ak_public_area", max_bytes=4096),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentChallenge:
    """Broker to client: a secret that only the TPM which holds both keys can open."""

    credential_blob: bytes  # TPM2B_ID_OBJECT, its size included
    encrypted_secret: bytes  # TPM2B_ENCRYPTED_SECRET, its size included
    session: str

    def document(self) -> dict[str, object]:
        """Return the message as a JSON object."""
        blob, secret = b64(self.credential_blob), b64(self.encrypted_secret)
        return {"credential_blob": blob, "encrypted_secret": secret, "session": self.session}

    @classmethod
    def parse(cls, data: bytes) -> EnrolmentChallenge:
        """Return the challenge in ``data``."""
        fields = _fields(data, "enrolment challenge")
        return cls(
            credential_blob=fields.base64("credential_blob", max_bytes=4096),
            encrypted_secret=fields.base64("encrypted_secret", max_bytes=4096),
            session=fields.text("session", max_characters=512),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """Client to broker: the secret, opened."""

    session: str
    secret: bytes

    def document(self) -> dict[str, object]:
        """Return the message as a JSON object."""
        return {"session": self.session, "secret": b64(self.secret)}

    @classmethod
    def parse(cls, data: bytes) -> Activation:
        """Return the activation in ``data``."""
        fields = _fields(data, "enrolment activation")
        session = fields.text("session", max_characters=512)
        return cls(session=session, secret=fields.base64("secret", max_bytes=256))


@dataclass(frozen=True, slots=True, kw_only=True)
class AkCertificate:
    """Broker to client: the short-lived certificate of the attestation key."""

    ak_certificate: bytes  # DER

    def document(self) -> dict[str, object]:
        """Return the message as a JSON object."""
        return {"ak_certificate": b64(self.ak_certificate)}

    @classmethod
    def parse(cls, data: bytes) -> AkCertificate:
        """Return the certificate message in ``data``."""
        return cls(ak_certificate=_fields(data, "enrolment answer").base64("ak_certificate", max_bytes=16384))

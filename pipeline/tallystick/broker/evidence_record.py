"""Evidence as it was sent, with what it was verified with: enough to verify it again, as of its time.

Two documents. One for each attestation: the session's nonce and the message, byte for byte. One for each set of
endorsements, which thousands of attestations share: whom the broker believed, and the files it held.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tallystick.broker.decisions import instant
from tallystick.broker.proving import Backing, Proven, prove
from tallystick.broker.sessions import Attested, Session
from tallystick.core import jsondoc
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.core.jsondoc import canonical
from tallystick.evidence.endorsements import Endorsements, TrustedKey
from tallystick.handshake.fields import Fields, b64, unb64
from tallystick.handshake.kbs import Attestation
from tallystick.signing.records import Endorser

SCHEMA = "tallystick/recorded-evidence/v1"
BACKING_SCHEMA = "tallystick/evidence-backing/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvidence:
    """What one session proved, as it came."""

    attestation: str  # the identifier of the attestation's decision
    at: datetime  # when it was verified
    tee: str  # the KBS protocol's name for what it is evidence of
    nonce: str
    issued_at: datetime  # when the nonce was given out
    message: bytes  # the attestation message, as it was sent
    backing: Digest  # of the document of what it was verified with


def write(kept: RecordedEvidence) -> bytes:
    """Return the document of ``kept``."""
    return canonical(
        {
            "schema": SCHEMA,
            "attestation": kept.attestation,
            "at": instant(kept.at),
            "tee": kept.tee,
            "nonce": kept.nonce,
            "issued_at": instant(kept.issued_at),
            "message": kept.message.decode("utf-8"),
            "backing": str(kept.backing),
        }
    )


def read(data: bytes) -> RecordedEvidence:
    """Return what :func:`write` wrote.

    Raises:
        Malformed: another form. Unsupported: another schema.
    """
    fields = _document(data, "recorded evidence", SCHEMA)
    return RecordedEvidence(
        attestation=fields.text("attestation", max_characters=80),
        at=_time(fields, "at"),
        tee=fields.text("tee", max_characters=40),
        nonce=fields.text("nonce", max_characters=4096),
        issued_at=_time(fields, "issued_at"),
        message=fields.text("message", max_characters=16 << 20).encode("utf-8", "surrogatepass"),
        backing=Digest.parse(fields.text("backing", max_characters=100)),
    )


def write_backing(backing: Backing) -> bytes:
    """Return the document of what evidence is verified with. Equal backings give equal bytes."""
    believed = backing.authorities
    return canonical(
        {
            "schema": BACKING_SCHEMA,
            "endorsers": [
                {
                    "kind": one.kind,
                    "label": one.label,
                    "spki": str(one.spki),
                    "certificates": [b64(der) for der in one.certificates],
                }
                for one in believed.endorsers
            ],
            "keys": [{"label": one.label, "spki": b64(one.spki)} for one in believed.keys],
            "intermediates": [b64(der) for der in believed.collateral],
            "files": [b64(data) for data in backing.collateral],
        }
    )


def read_backing(data: bytes) -> Backing:
    """Return what :func:`write_backing` wrote; errors as :func:`read`."""
    what = "evidence backing"
    fields = _document(data, what, BACKING_SCHEMA)
    endorsers = tuple(
        Endorser(
            kind=one.text("kind"),
            label=one.text("label"),
            spki=Digest.parse(one.text("spki")),
            certificates=_bytes(one.raw("certificates"), what, "certificates"),
        )
        for one in _rows(fields.raw("endorsers"), what)
    )
    keys = tuple(
        TrustedKey(label=one.text("label"), spki=one.base64("spki"))
        for one in _rows(fields.raw("keys"), what)
    )
    return Backing(
        authorities=Endorsements(
            endorsers=endorsers,
            keys=keys,
            collateral=_bytes(fields.raw("intermediates"), what, "intermediates"),
        ),
        collateral=_bytes(fields.raw("files"), what, "files"),
    )


def prove_again(kept: RecordedEvidence, backing: Backing) -> Attested:
    """Return what ``kept`` proves as of the moment it was verified, by the verifier of today.

    Raises:
        NotGenuine, Malformed, Unsupported: it does not hold any more; a newer verifier asks for more.
    """
    session = Session(tee=kept.tee, nonce=kept.nonce, issued_at=kept.issued_at, expires_at=kept.at, name=b"")
    proven: Proven = prove(session, Attestation.parse(kept.message), backing, now=kept.at)
    return Attested(
        attestation=kept.attestation,
        claims=proven.claims,
        challenge=proven.challenge,
        public_key=proven.public_key,
    )


def _document(data: bytes, what: str, schema: str) -> Fields:
    fields = Fields(jsondoc.loads(data, what), what)
    if (found := fields.text("schema", max_characters=200)) != schema:
        raise Unsupported(what, at="schema", want=schema, got=found)
    return fields


def _rows(value: Any, what: str) -> list[Fields]:
    if not isinstance(value, list):
        raise Malformed(what, at="document", want="lists of objects", got=type(value).__name__)
    return [Fields(one, what) for one in value]


def _bytes(value: Any, what: str, name: str) -> tuple[bytes, ...]:
    try:
        if isinstance(value, list):
            return tuple(unb64(text) for text in value)
    except (ValueError, AttributeError):
        pass
    raise Malformed(what, at=name, want="a list of base64 texts", got=type(value).__name__)


def _time(fields: Fields, name: str) -> datetime:
    text = fields.text(name, max_characters=40)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise fields.bad(name, want="an RFC 3339 time", got=text)
    return found

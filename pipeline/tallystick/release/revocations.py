"""Revocations: one person's signed word against a release, which nobody else can take back.

The target ``revocations/<person>/<release>.json`` of that person's own role; docs/decisions/0063-revocation.md.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine
from tallystick.core.findings import Finding
from tallystick.release import metadata, roles
from tallystick.release.metadata import Read, State
from tallystick.release.records import HighWater, Revocation

SCHEMA = "tallystick/revocation/v1"
_WHAT = "revocation"
_FIELDS = ("at", "by", "reason", "release", "schema")
_MAX_BYTES = 16 << 10


def path_of(revocation: Revocation) -> str:
    """Return the target path of ``revocation``."""
    return f"revocations/{revocation.by}/{revocation.release.hex}.json"


def write(revocation: Revocation) -> bytes:
    """Return ``revocation`` as RFC 8785 bytes."""
    import rfc8785

    return rfc8785.dumps(
        {
            "schema": SCHEMA,
            "release": str(revocation.release),
            "by": revocation.by,
            "reason": revocation.reason,
            "at": revocation.at.astimezone(UTC).strftime(roles.TIME),
        }
    )


def parse(data: bytes, path: str) -> Revocation:
    """Return the revocation in the target at ``path``.

    Raises:
        Malformed: not one, or under another path than its own.
    """
    document: Any = jsondoc.loads(data, _WHAT, max_bytes=_MAX_BYTES)
    if not isinstance(document, dict) or sorted(document) != sorted(_FIELDS):
        raise Malformed(_WHAT, at=path, want=", ".join(_FIELDS), got=repr(document))
    if not all(isinstance(value, str) and value and value.isprintable() for value in document.values()):
        raise Malformed(_WHAT, at=path, want="printable texts", got=repr(document))
    if document["schema"] != SCHEMA:
        raise Malformed(_WHAT, at=f"{path} schema", want=SCHEMA, got=document["schema"])
    try:
        at = datetime.strptime(document["at"], roles.TIME).replace(tzinfo=UTC)
    except ValueError:
        raise Malformed(_WHAT, at=f"{path} at", want="YYYY-MM-DDTHH:MM:SSZ", got=document["at"]) from None
    found = Revocation(
        release=Digest.parse(document["release"]), by=document["by"], reason=document["reason"], at=at
    )
    if path_of(found) != path:
        raise Malformed(_WHAT, at="path", want=path_of(found), got=path)
    return found


def of_state(read: Read, state: State, seen: HighWater) -> tuple[Revocation, ...]:
    """Return every revocation of a channel, sorted by release and person.

    Raises:
        NotGenuine: one that was seen before is gone (``release.channel.revocation-undone``).
    """
    found = []
    for person in state.people:
        signed = state.delegated[roles.revocations_of(person.name)].signed
        found += [parse(metadata.target(read, signed, path), path) for path in sorted(signed.targets)]
    revoked = {str(revocation.release) for revocation in found}
    undone = sorted(set(seen.revoked) - revoked)
    if undone:
        findings = [
            Finding("release.channel.revocation-undone", digest, want="still revoked", got="no revocation")
            for digest in undone
        ]
        raise NotGenuine("a revocation that was seen before is gone", findings=findings)
    return tuple(sorted(found, key=lambda revocation: (str(revocation.release), revocation.by)))

"""High-water marks of channels in files of their own, apart from the channels: they only ever rise.

A restored backup of a channel does not bring its marks along, and so does not undo what was seen.
"""

from __future__ import annotations

import fcntl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Unreachable
from tallystick.core.files import read_file, write_file
from tallystick.release.records import HighWater

SCHEMA = "tallystick/high-water/v1"
_WHAT = "high-water mark"
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_MAX_BYTES = 4 << 20
_ONLINE = ("snapshot", "timestamp")


def load(path: Path) -> HighWater:
    """Return the mark in ``path``; an empty one when nothing was seen yet.

    Raises:
        Malformed: not a mark that :func:`keep` wrote.
    """
    if not path.exists():
        return HighWater()
    return parse(read_file(path, _WHAT, max_bytes=_MAX_BYTES))


def keep(path: Path, mark: HighWater) -> None:
    """Raise the mark in ``path`` to ``mark``; what is higher there already stays."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.with_suffix(".lock").open("ab")
    except OSError as error:
        raise Unreachable(f"{path}: {error.strerror}", code="file.unwritable") from None
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        write_file(path, write(higher(load(path), mark)))


def higher(one: HighWater, other: HighWater) -> HighWater:
    """Return the higher of two marks, role by role.

    Snapshot and timestamp count under their root: what was seen under an earlier one may be of a key that was
    exchanged since (TUF 5.3.11), and :func:`metadata.verify` has held the later mark to it where it was not.
    """
    first, second = sorted((one, other), key=lambda mark: mark.version("root"))
    later = first.version("root") < second.version("root")
    versions = {role: at for role, at in first.versions if not (later and role in _ONLINE)}
    for role, version in second.versions:
        versions[role] = max(version, versions.get(role, 0))
    instants = [at for at in (one.at, other.at) if at is not None]
    return HighWater(
        versions=tuple(sorted(versions.items())),
        revoked=tuple(sorted({*one.revoked, *other.revoked})),
        at=max(instants, default=None),
    )


def write(mark: HighWater) -> bytes:
    """Return ``mark`` as RFC 8785 bytes."""
    import rfc8785

    document: dict[str, Any] = {
        "schema": SCHEMA,
        "versions": dict(mark.versions),
        "revoked": list(mark.revoked),
        "at": None if mark.at is None else mark.at.astimezone(UTC).strftime(_TIME),
    }
    return rfc8785.dumps(document)


def parse(data: bytes) -> HighWater:
    """Return the mark that ``data`` is.

    Raises:
        Malformed: not one.
    """
    document: Any = jsondoc.loads(data, _WHAT, max_bytes=_MAX_BYTES)
    if not isinstance(document, dict) or sorted(document) != ["at", "revoked", "schema", "versions"]:
        raise Malformed(_WHAT, at="fields", want="at, revoked, schema, versions", got=repr(document))
    versions, revoked, at = document["versions"], document["revoked"], document["at"]
    if document["schema"] != SCHEMA:
        raise Malformed(_WHAT, at="schema", want=SCHEMA, got=repr(document["schema"]))
    if not isinstance(versions, dict) or not all(
        isinstance(version, int) and not isinstance(version, bool) and version >= 0
        for version in versions.values()
    ):
        raise Malformed(_WHAT, at="versions", want="versions by role", got=repr(versions))
    if not isinstance(revoked, list) or not all(isinstance(text, str) for text in revoked):
        raise Malformed(_WHAT, at="revoked", want="release digests", got=repr(revoked))
    try:
        moment = None if at is None else datetime.strptime(at, _TIME).replace(tzinfo=UTC)
    except (TypeError, ValueError):
        raise Malformed(_WHAT, at="at", want="YYYY-MM-DDTHH:MM:SSZ", got=repr(at)) from None
    return HighWater(versions=tuple(sorted(versions.items())), revoked=tuple(sorted(set(revoked))), at=moment)

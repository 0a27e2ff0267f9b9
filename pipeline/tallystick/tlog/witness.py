"""A witness: signs a log's checkpoint only when it grew from the one it signed before. It keeps no leaves.

Source: C2SP tlog-witness (add-checkpoint) and tlog-cosignature.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, NotGenuine, TallystickError
from tallystick.core.files import read_file, write_file
from tallystick.formats import canonical_base64
from tallystick.tlog import checkpoint as cp
from tallystick.tlog import merkle
from tallystick.tlog.mark import Head

SIZE_TYPE = "text/x.tlog.size"
MAX_REQUEST_BYTES = 1 << 20
_MAX_PROOF = 63  # tlog-witness
_WHAT = "add-checkpoint request"
_MAX_STATE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a log's client asks of a witness."""

    old_size: int  # what it thinks that the witness has seen
    proof: tuple[bytes, ...]
    note: cp.SignedNote


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An HTTP status with its body."""

    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"


def write_request(old_size: int, proof: Sequence[bytes], note: str) -> bytes:
    """Return the body of an add-checkpoint request."""
    lines = [f"old {old_size}", *map(canonical_base64.encode, proof)]
    return ("\n".join(lines) + "\n\n" + note).encode()


def parse_request(data: bytes) -> Request:
    """Return the request that ``data`` spells.

    Raises:
        Malformed: not one.
    """
    try:
        head, blank, note = data[: MAX_REQUEST_BYTES + 1].decode().partition("\n\n")
    except UnicodeDecodeError:
        raise Malformed(_WHAT, at="body", want="UTF-8", got="other bytes") from None
    first, *hashes = head.split("\n")
    match = re.fullmatch(r"old (0|[1-9][0-9]{0,17})", first)
    if match is None or not blank or len(hashes) > _MAX_PROOF or len(data) > MAX_REQUEST_BYTES:
        raise Malformed(_WHAT, at="body", want="old <size>, hashes, a blank line and a note", got=repr(head))
    proof = tuple(canonical_base64.decode(text, _WHAT, "proof") for text in hashes)
    return Request(old_size=int(match[1]), proof=proof, note=cp.parse_note(note))


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """A witness whose memory is a folder: ``seen.json`` holds the last head of each log."""

    name: str
    key: ed25519.Ed25519PrivateKey
    logs: tuple[tuple[str, cp.NoteKey], ...]  # origin, or the host in front of " - <tree>" -> key of that log
    folder: Path

    def add_checkpoint(self, body: bytes, now: datetime) -> Reply:
        """Return the cosignature, once the new head is remembered durably; or why there is none."""
        try:
            request = parse_request(body)
            checkpoint = cp.parse(request.note.text)
        except TallystickError as error:
            return Reply(status=400, body=f"{error.message}\n")
        names = {checkpoint.origin, checkpoint.origin.partition(" - ")[0]}
        known = [key for origin, key in self.logs if origin in names]
        if not known:
            return Reply(status=404, body="the witness does not know this log\n")
        try:
            cp.verify(request.note, known[0])
        except NotGenuine as error:
            return Reply(status=403, body=f"{error.message}\n")
        if request.old_size > checkpoint.size:
            return Reply(status=400, body="the old size is larger than the checkpoint's\n")
        with self._locked():
            seen = self._seen()
            last = seen.get(checkpoint.origin)
            refused = _grown(last, request, checkpoint)
            if refused is not None:
                return refused
            seen[checkpoint.origin] = Head(size=checkpoint.size, root=checkpoint.root)
            self._remember(seen)
        line = cp.cosign(request.note.text, self.name, self.key, now)
        return Reply(status=200, body=str(cp.SignedNote(text="", signatures=(line,))).lstrip("\n"))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / "lock").open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _seen(self) -> dict[str, Head]:
        path = self.folder / "seen.json"
        if not path.is_file():
            return {}
        document = jsondoc.loads(read_file(path, "witness", max_bytes=_MAX_STATE_BYTES), "witness")
        return {
            origin: Head(size=int(head["size"]), root=bytes.fromhex(head["root"]))
            for origin, head in document.items()
        }

    def _remember(self, seen: dict[str, Head]) -> None:
        document = {origin: {"size": head.size, "root": head.root.hex()} for origin, head in seen.items()}
        write_file(self.folder / "seen.json", jsondoc.dumps(document), mode=0o600)


def _grown(last: Head | None, request: Request, checkpoint: cp.Checkpoint) -> Reply | None:
    """Return why ``checkpoint`` does not follow from the ``last`` head; None when it does."""
    size = last.size if last is not None else 0
    if request.old_size != size:
        return Reply(status=409, body=f"{size}\n", content_type=SIZE_TYPE)
    if last is None or size == 0:
        return Reply(status=422, body="a first checkpoint needs no proof\n") if request.proof else None
    if size == checkpoint.size and checkpoint.root != last.root:
        return Reply(status=409, body=f"{size}\n", content_type=SIZE_TYPE)
    try:
        merkle.verify_consistency(size, last.root, checkpoint.size, checkpoint.root, request.proof)
    except NotGenuine as error:
        return Reply(status=422, body=f"{error.message}\n")
    return None

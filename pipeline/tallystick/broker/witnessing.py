"""The broker's log under the eyes of witnesses: a log that is shorter than what one of them has seen, or another one,
is a restored backup or a forgery, and the broker does not work on it.

Source: C2SP tlog-witness, "add-checkpoint".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tallystick.broker.leaflog import LeafLog
from tallystick.broker.logkey import LogKey
from tallystick.broker.store import Store
from tallystick.core.errors import NotGenuine
from tallystick.core.findings import Finding
from tallystick.signing.records import Witness
from tallystick.tlog import checkpoint as cp
from tallystick.tlog import witness_http


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A checkpoint with the lines of the witnesses under it."""

    size: int
    note: str


class Witnessing:
    """Shows the log's head to every witness, at the start and again and again. Safe for threads."""

    __slots__ = ("_key", "_latest", "_lock", "_store", "_trouble", "_trusted", "_urls")

    def __init__(self, store: Store, key: LogKey, *, urls: Sequence[str], trusted: Sequence[Witness]) -> None:
        """Hold who is asked (``urls``), and whose signatures count (``trusted``, of the trust file)."""
        self._store = store
        self._key = key
        self._urls = tuple(urls)
        self._trusted = tuple(trusted)
        self._latest: Signed | None = None
        self._trouble: NotGenuine | None = None
        self._lock = Lock()

    def show(self) -> Signed | None:
        """Return the head as every witness has signed it; None where there is no witness to ask.

        Raises:
            NotGenuine: a witness has seen more of this log than there is (``log.behind-witness``), or another log
                (``log.forked``); or it signs with no key that the trust file knows (``witness.unknown``).
            Unreachable: one of them does not answer (``witness.unreachable``).
            Refused: one of them does not know this log (``witness.refused``).
        """
        if not self._urls:
            return None
        with self._lock:
            try:
                self._latest = self._asked()
            except NotGenuine as error:
                self._trouble = error
                raise
            return self._latest

    def check(self) -> None:
        """Check that no witness has disagreed since the start.

        Raises:
            NotGenuine: what it said then. Only a restart, on the right log, ends it.
        """
        if self._trouble is not None:
            raise self._trouble

    def latest(self, size: int) -> str | None:
        """Return the checkpoint over ``size`` leaves with its witnesses' lines, when that is the last one shown."""
        latest = self._latest
        return latest.note if latest is not None and latest.size == size else None

    def _asked(self) -> Signed:
        log = LeafLog(self._store)
        note = self._key.checkpoint(log.head())
        signed = cp.parse_note(note)
        for url in self._urls:
            lines = witness_http.cosignatures(url, note, lambda older, _: log.consistency(older))
            self._check(signed.joined(*lines), url)
            signed = signed.joined(*lines)
        return Signed(size=log.size, note=str(signed))

    def _check(self, signed: cp.SignedNote, url: str) -> None:
        names = [line.name for line in signed.signatures]
        for witness in self._trusted:
            if witness.name in names:
                public = Ed25519PublicKey.from_public_bytes(witness.public_key)
                cp.cosigned_at(signed, cp.NoteKey(name=witness.name, kind=cp.Kind.COSIGNATURE, public=public))
                return
        finding = Finding(
            "witness.unknown",
            f"signature of the witness at {url}",
            "one of "
            + (", ".join(witness.name for witness in self._trusted) or "no witness in the trust file"),
            ", ".join(names[1:]) or "none",
        )
        raise NotGenuine(finding.message, findings=[finding])

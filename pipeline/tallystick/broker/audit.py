"""Reading the broker's log: verify all of it, prove one decision, export the leaves. A broker may be running."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tallystick.broker import logkey
from tallystick.broker.config import Home
from tallystick.broker.decisions import Kind, check_opens, parse_leaf
from tallystick.broker.leaflog import LeafLog
from tallystick.broker.store import Store
from tallystick.core.errors import NotGenuine
from tallystick.core.findings import Finding
from tallystick.tlog import checkpoint


def verify(home: Home, *, earlier: str | None = None) -> dict[str, Any]:
    """Return what the log holds, after every leaf and every record behind one was read again.

    Args:
        earlier: a checkpoint that was kept from before; the log must begin with what it covers.

    Raises:
        NotGenuine: the log was cut back or rewritten, a record was altered, or a nonce attested twice.
        Malformed: a leaf that this program does not write, or ``earlier`` is no checkpoint.
        Misuse: there is no broker.
    """
    key = logkey.load(home.log_key)
    store = Store.open(home.store)
    try:
        reading = LeafLog(store)
        if earlier is not None:
            _check_begins_with(reading, earlier, key)
        kinds: Counter[str] = Counter()
        nonces: set[str] = set()
        for kept in reading.decisions():
            leaf = parse_leaf(kept.leaf)
            kinds[leaf["kind"]] += 1
            check_opens(leaf, kept.record)
            if leaf["kind"] == Kind.ATTESTATION.value:
                _check_once(leaf["nonce"], nonces, kept.position)
    finally:
        store.close()
    head = reading.head()
    return {
        "size": head.size,
        "root": head.root.hex(),
        "kinds": dict(sorted(kinds.items())),
        "checkpoint": key.checkpoint(head),
    }


def prove(home: Home, decision: str) -> dict[str, Any]:
    """Return a decision's leaf and its inclusion proof under a signed checkpoint.

    Raises:
        Refused: there is no such decision.
        NotGenuine: the log does not hold.
    """
    key = logkey.load(home.log_key)
    store = Store.open(home.store)
    try:
        kept = store.decision(decision)
        reading = LeafLog(store)
        leaf, head = reading.leaf(kept), reading.head()
        hashes = reading.inclusion(kept.position)
    finally:
        store.close()
    check_opens(parse_leaf(leaf), kept.record)
    return {
        "decision": decision,
        "leaf": leaf.decode("utf-8"),
        "index": kept.position,
        "size": head.size,
        "hashes": [value.hex() for value in hashes],
        "checkpoint": key.checkpoint(head),
        "verifier": key.verifier_line(),
    }


def export(home: Home, *, start: int = 0) -> Iterator[bytes]:
    """Yield the leaves from ``start`` on. At the end of them the whole log has held.

    Raises:
        NotGenuine: it does not hold (``log.altered``).
    """
    store = Store.open(home.store)
    try:
        for kept in LeafLog(store).decisions(start):
            yield kept.leaf
    finally:
        store.close()


def _check_begins_with(reading: LeafLog, earlier: str, key: logkey.LogKey) -> None:
    """Check that a checkpoint of this log that somebody kept is of its beginning."""
    note = checkpoint.parse_note(earlier)
    checkpoint.verify(note, key.note_key)
    kept = checkpoint.parse(note.text)
    want = f"{kept.origin} with {kept.size} leaves or more, root {kept.root.hex()} over the first of them"
    got = f"{key.note_key.name} with {reading.size} leaves"
    if kept.origin == key.note_key.name and kept.size <= reading.size:
        root = reading.root(kept.size)
        if root == kept.root:
            return
        got += f", root {root.hex()}"
    finding = Finding("log.not-earlier", "the kept checkpoint", want, got)
    raise NotGenuine(finding.message, findings=[finding])


def _check_once(nonce: str, seen: set[str], index: int) -> None:
    if nonce in seen:
        finding = Finding("nonce.twice", f"leaf {index}", "a nonce that no other leaf attests", nonce)
        raise NotGenuine(finding.message, findings=[finding])
    seen.add(nonce)

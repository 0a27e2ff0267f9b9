"""``tally broker leases`` and ``tally broker drain``: who holds which keys, and until when."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.broker_home import Workdir, broker_home
from tallystick.cli.output import JsonFlag, emit, progress
from tallystick.core.errors import Misuse, Unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tallystick.broker.leases import Drain, Lease
    from tallystick.broker.store import Store

Key = Annotated[str, typer.Option("--key", help="Only of this key.")]
Release = Annotated[str, typer.Option("--release", help="Only of this release: sha256:…")]
LeaseId = Annotated[str, typer.Option("--lease", help="Only this lease.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``tally broker``."""
    app.command()(leases)
    app.command()(drain)


def leases(
    key: Key = "",
    release: Release = "",
    lease: LeaseId = "",
    state: Annotated[
        str, typer.Option("--state", help="Only those that are live, draining, expired or ended.")
    ] = "",
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what to do about keys that were handed out, key by key.")
    ] = False,
    workdir: Workdir = None,
    as_json: JsonFlag = False,
) -> None:
    """List the leases: every key that was handed out, to whom, on what, and until when; those that are over too.

    An end of a lease does not take the key back. --plan says how the data is put under new ones.
    """
    from tallystick.broker import lease_table
    from tallystick.broker.leases import State
    from tallystick.cli import clock

    states = [one.value for one in State]
    if state and state not in states:
        raise Misuse(f"--state: want one of {', '.join(states)}, got {state[:40]}", code="lease.state")
    now = clock.now()
    with opened(workdir) as store, store.reading() as connection:
        drains = lease_table.standing(connection)
        found = lease_table.find(connection, key=key, release=_digest(release), lease=lease)
    shown = [one for one in found if not state or one.state(now, drains).value == state]
    document: dict[str, Any] = {
        "leases": [one.document(now, drains) for one in shown],
        "drains": [one.document() for one in drains],
    }
    words = [_line(one, now, drains) for one in shown] or ["no leases"]
    words += [f"drain {one.id} since {one.at:%Y-%m-%dT%H:%M:%SZ}: {one.reason}" for one in drains]
    if plan:
        document["plan"] = [_plan(name, shown, now) for name in dict.fromkeys(one.key for one in shown)]
        words += [line for entry in document["plan"] for line in _plan_words(entry)]
    emit(document, "\n".join(words), as_json=as_json)


def drain(
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for those who read the log.")] = None,
    key: Key = "",
    release: Release = "",
    lease: LeaseId = "",
    everything: Annotated[bool, typer.Option("--all", help="Every lease of this broker.")] = False,
    lift: Annotated[
        str | None, typer.Option("--lift", metavar="DRAIN", help="Take a drain back instead.")
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Wait so many seconds until nothing it covers is held.")
    ] = 0.0,
    workdir: Workdir = None,
    as_json: JsonFlag = False,
) -> None:
    """Let leases run out: what the drain covers is neither released nor renewed, in every replica, until it is lifted.

    It stands in the store: interrupt it, or restart the broker, and it goes on. The same drain ordered twice is one.
    """
    from tallystick.broker import leasing
    from tallystick.broker.clock import Clock

    with opened(workdir) as store:
        now = Clock(store.time_mark()).now()
        if lift is not None:
            decision = leasing.lift(store, lift, now=now)
            emit(
                {"lifted": lift, "decision": decision},
                f"lifted {lift} (decision {decision})",
                as_json=as_json,
            )
            return
        named = [key, release, lease]
        if reason is None or everything == any(named):
            raise Misuse(
                "broker drain: want --reason, and --key, --release, --lease or --all", code="drain.what"
            )
        release = _digest(release)
        found, covered = leasing.order(store, reason=reason, key=key, release=release, lease=lease, now=now)
        progress(f"draining {len(covered)} live lease(s): {found.id}")
        left = _wait(store, found, wait)
    last = max((one.expires_at for one in covered), default=now)
    document = {
        **found.document(),
        "covered": len(covered),
        "left": left,
        "last_ends_at": f"{last:%Y-%m-%dT%H:%M:%SZ}",
    }
    if wait and left:
        raise Unreachable(
            f"{left} lease(s) are still held; the drain {found.id} stands", code="drain.not-over"
        )
    words = (
        f"{found.id}: {left} of {len(covered)} lease(s) still held, the last until {last:%Y-%m-%dT%H:%M:%SZ}"
    )
    emit(document, words, as_json=as_json)


@contextmanager
def opened(workdir: Path | None) -> Iterator[Store]:
    """Give the store of the broker in a work directory; brokers may be running on it."""
    from tallystick.broker.store import Store

    store = Store.open(broker_home(workdir).store)
    try:
        yield store
    finally:
        store.close()


def _wait(store: Store, found: Drain, seconds: float) -> int:
    """Return how many leases the drain covers are still held, after waiting for none to be."""
    from tallystick.broker import lease_table
    from tallystick.broker.leases import State
    from tallystick.cli import clock

    end = time.monotonic() + seconds
    while True:
        now = clock.now()
        with store.reading() as connection:
            covered = lease_table.find(connection, key=found.key, release=found.release, lease=found.lease)
        left = sum(one.state(now) is State.LIVE for one in covered)
        if not left or time.monotonic() >= end:
            return left
        if sys.stderr.isatty():
            progress(f"{left} lease(s) still held")
        time.sleep(min(1.0, max(0.0, end - time.monotonic())))


def _digest(text: str) -> str:
    """Return a release digest in its one spelling; nothing for nothing."""
    from tallystick.core.digests import Digest

    return "" if not text else str(Digest.parse(text))


def _line(one: Lease, now: datetime, drains: Sequence[Drain]) -> str:
    said = one.document(now, drains)
    why = f" ({', '.join(said['reasons'])})" if said["reasons"] else ""
    return f"{one.id}  {one.key}  {said['state']}{why}  until {said['expires_at']}  {one.release}"


def _plan(key: str, shown: Sequence[Lease], now: datetime) -> dict[str, Any]:
    """Return what stands and what is to do for one key that was handed out."""
    from tallystick.broker.leases import State

    mine = [one for one in shown if one.key == key]
    live = [one for one in mine if one.state(now) is State.LIVE]
    last = max((one.expires_at for one in live), default=None)
    return {
        "key": key,
        "handed_out": len(mine),
        "holders": len({one.holder for one in mine}),
        "still_held": len(live),
        "last_ends_at": None if last is None else f"{last:%Y-%m-%dT%H:%M:%SZ}",
        "releases": sorted({one.release for one in mine}),
        "steps": [
            f"tally broker drain --key {key} --reason …",
            f"tally broker key rotate {key}",
            "encrypt the artifact again under the new key, and deploy it",
            "compile, promote and approve a policy that names the new key",
            f"tally broker key destroy {key} --yes, when nothing is encrypted under it any more",
        ],
    }


def _plan_words(entry: dict[str, Any]) -> list[str]:
    until = f", the last until {entry['last_ends_at']}" if entry["last_ends_at"] else ""
    head = (
        f"{entry['key']} was handed out {entry['handed_out']} time(s) to {entry['holders']} machine(s); "
        f"{entry['still_held']} still hold it{until}"
    )
    note = "  none of these copies can be called back: what it encrypts is as safe as those machines were"
    return [head, note, *(f"  {number}. {step}" for number, step in enumerate(entry["steps"], 1))]

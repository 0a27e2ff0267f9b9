"""What the broker's commands share: where it is, and what opens its vault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from tallystick.broker.config import Home
    from tallystick.broker.ledger import Ledger

_MAX_PASSPHRASE_BYTES = 4096

Workdir = Annotated[
    Path | None,
    typer.Option(
        "--workdir", help="The work directory. Default: $TALLY_HOME, else ~/.local/share/tallystick."
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="A 0600 file with the passphrase of the vault's master key."),
]
Key = Annotated[str, typer.Argument(help="The key's KBS resource path: repository/type/tag.")]
Channel = Annotated[str, typer.Option("--channel", help="The channel that the key belongs to, for life.")]


def broker_home(workdir: Path | None) -> Home:
    """Return the folder of the broker in a work directory, the default one when none was named."""
    from tallystick.broker.config import Home
    from tallystick.cli.workdir import place

    return Home(place(workdir) / "broker")


def passphrase(path: Path | None) -> str | None:
    """Return what the passphrase file says; None when none was named."""
    if path is None:
        return None
    from tallystick.broker.secretfiles import read_secret

    data = read_secret(path, "passphrase file", max_bytes=_MAX_PASSPHRASE_BYTES)
    return data.decode("utf-8").rstrip("\r\n")


@contextmanager
def writing(home: Home) -> Iterator[tuple[Ledger, datetime]]:
    """Give the broker's ledger and the moment, for one command; a broker may be running beside it."""
    from tallystick.broker.clock import Clock
    from tallystick.broker.opening import open_ledger
    from tallystick.broker.store import Store

    store = Store.open(home.store)
    try:
        clock = Clock(store.time_mark())
        ledger = open_ledger(store, clock)
        try:
            yield ledger, clock.now()
        finally:
            ledger.close()
    finally:
        store.close()

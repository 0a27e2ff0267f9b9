"""``tally broker evidence``: recorded evidence, taken out for ``tally whatif`` elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.broker_home import PassphraseFile, Workdir, broker_home, passphrase
from tallystick.cli.output import JsonFlag, command_app, emit

if TYPE_CHECKING:
    from tallystick.broker.archive import StoredCasebook

app = command_app("Recorded evidence: sealed in the store, and kept for a while.")


@app.command("export")
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, readable by its owner alone.")],
    workdir: Workdir = None,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Write every decision about a key with its evidence, opened, for `tally whatif --evidence DIR`.

    The folder names machines and what they ran: guard it as the broker's store.
    """
    from tallystick.broker import casebook

    with opened(workdir, passphrase_file) as found:
        kept, gone = casebook.export(found, folder)
    document = {"folder": str(folder), "attestations": kept, "without_evidence": gone}
    emit(document, f"{folder}: the evidence of {kept} attestation(s), {gone} without", as_json=as_json)


@contextmanager
def opened(workdir: Path | None, passphrase_file: Path | None) -> Iterator[StoredCasebook]:
    """Give the records of the broker in a work directory; it may be running."""
    from tallystick.broker.archive import Archive, StoredCasebook
    from tallystick.broker.config import Lifetimes
    from tallystick.broker.store import Store
    from tallystick.broker.vault import Vault

    home = broker_home(workdir)
    store = Store.open(home.store)
    try:
        vault = Vault.open(home.vault, passphrase=passphrase(passphrase_file))
        yield StoredCasebook(store, Archive(store, vault.sealer, keep=Lifetimes().evidence))
    finally:
        store.close()

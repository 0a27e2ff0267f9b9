"""``tally demo``: the whole story on this machine, from a recipe to a key, and everything that gets none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tallystick.cli.output import JsonFlag, command_app, emit

app = command_app()


@app.command()
def demo(
    workdir: Annotated[
        Path, typer.Option("--workdir", help="Where everything is made; a demo there is replaced.")
    ] = (Path("demo")),
    as_json: JsonFlag = False,
) -> None:
    """Run the whole story on this machine, with embedded defaults: about two minutes once the downloads are there.

    Builds an image twice with Nix, signs it, has it rebuilt, promotes it, compiles its policies, boots it in a virtual
    machine with a TPM, and releases the model's keys to it. Then tries ten ways to get a key without deserving it.
    """
    from tallystick.cli.demo import story, summary

    told = story.tell(workdir)
    emit(summary.document(told), summary.words(told), as_json=as_json)

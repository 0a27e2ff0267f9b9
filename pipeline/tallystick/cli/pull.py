"""``tally pull``: a release out of a container registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tallystick.cli.output import JsonFlag, command_app, emit, progress
from tallystick.cli.push import PlainHttp

app = command_app()


@app.command()
def pull(
    place: Annotated[
        str,
        typer.Argument(metavar="oci://HOST/REPOSITORY:TAG", help="Where from; @sha256:… names it exactly."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where to.")],
    plain_http: PlainHttp = False,
    as_json: JsonFlag = False,
) -> None:
    """Pull a release with its bundles, links and promotions. Every digest is checked; nothing is trusted yet.

    An interrupted pull goes on where it was when it is repeated. `tally verify DIR` says whether it is genuine.
    """
    from tallystick.release import distribute, registry

    where = registry.reference(place)
    moved = distribute.pull(where, registry.Registry(where, plain_http=plain_http), out, progress)
    document = {
        "release": str(moved.release),
        "reference": str(where),
        "manifest": str(moved.manifest),
        "files": moved.files,
        "beside": list(moved.beside),
    }
    words = [
        f"pulled release {moved.release} into {out}",
        f"  {moved.files} files, {len(moved.beside)} beside it",
        f"  not verified yet: tally verify {out}",
    ]
    emit(document, "\n".join(words), as_json=as_json)

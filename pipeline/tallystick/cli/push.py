"""``tally push``: a release into a container registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tallystick.cli.output import JsonFlag, command_app, emit, progress

app = command_app()

PlainHttp = Annotated[
    bool, typer.Option("--plain-http", help="Speak HTTP without TLS: for a registry on this machine.")
]


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The release directory.")],
    place: Annotated[str, typer.Argument(metavar="oci://HOST/REPOSITORY:TAG", help="Where to.")],
    plain_http: PlainHttp = False,
    as_json: JsonFlag = False,
) -> None:
    """Push a release as an OCI artifact; its bundles, links and promotions refer to it.

    What the registry has already is not sent again, so that an interrupted push goes on when it is repeated.
    Credentials are those that `docker login` stored.
    """
    from tallystick.release import distribute, registry

    where = registry.reference(place)
    moved = distribute.push(folder, where, registry.Registry(where, plain_http=plain_http), progress)
    document = {
        "release": str(moved.release),
        "reference": str(where),
        "manifest": str(moved.manifest),
        "files": moved.files,
        "beside": list(moved.beside),
        "sent": moved.sent,
    }
    pinned = f"oci://{where.host}/{where.repository}@{moved.manifest}"
    words = [
        f"pushed release {moved.release}",
        f"  {moved.files} files, {len(moved.beside)} beside it; {moved.sent} sent",
        f"  {pinned}",
    ]
    emit(document, "\n".join(words), as_json=as_json)

"""``tally resident``: keeps loaded what verification needs, and runs each ``tally verify`` of this user in a fork."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tallystick.cli.output import command_app, progress

app = command_app()

# What `tally verify` imports while it works; loading it takes many times as long as one verification.
_LOADED = (
    "cryptography.x509.verification",
    "in_toto.verifylib",
    "rfc8785",
    "sigstore.verify.verifier",
    "tallystick.cli.clock",
    "tallystick.cli.verify",
    "tallystick.release.verify",
    "tallystick.signing.artifact",
    "tallystick.signing.managed",
    "tallystick.signing.trust",
    "tallystick.signing.verify",
)


@app.command()
def resident(
    path: Annotated[
        Path, typer.Argument(metavar="SOCKET", help="Where to listen: a path in a folder of your own.")
    ],
) -> None:
    """Make `tally verify` start at once, for loops over many bundles: nothing is loaded again for each.

    Commands that find this path in TALLY_RESIDENT hand themselves over: each runs in a process of its own with the
    caller's files and folder, prints what it always prints, and ends with the same code. Where nobody answers, or
    another user or version does, they work alone. Ends with SIGTERM or Ctrl-C.
    """
    import gc
    import importlib

    from tallystick.cli import resident_socket
    from tallystick.cli.app import _run
    from tallystick.core.errors import Unreachable

    for name in _LOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is loaded is shared with the forks, which then do not write to it
    try:
        resident_socket.serve(str(path), _run, lambda: progress(f"ready: export TALLY_RESIDENT={path}"))
    except KeyboardInterrupt:
        return
    except OSError as error:
        raise Unreachable(f"{path}: {error.strerror or error}", code="resident.socket") from None

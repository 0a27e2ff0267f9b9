"""Commands whose own work is shorter than loading a command-line library, when they are spelled plainly.

And ``tally verify`` where a resident has loaded it already (cli/resident_socket.py). Nothing is said or refused here:
whatever is not plain, help and every error included, goes to cli/app.py, which then does all of it. A test holds the
two against each other, option by option and output by output.
"""

from __future__ import annotations

import gc
import hashlib
import os
import sys
import threading
from collections.abc import Sequence

_BLOCK_BYTES, _MAX_BYTES = 256 << 10, 1 << 30
# Of ``tally measure snp``: what each option is called there. One that is not here is not plain.
SNP_OPTIONS = {
    "--firmware": "firmware",
    "--ovmf": "firmware",
    "--kernel": "kernel",
    "--initrd": "initrd",
    "--append": "append",
    "--cmdline": "append",
    "--vcpus": "vcpus",
    "--vcpu-type": "vcpu_type",
    "--vcpu-sig": "vcpu_sig",
    "--vmm": "vmm",
    "--vmm-type": "vmm",
    "--guest-features": "guest_features",
}
SNP_DEFAULTS = {
    "append": "",
    "vcpus": "1",
    "vcpu_type": "",
    "vcpu_sig": "",
    "vmm": "qemu",
    "guest_features": "0x1",
}


def run(arguments: Sequence[str]) -> str | None:
    """Return what the command prints; None when it is not one of these, or not as plain as that."""
    if list(arguments) == ["--version"]:
        from tallystick import __version__

        return f"tally {__version__}\n"
    if list(arguments[:2]) == ["measure", "snp"]:
        return _snp(arguments[2:])
    return None


def _snp(arguments: Sequence[str]) -> str | None:
    given, as_json = _options([one for one in arguments if one != "--json"]), "--json" in arguments
    if given is None or "firmware" not in given:
        return None
    if "kernel" not in given and ("initrd" in given or given["append"]):
        return None
    paths = [given[name] for name in ("firmware", "kernel", "initrd") if name in given]
    if not all(os.path.isfile(path) and os.path.getsize(path) <= _MAX_BYTES for path in paths):
        return None
    hashes = _Hashes([given[name] for name in ("kernel", "initrd") if name in given])
    from tallystick.cli import launch_options
    from tallystick.core.errors import TallystickError

    try:
        from tallystick.formats import ovmf
        from tallystick.measure import snp

        shapes = launch_options.snp_shapes(*(given[name] for name in list(SNP_DEFAULTS)[1:]))
        with open(given["firmware"], "rb") as stream:
            image = snp.launch_image(ovmf.parse(stream.read()))
        kernel = None
        if "kernel" in given:
            digests = hashes.wait()
            kernel = snp.KernelHashes(
                kernel=digests[0],
                initrd=digests[1] if "initrd" in given else hashlib.sha256(b"").digest(),
                cmdline=hashlib.sha256(given["append"].encode() + b"\0").digest(),
            )
        values = [digest.hex for digest in snp.launch_digests(image, shapes, kernel)]
    except (TallystickError, OSError, ValueError):
        return None
    if as_json:
        import json

        return json.dumps(launch_options.snp_document(shapes, values), indent=2) + "\n"
    return "\n".join(values) + "\n"


def _options(arguments: Sequence[str]) -> dict[str, str] | None:
    """Return the options' values; None for anything but ``--option VALUE`` and one file."""
    given, at = dict(SNP_DEFAULTS), 0
    while at < len(arguments):
        word = arguments[at]
        name = SNP_OPTIONS.get(word)
        if name is not None and at + 1 < len(arguments) and not arguments[at + 1].startswith("-"):
            given[name], at = arguments[at + 1], at + 2
        elif not word.startswith("-") and "file" not in given:
            given["file"], at = word, at + 1
        else:
            return None
    if "file" in given:
        given.setdefault("firmware", given["file"])
    return given


class _Hashes:
    """SHA-256 of files, in a thread beside the loading of modules and the hashing of firmware."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths, self._found = paths, list[bytes]()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        block = bytearray(_BLOCK_BYTES)
        view = memoryview(block)
        try:
            for path in self._paths:
                hasher = hashlib.sha256()
                with open(path, "rb", buffering=0) as stream:
                    while size := stream.readinto(block):
                        hasher.update(view[:size] if size < _BLOCK_BYTES else block)
                self._found.append(hasher.digest())
        except OSError:
            return

    def wait(self) -> list[bytes]:
        """Return the digests, in order.

        Raises:
            OSError: a file could not be read.
        """
        self._thread.join()
        if len(self._found) != len(self._paths):
            raise OSError
        return self._found


def main() -> None:
    """Run ``tally``: the plain ones here, everything else through the command-line library."""
    gc.disable()  # nothing is garbage before a short command ends
    resident = os.environ.get("TALLY_RESIDENT")
    if resident and sys.argv[1:2] == ["verify"]:
        from tallystick.cli import resident_socket

        code = resident_socket.ask(resident, sys.argv[1:])
        if code is not None:
            sys.exit(code)
    said = run(sys.argv[1:])
    gc.enable()
    try:
        if said is not None:
            sys.stdout.write(said)
            sys.stdout.flush()
            return
    except OSError:
        pass  # a closed pipe or a full disk: cli/app.py meets it again, and says what it means
    from tallystick.cli.app import run as run_app

    run_app()

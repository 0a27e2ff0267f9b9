"""Pairs for ``make bench``: signing, verifying and the log, each beside what it is held against.

``pairs(folder)`` gives (what, ours, peer's name, peer's, limit) for :func:`run.pair`; run alone, it prints medians.
"""

from __future__ import annotations

import atexit
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from signing.boxes import BUILDER, NOW, PAYLOAD, PREDICATE, SUBJECT, Box

from tallystick.signing import sigstore
from tallystick.signing.verify import Verifier
from tallystick.tlog.log import Log

Pair = tuple[str, Callable[[], object], str, Callable[[], object], str]
_MANY = 50


def pairs(folder: Path) -> list[Pair]:
    box = Box.make(folder / "box")
    bundle = box.sign()
    (folder / "b.json").write_bytes(bundle)
    return [_sign(box), _verify(box, bundle), *_commands(folder, box), _append(folder)]


def many(work: Callable[[], object]) -> Callable[[], None]:
    def loop() -> None:
        for _ in range(_MANY):
            work()

    return loop


def _sign(box: Box) -> Pair:
    signer = sigstore.embedded(box.workdir, "ci-builder", NOW).__enter__()
    peer = many(lambda: time.sleep(0.03))
    return (
        f"sign {_MANY} statements",
        many(lambda: signer.statement(PAYLOAD)),
        f"{_MANY} times 30 ms",
        peer,
        "1.0",
    )


def _verify(box: Box, bundle: bytes) -> Pair:
    from sigstore.models import Bundle, TrustedRoot
    from sigstore.verify import Verifier as Stock
    from sigstore.verify import policy

    verifier = Verifier(box.root)
    trusted = str(box.workdir / "sigstore" / "trusted_root.json")
    who = policy.Identity(identity=BUILDER.san, issuer=BUILDER.issuer)

    def ours() -> None:
        verifier.statement(bundle, signers=(BUILDER,), predicate_type=PREDICATE, now=NOW)

    def theirs() -> None:
        Stock(trusted_root=TrustedRoot.from_file(trusted)).verify_dsse(Bundle.from_json(bundle), who)

    return (f"verify {_MANY} bundles", many(ours), "sigstore-python called afresh", many(theirs), "0.6")


def _commands(folder: Path, box: Box) -> list[Pair]:
    trusted = box.workdir / "sigstore"
    ours = ["-m", "tallystick.cli", "verify", folder / "b.json", "--artifact", f"sha256:{SUBJECT.hex}"]
    ours += [
        "--trusted-root",
        trusted / "trusted_root.json",
        "--identity",
        BUILDER.san,
        "--issuer",
        BUILDER.issuer,
    ]
    theirs = ["-m", "sigstore", "--trust-config", trusted / "client_trust_config.json", "verify", "identity"]
    theirs += ["--offline", "--bundle", folder / "b.json", "--cert-identity", BUILDER.san]
    theirs += ["--cert-oidc-issuer", BUILDER.issuer, f"sha256:{SUBJECT.hex}"]
    what, peer = "`tally verify BUNDLE`", "`sigstore verify identity`"
    resident = _resident(folder / "socket")
    return [
        (
            f"{what}, with `tally resident`",
            python(ours, TALLY_RESIDENT=resident),
            peer,
            python(theirs),
            "0.25",
        ),
        (f"{what}, cold", python(ours), peer, python(theirs), "1.1"),
    ]


def _resident(path: Path) -> str:
    """Start a resident that ends with this process, and return its socket."""
    command = [sys.executable, "-m", "tallystick.cli", "resident", str(path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    atexit.register(process.terminate)
    if process.stderr is None or not process.stderr.readline().startswith(b"ready"):
        raise RuntimeError("the resident did not start")
    return str(path)


def _append(folder: Path) -> Pair:
    log = Log.open(folder / "log")
    for _ in range(10):
        log.append_all([b"x" * 500] * 10_000)
    handle = os.open(folder / "plain", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def twice() -> None:
        for _ in range(2):
            os.write(handle, b"x" * 500)
            os.fdatasync(handle)

    ours = many(lambda: log.append(b"x" * 500))
    return (
        f"{_MANY} appends at 100,000 entries",
        ours,
        f"{_MANY} times two fdatasyncs",
        many(twice),
        "5 ms each",
    )


def python(arguments: list[object], **more: str) -> Callable[[], object]:
    """Return what runs Python with ``arguments``, with byte code, which a shell may forbid."""
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, **more}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return lambda: subprocess.run(command, check=True, capture_output=True, env=environment)


def _median_ms(work: Callable[[], object]) -> float:
    took = []
    for _ in range(7):
        start = time.perf_counter()
        work()
        took.append((time.perf_counter() - start) * 1000)
    return statistics.median(took)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        for what, ours, peer, theirs, limit in pairs(Path(place)):
            mine, other = _median_ms(ours), _median_ms(theirs)
            sys.stdout.write(
                f"{what}: {mine:.1f} ms; {peer}: {other:.1f} ms; ratio {mine / other:.2f} ({limit})\n"
            )

"""Nix: the only place that runs it.

Everything stays under the project's control: the configuration is a file that this module writes and names with
NIX_CONF_DIR, the stores are folders of the caller's choice, and the users that builds run as are made once. The
system's own /nix and /etc/nix are neither read nor written.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tallystick.core.errors import Exit, Misuse, NotGenuine, TallystickError, Unreachable, Unsupported
from tallystick.core.findings import Finding

OLDEST = (2, 8)
# Which build user is taken is locked here. The users belong to the machine, so this does too: two builds that took the
# same user would end each other's processes.
MACHINE_STATE = Path("/var/lib/tallystick/nix")
_STOP_SECONDS = 20
_LINES_KEPT = 40  # of what a failing build said
_NO_SANDBOX = ("kernel namespaces", "creating new namespace", "setting up a private mount namespace")
_NO_SPACE = ("No space left on device", "Disk quota exceeded", "database or disk is full")
_REMOTE = ("NIX_SSHOPTS", "SSH_AUTH_SOCK")  # no build step sees them
Say = Callable[[str], None]


class BuildFailed(TallystickError):
    """A build step failed; the message ends with what it said last."""

    exit = Exit.MALFORMED
    default_code = "build.failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nix:
    """An installed Nix and the configuration that it runs with."""

    version: str  # "2.8.0"
    configuration: Path  # folder with our nix.conf
    home: Path  # for Nix's own caches, away from the user's
    prefix: tuple[str, ...]  # ("sudo", "-n") for who is not root


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A store that lies in a folder, and the folder where its builds work."""

    root: Path
    work: Path

    def real(self, logical: str) -> Path:
        """Return where the store path ``logical`` really lies."""
        return self.root / logical.removeprefix("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A Nix file, its arguments, and the folders that its evaluation may read; nothing else can be."""

    file: Path
    texts: tuple[tuple[str, str], ...]
    paths: tuple[tuple[str, Path], ...]
    readable: tuple[Path, ...]


def environment(nix: Nix, store: Store) -> dict[str, str]:
    """Return the environment that Nix runs in: only what is written here, and how a remote store is reached."""
    reaching = {name: os.environ[name] for name in _REMOTE if name in os.environ}
    return reaching | {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        "NIX_CONF_DIR": str(nix.configuration),
        "NIX_USER_CONF_FILES": "",
        "NIX_STATE_DIR": str(MACHINE_STATE),
        "NIX_LOG_DIR": str(MACHINE_STATE / "log"),
        "HOME": str(nix.home),
        "TMPDIR": str(store.work),
        "LC_ALL": "C",
    }


def add_files(nix: Nix, store: Store, files: Iterable[Path]) -> None:
    """Add ``files`` to the store, each under its own name, as fixed outputs."""
    paths = [str(path) for path in files]
    if paths:
        run(nix, store, "nix-store", "--add-fixed", "sha256", *paths)


def add_folder(nix: Nix, store: Store, folder: Path) -> None:
    """Add ``folder`` to the store under its own name, as a recursive fixed output."""
    run(nix, store, "nix-store", "--add-fixed", "--recursive", "sha256", str(folder))


def has(nix: Nix, store: Store, paths: Iterable[str]) -> frozenset[str]:
    """Return those of ``paths`` that the store does not have."""
    wanted = list(paths)
    if not wanted or not (store.root / "nix/var/nix/db").exists():
        return frozenset(wanted)
    said = run(nix, store, "nix-store", "--check-validity", "--print-invalid", *wanted)
    return frozenset(said.split())


def evaluate(nix: Nix, store: Store, expression: Expression, attribute: str) -> Any:
    """Return the value of ``attribute`` and write the derivations that it names into the store."""
    arguments = [
        "--eval",
        "--strict",
        "--json",
        "--read-write-mode",
        "--attr",
        attribute,
        str(expression.file),
    ]
    for name, text in expression.texts:
        arguments += ["--argstr", name, text]
    for name, path in expression.paths:
        arguments += ["--arg", name, _path_expression(path)]
    for index, path in enumerate(expression.readable):
        arguments += ["-I", f"tally{index}={path}"]
    return json.loads(run(nix, store, "nix-instantiate", *arguments))


def realise(nix: Nix, store: Store, drvs: Iterable[str], say: Say) -> None:
    """Build every output of ``drvs``.

    Raises:
        BuildFailed: a step failed. Unreachable: the disk is full. Unsupported: no sandbox is possible here.
    """
    run(nix, store, "nix-store", "--realise", *drvs, say=say)


def realise_at(nix: Nix, store: Store, drvs: Iterable[str], url: str, say: Say) -> None:
    """Build every output of ``drvs`` in the store at ``url``, and copy what came out into ``store``.

    Who rebuilds answers for that store: what comes from it is checked by digest against the release and nothing else.

    Raises:
        BuildFailed, Unreachable, Unsupported: as :func:`realise`; also Unreachable: the store does not answer.
        Misuse: ``url`` names no kind of store that this Nix knows (``nix.store``).
    """
    wanted, here = list(drvs), f"local?root={store.root}"
    copy = ("nix", "--extra-experimental-features", "nix-command", "copy", "--no-check-sigs")
    seeds = [path for path in closure(nix, store, wanted, "--include-outputs") if not path.endswith(".drv")]
    if seeds:  # nothing else was built here yet
        _elsewhere(nix, store, [*copy, "--from", here, "--to", url, *seeds], say)
    _elsewhere(nix, store, [*copy, "--from", here, "--to", url, "--derivation", *wanted], say)
    said = _elsewhere(nix, store, ["nix-store", "--store", url, "--realise", *wanted], say)
    _elsewhere(nix, store, [*copy, "--from", url, "--to", here, *sorted(set(said.split()))], say)


def _elsewhere(nix: Nix, store: Store, command: list[str], say: Say) -> str:
    done = _process(nix, store, command, say, with_store=False)
    if done.code:
        said = done.errors.strip()
        if "don't know how to open Nix store" in said:
            raise Misuse(said.rpartition("error: ")[2], code="nix.store")
        if "cannot open connection to remote store" in said:
            raise Unreachable(f"the builder does not answer: {said}", code="nix.unreachable")
        _fail(command, done)
    return done.output


def closure(nix: Nix, store: Store, drvs: Iterable[str], *options: str) -> tuple[str, ...]:
    """Return ``drvs`` and every store path that they need, sorted; with ``--include-outputs`` what they made too."""
    return tuple(sorted(run(nix, store, "nix-store", "--query", "--requisites", *options, *drvs).split()))


def hashes(nix: Nix, store: Store, paths: Iterable[str]) -> dict[str, str]:
    """Return the NAR hash that the store has for each of ``paths``, as Nix prints it."""
    wanted = list(paths)
    if not wanted:
        return {}
    return dict(zip(wanted, run(nix, store, "nix-store", "--query", "--hash", *wanted).split(), strict=True))


def verify(nix: Nix, store: Store, paths: Iterable[str]) -> None:
    """Hash ``paths`` again and compare with the store's database.

    Raises:
        NotGenuine: a path was changed after it was made (``store.modified``); each is a finding.
    """
    done = _process(nix, store, ["nix-store", "--verify-path", *paths], lambda _: None)
    if done.code == 0:
        return
    said = re.findall(r"path '(\S+)' was modified! expected hash '(\S+)', got '(\S+)'", done.errors)
    findings = [Finding("store.modified", path, want, got) for path, want, got in said]
    if not findings:
        _fail(["nix-store"], done)
    raise NotGenuine(f"{len(findings)} store path(s) changed after they were built", findings=findings)


def effective_config(nix: Nix, store: Store) -> dict[str, Any]:
    """Return every setting as Nix understood it, by name."""
    words = ["config", "show"] if version_of(nix.version) >= (2, 20) else ["show-config"]
    done = _process(nix, store, ["nix", *words, "--json"], lambda _: None, with_store=False)
    if done.code:
        _fail(["nix"], done)
    return {name: entry["value"] for name, entry in json.loads(done.output).items()}


def version_of(text: str) -> tuple[int, ...]:
    """Return the numbers of a version text, as far as they go: ``2.34.8pre1`` is (2, 34, 8)."""
    match = re.match(r"[0-9]+(\.[0-9]+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def run(nix: Nix, store: Store, *command: str, say: Say = lambda _: None) -> str:
    """Run one Nix command on ``store`` and return its output.

    Raises:
        BuildFailed, Unreachable, Unsupported: as :func:`realise`. KeyboardInterrupt, after Nix has stopped.
    """
    done = _process(nix, store, list(command), say)
    if done.code:
        _fail(list(command), done)
    return done.output


@dataclass(frozen=True, slots=True)
class _Done:
    code: int
    output: str
    errors: str


def _process(nix: Nix, store: Store, command: list[str], say: Say, *, with_store: bool = True) -> _Done:
    where = ["--store", f"local?root={store.root}"] if with_store else []
    variables = environment(nix, store)
    prefix = (
        [*nix.prefix, "env", "-i", *(f"{name}={value}" for name, value in variables.items())]
        if nix.prefix
        else []
    )
    full = [*prefix, command[0], *where, *command[1:]]
    try:
        child = subprocess.Popen(
            full,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(os.environ) if nix.prefix else variables,
            text=True,
            errors="replace",
            start_new_session=True,  # a Ctrl-C reaches Nix from here, once, and is waited for
        )
    except FileNotFoundError:
        raise Unreachable(f"there is no {full[0]} on this machine", code="nix.missing") from None
    try:
        return _follow(child, say)
    except BaseException:
        _stop(child, nix.prefix)
        raise


def _follow(child: subprocess.Popen[str], say: Say) -> _Done:
    """Read both pipes to the end; progress is said while it happens."""
    output, errors = child.stdout, child.stderr
    if output is None or errors is None:
        raise ValueError("both pipes are needed")
    kept: deque[str] = deque(maxlen=_LINES_KEPT)
    parts: list[str] = []
    reader = threading.Thread(target=lambda: parts.append(output.read()), daemon=True)
    reader.start()
    for line in errors:
        kept.append(line)
        if match := re.match(r"building '/nix/store/[0-9a-z]{32}-(.+)\.drv'", line):
            say(f"  {match[1]}")
    reader.join()
    return _Done(child.wait(), "".join(parts), "".join(kept))


def _stop(child: subprocess.Popen[str], prefix: tuple[str, ...]) -> None:
    """Ask Nix to stop its builds, wait for it, and kill it only when it does not."""
    for number, seconds in ((signal.SIGINT, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
        if child.poll() is not None:
            return
        try:
            if prefix:
                subprocess.run([*prefix, "kill", f"-{int(number)}", str(child.pid)], check=False)
            else:
                os.killpg(child.pid, number)
            child.wait(seconds)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _fail(command: list[str], done: _Done) -> NoReturn:
    said = done.errors.strip()
    if any(words in said for words in _NO_SPACE):
        raise Unreachable(f"{command[0]}: the disk is full", code="build.no-space")
    if any(words in said for words in _NO_SANDBOX):
        raise Unsupported(
            "Nix sandbox",
            at="namespaces",
            want="mount, PID and network namespaces for builds",
            got="a system without them; a build without a sandbox is never attested",
            code="nix.no-sandbox",
        )
    raise BuildFailed(f"{' '.join(command[:2])} failed (exit {done.code}):\n{said}")


def _path_expression(path: Path) -> str:
    """Return a Nix expression for ``path``: a path literal can not hold every character."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("${", "\\${")
    return f'(/. + "{text}")'


def facts_of(config: Mapping[str, Any], names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return the settings called ``names`` as text, sorted; one that this Nix does not know is left out."""
    return tuple((name, _words(config[name])) for name in sorted(names) if name in config)


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return " ".join(sorted(map(str, value)))
    return str(value)

"""Running the program itself, one command after the other, as a person would: each is shown before it runs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tallystick.cli.output import progress
from tallystick.core.errors import TallystickError, Unreachable

_READY = "broker ready at "
_READY_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What a command said when it did not do what it was asked."""

    exit: int
    code: str
    message: str
    findings: tuple[dict[str, str], ...]


class StepFailed(TallystickError):
    """A step of the demo that should have worked did not; its own error, code and exit are passed on."""


@dataclass(slots=True)
class Steps:
    """The demo's commands, its clock, and its numbered headings."""

    workdir: Path
    started: float = field(default_factory=time.monotonic)
    number: int = 0

    def heading(self, title: str) -> None:
        """Say which step begins."""
        self.number += 1
        progress(f"\n{self.number:2}. {title}   [{self.seconds:.0f} s]")

    @property
    def seconds(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self.started

    def say(self, words: str) -> None:
        """Say what came of it, indented under the heading."""
        for line in words.splitlines():
            progress(f"      {line}")

    def run(self, *arguments: str | Path, quiet: bool = False) -> dict[str, Any]:
        """Run ``tally`` with these arguments and return what it printed.

        Raises:
            StepFailed: it failed; with its own code, exit and findings.
        """
        code, document = self._tally(arguments, quiet=quiet)
        if code:
            refusal = _refusal(code, document)
            error = StepFailed(f"tally {arguments[0]}: {refusal.message}", code=refusal.code)
            error.exit = type(error.exit)(refusal.exit)
            raise error
        return document

    def refused(self, *arguments: str | Path) -> Refusal:
        """Run ``tally`` where it must refuse, and return its reasons.

        Raises:
            StepFailed: it did what it was asked.
        """
        code, document = self._tally(arguments, quiet=False)
        if not code:
            raise StepFailed(
                f"tally {arguments[0]} should have been refused and was not", code="demo.not-refused"
            )
        return _refusal(code, document)

    def _tally(self, arguments: tuple[str | Path, ...], *, quiet: bool) -> tuple[int, dict[str, Any]]:
        words = [str(argument) for argument in arguments]
        if not quiet:
            self.say(f"$ tally {shlex.join(words)}")
        command = [sys.executable, "-m", "tallystick.cli", *words, "--json"]
        done = subprocess.run(command, capture_output=True, check=False)
        try:
            document: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            said = done.stderr.decode("utf-8", "replace").strip()
            document = {
                "error": {"code": "demo.no-answer", "exit": done.returncode, "message": said, "findings": []}
            }
        return done.returncode, document

    @contextmanager
    def broker(self, channel: str) -> Iterator[str]:
        """Run the key broker for ``channel``, on a free port, and give its address until the block ends.

        Raises:
            Unreachable: it does not come up.
        """
        folder = self.workdir / "channels" / channel
        arguments = ["broker", "serve", "--workdir", self.workdir, "--channel-dir", folder, "--port", "0"]
        self.say(f"$ tally {shlex.join(str(argument) for argument in arguments)} &")
        log = self.workdir / "broker.log"
        with log.open("ab") as sink:
            handle = os.open(log, os.O_RDONLY)
            os.lseek(handle, 0, os.SEEK_END)
            command = [sys.executable, "-m", "tallystick.cli", *map(str, arguments)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sink)
        try:
            yield _address(process, handle)
        finally:
            os.close(handle)
            process.terminate()
            process.wait(timeout=_READY_SECONDS)


def _address(process: subprocess.Popen[bytes], log: int) -> str:
    """Return the address that the broker says it is ready at."""
    said, until = b"", time.monotonic() + _READY_SECONDS
    while time.monotonic() < until and process.poll() is None:
        said += os.read(log, 1 << 16)
        for line in said.decode("utf-8", "replace").splitlines():
            if _READY in line:
                return line.partition(_READY)[2].split()[0]
        time.sleep(0.05)
    raise Unreachable(
        f"the broker did not start: {said.decode('utf-8', 'replace')[-400:]}", code="demo.broker"
    )


def _refusal(code: int, document: dict[str, Any]) -> Refusal:
    error = document.get("error", {})
    return Refusal(
        exit=code,
        code=str(error.get("code", "unknown")),
        message=str(error.get("message", "no reason was given")),
        findings=tuple(error.get("findings", ())),
    )

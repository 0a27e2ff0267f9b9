"""Errors sorted by what the reader should do, each with its exit code."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tallystick.core.findings import Finding

_SHOWN_CHARACTERS = 120  # of a value in an error: enough to recognise, too little to flood a terminal


class Exit(IntEnum):
    """Process exit codes. A contract: docs/exit-codes.md is generated from here."""

    OK = 0
    BUG = 1
    MISUSE = 2
    MALFORMED = 3
    UNSUPPORTED = 4
    NOT_GENUINE = 5
    REFUSED = 6
    UNREACHABLE = 7
    NOT_REPRODUCIBLE = 8

    @property
    def meaning(self) -> str:
        """What the code tells the caller to do."""
        return _MEANING[self]


_MEANING = {
    Exit.OK: "done",
    Exit.BUG: "our bug: please report it",
    Exit.MISUSE: "misuse: the command line is wrong",
    Exit.MALFORMED: "malformed input: fix what produced it",
    Exit.UNSUPPORTED: "unsupported: an unknown version, algorithm or platform",
    Exit.NOT_GENUINE: "not genuine: a signature, chain, log proof or digest does not hold",
    Exit.REFUSED: "refused by policy: genuine, and not what the policy asks; every reason is listed",
    Exit.UNREACHABLE: "something outside could not be reached: try again",
    Exit.NOT_REPRODUCIBLE: "not reproducible: two builds differ",
}


class TallystickError(Exception):
    """What every error we raise on purpose is: a message, a stable code, an exit code, and findings."""

    exit: Exit = Exit.BUG
    default_code = "bug"

    def __init__(self, message: str, *, code: str = "", findings: Iterable[Finding] = ()) -> None:
        self.findings: tuple[Finding, ...] = tuple(findings)
        self.code = code or (self.findings[0].code if self.findings else self.default_code)
        self.message = message
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        """Cross from one process to another as it is, without being made again."""
        return _again, (type(self), self.args, dict(self.__dict__))

    def document(self) -> dict[str, object]:
        """The error as ``--json`` prints it."""
        return {
            "error": {
                "code": self.code,
                "exit": int(self.exit),
                "message": self.message,
                "findings": [finding.document() for finding in self.findings],
            }
        }


def _again(
    kind: type[TallystickError], args: tuple[object, ...], state: dict[str, object]
) -> TallystickError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class Misuse(TallystickError):
    """The command line, or a call, is wrong."""

    exit = Exit.MISUSE
    default_code = "misuse"


class _WantGot(TallystickError):
    """An error about one place in some input; ``want`` and ``got`` can not be swapped."""

    def __init__(self, what: str, *, at: str, want: str, got: str, code: str = "") -> None:
        self.what, self.at, self.want, self.got = what, at, want, got[:_SHOWN_CHARACTERS]
        super().__init__(f"{what}: {at}: want {want}, got {self.got}", code=code)


class Malformed(_WantGot):
    """Bytes that break their own format. No policy was consulted."""

    exit = Exit.MALFORMED
    default_code = "malformed"


class Unsupported(_WantGot):
    """A version, algorithm or platform this program does not know. Never the nearest default."""

    exit = Exit.UNSUPPORTED
    default_code = "unsupported"


class NotGenuine(TallystickError):
    """A signature, chain, log proof or digest does not hold: raise the alarm."""

    exit = Exit.NOT_GENUINE
    default_code = "not-genuine"


class Refused(TallystickError):
    """Genuine, and not what the policy asks; every reason is listed."""

    exit = Exit.REFUSED
    default_code = "refused"


class Unreachable(TallystickError):
    """Something outside could not be reached, or its disk is full: try again."""

    exit = Exit.UNREACHABLE
    default_code = "unreachable"


class NotReproducible(TallystickError):
    """Two builds of the same inputs differ."""

    exit = Exit.NOT_REPRODUCIBLE
    default_code = "not-reproducible"

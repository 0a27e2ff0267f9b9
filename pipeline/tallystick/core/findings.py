"""One reason why something was refused, said the same way everywhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One failed check: a stable code, the place, and the two values that do not tally.

    ``code`` is a contract (``uki.pcr4.mismatch``); ``message`` is for people and may change.
    """

    code: str
    where: str
    want: str
    got: str
    note: str = ""

    @property
    def message(self) -> str:
        """The finding as one sentence: ``place: want X, got Y``."""
        said = f"{self.where}: want {self.want}, got {self.got}"
        return f"{said} ({self.note})" if self.note else said

    def document(self) -> dict[str, str]:
        """The finding as ``--json`` prints it."""
        return {
            "code": self.code,
            "where": self.where,
            "want": self.want,
            "got": self.got,
            "message": self.message,
        }

"""One reason why something was refused, said the same way everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Change:
    """One field and the value with which a check that failed would hold.

    It shows what a policy wants: for the operator, never for a refused workload.
    """

    field: tuple[
        str, ...
    ]  # ("claims", "quote.body.mr_td"), ("devices", "0", "roots"), ("challenge", "issued_at")
    to: object

    @property
    def name(self) -> str:
        """The field as one word: ``claims/pcr04``."""
        return "/".join(self.field)

    def document(self) -> dict[str, object]:
        """The change as ``--json`` prints it."""
        return {"field": self.name, "to": self._plain()}

    @property
    def message(self) -> str:
        """The change in words: ``claims/pcr04 = 00…``."""
        value = self._plain()
        return f"{self.name} = {', '.join(map(str, value)) if isinstance(value, list) else value}"

    def _plain(self) -> object:
        match self.to:
            case bytes():
                return self.to.hex()
            case datetime():
                return self.to.isoformat().replace("+00:00", "Z")
            case tuple():
                return list(self.to)
        return self.to


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
    change: Change | None = field(default=None, compare=False, repr=False)  # not part of :meth:`document`

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

"""What an audit takes and gives: Reference Values, permissive paths, and the auditor of one language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tallystick.core.findings import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceValues:
    """What was released, as whole tuples: claim name -> value, in the names of docs/audit.md."""

    tuples: tuple[Mapping[str, bool | int | str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissivePath:
    """One way in which a policy gives a key to somebody who was not meant."""

    code: str  # stable: "aws.root-delegation"
    where: str  # the place in the file: "Statement[0] (EnableIAM)"
    what: str  # what the policy does there
    fix: str  # what to write instead
    evidence: Mapping[str, Any] | None = None  # a request, token or quote that gets the key because of it

    def finding(self) -> Finding:
        """The path as one finding; the example evidence is its note."""
        import json

        note = "" if self.evidence is None else f"evidence: {json.dumps(self.evidence, sort_keys=True)}"
        return Finding(self.code, self.where, want=self.fix, got=self.what, note=note)

    def document(self) -> dict[str, Any]:
        """The path as ``--json`` prints it."""
        return {
            "code": self.code,
            "where": self.where,
            "what": self.what,
            "fix": self.fix,
            "evidence": None if self.evidence is None else dict(self.evidence),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """What an audit of one file found."""

    language: str  # the auditor's name: "aws-key-policy"
    paths: tuple[PermissivePath, ...]
    released: int | None  # tuples of the Reference Values; None when none were given
    accepted: int | None  # distinct tuples that get a key, where that was counted
    limits: tuple[str, ...]  # what the audit can not see from this file alone

    @property
    def words(self) -> str:
        """The line that ``tally audit`` prints first."""
        counted = ""
        if self.released is not None and self.accepted is not None:
            counted = f": released {self.released} · accepted {self.accepted}"
        found = f"{len(self.paths)} permissive path(s)" if self.paths else "no permissive path found"
        return f"{self.language}{counted}: {found}"


class Auditor(Protocol):
    """One policy language, as somebody else wrote it."""

    name: str

    def recognises(self, data: bytes, file_name: str) -> bool:
        """Say whether ``data`` is in this language. Never raises: what can not be parsed is not recognised.

        Args:
            file_name: a hint only, such as ``condition.cel``, for languages whose texts say little.
        """

    def audit(self, data: bytes, reference: ReferenceValues | None) -> Audited:
        """Return what was found.

        Raises:
            Malformed: recognised, and then broken. Unsupported: a version that is not known.
        """

"""The refusal of an audit: every permissive path, as findings and as documents."""

from __future__ import annotations

from tallystick.compile.audit.records import Audited
from tallystick.core.errors import Refused


class Permissive(Refused):
    """A policy gives a key to somebody who was not meant. Every path that was found is listed."""

    default_code = "audit.permissive"

    def __init__(self, file: str, audited: Audited) -> None:
        self.audited = audited
        findings = [path.finding() for path in audited.paths]
        super().__init__(f"{file}: {audited.words}", code=self.default_code, findings=findings)

    def document(self) -> dict[str, object]:
        """The error as ``--json`` prints it, with each path's example evidence as a value beside it."""
        return {
            **super().document(),
            "audit": {
                "language": self.audited.language,
                "released": self.audited.released,
                "accepted": self.audited.accepted,
                "paths": [path.document() for path in self.audited.paths],
                "limits": list(self.audited.limits),
            },
        }

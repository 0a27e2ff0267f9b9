"""Claims of evidence that has been verified. Nothing else reaches appraisal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tallystick.core.findings import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What genuine evidence says, in Trustee's claim names with typed values.

    ``values`` may nest; a policy names a claim by its dotted path (``quote.body.mr_td``).
    """

    kind: str  # one of DESIGN.md's evidence kinds: "tpm-quote"
    values: Mapping[str, Any]  # numbers, booleans, lower-case hex strings, lists and maps of these
    roots: tuple[str, ...]  # labels of the roots the chain ended in: ("software-tpm",)
    report_data: bytes  # what the attester bound into the evidence (nonce side), as the platform carries it
    valid_from: datetime | None  # the window in which every certificate and collateral used is valid
    valid_until: datetime | None
    notes: tuple[Finding, ...] = ()  # facts a policy may require: "no CRL was given"
    devices: tuple[Claims, ...] = ()  # of the GPUs and switches that the machine showed with its own evidence

    def at(self, path: str) -> Any:
        """Return the claim at the dotted ``path``, or None when it is absent."""
        value: Any = self.values
        for name in path.split("."):
            if not isinstance(value, Mapping) or name not in value:
                return None
            value = value[name]
        return value

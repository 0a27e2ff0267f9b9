"""The platforms a policy may allow: their claims, the registers a tuple must pin, and what debug looks like.

Adding one is a decision record and a row here; a platform that is not in the table is unsupported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from tallystick.core.errors import Unsupported
from tallystick.core.expect import Exactly

# Labels of roots that anybody can make at home. No production policy accepts them (DESIGN.md, invariant 8).
DEVELOPMENT_ROOTS = {
    "software-tpm": "a TPM in software: who has its state file can sign anything",
    "embedded-dev": "a Sigstore made by `tally init` on somebody's machine",
}
# The issuer that the embedded Sigstore writes into its certificates.
DEVELOPMENT_ISSUERS = ("https://tallystick.local/embedded-dev",)


class ClaimType(Enum):
    """What a claim's value is, and how it is spelled."""

    SHA256 = ("64 lower-case hex digits", r"[0-9a-f]{64}")
    TEXT = ("a text", r"(?s).{1,4096}")
    INTEGER = ("a whole number", None)
    BOOLEAN = ("true or false", None)

    def __init__(self, want: str, pattern: str | None) -> None:
        self.want = want
        self.pattern = pattern

    def holds(self, value: object) -> bool:
        """Say whether ``value`` is of this type, strictly: True is no number and "1" is neither."""
        if self is ClaimType.BOOLEAN:
            return isinstance(value, bool)
        if self is ClaimType.INTEGER:
            return isinstance(value, int) and not isinstance(value, bool)
        return isinstance(value, str) and re.fullmatch(self.pattern or "", value) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """One kind of machine that evidence can come from."""

    name: str
    evidence_kind: str
    family: str  # begins the codes of findings: "tpm.pcr04.mismatch"
    registers: tuple[str, ...]  # each is pinned by every tuple, or waived by name
    never_zero: tuple[str, ...]  # registers that a measured launch always extends
    claims: tuple[tuple[str, ClaimType], ...]  # what evidence says beside the registers
    debug_off: tuple[tuple[str, Exactly], ...]  # claims that say a debugger can not look inside

    def claim_type(self, path: str) -> ClaimType | None:
        """Return the type of the claim at ``path``, or None when this platform's evidence has none."""
        return ClaimType.SHA256 if path in self.registers else dict(self.claims).get(path)


_PLATFORMS = (
    Platform(
        name="qemu-vtpm",
        evidence_kind="tpm-quote",
        family="tpm",
        registers=tuple(f"pcr{number:02}" for number in range(16)),
        # 8 holds the init-data, without which any artifacts could be served (docs/decisions/0081).
        never_zero=("pcr00", "pcr04", "pcr08", "pcr09", "pcr11"),
        claims=(
            *((f"pcr{number:02}", ClaimType.SHA256) for number in range(16, 24)),
            ("ak_public", ClaimType.TEXT),
            ("clock", ClaimType.INTEGER),
            ("firmware_version", ClaimType.INTEGER),
            ("init_data", ClaimType.SHA256),
            ("report_data", ClaimType.SHA256),
            ("reset_count", ClaimType.INTEGER),
            ("restart_count", ClaimType.INTEGER),
            ("safe", ClaimType.BOOLEAN),
        ),
        debug_off=(),  # a TPM quote has no debug attribute; the channel's label keeps debug images apart
    ),
)


def platform(name: str, at: str = "platform") -> Platform:
    """Return the platform called ``name``.

    Args:
        at: the place that named it, for the error.

    Raises:
        Unsupported: not in the table.
    """
    known = known_platform(name)
    if known is None:
        raise Unsupported("policy", at=at, want="one of " + ", ".join(p.name for p in _PLATFORMS), got=name)
    return known


def known_platform(name: str) -> Platform | None:
    """Return the platform called ``name``, or None when it is not in the table."""
    return next((known for known in _PLATFORMS if known.name == name), None)


def family(evidence_kind: str) -> str:
    """Return the word that begins a finding's code for evidence of this kind; ``evidence`` when unknown."""
    return next((p.family for p in _PLATFORMS if p.evidence_kind == evidence_kind), "evidence")

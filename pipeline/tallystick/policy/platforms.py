"""What a platform is: the claims of its evidence, the registers that a tuple must pin, and its strict defaults.

The rows are in :mod:`tallystick.policy.hardware`. Adding one is a decision record and a row there; a platform
that is not in the table is unsupported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache

from tallystick.core.errors import Unsupported
from tallystick.core.expect import Exactly, Expect

# Labels of roots that anybody can make at home. No production policy accepts them (DESIGN.md, invariant 8).
DEVELOPMENT_ROOTS = {
    "software-tpm": "a TPM in software: who has its state file can sign anything",
    "embedded-dev": "a Sigstore made by `tally init` on somebody's machine",
}
# The issuer that the embedded Sigstore writes into its certificates.
DEVELOPMENT_ISSUERS = ("https://tallystick.local/embedded-dev",)


class ClaimType(Enum):
    """What a claim's value is, and how it is spelled."""

    BYTES6 = ("12 lower-case hex digits", r"[0-9a-f]{12}")
    BYTES8 = ("16 lower-case hex digits", r"[0-9a-f]{16}")
    BYTES16 = ("32 lower-case hex digits", r"[0-9a-f]{32}")
    SHA256 = ("64 lower-case hex digits", r"[0-9a-f]{64}")
    SHA384 = ("96 lower-case hex digits", r"[0-9a-f]{96}")
    BYTES64 = ("128 lower-case hex digits", r"[0-9a-f]{128}")
    REALM = ("64, 96 or 128 lower-case hex digits", r"[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128}")
    HEX = ("lower-case hex digits", r"([0-9a-f]{2}){1,256}")
    OCI_DIGEST = ("sha256: and 64 lower-case hex digits", r"sha256:[0-9a-f]{64}")
    TEXT = ("a text", r"(?s).{1,4096}")
    TEXTS = ("a list of texts", r"(?s).{1,4095}.?")  # of each
    INTEGER = ("a whole number", None)
    BOOLEAN = ("true or false", None)

    def __init__(self, want: str, pattern: str | None) -> None:
        self.want = want
        self.pattern = pattern

    def holds(self, value: object) -> bool:
        """Say whether ``value`` is of this type, strictly: True is no number and "1" is neither.

        Of a list's type this is asked of each element.
        """
        if self is ClaimType.BOOLEAN:
            return isinstance(value, bool)
        if self is ClaimType.INTEGER:
            return isinstance(value, int) and not isinstance(value, bool)
        return isinstance(value, str) and re.fullmatch(self.pattern or "", value) is not None


class Strength(Enum):
    """Whose word a claim about a machine's place is. The later, the stronger."""

    SELF_ASSERTED = "self-asserted"  # the workload says so itself
    PROVIDER_SIGNED = "provider-signed"  # the cloud provider signed it
    HARDWARE = "hardware"  # the processor's own key signed it

    def covers(self, wanted: Strength) -> bool:
        """Say whether this source is at least as strong as ``wanted``."""
        order = list(Strength)
        return order.index(self) >= order.index(wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceClaim:
    """Where a platform's evidence says something of its place."""

    name: str  # "zone": one of PLACES
    path: str
    strength: Strength


PLACES = ("region", "zone", "account", "tenancy", "provider")


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """One kind of machine, or of device in one, that evidence can come from."""

    name: str
    evidence_kind: str
    family: str  # begins the codes of findings: "tpm.pcr04.mismatch"
    pinned: tuple[tuple[str, ClaimType], ...]  # registers: each is pinned by every tuple, or waived by name
    never_zero: tuple[str, ...]  # registers that a measured launch always extends
    claims: tuple[tuple[str, ClaimType], ...]  # what evidence says beside the registers
    debug_off: tuple[tuple[str, Exactly], ...]  # claims that say a debugger can not look inside
    strict: tuple[
        tuple[str, Expect], ...
    ] = ()  # what holds unless the policy says something else of the claim
    stated: tuple[str, ...] = ()  # claims that have no strict default, and that every policy must state
    places: tuple[PlaceClaim, ...] = ()
    device: bool = False  # evidence of it accompanies that of a machine; it has no registers of its own
    _types: Mapping[str, ClaimType] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the claims."""
        object.__setattr__(self, "_types", dict((*self.claims, *self.pinned)))

    @property
    def registers(self) -> tuple[str, ...]:
        """The names of the registers."""
        return tuple(name for name, _ in self.pinned)

    def claim_type(self, path: str) -> ClaimType | None:
        """Return the type of the claim at ``path``, or None when this platform's evidence has none."""
        return self._types.get(path)

    def place(self, name: str) -> PlaceClaim | None:
        """Return what evidence says of ``name`` ("zone"), or None when it says nothing."""
        return next((place for place in self.places if place.name == name), None)


def platform(name: str, at: str = "platform") -> Platform:
    """Return the platform called ``name``.

    Args:
        at: the place that named it, for the error.

    Raises:
        Unsupported: not in the table.
    """
    known = known_platform(name)
    if known is None:
        raise Unsupported("policy", at=at, want="one of " + ", ".join(_table()), got=name)
    return known


def known_platform(name: str) -> Platform | None:
    """Return the platform called ``name``, or None when it is not in the table."""
    return _table().get(name)


def platforms() -> tuple[Platform, ...]:
    """Return every platform, sorted by name."""
    return tuple(_table().values())


def family(evidence_kind: str) -> str:
    """Return the word that begins a finding's code for evidence of this kind; ``evidence`` when unknown."""
    return next((p.family for p in platforms() if p.evidence_kind == evidence_kind), "evidence")


@lru_cache(maxsize=1)
def _table() -> dict[str, Platform]:
    from tallystick.policy.hardware import PLATFORMS

    return {known.name: known for known in sorted(PLATFORMS, key=lambda known: known.name)}

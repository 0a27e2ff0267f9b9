"""The two ways in which compiling fails, beside a refusal by the policy itself."""

from __future__ import annotations

from tallystick.core.errors import Exit, Refused, TallystickError


class Inexpressible(TallystickError):
    """A target's language has no words for a requirement, or no room for the set; every one is named."""

    exit = Exit.UNSUPPORTED
    default_code = "target.inexpressible"


class Unproven(Refused):
    """What was emitted accepts something that was not released, or refuses what was. Nothing is written."""

    default_code = "prove.failed"

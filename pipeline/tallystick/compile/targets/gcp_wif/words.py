"""How Google's token of Confidential Space calls what we call the same: our claim names are its own."""

from __future__ import annotations

from tallystick.compile.targets.claims import Vocabulary
from tallystick.policy.platforms import ClaimType, platform

NAME = "gcp-wif"
PLATFORM = "gcp-confidential-space"
DIGEST = "submods.container.image_digest"
PROJECT, INSTANCE = "submods.gce.project_number", "submods.gce.instance_id"
# A token is valid for an hour, and so is the access token that it is exchanged for.
TOKEN_SECONDS = 2 * 3_600
_KNOWN = platform(PLATFORM)
_TYPES = {
    path: kind
    for path in (*_KNOWN.registers, *(name for name, _ in _KNOWN.claims))
    if (kind := _KNOWN.claim_type(path)) is not None
    # A JSON number is a double in CEL: whole numbers can not be told from others there. The two others are ours.
    and kind is not ClaimType.INTEGER
    and path not in ("attester_tcb", "signed_by")
}
WORDS = {
    PLATFORM: Vocabulary(
        platform=PLATFORM, roots=("google-confidential-space",), names={path: path for path in _TYPES}
    )
}
# Google leaves these lists out when they are empty.
OMITTED = frozenset({"submods.container.cmd_override"})

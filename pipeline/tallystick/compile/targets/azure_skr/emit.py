"""The release policy, and the attestation policy of an instance of one's own.

The release policy can only say ``equals``: whole tuples, and claims that are exactly so. Minimums are in the
attestation policy, whose hash the release policy asks for, so that no token of another policy will do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tallystick.compile.errors import Inexpressible
from tallystick.compile.targets.azure_skr.attestation import policy_hash
from tallystick.compile.targets.azure_skr.choice import AzureSkrTarget
from tallystick.compile.targets.azure_skr.document import VERSION
from tallystick.compile.targets.azure_skr.words import ATTESTATION_TYPES, NAME, POLICY_HASH, WORDS
from tallystick.compile.targets.claims import Row, asked, rows
from tallystick.core import expect as expects
from tallystick.core.expect import Expect
from tallystick.policy.normal import NormalForm

RELEASE_POLICY = "release-policy.json"
ATTESTATION_POLICY = "attestation-policy-sevsnpvm.txt"
SNP_TYPE = "SevSnpVm"
_HEADER_CLAIM = "tallystick-normal-form"
_NOBODY = {"allOf": [{"claim": "x-ms-attestation-type", "equals": text} for text in ("nobody", "nothing")]}


def release_policy(form: NormalForm, choice: AzureSkrTarget, attestation_policy: bytes | None) -> bytes:
    """Return the release policy's bytes; ``attestation_policy`` is what its tokens must have passed."""
    released = rows(form, NAME, WORDS)
    branches = []
    for platform in sorted({row.platform for row in released}):
        ours = [row for row in released if row.platform == platform]
        branch = list(_common(form, platform))
        if attestation_policy is not None and platform in ATTESTATION_TYPES:
            branch.append({"claim": POLICY_HASH, "equals": policy_hash(attestation_policy)})
        branches.append({"allOf": [*branch, {"anyOf": [_tuple(row) for row in ours]}]})
    document = {
        "version": VERSION,
        "anyOf": [{"authority": choice.authority, "anyOf": branches or [_NOBODY]}],
    }
    return (json.dumps(document, indent=1) + "\n").encode()


def attestation_policy(form: NormalForm, choice: AzureSkrTarget, header: str) -> bytes | None:
    """Return the attestation policy of SNP, or None where the instance is not ours or nothing needs one.

    Raises:
        Inexpressible: two platforms of the one attestation type ask for different things.
    """
    platforms = [rule.platform for rule in form.platforms if rule.platform in ATTESTATION_TYPES]
    if choice.shared or not platforms:
        return None
    found = {platform: tuple(_claims(form, platform)) for platform in platforms}
    if len(set(found.values())) > 1:
        names = " and ".join(sorted(found))
        raise Inexpressible(
            f"{NAME}: {names} ask for different claims, and an instance has one attestation policy for both",
            code="azure.attestation-policy.two",
        )
    conditions = "\n    && ".join(next(iter(found.values())))
    if not conditions:
        return None
    text = (
        "version= 1.0;\nauthorizationrules\n{\n"
        f"    {conditions}\n    => permit();\n}};\n"
        "issuancerules\n{\n"
        f'    => issue(type="{_HEADER_CLAIM}", value="{header}");\n'
        f'    => issueproperty(type="report_validity_in_minutes", value={choice.token_minutes});\n}};\n'
    )
    return text.encode()


def _claims(form: NormalForm, platform: str) -> Iterator[str]:
    for one in asked(form, NAME, platform):
        claim = WORDS[platform].names[one.path]
        for comparison in _comparison(one.expect):
            yield f'[type=="{claim}", issuer=="AttestationService", value{comparison}]'


def _comparison(expect: Expect) -> Iterator[str]:
    match expect:
        case expects.AtLeast(minimum):
            yield f">={minimum}"
        case expects.Exactly(value):
            yield f"=={json.dumps(value)}"
        case expects.OneOf(values) if len(values) == 1:
            yield f"=={json.dumps(values[0])}"
        case _:
            return  # the release policy says it


def _common(form: NormalForm, platform: str) -> Iterator[dict[str, Any]]:
    vocabulary = WORDS[platform]
    for claim, expect in vocabulary.fixed:
        yield from _equals(claim, expect)
    for one in asked(form, NAME, platform):
        yield from _equals(vocabulary.names[one.path], one.expect)


def _equals(claim: str, expect: Expect) -> Iterator[dict[str, Any]]:
    match expect:
        case expects.Exactly(value):
            yield {"claim": claim, "equals": value}
        case expects.OneOf(values):
            yield {"anyOf": [{"claim": claim, "equals": value} for value in values]}
        case _:
            return  # the attestation policy says it


def _tuple(row: Row) -> dict[str, Any]:
    return {"allOf": [{"claim": claim, "equals": value} for claim, value in row.pins]}

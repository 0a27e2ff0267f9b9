"""The provider's mapping and condition, and the allow policy of the keys.

The condition says what every machine must be. Which images may have the keys is said by one ``principalSet`` for each
image digest in the keys' allow policy, and in the condition as well while it has room for the digests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from tallystick.compile.errors import Inexpressible
from tallystick.compile.targets.claims import asked, rows
from tallystick.compile.targets.gcp_wif.cel import quoted
from tallystick.compile.targets.gcp_wif.choice import GcpWifTarget
from tallystick.compile.targets.gcp_wif.words import DIGEST, INSTANCE, NAME, OMITTED, PLATFORM, PROJECT, WORDS
from tallystick.core import expect as expects
from tallystick.core.expect import Expect, Scalar
from tallystick.core.findings import Finding
from tallystick.policy.normal import NormalForm

CONDITION = "condition.cel"
MAPPING = "attribute-mapping.txt"
ALLOW_POLICY = "iam-policy.json"
ROLE = "roles/cloudkms.cryptoKeyDecrypter"
MOST_CHARACTERS = 4_096  # of a provider's attribute condition
MOST_PRINCIPALS = 1_500  # of one allow policy (IAM, "Quotas and limits")
ATTRIBUTE = "image_digest"
_NEVER = "false"


def mapping() -> str:
    """Return the attribute mapping, as ``gcloud`` takes it."""
    parts = [f"assertion.{path}" for path in (DIGEST, PROJECT, INSTANCE)]
    subject = '"gcpcs::"+' + '+"::"+'.join(parts)
    return f"google.subject={subject},attribute.{ATTRIBUTE}=assertion.{DIGEST}"


def digests(form: NormalForm) -> tuple[str, ...]:
    """Return the released image digests, sorted."""
    return tuple(sorted({str(dict(row.pins)[DIGEST]) for row in rows(form, NAME, WORDS)}))


def condition(form: NormalForm) -> str:
    """Return the provider's attribute condition.

    Raises:
        Inexpressible: what is asked of every machine is longer than a condition may be.
    """
    if not digests(form):
        return _NEVER
    common = _common(form)
    if has_room(form):
        return f"{common} && {_images(form)}" if common else _images(form)
    if len(common) > MOST_CHARACTERS or not common:
        finding = Finding(
            "gcp.limit.condition", CONDITION, f"at most {MOST_CHARACTERS} characters", str(len(common))
        )
        raise Inexpressible(f"{NAME}: the condition is too long", code="target.size", findings=[finding])
    return common


def has_room(form: NormalForm) -> bool:
    """Say whether the condition has room for the digests of all images."""
    return len(f"{_common(form)} && {_images(form)}") <= MOST_CHARACTERS


def _common(form: NormalForm) -> str:
    return " && ".join(part for one in asked(form, NAME, PLATFORM) for part in said(one.path, one.expect))


def _images(form: NormalForm) -> str:
    return f"assertion.{DIGEST} in [{', '.join(map(quoted, digests(form)))}]"


def allow_policy(form: NormalForm, choice: GcpWifTarget, header: str, end: str) -> bytes:
    """Return the keys' allow policy: one member for each image, until the end.

    Raises:
        Inexpressible: more images than an allow policy has members.
    """
    found = digests(form)
    if len(found) > MOST_PRINCIPALS:
        finding = Finding("gcp.limit.principals", ALLOW_POLICY, f"at most {MOST_PRINCIPALS}", str(len(found)))
        raise Inexpressible(
            f"{NAME}: {len(found)} images do not fit into one allow policy; {MOST_PRINCIPALS} would",
            code="target.size",
            findings=[finding],
        )
    bindings = []
    if found:
        bindings.append(
            {
                "role": ROLE,
                "members": [f"{principals(choice)}{digest}" for digest in found],
                "condition": {
                    "title": "tallystick",
                    "description": header,
                    "expression": f"request.time <= timestamp({quoted(end)})",
                },
            }
        )
    return (json.dumps({"version": 3, "bindings": bindings}, indent=1) + "\n").encode()


def principals(choice: GcpWifTarget) -> str:
    """Return the name of a set of principals, without the attribute's value at its end."""
    pool = f"projects/{choice.project_number}/locations/global/workloadIdentityPools/{choice.pool}"
    return f"principalSet://iam.googleapis.com/{pool}/attribute.{ATTRIBUTE}/"


def said(path: str, expect: Expect) -> Iterator[str]:
    """Yield the parts of the condition that say ``expect`` of the claim at ``path``."""
    claim = f"assertion.{path}"
    match expect:
        case expects.Exactly(value):
            yield f"{claim} == {_literal(value)}"
        case expects.OneOf(values):
            yield f"{claim} in [{', '.join(map(_literal, values))}]"
        case expects.NoneOf(values):
            yield f"{claim}.startsWith('')"  # an error for what is no text; a number would be none of the texts
            yield f"!({claim} in [{', '.join(map(_literal, values))}])"
        case expects.Includes(members):
            yield from _texts(claim)
            yield from (f"{quoted(member)} in {claim}" for member in members)
        case expects.Excludes(members):
            yield from _texts(claim)
            yield from (f"!({quoted(member)} in {claim})" for member in members)
        case expects.Only(members):
            inside = f"{claim} == []"
            if members:
                inside = f"{_is_list(claim)} && {claim}.all(a, a in [{', '.join(map(quoted, members))}])"
            yield f"(!has({claim}) || ({inside}))" if path in OMITTED else inside
        case _:
            raise ValueError(f"{expect} can not be said, and compiling went on")


def _texts(claim: str) -> Iterator[str]:
    """A list of texts, and nothing else: what is no text has no beginning."""
    yield _is_list(claim)
    yield f"{claim}.all(a, a.startsWith(''))"


def _is_list(claim: str) -> str:
    """Nothing but a list can be lengthened by one: a text is a list of characters to one engine."""
    return f"size({claim} + []) >= 0"


def _literal(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    raise ValueError("whole numbers are not said here")

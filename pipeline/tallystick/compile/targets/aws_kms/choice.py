"""What a policy says of its KMS keys: who administers them, who asks for them, and which ones they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.compile.targets import keyids
from tallystick.formats.yamldoc import Fields
from tallystick.policy.model import Target, Waiver

# A role or a user, by its whole name: an account, a session or a pattern is somebody else.
_PRINCIPAL = (
    r"arn:aws(-[a-z]+)*:iam::[0-9]{12}:(role|user)/[A-Za-z0-9+=,.@_/-]{1,512}",
    "the ARN of an IAM role or user",
)
_KEY = (
    r"arn:aws(-[a-z]+)*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]{1,64}",
    "the ARN of a KMS key",
)
_PRINCIPALS = {
    "type": "array",
    "items": {"type": "string", "pattern": f"^{_PRINCIPAL[0]}$"},
    "minItems": 1,
    "uniqueItems": True,
}
SCHEMA: Mapping[str, Any] = {
    "properties": {
        "administrators": _PRINCIPALS,
        "workloads": _PRINCIPALS,
        "keys": keyids.schema(_KEY[0]),
    },
    "required": ["administrators", "keys", "workloads"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsKmsTarget(Target):
    """The policy's keys as KMS keys of one AWS account."""

    administrators: tuple[str, ...]  # ARNs of roles or users, sorted
    workloads: tuple[str, ...]  # ARNs of the roles that machines with the releases have, sorted
    keys: tuple[tuple[str, str], ...]  # our key -> ARN of the KMS key, sorted

    @property
    def words(self) -> str:
        """One line of what its owner says."""
        keys = ", ".join(f"{key} is {arn}" for key, arn in self.keys)
        return (
            f"administered by {', '.join(self.administrators)}, asked by {', '.join(self.workloads)}; {keys}"
        )


def read(fields: Fields, waivers: tuple[Waiver, ...]) -> AwsKmsTarget:
    """Return the entry of a policy; Malformed when a field is not of its form."""
    return AwsKmsTarget(
        name="aws-kms",
        place=fields.place,
        waivers=waivers,
        administrators=_principals(fields, "administrators"),
        workloads=_principals(fields, "workloads"),
        keys=keyids.read(fields, *_KEY),
    )


def of(target: Target) -> AwsKmsTarget:
    """Return ``target`` as what it is; ValueError for another target's: a caller's bug."""
    if not isinstance(target, AwsKmsTarget):
        raise ValueError("the aws-kms target takes a policy's aws-kms entry")
    return target


def _principals(fields: Fields, name: str) -> tuple[str, ...]:
    node = fields.peek(name)
    found = tuple(sorted(set(fields.texts(name, *_PRINCIPAL))))
    if not found:
        raise fields.bad(name, node, want="at least one")
    return found

"""What a policy says of its KMS keys: who administers them, who asks for them, and which ones they are."""

from __future__ import annotations

from dataclasses import dataclass

from tallystick.policy.model import Target


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

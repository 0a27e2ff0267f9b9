"""A policy file read with the targets of this version."""

from __future__ import annotations

from tallystick.compile.targets.registry import read_target
from tallystick.policy import load as loading
from tallystick.policy.model import Policy


def load(data: bytes) -> Policy:
    """Return the policy that the YAML text ``data`` is; errors as :func:`tallystick.policy.load.load`."""
    return loading.load(data, read_target)

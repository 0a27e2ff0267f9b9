"""Launch shapes: the host-side inputs that a measurement depends on, by platform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchShape:
    """One platform and the host's inputs on it: what a recipe lists, and a tuple is predicted for."""

    platform: str  # "qemu-vtpm"
    values: tuple[tuple[str, int | str], ...]  # sorted: (("ram_mib", 512), ("vcpus", 1), ("vmm", "qemu"))

    @classmethod
    def of(cls, platform: str, values: Mapping[str, int | str]) -> LaunchShape:
        """Return the shape with ``values`` in their order. The platform's own module checks them."""
        return cls(platform=platform, values=tuple(sorted(values.items())))

"""The targets, one row each: a name, and the module that has its ``BACKEND``. Loaded when it is asked for.

docs/targets.md says how to add one: write a module with a :class:`tallystick.compile.targets.base.Backend` called
``BACKEND``, and add its row here.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import cast

from tallystick.compile.targets.base import Backend
from tallystick.core.errors import Misuse, Unsupported
from tallystick.formats.yamldoc import Fields, Place
from tallystick.policy import sections
from tallystick.policy.model import Target

MODULES = {
    "broker": "broker",
    "trustee": "trustee.target",
    "aws-kms": "aws_kms.target",
    "azure-skr": "azure_skr.target",
    "gcp-wif": "gcp_wif.target",
    "intel-ita": "intel_ita.target",
    "corim": "corim.target",
    "contrast": "contrast.target",
    "keylime": "keylime.target",
    "nvidia": "nvidia.target",
    "vault-jwt": "vault_jwt.target",
}


@cache
def names() -> tuple[str, ...]:
    """Return the targets of this version, sorted."""
    return tuple(sorted(name for name in MODULES if _module(name)))


@cache
def backend(name: str) -> Backend:
    """Return the target called ``name``; Misuse when there is none."""
    module = _module(name)
    if not module:
        raise Misuse(f"there is no target {name}; known are {', '.join(names())}", code="target.unknown")
    return cast(Backend, importlib.import_module(module).BACKEND)


def read_target(name: str, fields: Fields, place: Place) -> Target:
    """Return one entry of a policy's ``targets``. A target without ``waivers`` waives nothing.

    Args:
        place: where the target's name stands.

    Raises:
        Malformed: a field of the wrong form. Unsupported: no such target.
    """
    if name not in names():
        want = "one of " + ", ".join(names())
        raise Unsupported("policy", at=f"target ({place})", want=want, got=name)
    waivers = sections.waivers(fields) if fields.has("waivers") else ()
    return backend(name).choice(fields, waivers)


def _module(name: str) -> str:
    """Return the full name of the module for ``name``; "" when there is none."""
    if name not in MODULES:
        return ""
    package, _, _ = MODULES[name].partition(".")
    found = importlib.util.find_spec(f"{__package__}.{package}")
    return f"{__package__}.{MODULES[name]}" if found is not None else ""

"""The manifests for Contrast, and what they can not say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tallystick.compile.targets.base import Emitted, Lack
from tallystick.compile.targets.common import papers, view
from tallystick.compile.targets.common.view import Row
from tallystick.compile.targets.contrast.choice import PRODUCTS, Contrast
from tallystick.compile.targets.contrast.manifest import FIXED, GUEST_POLICY, PLATFORM_INFO, TCB
from tallystick.core.expect import AtLeast, Exactly, Expect, OneOf
from tallystick.policy.constraints import Constraint, constraints
from tallystick.policy.normal import NormalForm, PlatformRule

NAME = "contrast"
LABEL = "Edgeless Contrast"
ABOUT = "about.json"
HANDSHAKE_SECONDS = 60  # a Coordinator's nonce is made for one connection
ABI_MINOR = {"azure-aci": 31}  # of the guest policy; 0 elsewhere
_HOST_DATA = {"amd-sev-snp": "init_data", "azure-aci": "host_data"}
_REGISTERS = frozenset({"init_data", "host_data", "measurement"})
_TCB = {f"reported_tcb_{part}" for part in TCB.values()}
_FLAGS = {claim: (name, demanding) for name, (claim, demanding) in (GUEST_POLICY | PLATFORM_INFO).items()}
NAMES = {"snp-report": dict.fromkeys((*_REGISTERS, *_TCB, *_FLAGS, "vmpl", "product", "chip_id"))}
ROOTS = {"snp-report": "amd"}
KEYS = Lack(
    requirement="keys",
    why="a Coordinator derives one secret for a workload from its own seed, and holds no keys of anybody else: "
    "the policy's keys have to be wrapped under that secret",
)
END = Lack(requirement="end", why="a manifest has no end: it holds until another one is set")


def file_name(number: int) -> str:
    """Return the name of the manifest with this number."""
    return f"manifest_{number}.json"


def says(kind: str, path: str, expect: Expect) -> bool:
    """Say whether a manifest has words for ``expect`` of a claim of an SNP report."""
    if path in _TCB:
        return isinstance(expect, AtLeast) and 0 <= expect.minimum <= 255
    if path in _FLAGS:
        name, demanding = _FLAGS[path]
        fixed = name in GUEST_POLICY and FIXED.get(name, demanding) is not demanding
        return expect == Exactly(demanding) and not fixed
    if path == "vmpl":
        return expect == Exactly(0)
    if path == "product":
        return isinstance(expect, Exactly | OneOf) and bool(_values(expect) & set(PRODUCTS))
    return path == "chip_id" and isinstance(expect, Exactly | OneOf)


def lacks(form: NormalForm, choice: Contrast) -> Iterator[Lack]:
    """Yield every requirement of ``form`` that a manifest can not express."""
    yield from view.lacks(form, NAMES, ROOTS, says, "Contrast")
    yield from view.lacks_devices(form, "a Coordinator")
    yield KEYS
    yield END


def assumptions(choice: Contrast) -> tuple[str, ...]:
    """Return what the deployment must be, because no manifest can say it."""
    owners = (
        "nobody can set another manifest"
        if not choice.workload_owners
        else "the workload owners' keys are safe"
    )
    return (
        (
            "Contrast: each manifest is another Coordinator's. One Coordinator has one manifest, and combines every "
            "policy hash in it with every Reference Value"
        ),
        f"Contrast: {owners}; who can set a manifest decides who gets secrets",
        "Contrast: a CA certificate and secrets that were handed out stay good after the manifest changes",
        "Contrast: the guest is launched with Contrast's own ID block, which its validator asks for",
    )


def emit(form: NormalForm, choice: Contrast) -> Emitted:
    """Return the files; :meth:`Backend.emit` says more."""
    whys = {lack.requirement: lack.why for lack in lacks(form, choice)}
    left = view.served(form, NAME)
    assumes = assumptions(choice)
    groups = _groups(left)
    files = {file_name(n): _manifest(left, choice, rows) for n, rows in enumerate(groups)}
    about = papers.summary(form, NAME) | {
        "manifests": {
            file_name(n): sorted({str(digest) for row in rows for digest in row.releases})
            for n, rows in enumerate(groups)
        }
    }
    files[ABOUT] = (json.dumps(about, indent=2) + "\n").encode()
    files[papers.RESIDUAL] = papers.residual(form, NAME, LABEL, whys, assumes)
    files[papers.README] = papers.readme(form, NAME, LABEL, assumes, _apply(len(groups)))
    return Emitted(
        target=NAME,
        files=dict(sorted(files.items())),
        max_age_seconds=min(HANDSHAKE_SECONDS, form.max_age_seconds),
        not_after=view.end(form, NAME),
        assumes=assumes,
    )


def _groups(left: NormalForm) -> list[tuple[Row, ...]]:
    """Return the tuples, those of one measurement together: a manifest combines whatever stands in it."""
    found: dict[tuple[str, object], list[Row]] = {}
    for row in view.rows(left):
        found.setdefault((row.platform, dict(row.pinned).get("measurement")), []).append(row)
    return [tuple(rows) for rows in found.values()]


def _manifest(left: NormalForm, choice: Contrast, rows: tuple[Row, ...]) -> bytes:
    rule = view.rule_of(left, rows[0])
    pins = [dict(row.pinned) for row in rows]
    policies = {
        str(pin[_HOST_DATA[rows[0].platform]]): {
            "SANs": list(choice.sans),
            "WorkloadSecretID": left.policy,
        }
        for pin in pins
    }
    policies[choice.coordinator] = {"SANs": ["coordinator"], "Role": "coordinator"}
    found = {
        "Policies": dict(sorted(policies.items())),
        "ReferenceValues": {
            "snp": [
                _reference_value(product, str(pins[0]["measurement"]), rule)
                for product in _products(rule, choice)
            ]
        },
        "WorkloadOwnerKeyDigests": list(choice.workload_owners),
        "SeedshareOwnerPubKeys": list(choice.seedshare_owners),
    }
    return (json.dumps(found, indent=2) + "\n").encode()


def _products(rule: PlatformRule, choice: Contrast) -> tuple[str, ...]:
    """Return the processors that the deployment has and the policy takes."""
    asked = [_values(one.expect) for one in constraints(rule) if one.path == "product"]
    return tuple(product for product in choice.products if all(product in values for values in asked))


def _reference_value(product: str, measurement: str, rule: PlatformRule) -> dict[str, Any]:
    asked = constraints(rule)
    return {
        "ProductName": product,
        "TrustedMeasurement": measurement,
        "MinimumTCB": {name: _least(asked, f"reported_tcb_{part}") for name, part in TCB.items()},
        "GuestPolicy": {
            "ABIMinor": ABI_MINOR.get(rule.platform, 0),
            "ABIMajor": 0,
            **{name: FIXED.get(name, _flag(asked, name, GUEST_POLICY[name])) for name in GUEST_POLICY},
        },
        "PlatformInfo": {name: _flag(asked, name, about) for name, about in PLATFORM_INFO.items()},
        "AllowedChipIDs": _chips(asked),
    }


def _least(asked: tuple[Constraint, ...], path: str) -> int:
    return max(
        (one.expect.minimum for one in asked if one.path == path and isinstance(one.expect, AtLeast)),
        default=0,
    )


def _flag(asked: tuple[Constraint, ...], name: str, about: tuple[str, bool]) -> bool:
    """Return the value that asks for something when the policy asks for it, and otherwise the other one."""
    claim, demanding = about
    wanted = any(one.path == claim for one in asked)
    return demanding if wanted else not demanding


def _chips(asked: tuple[Constraint, ...]) -> list[str]:
    lists = [_values(one.expect) for one in asked if one.path == "chip_id"]
    return sorted(str(chip) for chip in set.intersection(*lists)) if lists else []


def _values(expect: Expect) -> set[object]:
    if isinstance(expect, Exactly):
        return {expect.value}
    return set(expect.values) if isinstance(expect, OneOf) else set()


def _apply(count: int) -> str:
    names = "\n".join(
        f'contrast set -c "coordinator-{number}:1313" -m {file_name(number)} deployment/   # generated with it'
        for number in range(count)
    )
    return f"""## Apply

A Coordinator accepts every policy hash of its manifest with every Reference Value of it. Releases with another launch
measurement therefore have a manifest, and a Coordinator, of their own: {count} here.

```sh
# 1. Compare: `contrast generate` must come to the same policy hashes for your deployment as stand in the manifest.
# 2. Set each manifest at its Coordinator, signed with a workload owner's key (--workload-owner-key)
{names}
# 3. Read it back: contrast verify -c "coordinator-0:1313" -m manifest_0.json
```

To revoke a release compile again and set the manifest without it; workloads that run keep what they were given.
"""

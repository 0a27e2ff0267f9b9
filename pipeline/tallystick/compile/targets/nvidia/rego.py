"""A relying-party policy for GPUs. The SDK hands it a list of claims, one object for each device.

Source: NVIDIA/attestation-sdk (73c032e), nv-attestation-sdk-cpp: src/claims_evaluator.cpp (``data.policy.nv_match``
must be a boolean; the shipped policy's checks of certificate chains), src/gpu/claims.cpp (claims version 3),
src/rego_engine/regorus_rego_engine.cpp (regorus in its Rego v0 mode, where ``import rego.v1`` gives today's syntax).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime

from tallystick.core.expect import AtLeastVersion, Exactly, Expect, NoneOf, OneOf, version_of
from tallystick.policy.constraints import constraints
from tallystick.policy.normal import DeviceRule

BUILTINS = frozenset(
    {"count", "is_array", "is_string", "regex.match", "split", "time.now_ns", "to_number", "trim_left"}
)
CHAINS = tuple(
    f"x-nvidia-gpu-{name}-cert-chain" for name in ("attestation-report", "driver-rim", "vbios-rim")
)
CHAIN: tuple[tuple[str, str | bool], ...] = (
    ("x-nvidia-cert-status", "valid"),
    ("x-nvidia-cert-ocsp-status", "good"),
    ("x-nvidia-cert-ocsp-nonce-matches", True),
    ("x-nvidia-cert-ocsp-response-valid", True),
)
# What the verifier found of the report itself: a policy that does not ask takes a report whose signature fails.
GENUINE: tuple[tuple[str, str | bool], ...] = (
    ("x-nvidia-device-type", "gpu"),
    ("x-nvidia-gpu-claims-version", "3.0"),
    ("x-nvidia-gpu-attestation-report-parsed", True),
    ("x-nvidia-gpu-attestation-report-signature-verified", True),
    ("x-nvidia-gpu-attestation-report-nonce-match", True),
    ("x-nvidia-gpu-attestation-report-cert-chain-fwid-match", True),
    ("x-nvidia-gpu-arch-check", True),
    ("x-nvidia-gpu-driver-rim-fetched", True),
    ("x-nvidia-gpu-driver-rim-signature-verified", True),
    ("x-nvidia-gpu-driver-rim-version-match", True),
    ("x-nvidia-gpu-driver-rim-measurements-available", True),
    ("x-nvidia-gpu-vbios-rim-fetched", True),
    ("x-nvidia-gpu-vbios-rim-signature-verified", True),
    ("x-nvidia-gpu-vbios-rim-version-match", True),
    ("x-nvidia-gpu-vbios-rim-measurements-available", True),
    ("x-nvidia-gpu-vbios-index-no-conflict", True),
)
CLAIMS = frozenset(
    {
        *("measres", "secboot", "dbgstat", "hwmodel", "ueid"),
        *("x-nvidia-gpu-driver-version", "x-nvidia-gpu-vbios-version"),
        *(name for name, _ in GENUINE),
    }
)
_SECOND = 1_000_000_000
# Part of a version as a number: "03" is 3, and to_number takes no zeros in front.
_NUMBER = (
    "",
    "number(part) := to_number(digits) if {",
    '\tdigits := trim_left(part, "0")',
    '\tdigits != ""',
    "}",
    "",
    'number(part) := 0 if trim_left(part, "0") == ""',
)
_VERSION = "^(0|[1-9][0-9]{0,8})(\\\\.[0-9]{1,9}){0,7}$"


def says(path: str, expect: Expect) -> bool:
    """Say whether a policy has words for ``expect`` of a GPU's claim."""
    if isinstance(expect, NoneOf):
        return all(isinstance(value, str) for value in expect.values)
    return path in CLAIMS and isinstance(expect, Exactly | OneOf | AtLeastVersion)


def policy(rule: DeviceRule, ends: datetime, head: Iterable[str]) -> str:
    """Return a policy that matches when at least ``rule.least`` GPUs are shown, and each of them is as asked."""
    return "\n".join(_lines(rule, ends, head)) + "\n"


def _lines(rule: DeviceRule, ends: datetime, head: Iterable[str]) -> Iterator[str]:
    yield from (f"# {line}".rstrip() for line in head)
    yield from ("", "package policy", "", "import rego.v1", "", "default nv_match := false", "")
    yield from ("now_ns := time.now_ns()", "", "nv_match if {")
    yield f"\tnow_ns <= {int(ends.timestamp()) * _SECOND}"
    yield "\tis_array(input)"
    yield f"\tcount(input) >= {rule.least}"
    yield "\tevery device in input {"
    yield "\t\tgenuine(device)"
    yield "\t\tas_asked(device)"
    yield from ("\t}", "}", "", "genuine(device) if {")
    yield from (f"\tdevice[{json.dumps(name)}] == {json.dumps(value)}" for name, value in GENUINE)
    for chain in CHAINS:
        for name, value in CHAIN:
            yield f"\tdevice[{json.dumps(chain)}][{json.dumps(name)}] == {json.dumps(value)}"
    yield from ("}", "", "as_asked(device) if {")
    for one in constraints(rule):
        yield from (f"\t{line}" for line in _condition(f"device[{json.dumps(one.path)}]", one.expect))
    yield "}"
    if any(isinstance(one.expect, AtLeastVersion) for one in constraints(rule)):
        yield from _NUMBER


def _condition(claim: str, expect: Expect) -> Iterator[str]:
    if isinstance(expect, Exactly):
        yield f"{claim} == {json.dumps(expect.value)}"
    elif isinstance(expect, OneOf):
        yield f"{claim} in {_set(expect.values)}"
    elif isinstance(expect, NoneOf):
        yield f"is_string({claim})"
        yield f"not {claim} in {_set(expect.values)}"
    elif isinstance(expect, AtLeastVersion):
        least = list(version_of(expect.minimum) or ())
        yield f"is_string({claim})"
        yield f'regex.match("{_VERSION}", {claim})'
        yield f'[number(part) | some part in split({claim}, ".")] >= {json.dumps(least)}'
    else:
        raise ValueError(f"{type(expect).__name__} has no words here")


def _set(values: Iterable[object]) -> str:
    return "{" + ", ".join(json.dumps(value) for value in values) + "}"

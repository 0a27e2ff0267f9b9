"""What surrounds good evidence, and goes wrong: Reference Values, attestation tokens and requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from tallystick.compile.targets.trustee import limits, rego

_OTHER_TYPES: tuple[Any, ...] = (None, True, "x", 1, [], {})


def degraded(values: Mapping[str, Any], foreign: Iterable[str]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield what the RVPS may hold beside what was sent: nothing, too little, too much, or something else.

    With each comes the claim that it is about, if it is about one.

    Args:
        foreign: release digests that were not released, and that a policy names all the same.
    """
    yield "no Reference Values", {}, ""
    for what, other in (("null", None), ("true", True), ("a text", "x"), ("an object", {}), ("a list", [[]])):
        yield f"{what} as Reference Value", dict.fromkeys(values, other), ""
    for name, rows in values.items():
        if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
            continue
        row = rows[0]
        stale = {**row, "release": "sha256:" + "0" * 64}
        others: list[tuple[str, Any, str]] = [
            *((f"a tuple of {digest}", [{**row, "release": digest}], "") for digest in foreign),
            ("a tuple of a release that is not permitted", [stale], ""),
            ("a tuple without claims", [{"release": row.get("release")}], ""),
            ("a tuple of nulls", [dict.fromkeys(row) | {"release": row.get("release")}], ""),
            ("a tuple outside a list", row, ""),
            ("tuples by number", {str(index): one for index, one in enumerate(rows)}, ""),
        ]
        for path in row:
            if path != "release":
                rest = {key: value for key, value in row.items() if key != path}
                others += [(f"no {path}", [rest], path)]
                others += [(f"{path} {value!r}", [{**row, path: value}], path) for value in (None, 0)]
        for what, held, path in others:
            yield f"{what} in {name}", {**values, name: held}, path


def other_tokens(
    claims: dict[str, Any], now: datetime, token_seconds: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield tokens that are no longer, or never were, an affirming result for exactly one machine."""
    cpu = claims["submods"]["cpu0"]
    at = int(now.timestamp())
    for what, iat in (
        ("a text as iat", str(at)),
        ("no iat", None),
        ("iat in the future", at + 1),
        ("an old iat", at - token_seconds - 1),
        ("iat 0", 0),
        ("iat true", True),
    ):
        yield what, {**claims, "iat": iat}
    rest = {name: submod for name, submod in claims["submods"].items() if name != "cpu0"}
    yield "no submods", {**claims, "submods": {}}
    for other in ("cpu1", "gpu0", "gpu9", "gpu", "gpux", "switch0", "ppcie0"):
        yield f"{other} beside cpu0", {**claims, "submods": {"cpu0": cpu, **rest, other: cpu}}
        yield f"{other} alone", {**claims, "submods": {other: cpu}}
    for what, changed in _other_submods(cpu):
        yield what, {**claims, "submods": {**rest, "cpu0": changed}}
    for name, device in rest.items():
        for what, changed in _other_devices(device):
            yield f"{name}: {what}", {**claims, "submods": {**claims["submods"], name: changed}}


def _other_submods(cpu: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in list(cpu):
        if name != "ear.appraisal-policy-id":  # says "default" whichever policy ran
            yield f"no {name}", {key: value for key, value in cpu.items() if key != name}
            for other in _OTHER_TYPES:
                yield f"{name} {other!r}", {**cpu, name: other}
    for status in ("none", "warning", "contraindicated", "AFFIRMING"):
        yield f"status {status}", {**cpu, "ear.status": status}
    vector = cpu["ear.trustworthiness-vector"]
    for name in sorted(limits.VECTOR):
        for value in sorted({0, 1, 2, 3, -1} | limits.CONSTANTS):
            if vector.get(name) != value:
                yield f"{name} {value}", {**cpu, "ear.trustworthiness-vector": {**vector, name: value}}
        if name in vector:
            rest = {key: value for key, value in vector.items() if key != name}
            yield f"no {name}", {**cpu, "ear.trustworthiness-vector": rest}
    annotated = cpu["ear.veraison.annotated-evidence"]
    own = next(name for name in annotated if name not in rego.SURROUNDING)
    for tee in sorted({"sample", "snp", "tdx", "tpm", "zz"} - {own}):
        both = {**annotated, tee: {}}
        alone = {key: value for key, value in both.items() if key != own}
        yield f"{tee} evidence beside {own}", {**cpu, "ear.veraison.annotated-evidence": both}
        yield f"{tee} evidence alone", {**cpu, "ear.veraison.annotated-evidence": alone}
    other = " ".join((*cpu[rego.EXTENSION_NAME][0].split(" ")[:2], "sha256:" + "1" * 64))
    bare = [permit.rpartition(" ")[2] for permit in cpu[rego.EXTENSION_NAME]]
    for what, names in (("no release", []), ("another release", [other]), ("a release alone", bare)):
        yield what, {**cpu, rego.EXTENSION_NAME: names}


def other_requests(data: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield requests for something else than the key that ``data`` asks for."""
    for what, plugin in (("another plugin", "pkcs11"), ("no plugin", None), ("a list", ["resource"])):
        yield what, {**data, "plugin": plugin}
    path = data["resource-path"]
    for what, other in (
        ("the path as one text", "/".join(path)),
        ("the path in one element", ["/".join(path)]),
        ("an empty path", []),
        ("a longer path", [*path, ""]),
        ("an upper-case path", [part.upper() for part in path]),
        ("no path", None),
    ):
        yield what, {**data, "resource-path": other}


def _other_devices(device: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in list(device):
        if name != "ear.appraisal-policy-id":
            yield f"no {name}", {key: value for key, value in device.items() if key != name}
            for other in _OTHER_TYPES:
                yield f"{name} {other!r}", {**device, name: other}
    for status in ("none", "warning", "contraindicated", "AFFIRMING"):
        yield f"status {status}", {**device, "ear.status": status}
    vector = device["ear.trustworthiness-vector"]
    for name in vector:
        for value in (0, 32, 96):
            yield f"{name} {value}", {**device, "ear.trustworthiness-vector": {**vector, name: value}}
    annotated = device["ear.veraison.annotated-evidence"]
    yield "more evidence", {**device, "ear.veraison.annotated-evidence": {**annotated, "sample": {}}}
    yield "other evidence", {**device, "ear.veraison.annotated-evidence": {"sample": {}}}
    yield "another policy's permit", {**device, rego.EXTENSION_NAME: ["other-policy amd-sev-snp"]}

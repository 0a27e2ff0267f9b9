"""What surrounds good evidence, and goes wrong: Reference Values, attestation tokens and requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from tallystick.compile.targets.trustee import limits

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
    yield "no submods", {**claims, "submods": {}}
    for other in ("cpu1", "gpu0", "switch0", "ppcie0"):
        yield f"{other} beside cpu0", {**claims, "submods": {"cpu0": cpu, other: cpu}}
        yield f"{other} alone", {**claims, "submods": {other: cpu}}
    for what, changed in _other_submods(cpu):
        yield what, {**claims, "submods": {"cpu0": changed}}


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
    for tee in ("sample", "snp", "zz"):
        both = {**annotated, tee: {}}
        alone = {key: value for key, value in both.items() if key != "tpm"}
        yield f"{tee} evidence beside tpm", {**cpu, "ear.veraison.annotated-evidence": both}
        yield f"{tee} evidence alone", {**cpu, "ear.veraison.annotated-evidence": alone}
    for what, names in (("no release", []), ("another release", ["sha256:" + "1" * 64])):
        yield what, {**cpu, "ear.tallystick.releases": names}


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

"""The proof of Contrast manifests: each emitted file in a model of the Coordinator, on the whole domain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from tallystick.compile.domain import Case, released
from tallystick.compile.targets.base import Proof
from tallystick.compile.targets.common import trial, view
from tallystick.compile.targets.common.trial import Trial
from tallystick.compile.targets.contrast import emit, manifest
from tallystick.compile.targets.contrast.choice import Contrast
from tallystick.compile.targets.contrast.manifest import FIXED, GUEST_POLICY, PLATFORM_INFO, TCB
from tallystick.core.errors import Malformed
from tallystick.core.findings import Finding
from tallystick.policy.constraints import constraints
from tallystick.policy.normal import NormalForm

ENGINE = "model of contrast/internal/manifest"
# What a report says when a case is about something else: whatever Contrast itself does not refuse.
_REST: Mapping[str, Any] = {
    **{
        claim: demanding if FIXED.get(name) is demanding else not demanding
        for name, (claim, demanding) in (GUEST_POLICY | PLATFORM_INFO).items()
    },
    **{f"{when}_tcb_{part}": 0 for part in TCB.values() for when in ("reported", "launch")},
    "vmpl": 0,
    "chip_id": "c1" * 64,
}


def prove(files: Mapping[str, bytes], form: NormalForm, choice: Contrast, now: datetime) -> Proof:
    """Return what was shown of ``files``; raises :class:`Unproven` when it is not what was released."""
    right = emit.emit(form, choice).files
    trial.expect_files(emit.NAME, files, right)
    proof = evaluate(files, form, choice)
    trial.expect_equal(emit.NAME, files, right)
    return proof


def evaluate(files: Mapping[str, bytes], form: NormalForm, choice: Contrast) -> Proof:
    """Return what evaluating the manifests alone shows.

    Raises:
        Unproven: as :func:`prove`, but for what no evidence in the domain tells apart.
    """
    held = [_read(name, data) for name, data in sorted(files.items()) if name.startswith("manifest_")]
    left = view.served(form, emit.NAME)
    coordinators = _Coordinators(held, left.policy)
    literals, evaluated = trial.claimlike(trial.strings(held)), 0
    for product in choice.products:
        reports = _Reports(left, product)
        run = Trial(emit.NAME, left, reports.of, coordinators.gives, reports.may_refuse)
        run.domain(literals, _suspects(held, left))
        _coordinator(run, held, choice)
        run.finish()
        evaluated += run.evaluated
    return replace(run.proof((ENGINE,)), evaluated=evaluated)


class _Coordinators:
    """Every Coordinator, with what a workload gets from any of them."""

    def __init__(self, held: list[dict[str, Any]], secret: str) -> None:
        self._secret = secret
        self._by_measurement: dict[str, list[dict[str, Any]]] = {}
        for one in held:
            for value in one["ReferenceValues"].get("snp", []):
                listed = self._by_measurement.setdefault(value["TrustedMeasurement"], [])
                if one not in listed:
                    listed.append(one)

    def gives(self, report: Mapping[str, Any]) -> bool:
        """Say whether any Coordinator gives the policy's secret to a workload with this report."""
        measurement = report.get("measurement")
        if not isinstance(measurement, str):
            return False
        found = (manifest.entry(one, report) for one in self._by_measurement.get(measurement, ()))
        return any(entry is not None and entry.get("WorkloadSecretID") == self._secret for entry in found)


class _Reports:
    """Evidence as the fields of a report of one product."""

    def __init__(self, form: NormalForm, product: str) -> None:
        self._product = product
        self._asked = {one.path for rule in form.platforms for one in constraints(rule)}
        minor = max(emit.ABI_MINOR.get(rule.platform, 0) for rule in form.platforms)
        rest = {**_REST, "product": product, "policy_abi_major": 0, "policy_abi_minor": minor}
        asked = self._asked - {"product"}
        self._rest = {name: value for name, value in rest.items() if name not in asked}

    def of(self, case: Case) -> dict[str, Any] | None:
        """Return the report of a case; None for devices, which no report has."""
        if case.devices:
            return None
        if case.kind != "snp-report":
            return {"kind": case.kind}
        claims = dict(case.claims)
        both = [claims[name] for name in ("host_data", "init_data") if name in claims]
        launch = {f"launch_tcb_{part}": claims.get(f"reported_tcb_{part}", 0) for part in TCB.values()}
        found = {**self._rest, **launch, **claims}
        if "product" in self._asked and "product" not in claims:
            found["product"] = None
        return {**found, "host_data": both[0] if both else None}

    def may_refuse(self, case: Case) -> bool:
        """Say whether a case is of a product that no Reference Value has, or has a TCB that is no byte."""
        numbers = [case.claims.get(f"reported_tcb_{part}", 0) for part in TCB.values()]
        other = case.claims.get("product", self._product) != self._product
        return other or any(isinstance(n, int) and n > 255 for n in numbers)


def _coordinator(run: Trial, held: list[dict[str, Any]], choice: Contrast) -> None:
    """The Coordinator's own policy hash is the one that was given, and nobody else has its role."""
    for number, one in enumerate(held):
        got = [digest for digest, entry in one["Policies"].items() if entry.get("Role") == "coordinator"]
        if got != [choice.coordinator]:
            run.wrong(
                Finding("prove.coordinator", emit.file_name(number), choice.coordinator, ", ".join(got))
            )
        for name, want in (
            ("WorkloadOwnerKeyDigests", choice.workload_owners),
            ("SeedshareOwnerPubKeys", choice.seedshare_owners),
        ):
            if tuple(one.get(name) or ()) != want:
                where = f"{emit.file_name(number)} {name}"
                run.wrong(Finding("prove.owners", where, ", ".join(want) or "nobody", str(one.get(name))))


def _suspects(held: list[dict[str, Any]], form: NormalForm) -> Iterator[Case]:
    """Yield every policy hash of a manifest with every measurement of it."""
    base = next(iter(released(form)), None)
    if base is None:
        return
    for one in held:
        for value in one["ReferenceValues"].get("snp", []):
            for digest in one["Policies"]:
                claims = {
                    name: digest if name in ("init_data", "host_data") else kept
                    for name, kept in base.claims.items()
                }
                claims["measurement"] = value["TrustedMeasurement"]
                yield Case("snp-report", f"policy {digest} with {value['TrustedMeasurement']}", claims)


def _read(name: str, data: bytes) -> dict[str, Any]:
    try:
        return manifest.parse(data)
    except Malformed as error:
        raise trial.unreadable(emit.NAME, name, "a manifest that Contrast takes", error.message) from None

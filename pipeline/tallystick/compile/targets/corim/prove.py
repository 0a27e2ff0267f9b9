"""The proof of a CoRIM: the emitted bytes read back, and matched with everything evidence could measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import cbor2

from tallystick.compile.domain import Case, released
from tallystick.compile.targets.base import Proof
from tallystick.compile.targets.common import trial, view
from tallystick.compile.targets.common.trial import Trial
from tallystick.compile.targets.corim import codec, emit
from tallystick.compile.targets.corim.choice import CorimTarget
from tallystick.compile.targets.corim.reading import Values
from tallystick.core.errors import Malformed, Unsupported
from tallystick.core.findings import Finding
from tallystick.formats import corim
from tallystick.formats.corim import Corim, Triple
from tallystick.policy.normal import NormalForm
from tallystick.policy.platforms import ClaimType, known_platform

ENGINE = "reference-triple matching of draft-ietf-rats-corim-10"
_HOUR = timedelta(hours=1)


def prove(files: Mapping[str, bytes], form: NormalForm, choice: CorimTarget, now: datetime) -> Proof:
    """Return what was shown of ``files``; raises :class:`Unproven` when it is not what was released."""
    right = emit.emit(form, choice).files
    trial.expect_files(emit.NAME, files, right)
    proof = evaluate(files, form, now)
    trial.expect_equal(emit.NAME, files, right)
    return proof


def evaluate(files: Mapping[str, bytes], form: NormalForm, now: datetime) -> Proof:
    """Return what reading the manifest alone shows.

    Raises:
        Unproven: as :func:`prove`, but for what no evidence in the domain tells apart.
    """
    found, values = _read(files[emit.FILE])
    left, ends = view.served(form, emit.NAME), view.end(form, emit.NAME)
    moment = min(now, ends - _HOUR)
    machines = _Machines(left)
    run = Trial(emit.NAME, left, machines.of, lambda shown: machines.match(values, shown, moment))
    run.domain(machines.literals(values), machines.suspects(values))
    for late, right in ((0, True), (1, False)):
        for case in released(left):
            shown = machines.of(case)
            got = machines.match(values, shown, ends + timedelta(seconds=late))
            run.surrounding(f"{case.what}, {late} s after the end", repr(shown), got=got, right=right)
    if found.corim_id != emit.corim_id(form):
        run.wrong(Finding("prove.id", "corim-id", want=emit.corim_id(form), got=repr(found.corim_id)))
    if found.profile is not None:
        run.wrong(Finding("prove.profile", "profile", want="none", got=repr(found.profile)))
    run.finish()
    return run.proof((ENGINE,))


class _Machines:
    """Evidence as environments and measurements, for each platform that shows its kind."""

    def __init__(self, form: NormalForm) -> None:
        self._form = form
        self._names: dict[str, list[str]] = {}
        for rule in form.platforms:
            self._names.setdefault(rule.evidence_kind, []).append(rule.platform)

    def of(self, case: Case) -> list[tuple[Any, dict[str, Any]]] | None:
        """Return what a Verifier makes of a case; None for devices, which no triple is about."""
        if case.devices:
            return None
        found = []
        for platform in self._names.get(case.kind, ()):
            measured = {path: codec.measured(platform, path, value) for path, value in case.claims.items()}
            shown = {path: values for path, values in measured.items() if values is not None}
            found.append((codec.environment(platform), shown))
        return found

    def match(self, values: Values, shown: list[tuple[Any, dict[str, Any]]] | None, now: datetime) -> bool:
        """Say whether any of the environments matches."""
        return any(values.matches(environment, measured, now) for environment, measured in shown or ())

    def literals(self, values: Values) -> list[str]:
        """Return every digest that stands in the manifest, as claims spell it."""
        return sorted(
            {
                digest
                for triple in values.triples
                for one in triple.measurements
                for _, digest in corim.digests(one.values)
            }
        )

    def suspects(self, values: Values) -> Iterator[Case]:
        """Yield what each triple measures, as claims on a machine that is right in everything else."""
        bases = {
            entry.platform: case
            for case, entry in zip(
                released(self._form), (t for r in self._form.releases for t in r.tuples), strict=True
            )
        }
        for triple in values.triples:
            for platform, base in bases.items():
                claims = {**base.claims, **_claims(platform, triple)}
                yield Case(base.kind, "what a triple measures", claims)


def _claims(platform: str, triple: Triple) -> dict[str, Any]:
    known = known_platform(platform)
    found: dict[str, Any] = {}
    for one in triple.measurements:
        kind = known.claim_type(one.key) if known and isinstance(one.key, str) else None
        value = _claim(one.values, kind)
        if kind is not None and value is not None:
            found[one.key] = value
    return found


def _claim(values: Mapping[int, Any], kind: ClaimType | None) -> Any:
    if 2 in values:
        (_, digest), *_ = corim.digests(values)
        return f"sha256:{digest}" if kind is ClaimType.OCI_DIGEST else digest
    if 3 in values:
        return values[3].get(codec.IS_DEBUG)
    value = values.get(1) or values.get(4)
    if not isinstance(value, cbor2.CBORTag):
        return None
    if isinstance(value.value, bytes):
        if kind is ClaimType.BOOLEAN:
            return value.value == b"\x01"
        return value.value.decode("utf-8", "replace") if kind is ClaimType.TEXT else value.value.hex()
    return value.value


def _read(data: bytes) -> tuple[Corim, Values]:
    try:
        found = corim.parse(data)
        return found, Values(found)
    except (Malformed, Unsupported) as error:
        raise trial.unreadable(emit.NAME, emit.FILE, "a CoRIM of reference triples", error.message) from None

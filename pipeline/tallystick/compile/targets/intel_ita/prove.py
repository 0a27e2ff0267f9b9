"""The proof of Trust Authority policies: each emitted file in the engine, on the whole domain."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from tallystick.compile.domain import MOST_DEVIATIONS, Case, cases, released
from tallystick.compile.targets.base import Proof
from tallystick.compile.targets.common import trial, view
from tallystick.compile.targets.common.trial import Trial
from tallystick.compile.targets.intel_ita import emit, rego
from tallystick.compile.targets.intel_ita.choice import IntelIta
from tallystick.compile.targets.intel_ita.claims import NAMES, Where, document, suspect
from tallystick.compile.targets.trustee import limits
from tallystick.compile.targets.trustee.engines import (
    Engine,
    Missing,
    RegoCpp,
    RegoError,
    Regorus,
    second_opinion,
)
from tallystick.core.expect import AtLeast
from tallystick.core.findings import Finding
from tallystick.policy.constraints import constraints
from tallystick.policy.normal import NormalForm, Tuple

BUILTINS = frozenset({"time.now_ns", "time.parse_rfc3339_ns", "time.add_date", "object.subset", "count"})
_CALL = re.compile(r"(?<![\w\]])([A-Za-z_][\w.]*)\(")
_FORBIDDEN = re.compile(r"!=|\bin\b|\bevery\b|\bcontains\b|\bwith\b|[+*/%]|(?<![\w\"])-")
_RULE = re.compile(r"^match if \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_PINNED = re.compile(r'^(input(?:\.\w+|\["[^"]+"\])+) == (.+)$', re.MULTILINE)
_PART = re.compile(r'\.(\w+)|\["([^"]+)"\]')
_SECOND_OPINIONS = 24
_SAMPLE = 300  # pieces of evidence that are tried on all policies at once
_SEED = 20_260_801
_TOPS = {"tdx": "tdx-quote", "sgx": "sgx-quote", "sevsnp": "snp-report"}
_HOUR = timedelta(hours=1)


def prove(files: Mapping[str, bytes], form: NormalForm, choice: IntelIta, now: datetime) -> Proof:
    """Return what was shown of ``files``; raises :class:`Unproven` when it is not what was released."""
    right = emit.emit(form, choice).files
    trial.expect_files(emit.NAME, files, right)
    proof = evaluate(files, form, now)
    trial.expect_equal(emit.NAME, files, right)
    return proof


def evaluate(files: Mapping[str, bytes], form: NormalForm, now: datetime) -> Proof:
    """Return what evaluating the policies alone shows.

    Raises:
        Unproven: as :func:`prove`, but for what no evidence in the domain tells apart.
    """
    texts = [_read(name, data) for name, data in sorted(files.items()) if name.endswith(".rego")]
    left, ends = view.served(form, emit.NAME), view.end(form, emit.NAME)
    moment = min(now, ends - _HOUR)
    policies = _Policies(texts, Regorus, moment)
    run = Trial(emit.NAME, left, document, policies.match, lambda case: _beyond(left, case))
    evaluated = 0
    _numbers(run, left)
    if len(texts) == 1:
        run.domain(_literals(texts), _suspects(texts, left))
    else:
        evaluated = sum(_alone(text, left, moment, len(texts)) for text in texts)
        _together(run, texts, left)
    _clock(run, texts, left, ends, policies, moment)
    run.finish()
    engines: tuple[str, ...] = (Regorus.name,)
    if second_opinion() is not None:
        for text in texts:
            _agree(run, text, _part(text, left), moment, _SECOND_OPINIONS // (3 * len(texts)))
        run.finish()
        engines += (RegoCpp.name,)
    proof = run.proof(engines)
    return replace(proof, evaluated=proof.evaluated + evaluated)


def _numbers(run: Trial, form: NormalForm) -> None:
    """Try every whole number that a minimum lists, and those on both sides of the list: each stands there by itself."""
    for case in _one_of_each(form):
        rule = next(rule for rule in form.platforms if rule.evidence_kind == case.kind)
        for one in constraints(rule):
            if isinstance(one.expect, AtLeast):
                listed = rego.window(one.path, one.expect.minimum)
                for number in range(max(0, listed.start - 1), listed.stop + 1):
                    what = f"{case.what} with {one.path} {number}"
                    run.judge(replace(case, what=what, claims={**case.claims, one.path: number}))


def _one_of_each(form: NormalForm) -> list[Case]:
    """Return the first released tuple of each kind of evidence."""
    return list({case.kind: case for case in reversed(list(released(form)))}.values())


def _alone(text: str, form: NormalForm, now: datetime, count: int) -> int:
    """Try the whole domain of one policy's own tuples on it alone: a request takes each policy by itself."""
    part, policy = _part(text, form), _Policies([text], Regorus, now)
    run = Trial(emit.NAME, part, document, policy.match, lambda case: _beyond(form, case))
    run.domain(_literals([text]), _suspects([text], form), MOST_DEVIATIONS // (4 * count))
    run.finish()
    return run.evaluated


def _together(run: Trial, texts: list[str], form: NormalForm) -> None:
    """Try every released tuple, and a sample of everything else, on all policies."""
    chosen = random.Random(_SEED)  # noqa: S311 (which evidence to try on all of them)
    for case in released(form):
        run.judge(case)
    everything = list(cases(form, (), _suspects(texts, form), _SAMPLE))
    for case in chosen.sample(everything, min(len(everything), _SAMPLE)):
        run.judge(case)


def _part(text: str, form: NormalForm) -> NormalForm:
    """Return ``form`` with the tuples alone that stand in a policy, by the values that its rules pin."""
    held = {
        tuple(sorted(found.items())) for body in _RULE.findall(text) if (found := dict(_PINNED.findall(body)))
    }
    releases = tuple(
        replace(release, tuples=tuple(entry for entry in release.tuples if _pins(entry) in held))
        for release in form.releases
    )
    return replace(form, releases=releases)


def _pins(entry: Tuple) -> tuple[tuple[str, str], ...]:
    names = NAMES[entry.evidence_kind]
    return tuple(
        sorted((rego.reference(names[path]), json.dumps(value)) for path, value in view.pinned(entry))
    )


def _literals(texts: list[str]) -> list[str]:
    found = trial.claimlike(text for policy in texts for text in limits.strings_of(policy))
    return [text for text in found if "/" not in text]


class _Policies:
    """All policies of a request. A token that one of them matches opens the key."""

    def __init__(self, texts: list[str], engine: type[Regorus] | type[RegoCpp], at: datetime) -> None:
        self._engines: list[Engine] = []
        for number, text in enumerate(texts):
            try:
                self._engines.append(engine(f"package policy\n{text}", {}, at))
            except RegoError as error:
                raise trial.unreadable(emit.NAME, emit.file_name(number), "a policy", str(error)) from None

    def match(self, evidence: Mapping[str, Any]) -> bool:
        """Say whether any policy matches."""
        return any(self._matches(engine, evidence) for engine in self._engines)

    def now_ns(self) -> list[Any]:
        """Return what each policy takes the time for."""
        return [engine.evaluate("now_ns", {}, {}) for engine in self._engines]

    def _matches(self, engine: Engine, evidence: Mapping[str, Any]) -> bool:
        try:
            return engine.evaluate("match", evidence, {}) is True
        except (RegoError, Missing):
            return False


def _read(name: str, data: bytes) -> str:
    """Return a policy that Trust Authority would take; raises :class:`Unproven` for anything else."""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise trial.unreadable(emit.NAME, name, "ASCII", error.reason) from None
    if len(data) > emit.MOST_BYTES:
        raise trial.unreadable(emit.NAME, name, f"at most {emit.MOST_BYTES} bytes", str(len(data)))
    code = re.sub(r'"(?:[^"\\\n]|\\.)*"', '""', text)
    if "#" in code:
        raise trial.unreadable(emit.NAME, name, "no comment: Trust Authority takes none", "one")
    for needed in ("import rego.v1\n", "default match := false\n"):
        if needed not in code:
            raise trial.unreadable(emit.NAME, name, needed.strip(), "nothing of the kind")
    unknown = sorted(set(_CALL.findall(code)) - BUILTINS) + sorted(set(_FORBIDDEN.findall(code)))
    if unknown:
        raise trial.unreadable(emit.NAME, name, ", ".join(sorted(BUILTINS)), ", ".join(unknown))
    return text


def _beyond(form: NormalForm, case: Case) -> bool:
    """Say whether a claim is more than a policy lists, which it refuses: 256 numbers from the minimum on."""
    return any(
        rego.beyond(one.path, one.expect, case.claims.get(one.path))
        for rule in form.platforms
        if rule.evidence_kind == case.kind
        for one in constraints(rule)
    )


def _suspects(texts: list[str], form: NormalForm) -> Iterator[Case]:
    """Yield the claims that each rule of the policies pins, on a machine that is right in everything else."""
    bases = {case.kind: case.claims for case in reversed(list(released(form)))}
    for text in texts:
        for body in _RULE.findall(text):
            found: dict[Where, Any] = {}
            for reference, value in _PINNED.findall(body):
                where = tuple(
                    plain or quoted for plain, quoted in _PART.findall(reference.removeprefix("input"))
                )
                try:
                    found[where] = json.loads(value)
                except ValueError:
                    continue
            case = suspect(found, {top: kind for top, kind in _TOPS.items() if kind in NAMES})
            if case is not None:
                yield Case(case.kind, case.what, {**bases.get(case.kind, {}), **case.claims})


def _clock(
    run: Trial, texts: list[str], form: NormalForm, ends: datetime, policies: _Policies, now: datetime
) -> None:
    """The last second, the one after, and the engine's own clock."""
    want = int(now.timestamp()) * 1_000_000_000
    for number, got in enumerate(policies.now_ns()):
        if not isinstance(got, int) or abs(got - want) >= 1_000_000_000:
            where = f"{emit.file_name(number)}: now_ns"
            run.wrong(Finding("prove.clock", where, want=str(want), got=str(got)))
    for late, right in ((0, True), (1, False)):
        there = _Policies(texts, Regorus, ends + timedelta(seconds=late))
        for case in released(form):
            evidence = document(case)
            run.surrounding(
                f"{case.what}, {late} s after the end", evidence, got=there.match(evidence), right=right
            )


def _agree(run: Trial, text: str, form: NormalForm, now: datetime, count: int) -> None:
    """The other engine gives the same answers on a sample."""
    ours, theirs = _Policies([text], Regorus, now), _Policies([text], RegoCpp, now)
    everything = list(cases(form, [], (), 200))
    chosen = random.Random(_SEED)  # noqa: S311 (which evidence to look at twice)
    for case in [*everything[:1], *chosen.sample(everything, min(len(everything), count))]:
        evidence = document(case)
        one, two = ours.match(evidence), theirs.match(evidence)
        if one != two:
            run.wrong(Finding("prove.engines", case.what, want=str(one), got=str(two)))

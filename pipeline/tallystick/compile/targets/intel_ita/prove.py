"""The proof of Trust Authority policies: each emitted file in the engine, on the whole domain."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from tallystick.compile.domain import Case, cases, released
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
from tallystick.core.findings import Finding
from tallystick.policy.constraints import constraints
from tallystick.policy.normal import NormalForm

BUILTINS = frozenset({"time.now_ns", "time.parse_rfc3339_ns", "time.add_date", "object.subset", "count"})
_CALL = re.compile(r"(?<![\w\]])([A-Za-z_][\w.]*)\(")
_FORBIDDEN = re.compile(r"!=|\bin\b|\bevery\b|\bcontains\b|\bwith\b|[+*/%]|(?<![\w\"])-")
_RULE = re.compile(r"^match if \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_PINNED = re.compile(r'^(input(?:\.\w+|\["[^"]+"\])+) == (.+)$', re.MULTILINE)
_PART = re.compile(r'\.(\w+)|\["([^"]+)"\]')
_SECOND_OPINIONS = 24
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
    literals = trial.claimlike(text for policy in texts for text in limits.strings_of(policy))
    run.domain([text for text in literals if "/" not in text], _suspects(texts, left))
    _clock(run, texts, left, ends, policies, moment)
    run.finish()
    engines: tuple[str, ...] = (Regorus.name,)
    if second_opinion() is not None:
        _agree(run, texts, left, policies, moment)
        run.finish()
        engines += (RegoCpp.name,)
    return run.proof(engines)


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


def _agree(run: Trial, texts: list[str], form: NormalForm, ours: _Policies, now: datetime) -> None:
    """The other engine gives the same answers on a sample."""
    theirs = _Policies(texts, RegoCpp, now)
    everything = list(cases(form, [], (), 200))
    chosen = random.Random(_SEED)  # noqa: S311 (which evidence to look at twice)
    for case in chosen.sample(everything, min(len(everything), _SECOND_OPINIONS)):
        evidence = document(case)
        one, two = ours.match(evidence), theirs.match(evidence)
        if one != two:
            run.wrong(Finding("prove.engines", case.what, want=str(one), got=str(two)))

"""The proof of a Trustee policy: the emitted bytes in the engine that Trustee uses, on the whole domain.

The policies are evaluated as the two services do it: evidence to an EAR, the EAR to a key or none. Then what
surrounds them is varied: Reference Values that are missing, older, or broken; tokens that are old, partial, or of
other devices; other resources; other times.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from tallystick.compile.domain import MOST_DEVIATIONS, Case, released
from tallystick.compile.targets.base import Proof
from tallystick.compile.targets.common import trial
from tallystick.compile.targets.trustee import emit, limits, reading, rego, tried
from tallystick.compile.targets.trustee.choice import TrusteeTarget
from tallystick.compile.targets.trustee.codec import refused, tee, tees
from tallystick.compile.targets.trustee.engines import Engine, RegoError, Regorus, second_opinion
from tallystick.compile.targets.trustee.judge import Judge
from tallystick.compile.targets.trustee.simulate import allows, resource, token
from tallystick.compile.targets.trustee.varied import degraded, other_requests, other_tokens
from tallystick.policy.constraints import told
from tallystick.policy.normal import NormalForm

_WINDOW = 8  # tuples that are tried together when there are many
_WIDE = 24  # tuples that stand together when each released one is tried
_GROUP = 10  # windows for which the policies are read once, without the lines of other releases
_TUPLES_A_RELEASE = 12  # about: one tuple in so many is tried for every key
_MOST_WINDOWS = 2  # with the whole domain of their tuples
_WINDOW_DEVIATIONS = 500
_FEW = 16  # foreign texts that are tried as claims there
_SAMPLE = 24  # pieces of evidence that are tried against all tuples at once
_MOST_TEXTS = 5_000  # of the Reference Values, that are tried as claims
_SECOND_OPINIONS = 40  # pieces of evidence that the slower engine looks at, too
_SEED = 20_260_801
_PERMIT = re.compile(r'^\t+"[^"]* (sha256:[0-9a-f]{64})"(?:,|: "[a-z-]*",)$')


def prove(files: Mapping[str, bytes], form: NormalForm, choice: TrusteeTarget, now: datetime) -> Proof:
    """Return what was shown of ``files``; raises :class:`Unproven` when it is not what was released."""
    right = emit.emit(form, choice).files
    trial.expect_files(emit.NAME, files, right)
    proof = evaluate(files, form, choice, now)
    trial.expect_equal(emit.NAME, files, right)
    return proof


def evaluate(
    files: Mapping[str, bytes],
    form: NormalForm,
    choice: TrusteeTarget,
    now: datetime,
    others: Sequence[NormalForm] = (),
) -> Proof:
    """Return what evaluating the policies alone shows. A rule more could say yes to anything, unseen by any question.

    Args:
        others: forms that the same files are made for.

    Raises:
        Unproven: as :func:`prove`, but for what no evidence in the domain tells apart.
    """
    texts, values = reading.read(files)
    judge = Judge(texts, values, form, choice, now, others)
    for part in (_evidence, _reference_values, _tokens, _times):
        part(judge)
    engines = [Regorus.name]
    judge.finish()
    other = second_opinion()
    if other is not None:  # only now: what is wrong already may keep it busy for hours
        _second_opinion(judge, other)
        engines.append(other.name)
        judge.finish()
    return Proof(
        target=emit.NAME,
        released=judge.oracle.released,
        accepted=len(judge.accepted),
        evaluated=judge.evaluated,
        engines=tuple(engines),
    )


def _evidence(judge: Judge) -> None:
    """Every case of the domain, from evidence to key."""
    literals = [s for text in judge.texts.values() for s in limits.strings_of(text)]
    literals += islice(tried.strings(judge.values), _MOST_TEXTS)
    rows = sum(len(held) for held in judge.values.values() if isinstance(held, list))
    first = sum(len(release.tuples) for release in judge.form.releases)
    if rows <= 2 * _WINDOW:
        suspects = _suspects(judge, judge.values)
        for number, case in enumerate(judge.cases(tried.claimlike(literals), suspects, MOST_DEVIATIONS)):
            judge.attempt(case, *(judge.keys if number < first else judge.keys[:1]))
    else:
        _windows(judge, literals)
    for case in judge.signed(islice(released(judge.told), _WINDOW)):
        for key in _other_keys(judge, literals):
            judge.attempt(case, key, right=False)


def _suspects(judge: Judge, values: Mapping[str, Any]) -> Iterator[Case]:
    kinds = {rule.evidence_kind for rule in judge.told.platforms}
    yield from tried.suspects(values, [one for one in tees(judge.choice.version) if one.kind in kinds])


def _windows(judge: Judge, literals: list[str]) -> None:
    """Many tuples, a few at a time in the RVPS: evaluation is linear in them, and they are asked the same questions.

    Every released tuple is tried beside others, all of them at once in a sample, and a sample with its whole domain.
    Beside others the policies are read without the lines that permit the rest, else cost would grow with the square.
    """
    chosen = random.Random(_SEED)  # noqa: S311 (which tuples to look at together)
    by_row = _by_row(judge)
    for group in tried.windows(judge.values, _WIDE * _GROUP):
        named = {str(row.get("release")) for rows in group.values() for row in rows}
        with judge.reading({name: _cut(text, named) for name, text in judge.texts.items()}):
            for values in tried.windows(group, _WIDE):
                _wide(judge, by_row, values)
    everything = list(islice(judge.cases([], iter(()), _WINDOW), 20_000))
    for case in chosen.sample(everything, min(len(everything), _SAMPLE)):
        judge.attempt(case, judge.keys[0], right=None)
    narrow = list(tried.windows(judge.own(judge.values), _WINDOW))
    for values in chosen.sample(narrow, min(len(narrow), _MOST_WINDOWS)):
        _window(judge, values, tried.claimlike(literals))


def _wide(judge: Judge, by_row: Mapping[str, list[Case]], values: dict[str, Any]) -> None:
    """Each released tuple of a window, and what the RVPS itself looks like as evidence."""
    with judge.holding(values):
        own = judge.own(values)
        for number, case in enumerate(_of_rows(by_row, own)):
            judge.attempt(case, *(judge.keys if number % _TUPLES_A_RELEASE == 0 else judge.keys[:1]))
        for case in islice(
            _suspects(judge, values), 4
        ):  # of another policy: our own tuples are not there just now
            judge.attempt(case, judge.keys[0], right=True if own else None)


def _by_row(judge: Judge) -> dict[str, list[Case]]:
    """Return the released tuples as evidence, by what stands in the RVPS for each."""
    entries = [(one, t) for one in judge.told.releases for t in one.tuples if judge.told.platform(t.platform)]
    found: dict[str, list[Case]] = {}
    for (release, entry), case in zip(entries, judge.signed(released(judge.told)), strict=True):
        found.setdefault(_row(judge, release, entry), []).append(case)
    return found


def _of_rows(by_row: Mapping[str, list[Case]], values: Mapping[str, Any]) -> Iterator[Case]:
    for rows in values.values():
        for row in rows:
            yield from by_row.get(json.dumps(row, sort_keys=True), ())


def _window(judge: Judge, values: dict[str, Any], literals: list[str]) -> None:
    """The whole domain of a few tuples, with these alone in the RVPS."""
    rows = [row for held in values.values() for row in held]
    texts, named = {json.dumps(row, sort_keys=True) for row in rows}, {row.get("release") for row in rows}
    releases = tuple(
        replace(one, tuples=tuple(t for t in one.tuples if _row(judge, one, t) in texts))
        for one in judge.form.releases
        if str(one.digest) in named
    )
    part = judge.part(replace(judge.form, releases=releases))
    with judge.holding(values):
        for case in part.cases(literals[:_FEW], _suspects(judge, values), _WINDOW_DEVIATIONS):
            part.attempt(case, judge.keys[0])
    judge.evaluated += part.evaluated
    judge.wrong += part.wrong


def _row(judge: Judge, release: Any, entry: Any) -> str:
    return json.dumps(emit.rows_of(judge.told, judge.choice, release, entry), sort_keys=True)


def _reference_values(judge: Judge) -> None:
    """The RVPS is filled apart from the policy, so nothing it could hold may widen what is accepted."""
    good = next(iter(judge.signed(released(judge.told))), None)
    for what, values, path in degraded(_first(judge.values), _foreign(judge)):
        engine = judge.load(emit.AS_POLICY, values, judge.now)
        for case in _near(good, path):
            case = replace(case, what=f"{case.what}, with {what}")
            judge.attempt(case, judge.keys[0], engine=engine, right=None)
            if (
                not values
                and tried.answer(engine, case, judge.choice.version) is None
                and _shown(judge, case)
            ):
                judge.note(case.what, "an answer", "the service fails", "prove.fails")
    _held(judge)


def _first(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Reference Values cut to a few tuples: what is degraded below is always the first of them."""
    return {name: held[:_WINDOW] if isinstance(held, list) else held for name, held in values.items()}


def _shown(judge: Judge, case: Case) -> bool:
    """Say whether the verifier lets the case through to the policy."""
    one = tee(judge.choice.version, case.kind)
    return one is None or not refused(one, case.claims)


def _foreign(judge: Judge) -> list[str]:
    """Release digests that stand in a policy and were not released."""
    ours = {str(release.digest) for release in judge.form.releases}
    code = [limits.strings_of(limits.without_comments(text)) for text in judge.texts.values()]
    last = {text.rpartition(" ")[2] for texts in code for text in texts}
    return sorted({text for text in last if text.startswith("sha256:")} - ours)


def _held(judge: Judge) -> None:
    """What the RVPS will hold is the released tuples, each once, and nothing beside them."""
    held = sorted(json.dumps(v, sort_keys=True) for rows in judge.values.values() for v in tried.listed(rows))
    ours = [_row(judge, release, entry) for release in judge.form.releases for entry in release.tuples]
    for form in judge.others:
        served = told(form, emit.NAME)
        found = (
            emit.rows_of(served, judge.choice, one, entry) for one in served.releases for entry in one.tuples
        )
        ours += [json.dumps(row, sort_keys=True) for row in found]
    right = sorted(row for row in ours if row != "null")
    if held != right:
        known = set(right)
        extra = [row for row in held if row not in known] or ["fewer"]
        judge.note("RVPS messages", f"{len(right)} tuples", extra[0][:200], "prove.reference-values")


def _tokens(judge: Judge) -> None:
    """An attestation token of accepted evidence of each kind, with one thing changed."""
    for case in _one_of_each(judge):
        claims = judge.token(case)
        if claims is None:
            continue
        cpu, data = claims["submods"]["cpu0"], resource(judge.keys[0])
        if not cpu.get(rego.EXTENSION_NAME):
            continue
        for digest in _foreign(judge):
            permit = " ".join((*cpu[rego.EXTENSION_NAME][0].split(" ")[:2], digest))
            named = {**claims["submods"], "cpu0": {**cpu, rego.EXTENSION_NAME: [permit]}}
            judge.refuse(f"{case.what}, token that names {digest}", {**claims, "submods": named}, data)
        for what, changed in other_tokens(claims, judge.now, judge.token_seconds):
            judge.refuse(f"{case.what}, token with {what}", changed, data)
        for what, request in other_requests(data):
            judge.refuse(f"{case.what}, request with {what}", claims, request)


def _one_of_each(judge: Judge) -> Iterator[Case]:
    """Yield the first released tuple of each kind of evidence, with and without devices."""
    seen: set[tuple[str, int]] = set()
    for case in judge.signed(released(judge.told)):
        if (case.kind, len(case.devices)) not in seen:
            seen.add((case.kind, len(case.devices)))
            yield case


def _times(judge: Judge) -> None:
    """The policy's end, and the token's age."""
    key = judge.keys[0]
    for case in _one_of_each(judge):
        for late, right in ((0, True), (1, False)):
            judge.attempt(case, key, at=judge.end + timedelta(seconds=late), right=right)
        _after(judge, case)
        most = judge.token_seconds
        for age, right in ((0, True), (most, True), (most + 1, False), (-1, False)):
            judge.attempt(case, key, age=age, right=right)
    _clock(judge)


def _after(judge: Judge, case: Case) -> None:
    """A token of the last moment is worth nothing in the next."""
    version = judge.choice.version
    submod = tried.answer(judge.engine(emit.AS_POLICY, at=judge.end), case, version)
    if submod is None:
        return
    claims = token(submod, judge.end, judge.devices(case, judge.end))
    later = judge.engine(emit.RESOURCE_POLICY, at=judge.end + timedelta(seconds=1))
    if allows(later, claims, resource(judge.keys[0])):
        judge.note(f"{case.what}, after the policy's end", "no key", "a key", "prove.admits", claims)


def _clock(judge: Judge) -> None:
    """The rule that the second engine's clock replaces is the engine's own clock."""
    for name in judge.texts:
        got = judge.engine(name).evaluate("now_ns", {}, {})
        want = int(judge.now.timestamp() * 1_000_000_000)
        if got != want:
            judge.note(f"{name}: now_ns", str(want), str(got), "prove.clock")


def _second_opinion(judge: Judge, other: Callable[[str, Mapping[str, Any], datetime], Engine]) -> None:
    """The other engine gives the same answers on the released tuples and a sample of the rest."""
    values = _first(judge.values)
    everything = list(islice(judge.cases([], iter(()), 4 * _SECOND_OPINIONS), 20_000))
    rows = sum(len(release.tuples) for release in judge.form.releases)
    first, most = min(8, rows), _SECOND_OPINIONS if rows <= 2 * _WINDOW else _SECOND_OPINIONS // 4
    chosen = random.Random(_SEED)  # noqa: S311 (which evidence to look at twice)
    rest = everything[first:]
    sample = everything[:first] + chosen.sample(rest, min(len(rest), most))
    version, ours = judge.choice.version, judge.load(emit.AS_POLICY, values, judge.now)
    try:
        named = {str(row.get("release")) for held in values.values() for row in tried.listed(held)}
        texts = {name: _cut(text, named) for name, text in judge.texts.items()}
        theirs = other(texts[emit.AS_POLICY], values, judge.now)
        second = other(texts[emit.RESOURCE_POLICY], {}, judge.now)
    except RegoError as error:
        judge.note("second engine", "the policy loads", str(error), "prove.engines")
        return
    for case in sample:
        one, two = tried.answer(ours, case, version), tried.answer(theirs, case, version)
        if one is not None and tried.named(one) - named:
            continue
        if one != two:
            judge.note(case.what, json.dumps(one), json.dumps(two), "prove.engines")
        if one is not None:
            claims = token(one, judge.now, judge.devices(case))
            data = resource(judge.keys[0])
            says = allows(judge.engine(emit.RESOURCE_POLICY), claims, data)
            if says != allows(second, claims, data):
                judge.note(case.what, str(says), str(not says), "prove.engines")


def _cut(text: str, named: set[str]) -> str:
    """Return a policy that permits no other releases than ``named``: the second engine has no room for a thousand."""
    lines = text.split("\n")
    return "\n".join(line for line in lines if not (one := _PERMIT.search(line)) or one[1] in named)


def _near(good: Case | None, path: str) -> Iterator[Case]:
    """A released tuple, one with the claim at ``path`` missing or null, and one that says nothing."""
    if good is None:
        return
    yield good
    for value in (None, 0, "") if path else ():
        yield replace(good, what=f"{good.what} with {path} {value!r}", claims={**good.claims, path: value})
    rest = {name: value for name, value in good.claims.items() if name != path}
    yield replace(good, what=f"{good.what} without {path or 'more'}", claims=rest)
    kept = {name: value for name, value in good.claims.items() if name == "ak_public"}
    yield replace(good, what="evidence without claims", claims=kept)
    yield replace(good, what="every claim null", claims=dict.fromkeys(good.claims) | kept)


def _other_keys(judge: Judge, literals: list[str]) -> list[str]:
    close = [f"{judge.keys[0]}/more", judge.keys[0].rsplit("/", 1)[0], "no/such/key", "", "a/b/c"]
    named = [text for text in literals if text.count("/") == 2]
    elsewhere = {rule.key for form in judge.others for rule in form.keys}
    return [key for key in (*close, *named) if key not in judge.keys and key not in elsewhere]

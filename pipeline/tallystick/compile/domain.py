"""The evidence that a proof tries: every released tuple, every mixture, and everything that is nearly right.

A claim may be absent, null, of another type, or a number in a string; each of those is in the domain, because
each of them has made some policy language say yes (docs/targets.md, "Pitfalls").
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any

from tallystick.compile.nearly import beside, example, nearly, typed
from tallystick.compile.oracle import Oracle, pinned
from tallystick.policy.constraints import constraints
from tallystick.policy.normal import DeviceRule, NormalForm, PlatformRule

__all__ = ["Case", "Device", "Oracle", "cases", "meeting", "nested", "released"]

MOST_MIXTURES = 4_096  # of whole cross products; beyond it a seeded sample, and every pair is still crossed
MOST_DEVIATIONS = 10_000
_MOST_ELSEWHERE = 20  # values of other claims that are tried in the place of one
_MOST_FOREIGN = 200  # values of the emitted files that no tuple has
_MOST_OTHERS = 64  # values of the same claim in other tuples
_LEAST_WHOLE = 4  # tuples of which every claim is changed, whatever the budget
_SEED = 20_260_801
_EXTRA: dict[str, Any] = {"pcr16": "0" * 64, "debug": True, "surprise": "x"}  # claims that no tuple names


@dataclass(frozen=True, slots=True)
class Device:
    """What one device shows, as flat claims."""

    kind: str
    claims: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One piece of evidence of one kind, as flat claims; a claim that is not there is absent."""

    kind: str
    what: str  # for people: "release 0.1.0 with pcr04 absent"
    claims: Mapping[str, Any]
    devices: tuple[Device, ...] = ()


def cases(
    form: NormalForm,
    emitted: Iterable[str] = (),
    suspects: Iterable[Case] = (),
    budget: int = MOST_DEVIATIONS,
) -> Iterator[Case]:
    """Yield the evidence to try against a policy made from ``form``; the released tuples come first.

    Args:
        emitted: values that stand in what was emitted. They are tried as claims too, so that a value which
            was never released, and is accepted, does not hide.
        suspects: whole pieces of evidence that what was emitted seems to accept.
        budget: about how many changes of one claim; every tuple gets some in any case.
    """
    bases = list(released(form))
    yield from bases
    yield from suspects
    yield from _edges(form, bases)
    yield from _deviations(bases, emitted, budget)
    yield from _mixtures(bases, budget)
    yield from _devices(form, bases)
    yield from _strangers(form, bases)


def released(form: NormalForm) -> Iterator[Case]:
    """Yield every released tuple, as a machine that meets all of its platform's requirements shows it."""
    shown = {rule.platform: (meeting(rule), _shown_devices(rule)) for rule in form.platforms}
    for release in form.releases:
        for entry in release.tuples:
            if entry.platform not in shown:
                continue  # a platform that a target leaves out by a waiver
            require, devices = shown[entry.platform]
            claims = require | pinned(entry.expect)
            yield Case(entry.evidence_kind, f"release {release.version} {release.digest}", claims, devices)


def meeting(rule: PlatformRule | DeviceRule) -> dict[str, Any]:
    """Return claims that meet everything that ``rule`` asks."""
    found: dict[str, Any] = {}
    asked = constraints(rule)
    for path in dict.fromkeys(one.path for one in asked):
        found[path] = example([one.expect for one in asked if one.path == path])
    return found


def nested(claims: Mapping[str, Any]) -> dict[str, Any]:
    """Return flat claims as evidence has them: ``quote.body.mr_td`` is in ``body``, which is in ``quote``."""
    found: dict[str, Any] = {}
    for path, value in claims.items():
        *outer, last = path.split(".")
        place = found
        for name in outer:
            inner = place.setdefault(name, {})
            place = inner if isinstance(inner, dict) else {}
        place[last] = value
    return found


def _shown_devices(rule: PlatformRule) -> tuple[Device, ...]:
    return tuple(
        Device(device.evidence_kind, meeting(device)) for device in rule.devices for _ in range(device.least)
    )


def _edges(form: NormalForm, bases: list[Case]) -> Iterator[Case]:
    """For each platform's first tuple: every value on either side of every requirement, and its other types."""
    seen: set[str] = set()
    first = {entry.platform: number for number, entry in reversed(list(enumerate(_entries(form))))}
    for rule in form.platforms:
        if rule.platform not in first or rule.platform in seen:
            continue
        seen.add(rule.platform)
        base = bases[first[rule.platform]]
        for one in constraints(rule):
            for value in beside(one.expect):
                yield _case(base, one.path, value)


def _entries(form: NormalForm) -> Iterator[Any]:
    ours = {rule.platform for rule in form.platforms}
    for release in form.releases:
        yield from (entry for entry in release.tuples if entry.platform in ours)


def _deviations(bases: list[Case], emitted: Iterable[str], budget: int) -> Iterator[Case]:
    """Every tuple with one claim changed. Where that is too many, a sample of them, and one claim of each other."""
    columns = _columns(bases)
    known = sorted({value for values in columns.values() for value in values if isinstance(value, str)})
    foreign = sorted(set(emitted).difference(known))
    chosen = random.Random(_SEED)  # noqa: S311 (which mutations to try, not a secret)
    if len(foreign) > _MOST_FOREIGN:
        foreign = chosen.sample(foreign, _MOST_FOREIGN)
    whole = _sample(bases, budget, chosen)
    most = max(4, budget // (sum(len(bases[number].claims) for number in whole) or 1))
    for number, base in enumerate(bases):
        if number not in whole:
            yield from _one(base, number)
            continue
        for path, value in base.claims.items():
            others = [v for v in columns[path][:_MOST_OTHERS] if typed(v) != typed(value)]
            elsewhere = chosen.sample(known, min(len(known), _MOST_ELSEWHERE))
            changed = [*nearly(value), *others, *(v for v in elsewhere if v != value)]
            if len(changed) > most:
                changed = [*changed[:3], *chosen.sample(changed[3:], most - 3)]
            yield _case(base, path, None, drop=True)
            unknown = foreign if number == 0 else chosen.sample(foreign, min(len(foreign), most))
            for other in (*changed, *unknown):
                yield _case(base, path, other)
        for path, other in _EXTRA.items():
            if path not in base.claims:
                yield _case(base, path, other)


def _sample(bases: list[Case], budget: int, chosen: random.Random) -> frozenset[int]:
    """Return the numbers of the tuples of which every claim is changed: all of them when there is room."""
    widest = max((len(base.claims) for base in bases), default=0) or 1
    room = max(_LEAST_WHOLE, budget // (widest * 4))
    if len(bases) <= room:
        return frozenset(range(len(bases)))
    return frozenset({0, *chosen.sample(range(len(bases)), room - 1)})


def _one(base: Case, number: int) -> Iterator[Case]:
    """One claim of a tuple absent, and nearly right; which claim goes round with the number."""
    paths = list(base.claims)
    if paths:
        path = paths[number % len(paths)]
        yield _case(base, path, None, drop=True)
        close = nearly(base.claims[path])
        yield _case(base, path, close[number % len(close)])


def _mixtures(bases: list[Case], budget: int) -> Iterator[Case]:
    """Claims of several releases in one piece of evidence: all mixtures, or a seeded sample of too many."""
    for kind in sorted({base.kind for base in bases}):
        ours = [base for base in bases if base.kind == kind]
        columns = _columns(ours)
        size = 1
        for values in columns.values():
            size *= len(values)
        what = "a mixture of released values"
        most = min(MOST_MIXTURES, budget)
        if size <= most:
            for mixed in product(*columns.values()):
                yield Case(kind, what, dict(zip(columns, mixed, strict=True)), ours[0].devices)
            continue
        chosen = random.Random(_SEED)  # noqa: S311
        for _ in range(most):
            one, other = chosen.choice(ours), chosen.choice(ours)
            taken = {path for path in columns if chosen.random() < 0.5}
            claims = {**one.claims, **{p: v for p, v in other.claims.items() if p in taken}}
            yield Case(kind, what, claims, one.devices)


def _devices(form: NormalForm, bases: list[Case]) -> Iterator[Case]:
    """Each platform's first tuple with devices that are missing, too many, of another kind, or not as asked."""
    done: set[str] = set()
    for base, entry in zip(bases, _entries(form), strict=True):
        rule = form.platform(entry.platform)
        if rule is None or rule.platform in done:
            continue
        done.add(rule.platform)
        stranger = Device("sample", {"measres": "success"})
        yield _with(base, "a device of no rule", (*base.devices, stranger))
        for number, device in enumerate(base.devices):
            rest = base.devices[:number] + base.devices[number + 1 :]
            yield _with(base, f"no {device.kind} {number}", rest)
            yield _with(base, f"{device.kind} {number} twice", (*base.devices, device))
            for path, value in device.claims.items():
                kept = {name: one for name, one in device.claims.items() if name != path}
                asked = [
                    one for d in rule.devices if d.evidence_kind == device.kind for one in constraints(d)
                ]
                edges = [v for one in asked if one.path == path for v in beside(one.expect)]
                for what, claims in (
                    ("absent", kept),
                    *((repr(other), {**kept, path: other}) for other in (*nearly(value), *edges)),
                ):
                    changed = (*rest[:number], Device(device.kind, claims), *rest[number:])
                    yield _with(base, f"{device.kind} {number} with {path} {what}", changed)
                    yield _with(
                        base, f"one more {device.kind} with {path} {what}", (*base.devices, changed[number])
                    )


def _strangers(form: NormalForm, bases: list[Case]) -> Iterator[Case]:
    """Evidence of another kind with the claims of this one, and evidence that says nothing."""
    for kind in ("sample", "snp-report", "tdx-quote", "nothing"):
        for base in islice(bases, 8):
            yield Case(kind, f"{base.what} as {kind}", base.claims, base.devices)
    for kind in sorted({rule.evidence_kind for rule in form.platforms}):
        ours = [base for base in bases if base.kind == kind]
        paths = sorted({path for base in ours for path in base.claims})
        devices = ours[0].devices if ours else ()
        for what, value in (("null", None), ("empty", ""), ("true", True), ("zero", "0" * 64)):
            yield Case(kind, f"every claim {what}", dict.fromkeys(paths, value), devices)
        yield Case(kind, "no claim at all", {}, devices)


def _case(base: Case, path: str, value: Any, *, drop: bool = False) -> Case:
    claims = {**base.claims, path: value}
    if drop:
        del claims[path]
    what = f"{base.what} with {path} {'absent' if drop else _shown(value)}"
    return Case(base.kind, what, claims, base.devices)


def _with(base: Case, what: str, devices: tuple[Device, ...]) -> Case:
    return replace(base, what=f"{base.what}, {what}", devices=devices)


def _columns(bases: list[Case]) -> dict[str, list[Any]]:
    """Every value that each claim has in some base, in order of appearance."""
    found: dict[str, dict[Any, Any]] = {}
    for base in bases:
        for path, value in base.claims.items():
            found.setdefault(path, {})[typed(value)] = value
    return {path: list(values.values()) for path, values in sorted(found.items())}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

"""The evidence that a proof tries: every released tuple, every mixture, and everything that is nearly right.

A claim may be absent, null, of another type, or a number in a string; each of those is in the domain, because
each of them has made some policy language say yes (docs/targets.md, "Pitfalls").
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from tallystick.core.digests import Digest
from tallystick.core.expect import AtLeast, Exactly, Expect, OneOf, Waived
from tallystick.policy.normal import NormalForm

MOST_MIXTURES = 4_096  # of whole cross products; beyond it a seeded sample, and every pair is still crossed
MOST_DEVIATIONS = 10_000
_MOST_ELSEWHERE = 20  # values of other claims that are tried in the place of one
_SEED = 20_260_801
_EXTRA: dict[str, Any] = {"pcr16": "0" * 64, "debug": True, "surprise": "x"}  # claims that no tuple names


@dataclass(frozen=True, slots=True)
class Case:
    """One piece of evidence of one kind, as flat claims; a claim that is not there is absent."""

    kind: str
    what: str  # for people: "release 0.1.0 with pcr04 absent"
    claims: Mapping[str, Any]


class Oracle:
    """What the normal form permits, said in the simplest way there is: a look-up of whole tuples."""

    def __init__(self, form: NormalForm) -> None:
        self._form = form
        self._rows: dict[tuple[str, tuple[str, ...]], dict[tuple[Any, ...], set[Digest]]] = {}
        for release in form.releases:
            for entry in release.tuples:
                pinned = _pinned(entry.expect)
                shape = (entry.evidence_kind, tuple(pinned))
                values = tuple(map(_typed, pinned.values()))
                self._rows.setdefault(shape, {}).setdefault(values, set()).add(release.digest)

    @property
    def released(self) -> int:
        """How many different tuples there are."""
        return sum(len(rows) for rows in self._rows.values())

    def permits(self, case: Case) -> frozenset[Digest]:
        """Return the releases whose tuple ``case`` is, when it also meets what its platform requires."""
        require = [pair for r in self._form.platforms if r.evidence_kind == case.kind for pair in r.require]
        if not all(_meets(expect, case.claims.get(path)) for path, expect in require):
            return frozenset()
        found: set[Digest] = set()
        for (kind, paths), rows in self._rows.items():
            if kind == case.kind:
                found |= rows.get(tuple(_typed(case.claims.get(path)) for path in paths), set())
        return frozenset(found)

    def point(self, case: Case) -> tuple[Any, ...]:
        """Return what makes ``case`` different from others as far as any tuple can tell."""
        paths = sorted({path for kind, names in self._rows if kind == case.kind for path in names})
        return (case.kind, *(_typed(case.claims.get(path)) for path in paths))


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
        budget: about how many changes of one claim; each claim of each tuple gets a few in any case.
    """
    bases = list(released(form))
    yield from bases
    yield from suspects
    yield from _deviations(bases, emitted, budget)
    yield from _mixtures(bases, budget)
    yield from _strangers(form, bases)


def released(form: NormalForm) -> Iterator[Case]:
    """Yield every released tuple, as a machine that meets all of its platform's requirements shows it."""
    for release in form.releases:
        for entry in release.tuples:
            rule = form.platform(entry.platform)
            require = rule.require if rule else ()
            claims = {path: _example(expect) for path, expect in require} | _pinned(entry.expect)
            yield Case(entry.evidence_kind, f"release {release.version} {release.digest}", claims)


def _deviations(bases: list[Case], emitted: Iterable[str], budget: int) -> Iterator[Case]:
    """Every tuple with one claim changed. Where that is too many, each claim still gets its share."""
    columns = _columns(bases)
    known = sorted({value for values in columns.values() for value in values if isinstance(value, str)})
    foreign = sorted(set(emitted).difference(known))
    total = sum(len(base.claims) for base in bases) or 1
    most = max(4, budget // total)
    chosen = random.Random(_SEED)  # noqa: S311 (which mutations to try, not a secret)
    for number, base in enumerate(bases):
        for path, value in base.claims.items():
            others = [v for v in columns[path] if _typed(v) != _typed(value)]
            elsewhere = chosen.sample(known, min(len(known), _MOST_ELSEWHERE))
            changed = [*_nearly(value), *others, *(v for v in elsewhere if v != value)]
            if len(changed) > most:
                changed = [*changed[:3], *chosen.sample(changed[3:], most - 3)]
            yield _case(base, path, None, drop=True)
            unknown = foreign if number == 0 else chosen.sample(foreign, min(len(foreign), most))
            for other in (*changed, *unknown):
                yield _case(base, path, other)
        for path, other in _EXTRA.items():
            yield _case(base, path, other)


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
                yield Case(kind, what, dict(zip(columns, mixed, strict=True)))
            continue
        chosen = random.Random(_SEED)  # noqa: S311
        for _ in range(most):
            one, other = chosen.choice(ours), chosen.choice(ours)
            taken = {path for path in columns if chosen.random() < 0.5}
            yield Case(kind, what, {**one.claims, **{p: v for p, v in other.claims.items() if p in taken}})


def _strangers(form: NormalForm, bases: list[Case]) -> Iterator[Case]:
    """Evidence of another kind with the claims of this one, and evidence that says nothing."""
    for kind in ("sample", "snp-report", "tdx-quote", "nothing"):
        for base in islice(bases, 8):
            yield Case(kind, f"{base.what} as {kind}", base.claims)
    for kind in sorted({rule.evidence_kind for rule in form.platforms}):
        paths = sorted({path for base in bases if base.kind == kind for path in base.claims})
        for what, value in (("null", None), ("empty", ""), ("true", True), ("zero", "0" * 64)):
            yield Case(kind, f"every claim {what}", dict.fromkeys(paths, value))
        yield Case(kind, "no claim at all", {})


def _case(base: Case, path: str, value: Any, *, drop: bool = False) -> Case:
    claims = {**base.claims, path: value}
    if drop:
        del claims[path]
    return Case(base.kind, f"{base.what} with {path} {'absent' if drop else _shown(value)}", claims)


def _columns(bases: list[Case]) -> dict[str, list[Any]]:
    """Every value that each claim has in some base, in order of appearance."""
    found: dict[str, dict[Any, Any]] = {}
    for base in bases:
        for path, value in base.claims.items():
            found.setdefault(path, {})[_typed(value)] = value
    return {path: list(values.values()) for path, values in sorted(found.items())}


def _nearly(value: Any) -> list[Any]:
    """Values that are almost ``value``, and values of every other type."""
    common: list[Any] = [None, "", True, False, 0, 1, 1.5, [], [value], {}, {"value": value}]
    if isinstance(value, bool):
        return [not value, str(value).lower(), int(value), *common]
    if isinstance(value, int):
        return [value - 1, value + 1, str(value), str(value + 1), float(value) + 0.5, *common]
    if isinstance(value, str) and value:
        flipped = ("1" if value[0] == "0" else "0") + value[1:]
        last = value[:-1] + ("1" if value[-1] == "0" else "0")
        return [flipped, last, value[:-1], value + "0", value.upper(), f" {value}", f"{value}\n", *common]
    return common


def _pinned(expect: tuple[tuple[str, Expect], ...]) -> dict[str, bool | int | str]:
    return {path: one.value for path, one in expect if isinstance(one, Exactly)}


def _example(expect: Expect) -> bool | int | str:
    if isinstance(expect, Exactly):
        return expect.value
    if isinstance(expect, OneOf):
        return expect.values[0]
    if isinstance(expect, AtLeast):
        return expect.minimum
    raise ValueError("a requirement on every tuple is never a waiver")


def _meets(expect: Expect, value: Any) -> bool:
    if isinstance(expect, Exactly):
        return _typed(value) == _typed(expect.value)
    if isinstance(expect, OneOf):
        return _typed(value) in map(_typed, expect.values)
    if isinstance(expect, AtLeast):
        return isinstance(value, int) and not isinstance(value, bool) and value >= expect.minimum
    return isinstance(expect, Waived)


def _typed(value: Any) -> tuple[str, Any]:
    """Return ``value`` so that True, 1, "1" and 1.0 are four things, and lists can be compared."""
    if isinstance(value, list | dict):
        return (type(value).__name__, repr(value))
    return (type(value).__name__, value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

"""What targets share that judge claims: how a platform's claims are called there, and what is permitted in these words.

A proof compares what the emitted bytes mean with formulas that are made here from the normal form alone; both use the
target's vocabulary, whose names are held to the vendors' documentation by tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tallystick.compile.logic.formula import TRUE, Atom, Formula, every, negated
from tallystick.compile.logic.tests import (
    Among,
    AtLeastNumber,
    AtLeastVersion,
    Contains,
    OfType,
    OnlyOf,
    Texts,
)
from tallystick.core import expect as expects
from tallystick.core.expect import Expect
from tallystick.policy.constraints import Constraint, constraints, told
from tallystick.policy.normal import NormalForm, Residual


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """How the claims of one of our platforms are called in a target's evidence."""

    platform: str
    roots: tuple[str, ...]  # labels of roots that the target's own verifier ends in
    names: Mapping[str, str]  # our claim path -> the target's claim
    fixed: tuple[
        tuple[str, Expect], ...
    ] = ()  # the target's own claims that make evidence one of this platform
    implied: Mapping[str, Expect] = field(
        default_factory=dict
    )  # our path -> what holds whenever a tuple matches

    def name(self, path: str) -> str | None:
        """Return the target's name of the claim at ``path``, or None when it does not tell it."""
        return self.names.get(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One release tuple in a target's words, with the release it is of; equal tuples are one row."""

    platform: str
    releases: tuple[str, ...]  # release digests, sorted
    pins: tuple[tuple[str, bool | int | str], ...]  # the target's claim -> value, sorted


def waived(form: NormalForm, target: str) -> dict[str, Residual]:
    """Return what is waived for ``target``, by the requirement's name."""
    return {one.requirement: one for one in form.residuals if one.target == target}


def rows(form: NormalForm, target: str, words: Mapping[str, Vocabulary]) -> tuple[Row, ...]:
    """Return the released tuples of every platform that ``target`` has words for, without waived registers."""
    skip = waived(form, target)
    found: dict[tuple[str, tuple[tuple[str, bool | int | str], ...]], set[str]] = {}
    for release in form.releases:
        for entry in release.tuples:
            vocabulary = words.get(entry.platform)
            if vocabulary is None:
                continue
            pins = {
                vocabulary.names[path]: expect.value
                for path, expect in entry.expect
                if isinstance(expect, expects.Exactly) and f"register-{path}" not in skip
            }
            found.setdefault((entry.platform, tuple(sorted(pins.items()))), set()).add(str(release.digest))
    return tuple(
        Row(platform=platform, releases=tuple(sorted(releases)), pins=pins)
        for (platform, pins), releases in sorted(found.items())
    )


def asked(form: NormalForm, target: str, platform: str) -> tuple[Constraint, ...]:
    """Return what is asked of every evidence of ``platform``, but for what is waived for ``target``."""
    rule = told(form, target).platform(platform)
    return constraints(rule) if rule else ()


def meets(claim: str, expect: Expect) -> Formula:
    """Return when the claim called ``claim`` is as expected. Strict: see :mod:`tallystick.core.expect`."""
    match expect:
        case expects.Exactly(value):
            return Atom(claim, Among(value))
        case expects.OneOf(values):
            return Atom(claim, Among(*values))
        case expects.NoneOf(values):
            kind = OfType((type(values[0]).__name__,))
            return every([Atom(claim, kind), negated(Atom(claim, Among(*values)))])
        case expects.AtLeast(minimum):
            return Atom(claim, AtLeastNumber(minimum))
        case expects.AtLeastVersion(minimum):
            return Atom(claim, AtLeastVersion(minimum))
        case expects.Only(members):
            return Atom(claim, OnlyOf(members))
        case expects.Includes(members):
            return every([Atom(claim, Texts()), *_containing(claim, members)])
        case expects.Excludes(members):
            return every([Atom(claim, Texts()), *map(negated, _containing(claim, members))])
        case expects.Waived():
            return TRUE


def _containing(claim: str, members: tuple[str, ...]) -> Iterator[Formula]:
    for member in members:
        yield Atom(claim, Contains(member))


def points(found: tuple[Row, ...]) -> tuple[str, ...]:
    """Return every claim that some row pins: what makes one accepted tuple differ from another."""
    return tuple(sorted({claim for row in found for claim, _ in row.pins}))

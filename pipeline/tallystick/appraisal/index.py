"""A normal form made ready for many appraisals: its digest, and its tuples by their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import ne

from tallystick.core.digests import Digest
from tallystick.core.expect import Exactly
from tallystick.evidence.claims import Claims
from tallystick.policy import document
from tallystick.policy.constraints import Constraint, constraints
from tallystick.policy.normal import NormalForm, PermittedRelease, Tuple

Shape = tuple[str, tuple[str, ...]]  # evidence kind, and the claims that are pinned to one value
Values = tuple[tuple[type, object], ...]  # of those claims, each with its type: True is not 1


@dataclass(frozen=True, slots=True)
class Candidate:
    """One release tuple and the release it belongs to."""

    release: PermittedRelease
    entry: Tuple
    rank: int  # 0 is of the newest release


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A normal form with its index. Made by :func:`prepare` alone."""

    form: NormalForm
    digest: Digest  # of the compiled policy's exact bytes
    by_values: Mapping[Shape, Mapping[Values, tuple[Candidate, ...]]]  # equal ones: the newest first
    asked: Mapping[str, tuple[Constraint, ...]]  # of each platform, and of each device as "platform/device"


def prepare(form: NormalForm, compiled: Digest | None = None) -> Prepared:
    """Return ``form`` with an index of its tuples, in one pass.

    Args:
        compiled: digest of the bytes that ``form`` was read from, when it is not all that they said (a broker
            leaves revoked releases out); None takes the digest of ``form`` itself.
    """
    newest_first = sorted(form.releases, key=lambda release: str(release.digest))
    newest_first.sort(key=lambda release: release.promoted_at, reverse=True)
    entries = [(release, entry) for release in newest_first for entry in release.tuples]
    table: dict[Shape, dict[Values, list[Candidate]]] = {}
    for rank, (release, entry) in enumerate(entries):
        pinned = [(path, expect.value) for path, expect in entry.expect if isinstance(expect, Exactly)]
        shape = (entry.evidence_kind, tuple(path for path, _ in pinned))
        values = tuple((type(value), value) for _, value in pinned)
        table.setdefault(shape, {}).setdefault(values, []).append(Candidate(release, entry, rank))
    frozen = {
        shape: {values: tuple(found) for values, found in rows.items()} for shape, rows in table.items()
    }
    asked = {rule.platform: constraints(rule) for rule in form.platforms}
    for rule in form.platforms:
        asked |= {f"{rule.platform}/{device.platform}": constraints(device) for device in rule.devices}
    return Prepared(form=form, digest=compiled or document.digest(form), by_values=frozen, asked=asked)


class _Same:
    """A form as a key of the cache: the very object, not its value, which would take long to hash."""

    __slots__ = ("form",)

    def __init__(self, form: NormalForm) -> None:
        self.form = form

    def __hash__(self) -> int:
        return id(self.form)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.form is other.form


@lru_cache(maxsize=32)
def _remembered(same: _Same) -> Prepared:
    return prepare(same.form)


def prepared_once(form: NormalForm) -> Prepared:
    """Return ``form`` prepared, from memory when this very object was asked for before."""
    return _remembered(_Same(form))


def matching(prepared: Prepared, claims: Claims) -> list[Candidate]:
    """Return the tuples whose pinned claims all have the values of ``claims``, the newest release first.

    One look-up for each shape. The caller still asks every expectation; this only finds whom to ask.
    """
    found: list[Candidate] = []
    for (kind, paths), rows in prepared.by_values.items():
        if kind == claims.kind:
            values = _values(claims, paths)
            if all(isinstance(value, str | int) for _, value in values):
                found += rows.get(values, ())
    return sorted(found, key=lambda candidate: candidate.rank)


def nearest(prepared: Prepared, claims: Claims) -> Candidate | None:
    """Return the tuple that differs from ``claims`` in the fewest pinned claims, the newest of equals.

    None when no tuple is for evidence of this kind. Linear in the tuples: for refusals only.
    """
    best: tuple[int, int, Candidate] | None = None
    for (kind, paths), rows in prepared.by_values.items():
        if kind == claims.kind:
            got = _values(claims, paths)
            for values, candidates in rows.items():
                differing = sum(map(ne, values, got))
                found = (differing, candidates[0].rank, candidates[0])
                best = found if best is None else min(best, found, key=lambda row: row[:2])
    return best[2] if best else None


def _values(claims: Claims, paths: tuple[str, ...]) -> Values:
    return tuple((type(value), value) for value in map(claims.at, paths))

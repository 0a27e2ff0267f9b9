"""What a normal form permits, said in the simplest way there is: a look-up of whole tuples. Proofs ask it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tallystick.core.digests import Digest
from tallystick.core.expect import (
    AtLeast,
    AtLeastVersion,
    Exactly,
    Excludes,
    Expect,
    Includes,
    NoneOf,
    OneOf,
    Only,
    Waived,
    version_of,
)
from tallystick.policy.constraints import constraints
from tallystick.policy.normal import NormalForm

if TYPE_CHECKING:
    from tallystick.compile.domain import Case

_Row = dict[tuple[Any, ...], set[Digest]]


class Oracle:
    """The permitted tuples of one form. A place that no claim says is not asked: the target said what it lacks."""

    def __init__(self, form: NormalForm) -> None:
        self._rows: dict[
            tuple[str, tuple[str, ...]], _Row
        ] = {}  # platform, pinned claims -> values -> releases
        self._kinds = {rule.platform: rule.evidence_kind for rule in form.platforms}
        self._asked = {
            rule.platform: [(c.path, c.expect) for c in constraints(rule)] for rule in form.platforms
        }
        self._devices = {
            rule.platform: [
                (d.evidence_kind, d.least, [(c.path, c.expect) for c in constraints(d)]) for d in rule.devices
            ]
            for rule in form.platforms
        }
        self._shared: dict[str, tuple[str, ...]] = {}
        for release in form.releases:
            for entry in release.tuples:
                if entry.platform not in self._kinds:
                    continue
                values = pinned(entry.expect)
                row = self._rows.setdefault((entry.platform, tuple(values)), {})
                row.setdefault(tuple(map(typed, values.values())), set()).add(release.digest)
        for kind in set(self._kinds.values()):
            paths = {p for (name, found) in self._rows if self._kinds.get(name) == kind for p in found}
            self._shared[kind] = tuple(sorted(paths))

    @property
    def released(self) -> int:
        """How many different tuples there are, as evidence can tell them apart."""
        return len(
            {
                (self._kinds.get(name), tuple(zip(paths, values, strict=True)))
                for (name, paths), rows in self._rows.items()
                for values in rows
            }
        )

    def permits(self, case: Case) -> frozenset[Digest]:
        """Return the releases whose tuple ``case`` is, when it also meets what its platform requires."""
        found: set[Digest] = set()
        for row in self._matched(case):
            found |= row[2]
        return frozenset(found)

    def point(self, case: Case) -> tuple[Any, ...]:
        """Return the tuple that ``case`` is; what no tuple is, by every claim that some tuple pins."""
        first = next(self._matched(case), None)
        if first is not None:
            return (case.kind, tuple(zip(first[0], first[1], strict=True)))
        return (case.kind, *(typed(case.claims.get(path)) for path in self._shared.get(case.kind, ())))

    def _matched(self, case: Case) -> Iterator[tuple[tuple[str, ...], tuple[Any, ...], set[Digest]]]:
        for (name, paths), rows in self._rows.items():
            if self._kinds.get(name) == case.kind:
                values = tuple(typed(case.claims.get(path)) for path in paths)
                if values in rows and self._meets(name, case):
                    yield paths, values, rows[values]

    def _meets(self, name: str, case: Case) -> bool:
        kinds = [kind for kind, _, _ in self._devices[name]]
        return (
            all(meets(expect, case.claims.get(path)) for path, expect in self._asked[name])
            and all(device.kind in kinds for device in case.devices)
            and all(
                sum(device.kind == kind for device in case.devices) >= least
                and all(
                    meets(expect, device.claims.get(path))
                    for device in case.devices
                    if device.kind == kind
                    for path, expect in asked
                )
                for kind, least, asked in self._devices[name]
            )
        )


def meets(expect: Expect, value: Any) -> bool:
    """Say whether ``value`` is what is expected. Absent, null and other types never are."""
    if isinstance(expect, Exactly):
        return typed(value) == typed(expect.value)
    if isinstance(expect, OneOf):
        return typed(value) in map(typed, expect.values)
    if isinstance(expect, NoneOf):
        listed = [typed(other) for other in expect.values]
        return typed(value)[0] in {name for name, _ in listed} and typed(value) not in listed
    if isinstance(expect, AtLeast):
        return isinstance(value, int) and not isinstance(value, bool) and value >= expect.minimum
    if isinstance(expect, AtLeastVersion):
        least, got = version_of(expect.minimum), version_of(value)
        return least is not None and got is not None and got >= least
    if isinstance(expect, Only | Includes | Excludes):
        return _list_meets(expect, value)
    return isinstance(expect, Waived)


def _list_meets(expect: Only | Includes | Excludes, value: Any) -> bool:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return False
    if isinstance(expect, Only):
        return all(item in expect.values for item in value)
    if isinstance(expect, Includes):
        return all(item in value for item in expect.values)
    return not any(item in expect.values for item in value)


def typed(value: Any) -> tuple[str, Any]:
    """Return ``value`` so that True, 1, "1" and 1.0 are four things, and lists can be compared."""
    if isinstance(value, list | dict):
        return (type(value).__name__, repr(value))
    return (type(value).__name__, value)


def pinned(expect: tuple[tuple[str, Expect], ...]) -> dict[str, bool | int | str]:
    """Return the claims that a tuple pins to one value."""
    return {path: one.value for path, one in expect if isinstance(one, Exactly)}

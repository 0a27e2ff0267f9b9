"""How an audit asks a policy's formula: is there evidence that gets the key, although it should not?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.compile.audit.records import PermissivePath, ReferenceValues
from tallystick.compile.logic.formula import ABSENT, Atom, Formula, Value, every, negated, some
from tallystick.compile.logic.solve import Solver
from tallystick.compile.logic.tests import Among
from tallystick.core.errors import Malformed

MOST_COUNTED = 256


def assumed(
    claims: Mapping[str, Value], shown: Callable[[Mapping[str, Value]], dict[str, Any]]
) -> dict[str, Any]:
    """Return evidence as ``shown`` does, with what was taken for the worst in a list of its own."""
    marks = ("unmodelled ", "custom claim ")
    chosen = [
        path for path, value in sorted(claims.items()) if path.startswith(marks) and value is not ABSENT
    ]
    found = shown({path: value for path, value in claims.items() if not path.startswith(marks)})
    return {**found, "assuming": chosen} if chosen else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """One policy's formula, and how its evidence is shown to a person."""

    accepted: Formula
    shown: Callable[[Mapping[str, Value]], Mapping[str, Any]]

    def example(self, *also: Formula) -> Mapping[str, Any] | None:
        """Return evidence that is accepted and of which ``also`` holds, or None when there is none."""
        found = Solver(self.accepted, *also).example(self.accepted, *also)
        return None if found is None else self.shown(found)

    def path(self, code: str, where: str, what: str, fix: str, *also: Formula) -> Iterator[PermissivePath]:
        """Yield the permissive path, when there is evidence for it."""
        found = self.example(*also)
        if found is not None:
            yield PermissivePath(code=code, where=where, what=what, fix=fix, evidence=found)

    def unreleased(
        self, code: str, fix: str, released: Formula, paths: tuple[str, ...]
    ) -> tuple[list[PermissivePath], int]:
        """Return what is accepted beside ``released``, and how many tuples are accepted (at most 256)."""
        solver = Solver(self.accepted, released)
        extra = solver.example(self.accepted, negated(released))
        counted = sum(1 for _ in solver.examples(self.accepted, MOST_COUNTED, paths))
        if extra is None:
            return [], counted
        what = "gives the key to evidence that no tuple of the Reference Values is"
        path = PermissivePath(
            code=code, where="the whole policy", what=what, fix=fix, evidence=self.shown(extra)
        )
        return [path], counted


def tuples(
    reference: ReferenceValues, names: Mapping[str, str], folded: Callable[[str, Any], Formula] | None = None
) -> Formula:
    """Return when evidence is of one whole tuple of ``reference``, in the words ``names`` of the policy's language.

    Raises:
        Malformed: no tuple has a claim that the language knows (``audit.reference``).
    """
    rows = []
    for row in reference.tuples:
        known = {names[name]: value for name, value in row.items() if name in names}
        if known:
            equal = folded or (lambda claim, value: Atom(claim, Among(value)))
            rows.append(every(equal(claim, value) for claim, value in sorted(known.items())))
    if not rows:
        want = "claims that the policy's language tells, such as " + ", ".join(sorted(names)[:4])
        got = ", ".join(sorted(reference.tuples[0]))
        raise Malformed("reference values", at="tuples", want=want, got=got, code="audit.reference")
    return some(rows)

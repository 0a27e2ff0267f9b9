"""Formulas to the solver: is there evidence of which they hold, and which?

The solver is Z3 (``z3-solver``): https://github.com/Z3Prover/z3. Each claim is one bit vector that is the place of
its value in the claim's domain; a question is the set of places where it holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tallystick.compile.logic.formula import All, Any_, Atom, Formula, Not, Value, every, negated
from tallystick.compile.logic.space import Space, spaces
from tallystick.compile.logic.tests import identity


class Undecided(RuntimeError):
    """The solver gave up, which it never does on these formulas: our bug, and no proof."""


class Solver:
    """Some formulas over one common domain of claims."""

    def __init__(self, *formulas: Formula) -> None:
        import z3

        self._z3 = z3
        self._spaces: Mapping[str, Space] = spaces(formulas)
        self._variables: dict[str, Any] = {}
        self._bounds: list[Any] = []
        self._known: dict[Atom, Any] = {}
        self._equal: dict[tuple[str, int], Any] = {}
        for path, space in self._spaces.items():
            bits = max(1, (len(space.values) - 1).bit_length())
            variable = z3.BitVec(path, bits)
            self._variables[path] = variable
            if len(space.values) < 1 << bits:
                self._bounds.append(z3.ULT(variable, len(space.values)))

    @property
    def size(self) -> int:
        """How many pieces of evidence the domain has; the product of the claims' domains."""
        found = 1
        for space in self._spaces.values():
            found *= len(space.values)
        return found

    def example(self, *formulas: Formula) -> dict[str, Value] | None:
        """Return claims of which all ``formulas`` hold, or None when there are none: that is a proof.

        Raises:
            Undecided: the solver gave up.
        """
        return next(self.examples(every(formulas), 1), None)

    def examples(
        self, formula: Formula, most: int, apart: tuple[str, ...] = ()
    ) -> Iterator[dict[str, Value]]:
        """Yield at most ``most`` pieces of evidence of which ``formula`` holds.

        Args:
            apart: claims, at least one of which differs between any two of them; all claims when empty.
        """
        solver = self._z3.SolverFor("QF_BV")
        solver.add(*self._bounds, self._expression(formula))
        for _ in range(most):
            answer = solver.check()
            if answer == self._z3.unsat:
                return
            if answer != self._z3.sat:
                raise Undecided(str(solver.reason_unknown()))
            model = solver.model()
            places = {
                path: model.eval(variable, model_completion=True).as_long()
                for path, variable in self._variables.items()
            }
            yield {path: self._spaces[path].values[place] for path, place in places.items()}
            names = [name for name in apart if name in places] or list(places)
            solver.add(self._z3.Or([self._variables[name] != places[name] for name in names]))

    def values(self, path: str) -> list[Value]:
        """Return the domain of one claim; empty when no formula asks about it."""
        return list(self._spaces[path].values) if path in self._spaces else []

    def _expression(self, formula: Formula) -> Any:
        match formula:
            case Atom():
                if formula not in self._known:
                    self._known[formula] = self._question(formula)
                return self._known[formula]
            case All(parts):
                return self._joined(self._z3.Z3_mk_and, [self._expression(part) for part in parts])
            case Any_(parts):
                return self._joined(self._z3.Z3_mk_or, [self._expression(part) for part in parts])
            case Not(part):
                return self._z3.Not(self._expression(part))

    def _question(self, atom: Atom) -> Any:
        space = self._spaces[atom.path]
        places = space.meeting(atom.test)
        if 2 * len(places) > len(space.values):
            held = set(places)
            rest = [place for place in range(len(space.values)) if place not in held]
            return self._z3.Not(self._or([self._equals(atom.path, place) for place in rest]))
        if len(places) == 1:
            return self._equals(atom.path, places[0])
        return self._or([self._equals(atom.path, place) for place in places])

    def _or(self, parts: list[Any]) -> Any:
        return self._joined(self._z3.Z3_mk_or, parts)

    def _joined(self, make: Any, parts: list[Any]) -> Any:
        """Return a conjunction or disjunction. The library's own way asks each part for its sort, several times."""
        context = self._z3.main_ctx()
        held = (self._z3.Ast * len(parts))(*(part.as_ast() for part in parts))
        return self._z3.BoolRef(make(context.ref(), len(parts), held), context)

    def _equals(self, path: str, place: int) -> Any:
        mark = (path, place)
        if mark not in self._equal:
            self._equal[mark] = self._variables[path] == place
        return self._equal[mark]


def count(formula: Formula, paths: tuple[str, ...], most: int) -> int:
    """Return how many different values of ``paths`` evidence that meets ``formula`` has; at most ``most``."""
    found = Solver(formula).examples(formula, most, paths)
    return len({tuple(identity(claims.get(path)) for path in paths) for claims in found})


def differs(one: Formula, other: Formula) -> dict[str, Value] | None:
    """Return claims of which exactly one of the two formulas holds, or None when they mean the same."""
    solver = Solver(one, other)
    return solver.example(one, negated(other)) or solver.example(other, negated(one))

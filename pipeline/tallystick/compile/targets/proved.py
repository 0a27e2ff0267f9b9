"""A proof by logic: what the emitted bytes accept is what is permitted, over every piece of evidence there can be.

``accepted`` comes from the emitted bytes, ``permitted`` from the normal form; neither knows the other. Both
directions are asked: evidence that gets a key and should not, and evidence that should and does not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tallystick.compile.errors import Unproven
from tallystick.compile.logic.formula import ABSENT, Formula, Value, evaluate, every, negated
from tallystick.compile.logic.solve import Solver, count
from tallystick.core.findings import Finding

ENGINE = "z3"
_MOST_COUNTED = 256  # accepted tuples, when they are more than were released


def same(
    target: str,
    accepted: Formula,
    permitted: Formula,
    *,
    released: int,
    apart: tuple[str, ...],
    shown: Callable[[Mapping[str, Value]], Any],
    given: Formula,
    counted: Formula | None = None,
) -> None:
    """Show that ``accepted`` and ``permitted`` hold of the same evidence.

    Args:
        released: how many tuples there are, for the error.
        apart: the claims that tell accepted tuples apart, for counting them.
        shown: evidence as a person would see it: a token, or a request.
        given: what is true of every piece of evidence.
        counted: when a key is given, for counting; default: ``accepted``.

    Raises:
        Unproven: they differ; the finding's note is evidence for which they do.
    """
    solver = Solver(accepted, permitted, given)
    found = []
    wider = solver.example(given, accepted, negated(permitted))
    if wider is not None:
        found.append(_finding(target, wider, accepted, "no key", "a key", "prove.admits", shown))
    narrower = solver.example(given, permitted, negated(accepted))
    if narrower is not None:
        found.append(_finding(target, narrower, permitted, "a key", "no key", "prove.refuses", shown))
    if found:
        most = max(_MOST_COUNTED, 2 * released)
        got = count(every([given, counted or accepted]), apart, most)
        more = " or more" if got == most else ""
        raise Unproven(
            f"{target}: released {released} · accepted {got}{more}: {found[0].where}", findings=found
        )


def _finding(
    target: str,
    claims: Mapping[str, Value],
    holds: Formula,
    want: str,
    got: str,
    code: str,
    shown: Callable[[Mapping[str, Value]], Any],
) -> Finding:
    if not evaluate(holds, claims):
        raise AssertionError("the solver's example does not hold when it is evaluated: our bug")
    what = "evidence that was not released" if code == "prove.admits" else "evidence that was released"
    document = json.dumps(shown(claims), sort_keys=True, default=repr)
    return Finding(code, f"{target}: {what}", want=want, got=got, note=f"evidence: {document}")


def nested(claims: Mapping[str, Value], *, skip: Iterable[str] = ()) -> dict[str, Any]:
    """Return claims as the JSON object that has them: ``a.b`` is b inside of a; absent ones are left out."""
    left = set(skip)
    found: dict[str, Any] = {}
    for path, value in sorted(claims.items()):
        if value is ABSENT or path in left:
            continue
        place = found
        *outer, last = path.split(".")
        for name in outer:
            inner = place.setdefault(name, {})
            if not isinstance(inner, dict):
                inner = place[name] = {}
            place = inner
        place[last] = value
    return found


def unreadable(target: str, file: str, want: str, got: str) -> Unproven:
    """Return the error for a file that is not what was emitted; the caller raises it."""
    finding = Finding("prove.unreadable", f"{target}: {file}", want=want, got=got)
    return Unproven(finding.message, findings=[finding])

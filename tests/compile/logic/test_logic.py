"""Formulas and the solver: its answers are those of trying everything."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.compile.errors import Unproven
from tallystick.compile.logic.formula import (
    ABSENT,
    FALSE,
    TRUE,
    All,
    Any_,
    Atom,
    Not,
    evaluate,
    every,
    negated,
    some,
)
from tallystick.compile.logic.solve import Solver, count, differs
from tallystick.compile.logic.space import OTHER_TEXT, Space, TooManyMembers, spaces
from tallystick.compile.logic.tests import (
    Among,
    AtLeastNumber,
    AtLeastVersion,
    Contains,
    NotAfter,
    OfType,
    OnlyOf,
    Prefixed,
    Present,
    Texts,
)
from tallystick.compile.targets import proved

TESTS = (
    Among("a"),
    Among("A", "b"),
    Among(1),
    Among(True),
    Among(ABSENT),
    Present(),
    OfType(("str",)),
    AtLeastNumber(3),
    AtLeastNumber(3, whole=False),
    Prefixed("a"),
    AtLeastVersion("1.10"),
    Contains("x"),
    OnlyOf(("x", "y")),
    Texts(),
    NotAfter("2027-01-01T00:00:00Z"),
)
atoms = st.builds(Atom, st.sampled_from(["p", "q.r"]), st.sampled_from(TESTS))
formulas = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: All(tuple(parts))),
        st.lists(inner, max_size=3).map(lambda parts: Any_(tuple(parts))),
        inner.map(Not),
    ),
    max_leaves=6,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
    | st.sampled_from(["a", "A", "1", "1.10", "x", "2027-01-01T00:00:01Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "y"]), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@given(formulas)
@settings(max_examples=60, deadline=None)
def test_the_solver_agrees_with_trying_everything(formula):
    domains = spaces([formula])
    found = Solver(formula).example(formula)
    tried = (
        dict(zip(domains, row, strict=True)) for row in product(*(space.values for space in domains.values()))
    )
    possible = next((claims for claims in tried if evaluate(formula, claims)), None)
    assert (found is None) == (possible is None)
    if found is not None:
        assert evaluate(formula, found)


@given(formulas, values, values)
@settings(max_examples=150, deadline=None)
def test_no_value_answers_as_none_of_the_domain_does(formula, p, q):
    """The domain is exact: what no value of it meets, no value at all meets."""
    if evaluate(formula, {"p": p, "q.r": q}):
        assert Solver(formula).example(formula) is not None


@pytest.mark.parametrize("test", TESTS)
@given(value=values)
@settings(max_examples=40, deadline=None)
def test_a_test_has_an_answer_for_every_value(test, value):
    assert test.holds(value) in (True, False)
    assert test.holds(ABSENT) in (True, False)


def test_none_of_the_types_are_taken_for_each_other():
    for one in (True, 1, "1", 1.0, [1], None, ABSENT):
        assert [Among(one).holds(other) for other in (True, 1, "1", 1.0, [1], None, ABSENT)].count(True) == 1


def test_the_domain_has_what_policy_languages_confuse():
    values = Space("p", [Among("false"), Among(8)]).values
    for value in (
        ABSENT,
        None,
        "",
        "FALSE",
        False,
        "8",
        8,
        7,
        9,
        8.0 - 8 + 0.5,
        [],
        {},
        OTHER_TEXT,
        ["false"],
    ):
        assert any(type(one) is type(value) and one == value for one in values), value


def test_lists_are_in_the_domain_with_every_subset():
    values = Space("p", [Contains("x"), Contains("y")]).values
    for members in (["x"], ["y"], ["x", "y"], ["x", OTHER_TEXT], [OTHER_TEXT], ["x", None]):
        assert members in values
    with pytest.raises(TooManyMembers, match="9 members are asked for"):
        Space("p", [Contains(f"m{n}") for n in range(9)])


def test_and_or_not_keep_to_themselves():
    one = Atom("p", Among("a"))
    assert every([]) == TRUE
    assert some([]) == FALSE
    assert every([TRUE, one]) == one
    assert every([one, FALSE]) == FALSE
    assert some([FALSE, one]) == one
    assert some([one, TRUE]) == TRUE
    assert negated(negated(one)) == one
    assert (negated(TRUE), negated(FALSE)) == (FALSE, TRUE)


def test_tuples_are_counted_and_lists_of_values_are_more():
    rows = [("a1", "b1"), ("a2", "b2")]
    tuples = some(every([Atom("p", Among(a)), Atom("q", Among(b))]) for a, b in rows)
    lists = every([Atom("p", Among("a1", "a2")), Atom("q", Among("b1", "b2"))])
    assert count(tuples, ("p", "q"), 100) == 2
    assert count(lists, ("p", "q"), 100) == 4
    found = differs(tuples, lists)
    assert found is not None
    assert (found["p"], found["q"]) in {("a1", "b2"), ("a2", "b1")}
    assert differs(tuples, tuples) is None


@pytest.mark.parametrize(
    ("accepted", "permitted", "code", "counted"),
    [
        (Among("a", "b"), Among("a"), "prove.admits", 2),
        (Among("a"), Among("a", "b"), "prove.refuses", 1),
    ],
)
def test_a_proof_asks_both_ways(accepted, permitted, code, counted):
    ask = {"released": 1, "apart": ("p",), "shown": dict, "given": TRUE}
    with pytest.raises(Unproven, match=f"x: released 1 · accepted {counted}: x: evidence") as caught:
        proved.same("x", Atom("p", accepted), Atom("p", permitted), **ask)
    (finding,) = caught.value.findings
    assert finding.code == code
    assert '"p": "b"' in finding.note
    proved.same("x", Atom("p", accepted), Atom("p", accepted), **ask)

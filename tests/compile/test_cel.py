"""CEL: our model, and two engines that are not ours, give the same answers."""

from __future__ import annotations

import pytest
from compile.clouds import cloud_form, world
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.compile.logic.formula import ABSENT, evaluate
from tallystick.compile.targets.gcp_wif import cel, emit, prove, truth
from tallystick.compile.targets.gcp_wif.engines import engines
from tallystick.core.errors import Malformed
from tallystick.core.expect import Exactly, Excludes, Expect, Includes, NoneOf, OneOf, Only

# Every expectation that a condition can say, of one claim called x.
EXPECTATIONS: dict[str, Expect] = {
    "text": Exactly("a"),
    "yes": Exactly(value=True),
    "one-of": OneOf(("a", "b")),
    "none-of": NoneOf(("a", "b")),
    "includes": Includes(("a", "b")),
    "excludes": Excludes(("a",)),
    "only": Only(("a", "b")),
    "empty": Only(()),
}
CONDITIONS = {name: " && ".join(emit.said("x", expect)) for name, expect in EXPECTATIONS.items()}
LOADED = {name: engines(text) for name, text in CONDITIONS.items()}
scalars = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2)
    | st.sampled_from(["", "a", "b", "ab", "A", "true", "1"]) | st.text(max_size=3)
)  # fmt: skip
values = (
    scalars
    | st.lists(scalars, max_size=3)
    | st.dictionaries(st.sampled_from(["a", "b", "0"]), scalars, max_size=2)
)


def test_both_engines_are_there():
    assert all(set(loaded) == {"cel-python", "cel-rust"} for loaded in LOADED.values())


@pytest.mark.parametrize("name", CONDITIONS)
@given(value=values)
@settings(max_examples=120, deadline=None)
def test_the_model_and_both_engines_agree(name, value):
    ours = evaluate(truth.truth(cel.read(CONDITIONS[name])).true, {"x": value})
    assert {engine({"x": value}) for engine in LOADED[name].values()} == {ours}


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_missing_claim_admits_nobody(name):
    assert not evaluate(truth.truth(cel.read(CONDITIONS[name])).true, {"x": ABSENT})
    assert {engine({}) for engine in LOADED[name].values()} == {False}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_whole_condition_with_claims_changed(data):
    made = world("gcp-wif", 2)
    text = made.made.files["condition.cel"].decode()
    good = {
        "dbgstat": "disabled-since-boot",
        "hwmodel": "GCP_AMD_SEV",
        "secboot": True,
        "submods.confidential_space.support_attributes": ["LATEST", "STABLE", "USABLE"],
        "submods.container.image_digest": emit.digests(made.form)[0],
        "submods.gce.project_id": "acme-prod",
        "submods.gce.zone": "europe-west4-a",
        "swname": "CONFIDENTIAL_SPACE",
    }
    assert all(engine(prove.token(good)) for engine in engines(text).values())
    for name in data.draw(st.sets(st.sampled_from(sorted(good)), max_size=2)):
        good[name] = data.draw(values)
    ours = evaluate(truth.truth(cel.read(text)).true, good)
    assert {engine(prove.token(good)) for engine in engines(text).values()} == {ours}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a.b.c == 'x' && !d", "_&&_(_==_(a.b.c, 'x'), !_(d))"),
        ("a || b && c", "_||_(a, _&&_(b, c))"),
        ("a['b.c'].startsWith(\"q\\n\")", ".startsWith(a.b.c, 'q\\n')"),
        ("1 + 2 * 3 in [1, 2,]", "_in_(_+_(1, _*_(2, 3)), ListOf)"),
        ("x ? 1 : -2", "_?_:_(x, 1, -2)"),
        ("has(a.b) // why", "has(a.b)"),
        ("a[0].b", "a[0].b"),
        ("0x10 == 1.5", "_==_(16, 1.5)"),
    ],
)
def test_expressions_are_read_by_precedence(text, shown):
    assert truth.shown(cel.read(text)) == shown


@pytest.mark.parametrize(
    "text", ["", "a ==", "a b", "(a", "'a", "a.", "[1", "{'a'}", "a ? b", "&& a", "!" * 70 + "a", "(" * 70]
)
def test_what_is_no_expression_is_malformed(text):
    with pytest.raises(Malformed, match="CEL condition"):
        cel.read(text)


UNMODELLED = (
    "assertion.x.matches('.*')",
    "assertion.x == assertion.y",
    "type(assertion.x) == string",
    "other.x == 'a'",
    "size(assertion.x) == 10",
    "assertion.x in assertion.y",
)


@pytest.mark.parametrize("text", UNMODELLED)
def test_what_is_not_modelled_is_never_guessed(text):
    with pytest.raises(truth.Inexact):
        truth.truth(cel.read(text))


def test_the_form_of_a_condition_is_the_forms():
    assert emit.condition(cloud_form("gcp-wif")) == world("gcp-wif").made.files["condition.cel"].decode()

"""The compiled document: equal forms give equal bytes, and nothing is read that no compiler writes."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from policy.policyworld import END, ROOT, WAIVED, ZERO, digest, entry, form, release

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.core.expect import AtLeast, Exactly, OneOf, Waived
from tallystick.policy import document
from tallystick.policy.normal import PlatformRule, Residual
from tallystick.policy.soundness import flaws

RULE = PlatformRule(
    platform="qemu-vtpm",
    evidence_kind="tpm-quote",
    roots=("acme", "software-tpm"),
    require=(("reset_count", AtLeast(2)), ("restart_count", OneOf((1, 2))), ("safe", Exactly(True))),
)
FULL = form(
    release("a", shapes=(512, 1024)),
    release("b"),
    platforms=(RULE,),
    residuals=(Residual(target="trustee", requirement="pcr-selection", waived=WAIVED),),
)


def doc(**changes):
    return {**document.to_document(FULL), **changes}


def test_a_form_is_read_back_from_its_bytes():
    data = document.write(FULL)
    assert document.read(data) == FULL
    assert document.write(document.read(data)) == data
    assert document.digest(FULL) == Digest.of(data)


def test_what_is_written_is_of_the_published_schema():
    import jsonschema_rs

    schema = json.loads((ROOT / "docs" / "schemas" / "compiled.schema.json").read_text())
    jsonschema_rs.validate(schema, json.loads(document.write(FULL)))
    assert not jsonschema_rs.is_valid(schema, doc(extra=1))


@pytest.mark.parametrize("data", [json.dumps(doc()).encode(), document.write(FULL) + b"\n"])
def test_another_spelling_is_refused(data):
    with pytest.raises(Malformed, match="bytes: want RFC 8785 form"):
        document.read(data)


def paths(value, at=()):
    """Every place in a JSON value."""
    yield at
    if isinstance(value, dict):
        for name, item in value.items():
            yield from paths(item, (*at, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from paths(item, (*at, index))


def put(value, at, make):
    """The value with ``make(old)`` at one place; the place is left out when it makes ``...``."""
    if not at:
        return make(value)
    head, *rest = at
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    changed = [(name, put(item, rest, make) if name == head else item) for name, item in items]
    kept = [(name, item) for name, item in changed if item is not ...]
    return dict(kept) if isinstance(value, dict) else [item for _, item in kept]


PLACES = sorted({tuple("n" if isinstance(p, int) else p for p in at): at for at in paths(doc())}.items())


@pytest.mark.parametrize("at", [at for name, at in PLACES if at and isinstance(at[-1], str)], ids=str)
def test_no_field_may_be_missing_or_of_another_type(at):
    """Dropping an entry of a map by name is the one change that can leave a good document: shapes are free."""
    free = "shape" in at[:-1] or at[-1] in {"reset_count", "restart_count", "safe"}
    for make in (lambda _: ..., lambda _: None, lambda _: 1.5, lambda _: {"x": 1}, lambda _: [[]]):
        changed = put(doc(), at, make)
        if (free and make(0) is ...) or (at[-1] == "shape" and make(0) == {"x": 1}):
            document.read(rfc8785.dumps(changed))
            continue
        with pytest.raises((Malformed, Unsupported)):
            document.read(rfc8785.dumps(changed))


@pytest.mark.parametrize("at", [at for name, at in PLACES], ids=str)
def test_no_object_may_have_an_unknown_field(at):
    changed = put(doc(), at, lambda old: {**old, "surprise": "x"} if isinstance(old, dict) else old)
    if changed != doc() and at[-1:] != ("shape",):
        with pytest.raises(Malformed):
            document.read(rfc8785.dumps(changed))


@pytest.mark.parametrize(
    "at", [("releases",), ("keys",), ("releases", 0, "bundles"), ("platforms", 0, "roots")]
)
def test_lists_stand_in_one_order_and_each_entry_once(at):
    for make in (lambda old: old[::-1], lambda old: [*old, old[-1]]):
        with pytest.raises(Malformed, match="in order, each once"):
            document.read(rfc8785.dumps(put(doc(), at, make)))


def one(found: list) -> str:
    assert len(found) == 1, found
    return found[0].code


def changed_tuple(**expect):
    made = dict(entry("a").expect) | expect
    pairs = tuple(sorted((name, e) for name, e in made.items() if e is not None))
    return form(replace(release("a"), tuples=(replace(entry("a"), expect=pairs),)))


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        (form(channel="prod"), "compiled.channel"),
        (form(max_age_seconds=7201), "compiled.max-age"),
        (form(keys=()), "compiled.keys"),
        (form(replace(release("a"), tuples=())), "compiled.tuples"),
        (form(replace(release("a"), vsa=digest("other"))), "compiled.vsa"),
        (form(platforms=(replace(RULE, roots=()),)), "compiled.roots"),
        (replace(form(), platforms=(), releases=()), "compiled.platforms"),
        (replace(form(), platforms=(replace(RULE, platform="other"),), releases=()), "compiled.platform"),
        (
            form(replace(release("a"), tuples=(replace(entry("a"), evidence_kind="snp-report"),))),
            "compiled.platform",
        ),
        (form(platforms=(replace(RULE, evidence_kind="snp-report"),), releases=()), "compiled.platform"),
        (form(platforms=(replace(RULE, require=(("safe", Exactly(1)),)),)), "compiled.require"),
        (form(platforms=(replace(RULE, require=(("nothing", Exactly(1)),)),)), "compiled.require"),
        (form(platforms=(replace(RULE, require=(("safe", WAIVED),)),)), "compiled.require"),
        (form(waivers=(("pcr10", WAIVED), ("rebuilds", Exactly(1)))), "compiled.waiver"),
        (form(waivers=()), "compiled.register"),
        (changed_tuple(pcr04=None), "compiled.register"),
        (changed_tuple(pcr04=OneOf(("0" * 64, "1" * 64))), "compiled.register"),
        (changed_tuple(pcr04=AtLeast(1)), "compiled.register"),
        (changed_tuple(pcr04=Exactly(ZERO)), "compiled.register"),
        (changed_tuple(pcr08=Exactly(ZERO)), "compiled.register"),
        (changed_tuple(pcr04=Exactly("AB" * 32)), "compiled.register"),
        (changed_tuple(pcr04=Exactly(1)), "compiled.register"),
        (changed_tuple(pcr04=WAIVED), "compiled.register"),
        (changed_tuple(safe=Exactly(True)), "compiled.register"),
        (
            form(replace(release("a"), tuples=(replace(entry("a"), platform="other"),))),
            "compiled.platform",
        ),
    ],
)
def test_a_form_that_no_compiler_makes_is_named_and_not_read(changed, code):
    assert one(list(flaws(changed))) == code
    with pytest.raises(Malformed) as caught:
        document.read(document.write(changed))
    assert caught.value.code == code


def test_an_empty_set_of_values_is_not_even_read():
    empty = form(platforms=(replace(RULE, require=(("safe", OneOf(())),)),))
    assert one(list(flaws(empty))) == "compiled.require"
    with pytest.raises(Malformed, match="one_of: want at least one value"):
        document.read(document.write(empty))


def test_a_waiver_covers_a_register_no_longer_than_it_lasts():
    longer = Waived(WAIVED.decision, WAIVED.decided_by, datetime(2030, 1, 1, tzinfo=UTC))
    assert one(list(flaws(changed_tuple(pcr10=longer)))) == "compiled.register"


def test_production_rests_on_no_development_root():
    rule = replace(form().platforms[0], roots=("acme-tpm",))
    good = form(replace(release("a"), labels=()), channel="production", platforms=(rule,))
    assert list(flaws(good)) == []
    found = [flaw.code for flaw in flaws(replace(good, platforms=form().platforms))]
    assert found == ["compiled.development-root"]
    labelled = replace(good, releases=(release("a"),))
    assert [flaw.code for flaw in flaws(labelled)] == ["compiled.development-root"]


@pytest.mark.parametrize("seconds", [True, False, 0, -1, "300", 2**53, 1.0, None])
def test_a_number_is_one_and_within_its_bounds(seconds):
    with pytest.raises(Malformed, match="max_age_seconds: want a whole number of at least 1"):
        document.from_document(doc(max_age_seconds=seconds))
    assert document.from_document(doc(max_age_seconds=1)).max_age_seconds == 1


@pytest.mark.parametrize("roots", [[""], [1], ["b", "a"], ["a", "a"], "a", [None], {"a": 1}])
def test_texts_are_texts_in_order(roots):
    with pytest.raises(Malformed, match=r"platforms\[0\]\.roots"):
        document.from_document(put(doc(), ("platforms", 0, "roots"), lambda _: roots))


@pytest.mark.parametrize(
    ("require", "said"),
    [
        ({"": {"exactly": "x"}}, "want claim names, got 'an empty one'"),
        (
            {"safe": {}},
            "want one of exactly, one_of, none_of, at_least, .*, waived, got nothing",
        ),
        (
            {"safe": {"exactly": True, "one_of": [1]}},
            "want one of exactly, one_of, none_of, at_least, at_least_version, only",
        ),
        ({"safe": {"sometimes": 1}}, "got sometimes"),
        ({"reset_count": {"exactly": 2**53}}, "want a text, whole number or boolean"),
        ({"reset_count": {"one_of": [1, 1]}}, "want at least one value, each once"),
        ({"reset_count": {"at_least": 2**53}}, "want a whole number of at least"),
        ({"reset_count": {"at_least": True}}, "want a whole number of at least"),
    ],
)
def test_an_expectation_is_exactly_one_thing(require, said):
    with pytest.raises(Malformed, match=said):
        document.from_document(put(doc(), ("platforms", 0, "require"), lambda _: require))


def test_true_and_1_are_two_values():
    both = put(doc(), ("platforms", 0, "require", "restart_count"), lambda _: {"one_of": [1, True]})
    with pytest.raises(Malformed) as caught:
        document.from_document(both)
    assert caught.value.code == "compiled.require"


def test_times_are_whole_seconds_in_utc():
    assert doc()["not_after"] == "2028-01-01T00:00:00Z"
    for text in ("2028-01-01T00:00:00+00:00", "2028-01-01", "2028-13-30T00:00:00Z", "٢٠٢٨-01-01T00:00:00Z"):
        with pytest.raises(Malformed, match=r"not_after: want a time in UTC"):
            document.from_document(doc(not_after=text))
    assert document.from_document(doc()).not_after == END


def test_another_schema_is_unsupported():
    with pytest.raises(Unsupported, match="schema: want tallystick/compiled/v1"):
        document.from_document(doc(schema="tallystick/compiled/v2"))


DATA = document.write(FULL)


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_one_changed_byte_is_another_form_or_refused(at, flip):
    damaged = bytearray(DATA)
    damaged[at] ^= flip
    with suppress(Malformed, Unsupported):
        assert document.read(bytes(damaged)) != FULL

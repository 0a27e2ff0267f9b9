"""The proof: it holds for what was emitted, and a policy with one condition less, or one value more, fails it.

The full set of mutants is in the ``soak`` mark; here is a seeded sample of it.
"""

from __future__ import annotations

import json
import random
import re
from contextlib import suppress
from dataclasses import replace

import pytest
from compile import mutants
from compile.emitted import DEMO, choice, pinned_choice, trustee_form
from policy.policyworld import NOW, ZERO, digest, form, registers, release

from tallystick.compile import domain
from tallystick.compile.domain import Case, Oracle, cases
from tallystick.compile.errors import Unproven
from tallystick.compile.produce import produce, prove, prove_files
from tallystick.compile.targets import broker as broker_target
from tallystick.compile.targets.registry import backend
from tallystick.compile.targets.trustee import emit
from tallystick.compile.targets.trustee import judge as trustee_judge
from tallystick.compile.targets.trustee import prove as trustee_prove
from tallystick.compile.targets.trustee.engines import RegoCpp
from tallystick.core.errors import Exit, Misuse
from tallystick.core.expect import AtLeast, Exactly, OneOf
from tallystick.policy.normal import PlatformRule

TARGETS = {"broker": DEMO.target("broker"), "trustee": choice(), "trustee-with-keys": pinned_choice()}
SAMPLE = 14  # of each target, in a run of the suite

# The claim and the Reference Value are compared in the next line, so asking either for its type is the same. A rule
# more is a difference of bytes, which no question need find. Without devices every platform is shown alone.
EQUIVALENT = re.compile(
    r"is_string\(input\.tpm\.pcr\d\d\)$|: a backdoor$|dropped: startswith\(permit, concat"
)


def made(name: str, *releases):
    target = TARGETS[name]
    found = trustee_form(*releases, target=target)
    kind = backend(name.split("-")[0])
    return found, target, kind.emit(found, target)


def every_mutant(name: str):
    return getattr(mutants, name.split("-")[0])(made(name)[2].files)


@pytest.fixture
def hurried(monkeypatch):
    """A proof that ends with the first thing that is wrong, in one engine."""
    monkeypatch.setattr(broker_target, "MOST_FINDINGS", 1)
    monkeypatch.setattr(trustee_judge, "MOST_FINDINGS", 1)
    monkeypatch.setattr(trustee_prove, "second_opinion", lambda: None)


def survivors(name: str, chosen) -> list[str]:
    found, target, _ = made(name)
    alive = []
    for what, files in chosen:
        try:
            evaluate = trustee_prove.evaluate if name.startswith("trustee") else backend("broker").prove
            evaluate(files, found, target, NOW)
        except Unproven:
            continue
        if not EQUIVALENT.search(what):
            alive.append(what)
    return alive


@pytest.mark.parametrize(("name", "count"), [*((n, c) for n in TARGETS for c in (1, 2)), ("broker", 5)])
def test_what_is_emitted_is_proved(name, count):
    releases = [release(f"r{n}", days=n, shapes=(512, 1024)) for n in range(count)]
    found, target, emitted = made(name, *releases)
    proof = prove(found, target, emitted, NOW)
    assert (proof.released, proof.accepted) == (2 * count, 2 * count)
    assert proof.words.startswith(f"{proof.target}: released {2 * count} · accepted {2 * count}")


@pytest.mark.parametrize("name", TARGETS)
def test_a_sample_of_mutants_is_caught(name, hurried):
    everything = list(every_mutant(name))
    chosen = random.Random(name).sample(everything, SAMPLE)
    assert survivors(name, chosen) == []


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_every_mutant_is_caught(name, hurried):
    assert survivors(name, every_mutant(name)) == []


def test_there_are_enough_mutants():
    assert {name: len(list(every_mutant(name))) > 150 for name in TARGETS} == dict.fromkeys(TARGETS, True)


def mixing(text: str) -> str:
    """Each claim compared with any tuple of the set, as one list for each claim would do."""

    def one(match: re.Match[str]) -> str:
        path = match[1]
        return f"\tsome t_{path} in tuples\n\tinput.tpm.{path} == t_{path}.{path}"

    return re.sub(r"\tinput\.tpm\.(pcr04|pcr08|pcr09|pcr11) == tuple\.pcr\d\d", one, text)


def test_independent_lists_are_counted_and_shown():
    found, target, emitted = made("trustee")
    files = dict(emitted.files)
    files[emit.AS_POLICY] = mixing(files[emit.AS_POLICY].decode()).encode()
    with pytest.raises(Unproven, match="trustee: released 2 · accepted 16: release") as caught:
        prove_files(found, target, files, NOW)
    assert caught.value.exit is Exit.REFUSED
    finding = caught.value.findings[0]
    assert finding.code == "prove.admits"
    shown = json.loads(finding.note.removeprefix("evidence: "))
    values = {path: shown["tpm"][path] for path in registers("a")}
    assert values not in (registers("a"), registers("b"))
    assert {
        name: values[name] in (registers("a")[name], registers("b")[name]) for name in values
    } == dict.fromkeys(values, True)


def test_evidence_that_would_get_a_key_from_the_broker_is_shown():
    found, target, emitted = made("broker")
    document = json.loads(emitted.files["policy.json"])
    document["releases"][0]["tuples"][0]["expect"]["pcr04"] = {"exactly": mutants.OTHER}
    import rfc8785

    with pytest.raises(Unproven, match="broker: released 2 · accepted 2") as caught:
        prove_files(found, target, {"policy.json": rfc8785.dumps(document)}, NOW)
    finding = caught.value.findings[0]
    assert finding.code == "prove.admits"
    shown = json.loads(finding.note.removeprefix("evidence: "))
    assert shown["claims"]["pcr04"] == mutants.OTHER
    assert shown["key"] in {rule.key for rule in found.keys}


@pytest.mark.parametrize("name", ["broker", "trustee"])
def test_files_that_are_missing_or_unreadable_are_not_proved(name):
    found, target, emitted = made(name)
    with pytest.raises(Unproven):
        prove_files(found, target, {}, NOW)
    for file in emitted.files:
        if not file.endswith((".md", "residual.json")):
            with pytest.raises(Unproven):
                prove_files(found, target, {**emitted.files, file: b"\xff nonsense"}, NOW)
    with pytest.raises(Unproven):
        prove_files(found, target, {**emitted.files, "README.md": b"", "residual.json": b"{}"}, NOW)


def test_a_policy_that_promises_more_than_was_asked_is_not_proved():
    found, target, emitted = made("broker")
    with pytest.raises(Unproven, match="age and end"):
        prove(found, target, replace(emitted, max_age_seconds=301), NOW)


def test_a_policy_of_other_releases_is_not_proved():
    """Invariant 5: the releases come from the verified channel, never from the file's own header."""
    _, target, emitted = made("trustee", release("a"), release("b"))
    only_a = trustee_form(release("a"))
    with pytest.raises(Unproven, match="released 1 · accepted 2"):
        prove_files(only_a, target, emitted.files, NOW)
    with pytest.raises(Unproven, match="released 3 · accepted 2"):
        prove_files(trustee_form(release("a"), release("b"), release("c")), target, emitted.files, NOW)


def test_targets_are_all_made_or_none():
    found = trustee_form()
    compiled = produce(found, [choice()], NOW)
    assert [one.emitted.target for one in compiled] == ["trustee"]
    with pytest.raises(Misuse, match=r"there is no target aws; known are .*broker.*, trustee"):
        backend("aws")


def test_the_domain_has_every_type_and_every_mixture():
    found = form(release("a"), release("b"))
    everything = list(cases(found, [mutants.OTHER]))
    values = {(type(case.claims.get("pcr04")), "pcr04" in case.claims) for case in everything}
    assert {(kind, True) for kind in (str, int, bool, float, list, dict, type(None))} <= values
    assert (type(None), False) in values
    assert any(case.claims.get("pcr04") == mutants.OTHER for case in everything)
    mixed = {tuple(case.claims[n] for n in ("pcr04", "pcr08", "pcr09", "pcr11")) for case in everything
             if case.what == "a mixture of released values"}  # fmt: skip
    assert len(mixed) == 16
    assert {case.kind for case in everything} >= {"tpm-quote", "sample", "snp-report"}


def test_many_tuples_are_sampled_and_each_claim_still_changed():
    found = form(*(release(f"r{n}") for n in range(40)))
    everything = list(cases(found, budget=100))
    assert len(everything) < 10_000
    changed = {case.what.split(" with ")[-1].split()[0] for case in everything if " with " in case.what}
    assert set(registers("a")) <= changed


def test_the_oracle_is_strict_about_types():
    rule = PlatformRule(
        platform="qemu-vtpm",
        evidence_kind="tpm-quote",
        roots=("software-tpm",),
        require=(("n", AtLeast(2)), ("o", OneOf((1, 2))), ("s", Exactly(True))),
    )
    oracle = Oracle(form(platforms=(rule,)))

    def permits(**changed):
        claims = {**registers("a"), "n": 2, "o": 1, "s": True, **changed}
        return oracle.permits(Case("tpm-quote", "", claims))

    assert permits() == {digest("release a")}
    assert permits(n=3, o=2) == {digest("release a")}
    for wrong in ({"n": 1}, {"n": "2"}, {"n": True}, {"o": True}, {"o": 3}, {"s": 1}, {"pcr04": ZERO}):
        assert permits(**wrong) == frozenset()
    everything = list(cases(form(platforms=(rule,))))
    assert any(case.claims.get("n") == 1 for case in everything)
    assert any(case.claims.get("s") is False for case in everything)


def test_windows_do_not_hide_a_tuple_too_many(hurried, monkeypatch):
    """With many tuples each few are tried apart; what is foreign among them is found all the same."""
    monkeypatch.setattr(trustee_prove, "_WINDOW", 2)
    monkeypatch.setattr(trustee_prove, "_SAMPLE", 60)
    releases = [release(f"r{n}") for n in range(5)]
    found, target, emitted = made("trustee", *releases)
    assert prove(found, target, emitted, NOW).accepted == 5
    fewer = trustee_form(*releases[:-1])
    with pytest.raises(Unproven):
        prove_files(fewer, target, emitted.files, NOW)
    files = dict(emitted.files)
    files[emit.AS_POLICY] = mixing(files[emit.AS_POLICY].decode()).encode()
    with pytest.raises(Unproven):
        prove_files(found, target, files, NOW)


@pytest.mark.parametrize(("name", "times"), [("broker", 60), ("trustee", 12)])
def test_damaged_files_are_not_proved_and_do_not_crash(name, times, hurried):
    """Bytes flipped, cut, doubled: every one is caught, or leaves the meaning and the words as they were."""
    found, target, emitted = made(name)
    chosen = random.Random(7)
    for _ in range(times):
        file = chosen.choice(sorted(emitted.files))
        data = bytearray(emitted.files[file])
        at = chosen.randrange(len(data))
        if chosen.random() < 0.5:
            data[at] ^= 1 << chosen.randrange(8)
        else:
            del data[at : at + chosen.randrange(1, 40)]
        if bytes(data) != emitted.files[file]:
            with suppress(Unproven):
                prove_files(found, target, {**emitted.files, file: bytes(data)}, NOW)


@pytest.mark.parametrize(
    "extensions",
    [
        "1",
        "{}",
        "[1]",
        '[{"name": 1, "key": 1, "value": 1}]',
        '[{"name": "ear.tallystick.permits", "key": 1, "value": true}]',
    ],
)
def test_other_extensions_are_no_release(extensions, hurried):
    found, target, emitted = made("trustee")
    text = emitted.files[emit.AS_POLICY].decode()
    start, end = text.index("extensions :="), text.index("now_ns :=")
    changed = f"{text[:start]}extensions := {extensions}\n\n{text[end:]}"
    with pytest.raises(Unproven):
        prove_files(found, target, {**emitted.files, emit.AS_POLICY: changed.encode()}, NOW)


def test_each_policy_of_trustee_refuses_what_was_not_released_by_itself(hurried):
    found, target, emitted = made("trustee")
    text = emitted.files[emit.AS_POLICY].decode()
    changed = {**emitted.files, emit.AS_POLICY: text.replace("\tpermit in permitted\n", "").encode()}
    with pytest.raises(Unproven) as caught:
        trustee_prove.evaluate(changed, found, target, NOW)
    assert caught.value.findings[0].code == "prove.release"


def test_engines_that_disagree_prove_nothing(monkeypatch):
    pytest.importorskip("regopy")

    class Contrary(RegoCpp):
        def evaluate(self, rule, document, data):
            return {"executables": 96} if rule == "trust_claims" else super().evaluate(rule, document, data)

    found, target, emitted = made("trustee", release("a"))
    monkeypatch.setattr(trustee_prove, "second_opinion", lambda: Contrary)
    with pytest.raises(Unproven) as caught:
        prove_files(found, target, emitted.files, NOW)
    assert {finding.code for finding in caught.value.findings} == {"prove.engines"}


def test_the_budget_is_what_it_says():
    assert domain.MOST_DEVIATIONS >= 4_000
    assert domain.MOST_MIXTURES >= 4_000

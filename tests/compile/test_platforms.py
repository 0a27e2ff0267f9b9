"""Every platform in the targets broker and trustee: what is emitted is proved, and one condition less is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from policy.anyplatform import choice as platform_choice
from policy.anyplatform import device, form_of
from policy.policyworld import END, NOW

from tallystick.compile.domain import Oracle, cases
from tallystick.compile.errors import Inexpressible, Unproven
from tallystick.compile.produce import express, produce
from tallystick.compile.targets.registry import backend
from tallystick.compile.targets.trustee import codec, emit
from tallystick.compile.targets.trustee.choice import TrusteeTarget
from tallystick.core.expect import Excludes, NoneOf, OneOf, Waived
from tallystick.policy import document
from tallystick.policy.model import PlacementChoice, Target, Waiver
from tallystick.policy.normal import Denial, Residual
from tallystick.policy.platforms import Strength, platforms
from tallystick.policy.soundness import flaws

MACHINES = [known.name for known in platforms() if not known.device]
BROKER = Target(name="broker", place=None, waivers=())
SHOWN = [name for name in MACHINES if name not in {"aws-nitro", "nitro-tpm", "gcp-confidential-space"}]
DENIAL = Denial(name="bad", claim="", values=("x",), reason="CVE-2026-0001", since=date(2026, 7, 14))


def waiver(name: str) -> Waiver:
    return Waiver(
        requirement=name, decision="docs/decisions/0100.md", decided_by="alice", until=END, place=None
    )


def trustee(form, version: str = "0.21", *names: str):
    """The form with everything waived that this Trustee lacks, and the entry that waives it."""
    made = TrusteeTarget(
        name="trustee", place=None, waivers=(), version=version, session_minutes=1, attestation_keys=()
    )
    lacking = sorted({lack.requirement for lack in emit.lacks(form, made)} | set(names))
    waived = Waived("docs/decisions/0100.md", "alice", END)
    residuals = tuple(Residual(target="trustee", requirement=name, waived=waived) for name in lacking)
    entry = replace(made, waivers=tuple(waiver(name) for name in lacking))
    return replace(form, residuals=residuals), entry


def denied(*choices):
    """The choices, each with a denial of a value that its evidence could have."""
    found = []
    for one in choices:
        claim = {"amd-sev-snp": "reported_tcb_microcode", "azure-snp-vtpm": "reported_tcb_microcode"}.get(
            one.platform
        )
        claim = claim or {"intel-tdx": "tcb_date", "intel-sgx": "tcb_date"}.get(one.platform)
        if claim:
            values = (210, 211) if "tcb_mic" in claim else ("2025-01-01", "2025-02-02")
            one = replace(one, deny=(replace(DENIAL, claim=claim, values=values),))
        found.append(one)
    return found


@pytest.mark.parametrize("name", MACHINES)
def test_a_form_of_every_platform_is_sound_and_reads_back(name):
    form = form_of(*denied(platform_choice(name)))
    assert list(flaws(form)) == []
    assert document.read(document.write(form)) == form


@pytest.mark.parametrize("name", MACHINES)
def test_every_platform_is_proved_for_the_broker(name):
    (one,) = produce(form_of(*denied(platform_choice(name))), [BROKER], NOW)
    assert (one.proof.released, one.proof.accepted) == (2, 2)


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.parametrize("version", codec.VERSIONS)
def test_every_platform_that_trustee_has_is_accepted_by_it(name, version, smaller):
    form, target = trustee(form_of(*denied(platform_choice(name)), releases=1), version)
    (one,) = produce(form, [target], NOW)
    assert (one.proof.released, one.proof.accepted) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.parametrize(
    "version",
    [*(pytest.param(old, marks=pytest.mark.soak) for old in codec.VERSIONS[:-1]), codec.VERSIONS[-1]],
)
def test_every_platform_that_trustee_has_is_proved_for_it(name, version):
    form, target = trustee(form_of(*denied(platform_choice(name))), version)
    (one,) = produce(form, [target], NOW)
    assert (one.proof.released, one.proof.accepted) == (2, 2)


@pytest.mark.parametrize("name", sorted(set(MACHINES) - set(SHOWN)))
def test_a_platform_that_trustee_has_no_verifier_for_is_named(name):
    _, target = trustee(form_of(platform_choice(name)))
    with pytest.raises(Inexpressible, match=f"platform-{name}"):
        express(form_of(platform_choice(name)), replace(target, waivers=()))


@pytest.mark.parametrize("target", ["broker", pytest.param("trustee", marks=pytest.mark.slow)])
def test_machines_with_gpus_are_proved(target):
    with_gpu = platform_choice("amd-sev-snp", devices=(device(least=2),))
    form = form_of(with_gpu, platform_choice("intel-tdx"))
    form, entry = trustee(form) if target == "trustee" else (form, BROKER)
    (one,) = produce(form, [entry], NOW)
    assert (one.proof.released, one.proof.accepted) == (4, 4)


def test_the_gpu_policy_is_there_only_when_it_is_asked_for():
    form, entry = trustee(form_of(platform_choice("amd-sev-snp")))
    assert emit.GPU_POLICY not in emit.emit(form, entry).files
    form, entry = trustee(form_of(platform_choice("amd-sev-snp", devices=(device(),))))
    assert emit.GPU_POLICY in emit.emit(form, entry).files


def lines_of(files):
    """Every file with one line of a condition left out."""
    for name in (emit.AS_POLICY, emit.GPU_POLICY, emit.RESOURCE_POLICY):
        lines = files.get(name, b"").decode().split("\n")
        for number, line in enumerate(lines):
            left = line.strip()
            if not line.startswith("\t") or left.startswith(("#", '"')) or left in {"]", "}", "},", ""}:
                continue
            if left.endswith(("{", "[", "|", "),", ",")):
                continue
            text = "\n".join(lines[:number] + lines[number + 1 :])
            yield f"{name}: {left}", {**files, name: text.encode()}


# Why a condition less is no other policy: the pair it belongs to refuses the same evidence.
SPARE = (
    "is_string(tuple", "is_array(tuples)", "is_string(input", "is_array(input", "is_number(input", "floor(",
    "is_boolean(input", "tuple.release", "regex.match(", "age_ns >= 0",
)  # fmt: skip


@pytest.mark.soak
@pytest.mark.parametrize("name", ["amd-sev-snp", "intel-tdx", "azure-snp-vtpm", "intel-sgx", "arm-cca"])
def test_one_condition_less_is_not_proved(name, monkeypatch):
    from tallystick.compile.targets.trustee import judge, prove

    monkeypatch.setattr(judge, "MOST_FINDINGS", 1)
    monkeypatch.setattr(prove, "second_opinion", lambda: None)
    form, entry = trustee(form_of(*denied(platform_choice(name, devices=(device(),)))))
    files = emit.emit(form, entry).files
    alive = []
    for what, changed in lines_of(files):
        try:
            backend("trustee").prove(changed, form, entry, NOW)
        except Unproven:
            continue
        if not any(word in what for word in SPARE):
            alive.append(what)
    assert alive == []


def test_the_same_evidence_gets_the_same_answer_from_the_broker_and_the_oracle_for_new_expectations():
    advisories = platform_choice("intel-tdx")
    require = dict(advisories.require) | {
        "advisory_ids": Excludes(("INTEL-SA-00960", "INTEL-SA-00982")),
        "tcb_status": OneOf(("SWHardeningNeeded", "UpToDate")),
        "quote.body.mr_seam": NoneOf(("f" * 96,)),
    }
    form = form_of(replace(advisories, require=tuple(sorted(require.items()))))
    (one,) = produce(form, [BROKER], NOW)
    assert one.proof.accepted == one.proof.released == 2
    oracle = Oracle(form)
    answers = {bool(oracle.permits(case)) for case in cases(form)}
    assert answers == {True, False}


def test_two_platforms_of_one_kind_of_evidence_are_kept_apart(smaller):
    form = form_of(platform_choice("amd-sev-snp"), platform_choice("azure-aci"))
    for found, target in ((form, BROKER), trustee(form)):
        (one,) = produce(found, [target], NOW)
        assert (one.proof.released, one.proof.accepted) == (4, 4)


PLACED = PlacementChoice(name="region", values=("eu-1",), strength=Strength.HARDWARE, place=None)


@pytest.mark.parametrize("target", ["broker", "trustee"])
def test_a_place_that_no_evidence_says_is_waived_by_name_or_not_compiled(target):
    form = form_of(platform_choice("amd-sev-snp", placement=(PLACED,)))
    if target == "broker":
        found, entry = form, BROKER
    else:
        found, entry = trustee(form)
        entry = replace(entry, waivers=tuple(w for w in entry.waivers if w.requirement != "placement-region"))
    with pytest.raises(Inexpressible, match="placement-region"):
        express(found, entry)
    with pytest.raises(Unproven):  # and without a waiver nobody gets a key
        produce_unasked(form, BROKER)


def produce_unasked(form, entry):
    """Prove without asking first whether the target has words for everything."""
    made = backend("broker").emit(form, entry)
    return backend("broker").prove(made.files, form, entry, NOW)


def test_a_waived_place_is_not_asked_by_the_broker(smaller):
    form = form_of(platform_choice("amd-sev-snp", placement=(PLACED,)))
    waived = Waived("docs/decisions/0100.md", "alice", END)
    form = replace(
        form, residuals=(Residual(target="broker", requirement="placement-region", waived=waived),)
    )
    (one,) = produce(form, [replace(BROKER, waivers=(waiver("placement-region"),))], NOW)
    assert (one.proof.released, one.proof.accepted) == (2, 2)


def test_a_place_that_evidence_says_is_a_claim_like_any_other():
    zone = PlacementChoice(
        name="zone", values=("europe-west4-a",), strength=Strength.PROVIDER_SIGNED, place=None
    )
    form = form_of(platform_choice("gcp-confidential-space", placement=(zone,)))
    (one,) = produce(form, [BROKER], NOW)
    assert (one.proof.released, one.proof.accepted) == (2, 2)

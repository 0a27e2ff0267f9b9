"""Two policies in one Trustee: each one's keys open for its own machines, and nothing of the other counts."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from compile.emitted import Deployment as Deployed
from compile.emitted import case, choice, trustee_form
from compile.test_platforms import trustee
from policy.anyplatform import choice as platform_choice
from policy.anyplatform import device, form_of
from policy.policyworld import NOW, WEIGHTS, release

from tallystick.compile.errors import Inexpressible, Unproven
from tallystick.compile.targets.trustee import deploy, emit, limits, merge
from tallystick.compile.targets.trustee import prove as trustee_prove
from tallystick.core.errors import Exit, Refused
from tallystick.policy.normal import KeyRule

pytestmark = pytest.mark.usefixtures("smaller")
INDEX = "retrieval/index/v1"


def inference(*images, **changes):
    return trustee_form(*(release(image) for image in images or ("a",)), **changes)


def retrieval(*images, **changes):
    wanted = {"policy": "retrieval", "keys": (KeyRule(key=INDEX, artifact="index"),), **changes}
    return trustee_form(*(release(image) for image in images or ("b",)), **wanted)


def both(one=None, other=None):
    return merge.deployment([(one or inference(), choice()), (other or retrieval(), choice())])


def test_each_policy_is_proved_on_the_one_set_of_files():
    wanted = both()
    files = wanted.files()
    proofs = merge.prove(files, wanted, NOW)
    assert [(proof.released, proof.accepted) for proof in proofs] == [(1, 1), (1, 1)]
    assert sorted(files) == [
        "README.md", "as_default_cpu.rego", "residual-confidential-inference.json", "residual-retrieval.json",
        "resource_policy.rego", "rvps_0.json", "rvps_1.json",
    ]  # fmt: skip
    assert not [finding for name in files if name.endswith(".rego")
                for finding in limits.check(name, files[name].decode())]  # fmt: skip


def test_the_order_of_the_policies_leaves_no_trace_and_one_alone_is_what_it_was():
    turned = merge.deployment([(retrieval(), choice()), (inference(), choice())])
    assert turned.files() == both().files()
    alone = merge.deployment([(inference(), choice())])
    assert alone.files() == emit.emit(inference(), choice()).files


def test_a_machine_opens_the_keys_of_its_own_policy_alone():
    deployed = Deployed(both().files())
    assert deployed.releases(case("a"), WEIGHTS)
    assert deployed.releases(case("b"), INDEX)
    assert not deployed.releases(case("b"), WEIGHTS)
    assert not deployed.releases(case("a"), INDEX)


def test_a_release_that_both_permit_opens_the_keys_of_both():
    wanted = both(inference("a", "c"), retrieval("a"))
    proofs = merge.prove(wanted.files(), wanted, NOW)
    assert [(proof.released, proof.accepted) for proof in proofs] == [(2, 2), (1, 1)]
    deployed = Deployed(wanted.files())
    assert deployed.releases(case("a"), WEIGHTS)
    assert deployed.releases(case("a"), INDEX)
    assert not deployed.releases(case("c"), INDEX)


def test_each_policy_has_its_own_end_and_age():
    ends = NOW + timedelta(days=5)
    wanted = both(inference(max_age_seconds=120), retrieval(not_after=ends))
    assert len(merge.prove(wanted.files(), wanted, NOW)) == 2
    deployed = Deployed(wanted.files())
    assert not deployed.releases(case("a"), WEIGHTS, age_seconds=61)
    assert deployed.releases(case("b"), INDEX, age_seconds=61)
    later = Deployed(wanted.files(), at=ends + timedelta(seconds=1))
    assert later.releases(case("a"), WEIGHTS)
    assert not later.releases(case("b"), INDEX)


def test_many_tuples_of_two_policies_are_proved(monkeypatch):
    monkeypatch.setattr(trustee_prove, "_WINDOW", 2)
    wanted = both(inference("a", "b", "c"), retrieval("c", "d", "e"))
    proofs = merge.prove(wanted.files(), wanted, NOW)
    assert [(proof.released, proof.accepted) for proof in proofs] == [(3, 3), (3, 3)]


def test_machines_with_and_without_gpus_are_served_beside_each_other():
    one, entry = trustee(form_of(platform_choice("amd-sev-snp", devices=(device(),)), releases=1))
    other, _ = trustee(form_of(platform_choice("amd-sev-snp"), releases=1))
    other = replace(other, policy="retrieval", keys=(KeyRule(key=INDEX, artifact="index"),))
    wanted = merge.deployment([(one, entry), (other, entry)])
    assert emit.GPU_POLICY in wanted.files()
    assert [proof.accepted for proof in merge.prove(wanted.files(), wanted, NOW)] == [1, 1]


def evaluates(files, form, beside):
    """Whether evaluating alone finds nothing wrong with ``form``'s part."""
    with suppress(Unproven):
        trustee_prove.evaluate(files, form, choice(), NOW, [beside])
        return True
    return False


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        # another policy's machines open this one's keys
        (emit.RESOURCE_POLICY, '"policy": "retrieval"}', '"policy": "confidential-inference"}'),
        (emit.RESOURCE_POLICY, 'resource.policy == "retrieval"', 'resource.policy == "confidential-inference"'),
        (emit.RESOURCE_POLICY, "permitted[resource.policy][permit]", 'permitted["retrieval"][permit]'),
        (emit.RESOURCE_POLICY, "permitted[resource.policy][permit]", "permitted[_][permit]"),
        (emit.AS_POLICY, '["retrieval", "qemu-vtpm"', '["confidential-inference", "qemu-vtpm"'),
        (emit.AS_POLICY, "\tinput.tpm.pcr04 == tuple.pcr04\n", ""),
    ],
)  # fmt: skip
def test_what_mixes_the_policies_is_seen_by_evaluating(file, old, new):
    wanted = both()
    files = wanted.files()
    text = files[file].decode()
    assert old in text
    changed = {**files, file: text.replace(old, new).encode()}
    one, other = wanted.forms
    assert not (evaluates(changed, one, other) and evaluates(changed, other, one))
    with pytest.raises(Unproven):
        merge.prove(changed, wanted, NOW)


def test_evidence_that_opens_another_policys_key_is_shown():
    wanted = both()
    files = wanted.files()
    text = files[emit.RESOURCE_POLICY].decode()
    changed = text.replace("permitted[resource.policy][permit]", "permitted[_][permit]").encode()
    with pytest.raises(Unproven) as caught:
        merge.prove({**files, emit.RESOURCE_POLICY: changed}, wanted, NOW)
    finding = caught.value.findings[0]
    assert finding.code == "prove.admits"
    assert json.loads(finding.note.removeprefix("evidence: "))["tpm"]["pcr04"] == case("b").claims["pcr04"]


def test_a_comment_less_is_another_text():
    wanted = both()
    files = wanted.files()
    changed = files[emit.AS_POLICY].replace(b"# channel     staging\n", b"", 1)
    with pytest.raises(Unproven) as caught:
        merge.prove({**files, emit.AS_POLICY: changed}, wanted, NOW)
    assert [finding.code for finding in caught.value.findings] == ["prove.differs"]


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([(inference(), choice()), (inference("b"), choice())], "trustee.merge.policy"),
        ([(inference(), choice()), (retrieval(channel="debug"), choice())], "trustee.merge.channel"),
        ([(inference(), choice()), (retrieval(), replace(choice(), version="0.20"))], "trustee.merge.deployment"),
        ([(inference(), choice()), (retrieval(), replace(choice(), session_minutes=2))], "trustee.merge.deployment"),
        (
            [(inference(), choice()), (retrieval(), replace(choice(), attestation_keys=("QUJD",)))],
            "trustee.merge.deployment",
        ),
        ([(inference(), choice()), (retrieval(keys=inference().keys[:1]), choice())], "trustee.merge.key"),
    ],
)  # fmt: skip
def test_what_can_not_share_a_deployment_is_named(entries, code):
    with pytest.raises(Refused, match="2 policies can not share one Trustee") as caught:
        merge.deployment(entries)
    assert {finding.code for finding in caught.value.findings} == {code}
    assert caught.value.exit is Exit.REFUSED


def test_a_deployment_that_is_too_large_says_how_much_fits(monkeypatch):
    monkeypatch.setattr(limits, "MOST_LINES", 200)
    with pytest.raises(Inexpressible, match=r"40 releases do not fit; about \d+ would"):
        both(inference(*(f"a{n}" for n in range(20))), retrieval(*(f"b{n}" for n in range(20)))).files()


def test_the_steps_send_every_policy_once():
    files = both().files()
    names = [step.what for step in deploy.steps(files, first=False)]
    messages = ["Reference Values rvps_0.json", "Reference Values rvps_1.json"]
    assert names == ["appraisal policy default_cpu", *messages, "resource policy"]
    assert sorted(deploy.expected(files)) == [
        "tallystick/confidential-inference/tuples/0", "tallystick/retrieval/tuples/0",
    ]  # fmt: skip

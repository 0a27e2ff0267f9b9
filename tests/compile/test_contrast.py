"""Contrast: one manifest for each launch measurement, and the ways in which manifests were permissive."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from compile.machines import CHOICES, END, TCB, compiled, entry, form, release, rule, world

from tallystick.compile.errors import Unproven
from tallystick.compile.targets.contrast import manifest, prove
from tallystick.compile.targets.registry import backend
from tallystick.core.errors import Malformed
from tallystick.core.expect import Exactly, OneOf

SNP = "amd-sev-snp"


def changed(edit) -> dict[str, bytes]:
    made = world("contrast")
    found = json.loads(made.made.files["manifest_0.json"])
    edit(found)
    return {**made.made.files, "manifest_0.json": json.dumps(found).encode()}


def refused(edit) -> str:
    made = world("contrast")
    with pytest.raises(Unproven) as caught:
        prove.evaluate(changed(edit), made.form, made.choice)
    return "; ".join(finding.message for finding in caught.value.findings)


def snp(found):
    return found["ReferenceValues"]["snp"][0]


def test_smt_keys_and_the_end_can_not_be_said():
    made = form((rule(SNP, "amd", *TCB),), (release("a", entry(SNP, "a")),))
    names = {lack.requirement for lack in backend("contrast").lacks(made, CHOICES["contrast"])}
    assert names == {"claim-policy_smt_allowed", "keys", "end"}


def test_tdx_has_no_manifest_yet():
    made = form((rule("intel-tdx", "intel"),), (release("a", entry("intel-tdx", "a")),))
    assert "platform-intel-tdx" in {
        one.requirement for one in backend("contrast").lacks(made, CHOICES["contrast"])
    }


def test_releases_with_one_measurement_share_a_manifest_and_others_never_do():
    same = Exactly("11" * 48)
    shared = tuple(release(image, entry(SNP, image, measurement=same)) for image in "ab")
    other = release("c", entry(SNP, "c"))
    made = compiled("contrast", form((rule(SNP, "amd", *TCB),), (*shared, other)))
    found = [json.loads(data) for name, data in made.made.files.items() if name.startswith("manifest_")]
    assert sorted(len(one["Policies"]) for one in found) == [2, 3]  # with the Coordinator's own
    assert made.prove().accepted == 3


def test_two_measurements_in_one_manifest_mix_tuples():
    made = world("contrast")
    other = json.loads(made.made.files["manifest_1.json"])

    def edit(found):
        found["ReferenceValues"]["snp"] += other["ReferenceValues"]["snp"]
        found["Policies"] |= other["Policies"]

    assert "want refused, got accepted" in refused(edit)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda d: snp(d)["GuestPolicy"].update(Debug=True), "GuestPolicy.Debug"),
        (lambda d: snp(d)["MinimumTCB"].update(SNPVersion=7), "reported_tcb_snp 7"),
        (lambda d: snp(d)["MinimumTCB"].pop("SNPVersion"), "MinimumTCB.SNPVersion"),
        (lambda d: snp(d)["PlatformInfo"].update(SMTEnabled=True), "platform_smt_enabled"),
        (lambda d: snp(d).pop("PlatformInfo"), "platform_smt_enabled"),
        (lambda d: snp(d).update(ProductName="Turin"), "Milan or Genoa"),
        (
            lambda d: d["Policies"].update({"ff" * 32: {"WorkloadSecretID": "confidential-inference"}}),
            "ff" * 32,
        ),
        (lambda d: d["Policies"]["ee" * 32].update(Role=""), "role coordinator"),
        (lambda d: d.update(WorkloadOwnerKeyDigests=["0b" * 32]), "WorkloadOwnerKeyDigests"),
        (lambda d: d.update(SeedshareOwnerPubKeys=["0b"]), "SeedshareOwnerPubKeys"),
        (lambda d: d["Policies"]["ee" * 32].update(WorkloadSecretID="confidential-inference"), "ee" * 32),
    ],
)
def test_a_guard_that_is_broken_is_seen(edit, said):
    assert said in refused(edit)


def test_no_chip_means_every_chip_and_a_listed_chip_is_asked_for():
    chips = OneOf(("c1" * 64, "c2" * 64))
    made = compiled(
        "contrast", form((rule(SNP, "amd", *TCB, ("chip_id", chips)),), (release("a", entry(SNP, "a")),))
    )
    assert made.prove().accepted == 1
    found = json.loads(made.made.files["manifest_0.json"])
    assert snp(found)["AllowedChipIDs"] == ["c1" * 64, "c2" * 64]
    snp(found)["AllowedChipIDs"] = []
    files = {**made.made.files, "manifest_0.json": json.dumps(found).encode()}
    with pytest.raises(Unproven, match="chip_id"):
        prove.evaluate(files, made.form, made.choice)


def test_a_minimum_holds_for_the_launch_too():
    found = manifest.parse(world("contrast").made.files["manifest_0.json"])
    value = snp(found)
    report = {
        **prove._REST,
        **{f"{when}_tcb_{part}": 200 for part in manifest.TCB.values() for when in ("reported", "launch")},
        "product": value["ProductName"],
        "measurement": value["TrustedMeasurement"],
        "host_data": next(digest for digest in found["Policies"] if digest != "ee" * 32),
        "platform_smt_enabled": False,
        "policy_abi_major": 0,
        "policy_abi_minor": 0,
    }
    assert manifest.entry(found, report) is not None
    assert manifest.entry(found, {**report, "launch_tcb_snp": 7}) is None
    assert manifest.entry(found, {**report, "vmpl": 1}) is None


@pytest.mark.parametrize("data", [b"{}", b"[]", b'{"Policies": {}, "ReferenceValues": {}}', b"\xff"])
def test_what_is_no_manifest_is_malformed(data):
    with pytest.raises(Malformed, match=r"Contrast manifest"):
        manifest.parse(data)


def test_it_ends_with_the_first_waiver():
    made = world("contrast")
    assert made.made.not_after == END
    assert replace(made.form, residuals=()).not_after == END

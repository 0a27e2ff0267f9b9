"""NVIDIA's relying-party policies, and the ways in which theirs were permissive."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compile.machines import CHOICES, GPU, NOW, TCB, compiled, entry, form, release, rule, world

from tallystick.compile.errors import Inexpressible, Unproven
from tallystick.compile.targets.nvidia import emit, prove
from tallystick.compile.targets.nvidia.prove import Policy
from tallystick.compile.targets.registry import backend
from tallystick.core.expect import AtLeast, AtLeastVersion

FILE = "relying_party_amd-sev-snp.rego"
# The shape of the SDK's permissive sample, in our own words: no count, so it holds of no GPU at all.
EVERY = """package policy
import rego.v1
default nv_match := false
nv_match if { every gpu in input { gpu.dbgstat == "disabled" } }
"""


def refused(old: str, new: str) -> str:
    made = world("nvidia")
    text = made.made.files[FILE].decode()
    assert old in text
    with pytest.raises(Unproven) as caught:
        prove.evaluate({**made.made.files, FILE: text.replace(old, new, 1).encode()}, made.form, NOW)
    return "; ".join(finding.message for finding in caught.value.findings)


def machine(device):
    return form(
        (rule("amd-sev-snp", "amd", *TCB, devices=(device,)),), (release("a", entry("amd-sev-snp", "a")),)
    )


def test_every_is_true_of_an_empty_list_and_ours_counts():
    assert Policy("x", EVERY, NOW).matches([])
    ours = Policy("x", world("nvidia").made.files[FILE].decode(), NOW)
    assert not ours.matches([])
    good = prove._shown(GPU)
    assert ours.matches([good, good])
    assert not ours.matches([good])
    assert not ours.matches([good, {**good, "x-nvidia-device-type": "nvswitch"}])


def test_a_policy_without_gpus_is_no_policy():
    made = form((rule("amd-sev-snp", "amd", *TCB),), (release("a", entry("amd-sev-snp", "a")),))
    with pytest.raises(Inexpressible, match="says nothing of GPUs"):
        tuple(backend("nvidia").lacks(made, CHOICES["nvidia"]))


def test_the_machine_and_the_keys_are_for_somebody_else():
    names = {lack.requirement for lack in backend("nvidia").lacks(machine(GPU), CHOICES["nvidia"])}
    assert names == {"machine", "keys"}


def test_claims_that_the_sdk_does_not_tell_are_lacks():
    device = replace(GPU, require=(*GPU.require, ("x-nvidia-attestation-warning", AtLeast(1))))
    names = {lack.requirement for lack in backend("nvidia").lacks(machine(device), CHOICES["nvidia"])}
    assert "claim-x-nvidia-attestation-warning" in names


@pytest.mark.parametrize(
    ("version", "right"),
    [
        ("570.124", True),
        ("570.124.0", True),
        ("570.124.1", True),
        ("570.130", True),
        ("580.159.03", True),  # as drivers are called: the last part has a zero in front
        ("570.123.99", False),
        ("570.0124", True),
        ("580", True),
        ("570.99", False),
        ("570.1234", True),
        ("57.999", False),
        ("1e3", False),
        (" 580", False),
        ("580.1", False),  # denied by name
        ("580.x", False),
        ("", False),
        (580, False),
        (None, False),
    ],
)
def test_versions_compare_by_their_numbers(version, right):
    ours = Policy("x", world("nvidia").made.files[FILE].decode(), NOW)
    good = {**prove._shown(GPU), "x-nvidia-gpu-driver-version": version}
    assert ours.matches([good, good]) is right


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("\tcount(input) >= 2\n", "", "GPU(s)"),
        ("\tis_array(input)\n", "", "an object"),
        ("every device in input", "some device in input", "policy that the SDK takes"),
        ('\tdevice["dbgstat"] == "disabled"\n', "", "dbgstat"),
        (
            '\tdevice["x-nvidia-gpu-attestation-report-signature-verified"] == true\n',
            "",
            "signature-verified",
        ),
        ('\tdevice["x-nvidia-gpu-attestation-report-nonce-match"] == true\n', "", "nonce-match"),
        ('["x-nvidia-cert-ocsp-status"] == "good"', '["x-nvidia-cert-status"] == "valid"', "ocsp"),
        ("default nv_match := false", "default nv_match := true", "default nv_match := false"),
        ("import rego.v1", "import future.keywords", "import rego.v1"),
        ("\tnow_ns <= ", "\tnow_ns >= ", "refused"),
        ("package policy", "package other", "package policy"),
        ("is_array(input)", "http.send(input)", "http.send"),
    ],
)
def test_a_guard_that_is_broken_is_seen(old, new, said):
    assert said in refused(old, new)


def test_a_minimum_is_written_as_numbers():
    device = replace(GPU, require=(("x-nvidia-gpu-driver-version", AtLeastVersion("590.12.0")),))
    made = compiled("nvidia", machine(device))
    assert ">= [590, 12]" in made.made.files[emit.file_name("amd-sev-snp")].decode()
    assert made.prove().accepted == 1

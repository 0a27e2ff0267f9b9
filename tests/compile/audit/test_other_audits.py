"""Audits of Keylime's files and of Contrast manifests."""

from __future__ import annotations

import json

import pytest
from compile.machines import world
from hypothesis import given
from hypothesis import strategies as st

from tallystick.compile.audit import contrast, keylime
from tallystick.compile.audit.records import ReferenceValues
from tallystick.core.errors import Malformed, TallystickError

RUNTIME = {
    "meta": {"version": 1, "generator": 0},
    "release": 0,
    "digests": {},
    "excludes": [],
    "keyrings": {},
    "ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": None},
    "ima-buf": {},
    "verification-keys": "",
}
REGISTERS = (0, 4, 7, 8, 9, 11)
KERNEL = {"kernel_cmdline": "root=x"}


def found(document, reference=None, audit=keylime) -> list[str]:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return [path.code for path in audit.Audit().audit(data, reference).paths]


@pytest.mark.parametrize(
    ("document", "codes"),
    [
        (b"[verifier]\nmeasured_boot_policy_name = accept-all\n", ["keylime.accept-all"]),
        (b"[verifier]\nmeasured_boot_policy_name = example\n", []),
        (b"[verifier]\nquote_interval = 2\n", ["keylime.accept-all"]),  # the default
        ({}, ["keylime.refstate.empty"]),
        ({"scrtm_and_bios": [{}], "kernels": [KERNEL]}, []),
        ({"scrtm_and_bios": [{}], "kernels": [{"kernel_cmdline": ".*"}]}, ["keylime.refstate.cmdline"]),
        ({"scrtm_and_bios": [{}, {}], "kernels": [KERNEL, KERNEL]}, ["keylime.refstate.mixed-tuples"]),
        ({"scrtm_and_bios": [], "kernels": [], "has_secureboot": False}, ["keylime.refstate.secure-boot"]),
        (RUNTIME, []),
        ({**RUNTIME, "excludes": [".*"]}, ["keylime.runtime.excludes"]),
        ({**RUNTIME, "excludes": ["/tmp/"]}, ["keylime.runtime.excludes"]),
        ({**RUNTIME, "excludes": ["/var/log/.*"]}, []),
        ({**RUNTIME, "ima": {"ignored_keyrings": ["*"]}}, ["keylime.runtime.keyrings"]),
        ({**RUNTIME, "verification-keys": "x"}, ["keylime.runtime.signed-files"]),
        ({"22": ["aa"], "mask": "0x408000"}, ["keylime.tpm.registers"]),
        ({str(n): ["aa" * 32] for n in REGISTERS}, []),
        ({str(n): ["aa" * 32] for n in (*REGISTERS, 23)}, ["keylime.tpm.resettable"]),
        ({str(n): ["aa" * 20] for n in REGISTERS}, ["keylime.tpm.sha1"] * 6),
        ({str(n): ["aa" * 32, "bb" * 32] for n in REGISTERS}, ["keylime.tpm.mixed-tuples"]),
    ],
)
def test_each_trap_of_keylimes_files(document, codes):
    assert found(document) == codes


def test_registers_that_stand_alone_accept_what_was_not_released():
    reference = ReferenceValues(
        tuples=tuple({f"pcr{n:02}": one * 32 for n in REGISTERS} for one in ("aa", "bb"))
    )
    both = {str(n): ["aa" * 32, "bb" * 32] for n in REGISTERS}
    audited = keylime.Audit().audit(json.dumps(both).encode(), reference)
    assert audited.words.startswith("keylime-policy: released 2 · accepted 64: ")


def test_our_own_agent_policies_have_no_permissive_path_there():
    for agent in json.loads(world("keylime").made.files["agents.json"])["agents"].values():
        assert found(agent["tpm_policy"]) == []
        assert found(agent["runtime_policy"]) == []


def test_an_empty_reference_state_is_recognised_by_the_files_name_alone():
    assert keylime.Audit().recognises(b"{}", "mb_refstate.json")
    assert not keylime.Audit().recognises(b"{}", "x.json")
    assert not keylime.Audit().recognises(b"\xff", "refstate")


def manifest(**changes):
    made = json.loads(world("contrast").made.files["manifest_0.json"])
    for name, value in changes.items():
        made["ReferenceValues"]["snp"][0][name] = value
    return made


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({}, []),
        ({"GuestPolicy": {"Debug": True}}, ["contrast.debug"]),
        ({"GuestPolicy": {"MigrateMA": True}}, ["contrast.migratema"]),
        ({"MinimumTCB": {}}, ["contrast.tcb"]),
        ({"TrustedMeasurement": "0" * 96}, ["contrast.no-measurement"]),
    ],
)
def test_each_trap_of_a_manifest(changes, codes):
    assert found(manifest(**changes), audit=contrast) == codes


def test_a_trust_domain_that_is_debugged():
    made = {
        "Policies": {},
        "ReferenceValues": {"tdx": [{"TdAttributes": "0100000000000000", "Rtmrs": ["", "aa"]}]},
    }
    assert found(made, audit=contrast) == ["contrast.debug", "contrast.unpinned"]


def test_a_manifest_mixes_policies_and_measurements():
    one, two = (json.loads(world("contrast").made.files[f"manifest_{n}.json"]) for n in range(2))
    one["ReferenceValues"]["snp"] += two["ReferenceValues"]["snp"]
    one["Policies"] |= two["Policies"]
    tuples = tuple(
        dict(entry.expect) for release in world("contrast").form.releases for entry in release.tuples
    )
    reference = ReferenceValues(
        tuples=tuple({name: one.value for name, one in row.items()} for row in tuples)
    )
    audited = contrast.Audit().audit(json.dumps(one).encode(), reference)
    assert audited.words.startswith("contrast-manifest: released 2 · accepted 4: 1 permissive path")
    assert found(one, audit=contrast) == ["contrast.mixed-tuples"]


@pytest.mark.parametrize("data", [b'{"Policies": [], "ReferenceValues": {}}'])
def test_what_is_no_manifest_is_malformed(data):
    with pytest.raises(Malformed, match="Contrast manifest"):
        contrast.Audit().audit(data, None)


NAMES = ["Policies", "ReferenceValues", "snp", "tdx", "digests", "excludes", "ima", "meta", "kernels", "4"]
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@given(DOCUMENTS)
def test_anything_is_audited_or_refused_by_name(document):
    data = json.dumps(document).encode()
    for audit in (keylime.Audit(), contrast.Audit()):
        try:
            if audit.recognises(data, "refstate"):
                audit.audit(data, None)
        except TallystickError:
            pass

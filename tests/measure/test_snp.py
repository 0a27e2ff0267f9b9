"""SNP launch digests: known answers, a signed report, and a second program on random inputs."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_corpus import corpus

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import ovmf
from tallystick.formats.ovmf import SevRange, SevSection
from tallystick.measure import snp
from tallystick.measure.snp import KernelHashes, LaunchImage, SnpShape, Vmm, launch_digest, launch_digests

pytestmark = pytest.mark.corpus


def vectors():
    cases = json.loads(corpus("evidence/snp/measure/vectors.json").read_text())
    assert len(cases) == 26
    return [case for case in cases if "SEV_SNP" in case["args"][0]]


def firmware(name):
    return ovmf.parse(corpus(f"evidence/snp/measure/{name}").read_bytes())


def text(argument):
    return argument.strip("\"'").rsplit("/", 1)[-1]


def run(case):
    args = case["args"]
    vcpus = int(args[1])
    signature = 0 if args[2] == "None" else snp.vcpu_signature(args[2].split("[")[1].strip("]\"'"))
    options = dict(a.split("=", 1) for a in args if "=" in a and not a.startswith(('"', "'")))
    if args[0].endswith("SVSM"):
        return snp.svsm_launch_digest(
            firmware("svsm_ovmf.fd"),
            firmware("svsm.bin"),
            variables_bytes=int(args[-1].split("=")[-1], 0)
            if args[-1][-1].isdigit()
            else int(options["ovmf_vars_size"], 0),
            vcpus=vcpus,
            vcpu_signature=signature,
        )
    hashes = None if args[4] == "None" else KernelHashes.of(b"", b"", text(args[6]))
    vmm = Vmm[options.get("vmm_type", "x.QEMU").split(".")[-1].upper()]
    shape = SnpShape(vcpus=vcpus, vcpu_signature=signature, guest_features=int(args[7], 0), vmm=vmm)
    return launch_digest(snp.launch_image(firmware(text(args[3]))), shape, hashes)


def test_every_known_answer():
    answers = 0
    for case in vectors():
        if case["raises"]:
            with pytest.raises(Unsupported, match="kernel-hashes section"):
                run(case)
        else:
            assert run(case).hex == case["digests"][-1], case["name"]
            answers += 1
    assert answers >= 18


def test_the_prediction_equals_what_hardware_signed():
    """A Milan machine's VCEK signed this MEASUREMENT; the inputs are what its operator published."""
    case = json.loads(corpus("evidence/snp/measure/dstack_milan_roundtrip.json").read_text())
    image = LaunchImage(
        firmware=bytes.fromhex(case["ovmf_hash"]),
        ranges=tuple(
            SevRange(kind=SevSection(s["section_type"]), gpa=s["gpa"], size_bytes=s["size"])
            for s in case["ovmf_sections"]
        ),
        hash_table_gpa=case["sev_hashes_table_gpa"],
        ap_eip=case["sev_es_reset_eip"],
    )
    cmdline = KernelHashes.of(b"", b"", case["base_cmdline"]).cmdline
    hashes = KernelHashes(
        kernel=bytes.fromhex(case["kernel_hash"]), initrd=bytes.fromhex(case["initrd_hash"]), cmdline=cmdline
    )
    shape = SnpShape(
        vcpus=case["vcpus"],
        vcpu_signature=snp.vcpu_signature(case["vcpu_type"]),
        guest_features=case["guest_features"],
    )
    assert launch_digest(image, shape, hashes).hex == case["expected_measurement"]
    report = corpus("evidence/snp/reports").glob("dstack_milan_v3*")
    assert any(bytes.fromhex(case["expected_measurement"]) in path.read_bytes() for path in report)


@settings(max_examples=25, deadline=None)
@given(
    vcpus=st.integers(1, 70),
    vcpu_type=st.sampled_from(["EPYC-v4", "EPYC-Rome", "EPYC-Milan-v2", "EPYC-Genoa", "EPYC-Turin"]),
    features=st.sampled_from([0x1, 0x21, 0x8000000000000001]),
    vmm=st.sampled_from(list(Vmm)),
    parts=st.none()
    | st.tuples(st.binary(max_size=99), st.binary(max_size=99), st.text("ab=/ \u00e9", max_size=40)),
)
def test_another_program_says_the_same(tmp_path_factory, vcpus, vcpu_type, features, vmm, parts):
    guest = pytest.importorskip("sevsnpmeasure.guest")
    from sevsnpmeasure import sev_mode, vcpu_types, vmm_types

    folder = tmp_path_factory.mktemp("peer")
    path = corpus("evidence/snp/measure/ovmf_AmdSev_suffix.bin")
    files = [None, None, None]
    if parts:
        (folder / "kernel").write_bytes(parts[0])
        (folder / "initrd").write_bytes(parts[1])
        files = [str(folder / "kernel"), str(folder / "initrd"), parts[2]]
    theirs = guest.calc_launch_digest(
        sev_mode.SevMode.SEV_SNP,
        vcpus,
        vcpu_types.CPU_SIGS[vcpu_type],
        str(path),
        *files,
        features,
        vmm_type=vmm_types.VMMType[vmm.name if vmm is Vmm.QEMU else vmm.value],
    )
    shape = SnpShape(
        vcpus=vcpus, vcpu_signature=snp.vcpu_signature(vcpu_type), guest_features=features, vmm=vmm
    )
    hashes = KernelHashes.of(*parts) if parts else None
    assert launch_digest(snp.launch_image(ovmf.parse(path.read_bytes())), shape, hashes).value == theirs


def test_a_matrix_is_what_its_entries_are():
    image = snp.launch_image(firmware("ovmf_AmdSev_suffix.bin"))
    shapes = [
        SnpShape(vcpus=v, vcpu_signature=snp.vcpu_signature(t), guest_features=f, vmm=m)
        for v in (64, 1, 8)
        for t in ("EPYC-Milan", "EPYC-Genoa")
        for f in (1, 0x21)
        for m in Vmm
    ]
    assert list(launch_digests(image, shapes)) == [launch_digest(image, shape) for shape in shapes]


def test_the_explanation_ends_in_the_digest():
    shape = SnpShape(vcpus=3, vcpu_signature=snp.vcpu_signature("EPYC-v4"), guest_features=1)
    whole = firmware("ovmf_AmdSev_suffix.bin")
    digest, steps = snp.explain(whole, shape)
    assert digest == launch_digest(snp.launch_image(whole), shape)
    assert steps[-1].digest == digest.hex
    assert steps[0].what == "firmware"
    assert sum("VMSA" in s.what for s in steps) == 3


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"vcpus": 0}, "vcpus: want 1 to 512, got 0"),
        ({"vcpus": 513}, "vcpus"),
        ({"guest_features": 2}, "bit 0"),
    ],
)
def test_a_shape_that_can_not_be_is_refused(fields, said):
    with pytest.raises(Malformed, match=said):
        SnpShape(**{"vcpus": 1, "vcpu_signature": 0, "guest_features": 1} | fields)


def test_an_unknown_vcpu_type_is_refused_by_name():
    with pytest.raises(Unsupported, match="got EPYC-Naples"):
        snp.vcpu_signature("EPYC-Naples")


def test_firmware_that_says_nothing_about_sev_is_refused():
    """A plausible digest of it would be meaningless."""
    with pytest.raises(Unsupported, match="OVMF table footer"):
        ovmf.parse(bytes(8192))


def damaged(change):
    data = bytearray(corpus("evidence/snp/measure/ovmf_AmdSev_suffix.bin").read_bytes())
    at = data.index(b"ASEV")
    change(data, at)
    return ovmf.parse(bytes(data))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda d, at: struct.pack_into("<I", d, at + 8, 2), Unsupported, "version: want 1, got 2"),
        (lambda d, at: struct.pack_into("<I", d, at + 12, 60), Malformed, "count"),
        (lambda d, at: struct.pack_into("<I", d, at + 16, 0x800001), Malformed, "section 0"),
        (lambda d, at: struct.pack_into("<I", d, at + 20, 0), Malformed, "section 0"),
        (lambda d, at: struct.pack_into("<I", d, at + 24, 9), Unsupported, "section 0 type"),
        (lambda d, at: d.__setitem__(slice(at + 28, at + 36), d[at + 16 : at + 24]), Malformed, "overlap"),
    ],
)
def test_a_lying_table_is_refused_with_its_place(change, error, said):
    with pytest.raises(error, match=said):
        damaged(change).sev_ranges()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_firmware_crashes_the_parser(data):
    raw = bytearray(corpus("evidence/snp/measure/ovmf_AmdSev_suffix.bin").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(len(raw) - 1600, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    try:
        found = ovmf.parse(bytes(raw))
        found.sev_ranges()
        found.tdx_sections()
        found.number(ovmf.SEV_ES_RESET_BLOCK, "reset block")
    except (Malformed, Unsupported):
        pass

"""``tally measure diff``: what is named as a cause, what stays unexplained, on made releases and evidence."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measure.launches import snp_firmware
from support_corpus import corpus
from support_eventlog import event, header
from support_firmware import image as firmware_image
from support_pe import kernel, uki
from support_tpm_evidence import made

from tallystick.cli import app
from tallystick.core.digests import Digest
from tallystick.formats import eventlog, ovmf
from tallystick.formats import uki as uki_format
from tallystick.measure import firmwares, qemu, snp, why_snp, why_tpm
from tallystick.measure.firmwares import Machine
from tallystick.measure.predict import measure_release
from tallystick.measure.records import Event, Measurement
from tallystick.measure.registers import replay
from tallystick.measure.shapes import LaunchShape
from tallystick.measure.statement import to_statement
from tallystick.measure.uki import image_events
from tallystick.release import causes, index
from tallystick.release.records import Index

FIRMWARE = firmware_image()
SHAPE = {"ram_mib": 512, "vcpus": 1, "vmm": "qemu"}
NOTHING = Index(name="x", version="1", files=(), statements=(), products=(), digest=Digest.of(b""))
CODE = {name: number for number, name in eventlog.EVENT_TYPES.items()}


@pytest.fixture(autouse=True)
def known_firmware(monkeypatch):
    """The made firmware stands in the table, so that everything else is the real code."""
    model = replace(firmwares._MODELS[0], name="made here", digest=Digest.of(FIRMWARE))
    monkeypatch.setattr(firmwares, "_MODELS", (model,))


def listed(product, files, versions):
    """A contents list of (path, data, component, nested)."""
    refs = sorted({component for _, _, component, _ in files})
    return {
        "schema": "tallystick/contents/v1",
        "product": product,
        "files": [
            {"path": path, "sha256": Digest.of(data).hex, "size": len(data), "mode": "0100644", "component": component}
            | ({"nested": nested} if nested else {})
            for path, data, component, nested in sorted(files)
        ],
        "components": [
            {"ref": ref, "kind": "deb", "name": ref, "version": versions.get(ref, "1"), "purl": "", "licence": "",
             "seed": "", "sha256": Digest.of(f"{ref} {versions.get(ref, '1')}".encode()).hex}
            for ref in refs
        ],
    }  # fmt: skip


def release(
    folder: Path, *, inside=b"one", words=b"quiet", versions=(), shape=SHAPE, init_data=b"", change=None
):
    """Write a small release whose UKI holds an initramfs of one file; ``change`` edits its tuple."""
    initramfs = b"archive of " + inside
    image = uki(cmdline=words, initrd=initramfs)
    files = {"products/uki.efi": image, "products/initramfs.cpio.xz": initramfs, "firmware/ovmf.fd": FIRMWARE}
    sections = [(".cmdline", words, "project", ""), (".linux", kernel(), "linux", ""),
                (".initrd", initramfs, "project", "initramfs"), ("(headers)", inside + words, "stub", "")]  # fmt: skip
    files["contents/uki.json"] = listed("uki", sections, dict(versions))
    files["contents/initramfs.json"] = listed("initramfs", [("bin/x", inside, "tool", "")], dict(versions))
    digest = Digest.of(init_data) if init_data else None
    if init_data:
        files["init-data.toml"] = init_data
    shaped = LaunchShape.of(qemu.PLATFORM, shape)
    found = list(measure_release(image, FIRMWARE, [shaped], digest, "tallystick test"))
    found = change(found) if change else found
    files["statements/measurements.json"] = to_statement(found, "products/uki.efi")
    files["statements/provenance.json"] = files["statements/sbom.json"] = b"{}"
    for path, data in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    products = {"uki": "products/uki.efi", "initramfs": "products/initramfs.cpio.xz"}
    (folder / index.FILE).write_bytes(index.make(folder, name="demo", version="1", products=products))
    return folder


@pytest.fixture
def tally(capsys):
    def run(*arguments):
        code = app._run(["measure", "diff", *map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def named(document):
    (launch,) = document["launches"]
    return [(one["where"], one["kind"], one["name"], tuple(one["moves"])) for one in launch["causes"]]


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"inside": b"two"}, [("image", "file", "initramfs: bin/x", ("pcr04", "pcr09", "pcr11"))]),
        (
            {"inside": b"two", "versions": {"tool": "2"}},
            [("image", "component", "tool", ("pcr04", "pcr09", "pcr11"))],
        ),
        ({"words": b"loud"}, [("image", "command-line", "uki", ("pcr04", "pcr09", "pcr11"))]),
        ({"shape": SHAPE | {"vcpus": 2}}, [("host", "vcpus", "vcpus", ("pcr00",))]),
        ({"shape": SHAPE | {"ram_mib": 768}}, [("host", "ram_mib", "ram_mib", ("pcr00",))]),
        ({"init_data": b"x"}, [("host", "init-data", "init-data", ("pcr08",))]),
        (
            {"inside": b"two", "init_data": b"x"},
            [
                ("image", "file", "initramfs: bin/x", ("pcr04", "pcr09", "pcr11")),
                ("host", "init-data", "init-data", ("pcr08",)),
            ],
        ),
        (
            {"inside": b"two", "words": b"loud", "versions": {"tool": "2"}},
            [
                ("image", "component", "tool", ("pcr04", "pcr09", "pcr11")),
                ("image", "command-line", "uki", ("pcr04", "pcr09", "pcr11")),
            ],
        ),
    ],
)
def test_the_input_that_changed_is_named_with_what_it_moves(tally, tmp_path, change, wanted):
    code, document = tally(release(tmp_path / "a"), release(tmp_path / "b", **change))
    assert code == 0
    assert named(document) == wanted
    assert document["launches"][0]["unexplained"] == []


def test_a_source_that_changed_and_left_no_trace_is_no_cause(tally, tmp_path):
    before = release(tmp_path / "a")
    _, document = tally(before, release(tmp_path / "b", words=b"loud", versions={"tool": "2"}))
    assert [one[:3] for one in named(document)] == [("image", "command-line", "uki")]


def test_texts_and_versions_are_shown(tally, tmp_path):
    before = release(tmp_path / "a")
    (cause,) = tally(before, release(tmp_path / "b", words=b"loud"))[1]["launches"][0]["causes"]
    assert (cause["before"], cause["after"], cause["how"]) == ("quiet", "loud", "inputs")
    more = release(tmp_path / "c", inside=b"two", versions={"tool": "2"})
    (cause,) = tally(before, more)[1]["launches"][0]["causes"]
    assert (cause["before"], cause["after"], cause["files"]) == ("1", "2", ["initramfs: bin/x"])


def test_the_same_release_differs_in_nothing(tally, tmp_path):
    assert tally(release(tmp_path / "a"), release(tmp_path / "b"))[1] == {
        "same": True,
        "causes": [],
        "launches": [],
    }


def test_a_change_that_no_launch_measures_is_not_a_difference(tally, tmp_path):
    after = release(tmp_path / "b", versions={"tool": "2"})
    assert tally(release(tmp_path / "a"), after)[1]["same"]


def test_a_statement_that_its_files_do_not_lead_to_explains_nothing(tally, tmp_path):
    def lie(found):
        values = dict(found[0].values) | {"pcr00": "11" * 32}
        return [replace(found[0], values=tuple(sorted(values.items())))]

    _, document = tally(release(tmp_path / "a"), release(tmp_path / "b", inside=b"two", change=lie))
    assert named(document) == []
    (one,) = document["launches"][0]["unexplained"]
    assert one["reason"] == "the second release's values are not what its own files lead to"
    assert one["values"] == ["pcr00", "pcr04", "pcr09", "pcr11"]


def test_lists_that_hide_a_change_leave_it_unexplained(tally, tmp_path):
    after = release(tmp_path / "b", inside=b"two")
    before = release(tmp_path / "a")
    for name in ("uki", "initramfs"):
        (after / f"contents/{name}.json").write_bytes((before / f"contents/{name}.json").read_bytes())
    (after / index.FILE).unlink()
    products = {"uki": "products/uki.efi", "initramfs": "products/initramfs.cpio.xz"}
    (after / index.FILE).write_bytes(index.make(after, name="demo", version="1", products=products))
    _, document = tally(before, after)
    assert named(document) == []
    assert "do not say in what" in document["launches"][0]["unexplained"][0]["reason"]


def tuples(**changes):
    one = Measurement(
        platform="somewhere", evidence_kind="x", image=Digest.of(b"i"), firmware=Digest.of(b"f"),
        shape=(("vcpus", 1),), values=(("m", "00"),), waived=(), events=(), calculator="test",
    )  # fmt: skip
    return replace(one, **changes)


@pytest.mark.parametrize(
    ("changes", "wanted", "reason"),
    [
        ({"shape": (("vcpus", 2),)}, [("vcpus", ("m",))], None),
        ({"firmware": Digest.of(b"g")}, [("firmware", ("m",))], None),
        ({"firmware": Digest.of(b"g"), "shape": (("vcpus", 2),)}, [], "several inputs differ"),
    ],
)
def test_without_a_prediction_only_a_single_input_is_a_cause(changes, wanted, reason):
    """What a launch reports is a function of its inputs: where one alone differs, it is the cause."""
    sides = [
        causes.Side(index=NOTHING, contents=(), measurements=(one,))
        for one in (tuples(), tuples(values=(("m", "01"),), **changes))
    ]
    releases = causes.Releases(before=sides[0], after=sides[1], inputs=(), init_data=(None, None))
    (change,) = causes.explain(releases, lambda _: None)
    assert [(one.kind, one.moves) for one in change.causes] == wanted
    assert [one.reason.startswith(reason) for one in change.unexplained] == ([True] if reason else [])


# Evidence --------------------------------------------------------------------------------------------------------


def expected(words=b"quiet", inside=b"one", init_data=None, **machine):
    image = image_events(uki_format.parse(uki(cmdline=words, initrd=b"archive of " + inside)))
    shape = Machine(**({"ram_mib": 512, "vcpus": 1} | machine))
    return why_tpm.Expected(
        image=image, firmware=qemu.MeasuredFirmware.of(FIRMWARE), machine=shape, init_data=init_data
    )


def evidence(events, *, log=True, lie=False):
    """TPM evidence of a machine that extended ``events``."""
    pcrs = {number: value.value for number, value in replay(events).items()}
    lines = [event(e.register, CODE.get(e.what.split(":")[0].split(" ")[0], 0xD), e.what.encode(),
                   digests={"sha256": e.digest.value}) for e in events if e.register != 8]  # fmt: skip
    logged = header() + b"".join(lines[:-1] if lie else lines)
    import base64

    fields = {"event_log": base64.b64encode(logged).decode() if log else None}
    return made(events=(), pcrs=pcrs | {n: bytes(32) for n in range(16, 24)}, fields=fields)


@pytest.fixture
def asked(tally, tmp_path):
    """Ask why evidence of these events is not the release's."""
    folder = release(tmp_path / "a")

    def ask(events, *more, **how):
        path = tmp_path / "evidence.json"
        path.write_bytes(evidence(events, **how))
        return tally(folder, path, *more)

    return ask


def test_evidence_of_the_released_launch_is_the_same(asked):
    assert asked(expected().events()) == (0, {"same": True, "causes": [], "launches": []})


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize(("machine", "wanted"), [
    ({"vcpus": 7}, [("host", "vcpus", "vcpus", ("pcr00",))]),
    ({"ram_mib": 1024}, [("host", "ram_mib", "ram_mib", ("pcr00",))]),
    ({"ram_mib": 2048, "vcpus": 4},
     [("host", "ram_mib", "ram_mib", ("pcr00",)), ("host", "vcpus", "vcpus", ("pcr00",))]),
])  # fmt: skip
def test_another_shape_is_found_with_and_without_a_log(asked, machine, wanted, log):
    code, document = asked(expected(**machine).events(), log=log)
    assert code == 0
    assert named(document) == wanted
    assert document["launches"][0]["causes"][0]["how"] == ("event log" if log else "search")


def test_an_image_with_another_initrd_is_named_from_the_log_alone(asked):
    events = expected(inside=b"two").events()
    moves = ("pcr04", "pcr09", "pcr11")
    assert named(asked(events)[1]) == [("image", "initrd", ".initrd", moves)]
    _, document = asked(events, log=False)
    assert named(document) == []
    (one,) = document["launches"][0]["unexplained"]
    assert (one["values"], one["reason"]) == (list(moves), "there is no event log")


def test_a_log_that_does_not_replay_tells_nothing(asked):
    rom = Event(register=2, digest=Digest.of(b"rom"), what="EV_EFI_BOOT_SERVICES_DRIVER")
    events = (*expected().events(), rom)
    assert named(asked(events)[1]) == [("host", "option-rom", "option-rom", ("pcr02",))]
    _, document = asked(events, lie=True)
    assert named(document) == []
    assert document["launches"][0]["unexplained"][0]["reason"] == "the event log does not replay to them"


def test_init_data_is_named_when_it_is_at_hand(asked, tmp_path):
    given = tmp_path / "init.toml"
    given.write_bytes(b"x")
    events = expected(init_data=Digest.of(b"x")).events()
    assert named(asked(events, "--initdata", given)[1]) == [("host", "init-data", "init-data", ("pcr08",))]
    assert named(asked(events)[1]) == []


def test_an_event_that_no_rule_knows_stays_unexplained(asked):
    odd = Event(register=14, digest=Digest.of(b"x"), what="EV_IPL: MokList")
    _, document = asked((*expected().events(), odd))
    assert named(document) == []
    assert document["launches"][0]["unexplained"] == [
        {"values": ["pcr14"], "reason": "the log shows other events, and no rule says whose they are"}
    ]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 15), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4))
def test_random_events_are_never_blamed_on_an_input(known, events):
    """Registers 0 to 15 extended by what nothing extends: no shape, image, firmware or init-data is ever named."""
    base, _ = known
    added = tuple(
        Event(register=n, digest=Digest.of(b"x" + data), what="EV_COMPACT_HASH") for n, data in events
    )
    pcrs = {n: v.value for n, v in replay((*base.events(), *added)).items()}
    found, unexplained = why_tpm.explain(base, why_tpm.Seen(pcrs=pcrs, log=None))
    assert found == ()
    differ = {f"pcr{n:02}" for n, _ in events} - {"pcr10"}
    assert {name for one in unexplained for name in one.values} == differ


@pytest.fixture(scope="module")
def known():
    """A base whose search is short, for many examples."""
    patch = pytest.MonkeyPatch()
    model = replace(firmwares._MODELS[0], name="made here", digest=Digest.of(FIRMWARE))
    patch.setattr(firmwares, "_MODELS", (model,))
    patch.setattr(why_tpm, "machines", lambda own: iter((own, replace(own, vcpus=own.vcpus + 1))))
    yield expected(), patch
    patch.undo()


@pytest.mark.corpus
def test_a_real_machines_log_names_what_it_started():
    """Another build of the firmware, boot options of its own, and another image: QEMU, swtpm, systemd-stub 252."""
    folder = corpus("evidence/tpm/qemu_swtpm_uki")
    log = eventlog.parse((folder / "eventlog.bin").read_bytes())
    held = json.loads((folder / "pcrs.json").read_text())["pcrs"]["sha256"]
    pcrs = {int(number): bytes.fromhex(value) for number, value in held.items()}
    found, unexplained = why_tpm.explain(expected(), why_tpm.Seen(pcrs=pcrs, log=log))
    assert [(one.where.value, one.kind, one.name) for one in found] == [
        ("host", "firmware", "firmware"),
        *(("host", "boot-option", name) for name in ("BootOrder", "Boot0001", "Boot0002", "Boot0003")),
        ("image", "kernel", ".linux"),
        ("image", "section", ".osrel"),
        ("image", "command-line", ".cmdline"),
        ("image", "initrd", ".initrd"),
    ]
    assert unexplained == ()


# SNP -------------------------------------------------------------------------------------------------------------

OWN = snp.SnpShape(vcpus=2, vcpu_signature=snp.vcpu_signature("EPYC-Milan"), guest_features=1)


def report(measurement: bytes, host_data: bytes = bytes(32)) -> bytes:
    data = bytearray(1184)
    struct.pack_into("<I", data, 0, 2)
    struct.pack_into("<Q", data, 8, 0x30000)
    struct.pack_into("<I", data, 0x34, 1)
    data[0x90:0xC0], data[0xC0:0xE0] = measurement, host_data
    return bytes(data)


@pytest.fixture
def snp_release(tmp_path):
    firmware, image = snp_firmware(), uki(cmdline=b"quiet", initrd=b"archive of one")
    launch, hashes = snp.launch_image(ovmf.parse(firmware)), snp.KernelHashes.of(image, b"", "")
    digest = snp.launch_digest(launch, OWN, hashes)
    one = Measurement(
        platform="amd-sev-snp", evidence_kind="snp-report", image=Digest.of(image), firmware=Digest.of(firmware),
        shape=(("guest_features", 1), ("vcpu_type", "EPYC-Milan"), ("vcpus", 2), ("vmm", "qemu")),
        values=(("init_data", "00" * 32), ("measurement", digest.hex)), waived=(), events=(),
        calculator="tallystick test",
    )  # fmt: skip
    folder = release(tmp_path / "a", change=lambda found: [*found, one])
    (folder / "firmware/snp.fd").write_bytes(firmware)
    (folder / index.FILE).unlink()
    products = {"uki": "products/uki.efi", "initramfs": "products/initramfs.cpio.xz"}
    (folder / index.FILE).write_bytes(index.make(folder, name="demo", version="1", products=products))
    return folder, launch, hashes


def test_a_report_is_explained_by_the_shape_that_leads_to_it(snp_release, tally, tmp_path):
    folder, launch, hashes = snp_release
    path = tmp_path / "report.bin"
    seen = snp.launch_digest(launch, replace(OWN, vcpus=5, guest_features=0x21), hashes)
    path.write_bytes(report(seen.value))
    code, document = tally(folder, path)
    assert code == 0
    assert [one[1] for one in named(document)] == ["vcpus", "guest_features"]
    (change,) = document["launches"]
    assert [(one["before"], one["after"]) for one in change["causes"]] == [("2", "5"), ("0x1", "0x21")]
    path.write_bytes(report(snp.launch_digest(launch, OWN, None).value, Digest.of(b"x").value))
    _, document = tally(folder, path)
    assert [one[1] for one in named(document)] == ["direct-boot"]
    assert document["launches"][0]["unexplained"][0]["values"] == ["init_data"]


def test_a_report_of_another_image_is_unexplained(snp_release, tally, tmp_path):
    folder, launch, _ = snp_release
    path = tmp_path / "report.bin"
    path.write_bytes(report(snp.launch_digest(launch, OWN, snp.KernelHashes.of(b"other", b"", "")).value))
    _, document = tally(folder, path, "--kind", "snp-report")
    assert named(document) == []
    assert document["launches"][0]["unexplained"][0]["values"] == ["measurement"]


def test_of_several_shapes_the_nearest_is_named():
    """EC2 takes no vCPU type: it is not said to differ where it does not count."""
    launch = snp.launch_image(ovmf.parse(snp_firmware()))
    base = why_snp.Expected(
        firmware=Digest.of(b"f"),
        images={Digest.of(b"f"): launch},
        hashes=None,
        shapes=(replace(OWN, vcpus=9), OWN),
    )
    seen = snp.launch_digest(launch, replace(OWN, vmm=snp.Vmm.EC2))
    number, found, rest = why_snp.explain(base, seen.value)
    assert (number, [one.kind for one in found], rest) == (1, ["vmm"], ())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["{a}", "{a}/recipe"], 2), (["{a}", __file__], 3), (["{a}", "{a}", "--kind", "nitro"], 2),
     (["{a}", __file__, "--kind", "nitro"], 2), (["{a}/contents", "{a}"], 2), (["{a}", "/dev/null"], 3)],
)  # fmt: skip
def test_garbage_has_its_exit_code(tally, tmp_path, arguments, code):
    folder = release(tmp_path / "a")
    assert tally(*(one.format(a=folder) for one in arguments))[0] == code

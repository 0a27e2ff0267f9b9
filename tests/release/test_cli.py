"""The release managers' commands, from an empty work directory to a revoked release."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta

import pytest
from release import world as worlds
from sbom import builds

from tallystick.broker import lease_table
from tallystick.broker.config import Home
from tallystick.broker.leases import Lease
from tallystick.broker.store import Store
from tallystick.cli import clock
from tallystick.cli.app import _run
from tallystick.core.files import write_file
from tallystick.release import gates, index, keys
from tallystick.release.diff import Difference
from tallystick.signing import trust as trust_file


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What `tally init` makes, and a signed and rebuilt release. Not to be changed."""
    folder = tmp_path_factory.mktemp("cli")
    assert _run(["init", "--workdir", str(folder / "work")]) == 0
    people = ("ci-builder", "rebuilder", "alice", "bob", "carol")
    signatories = {
        name: keys.load(folder / "work/people" / name, name)
        for name in people
        if (folder / "work/people" / name / keys.KEY_FILE).exists()
    }
    world = worlds.World(
        workdir=folder / "work",
        trust=trust_file.load(folder / "work/trust.json"),
        signatories=signatories,
        online=keys.load(folder / "work/channels/staging", "online", file="online.key"),
    )
    world.release(folder / "release")
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("TALLY_HOME", str(tmp_path / "work"))
    return tmp_path


@pytest.fixture
def tally(capsys):
    """Run a command with --json; return its exit code and document."""

    def run(*arguments, code=0):
        capsys.readouterr()
        got = _run([*map(str, arguments), "--json"])
        said = capsys.readouterr()
        assert got == code, (got, said.out, said.err)
        return json.loads(said.out)

    return run


def test_promote_approve_show_revoke(place, tally, capsys):
    release = place / "release"
    digest = str(index.read(release).digest)
    proposed = tally("promote", release, "--channel", "staging", "--as", "alice")
    assert [gate["passed"] for gate in proposed["gates"]] == [True] * len(gates.NAMES)
    assert proposed["change"]["approvals_missing"] == 2
    shown = tally("channel", "show", "staging")
    assert (shown["releases"], shown["pending"][0]["author"]) == ([], "alice")
    own = tally("approve", "--channel", "staging", "--as", "alice", code=6)
    assert own["error"]["code"] == "release.approve.author"
    once = tally("approve", "--channel", "staging", "--as", "bob")
    assert not once["changes"][0]["live"]
    twice = tally("approve", "--channel", "staging", "--as", "bob", code=6)
    assert twice["error"]["code"] == "release.approve.duplicate"
    live = tally("approve", "--channel", "staging", "--as", "carol")
    assert live["changes"][0]["live"]
    (listed,) = tally("channel", "show", "staging")["releases"]
    assert (listed["digest"], listed["promoted_by"], listed["rebuilt_by"]) == (
        digest,
        "alice@example.org",
        ["rebuilder"],
    )
    assert tally("verify", release)["digest"] == digest
    gone = tally(
        "revoke", release, "--channel", "staging", "--as", "carol", "--reason", "CVE-2026-1", "--yes"
    )
    assert gone["release"] == digest
    shown = tally("channel", "show", "staging")
    assert (shown["releases"], shown["revocations"][0]["by"]) == ([], "carol")
    capsys.readouterr()
    assert _run(["channel", "show", "staging"]) == 0
    words = capsys.readouterr().out
    assert f"revoked: {digest} by carol" in words


def test_the_gates_are_shown_one_by_one(place, capsys):
    shutil.rmtree(place / "release/links")
    assert _run(["promote", str(place / "release"), "--channel", "staging", "--as", "alice"]) == 6
    said = capsys.readouterr().err
    assert "ok  index" in said
    assert "NO  quorum" in said
    assert "[release.quorum.missing]" in said


def test_the_gates_alone_need_no_key_and_change_nothing(place, tally):
    """What a CI job runs, which holds nobody's key."""
    release = place / "release"
    shutil.rmtree(place / "work/people")
    before = {path: path.read_bytes() for path in (place / "work").rglob("*") if path.is_file()}
    checked = tally("promote", release, "--channel", "staging", "--check")
    assert [gate["passed"] for gate in checked["gates"]] == [True] * len(gates.NAMES)
    shutil.rmtree(release / "links")
    refused = tally("promote", release, "--channel", "staging", "--check", code=6)
    assert {finding["code"] for finding in refused["error"]["findings"]} >= {"release.quorum.missing"}
    assert {path: path.read_bytes() for path in (place / "work").rglob("*") if path.is_file()} == before
    nobody = tally("promote", release, "--channel", "staging", code=2)
    assert nobody["error"]["code"] == "promote.who"


def test_a_restored_backup_of_a_channel_is_refused(place, tally):
    """The marks lie apart from the channel, and remember."""
    shutil.copytree(place / "work/channels/staging", place / "backup")
    release = place / "release"
    tally("promote", release, "--channel", "staging", "--as", "alice")
    for name in ("bob", "carol"):
        tally("approve", "--channel", "staging", "--as", name)
    shutil.rmtree(place / "work/channels/staging")
    shutil.copytree(place / "backup", place / "work/channels/staging")
    refused = tally("channel", "show", "staging", code=5)
    assert refused["error"]["code"] == "release.channel.rollback"
    assert tally("channel", "show", "staging", "--at", "2099-01-01T00:00:00Z", code=6)


def test_withdraw_and_refresh(place, tally):
    tally("promote", place / "release", "--channel", "debug", "--as", "bob")
    (dropped,) = tally("channel", "withdraw", "debug", "--as", "carol")["withdrawn"]
    assert dropped["author"] == "bob"
    assert tally("channel", "refresh", "debug")["version"] == 2
    assert tally("channel", "show", "debug")["pending"] == []


def test_what_is_not_there_is_misuse(place, tally):
    for arguments in (
        ("promote", place, "--channel", "staging", "--as", "alice"),
        ("promote", place / "release", "--channel", "staging", "--as", "nobody"),
        ("approve", "--channel", "staging", "--as", "alice"),
        ("approve", "--channel", "../staging", "--as", "alice"),
        ("revoke", "x", "--channel", "staging", "--as", "alice", "--reason", "x", "--yes"),
        ("channel", "withdraw", "staging", "--as", "alice"),
        ("diff", place, place),
        ("promote", place / "release", "--channel", "other", "--as", "alice"),
    ):
        tally(*arguments, code=2)
    assert not (place / "work/channels/other").exists()


def test_diff_says_which_component_changed(place, tally, capsys):
    release = place / "release"
    assert tally("diff", release, release)["same"]
    world = worlds.World(
        workdir=place / "work",
        trust=trust_file.load(place / "work/trust.json"),
        signatories={},
        online=keys.load(place / "work/channels/staging", "online", file="online.key"),
    )
    changed = tuple(
        (path, data + b"#" if path == "lib/python/cbor2.py" else data, mode, component)
        for path, data, mode, component in builds.FILES
    )
    world.release(place / "other", files=changed, rebuilt_by=())
    found = tally("diff", release, place / "other")
    initramfs = next(product for product in found["products"] if product["name"] == "initramfs")
    assert [(c["name"], c["files"]) for c in initramfs["components"]] == [("cbor2", ["lib/python/cbor2.py"])]
    assert found["measurements"][0]["platform"] == "qemu-vtpm"
    assert "pcr04" in found["measurements"][0]["values"]
    capsys.readouterr()
    assert _run(["diff", str(release), str(place / "other")]) == 0
    assert "cbor2 6.3.0: same source, other files (1 file)" in capsys.readouterr().out
    assert _run(["diff", str(release), str(place / "other"), "--markdown"]) == 0
    comment = capsys.readouterr().out
    assert comment.startswith("### 1 measurement(s) changed")
    assert comment.count("```") == 2
    assert "cbor2 6.3.0: same source" in comment.partition("```text")[2]


def test_a_comment_can_not_leave_its_code_block(place):
    """What a pull request's author names a component is shown to reviewers, never rendered."""
    from tallystick.cli import diff

    old, new = (diff.side(place / "release") for _ in range(2))
    evil = Difference(inputs=("seeds/``` ````\n<img src=x>",), products=(), measurements=())
    comment = diff._markdown(old.index, new.index, evil)
    assert comment.endswith("`````")
    assert comment.index("`````text") < comment.index("<img")


def test_trace_walks_from_a_file_to_the_promotion(place, tally, capsys):
    release = place / "release"
    found = tally("trace", "products/uki.efi", "--release", release)
    assert {"source", "derivation", "component"} <= {node["stage"] for node in found["back"]}
    assert "promotion" not in {node["stage"] for node in found["forward"]}
    tally("promote", release, "--channel", "staging", "--as", "alice")
    for name in ("bob", "carol"):
        tally("approve", "--channel", "staging", "--as", name)
    digest = dict(index.read(release).statements)["sbom"]
    found = tally("trace", digest.hex[:12], "--release", release)
    assert "promotion" in {node["stage"] for node in found["forward"]}
    capsys.readouterr()
    assert _run(["trace", "products/uki.efi", "--release", str(release)]) == 0
    assert "every hash on the way was compared" in capsys.readouterr().out
    assert tally("trace", "0" * 64, "--release", release, code=2)
    assert tally("trace", "x", "--release", place, code=2)
    (release / "seeds/lock.json").write_bytes(b"{ }\n")
    broken = tally("trace", "products/uki.efi", "--release", release, code=5)
    assert broken["error"]["findings"][0]["where"] == "seeds/lock.json"


POLICY = """
schema: tallystick/policy/v1
name: demo
channel: staging
until: UNTIL
releases: [demo]
keys:
  - key: demo/weights/v1
    artifact: weights
supply_chain:
  builders:
    - identity: https://ci.example/builder
      issuer: https://tallystick.local/embedded-dev
      builder_id: https://tallystick.local/builders/ci
  slsa_build_level: 1
  rebuilds:
    threshold: 1
    not_counted: []
  sbom:
    denied: []
    unexplained_files: 0
platforms:
  - platform: qemu-vtpm
    roots: [software-tpm]
    require: {}
freshness:
  max_age_seconds: 300
waivers:
  - requirement: pcr10
    decision: docs/decisions/0010-pcr-10.md
    decided_by: alice@example.org
    until: UNTIL
targets:
  - target: broker
""".replace("UNTIL", (worlds.now() + timedelta(days=300)).strftime("%Y-%m-%dT00:00:00Z"))


def test_a_compiled_policy_is_compiled_again_by_every_approver(place, tally):
    (place / "demo.yaml").write_text(POLICY)
    tally("promote", place / "release", "--channel", "staging", "--as", "alice")
    for name in ("bob", "carol"):
        tally("approve", "--channel", "staging", "--as", name)
    compiled = place / "compiled"
    tally("compile", place / "demo.yaml", "-o", compiled)
    other = tally("promote", compiled, "--channel", "debug", "--as", "bob", code=6)
    assert other["error"]["code"] == "promote.other-channel"
    (compiled / "extra").write_text("x")
    assert tally("promote", compiled, "--channel", "staging", "--as", "bob", code=5)
    (compiled / "extra").unlink()
    tally("promote", compiled, "--channel", "staging", "--as", "bob")
    tally("approve", "--channel", "staging", "--as", "alice")
    live = tally("approve", "--channel", "staging", "--as", "carol")
    assert live["changes"][0]["live"]
    shown = tally("channel", "show", "staging")
    assert sorted(shown["policies"]) == [
        f"demo/{path.relative_to(compiled)}" for path in sorted(compiled.rglob("*")) if path.is_file()
    ]


def test_a_policy_edited_by_hand_is_not_approved(place, tally):
    """Its manifest and its digests are made to fit: only compiling it again tells."""
    import rfc8785

    from tallystick.core.digests import Digest

    (place / "demo.yaml").write_text(POLICY)
    tally("promote", place / "release", "--channel", "staging", "--as", "alice")
    for name in ("bob", "carol"):
        tally("approve", "--channel", "staging", "--as", name)
    compiled = place / "compiled"
    tally("compile", place / "demo.yaml", "-o", compiled)
    (file,) = (compiled / "broker").iterdir()
    document = json.loads(file.read_bytes())
    document["max_age_seconds"] = 299
    file.write_bytes(rfc8785.dumps(document))
    manifest = json.loads((compiled / "compiled.json").read_bytes())
    entry = manifest["targets"]["broker"]["files"][file.name]
    entry |= {"sha256": Digest.of(file.read_bytes()).hex, "size": file.stat().st_size}
    (compiled / "compiled.json").write_text(json.dumps(manifest, indent=2) + "\n")
    tally("promote", compiled, "--channel", "staging", "--as", "bob")
    refused = tally("approve", "--channel", "staging", "--as", "alice", code=6)
    assert {f["code"] for f in refused["error"]["findings"]} == {"release.policy.differs"}
    assert f"policies/demo/broker/{file.name}" in {f["where"] for f in refused["error"]["findings"]}


def test_a_policy_source_that_is_another_one_is_not_approved(place, tally):
    from tallystick.cli.approve import recompiler
    from tallystick.cli.clock import now
    from tallystick.core.errors import Refused

    again = recompiler(now())
    with pytest.raises(Refused, match=r"want policy\.yaml, got no such file"):
        again("demo", {}, None)
    with pytest.raises(Refused, match="want other, got demo"):
        again("other", {"policy.yaml": POLICY.encode()}, None)


def test_revoking_by_component_and_vulnerability_shows_counts_first(place, tally):
    tally("promote", place / "release", "--channel", "staging", "--as", "alice")
    for name in ("bob", "carol"):
        tally("approve", "--channel", "staging", "--as", name)
    common = ("--channel", "staging", "--as", "carol")
    absent = tally("revoke", "--component", "pkg:deb/debian/nothing", "--reason", "x", *common)
    assert (absent["revoked"], absent["affected"]["releases"]) == ([], 0)
    unasked = tally("revoke", "--component", "pkg:deb/debian/libc6", "--reason", "x", *common, code=2)
    assert unasked["error"]["code"] == "revoke.unconfirmed"
    osv = place / "osv.json"
    affected = [{"package": {"ecosystem": "Debian:12", "name": "libc6", "purl": "pkg:deb/debian/libc6"}}]
    osv.write_text(json.dumps({"id": "CVE-2026-9", "affected": affected}))
    tally("sign", osv, "--as", "alice")
    for wrong in (
        ("--cve", "CVE-2026-9"),
        ("--vex", osv),
        ("--component", "x", "--cve", "y", "--vex", osv),
        (),
    ):
        assert tally("revoke", *wrong, *common, "--yes", code=2)["error"]["code"] in (
            "revoke.what",
            "revoke.reason",
        )
    other = tally("revoke", "--cve", "CVE-2026-8", "--vex", osv, *common, "--yes")
    assert other["revoked"] == []
    done = tally("revoke", "--cve", "CVE-2026-9", "--vex", osv, *common, "--yes")
    assert [one["by"] for one in done["revoked"]] == ["carol"]
    counts = done["affected"]
    assert (counts["components"], counts["releases"], counts["measurements"]) == (1, 1, 1)
    assert tally("channel", "show", "staging")["releases"] == []


def test_vulnerabilities_lead_to_images_measurements_and_policies(place, tally):
    release, osv, vex = place / "release", place / "osv.json", place / "vex.json"
    affected = [{"package": {"ecosystem": "Debian:12", "name": "libc6"}}]
    osv.write_text(json.dumps({"id": "CVE-2026-9", "affected": affected}))
    unsigned = tally("vulns", release, "--osv", osv, code=5)
    assert unsigned["error"]["code"] == "release.vulnerabilities.unsigned"
    tally("sign", osv, "--as", "alice")
    said = tally("vulns", release, "--osv", osv)
    (row,) = said["vulnerabilities"]
    assert (said["open"], row["component"], row["status"]) == (1, builds.LIBC.ref, "affected")
    assert row["images"] == ["products/initramfs.cpio.xz", "products/uki.efi"]
    assert (row["measurements"], row["platforms"], row["policies"]) == (1, ["qemu-vtpm"], None)
    document = {
        "@context": "https://openvex.dev/ns/v0.2.0",
        "timestamp": "2026-11-01T00:00:00Z",
        "statements": [
            {
                "vulnerability": {"name": "CVE-2026-9"},
                "products": [{"@id": builds.LIBC.purl}],
                "status": "not_affected",
            }
        ],
    }
    vex.write_text(json.dumps(document))
    tally("sign", vex, "--as", "bob")
    tally("promote", release, "--channel", "staging", "--as", "alice")
    settled = tally("vulns", release, "--osv", osv, "--vex", vex, "--channel", "staging")
    assert (settled["open"], settled["vulnerabilities"][0]["policies"]) == (0, [])
    later = clock.now() + timedelta(days=8)
    old = tally("vulns", release, "--osv", osv, "--at", later.isoformat(), code=6)
    assert old["error"]["code"] == "release.vulnerabilities.age"


def test_vulns_with_nothing_or_garbage_says_what_it_wants(place, tally):
    assert tally("vulns", place / "release", code=2)["error"]["code"] == "vulns.what"
    assert tally("vulns", place, "--osv", place / "none", code=2)["error"]["code"] == "file.missing"
    garbage = place / "garbage.json"
    for content, code in ((b"\xff", 3), (b"{", 3), (b'{"a": 1, "a": 2}', 3), (b"{}", 4), (b"[" * 9999, 3)):
        garbage.write_bytes(content)
        tally("sign", garbage, "--as", "alice", "--replace")
        tally("vulns", place / "release", "--osv", garbage, code=code)


def test_the_online_key_is_exchanged_on_the_command_line(place, tally):
    folder = place / "work/channels/staging"
    fresh = keys.make(place / "fresh", "online")
    (place / "online.pem").write_text(keys.public_pem(fresh.public_key))
    said = tally("channel", "rotate", "staging", "--online", place / "online.pem", "--as", "bob")
    assert not said["live"]
    assert "online-next.key" in said["lacks"]
    (place / "fresh" / keys.KEY_FILE).rename(folder / "online-next.key")
    assert not tally("channel", "rotate", "staging", "--as", "carol")["live"]
    said = tally("channel", "rotate", "staging", "--as", "alice")
    assert (said["live"], said["online_keyids"]) == (True, [fresh.keyid])
    assert not (folder / "online-next.key").exists()
    assert tally("channel", "refresh", "staging")["version"] == 3
    tally("channel", "rotate", "staging", "--online", place / "no.pem", "--as", "bob", code=2)
    (place / "odd.pem").write_text("odd")
    tally("channel", "rotate", "staging", "--online", place / "odd.pem", "--as", "bob", code=3)


def test_an_exchange_that_stopped_before_the_key_had_its_name_is_gone_on_with(place, tally):
    folder = place / "work/channels/staging"
    fresh = keys.make(folder, "online", file="online-next.key")
    (place / "online.pem").write_text(keys.public_pem(fresh.public_key))
    old = (folder / "online.key").read_bytes()
    for arguments in (
        ("--online", place / "online.pem", "--as", "bob"),
        ("--as", "carol"),
        ("--as", "alice"),
    ):
        said = tally("channel", "rotate", "staging", *arguments)
    assert said["live"]
    (folder / "online.key").rename(folder / "online-next.key")
    write_file(folder / "online.key", old, mode=0o600)
    assert tally("channel", "refresh", "staging")["version"] == 3


def lease(number, release, **changes):
    at = worlds.now()
    holds = {
        "id": f"lease-{number}",
        "key": "demo/weights/v1",
        "channel": "staging",
        "policy": "demo",
        "release": release,
        "holder": f"holder-{number}",
        "attestation": f"attestation-{number}",
        "issued_at": at,
        "renewed_at": at,
        "expires_at": at + timedelta(hours=1),
    }
    return Lease(**holds | changes)


def broker_with(workdir, *leases):
    """A broker's store with these leases."""
    home = Home(workdir / "broker")
    home.folder.mkdir(parents=True)
    Store.create(home.store)
    store = Store.open(home.store)
    with store.batch() as batch:
        for one in leases:
            lease_table.add(batch.connection, one)
    store.close()
    return home


def test_live_leases_are_counted_before_a_release_is_revoked(place, tally, capsys):
    tally("promote", place / "release", "--channel", "staging", "--as", "alice")
    for name in ("bob", "carol"):
        tally("approve", "--channel", "staging", "--as", name)
    digest = str(index.read(place / "release").digest)
    past = worlds.now() - timedelta(seconds=1)
    held = [lease(number, digest) for number in range(3)]
    over = [
        lease(7, digest, expires_at=past),
        lease(8, digest, ended_at=past),
        lease(9, "sha256:" + "0" * 64),
    ]
    broker_with(place / "elsewhere", *held, *over)
    home = broker_with(place / "work", lease(1, digest))
    asked = ("revoke", digest, "--channel", "staging", "--as", "carol", "--reason", "x")

    def said(*more):
        capsys.readouterr()
        assert _run([*asked, *more]) == 2  # nobody said --yes
        return capsys.readouterr().err

    assert "-> 0 policies -> 1 live leases" in said()
    assert "-> 3 live leases" in said("--broker", str(place / "elsewhere"))
    both = ("--broker", str(place / "elsewhere"), "--broker", str(place / "work"))
    assert "-> 4 live leases" in said(*both)
    assert "there is no store" in said("--broker", str(place / "none"))
    home.store.write_bytes(b"no store any more")
    assert "leases not counted: no broker here" in (words := said())
    assert "leases not counted: " in words.splitlines()[0]  # and it says why
    assert tally(*asked, *both[:2], "--yes")["affected"]["leases"] == 3

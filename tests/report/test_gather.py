"""What the page shows is gathered from verified records: a signed and promoted release, a broker's answers."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from release import world as worlds
from report import releases, reports
from sbom import builds

from tallystick.broker import opening
from tallystick.broker.clock import Clock
from tallystick.broker.config import Home
from tallystick.broker.decisions import Kind, entry
from tallystick.broker.explaining import Explanation
from tallystick.broker.store import Store
from tallystick.cli import app
from tallystick.cli import report as report_command
from tallystick.core.digests import Digest
from tallystick.core.errors import Exit, NotGenuine
from tallystick.core.expect import Exactly, Waived
from tallystick.core.findings import Finding
from tallystick.measure.records import Measurement, WaivedRegister
from tallystick.policy import document
from tallystick.policy.normal import KeyRule, NormalForm, PermittedRelease, PlatformRule, Residual, Tuple
from tallystick.release import approve, promote
from tallystick.release import channel as channels
from tallystick.release.verify import verify_release
from tallystick.report import gather, registers
from tallystick.report.folder import ReleaseFolder
from tallystick.signing import trust as trust_file

KEY = "confidential-inference/weights/v1"


def promote_release(world, folder):
    """Propose as alice, approve as bob and carol, and return the channel as it then stands."""
    promote.propose_release(
        world.desk(), folder, world.signatories["alice"], world.sign_one("alice"), lambda gate: None
    )
    for name in ("bob", "carol"):
        approve.approve(
            world.desk(), world.signatories[name], lambda: world.online, lambda name, files, verified: files
        )
    return channels.load(world.workdir / "channels/staging", "staging", world.trust, worlds.now())


@pytest.fixture(scope="module")
def promoted(tmp_path_factory):
    """A world whose release is live in staging, with a trust file and a broker that answered twice."""
    folder = tmp_path_factory.mktemp("world")
    world = worlds.make(folder / "work")
    world.release(folder / "release")
    channel = promote_release(world, folder / "release")
    trust_file.save(world.workdir / "trust.json", world.trust)
    home = Home(world.workdir / "broker")
    opening.create(home)
    store = Store.open(home.store)
    ledger = opening.open_ledger(store, Clock(worlds.now(), read=worlds.now))
    digest = str(channel.releases[0].digest)
    finding = Finding("tpm.pcr12.mismatch", "PCR 12", "0" * 64, "1" * 64).document()
    made = [
        entry(Kind.KEY, now=worlds.now(), public={"key": KEY, "action": "generate"}, details={}),
        entry(
            Kind.RELEASE, now=worlds.now(), public={"key": KEY, "release": digest}, details={"findings": []}
        ),
        entry(Kind.REFUSAL, now=worlds.now(), public={"key": KEY}, details={"findings": [finding]}),
    ]
    ledger.submit(made, now=worlds.now()).result()
    ledger.close()
    store.close()
    return world, folder / "release", channel


def test_a_verified_release_shows_signers_and_rebuilders(promoted):
    world, folder, _ = promoted
    verified = verify_release(folder, world.trust, worlds.now())
    view = gather.release(ReleaseFolder.open(folder), verified)
    assert {(one.statement, one.signer) for one in view.signatures} == {
        (name, "https://ci.example/builder") for name in ("index", "measurements", "provenance", "sbom")
    }
    assert [(one.builder_id, one.counts) for one in view.rebuilds] == [(worlds.REBUILD, True)]
    assert (view.rebuilds_needed, view.labels) == (1, ("embedded-dev",))
    assert len(view.links) == 1
    assert [product.name for product in view.products] == ["uki", "initramfs"]
    assert view.build.findings == ()
    assert {one.kind for one in view.build.inputs} == {"file", "tree", "source"}
    parts = {(one.name, one.kind): one for one in view.sbom.components}
    assert parts["libc6", "deb"].products == ("initramfs",)
    assert parts["tallystick-attester", "project"].digest == f"narHash {builds.SOURCE_NAR}"
    assert parts["ovmf", "firmware"].digest == Digest.of(builds.FIRMWARE).hex


def test_another_release_s_verification_is_not_taken(promoted, tmp_path):
    world, folder, _ = promoted
    verified = verify_release(folder, world.trust, worlds.now())
    other = ReleaseFolder.open(
        releases.write(tmp_path, change=lambda f: (f / "recipe.yaml").write_bytes(b"x"))
    )
    with pytest.raises(ValueError, match="is not the release in"):
        gather.release(other, verified)


def test_a_promotion_names_author_approvers_and_gates(promoted):
    _, folder, channel = promoted
    digest = ReleaseFolder.open(folder).index.digest
    view = gather.promotion(channel, digest)
    assert (view.author, view.approvers, view.threshold) == ("alice", (), 2)
    with pytest.raises(ValueError, match="is not in staging"):
        gather.promotion(channel, Digest.of(b"x"))


def form(release):
    waived = Waived(decision="docs/decisions/x.md", decided_by="alice", until=reports.NOW)
    shape = (("ram_mib", 512),)
    image = Tuple(
        platform="qemu-vtpm",
        evidence_kind="tpm-quote",
        image=Digest.of(b"i"),
        firmware=Digest.of(b"f"),
        shape=shape,
        expect=(("pcr04", Exactly("0" * 64)),),
    )
    permitted = PermittedRelease(
        digest=release,
        name="demo",
        version="1",
        promoted_at=reports.NOW,
        vsa=Digest.of(b"v"),
        bundles=(Digest.of(b"b"),),
        labels=("embedded-dev",),
        tuples=(image,),
    )
    return NormalForm(
        policy="confidential-inference",
        policy_digest=Digest.of(b"p"),
        channel="staging",
        keys=(KeyRule(key=KEY, artifact="weights"),),
        releases=(permitted,),
        platforms=(
            PlatformRule(
                platform="qemu-vtpm", evidence_kind="tpm-quote", roots=("software-tpm",), require=()
            ),
        ),
        max_age_seconds=300,
        reattest_seconds=300,
        waivers=(("pcr10", waived),),
        residuals=(Residual(target="trustee", requirement="freshness", waived=waived),),
        not_after=reports.NOW - timedelta(days=1),
    )


def test_a_policy_s_keys_releases_and_waivers_come_from_its_normal_form(monkeypatch):
    made = form(Digest.of(b"release"))
    monkeypatch.setattr(document, "read", lambda data: made)
    view = gather.policy("trustee", b"rego", compiled=b"any", released=1, accepted=1, evaluated=9)
    assert (view.name, view.target, view.keys) == ("confidential-inference", "trustee", (KEY,))
    assert view.digest == Digest.of(b"rego")
    assert view.releases == (Digest.of(b"release"),)
    assert view.waivers == (
        "pcr10: docs/decisions/x.md, decided by alice, until 2026-11-22",
        "freshness, not enforced here: docs/decisions/x.md, decided by alice, until 2026-11-22",
    )
    assert gather.policy("broker", b"x", compiled=b"any").released is None


def test_a_channel_s_policies_are_shown_by_target_and_only_with_their_normal_form(monkeypatch, promoted):
    _, _, channel = promoted
    made = form(Digest.of(b"release"))
    monkeypatch.setattr(document, "read", lambda data: made)
    files = {
        "demo/broker/policy.json": b"compiled",
        "demo/trustee/as_default_cpu.rego": b"rego",
        "demo/trustee/README": b"words",
        "orphan/trustee/as_default_cpu.rego": b"rego without its normal form",
    }
    found = replace(channel, state=replace(channel.state, policies=files))
    assert [(one.target, one.digest) for one in report_command._policies(found)] == [
        ("broker", Digest.of(b"compiled")),
        ("trustee", Digest.of(b"rego")),
    ]


def test_an_explained_decision_keeps_every_reason():
    refused = Finding("tpm.pcr12.mismatch", "PCR 12", "0", "1")
    permitted = form(Digest.of(b"release")).releases[0]
    found = Explanation(
        decision="20261122T173000Z-0",
        kind=Kind.REFUSAL,
        at=reports.NOW,
        said={"key": KEY, "policy": str(Digest.of(b"policy"))},
        findings=(refused,),
        policy="confidential-inference",
        release=None,
        nearest=permitted,
        leaf=7,
        size=9,
        again=True,
        changes=(),
    )
    view = gather.decision(found, changed=["zlib1g: 1 -> 2 (1 file)"])
    assert (view.allowed, view.title, view.log_index) == (False, f"Refusal {KEY}", 7)
    assert (view.release, view.policy) == (permitted.digest, Digest.of(b"policy"))
    assert view.findings == (refused,)
    released = replace(found, kind=Kind.RELEASE, findings=(), release=permitted, said={})
    assert gather.decision(released, "The promoted image").title == "The promoted image"
    assert gather.decision(released).allowed


def test_a_commit_is_called_one():
    assert gather._kind({"gitCommit": "1" * 40}, has_drv=False) == "commit"
    assert gather._waived(Exactly("x")) == "Exactly(value='x')"


def test_registers_are_named_and_waivers_shown_in_their_place():
    one = Measurement(
        platform="qemu-vtpm",
        evidence_kind="tpm-quote",
        image=Digest.of(b"i"),
        firmware=Digest.of(b"f"),
        shape=(("ram_mib", 512),),
        values=(("pcr09", "a" * 64), ("pcr11", "b" * 64)),
        waived=(
            WaivedRegister(
                name="pcr10", decision="docs/decisions/0010-pcr-10.md", decided_by="alice", until=reports.NOW
            ),
        ),
        events=(),
        calculator="x",
    )
    view = gather.measurement(one)
    assert [register.name for register in view.registers] == ["PCR 9", "PCR 10", "PCR 11"]
    assert view.registers[1].waived == "docs/decisions/0010-pcr-10.md, decided by alice, until 2026-11-22"


@pytest.mark.parametrize(
    ("name", "label", "known"),
    [
        ("pcr00", "PCR 0", True),
        ("pcr23", "PCR 23", False),
        ("quote.body.mr_td", "quote.body.mr_td", True),
        ("pcr0", "pcr0", True),
        ("pcrxx", "pcrxx", False),
        ("other", "other", False),
    ],
)
def test_what_registers_stand_for(name, label, known):
    assert registers.label(name) == label
    assert bool(registers.meaning(name)) is known


def run(capsys, *arguments):
    code = app._run(["report", "html", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_command_writes_a_page_of_what_it_was_given(promoted, tmp_path, capsys):
    world, folder, _ = promoted
    out = tmp_path / "chain.html"
    code, said = run(capsys, folder, "-o", out)
    assert (code, said["verified"]) == (0, False)
    assert "no signature was verified for this page" in out.read_text("utf-8")
    everything = ("--workdir", world.workdir, "--channel", "staging", "--decisions")
    code, said = run(capsys, folder, "-o", out, *everything)
    text = out.read_text("utf-8")
    assert (code, said["verified"], said["bytes"]) == (0, True, out.stat().st_size)
    assert "https://ci.example/builder" in text
    assert "Channel staging" in text
    assert "tpm.pcr12.mismatch" in text
    assert text.count('class="decision ') == 2
    assert "Development roots" in text
    assert "The signed checkpoint" in text


def test_the_command_refuses_what_does_not_hold_and_writes_nothing(promoted, tmp_path, capsys):
    world, folder, _ = promoted
    out = tmp_path / "chain.html"
    code, said = run(capsys, folder, "-o", out, "--channel", "staging")
    assert (code, said["error"]["code"]) == (Exit.MISUSE, "report.trust")
    unsigned = releases.write(tmp_path / "unsigned")
    code, said = run(capsys, unsigned, "-o", out, "--workdir", world.workdir)
    assert (code, said["error"]["exit"]) == (Exit.NOT_GENUINE, Exit.NOT_GENUINE)
    (unsigned / "products/uki.efi").write_bytes(b"MZ")
    code, said = run(capsys, unsigned, "-o", out)
    assert said["error"]["findings"][0]["where"] == "products/uki.efi"
    assert not out.exists()


def test_a_folder_s_files_are_what_the_index_says_or_not_read(tmp_path):
    folder = ReleaseFolder.open(releases.write(tmp_path))
    with pytest.raises(NotGenuine, match="a file that the index names"):
        folder.read("bundles/sbom.sigstore.json")
    assert list(folder.beside("bundles")) == []
    assert folder.read("recipe.yaml") == folder.read("recipe.yaml") == builds.RECIPE
    (tmp_path / "firmware/ovmf.fd").write_bytes(b"other")
    with pytest.raises(NotGenuine, match=r"firmware/ovmf\.fd: want sha256:"):
        folder.digest("firmware/ovmf.fd")

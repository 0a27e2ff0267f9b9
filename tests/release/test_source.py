"""The Source VSA: who vouched for the commit is its author, and does not approve the release of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from release import world as worlds
from release.channels import person
from release.made import signatory
from release.test_promotion import approve_as, load, same
from release.test_rules import ran
from report import releases
from sbom import builds

from tallystick.core.errors import NotGenuine, Refused
from tallystick.formats import vsa
from tallystick.formats.slsa import Resource
from tallystick.provenance import make as provenance
from tallystick.release import approvals, approve, changes, names, promote, rotate, source
from tallystick.release.records import Rules
from tallystick.signing.sigstore import embedded

COMMIT = "a" * 40


def with_commit(folder):
    """The world's release again, from a commit."""
    build = replace(builds.make().build, sources=((builds.SOURCE, builds.SOURCE_NAR),))
    made = provenance.statement(
        build,
        builder_id=worlds.CI,
        source=provenance.Source(uri="git+https://example.org/repo", commit=COMMIT),
    )
    (folder / "statements/provenance.json").write_bytes(made)


def vouched(
    w, who="bob", *, commit=COMMIT, result=vsa.PASSED, level=2, repository="git+https://example.org/repo"
):
    summary = vsa.Summary(
        verifier_id="https://example.org/source",
        resource_uri=repository,
        policy=Resource(uri="https://example.org/policy", digests=(("sha256", "0" * 64),)),
        result=result,
        levels=(f"SLSA_SOURCE_LEVEL_{level}",),
        time_verified=worlds.now(),
    )
    payload = vsa.make([("git", {"gitCommit": commit})], summary)
    with embedded(w.workdir, who, worlds.now()) as signer:
        return signer.source_statement(payload)


@pytest.fixture
def committed(world, tmp_path):
    w, _ = world
    folder = tmp_path / "committed"
    w.release(folder, change=with_commit)
    return w, folder


def propose(w, folder, data):
    return promote.propose_release(
        w.desk(), folder, w.signatories["alice"], w.sign_one("alice"), source_vsa=data
    )


def test_a_source_vsa_is_written_on_the_command_line_and_taken(committed, tmp_path, capsys):
    w, folder = committed
    policy, out = tmp_path / "policy.md", tmp_path / "source.json"
    policy.write_text("two people look at every change")
    common = [
        "--policy",
        str(policy),
        "--policy-uri",
        "https://example.org/p",
        "--verifier",
        "https://example.org/v",
    ]
    where = ["--repository", "git+https://example.org/repo", "--ref", "refs/heads/main", "-o", str(out)]
    arguments = ["provenance", "source-vsa", *where, *common, "--level", "2", "--commit"]
    assert releases.tally(capsys, *arguments, "abc")[1]["error"]["code"] == "provenance.commit"
    code, said = releases.tally(capsys, *arguments, COMMIT)
    assert (code, said["level"]) == (0, 2)
    statement = json.loads(out.read_bytes())
    assert statement["subject"][0]["annotations"] == {"sourceRefs": ["refs/heads/main"]}
    with embedded(w.workdir, "alice", worlds.now()) as signer:
        propose(w, folder, signer.source_statement(out.read_bytes()))


def test_a_commit_of_another_repository_is_not_vouched_for(committed):
    w, folder = committed
    with pytest.raises(NotGenuine) as caught:
        propose(w, folder, vouched(w, repository="git+https://example.org/fork"))
    assert "release.source.repository" in [one.code for one in caught.value.findings]


def test_the_author_of_the_commit_does_not_approve(committed):
    w, folder = committed
    propose(w, folder, vouched(w, "alice"))  # alice vouched and proposes; bob and carol approve
    approve_as(w, "bob")
    approve_as(w, "carol")
    (release,) = load(w).releases
    assert release.source.signer == w.identity("alice")
    assert (folder / names.SOURCE_VSA).is_file()


def test_who_vouched_is_refused_as_an_approver_by_name(committed):
    w, folder = committed
    propose(w, folder, vouched(w, "bob"))
    with pytest.raises(Refused) as caught:
        approve_as(w, "bob")
    assert caught.value.code == "release.approve.author"
    approve_as(w, "carol")
    assert load(w).releases == ()


def test_clients_do_not_count_the_author_either(committed, monkeypatch):
    w, folder = committed
    propose(w, folder, vouched(w, "bob"))
    monkeypatch.setattr(source, "is_author", lambda person, release: False)  # bob's own program does not look
    for name in ("bob", "carol"):
        approve.approve(w.desk(), w.signatories[name], lambda: w.online, same)
    monkeypatch.undo()
    with pytest.raises(NotGenuine) as caught:
        load(w)
    assert caught.value.code == "release.channel.approvals"


def releases_again(w, edit=lambda entry: None, signers=("bob", "carol")):
    """A later version of the role, in which ``edit`` changed the entry of the one release."""
    desk = w.desk()
    state = desk.state()
    document = changes.propose(
        state,
        "releases",
        w.signatories["alice"],
        kind="release",
        summary="something later",
        add=[],
        remove=[],
        now=worlds.now(),
        lifetimes=desk.lifetimes,
    )
    listed = document.signed.targets
    path = next(path for path in listed if path.endswith("index.json"))
    edit(listed[path].unrecognized_fields["custom"])
    document.signatures.clear()
    document.sign(w.signatories["alice"].signer)
    for name in signers:
        document = changes.cosign(state, "releases", document, w.signatories[name])
    desk.folder.publish(
        changes.publication(
            state, {"releases": document}, w.online, now=worlds.now(), lifetimes=desk.lifetimes
        )
    )


def refused(w):
    with pytest.raises(NotGenuine) as caught:
        load(w)
    return caught.value.code


def live(w, folder, vouching="bob"):
    propose(w, folder, vouched(w, vouching))
    for name in ("bob", "carol"):
        approve.approve(w.desk(), w.signatories[name], lambda: w.online, same)


def test_a_later_change_does_not_make_the_authors_approval_count(committed, monkeypatch):
    w, folder = committed
    monkeypatch.setattr(source, "is_author", lambda person, release: False)
    live(w, folder)
    monkeypatch.undo()
    releases_again(w)
    assert refused(w) == "release.channel.approvals"


def test_an_approval_lasts_as_long_as_the_release_is_listed(committed):
    w, folder = committed
    live(w, folder, vouching="alice")
    releases_again(w)
    (release,) = load(w).releases
    fresh = signatory("bob")
    people = [replace(person(fresh), identity=w.identity("bob"))]
    people += [one for one in w.desk().state().people if one.name != "bob"]
    rotate.propose(
        w.desk(), sorted(people, key=lambda one: one.name), w.signatories["alice"], lambda keyids: w.online
    )
    for who in (w.signatories["carol"], fresh):
        rotate.approve(w.desk(), who, lambda keyids: w.online)
    assert w.desk().state().root.signed.version == 2  # bob's key of then is no key of the channel any more
    assert load(w).releases == (release,)


@pytest.mark.parametrize(
    "said",
    [
        None,
        {},
        {"releases": 2},
        {"releases": 2, "targets": True},
        {"releases": "2", "targets": 1},
        {"releases": 1, "targets": 1},
        {"releases": 9, "targets": 1},
        {"releases": 2, "targets": 9},
    ],
)
def test_a_release_says_truly_which_change_brought_it(committed, said):
    w, folder = committed
    live(w, folder, vouching="alice")
    releases_again(w, lambda custom: custom.update(since=said))
    assert refused(w) == "release.channel.since"


@pytest.mark.parametrize("file", ["2.releases.json", "1.targets.json"])
def test_who_approved_is_looked_up_in_what_people_signed(committed, file):
    w, folder = committed
    live(w, folder, vouching="alice")
    releases_again(w)
    place = w.workdir / "channels/staging/metadata" / file
    document = json.loads(place.read_bytes())
    document["signatures"] = document["signatures"][:1]
    place.write_text(json.dumps(document))
    assert refused(w) == ("release.channel.signature" if "releases" in file else "release.channel.changed")
    place.unlink()
    assert refused(w) == ("release.channel.since" if "releases" in file else "release.channel.missing")


def test_an_approver_refuses_an_entry_that_names_another_change(committed, monkeypatch):
    w, folder = committed
    monkeypatch.setattr(approvals, "since", lambda state: {"releases": 1, "targets": 1})
    propose(w, folder, vouched(w, "alice"))
    monkeypatch.undo()
    with pytest.raises(NotGenuine) as caught:
        approve_as(w, "bob")
    assert caught.value.code == "release.channel.since"


def test_a_source_vsa_of_something_else_is_refused(committed):
    w, folder = committed
    for changed, code in (
        ({"commit": "b" * 40}, "release.source.commit"),
        ({"result": vsa.FAILED}, "release.source.result"),
        ({"who": "rebuilder"}, "bundle.identity"),
    ):
        failed = ran(w, folder, Rules(), source_vsa=vouched(w, **changed))
        assert failed["source"] == [code]


def test_a_channel_asks_for_a_source_level(committed, world):
    w, folder = committed
    asks = Rules(slsa_source_level=3)
    assert ran(w, folder, asks)["source"] == ["release.source.missing"]
    assert ran(w, folder, asks, source_vsa=vouched(w))["source"] == ["release.source.level"]
    assert ran(w, folder, asks, source_vsa=vouched(w, level=3)) == {}
    plain = world[1]  # its provenance names no commit
    assert ran(w, plain, Rules(), source_vsa=vouched(w))["source"] == ["release.source.commit"]
    assert changes.NO_RULES.slsa_source_level is None

"""The Source VSA: who vouched for the commit is its author, and does not approve the release of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from release import world as worlds
from release.test_promotion import approve_as, load, same
from release.test_rules import ran
from sbom import builds

from tallystick.core.errors import NotGenuine, Refused
from tallystick.formats import vsa
from tallystick.formats.slsa import Resource
from tallystick.provenance import make as provenance
from tallystick.release import approve, changes, names, promote, source
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


def vouched(w, who="bob", *, commit=COMMIT, result=vsa.PASSED, level=2):
    summary = vsa.Summary(
        verifier_id="https://example.org/source",
        resource_uri="git+https://example.org/repo",
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

"""The release managers' page: all of it is there, nothing can be injected, and what was not verified is not shown."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from broker.world import NOW, WEIGHTS, Machine, new_world
from report import boards, releases
from report.test_page import Reader
from sbom import builds

from tallystick.cli import board as composing
from tallystick.core.findings import Finding
from tallystick.handshake.jwe import TeeKeyPair
from tallystick.report import board, board_gather, shell


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return boards.full(releases.write(tmp_path_factory.mktemp("release")))


@pytest.fixture(scope="module")
def read(full):
    return Reader(board.render(full).decode())


def test_every_part_is_there_and_reachable(full, read):
    anchors = {attributes.get("id") for _, attributes in read.elements}
    links = [attributes["href"] for tag, attributes in read.elements if tag == "a"]
    assert {"now", "channel", "releases", "leases", "refusals", "log", "ends"} <= anchors
    assert {link.removeprefix("#") for link in links} <= anchors
    text = read.text
    for said in (
        "2 keys go to 2 releases, and to nothing else.",
        "amd-sev-snp (24 shapes)",
        "pcr10: docs/decisions/0010-pcr-10.md, decided by alice",
        "1 of 2 approvals",
        "CVE-2026-0001",
        "Since confidential-inference 0.1.0",
        "rfc8785: 0.1.3 -> 0.1.4 (4 files)",
        "1,200 more hold",
        "draining",
        "An image built from a changed dependency",
        "14 earlier ones are in the log",
        full.log.root,
        "6 d 3 h",
        "ended",
        "nothing of channel staging is released",
    ):
        assert said in text, said
    for release in full.releases:
        assert str(release.digest) in text
        assert all(stage.said in text for stage in release.chain)


def test_the_first_line_says_when_nobody_gets_a_key(full):
    nobody = replace(full, keys=tuple(replace(key, runs=()) for key in full.keys))
    assert "Nobody gets a key now." in Reader(board.render(nobody).decode()).text


def test_what_did_not_verify_is_said_first_and_injects_nothing():
    made = board.render(boards.broken()).decode()
    assert "<script" not in made
    text = Reader(made).text
    assert text.index("release.channel.expired") < text.index("What may run now, and why")
    assert "no broker was given for this page" in text


def test_one_style_by_its_hash_and_nothing_else(full):
    made = board.render(full).decode()
    assert shell.policy().replace("'", "&#x27;") in made or shell.policy() in made
    assert "default-src 'none'" in shell.policy()
    tags = {tag for tag, _ in Reader(made).elements}
    assert tags.isdisjoint({"script", "img", "iframe", "form", "input", "object", "embed"})
    assert not any(name.startswith("on") or name == "style" for _, a in Reader(made).elements for name in a)


def test_the_same_board_gives_the_same_bytes(full):
    assert board.render(full) == board.render(full)


# From a real channel and a real broker.
@pytest.fixture
def refusing(tmp_path):
    """A broker that gave one key away and refused another image."""
    world = new_world(tmp_path)
    with world.running() as running:
        for image in ("a", "b"):
            cookie, _ = running.attest(Machine(image=image), TeeKeyPair.make())
            running.fetch(cookie)
    return world


def _sources(world, **changes):
    from broker.world import trust

    given = {"channel": "staging", "folder": world.channel.folder.path, "trust": trust(world.channel)}
    return composing.Sources(**{**given, "home": world.home, **changes})


def test_a_brokers_keys_leases_refusals_and_log(refusing):
    made = composing.board(_sources(refusing), NOW)
    assert [(one.key, len(one.runs)) for one in made.keys][-1] == (WEIGHTS, 1)
    assert (made.released, made.refused, len(made.leases)) == (1, 1, 1)
    (refusal,) = made.refusals
    assert refusal.changed[0].startswith("PCR ")
    assert refusal.flips
    assert refusal.steps == ("boot the release that is promoted, or promote the one that runs",)
    proof = json.loads(refusal.proof)
    assert proof["decision"] == refusal.decision
    assert made.log.size == proof["size"]
    assert {one.kind for one in made.ends} >= {"channel", "approval", "policy"}
    (lease,) = made.leases
    assert [one.kind for one in made.ends if lease.lease in one.stops] == ["evidence"]
    assert made.state.waiting == ()
    # this channel's releases are no real ones: nothing of them is shown, and the page says why
    assert [one.part for one in made.troubles] == ["releases"]
    board.render(made)


def test_refusals_are_explained_once_and_the_newest_come_first(refusing, monkeypatch):
    sources = _sources(refusing)
    (first,) = composing.board(sources, NOW).refusals
    with refusing.running() as running:
        cookie, _ = running.attest(Machine(image="c"), TeeKeyPair.make())
        running.fetch(cookie)
    explained = []
    real = composing._refusal
    monkeypatch.setattr(
        composing, "_refusal", lambda home, name, known: explained.append(name) or real(home, name, known)
    )
    made = composing.board(sources, NOW)
    assert [one.decision for one in made.refusals] == [*explained, first.decision]
    assert len(explained) == 1
    monkeypatch.setattr(composing, "_REFUSALS", 1)
    assert [one.decision for one in composing.board(sources, NOW).refusals] == explained


def test_a_channel_that_does_not_verify_shows_nothing_of_it(refusing):
    metadata = refusing.channel.folder.path / "metadata"
    (metadata / "timestamp.json").write_text("{}")
    made = composing.board(_sources(refusing), NOW)
    assert made.keys == made.releases == ()
    assert made.state is None
    assert [one.part for one in made.troubles] == ["channel"]
    assert made.refused == 1  # the log is the broker's own


def test_a_log_that_was_touched_shows_nothing_of_it(refusing):
    refusing.home.log_key.write_text("no key")
    made = composing.board(_sources(refusing), NOW)
    assert "broker" in {one.part for one in made.troubles}
    assert made.log is None
    assert made.refusals == ()


def test_without_a_broker_nothing_is_said_of_one(refusing):
    made = composing.board(_sources(refusing, home=None), NOW)
    assert "no broker was given for this page" in Reader(board.render(made).decode()).text


def _files(number):
    """The build's files, the last of them another one in each release."""
    *rest, (name, data, mode, component) = builds.FILES
    return (*rest, (name, data + b"%d" % number, mode, component))


def test_releases_with_their_chain_and_what_is_new(tmp_path):
    """Two real releases, signed, rebuilt and promoted; a third waits."""
    from release import world as worlds
    from release.test_promotion import promoted, propose

    made = worlds.make(tmp_path / "work")
    for number in range(3):
        folder = tmp_path / f"release{number}"
        made.release(folder, files=_files(number))
        if number < 2:
            promoted(made, folder)
        else:
            propose(made, folder)
    place = made.workdir / "channels/staging"
    page = composing.board(composing.Sources(channel="staging", folder=place, trust=made.trust), worlds.now())
    assert page.troubles == ()
    newest, first = page.releases
    assert newest.before.endswith(str(first.digest))
    assert first.before == ""
    assert any("uki" in line for line in newest.changes)
    assert newest.chain[0].name == "Source"
    assert all(stage.digest is not None for stage in newest.chain)
    assert newest.promotion.author == "alice"
    (waiting,) = page.state.waiting
    assert (waiting.author, waiting.missing) == ("alice", 2)
    assert [one.missing for one in page.state.last] == [0]
    assert str(newest.digest) in Reader(board.render(page).decode()).text
    _a_refused_machine_that_runs_a_known_release(made, place)


def _a_refused_machine_that_runs_a_known_release(made, place):
    """The newer release runs where the older one is wanted: the components that differ are named."""
    from release import world as worlds

    from tallystick.release import channel

    known = channel.load(place, "staging", made.trust, worlds.now()).releases
    older, newer = sorted(known, key=lambda one: one.vsa.signed_at)
    got = dict(newer.measurements[0].values)["pcr04"]
    finding = Finding("tpm.pcr04.mismatch", "PCR 4", "another", got)
    explanation = SimpleNamespace(findings=(finding,), nearest=older)
    running, *components = board_gather._changed(explanation, known)
    assert running == f"it runs {newer.index.name} {newer.index.version} {newer.digest}"
    assert any("cbor2" in line for line in components)
    other = SimpleNamespace(findings=(replace(finding, got="0" * 64),), nearest=older)
    assert board_gather._changed(other, known) == ("PCR 4: The image itself, as the firmware loaded it",)

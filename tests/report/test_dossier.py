"""The compliance dossier: every line resolves to a digest, and one byte less turns it red."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from broker.world import NOW, Machine, compiled, form, new_world
from hypothesis import given
from hypothesis import strategies as st
from release import world as worlds
from release.test_promotion import promoted
from report.test_page import Reader

from tallystick.cli import app, compliance
from tallystick.core.digests import Digest
from tallystick.core.errors import TallystickError
from tallystick.handshake.jwe import TeeKeyPair
from tallystick.report import dossier, dossier_page
from tallystick.report.dossier import Item
from tallystick.signing import trust as trust_file

CHANNEL = "staging"


def item(kind, data=b"x", where=""):
    return Item(kind=kind, what=kind, digest=Digest.of(data), where=where or f"channel:{kind}")


def made(items):
    return dossier.make(items, channel=CHANNEL, made_at=NOW, made_by="a test")


EVERYTHING = [item(kind) for kind in dossier.KINDS]
LINES = [(one.id, line) for one in made(EVERYTHING).frameworks for line in one.lines]


# The catalogue.
def test_the_catalogue_is_of_six_frameworks_and_names_known_kinds_alone():
    assert [one.id for one in made([]).frameworks] == ["gdpr", "hipaa", "pci", "iso27001", "soc2", "smals"]
    kinds = {kind for one in dossier._catalogue()["framework"] for line in one["lines"] for kind in line[3]}
    assert kinds <= set(dossier.KINDS)
    clauses = [(framework, line.clause) for framework, line in LINES]
    assert len(clauses) == len(set(clauses)) >= 60


@pytest.mark.parametrize(("framework", "line"), LINES, ids=lambda one: getattr(one, "clause", one))
def test_every_line_rests_on_evidence_and_says_what_is_left(framework, line):
    assert line.evidence
    assert line.evidenced
    assert line.how
    assert line.left


@pytest.mark.parametrize("kind", [kind for kind in dossier.KINDS if kind != "revocation"])
def test_taking_a_kind_of_evidence_away_turns_its_lines_red(kind):
    rest = made([one for one in EVERYTHING if one.kind != kind])
    red = {(one.id, line.clause) for one in rest.frameworks for line in one.lines if not line.evidenced}
    resting = {
        (framework, line.clause)
        for framework, line in LINES
        if any(name.startswith(f"{kind}:") for name in line.evidence)
    }
    assert red == resting != set()


def test_without_any_evidence_every_line_is_red():
    assert not any(line.evidenced for one in made([]).frameworks for line in one.lines)
    assert "incomplete" in Reader(dossier_page.render(made([])).decode()).text


# The check.
def _checked(document, places):
    return {one.code for one in dossier.check(json.dumps(document).encode(), places.get, channel=CHANNEL)}


PLACES = {one.where: b"x" for one in EVERYTHING}
WHOLE = [one for one in EVERYTHING if one.kind != "log-head"]


def test_what_holds_holds_and_each_change_is_seen():
    document = made(WHOLE).document()
    assert _checked(document, PLACES) == set()
    assert _checked(document, {**PLACES, "channel:sbom": b"y"}) == {"dossier.evidence"}
    assert _checked(document, {k: v for k, v in PLACES.items() if k != "channel:sbom"}) == {
        "dossier.evidence"
    }
    document["frameworks"][0]["lines"][0]["how"] = "is perfect"
    assert _checked(document, PLACES) == {"dossier.altered"}


def test_a_dossier_of_another_channel_is_none_of_this_one():
    document = {**made(WHOLE).document(), "channel": "production"}
    assert _checked(document, PLACES) == {"dossier.channel"}


def test_a_line_can_not_be_painted_green():
    document = made([one for one in WHOLE if one.kind != "sbom"]).document()
    for one in document["frameworks"]:
        for line in one["lines"]:
            line.update(evidenced=True, missing=[])
    assert _checked(document, PLACES) == {"dossier.altered"}


def test_what_is_not_covered_can_not_be_left_out():
    assert _checked({**made(WHOLE).document(), "not_covered": []}, PLACES) == {"dossier.altered"}


DAMAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


DECIDED = sorted({*made([]).document()} - {"made_at", "made_by", "notes"})


@given(name=st.sampled_from(DECIDED), value=DAMAGE)
def test_no_document_ends_in_a_traceback(name, value):
    document = {**made(WHOLE).document(), name: value}
    try:
        found = _checked(document, PLACES)
    except TallystickError:
        return
    assert found or value == made(WHOLE).document()[name]


@given(st.binary(max_size=60))
def test_no_bytes_end_in_a_traceback(data):
    with pytest.raises(TallystickError):
        list(dossier.check(data, PLACES.get, channel=CHANNEL))


# From a real channel with a real release, and a real broker's log.
@pytest.fixture(scope="module")
def organisation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("organisation")
    world = worlds.make(folder / "work")
    world.release(folder / "release")
    promoted(world, folder / "release")
    place = world.workdir / "channels" / CHANNEL
    _policy(world, place)
    broker = new_world(folder / "other")
    with broker.running() as running:
        for image in ("a", "b"):
            cookie, _ = running.attest(Machine(image=image), TeeKeyPair.make())
            running.fetch(cookie)
    shutil.copytree(broker.home.folder, world.workdir / "broker")
    trust_file.save(world.workdir / "trust.json", world.trust)
    return world.workdir


def _policy(world, place):
    """Put a policy in force, signed by three people."""
    from release.channels import Made

    channel = Made(
        folder=worlds.Folder(place),
        root=dict(world.trust.channels)[CHANNEL],
        name=CHANNEL,
        people=world.signatories,
        online=world.online,
    )
    added = compiled(form())
    source = replace(added, path="policies/confidential-inference/policy.yaml", data=b"schema: x\n")
    channel.change("alice", ["bob", "carol"], [added, source], now=worlds.now())


def _tally(capsys, *arguments):
    code = app._run([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_command_writes_a_dossier_that_holds_and_sees_one_flipped_byte(organisation, tmp_path, capsys):
    asked = ("report", "compliance", "--workdir", organisation, "--channel", CHANNEL)
    code, said = _tally(capsys, *asked, "-o", tmp_path)
    assert code == 0, said
    on_keys = [f"{name} {line.clause}" for name, line in LINES if "key-custody" in str(line.evidence)]
    assert said["lacking"] == on_keys  # this broker's keys were made behind its log's back
    given = ("broker", "key", "generate", "team/app/v1", "--channel", CHANNEL, "--workdir", organisation)
    assert _tally(capsys, *given)[0] == 0
    code, said = _tally(capsys, *asked, "-o", tmp_path)
    assert (code, said["lacking"]) == (0, [])
    assert said["evidenced"] == said["clauses"] == len(LINES)
    assert _tally(capsys, *asked, "--check", tmp_path / "dossier.json")[0] == 0
    text = Reader((tmp_path / "dossier.html").read_text()).text
    assert text.index("What attestation does not cover") < text.index("164.312(d)")
    document = json.loads((tmp_path / "dossier.json").read_text())
    places = compliance.Places(
        channel=CHANNEL,
        folder=organisation / "channels" / CHANNEL,
        trust=organisation / "trust.json",
        home=compliance_home(organisation),
    )
    ids = {one["id"] for one in document["evidence"]}
    for framework in document["frameworks"]:
        for line in framework["lines"]:
            assert set(line["evidence"]) <= ids
    assert all(places.read(one["where"]) for one in document["evidence"])
    (sbom,) = (one["where"] for one in document["evidence"] if one["kind"] == "sbom")
    damaged = shutil.copytree(organisation / "channels" / CHANNEL, tmp_path / "channel")
    path = damaged / sbom.removeprefix("channel:")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    code, said = _tally(capsys, *asked, "--channel-dir", damaged, "--check", tmp_path / "dossier.json")
    assert code == 5
    assert [one["where"] for one in said["error"]["findings"]] == [sbom]


def compliance_home(workdir):
    from tallystick.cli.broker_home import broker_home

    return broker_home(workdir)


def test_a_release_that_does_not_verify_makes_no_dossier(organisation, tmp_path, capsys):
    damaged = shutil.copytree(organisation / "channels" / CHANNEL, tmp_path / "channel")
    for path in damaged.glob("targets/releases/*/bundles/*provenance*"):
        path.write_bytes(b"{}")
    asked = ("report", "compliance", "--workdir", organisation, "--channel", CHANNEL)
    code, _ = _tally(capsys, *asked, "--channel-dir", damaged, "-o", tmp_path / "out")
    assert code == 5
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "where",
    ["channel:../../etc/passwd", "channel:/etc/passwd", "channel:", "trust:x", "log:leaf/999", "log:leaf/x",
     "log:head/999", "log:", "other:x", ""],
)  # fmt: skip
def test_places_lead_nowhere_else(organisation, where):
    places = compliance.Places(
        channel=CHANNEL,
        folder=organisation / "channels" / CHANNEL,
        trust=organisation / "trust.json",
        home=compliance_home(organisation),
    )
    assert places.read(where) is None


@pytest.mark.parametrize("more", [[], ["-o", "x", "--check", "y"]])
def test_one_thing_at_a_time(organisation, more, capsys):
    assert (
        _tally(capsys, "report", "compliance", "--workdir", organisation, "--channel", CHANNEL, *more)[0] == 2
    )

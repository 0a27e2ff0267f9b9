"""``tally whatif``: recorded evidence under a new policy, as of its time, and what can not be replayed."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from broker.records import NOW, TOKENIZER, WEIGHTS, Book, form, load, machine
from broker.world import release
from hypothesis import given
from hypothesis import strategies as st

from tallystick.broker import casebook, evidence_record, whatif
from tallystick.broker.whatif import Change
from tallystick.cli.app import _run
from tallystick.core.errors import Exit, TallystickError
from tallystick.core.expect import Exactly
from tallystick.policy import document


def replayed(book: Book, policy) -> whatif.Report:
    found = load(policy)
    return whatif.replay(book, found.data, policy)


@pytest.fixture(scope="module")
def book():
    """Three machines under a policy for release "a": one of "a", one of "b", and one whose bytes nobody knows."""
    made = Book()
    policy = form(release("a"))
    for number, image in enumerate(("a", "b", "unknown")):
        at = NOW - timedelta(days=30 * (number + 1))
        made.decide(made.attest(machine(at, image), at, f"attestation-{image}"), policy)
    return made


def test_the_same_policy_changes_nothing(book):
    report = replayed(book, form(release("a")))
    assert [one.change for one in report.replayed] == [Change.UNCHANGED] * 3
    assert [one.allowed for one in report.replayed] == [True, False, False]


def test_a_policy_for_another_release_allows_and_denies_as_of_the_time_of_each(book):
    """The attestation keys' certificates ran out a month ago and more: today none of this evidence would hold."""
    report = replayed(book, form(release("b")))
    (allowed,), (denied,) = report.of(Change.ALLOWED), report.of(Change.DENIED)
    assert (allowed.release, allowed.at) == (str(release("b").digest), NOW - timedelta(days=60))
    assert "tpm.pcr04.mismatch" in {finding.code for finding in denied.findings}
    assert denied.release == str(release("a").digest)


def test_a_stricter_age_denies(book):
    report = replayed(book, form(release("a"), max_age_seconds=1))
    (denied,) = report.of(Change.DENIED)
    assert [finding.code for finding in denied.findings] == ["evidence.stale"]


def test_a_key_that_the_new_policy_does_not_name_is_denied_and_other_policies_are_counted():
    made = Book()
    made.decide(made.attest(machine(NOW), NOW, "one"), form(release("a")))
    dropped = form(release("a"), keys=form().keys[:1])
    assert dropped.keys[0].key == TOKENIZER
    (denied,) = replayed(made, dropped).of(Change.DENIED)
    assert [finding.code for finding in denied.findings] == ["key.unnamed"]
    other = replayed(made, replace(dropped, policy="another"))
    assert (other.replayed, other.elsewhere) == ((), 1)


def test_what_can_not_be_replayed_is_named_with_its_reason(book):
    made = Book(
        kept=list(book.kept),
        evidences=dict(book.evidences),
        policies=dict(book.policies),
        backings=dict(book.backings),
    )
    del made.evidences["attestation-a"]
    other = made.evidences["attestation-b"]
    made.evidences["attestation-b"] = replace(
        other, at=other.at + timedelta(days=1)
    )  # its key had expired by then
    report = replayed(made, form(release("a")))
    codes = [[f.code for f in one.findings] for one in report.of(Change.NOT_REPLAYABLE)]
    assert codes[0] == ["evidence.not-kept"]
    assert any("expired" in code for code in codes[1])
    assert len(report.of(Change.UNCHANGED)) == 1


def test_a_record_that_the_evaluator_no_longer_agrees_with_is_no_ground_for_a_prediction(book):
    made = Book(
        kept=[{**book.kept[0], "kind": "refusal", "codes": ["tpm.pcr04.mismatch"]}],
        evidences=book.evidences,
        policies=book.policies,
        backings=book.backings,
    )
    (one,) = replayed(made, form(release("b"))).replayed
    assert (one.change, one.findings[0].code) == (Change.NOT_REPLAYABLE, "whatif.decides-otherwise")
    made = Book(kept=book.kept[:1], evidences=book.evidences, backings=book.backings)
    (one,) = replayed(made, form(release("b"))).replayed
    assert one.findings[0].code == "policy.record"
    broken = {name: value for name, value in book.kept[1].items() if name != "channel"}
    made = Book(kept=[broken], evidences=book.evidences, policies=book.policies, backings=book.backings)
    (one,) = replayed(made, form(release("b"))).replayed
    assert one.findings[0].code == "whatif.no-channel"


def test_a_requirement_that_the_old_records_never_met_denies_and_a_refusal_that_stays_is_unchanged(book):
    asked = replace(form().platforms[0], require=(("reset_count", Exactly(99)),))
    report = replayed(book, form(release("a"), platforms=(asked,)))
    assert len(report.of(Change.DENIED)) == 1
    assert [one.allowed for one in report.of(Change.UNCHANGED)] == [False, False]


# The folder and the command


@pytest.fixture(scope="module")
def folder(book, tmp_path_factory):
    place = tmp_path_factory.mktemp("cases") / "export"
    assert casebook.export(book, place) == (3, 0)
    return place


def test_a_folder_replays_like_what_it_was_written_from(book, folder):
    policy = form(release("b"))
    from_folder = whatif.replay(casebook.FolderCasebook(folder), load(policy).data, policy)
    key = lambda one: (one.decision, one.change, one.findings)  # noqa: E731
    assert sorted(map(key, from_folder.replayed), key=str) == sorted(
        map(key, replayed(book, policy).replayed), key=str
    )


def test_the_folder_is_private_and_its_files_are_held_to_their_names(folder, tmp_path):
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*.json")} == {0o600}
    import shutil

    shutil.copytree(folder, tmp_path / "copy")
    for path in (tmp_path / "copy" / "backings").iterdir():
        path.write_bytes(path.read_bytes().replace(b'"files":[]', b'"files":["AA=="]'))
    policy = form(release("a"))
    report = whatif.replay(casebook.FolderCasebook(tmp_path / "copy"), load(policy).data, policy)
    assert {one.findings[0].code for one in report.replayed} == {"evidence.backing"}


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = _run(["whatif", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def policies(tmp_path):
    for image in ("a", "b"):
        (tmp_path / f"{image}.json").write_bytes(document.write(form(release(image))))
    return tmp_path


def test_the_command_wants_a_yes_for_what_is_newly_allowed(folder, policies, capsys):
    code, out, _ = run(capsys, policies / "a.json", "--evidence", folder)
    assert (code, "unchanged: 3 (1 allowed, 2 refused)" in out) == (Exit.OK, True)
    code, out, err = run(capsys, policies / "b.json", "--evidence", folder)
    assert (code, "newly allowed: 1" in out, "[whatif.newly-allowed]" in err) == (Exit.REFUSED, True, True)
    code, out, _ = run(capsys, policies / "b.json", "--evidence", folder, "--yes")
    assert (code, "newly denied: 1" in out) == (Exit.OK, True)


def test_the_command_prints_one_document(folder, policies, capsys):
    code, out, _ = run(capsys, policies / "b.json", "--evidence", folder, "--yes", "--json")
    said = json.loads(out)
    assert code == Exit.OK
    assert [one["key"] for one in said["newly_allowed"]] == [WEIGHTS]
    assert said["newly_denied"][0]["findings"][0]["code"].startswith("tpm.")
    assert said["unchanged"] == {"allowed": 0, "refused": 1}
    code, out, _ = run(capsys, policies / "b.json", "--evidence", folder, "--json")
    said = json.loads(out)
    assert (code, said["error"]["code"]) == (Exit.REFUSED, "whatif.newly-allowed")
    assert len(said["error"]["findings"]) == 1


def test_garbage_is_answered_with_a_reason(policies, tmp_path, capsys):
    garbage = tmp_path / "garbage.json"
    garbage.write_bytes(b"\x00[[[")
    assert run(capsys, garbage, "--evidence", tmp_path)[0] == Exit.MALFORMED
    assert run(capsys, policies / "a.json", "--evidence", tmp_path / "none")[0] == Exit.MISUSE
    (tmp_path / "decisions").mkdir()
    (tmp_path / "decisions" / "x.json").write_bytes(b"{}")
    assert run(capsys, policies / "a.json", "--evidence", tmp_path)[0] == Exit.UNSUPPORTED
    assert run(capsys, tmp_path / "nothing", "--evidence", tmp_path)[0] == Exit.MISUSE


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.dictionaries(st.text(), st.text()).map(json.dumps).map(str.encode)
)
def test_a_record_of_evidence_is_read_or_refused_by_name(data):
    for read in (evidence_record.read, evidence_record.read_backing):
        with pytest.raises(TallystickError):
            read(data)


@given(
    st.sampled_from(["schema", "attestation", "at", "tee", "nonce", "issued_at", "message", "backing"]),
    st.integers() | st.text(),
)
def test_a_record_with_one_field_changed_is_read_or_refused_by_name(name, value):
    kept = Book().attest(machine(NOW), NOW, "one")
    said = json.loads(evidence_record.write(kept)) | {name: value}
    with suppress(TallystickError):
        evidence_record.read(json.dumps(said).encode())

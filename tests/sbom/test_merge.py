"""Several SBOMs become one that holds, keeps every field, and is the same every time."""

from __future__ import annotations

import copy
import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report import releases
from sbom import builds

from tallystick.core.errors import Exit, Malformed, Refused, Unsupported
from tallystick.formats import cyclonedx, spdx
from tallystick.release import inventory
from tallystick.sbom import check, completeness, make, merge
from tallystick.sbom.schema import spdx_ids

BUILD = builds.make().build
IMAGE = make.make(BUILD, created=make.created_of(BUILD))
MODEL = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.7",
    "serialNumber": "urn:uuid:3e671687-395b-41f5-a30f-a58921a69b79",
    "version": 3,
    "metadata": {
        "timestamp": "2026-11-22T12:00:00Z",
        "component": {"type": "application", "bom-ref": "release", "name": "the model's release"},
        "manufacturer": {"name": "Somebody", "url": ["https://example.org"]},
        "tools": [{"name": "older form", "version": "1"}],
    },
    "components": [
        {
            "type": "machine-learning-model",
            "bom-ref": "weights",
            "name": "weights",
            "modelCard": {"modelParameters": {"task": "text"}, "properties": [{"name": "a", "value": "release"}]},
        }
    ],
    "services": [{"bom-ref": "service", "name": "inference"}],
    "dependencies": [{"ref": "release", "dependsOn": ["weights"]}, {"ref": "weights", "provides": ["release"]}],
    "compositions": [{"aggregate": "complete", "assemblies": ["release"]}],
    "annotations": [
        {
            "subjects": ["release"],
            "annotator": {"service": {"name": "x"}},
            "timestamp": "2026-11-22T12:00:00Z",
            "text": "release",
        }
    ],
}  # fmt: skip


def merged(*documents, **more):
    given = [(f"d{index}", document) for index, document in enumerate(documents)]
    return merge.merge(given, **{"name": "whole", "version": "1.0", **more})


def test_image_and_model_are_one_document_that_holds():
    found = merged(IMAGE, MODEL).document
    assert check.check_document(found) == ()
    assert found["specVersion"] == "1.7"
    assert found == merged(IMAGE, MODEL).document
    assert found["serialNumber"] != merged(MODEL, IMAGE).document["serialNumber"]
    names = {part["name"]: part for part in found["components"]}
    assert names["weights"] == MODEL["components"][0]
    assert names["the model's release"]["manufacturer"] == MODEL["metadata"]["manufacturer"]
    edges = {edge["ref"]: edge for edge in found["dependencies"]}
    theirs = names["the model's release"]["bom-ref"]
    assert edges["merged"]["dependsOn"] == sorted(["release", theirs])
    assert edges[theirs]["dependsOn"] == ["weights"]
    assert edges["weights"]["provides"] == [theirs]
    assert found["annotations"][0]["subjects"] == [theirs]
    assert found["annotations"][0]["text"] == "release"  # a text, and no reference
    assert {"aggregate": "complete", "assemblies": [theirs]} in found["compositions"]
    assert {"type": "application", "name": "older form", "version": "1"} in found["metadata"]["tools"][
        "components"
    ]


def test_the_originals_are_named_with_their_hashes():
    references = [one for one in merged(IMAGE, MODEL).document["externalReferences"] if one["type"] == "bom"]
    assert references[1]["url"] == "urn:cdx:3e671687-395b-41f5-a30f-a58921a69b79/3"
    assert len({one["hashes"][0]["content"] for one in references}) == 2


def test_what_two_documents_describe_alike_is_there_once():
    other = copy.deepcopy(IMAGE)
    other["serialNumber"] = MODEL["serialNumber"]
    shared = next(part for part in other["components"] if part["bom-ref"] == builds.LIBC.ref)
    found = merged(IMAGE, other).document
    assert [part for part in found["components"] if part["name"] == "libc6"] == [shared]
    shared["version"] = "9"
    found = merged(IMAGE, other).document
    assert check.check_document(found) == ()
    versions = {part["bom-ref"]: part["version"] for part in found["components"] if part["name"] == "libc6"}
    assert sorted(versions.values()) == ["2.36", "9"]


@pytest.mark.parametrize("section", ["vulnerabilities", "declarations", "something"])
def test_what_would_be_lost_is_refused_by_name(section):
    with pytest.raises(Refused) as caught:
        merged(IMAGE, {**MODEL, section: {}})
    assert [(one.code, one.where) for one in caught.value.findings] == [
        ("sbom.merge.section", f"d1 {section}")
    ]


def test_a_signature_stays_with_the_document_that_it_is_of():
    assert merged(IMAGE, {**MODEL, "signature": {}}).left_out == ("d1: signature",)
    odd = copy.deepcopy(MODEL)
    odd["metadata"]["distributionConstraints"] = {}
    assert merged(IMAGE, odd).left_out == ("d1: metadata distributionConstraints",)


def test_documents_that_say_little_can_be_merged():
    bare = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{"type": "file", "name": "a"}]}
    found = merged(bare, {**bare, "serialNumber": MODEL["serialNumber"]}).document
    assert check.check_document(found) == ()
    assert len(found["components"]) == 3  # one without a reference, and what each document is of


def test_merge_and_export_on_the_command_line(tmp_path, capsys):
    release = releases.write(tmp_path / "release")
    model = tmp_path / "model.json"
    model.write_text(json.dumps(MODEL))
    out = tmp_path / "out.json"
    common = ("--name", "whole", "--version", "1", "-o", str(out))
    code, said = releases.tally(capsys, "sbom", "merge", str(release), str(model), *common)
    assert (code, said["left_out"]) == (Exit.OK, [])
    assert cyclonedx.parse(out.read_bytes())["metadata"]["component"]["name"] == "whole"
    assert releases.tally(capsys, "sbom", "check", str(out))[0] == Exit.OK
    assert (
        releases.tally(capsys, "sbom", "merge", str(model), *common)[1]["error"]["code"] == "sbom.merge.one"
    )
    target = ("-o", str(tmp_path / "spdx.json"))
    code, said = releases.tally(capsys, "sbom", "export", str(out), *target)
    assert (code, said["left_out"]["component modelCard"]) == (Exit.OK, 1)
    code, said = releases.tally(capsys, "sbom", "export", str(release), "--format", "cyclonedx-1.7", *target)
    assert (code, json.loads((tmp_path / "spdx.json").read_text())["specVersion"]) == (Exit.OK, "1.7")
    newer = tmp_path / "newer.json"
    newer.write_text(json.dumps({**MODEL, "citations": []}))
    code, _ = releases.tally(capsys, "sbom", "export", str(newer), "--format", "cyclonedx-1.6", *target)
    assert code == Exit.MALFORMED  # 1.6 has no citations
    code, said = releases.tally(capsys, "sbom", "export", str(model), "--format", "pdf", *target)
    assert (code, said["error"]["code"]) == (Exit.MISUSE, "sbom.format")


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b'{"bomFormat": "CycloneDX"}', b'{"a": 1, "a": 1}'])
def test_garbage_is_refused_with_a_reason(tmp_path, capsys, data):
    place = tmp_path / "bom.json"
    place.write_bytes(data)
    for arguments in (
        ("export", str(place)),
        ("merge", str(place), str(place), "--name", "a", "--version", "1"),
    ):
        code, said = releases.tally(capsys, "sbom", *arguments, "-o", str(tmp_path / "out"))
        assert code in (Exit.MALFORMED, Exit.UNSUPPORTED)
        assert said["error"]["message"]
        assert not (tmp_path / "out").exists()


SAMPLE = json.loads(json.dumps(make.make(BUILD, created=make.created_of(BUILD))))
ODD = st.sampled_from([None, "", "x", 0, True, [], {}, [{}], {"name": "x"}, [None], "2026-11-22T12:00:00Z"])


def places(value, at=()):
    """Every place in a document, as the steps that lead there."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in items:
        yield (*at, step)
        yield from places(inner, (*at, step))


PLACES = sorted(places(SAMPLE | {"components": SAMPLE["components"][:4]}), key=str)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(PLACES), ODD)
def test_whatever_the_schema_allows_can_be_merged_exported_scored_and_inventoried(place, odd):
    document = copy.deepcopy(SAMPLE)
    holder = document
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = odd
    with suppress(Malformed, Unsupported):
        if not check.check_document(cyclonedx.checked(document)):
            used(document)


def used(document):
    spdx.export(document, "t-1", spdx_ids())
    completeness.scores(document)
    check.check_contents(document, {}, BUILD.contents)
    inventory.of_release(BUILD.contents, document)
    with suppress(Refused):
        merge.merge([("a", document), ("b", MODEL)], name="x", version="1")

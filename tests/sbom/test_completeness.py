"""Completeness is counted, element by element; what is not stated is not there."""

from __future__ import annotations

import copy
import json

import pytest
from report import releases
from sbom import builds

from tallystick.cli import app
from tallystick.core.errors import Exit
from tallystick.sbom import check, completeness, make

BUILD = builds.make().build
GOOD = make.make(BUILD, created=make.created_of(BUILD))
WHOLE = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.6",
    "serialNumber": "urn:uuid:3e671687-395b-41f5-a30f-a58921a69b79",
    "version": 1,
    "metadata": {
        "timestamp": "2026-11-22T12:00:00Z",
        "authors": [{"name": "Somebody", "email": "somebody@example.org"}],
        "lifecycles": [{"phase": "build"}],
        "tools": {"components": [{"type": "application", "name": "a tool"}]},
    },
    "components": [
        {
            "bom-ref": "a",
            "type": "library",
            "name": "a",
            "version": "1",
            "supplier": {"name": "Maker", "url": ["https://maker.example"]},
            "purl": "pkg:generic/a@1",
            "licenses": [{"license": {"id": "MIT", "acknowledgement": "concluded"}}],
            "hashes": [{"alg": "SHA-256", "content": "0" * 64}],
            "externalReferences": [
                {
                    "type": "distribution",
                    "url": "https://maker.example/a.so",
                    "hashes": [{"alg": "SHA-512", "content": "0" * 128}],
                }
            ],
            "properties": [
                {"name": "bsi:component:filename", "value": "a.so"},
                {"name": "bsi:component:executable", "value": "executable"},
                {"name": "bsi:component:archive", "value": "no archive"},
                {"name": "bsi:component:structured", "value": "structured"},
            ],
        }
    ],
    "dependencies": [{"ref": "a"}],
}


def scored(document):
    return {score.standard: score for score in completeness.scores(document)}


def elements(document, standard):
    return {one.element: (one.met, one.of) for one in scored(document)[standard].elements}


def test_a_whole_document_scores_100_everywhere():
    assert check.check_document(WHOLE) == ()
    assert {name: score.percent for name, score in scored(WHOLE).items()} == {
        "ntia": 100,
        "cisa": 100,
        "bsi": 100,
    }


LOSSES = [
    (("components", 0, "supplier"), "ntia", "supplier name"),
    (("components", 0, "supplier"), "bsi", "component creator"),
    (("components", 0, "version"), "ntia", "component version"),
    (("components", 0, "purl"), "cisa", "software identifiers"),
    (("components", 0, "licenses"), "bsi", "distribution licences"),
    (("components", 0, "externalReferences"), "bsi", "hash of the deployable component"),
    (("components", 0, "supplier", "url"), "bsi", "component creator"),
    (("components", 0, "licenses", 0, "license", "acknowledgement"), "bsi", "distribution licences"),
    (("metadata", "authors", 0, "email"), "bsi", "creator of the SBOM"),
    (("components", 0, "properties"), "bsi", "filename"),
    (("components", 0, "properties"), "bsi", "executable property"),
    (("components", 0, "properties"), "bsi", "archive property"),
    (("components", 0, "properties"), "bsi", "structured property"),
    (("dependencies",), "ntia", "dependency relationship"),
    (("metadata", "timestamp"), "ntia", "timestamp"),
    (("metadata", "authors"), "cisa", "SBOM author"),
    (("metadata", "lifecycles"), "cisa", "generation context"),
    (("metadata", "tools"), "cisa", "tool name"),
]


@pytest.mark.parametrize(("path", "standard", "element"), LOSSES)
def test_what_is_taken_away_is_missed_by_name(path, standard, element):
    document = copy.deepcopy(WHOLE)
    place = document
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    assert elements(document, standard)[element] == (0, 1)
    assert scored(document)[standard].percent < 100


def test_a_weaker_hash_is_not_bsis():
    document = copy.deepcopy(WHOLE)
    document["components"][0]["externalReferences"][0]["hashes"] = [{"alg": "SHA-256", "content": "0" * 64}]
    assert elements(document, "bsi")["hash of the deployable component"] == (0, 1)
    assert elements(document, "cisa")["component hash"] == (1, 1)
    del document["components"][0]["hashes"], document["components"][0]["externalReferences"]
    assert elements(document, "cisa")["component hash"] == (0, 1)


def test_what_is_no_file_is_not_asked_for_a_file_s_facts_and_is_counted():
    document = copy.deepcopy(WHOLE)
    part = document["components"][0]
    part["properties"] = [{"name": "tallystick:without-file", "value": "true"}]
    del part["externalReferences"], part["hashes"]
    found = {one.element: (one.met, one.of, one.without_file) for one in scored(document)["bsi"].elements}
    assert found["filename"] == found["hash of the deployable component"] == (0, 0, 1)
    assert found["component version"] == (1, 1, 0)
    assert scored(document)["bsi"].percent == 100


def test_unknown_relations_are_a_statement_and_silence_is_none():
    document = copy.deepcopy(WHOLE)
    document["dependencies"] = []
    assert elements(document, "ntia")["dependency relationship"] == (0, 1)
    document["compositions"] = [{"aggregate": "unknown", "dependencies": ["a"]}]
    assert elements(document, "ntia")["dependency relationship"] == (1, 1)


def test_our_own_document_names_what_it_lacks():
    found = elements(GOOD, "ntia")
    assert found["component name"][0] == found["component name"][1] > 4
    assert found["author of SBOM data"] == (0, 1)
    assert 0 < scored(GOOD)["bsi"].percent < scored(GOOD)["cisa"].percent < 100
    assert elements(GOOD, "bsi")["hash of the deployable component"][0] == 0


def test_a_file_alone_is_checked_and_scored(tmp_path, capsys):
    place = tmp_path / "bom.json"
    place.write_text(json.dumps(WHOLE))
    code, found = releases.tally(capsys, "sbom", "check", str(place))
    assert (code, found["completeness"]["bsi"]["percent"]) == (Exit.OK, 100)
    document = copy.deepcopy(WHOLE)
    del document["metadata"]["authors"]
    place.write_text(json.dumps(document))
    assert app._run(["sbom", "check", str(place)]) == Exit.OK
    assert "author of SBOM data: 0 of 1; not document" in capsys.readouterr().out
    document["dependencies"].append({"ref": "none"})
    place.write_text(json.dumps(document))
    assert releases.tally(capsys, "sbom", "check", str(place))[0] == Exit.MALFORMED
    place.write_text("{")
    assert releases.tally(capsys, "sbom", "check", str(place))[0] == Exit.MALFORMED

"""SPDX 2.3 out of CycloneDX, read and judged by SPDX's own library."""

from __future__ import annotations

import json

import pytest
from sbom import builds, test_vendored

from tallystick.formats import spdx
from tallystick.sbom import make
from tallystick.sbom.schema import spdx_ids

MADE = builds.make(test_vendored.FILES)
BOM = make.make(MADE.build, created=make.created_of(MADE.build), inside=test_vendored.found(MADE))
WHOLE = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.6",
    "metadata": {
        "timestamp": "2026-11-22T13:00:00.5+01:00",
        "manufacturer": {"name": "M (x)", "contact": [{"email": "m@x.y"}]},
    },
    "components": [
        {
            "type": "library",
            "bom-ref": "a",
            "name": "name with spaces",
            "version": "1",
            "supplier": {"name": "S", "url": ["https://s.example"]},
            "manufacturer": {"name": "M", "contact": [{"email": "m@x.y"}]},
            "cpe": "cpe:2.3:a:s:a:1:*:*:*:*:*:*:*",
            "hashes": [{"alg": "SHA-256", "content": "0" * 64}],
            "externalReferences": [
                {"type": "distribution", "url": "a", "hashes": [{"alg": "SHA-512", "content": "1" * 128}]}
            ],
            "licenses": [
                {"license": {"id": "MIT", "acknowledgement": "concluded"}},
                {"license": {"name": "A licence of its own", "acknowledgement": "declared"}},
            ],
            "properties": [{"name": "bsi:component:filename", "value": "a.so"}],
        }
    ],
}  # fmt: skip


def judged(document):
    """Return the document as SPDX's library reads it, which has nothing to say against it."""
    from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    read = JsonLikeDictParser().parse(json.loads(json.dumps(document)))
    assert [str(one) for one in validate_full_spdx_document(read)] == []
    return read


def test_our_own_document_is_valid_and_the_same_every_time():
    one, other = (spdx.export(BOM, "tallystick-1", spdx_ids()) for _ in range(2))
    assert one == other
    read = judged(one.document)
    names = {package.name for package in read.packages}
    assert {"libc6", "golang.org/x/text", "demo", "uki"} <= names
    assert dict(one.left_out)["section compositions"] == 1
    assert dict(one.left_out)["component evidence"] > 5


def test_every_field_that_has_a_place_comes_along():
    exported = spdx.export(WHOLE, "tool-1", spdx_ids())
    (package,) = judged(exported.document).packages
    assert exported.document["creationInfo"] == {
        "created": "2026-11-22T12:00:00Z",
        "creators": ["Tool: tool-1", "Organization: M x (m@x.y)"],
    }
    assert (package.file_name, str(package.license_concluded)) == ("a.so", "MIT")
    assert str(package.license_declared) == "LicenseRef-A-licence-of-its-own"
    assert {one.algorithm.name for one in package.checksums} == {"SHA256", "SHA512"}
    assert (package.supplier.name, package.originator.email) == ("S", "m@x.y")
    assert package.external_references[0].reference_type == "cpe23Type"
    assert exported.left_out == (("component externalReferences", 1), ("component properties", 1))


def test_relations_are_those_of_the_document_and_the_unknown_ones_are_said():
    relations = {
        (one["spdxElementId"], one["relationshipType"], one["relatedSpdxElement"])
        for one in spdx.export(BOM, "t-1", spdx_ids()).document["relationships"]
    }
    kinds = {kind for _, kind, _ in relations}
    assert kinds == {"DESCRIBES", "DEPENDS_ON", "CONTAINS"}
    assert sum(other == "NOASSERTION" for _, _, other in relations) >= 5


@pytest.mark.parametrize(
    "document", [{"bomFormat": "CycloneDX", "specVersion": "1.6"}, {**WHOLE, "metadata": {}}]
)
def test_sparse_documents_make_valid_ones(document):
    exported = spdx.export(document, "t-1", spdx_ids()).document
    if document.get("components"):
        judged(exported)
    assert exported["creationInfo"]["created"] == "1970-01-01T00:00:00Z"

"""What is wrong with an SBOM is found by name: by the schema, its own references, and what it describes."""

import copy
import json
from dataclasses import replace

import pytest
from sbom import builds
from support_corpus import corpus

from tallystick.core.digests import Digest
from tallystick.formats import cyclonedx
from tallystick.sbom import check, make, parts, schema

BUILD = builds.make().build
FIRMWARE = {item.name: item.digest for item in BUILD.firmware}
GOOD = make.make(BUILD, created=make.created_of(BUILD))


def found(change, build=BUILD):
    """Return (code, where) of every finding after ``change`` had its way with a good document."""
    document = copy.deepcopy(GOOD)
    change(document)
    findings = check.check_document(document) or check.check_contents(
        document, parts.digests(build), build.contents, FIRMWARE
    )
    return [(finding.code, finding.where) for finding in findings]


def part(document, ref):
    return next(one for one in document["components"] if one["bom-ref"] == ref)


def test_a_good_document_has_no_findings():
    assert found(lambda document: None) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d.pop("serialNumber"), ("sbom.serial", "serialNumber")),
        (lambda d: d["metadata"].pop("timestamp"), ("sbom.timestamp", "metadata.timestamp")),
        (
            lambda d: d["dependencies"][0]["dependsOn"].append("nowhere"),
            ("sbom.ref.dangling", "dependencies[0].dependsOn[1]"),
        ),
        (
            lambda d: d["compositions"][0]["assemblies"].append("nowhere"),
            ("sbom.ref.dangling", "compositions[0].assemblies[2]"),
        ),
        (
            lambda d: d["components"].append({"type": "file", "name": "x", "bom-ref": "product:uki"}),
            ("sbom.ref.duplicate", "product:uki"),
        ),
        (
            lambda d: d["dependencies"].append({"ref": "release", "dependsOn": ["product:uki"]}),
            ("sbom.dependency.duplicate", "release"),
        ),
        (
            lambda d: part(d, builds.LIBC.ref).update(purl="libc6"),
            ("sbom.purl", f"{builds.LIBC.ref} purl"),
        ),
        (lambda d: part(d, builds.LIBC.ref).update(surprise=1), ("sbom.schema", "components[4]")),
        (
            lambda d: part(d, builds.LIBC.ref)["hashes"][0].update(content="0"),
            ("sbom.schema", "components[4].hashes[0].content"),
        ),
        (
            lambda d: part(d, builds.LIBC.ref).update(version="9"),
            ("sbom.component.version", builds.LIBC.ref),
        ),
        (
            lambda d: part(d, builds.LIBC.ref)["hashes"][0].update(content="0" * 64),
            ("sbom.component.hashes", builds.LIBC.ref),
        ),
        (
            lambda d: part(d, builds.LIBC.ref).pop("licenses"),
            ("sbom.component.licenses", builds.LIBC.ref),
        ),
        (
            lambda d: part(d, builds.OWN.ref)["properties"][0].update(value=str(Digest.of(b"x"))),
            ("sbom.component.property", f"{builds.OWN.ref} nix:narHash"),
        ),
        (
            lambda d: part(d, "product:uki")["hashes"][0].update(content="0" * 64),
            ("sbom.product.hash", "product:uki"),
        ),
        (
            lambda d: part(d, "firmware:ovmf")["hashes"][0].update(content="0" * 64),
            ("sbom.product.hash", "firmware:ovmf"),
        ),
        (
            lambda d: part(d, builds.LIBC.ref)["evidence"]["occurrences"].pop(),
            ("sbom.file", f"{builds.LIBC.ref} initramfs:lib/libc.so.6"),
        ),
        (
            lambda d: part(d, builds.LIBC.ref)["evidence"]["occurrences"].append({"location": "initramfs:x"}),
            ("sbom.file", f"{builds.LIBC.ref} initramfs:x"),
        ),
        (
            lambda d: d["components"].append({"type": "file", "name": "x", "bom-ref": "x"}),
            ("sbom.component.extra", "x"),
        ),
        (
            lambda d: d["metadata"]["properties"][0].update(value="7"),
            ("sbom.unexplained", "metadata tallystick:unexplained-bytes"),
        ),
    ],
)
def test_one_thing_wrong_is_one_finding(change, expected):
    assert expected in found(change)


def test_a_missing_component_or_product_is_found():
    def drop(document):
        document["components"] = [
            one for one in document["components"] if one["bom-ref"] not in (builds.CBOR.ref, "product:uki")
        ]
        document["dependencies"], document["compositions"] = [], []

    assert found(drop) == [
        ("sbom.component.extra", builds.OVMF.ref),  # it is here for the firmware, which no edge leads to now
        ("sbom.component.missing", "product:uki"),
        ("sbom.component.missing", builds.CBOR.ref),
    ]


def test_a_file_that_changed_in_the_contents_list_is_found():
    changed = replace(BUILD.contents[0].files[0], digest=Digest.of(b"swapped"))
    lists = (replace(BUILD.contents[0], files=(changed, *BUILD.contents[0].files[1:])), BUILD.contents[1])
    (finding,) = check.check_contents(GOOD, parts.digests(BUILD), lists, FIRMWARE)
    assert finding.code == "sbom.file"
    assert finding.where == f"{builds.BUSYBOX.ref} initramfs:bin/busybox"
    assert str(Digest.of(b"swapped")) in finding.want


def test_a_reference_into_another_bom_is_no_dangling_one():
    def link(document):
        document["dependencies"][0]["dependsOn"].append("urn:cdx:3e671687-395b-41f5-a30f-a58921a69b79/1#ref")

    assert found(link) == []


def test_the_findings_of_a_hopeless_document_are_cut_short():
    document = copy.deepcopy(GOOD)
    document["components"] = [{"nothing": number} for number in range(100)]
    assert len(list(schema.findings(document))) == 20


def test_5000_components_are_checked():
    """The stock validator is quadratic and needs more than a minute for these; `make bench` has the ratio."""
    document = copy.deepcopy(GOOD)
    template = part(document, builds.LIBC.ref)
    document["components"] += [{**template, "bom-ref": f"copy-{n}", "version": f"{n}"} for n in range(5000)]
    assert check.check_document(document) == ()


@pytest.mark.corpus
def test_the_official_examples_are_judged_as_they_are_labelled():
    files = sorted(corpus("conformance/cyclonedx/tools/src/test/resources").glob("*/*.json"))
    judged = 0
    for file in files:
        document = json.loads(file.read_text("utf-8"))
        if document.get("specVersion") in cyclonedx.SPEC_VERSIONS:
            assert bool(list(schema.findings(document))) == file.name.startswith("invalid-"), file.name
            judged += 1
    assert judged > 50

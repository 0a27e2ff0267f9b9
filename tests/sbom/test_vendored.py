"""The image is asked itself what its files were made from: Go, Rust, JavaScript, and the SBOMs of Python packages."""

from __future__ import annotations

import copy
import gzip
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from formats import test_embedded_lists as lists
from formats.cpios import archive
from formats.ocis import layout
from sbom import builds

from tallystick.build.records import Contents
from tallystick.build.seedfacts import SeedFacts
from tallystick.core.digests import Algorithm, Digest
from tallystick.sbom import check, completeness, coverage, deployable, make, vendored
from tallystick.sbom.deployable import NOTHING, Known
from tallystick.sbom.scan import scan

PACKAGE = json.dumps({"name": "@s/left-pad", "version": "1.3.0", "license": "MIT"}).encode()
FILES = (
    *builds.FILES,
    ("usr/bin/go-tool", lists.GO, 0o100755, builds.OWN),
    ("usr/bin/rust-tool", lists.RUST, 0o100755, builds.OWN),
    ("usr/lib/app/node_modules/@s/left-pad/package.json", PACKAGE, 0o100644, builds.OWN),
    ("usr/lib/app/node_modules/broken/package.json", b"{", 0o100644, builds.OWN),
    (
        "usr/lib/app/node_modules/a/test/package.json",
        PACKAGE.replace(b"left-pad", b"no"),
        0o100644,
        builds.OWN,
    ),
)
FOREIGN = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.5",
    "version": 1,
    "components": [
        {
            "type": "library",
            "bom-ref": "registry#asn1@0.24",
            "name": "asn1",
            "version": "0.24",
            "author": "Somebody",
            "purl": "pkg:cargo/asn1@0.24",
            "pedigree": {"notes": "a field that typed models drop", "patches": [{"type": "backport"}]},
            "components": [{"type": "library", "bom-ref": "inner", "name": "inner"}],
        }
    ],
}


def known(sboms: dict[str, object]) -> Known:
    data = tuple((path, json.dumps(document).encode()) for path, document in sboms.items())
    facts = SeedFacts(
        sha512=Digest.of(b"wheel", Algorithm.SHA512), maker=None, homepage="", sources=(), sboms=data
    )
    return Known(seeds={builds.CBOR.seed: (facts, deployable.of_file(b"PK\x03\x04"))})


def found(made: builds.Made, asked: Known = NOTHING) -> dict[str, vendored.Inside]:
    covered = coverage.cover(made.products, {one.product: one for one in made.build.contents})
    return vendored.of_release(
        made.build.contents, {one.product: one.scanned.files for one in covered}, asked
    )


def test_go_rust_and_javascript_are_found_inside_the_initramfs_inside_the_uki():
    made = builds.make(FILES)
    inside = found(replace(made, products={"uki": made.products["uki"]}))[builds.OWN.ref]
    assert [part["purl"] for part in inside.components] == [
        "pkg:cargo/libc@0.2.1",
        "pkg:cargo/tool@0.1.0",
        "pkg:golang/example.org/new@v1.2.0",
        "pkg:golang/example.org/tool",
        "pkg:golang/golang.org/x/text@v0.38.0",
        "pkg:golang/stdlib@1.26.8",
        "pkg:npm/%40s/left-pad@1.3.0",
    ]
    assert inside.components[0]["evidence"]["occurrences"] == [{"location": "initramfs:usr/bin/rust-tool"}]
    assert "initramfs:usr/lib/app/node_modules/broken/package.json" in inside.unreadable


def test_an_oci_layer_is_asked_too():
    data = layout([("usr", 0o40755, b""), ("usr/tool", 0o100755, lists.GO)])
    files = scan(data, "oci").files
    contents = Contents(
        product="oci",
        files=tuple(builds.contents_file(f.path, bytes(f.data), 0o100755, builds.OWN) for f in files),
        components=(builds.OWN,),
    )
    inside = vendored.of_release([contents], {"oci": files}, NOTHING)[builds.OWN.ref]
    assert "pkg:golang/golang.org/x/text@v0.38.0" in [part["purl"] for part in inside.components]
    assert inside.components[0]["evidence"]["occurrences"] == [{"location": "oci:usr/tool"}]


def document(made: builds.Made, asked: Known = NOTHING):
    build = made.build
    return make.make(build, created=make.created_of(build), known=asked, inside=found(made, asked))


def test_the_sbom_lists_them_below_their_owner_and_holds():
    made = builds.make(FILES)
    bom = document(made)
    assert check.check_document(bom) == ()
    assert check.check_inside(bom, found(made)) == ()
    own = next(part for part in bom["components"] if part["bom-ref"] == builds.OWN.ref)
    assert len(own["components"]) == 7
    incomplete = [one for one in bom["compositions"] if one["aggregate"] == "incomplete"]
    assert {"aggregate": "incomplete", "assemblies": [builds.OWN.ref]} in incomplete
    (bsi,) = [one for one in completeness.scores(bom) if one.standard == "bsi"]
    filename = next(one for one in bsi.elements if one.element == "filename")
    assert filename.without_file == 8  # these seven, and the release


def test_one_more_one_less_and_another_are_each_named():
    made = builds.make(FILES)
    bom, inside = document(made), found(made)
    own = next(part for part in bom["components"] if part["bom-ref"] == builds.OWN.ref)
    less, other, more = copy.deepcopy(bom), copy.deepcopy(bom), copy.deepcopy(bom)
    for damaged, change, code in (
        (less, lambda parts: parts.pop(0), "sbom.vendored.missing"),
        (other, lambda parts: parts[0].update(version="9"), "sbom.vendored.differs"),
        (more, lambda parts: parts.append({**parts[0], "bom-ref": "x"}), "sbom.vendored.extra"),
    ):
        place = damaged["components"].index(own)
        nested = copy.deepcopy(own["components"])
        change(nested)
        damaged["components"][place] = {**own, "components": nested}
        assert [one.code for one in check.check_inside(damaged, inside)] == [code]


def test_a_swapped_program_of_the_listed_size_is_found_by_its_list_too():
    made = builds.make(FILES)
    swapped = lists.GO.replace(b"v0.38.0", b"v0.37.0")
    files = [(path, swapped if path.endswith("go-tool") else data, mode) for path, data, mode, _ in FILES]
    covered = coverage.cover(
        {"initramfs": gzip.compress(archive(files))}, {one.product: one for one in made.build.contents}
    )
    assert [one.code for one in covered[0].findings] == ["coverage.swapped"]
    inside = vendored.of_release(made.build.contents, {"initramfs": covered[0].scanned.files}, NOTHING)
    codes = {one.code for one in check.check_inside(document(made), inside)}
    assert codes == {"sbom.vendored.extra", "sbom.vendored.missing"}


def test_the_sbom_of_a_wheel_is_taken_as_it_is():
    made = builds.make()
    asked = known(
        {"a.dist-info/sboms/rust.json": FOREIGN, "a.dist-info/sboms/other.json": {"spdxVersion": "2"}}
    )
    bom = document(made, asked)
    assert check.check_document(bom) == ()
    wheel = next(part for part in bom["components"] if part["bom-ref"] == builds.CBOR.ref)
    (part,) = wheel["components"]
    original = FOREIGN["components"][0]
    for name in set(original) - {"bom-ref", "components"}:
        assert part[name] == original[name]
    assert part["bom-ref"] == f"{builds.CBOR.ref}#registry#asn1@0.24"
    assert part["components"] == [{"type": "library", "bom-ref": f"{builds.CBOR.ref}#inner", "name": "inner"}]
    references = [one["url"] for one in wheel["externalReferences"] if one["type"] == "bom"]
    assert references == [
        f"seeds/{builds.CBOR.seed}#a.dist-info/sboms/rust.json",
        f"seeds/{builds.CBOR.seed}#a.dist-info/sboms/other.json",
    ]
    unread = {p["name"]: p["value"] for p in wheel["properties"]}["tallystick:vendored-unreadable"]
    assert unread == f"seeds/{builds.CBOR.seed}:a.dist-info/sboms/other.json"


def test_files_of_no_component_speak_for_nobody():
    made = builds.make(FILES)
    initramfs, uki = made.build.contents
    files = tuple(replace(f, component="") if f.path == "usr/bin/go-tool" else f for f in initramfs.files)
    build = replace(made.build, contents=(replace(initramfs, files=files), uki))
    inside = found(replace(made, build=build))[builds.OWN.ref]
    assert not any("golang" in part["purl"] for part in inside.components)


@pytest.mark.slow
def test_a_program_that_go_itself_linked(tmp_path: Path):
    if shutil.which("go") is None:
        pytest.skip("no Go here")
    dep, tool = tmp_path / "dep", tmp_path / "tool"
    for folder, files in (
        (dep, {"go.mod": "module example.org/dep\ngo 1.19\n", "a.go": "package dep\nconst Name = 1\n"}),
        (
            tool,
            {
                "go.mod": "module example.org/tool\ngo 1.19\nrequire example.org/dep v1.4.0\n"
                "replace example.org/dep v1.4.0 => ../dep\n",
                "a.go": 'package main\nimport "example.org/dep"\nfunc main() { println(dep.Name) }\n',
            },
        ),
    ):
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    settings = {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    environment = {**os.environ, **settings}
    subprocess.run(["go", "build", "-o", "out", "."], cwd=tool, env=environment, check=True)
    names = [
        part.part["name"] for part in vendored.of_file("out", memoryview((tool / "out").read_bytes()), "x")
    ]
    assert names == ["stdlib", "example.org/tool", "example.org/dep"]


@pytest.mark.slow
def test_a_program_that_cargo_auditable_built(tmp_path: Path):
    if shutil.which("cargo-auditable") is None:
        pytest.skip("no cargo-auditable here")
    for name, text in {
        "Cargo.toml": '[package]\nname = "tool"\nversion = "0.3.0"\nedition = "2021"\n'
        '[dependencies]\ndep = { path = "dep" }\n',
        "src/main.rs": "fn main() { println!(\"{}\", dep::name()); }\n",
        "dep/Cargo.toml": '[package]\nname = "dep"\nversion = "1.4.0"\nedition = "2021"\n',
        "dep/src/lib.rs": "pub fn name() -> u8 { 1 }\n",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(
        ["cargo", "auditable", "build", "--offline"], cwd=tmp_path, check=True, capture_output=True
    )
    data = memoryview((tmp_path / "target/debug/tool").read_bytes())
    purls = sorted(part.ref for part in vendored.of_file("tool", data, "x"))
    assert purls == ["pkg:cargo/dep@1.4.0", "pkg:cargo/tool@0.3.0"]

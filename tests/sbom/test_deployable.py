"""What the release's own files say goes into the SBOM, and a statement that they do not make is found."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from sbom import builds
from support_deb import deb

from tallystick.build import nar
from tallystick.build.seedfacts import Party
from tallystick.core.digests import Algorithm, Digest
from tallystick.sbom import check, completeness, deployable, make, parts
from tallystick.sbom.deployable import Kind
from tallystick.sbom.known import gather

CONTROL = b"Package: libc6\nSource: glibc\nVersion: 2.36\nMaintainer: Glibc <glibc@example.org>\nHomepage: https://g.example\n"
SEED = deb({}, control=CONTROL)
MAKER = Party(name="We", email="", url="https://we.example/")
MADE = builds.make()
RECIPE = b"""schema: tallystick/recipe/v1
name: demo
version: 1.2.3
manufacturer: {name: We, url: https://we.example/}
products: [ovmf-amdsev]
command_lines: {}
locks: {busybox: b, python: p, toolchain: t, edk2: e}
firmware: {}
platforms: []
left_out: []
"""


def files():
    found = {"recipe.yaml": RECIPE, "seeds/lock/a.json": b"{}", f"seeds/{builds.LIBC.seed}": SEED}
    found |= {one.path: MADE.products[one.name] for one in MADE.build.products}
    return found | {"firmware/ovmf.fd": bytes(40) + b"_FVH"}


@pytest.fixture
def known(tmp_path):
    held = files()
    return gather(held, held.__getitem__, tmp_path)


def document(known):
    return make.make(MADE.build, created=make.created_of(MADE.build), known=known)


def part(bom, ref):
    return next(one for one in bom["components"] if one["bom-ref"] == ref)


def findings(bom, known):
    build = MADE.build
    firmware = {one.name: one.digest for one in build.firmware}
    return [
        (one.code, one.where)
        for one in check.check_contents(bom, parts.digests(build), build.contents, firmware, known)
    ]


def test_a_package_names_maker_supplier_source_and_both_hashes(known):
    libc = part(document(known), builds.LIBC.ref)
    assert libc["manufacturer"] == {"name": "Glibc", "contact": [{"email": "glibc@example.org"}]}
    assert libc["supplier"]["name"] == "Debian"
    assert libc["pedigree"]["ancestors"][0]["purl"] == "pkg:deb/debian/glibc@2.36?arch=source"
    distribution, website = libc["externalReferences"]
    assert [one["alg"] for one in distribution["hashes"]] == ["SHA-256", "SHA-512"]
    assert distribution["hashes"][1]["content"] == Digest.of(SEED, Algorithm.SHA512).hex
    assert website == {"type": "website", "url": "https://g.example"}


def test_a_product_and_the_release_are_whole_by_bsis_list(known):
    bom = document(known)
    assert check.check_document(bom) == ()
    assert findings(bom, known) == []
    (bsi,) = [one for one in completeness.scores(bom) if one.standard == "bsi"]
    missing = {element.element: set(element.missing) for element in bsi.elements}
    licences = missing.pop(
        "distribution licences"
    )  # the stub's is none that SPDX knows, so the image's is not known
    assert {"release", "product:uki", builds.STUB.ref} <= licences
    whole = {"document", "release", "product:uki", "product:initramfs", builds.LIBC.ref}
    assert not whole & set().union(*missing.values())
    assert not {"product:initramfs", builds.LIBC.ref} & licences
    assert bom["metadata"]["manufacturer"] == {"name": "We", "url": ["https://we.example/"]}


@pytest.mark.parametrize(
    ("ref", "change", "code"),
    [
        (builds.LIBC.ref, lambda one: one.pop("manufacturer"), "sbom.component.manufacturer"),
        (builds.LIBC.ref, lambda one: one["supplier"].update(name="Me"), "sbom.component.supplier"),
        (
            builds.LIBC.ref,
            lambda one: one["externalReferences"][0]["hashes"][1].update(content="0" * 128),
            "sbom.component.externalReferences",
        ),
        (builds.LIBC.ref, lambda one: one["properties"].pop(0), "sbom.component.property"),
        ("product:uki", lambda one: one.pop("externalReferences"), "sbom.product.sha512"),
        ("firmware:ovmf", lambda one: one["externalReferences"][0]["hashes"].pop(), "sbom.product.sha512"),
    ],
)
def test_a_statement_that_the_files_do_not_make_is_found(known, ref, change, code):
    bom = copy.deepcopy(document(known))
    change(part(bom, ref))
    assert code in [found for found, _ in findings(bom, known)]


def test_another_manufacturer_than_the_recipes_is_found(known):
    bom = document(replace(known, manufacturer=Party(name="They", email="t@t.example", url="")))
    assert ("sbom.manufacturer", "metadata.manufacturer") in findings(bom, known)


def test_the_project_s_tree_is_hashed_as_nix_hashes_it(tmp_path):
    (tmp_path / "nix/source").mkdir(parents=True)
    (tmp_path / "nix/source/a.py").write_text("a")
    found = gather([], lambda path: b"", tmp_path)
    ((sha256, sha512),) = found.trees.items()
    assert sha256 == nar.digest(tmp_path / "nix/source")
    assert sha512 == nar.digest(tmp_path / "nix/source", Algorithm.SHA512)
    own = replace(builds.OWN, digest=sha256)
    made = parts.package(own, None, (), found)
    assert made["externalReferences"][0]["hashes"][1]["content"] == sha512.hex


def test_a_recipe_that_does_not_parse_names_nobody(tmp_path):
    assert gather(["recipe.yaml"], lambda path: b"schema: x", tmp_path).manufacturer is None


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"MZ\x90", Kind.PROGRAM),
        (b"!<arch>\n", Kind.ARCHIVE),
        (b"PK\x03\x04", Kind.ARCHIVE),
        (b".eif", Kind.ARCHIVE),
        (b"070701", Kind.ARCHIVE),
        (b"\xfd7zXZ\x00", Kind.ARCHIVE),
        (bytes(257) + b"ustar", Kind.ARCHIVE),
        (bytes(40) + b"_FVH", Kind.FIRMWARE),
        (b"text", None),
    ],
)
def test_the_kind_of_a_file_is_told_by_its_first_bytes(data, kind):
    assert deployable.of_file(data).kind is kind

"""The release index: complete, strict, and it names whatever is not as it says."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from release.made import plain_release

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Unsupported
from tallystick.release import index

ROOT = Path(__file__).resolve().parents[2]


def codes(error: pytest.ExceptionInfo[NotGenuine]) -> list[tuple[str, str]]:
    return [(finding.code, finding.where) for finding in error.value.findings]


def test_the_index_names_every_file_and_its_digest_is_the_release_digest(tmp_path):
    made = plain_release(tmp_path)
    there = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert {entry.path for entry in made.files} == there - {"index.json"}
    assert made.digest == Digest.of((tmp_path / "index.json").read_bytes())
    assert dict(made.statements)["sbom"] == Digest.of((tmp_path / "statements/sbom.json").read_bytes())
    index.check(tmp_path, index.read(tmp_path))


def test_bytes_do_not_depend_on_the_order_files_were_made_in(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    first = plain_release(one)
    for path in sorted((p for p in one.rglob("*") if p.is_file()), reverse=True):
        place = two / path.relative_to(one)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    (two / "index.json").unlink()
    again = index.make(two, name=first.name, version=first.version, products=dict(first.products))
    assert Digest.of(again) == first.digest


def test_what_stands_beside_the_index_does_not_change_it(tmp_path):
    made = plain_release(tmp_path)
    for folder in index.BESIDE:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_text("later")
    index.check(tmp_path, made)
    again = index.make(tmp_path, name=made.name, version=made.version, products=dict(made.products))
    assert Digest.of(again) == made.digest


def test_one_changed_byte_in_each_file_is_named(tmp_path):
    made = plain_release(tmp_path)
    for entry in made.files:
        place = tmp_path / entry.path
        good = place.read_bytes()
        place.write_bytes(bytes([good[0] ^ 1]) + good[1:])
        with pytest.raises(NotGenuine, match="1 file") as error:
            index.check(tmp_path, made)
        assert codes(error) == [("release.file.changed", entry.path)]
        place.write_bytes(good)


def test_missing_extra_and_odd_files_are_named_all_at_once(tmp_path):
    made = plain_release(tmp_path)
    (tmp_path / "recipe.yaml").unlink()
    (tmp_path / "nix/extra.nix").write_text("x")
    (tmp_path / "firmware/ovmf.fd").unlink()
    (tmp_path / "firmware/ovmf.fd").symlink_to("/etc/hostname")
    (tmp_path / "nix" / "a\nb").write_text("x")
    os.mkfifo(tmp_path / "nix/pipe")
    with pytest.raises(NotGenuine, match=r"5 file\(s\)") as error:
        index.check(tmp_path, made)
    assert sorted(codes(error)) == [
        ("release.file.extra", "nix/extra.nix"),
        ("release.file.kind", "firmware/ovmf.fd"),
        ("release.file.kind", "nix/pipe"),
        ("release.file.missing", "recipe.yaml"),
        ("release.file.name", "nix/a\nb"),
    ]


def test_a_link_to_a_folder_is_not_followed(tmp_path):
    made = plain_release(tmp_path / "release")
    (tmp_path / "release/nix/images/uki.nix").rename(tmp_path / "uki.nix")
    (tmp_path / "release/nix/images").rmdir()
    (tmp_path / "release/nix/images").symlink_to(tmp_path)
    with pytest.raises(NotGenuine, match="2 file") as error:
        index.check(tmp_path / "release", made)
    assert codes(error) == [
        ("release.file.kind", "nix/images"),
        ("release.file.missing", "nix/images/uki.nix"),
    ]


def test_make_refuses_links_and_missing_products(tmp_path):
    made = plain_release(tmp_path)
    with pytest.raises(Misuse, match=r"there is no products/none") as missing:
        index.make(tmp_path, name="n", version="1", products={"uki": "products/none"})
    assert missing.value.code == "release.file.missing"
    (tmp_path / "nix/link").symlink_to("flake.nix")
    with pytest.raises(NotGenuine, match="plain files only") as error:
        index.make(tmp_path, name=made.name, version=made.version, products=dict(made.products))
    assert codes(error) == [("release.file.kind", "nix/link")]


HEX = "0" * 64
GOOD = {
    "schema": index.SCHEMA,
    "name": "n",
    "version": "1",
    "files": {
        path: {"sha256": HEX, "size": 1}
        for path in ("products/uki.efi", *(f"statements/{s}.json" for s in index.STATEMENTS))
    },
    "statements": dict.fromkeys(index.STATEMENTS, f"sha256:{HEX}"),
    "products": {"uki": "products/uki.efi"},
}


def with_file(path, **entry):
    return {**GOOD, "files": {**GOOD["files"], path: {"sha256": HEX, "size": 1} | entry}}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "document: want an object"),
        ({**GOOD, "more": 1}, "fields: want schema"),
        ({**GOOD, "name": "../x"}, "name: want letters"),
        ({**GOOD, "version": ""}, "version: want letters"),
        (with_file("../etc/passwd"), r"files\.\.\./etc/passwd: want a path"),
        (with_file("/etc/passwd"), "want a path that the index may cover"),
        (with_file("a//b"), "want a path that the index may cover"),
        (with_file("a/./b"), "want a path that the index may cover"),
        (with_file("a\\b"), "want a path that the index may cover"),
        (with_file("bundles/x"), "want a path that the index may cover"),
        (with_file("index.json"), "want a path that the index may cover"),
        (with_file("x", sha256="A" * 64), "want 64 lower-case hex digits"),
        (with_file("x", size=-1), "want a file size in bytes"),
        (with_file("x", size=True), "want a file size in bytes"),
        (with_file("x", size=1.5), "want a file size in bytes"),
        (with_file("x", mode=1), "want sha256, size"),
        ({**GOOD, "statements": {"sbom": f"sha256:{HEX}"}}, "statements: want measurements"),
        (
            {**GOOD, "statements": {**GOOD["statements"], "sbom": f"sha256:{'1' * 64}"}},
            r"statements\.sbom: want sha256:0",
        ),
        ({**GOOD, "products": {}}, "want at least one product"),
        ({**GOOD, "products": {"uki": "statements/sbom.json"}}, "want a file under products/"),
        ({**GOOD, "products": {"a": "products/uki.efi", "b": "products/uki.efi"}}, "want each file once"),
    ],
)
def test_a_malformed_index_is_refused_by_name(document, said):
    with pytest.raises(Malformed, match=said):
        index.parse(rfc8785.dumps(document))


def test_another_schema_is_unsupported_and_another_spelling_refused():
    with pytest.raises(Unsupported, match="schema: want tallystick/release-index/v1"):
        index.parse(rfc8785.dumps({**GOOD, "schema": "tallystick/release-index/v2"}))
    with pytest.raises(Malformed, match="bytes: want RFC 8785 form"):
        index.parse(json.dumps(GOOD).encode())
    assert index.parse(rfc8785.dumps(GOOD)).products == (("uki", "products/uki.efi"),)


NEARLY = st.builds(
    lambda data, at, byte: data[: at % len(data)] + byte + data[at % len(data) + len(byte) :],
    st.just(rfc8785.dumps(GOOD)),
    st.integers(0, 10_000),
    st.binary(max_size=2),
)


@given(st.binary() | NEARLY)
def test_whatever_is_read_is_read_or_refused(data):
    with suppress(Malformed, Unsupported):
        assert index.parse(data).digest == Digest.of(data)


def test_the_published_schema_agrees_with_the_reader():
    import jsonschema_rs

    schema = json.loads((ROOT / "docs/schemas/release-index.schema.json").read_text())
    validator = jsonschema_rs.validator_for(schema)
    assert validator.is_valid(GOOD)
    for bad in (
        {**GOOD, "more": 1},
        {**GOOD, "schema": "x"},
        with_file("../x"),
        with_file("/x"),
        with_file("a/../b"),
        with_file("bundles/x"),
        with_file("x", sha256="A" * 64),
        with_file("x", size=-1),
        {**GOOD, "products": {}},
    ):
        assert not validator.is_valid(bad), bad


def test_a_tree_digest_changes_with_any_name_or_byte_below_it(tmp_path):
    made = plain_release(tmp_path / "a")
    before = index.tree_digest(made, "nix/")
    (tmp_path / "a/nix/flake.nix").rename(tmp_path / "a/nix/renamed.nix")
    (tmp_path / "a/index.json").unlink()
    data = index.make(tmp_path / "a", name="n", version="1", products=dict(made.products))
    assert index.tree_digest(index.parse(data), "nix/") != before
    assert index.tree_digest(index.parse(data), "seeds/") == index.tree_digest(made, "seeds/")

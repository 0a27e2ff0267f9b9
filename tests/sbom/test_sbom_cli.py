"""``tally sbom`` on release directories: what it shows, what it refuses, with which exit code."""

import lzma

import pytest
from formats.cpios import archive
from report import releases
from sbom import builds

from tallystick.cli import app
from tallystick.core.errors import Exit

ENTRIES = [(path, data, mode) for path, data, mode, _ in builds.FILES]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return releases.write(tmp_path_factory.mktemp("release"))


def test_show_prints_a_table_and_with_json_the_document(good, capsys):
    assert app._run(["sbom", "show", str(good)]) == 0
    printed = capsys.readouterr().out
    assert "busybox-static" in printed
    assert "unexplained files: 0" in printed
    code, document = releases.tally(capsys, "sbom", "show", str(good))
    assert (code, document["bomFormat"]) == (0, "CycloneDX")


def test_check_says_what_was_compared(good, capsys):
    code, document = releases.tally(capsys, "sbom", "check", str(good))
    assert code == 0
    assert document["unexplained_files"] == 0
    assert [(p["name"], p["files"]) for p in document["products"]] == [("initramfs", 5), ("uki", 4)]
    assert app._run(["sbom", "check", str(good)]) == 0
    assert "valid, and true of the products" in capsys.readouterr().out


def refused(tmp_path, capsys, change):
    folder = releases.write(tmp_path, change=change)
    code, document = releases.tally(capsys, "sbom", "check", str(folder))
    return code, [(f["code"], f["where"]) for f in document["error"]["findings"]]


def test_a_document_that_breaks_the_schema_exits_3(tmp_path, capsys):
    def change(folder):
        releases.edit(folder / "statements/sbom.json", lambda d: d["predicate"].update(version="one"))

    assert refused(tmp_path, capsys, change) == (Exit.MALFORMED, [("sbom.schema", "version")])


def test_a_planted_file_exits_5_and_is_named(tmp_path, capsys):
    def change(folder):
        planted = lzma.compress(archive([*ENTRIES, ("evil", b"x", 0o100755)]), check=lzma.CHECK_CRC32)
        (folder / "products/initramfs.cpio.xz").write_bytes(planted)

    code, findings = refused(tmp_path, capsys, change)
    assert code == Exit.NOT_GENUINE
    assert ("coverage.planted", "initramfs:evil") in findings
    assert ("sbom.product.hash", "product:initramfs") in findings
    assert ("sbom.subject", "products/initramfs.cpio.xz") in findings


def test_a_list_that_was_changed_to_fit_still_differs_from_the_sbom(tmp_path, capsys):
    def change(folder):
        releases.edit(
            folder / "contents/initramfs.json", lambda d: d["files"][0].update(component=builds.LIBC.ref)
        )

    code, findings = refused(tmp_path, capsys, change)
    assert code == Exit.NOT_GENUINE
    assert {where for _, where in findings} == {
        f"{builds.BUSYBOX.ref} initramfs:bin/busybox",
        f"{builds.LIBC.ref} initramfs:bin/busybox",
    }


def test_a_file_that_is_not_the_indexed_one_is_named(tmp_path, capsys):
    folder = releases.write(tmp_path)
    (folder / "products/uki.efi").write_bytes(b"MZ other")
    code, document = releases.tally(capsys, "sbom", "check", str(folder))
    assert (code, document["error"]["code"]) == (Exit.NOT_GENUINE, "release.file.changed")
    assert document["error"]["findings"][0]["where"] == "products/uki.efi"


def test_a_list_under_another_name_and_a_foreign_statement_are_refused(tmp_path, capsys):
    def rename(folder):
        (folder / "contents/uki.json").rename(folder / "contents/disk.json")

    folder = releases.write(tmp_path / "a", change=rename)
    code, document = releases.tally(capsys, "sbom", "check", str(folder))
    assert (code, "want the list of disk, got uki" in document["error"]["message"]) == (3, True)

    def foreign(folder):
        releases.edit(folder / "statements/sbom.json", lambda d: d.update(predicateType="x:y"))

    folder = releases.write(tmp_path / "b", change=foreign)
    code, document = releases.tally(capsys, "sbom", "show", str(folder))
    assert (code, document["error"]["code"]) == (Exit.UNSUPPORTED, "unsupported")


def test_another_version_of_cyclonedx_is_misuse_before_anything_is_built(tmp_path, capsys):
    arguments = ("build", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "out"), "--cyclonedx", "1.5")
    code, document = releases.tally(capsys, *arguments)
    assert (code, document["error"]["code"]) == (Exit.MISUSE, "sbom.spec-version")


def test_a_folder_without_an_index_is_misuse(tmp_path, capsys):
    code, document = releases.tally(capsys, "sbom", "show", str(tmp_path))
    assert (code, document["error"]["code"]) == (Exit.MISUSE, "file.missing")

"""``tally provenance`` on release directories: what it shows, what it refuses, with which exit code."""

import pytest
from report import releases

from tallystick.cli import app
from tallystick.core.errors import Exit


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return releases.write(tmp_path_factory.mktemp("release"))


def test_show_prints_builder_and_inputs_and_with_json_the_statement(good, capsys):
    assert app._run(["provenance", "show", str(good)]) == 0
    printed = capsys.readouterr().out
    assert releases.BUILDER in printed
    assert "sandbox on, fallback off, build users on" in printed
    assert "busybox-seed  narHash:" in printed
    code, document = releases.tally(capsys, "provenance", "show", str(good))
    assert (code, document["predicateType"]) == (0, "https://slsa.dev/provenance/v1")


def test_check_says_what_was_recomputed(good, capsys):
    code, document = releases.tally(capsys, "provenance", "check", str(good))
    assert code == 0
    assert (document["derivations"], document["fixed_outputs"], document["sources"]) == (12, 8, 1)
    assert app._run(["provenance", "check", str(good)]) == 0
    assert "12 derivations and 13 outputs recomputed" in capsys.readouterr().out


def test_a_changed_derivation_exits_5_and_is_named(tmp_path, capsys):
    def change(folder):
        (path,) = (folder / "derivations").glob("*-tools.drv")
        path.write_bytes(path.read_bytes().replace(b"made", b"Made"))

    folder = releases.write(tmp_path, change=change)
    code, document = releases.tally(capsys, "provenance", "check", str(folder))
    assert (code, document["error"]["code"]) == (Exit.NOT_GENUINE, "provenance.drv.path")
    assert document["error"]["findings"][0]["where"].endswith("-tools.drv")


def test_a_missing_derivation_and_a_foreign_file_among_them_exit_3(tmp_path, capsys):
    def less(folder):
        next((folder / "derivations").glob("*-tools.drv")).unlink()

    code, document = releases.tally(
        capsys, "provenance", "check", str(releases.write(tmp_path / "a", change=less))
    )
    assert (code, "no such derivation" in document["error"]["message"]) == (Exit.MALFORMED, True)

    def more(folder):
        (folder / "derivations/README").write_bytes(b"x")

    code, document = releases.tally(
        capsys, "provenance", "check", str(releases.write(tmp_path / "b", change=more))
    )
    assert (code, "store path" in document["error"]["message"]) == (Exit.MALFORMED, True)


def test_a_firmware_that_was_swapped_exits_5(tmp_path, capsys):
    def change(folder):
        (folder / "firmware/ovmf.fd").write_bytes(b"other firmware")

    code, document = releases.tally(
        capsys, "provenance", "check", str(releases.write(tmp_path, change=change))
    )
    assert (code, document["error"]["code"]) == (Exit.NOT_GENUINE, "provenance.firmware")

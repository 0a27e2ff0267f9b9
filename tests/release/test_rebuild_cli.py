"""``tally rebuild`` around the build: a link only when every byte agrees. Nix itself is tested in tests/build."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from release import world as worlds
from sbom import builds

from tallystick.build import make
from tallystick.build.make import Rebuilt
from tallystick.cli import rebuild, statements
from tallystick.cli.app import _run
from tallystick.core.digests import Digest
from tallystick.core.findings import Finding
from tallystick.release import index, keys, verify


@pytest.fixture
def rebuilding(world, monkeypatch):
    """A release without links, a build that gives what ``results`` holds, and a way to run the command."""
    w, folder = world
    shutil.rmtree(folder / "links")
    found = index.read(folder)
    build = builds.make().build
    lists = tuple(
        replace(one, components=tuple(sorted(one.components, key=lambda c: c.ref.encode())))
        for one in build.contents
    )
    results = {
        "rebuilt": Rebuilt(build=replace(build, contents=lists), findings=()),
        "measured": (folder / "statements/measurements.json").read_bytes(),
    }
    monkeypatch.setattr(make, "rebuild", lambda folder, *, state, say, remote: results["rebuilt"])
    monkeypatch.setattr(statements, "measurements", lambda *arguments: results["measured"])
    monkeypatch.setattr("tallystick.build.recipe.parse", lambda text: None)

    def run(code):
        arguments = ["rebuild", str(folder), "--as", "rebuilder", "--workdir", str(w.workdir), "--json"]
        assert _run(arguments) == code
        assert (folder / "links").exists() == (code == 0)

    return w, folder, found, results, run


def test_equal_bytes_give_a_link_that_counts(rebuilding, capsys):
    w, folder, found, _, run = rebuilding
    run(0)
    said = json.loads(capsys.readouterr().out)
    assert said["release"] == str(found.digest)
    who = keys.load(w.workdir / "people/rebuilder", "rebuilder")
    assert said["link"] == f"links/build.{who.keyid[:8]}.link"
    release = verify.verify_release(folder, w.trust, worlds.now())
    assert [f.name for f in release.quorum.counted] == ["rebuilder"]


def refused(capsys):
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["exit"] == 8
    assert "not reproducible here: no link" in error["message"]
    return [(finding["code"], finding["where"]) for finding in error["findings"]]


def test_a_differing_product_gives_no_link(rebuilding, capsys):
    _, _, _, results, run = rebuilding
    finding = Finding("build.product.differs", "products/uki.efi", "a", "b", "first difference at byte 7")
    results["rebuilt"] = replace(results["rebuilt"], findings=(finding,))
    run(8)
    assert refused(capsys) == [("build.product.differs", "products/uki.efi")]


def test_differing_measurements_give_no_link(rebuilding, capsys):
    _, _, _, results, run = rebuilding
    results["measured"] = b"others"
    run(8)
    assert refused(capsys) == [("rebuild.product.differs", "statements/measurements.json")]


def test_differing_firmware_contents_and_derivations_are_all_named(rebuilding, capsys):
    _, _, _, results, run = rebuilding
    build = results["rebuilt"].build
    other = replace(
        build,
        firmware=(replace(build.firmware[0], digest=Digest.of(b"x")),),
        contents=(replace(build.contents[0], files=build.contents[0].files[1:]), *build.contents[1:]),
        derivations=build.derivations[1:],
    )
    results["rebuilt"] = replace(results["rebuilt"], build=other)
    run(8)
    assert [code for code, _ in refused(capsys)] == [
        "rebuild.firmware.differs",
        "rebuild.contents.differs",
        "rebuild.derivation.differs",
    ]


def test_a_release_that_is_damaged_is_not_rebuilt(rebuilding, capsys):
    _, folder, _, _, run = rebuilding
    (folder / "nix/default.nix").write_bytes(b"{ }: { evil = 1; }")
    run(5)
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "release.file.changed"


def test_a_product_that_was_not_rebuilt_is_named(rebuilding):
    _, _, found, _, _ = rebuilding
    from tallystick.release import links

    wanted = links.expected(found)
    (finding,) = rebuild.other_artifacts(found, replace(wanted, products=wanted.products[1:]))
    assert finding.got == "no such file"


def test_an_older_ssh_protocol_is_unsupported(rebuilding, capsys):
    w, folder, *_ = rebuilding
    arguments = ["rebuild", str(folder), "--as", "rebuilder", "--workdir", str(w.workdir), "--json"]
    assert _run([*arguments, "--store", "ssh://builder"]) == 4
    assert "want ssh-ng://HOST" in json.loads(capsys.readouterr().out)["error"]["message"]

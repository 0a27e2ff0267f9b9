"""tally init, sign and verify, as a user runs them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from release import world as worlds
from sbom import builds
from signing.boxes import BUILDER, SUBJECT, Box, spelled
from signing.sigstore_server import serving
from signing.test_keyless import DAVE, Keyless
from signing.test_managed import KEYS, pem, statement

from tallystick.cli import app
from tallystick.cli import workdir as workdirs
from tallystick.cli.demo import softtpm
from tallystick.core.errors import Exit
from tallystick.release import channel, keys, layout, tuf
from tallystick.release import index as indexes
from tallystick.release.records import HighWater
from tallystick.signing import trust as trust_file

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "pipeline")}
COMMAND = [sys.executable, "-m", "tallystick.cli"]


def tally(*arguments: object) -> tuple[int, dict]:
    """Run the command in this process with --json; return its exit code and its document."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = app._run([*map(str, arguments), "--json"])
    return code, json.loads(said.getvalue())


def refused(*arguments: object) -> tuple[int, str]:
    code, document = tally(*arguments)
    assert code == document["error"]["exit"]
    return code, document["error"]["code"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A work directory by `tally init`."""
    folder = tmp_path_factory.mktemp("init") / "work"
    code, document = tally("init", "--workdir", folder)
    assert code == Exit.OK
    return folder, document


def write_release(folder: Path, *, builder_id: str = worlds.CI) -> indexes.Index:
    built = builds.make(builds.FILES)
    worlds.unsigned(folder, built, builder_id=builder_id, platform="qemu-vtpm")
    products = {product.name: product.path for product in built.build.products}
    data = indexes.make(folder, name=built.build.name, version=built.build.version, products=products)
    (folder / indexes.FILE).write_bytes(data)
    return indexes.parse(data)


@pytest.fixture
def release(tmp_path):
    write_release(tmp_path / "release")
    return tmp_path / "release"


# init


def test_init_makes_what_the_embedded_defaults_need(made):
    folder, document = made
    assert document["made"] is True
    assert document["label"] == "embedded-dev"
    assert document["channels"] == ["debug", "staging", "production"]
    names = [person["name"] for person in document["people"]]
    assert names == ["alice", "bob", "carol", "ci-builder", "model-owner", "rebuilder"]
    trust = trust_file.load(folder / "trust.json")
    assert [builder.builder_id for builder in trust.builders] == ["https://tallystick.local/builders/ci"]
    assert [promoter.san for promoter in trust.promoters] == [f"{name}@example.org" for name in names[:3]]
    assert [signer.san for signer in trust.artifact_signers] == ["model-owner@example.org"]
    now = worlds.now()
    rules = layout.read(trust.layout, trust.layout_owners, now)
    assert ([one.name for one in rules.functionaries], rules.threshold) == (["rebuilder"], 1)
    for name in document["channels"]:
        place = tuf.Folder(folder / "channels" / name)
        state = place.verify(channel.pinned_root(trust, name), name, now, HighWater())
        assert [person.name for person in state.people] == ["alice", "bob", "carol"]
        keys.load(place.path, "online", file=tuf.ONLINE_KEY)


def test_what_is_secret_is_for_the_owner_alone(made):
    folder, _ = made
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    secret = [p for p in folder.rglob("*") if p.suffix in (".key", ".pem") and b"PRIVATE" in p.read_bytes()]
    assert len(secret) >= 15
    for path in secret:
        private = stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        assert private or stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0, path


@pytest.mark.skipif(shutil.which("swtpm_setup") is None, reason="swtpm is not installed")
def test_the_software_tpms_authority_is_pinned_by_its_key(made):
    folder, document = made
    assert document["endorsers"] == ["software-tpm"]
    (endorser,) = trust_file.load(folder / "trust.json").endorsers
    assert (endorser.kind, len(endorser.certificates)) == ("tpm-manufacturer", 2)


def test_a_second_run_changes_nothing_and_says_what_there_is(made):
    folder, document = made
    before = files(folder)
    code, again = tally("init", "--workdir", folder)
    assert code == Exit.OK
    assert again == document | {"made": False}
    assert files(folder) == before


@pytest.fixture
def without_swtpm(monkeypatch):
    """No program is found, so that no authority for software TPMs is made: that takes a second."""
    monkeypatch.setattr(softtpm.shutil, "which", lambda *_, **__: None)


@pytest.mark.usefixtures("without_swtpm")
def test_without_swtpm_it_says_so(tmp_path):
    found = workdirs.make(tmp_path / "work", worlds.now())
    assert found.trust.endorsers == ()
    assert "no authority for software TPMs" in found.notes[0]
    assert not (tmp_path / "work" / "tpm-ca").exists()


@pytest.mark.usefixtures("without_swtpm")
def test_a_folder_with_something_else_in_it_keeps_that(tmp_path):
    (tmp_path / "broker").mkdir()
    (tmp_path / "broker" / "store").write_text("mine")
    assert tally("init", "--workdir", tmp_path)[0] == Exit.OK
    assert (tmp_path / "broker" / "store").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [*(part for part in workdirs.PARTS if (tmp_path / part).exists()), "broker"]
    )


def test_a_part_without_the_others_is_not_ours_to_change(tmp_path):
    (tmp_path / "work" / "people" / "alice").mkdir(parents=True)
    (tmp_path / "work" / "people" / "alice" / "key.pem").write_text("precious")
    before = files(tmp_path)
    assert refused("init", "--workdir", tmp_path / "work") == (Exit.MISUSE, "workdir.partial")
    key = tmp_path / "work" / "people" / "alice" / "key.pem"
    assert refused("init", "--workdir", key) == (Exit.MISUSE, "workdir.file")
    assert refused("init", "--workdir", key / "below") == (Exit.UNREACHABLE, "file.unwritable")
    assert files(tmp_path) == before


def test_what_was_moved_goes_back_when_the_rest_can_not(tmp_path, monkeypatch):
    target, folder = tmp_path / "work", tmp_path / "new"
    target.mkdir()
    for part in workdirs.PARTS:
        (folder / part).mkdir(parents=True)
    real = Path.rename

    def rename(self: Path, other: Path) -> Path:
        if self.name == "channels" and other.parent == target:
            raise KeyboardInterrupt
        return real(self, other)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        workdirs._move(folder, target)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("after", [0.25, 0.8])
def test_ctrl_c_leaves_nothing_half_made(tmp_path, after):
    process = subprocess.Popen(
        [*COMMAND, "init", "--workdir", str(tmp_path / "work")],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    process.wait()
    there = sorted(p.name for p in tmp_path.iterdir())
    assert there in ([], ["work"])
    assert (tmp_path / "work" / "trust.json").exists() == bool(there)


@pytest.mark.usefixtures("without_swtpm")
def test_what_an_interrupted_run_left_does_not_hinder_the_next(tmp_path):
    (tmp_path / ".init.abc" / "people").mkdir(parents=True)  # killed -9, before it took its name
    assert tally("init", "--workdir", tmp_path / "work")[0] == Exit.OK


# sign


def test_sign_and_verify_a_release(made, release):
    folder, _ = made
    code, document = tally("sign", release, "--as", "ci-builder", "--workdir", folder)
    assert code == Exit.OK
    assert document["signer"]["san"] == "https://ci.example/builder"
    assert document["bundles"] == [
        f"bundles/{name}.sigstore.json" for name in ("index", "measurements", "provenance", "sbom")
    ]
    code, found = tally("verify", release, "--trust", folder / "trust.json")
    assert code == Exit.OK
    assert found["digest"] == document["digest"]
    assert found["labels"] == ["embedded-dev"]
    assert found["builder"]["builder_id"] == "https://tallystick.local/builders/ci"
    assert found["rebuilds"] == {"met": False, "threshold": 1, "agree": []}
    assert len(found["statements"]) == 4
    assert tally("verify", release, "--workdir", folder)[1] == found


def test_what_is_signed_is_not_signed_again_unasked(made, release):
    folder, _ = made
    arguments = ("sign", release, "--as", "ci-builder", "--workdir", folder)
    assert tally(*arguments)[0] == Exit.OK
    before = files(release)
    assert refused(*arguments) == (Exit.MISUSE, "sign.already")
    assert files(release) == before
    assert tally(*arguments, "--replace")[0] == Exit.OK
    after = files(release)
    assert [name for name in before if before[name] != after[name]] == [
        name for name in before if name.startswith("bundles/")
    ]


@pytest.mark.parametrize("path", ["products/uki.efi", "statements/sbom.json", "recipe.yaml", "extra"])
def test_a_release_that_is_not_as_its_index_says_is_not_signed(made, release, path):
    folder, _ = made
    with (release / path).open("ab") as stream:
        stream.write(b"x")
    code, document = tally("sign", release, "--as", "ci-builder", "--workdir", folder)
    assert code == Exit.NOT_GENUINE
    assert document["error"]["findings"][0]["where"] == path
    assert not (release / "bundles").exists()


@pytest.mark.parametrize("name", ["alice", "rebuilder"])
def test_nobody_signs_what_another_builder_made(made, release, name):
    folder, _ = made
    assert refused("sign", release, "--as", name, "--workdir", folder) == (Exit.REFUSED, "sign.builder-id")
    assert not (release / "bundles").exists()


def test_a_statement_of_another_kind_is_not_signed(made, tmp_path):
    folder, _ = made
    release = tmp_path / "release"
    write_release(release)
    shutil.copy(release / "statements/sbom.json", release / "statements/measurements.json")
    old = indexes.read(release)
    (release / indexes.FILE).unlink()
    data = indexes.make(release, name=old.name, version=old.version, products=dict(old.products))
    (release / indexes.FILE).write_bytes(data)
    arguments = ("sign", release, "--as", "ci-builder", "--workdir", folder)
    assert refused(*arguments) == (Exit.REFUSED, "sign.predicate-type")


def test_signing_needs_a_signer_and_a_release(made, release, tmp_path):
    folder, _ = made
    assert refused("sign", release, "--workdir", folder) == (Exit.MISUSE, "sign.who")
    both = ("--as", "alice", "--trust-config", tmp_path / "x")
    assert refused("sign", release, *both, "--workdir", folder) == (Exit.MISUSE, "sign.who")
    assert refused("sign", release, "--as", "alice", "--keyless", "--workdir", folder) == (
        Exit.MISUSE,
        "sign.who",
    )
    assert refused("sign", release, "--keyless") == (Exit.MISUSE, "sign.token")
    assert refused("sign", release, "--as", "dave", "--workdir", folder) == (Exit.MISUSE, "person.unknown")
    assert refused("sign", tmp_path, "--as", "alice", "--workdir", folder)[0] == Exit.MISUSE
    assert refused("sign", release, "--as", "alice", "--workdir", tmp_path / "none")[0] == Exit.MISUSE
    missing = ("--trust-config", tmp_path / "none.json")
    assert refused("sign", release, *missing) == (Exit.MISUSE, "file.missing")


def test_signing_against_a_sigstore_over_http(release, tmp_path):
    box = Box.make(tmp_path / "box")
    keyless = Keyless(box)
    with serving(box) as keyless.url:
        (tmp_path / "config.json").write_bytes(keyless.config)
        (tmp_path / "token").write_text(keyless.token() + "\n")
        real = ("sign", release, "--trust-config", tmp_path / "config.json")
        code, document = tally(*real, "--identity-token", tmp_path / "token")
        assert (code, document["signer"]["san"]) == (Exit.OK, DAVE.san)
        code, document = tally(*real, "--identity-token", keyless.token(), "--replace")
        assert code == Exit.OK
        assert refused(*real, "--identity-token", "eyJ.e30.", "--replace") == (Exit.MALFORMED, "malformed")
        before = files(release)
    down = refused(*real, "--identity-token", keyless.token(), "--replace")
    assert down == (Exit.UNREACHABLE, "sigstore.unreachable")
    assert files(release) == before


def test_the_public_sigstore_is_found_by_tuf(release, monkeypatch, tmp_path):
    """With no network it is unreachable; what its TUF repository says is what signing is given."""
    from functools import partial

    from sigstore.models import ClientTrustConfig

    from tallystick.signing import sigstore

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        ClientTrustConfig, "production", partial(ClientTrustConfig.from_tuf, "http://127.0.0.1:1")
    )
    token = ("--identity-token", "eyJ.e30.")
    assert refused("sign", release, "--keyless", *token) == (Exit.UNREACHABLE, "sigstore.unreachable")
    known = partial(ClientTrustConfig.from_tuf, "https://tuf-repo-cdn.sigstore.dev", offline=True)
    monkeypatch.setattr(ClientTrustConfig, "production", known)
    config = json.loads(sigstore.public_trust_config())
    assert config["signingConfig"]["caUrls"][0]["url"] == "https://fulcio.sigstore.dev"
    assert refused("sign", release, "--keyless", *token) == (Exit.MALFORMED, "malformed")  # the token


# verify a release


def test_a_trust_file_inside_the_release_is_no_trust(made, release):
    folder, _ = made
    shutil.copy(folder / "trust.json", release / "trust.json")
    assert refused("verify", release, "--trust", release / "trust.json") == (Exit.MISUSE, "trust.inside")
    (release.parent / "link.json").symlink_to(release / "trust.json")
    linked = refused("verify", release, "--trust", release.parent / "link.json")
    assert linked == (Exit.MISUSE, "trust.inside")


@pytest.mark.usefixtures("without_swtpm")
def test_a_release_of_another_sigstore_is_refused(made, release, tmp_path):
    folder, _ = made
    workdirs.make(tmp_path / "forger", worlds.now())
    assert tally("sign", release, "--as", "ci-builder", "--workdir", tmp_path / "forger")[0] == Exit.OK
    code, error = refused("verify", release, "--trust", folder / "trust.json")
    assert code == Exit.NOT_GENUINE
    assert error.startswith("bundle.")


def test_options_of_the_other_form_are_misuse(made, release, tmp_path):
    folder, _ = made
    (tmp_path / "b.json").write_text("{}")
    options = refused("verify", release, "--artifact", tmp_path / "b.json")
    assert options == (Exit.MISUSE, "verify.options")
    options = refused("verify", tmp_path / "b.json", "--trust", folder / "trust.json")
    assert options == (Exit.MISUSE, "verify.options")
    assert refused("verify", tmp_path / "b.json") == (Exit.MISUSE, "verify.options")


# verify a bundle


@pytest.fixture(scope="module")
def bundled(box, bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundled")
    (folder / "artifact").write_bytes(b"the artifact")
    (folder / "b.json").write_bytes(bundle)
    (folder / "root.json").write_bytes(box.root)
    (folder / "keyed.json").write_bytes(spelled(statement("P-256")))
    (folder / "key.pem").write_bytes(pem(KEYS["P-256"][0]))
    (folder / "other.pem").write_bytes(pem(KEYS["P-384"][0]))
    return folder


def asked(folder: Path, **changed: object) -> list[object]:
    options = {
        "artifact": folder / "artifact",
        "trusted-root": folder / "root.json",
        "identity": BUILDER.san,
        "issuer": BUILDER.issuer,
    } | changed
    given = [(f"--{name}", value) for name, value in options.items() if value is not None]
    return ["verify", folder / "b.json", *(part for pair in given for part in pair)]


def test_a_bundle_by_whom_it_should_be(bundled):
    for about in (bundled / "artifact", f"sha256:{SUBJECT.hex}"):
        code, document = tally(*asked(bundled, artifact=about))
        assert code == Exit.OK
        assert document["genuine"] is True
        assert document["signer"] == {"san": BUILDER.san, "issuer": BUILDER.issuer}
        assert document["artifact"] == f"sha256:{SUBJECT.hex}"


@pytest.mark.parametrize(
    ("changed", "want"),
    [
        ({"identity": "https://ci.example/build"}, (Exit.NOT_GENUINE, "bundle.identity")),
        ({"issuer": "https://accounts.google.com"}, (Exit.NOT_GENUINE, "bundle.identity")),
        ({"artifact": "sha256:" + "00" * 32}, (Exit.NOT_GENUINE, "bundle.subject")),
        ({"artifact": "none"}, (Exit.MISUSE, "file.missing")),
        ({"trusted-root": "none"}, (Exit.MISUSE, "file.missing")),
        ({"at": "2020-01-01T00:00:00Z"}, (Exit.NOT_GENUINE, "bundle.future")),
        ({"at": "yesterday"}, (Exit.MISUSE, "time.malformed")),
        ({"identity": None}, (Exit.MISUSE, "verify.options")),
        ({"issuer": None}, (Exit.MISUSE, "verify.options")),
        ({"trusted-root": None}, (Exit.MISUSE, "verify.options")),
    ],
)
def test_a_bundle_that_is_not_what_was_asked_for(bundled, changed, want):
    assert refused(*asked(bundled, **changed)) == want


def test_a_damaged_bundle_is_malformed_or_not_genuine(bundled, tmp_path):
    shutil.copytree(bundled, tmp_path, dirs_exist_ok=True)
    data = (bundled / "b.json").read_bytes()
    for damaged, want in (
        (data[:-9], Exit.MALFORMED),
        (data.replace(b"v0.3+json", b"v0.9+json"), Exit.UNSUPPORTED),
    ):
        (tmp_path / "b.json").write_bytes(damaged)
        assert refused(*asked(tmp_path))[0] == want


def test_a_bundle_of_a_bare_key(bundled):
    about = ("--artifact", bundled / "artifact")
    code, document = tally("verify", bundled / "keyed.json", *about, "--key", bundled / "key.pem")
    assert (code, document["signer"], document["log_checked"]) == (Exit.OK, None, False)
    wrong = refused("verify", bundled / "keyed.json", *about, "--key", bundled / "other.pem")
    assert wrong == (Exit.NOT_GENUINE, "bundle.key")
    unlogged = ("--key", bundled / "key.pem", "--trusted-root", bundled / "root.json")
    assert refused("verify", bundled / "keyed.json", *about, *unlogged) == (
        Exit.NOT_GENUINE,
        "bundle.log-entry",
    )
    both = ("--key", bundled / "key.pem", "--identity", "x")
    assert refused("verify", bundled / "keyed.json", *about, *both) == (Exit.MISUSE, "verify.options")


def test_words_for_people(bundled):
    done = subprocess.run(
        [*COMMAND, *map(str, asked(bundled))], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    assert done.stdout.startswith(f"genuine: b.json, signed by {BUILDER.san} at ")


@pytest.mark.parametrize("command", ["init", "sign", "verify"])
def test_help_loads_nothing_heavy(command):
    script = f"""
import sys
from tallystick.cli.app import run
try: run([{command!r}, "--help"])
except SystemExit: pass
heavy = {{"sigstore", "cryptography", "tuf", "in_toto", "requests"}} & set(sys.modules)
sys.exit(repr(heavy) if heavy else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert (done.returncode, done.stderr) == (0, "")

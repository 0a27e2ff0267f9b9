"""New weights, an image that stays: artifact releases from encryption to the key, with a real channel and broker."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from broker.world import Machine, Running, Ticking, endorser
from compile import realworld
from policy.policyworld import ROOT
from release import world as worlds
from signing.test_signing_cli import refused, tally

from tallystick.broker import opening, server
from tallystick.broker.config import BrokerConfig, Home, Lifetimes, Limits
from tallystick.broker.vault import Vault, key_id
from tallystick.core.digests import Digest
from tallystick.core.errors import NotGenuine, Refused
from tallystick.handshake import artifact, initdata, wrapping
from tallystick.handshake.jwe import TeeKeyPair
from tallystick.release import (
    approve,
    artifact_promote,
    artifact_seal,
    artifact_verify,
    channel,
    names,
    promote,
    revoke,
)
from tallystick.signing import trust as trust_file

URL = "http://10.0.2.100:8777"
IMAGE = "demo"
WEIGHTS = {"1": b"old weights " * 50_000, "2": b"new weights " * 70_000}
TOKENIZER = b'{"model": "letters"}'


def key(name: str, version: str) -> str:
    return f"letters/{name}/v{version}"


def secret(name: str, version: str) -> bytes:
    return Digest.of(f"{name} {version}".encode()).value


def policy(version: str, **more: str) -> str:
    """The policy that gives the keys of one version of the weights to machines that were launched with it."""
    text = realworld.policy().partition("  - target: trustee")[0].rstrip()
    for name in ("weights", "tokenizer"):
        text = text.replace(f"confidential-inference/{name}/v1", key(name, version))
    chosen = f'artifacts:\n  broker: {URL}\n  releases:\n    - {{name: letters, versions: ["{version}"]}}\n'
    text = text.replace("supply_chain:", f"{chosen}\nsupply_chain:", 1)
    for old, new in more.items():
        assert old in text
        text = text.replace(old, new)
    return text + "\n"


@dataclass
class Scene:
    """A work directory with one image release in staging, which nobody touches again."""

    folder: Path
    world: worlds.World

    def write(self, version: str, *, images: str = "1.2.3") -> None:
        """The owner's files of one version: weights, tokenizer, keys, recipe, policy."""
        place = self.folder / f"v{version}"
        place.mkdir()
        (place / "model.safetensors").write_bytes(WEIGHTS[version])
        (place / "tokenizer.json").write_bytes(TOKENIZER)
        for name in ("weights", "tokenizer"):
            (place / f"{name}.key").write_bytes(secret(name, version))
        (place / "policy.yaml").write_text(policy(version))
        (place / "recipe.yaml").write_text(
            f"""schema: tallystick/artifact-recipe/v1
name: letters
version: "{version}"
images: [{{name: {IMAGE}, versions: ["{images}"]}}]
artifacts:
  - name: weights
    kind: weights
    file: model.safetensors
    key: {key("weights", version)}
    card: {{task: text-generation, architecture: n-gram, limitations: [it counts letters], licence: Apache-2.0}}
  - {{name: tokenizer, kind: tokenizer, file: tokenizer.json, key: {key("tokenizer", version)}}}
"""
        )

    def keys(self, version: str) -> list[str]:
        place = self.folder / f"v{version}"
        found = []
        for name in ("weights", "tokenizer"):
            found += ["--key", f"{key(name, version)}={place / name}.key"]
        return found

    def encrypt(self, version: str, **options: str) -> Path:
        self.write(version, **options)
        place, out = self.folder / f"v{version}", self.folder / f"release-{version}"
        arguments = ("--policy", place / "policy.yaml", *self.keys(version), "-o", out)
        code, said = tally("artifact", "encrypt", place / "recipe.yaml", *arguments)
        assert (code, said.get("name")) == (0, "letters"), said
        return out

    def sign(self, folder: Path, name: str = "model-owner") -> None:
        manifest = artifact_seal.read(folder)
        payloads = [artifact_verify.statement(manifest), (folder / "sbom.json").read_bytes()]
        for what, bundle in zip(("artifacts", "sbom"), self.world.sign(name, payloads), strict=True):
            worlds.write(folder / names.bundle_file(what), bundle)

    def promote(self, folder: Path) -> Digest:
        artifact_promote.propose(self.world.desk(), folder, self.world.signatories["alice"])
        self.approve()
        return artifact_seal.read(folder).digest

    def approve(self) -> None:
        for name in ("bob", "carol"):
            approve.approve(
                self.world.desk(),
                self.world.signatories[name],
                lambda: self.world.online,
                lambda n, files, v: files,
            )

    def compile(self, version: str) -> tuple[int, dict]:
        out = self.folder / f"compiled-{version}"
        place = self.folder / f"v{version}/policy.yaml"
        return tally("compile", place, "-o", out, "--workdir", self.world.workdir)

    def enforce(self, version: str) -> None:
        code, said = self.compile(version)
        assert code == 0, said
        out = self.folder / f"compiled-{version}"
        files = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
        promote.propose_policy(self.world.desk(), said["policy"], files, self.world.signatories["alice"])
        self.approve()

    def load(self):
        place = self.world.workdir / "channels/staging"
        return channel.load(place, "staging", self.world.trust, worlds.now())

    def running(self):
        """A broker of the channel with every key, which all belong to it."""
        home, clock = Home(self.world.workdir / "broker"), Ticking(worlds.now())
        if not home.store.exists():
            opening.create(home)
            vault = Vault.open(home.vault)
            for version in WEIGHTS:
                for name in ("weights", "tokenizer"):
                    material = secret(name, version)
                    vault.bring(key_id(key(name, version)), material, channel="staging", now=clock.at)
        config = BrokerConfig(
            workdir=self.world.workdir,
            channel_dir=self.world.workdir / "channels/staging",
            channel="staging",
            trust=self.world.workdir / "trust.json",
            port=0,
            limits=Limits(),
            lifetimes=Lifetimes(),
        )
        trust = replace(self.world.trust, endorsers=(endorser(Digest.of(b"no key"), ()),))
        self.clock = clock
        return opening.open_broker(config, trust=trust, read_clock=clock)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return realworld.make(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def scene(base, tmp_path):
    shutil.copytree(base.folder, tmp_path, dirs_exist_ok=True)
    return Scene(tmp_path, base.moved(tmp_path).world)


def machine(folder: Path) -> Machine:
    """A machine that booted the image and was launched with the init-data of an artifact release."""
    return Machine(image="a", init_data=artifact_seal.init_data([artifact_seal.read(folder)], URL).decode())


def fetched(running: Running, one: Machine, name: str) -> tuple[int, object]:
    """Attest and fetch one key; return its bytes, or the broker's codes."""
    pair = TeeKeyPair.make()
    cookie, answer = running.attest(one, pair)
    assert answer.status == 200, answer.body
    reply = running.fetch(cookie, name)
    if reply.status == 200:
        return 200, pair.decrypt(reply.body)
    return reply.status, [finding["code"] for finding in reply.json.get("findings", [])] or reply.code


def opened(folder: Path, name: str, broker_key: bytes) -> bytes:
    """What a guest does with a key: unwrap for the measured manifest, decrypt, compare."""
    manifest = artifact_seal.read(folder)
    one = next(one for one in manifest.artifacts if one.name == name)
    data = (folder / "files" / one.file).read_bytes()
    header = artifact.read_header(io.BytesIO(data))
    wrapped = wrapping.parse((folder / "files" / f"{one.file}.key").read_bytes())
    data_key = wrapping.unwrap(wrapped, broker_key, wrapping.binding(manifest, one, header))
    plaintext = io.BytesIO()
    artifact.decrypt(io.BytesIO(data), plaintext, data_key, one.plaintext)
    return plaintext.getvalue()


def serve(scene: Scene):
    broker = scene.running()
    place = type("Place", (), {"clock": scene.clock})()
    return server.running(broker, server.listen("127.0.0.1", 0)), lambda url: Running(
        broker=broker, url=url, world=place
    )


def test_new_weights_get_a_new_key_and_the_image_stays(scene):
    first = scene.encrypt("1")
    scene.sign(first)
    scene.promote(first)
    images = [release.digest for release in scene.load().releases]
    scene.enforce("1")
    context, running = serve(scene)
    with context as url:
        status, given = fetched(running(url), machine(first), key("weights", "1"))
        assert (status, opened(first, "weights", given)) == (200, WEIGHTS["1"])

        second = scene.encrypt("2")
        scene.sign(second)
        digest = scene.promote(second)
        scene.enforce("2")
        live = running(url)
        status, given = fetched(live, machine(second), key("weights", "2"))
        assert (status, opened(second, "weights", given)) == (200, WEIGHTS["2"])
        assert fetched(live, machine(second), key("tokenizer", "2"))[0] == 200

        # the same image with the old manifest, and with no manifest of the channel at all
        status, codes = fetched(live, machine(first), key("weights", "2"))
        assert (status, codes) == (403, ["tpm.pcr08.mismatch"])
        other = Machine(image="a")
        assert fetched(live, other, key("weights", "2")) == (403, ["tpm.pcr08.mismatch"])
        # another image with the right manifest
        changed = replace(machine(second), image="b")
        assert "tpm.pcr11.mismatch" in fetched(live, changed, key("weights", "2"))[1]
        assert fetched(live, machine(first), key("weights", "1"))[0] == 403  # no policy names it any more
        # what one release's key opens, another's does not
        with pytest.raises(NotGenuine) as caught:
            opened(first, "weights", given)
        assert caught.value.code == "wrapping.key-bytes"

        who = scene.world.signatories["bob"]
        revoke.revoke(scene.world.desk(), digest, who, scene.world.online, "wrong weights")
        assert fetched(live, machine(second), key("weights", "2")) == (403, ["release.revoked"])
    assert [release.digest for release in scene.load().releases] == images
    assert [one.manifest.version for one in scene.load().artifacts] == ["1"]
    code, said = tally("channel", "show", "staging", "--workdir", scene.world.workdir)
    assert (code, said["artifacts"][0]["signed_by"]) == (0, "model-owner@example.org")


def test_a_policy_and_its_artifact_releases_are_made_for_each_other(scene):
    first = scene.encrypt("1")
    scene.sign(first)
    assert [f["code"] for f in scene.compile("1")[1]["error"]["findings"]] == ["artifact.missing"]
    scene.promote(first)
    place = scene.folder / "v1/policy.yaml"
    assert scene.compile("1")[0] == 0
    for change, codes in (
        ({"max_age_seconds: 300": "max_age_seconds: 200"}, ["artifact.policy"]),
        ({key("weights", "1"): "letters/weights/v9"}, ["artifact.policy", "artifact.key"]),
        ({'versions: ["1"]': 'versions: ["1", "3"]'}, ["artifact.missing", "artifact.policy"]),
    ):
        place.write_text(policy("1", **change))
        code, said = scene.compile("1")
        assert (code, [f["code"] for f in said["error"]["findings"]]) == (6, codes)


def test_an_incompatible_pair_is_refused_by_name(scene):
    first = scene.encrypt("1", images="0.9.0")
    scene.sign(first)
    scene.promote(first)
    code, said = scene.compile("1")
    assert code == 6
    assert [(f["code"], f["where"]) for f in said["error"]["findings"]] == [
        ("artifact.incompatible", f"release {IMAGE} 1.2.3"),
        ("artifact.incompatible", "artifact release letters 1"),
    ]
    assert "letters 1 for demo 0.9.0" in said["error"]["findings"][0]["message"]


def test_wrapped_again_for_another_policy_the_files_stay(scene):
    first = scene.encrypt("1")
    place = scene.folder / "v1/policy.yaml"
    place.write_text(policy("1", **{'versions: ["1"]': 'versions: ["1b"]'}))
    out = scene.folder / "again"
    arguments = ("--policy", place, *scene.keys("1"), "--version", "1b", "-o", out)
    assert tally("artifact", "rewrap", first, *arguments)[0] == 0
    for name in ("weights.tsenc", "tokenizer.tsenc"):
        assert (out / "files" / name).samefile(first / "files" / name)
    assert json.loads((out / "sbom.json").read_bytes())["predicate"]["components"][1]["modelCard"]
    scene.sign(out)
    scene.promote(out)
    assert scene.compile("1")[0] == 0
    assert opened(out, "weights", secret("weights", "1")) == WEIGHTS["1"]
    swapped = first / "files/weights.tsenc.key"
    shutil.copy(swapped, out / "files/weights.tsenc.key")
    with pytest.raises(NotGenuine) as caught:
        opened(out, "weights", secret("weights", "1"))
    assert [f.code for f in caught.value.findings] == ["wrapping.policy", "wrapping.release"]
    assert refused("artifact", "show", out) == (5, "wrapping.policy")


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda f: (f / "bundles/sbom.sigstore.json").unlink(), "artifact.file.missing"),
        (lambda f: (f / "files/weights.tsenc").write_bytes(b"x"), "artifact.ciphertext"),
        (lambda f: (f / "files/weights.tsenc.key").unlink(), "artifact.file.missing"),
    ],
)
def test_a_damaged_artifact_release_is_not_proposed(scene, damage, code):
    first = scene.encrypt("1")
    scene.sign(first)
    damage(first)
    with pytest.raises(NotGenuine) as caught:
        scene.promote(first)
    assert caught.value.code == code


def test_only_its_signers_words_count(scene):
    first = scene.encrypt("1")
    ask = ("artifact", "verify", first, "--workdir", scene.world.workdir)
    assert refused(*ask) == (5, "artifact.file.missing")
    scene.sign(first)
    code, said = tally(*ask)
    assert (code, said["genuine"], said["signer"]["san"]) == (0, True, "model-owner@example.org")
    shutil.rmtree(first / "bundles")
    scene.sign(first, "alice")
    with pytest.raises(NotGenuine) as caught:
        scene.promote(first)
    assert caught.value.code == "bundle.identity"
    scene.world = replace(scene.world, trust=replace(scene.world.trust, artifact_signers=()))
    with pytest.raises(Refused) as caught:
        scene.promote(first)
    assert caught.value.code == "artifact.signers"


def test_a_statement_about_another_manifest_or_sbom_is_refused(scene):
    first, second = scene.encrypt("1"), scene.encrypt("2")
    scene.sign(first)
    scene.sign(second)
    for bundle, code in (("artifacts", "artifact.statement"), ("sbom", "artifact.sbom")):
        whole = (first / names.bundle_file(bundle)).read_bytes()
        shutil.copy(second / names.bundle_file(bundle), first / names.bundle_file(bundle))
        with pytest.raises(NotGenuine) as caught:
            scene.promote(first)
        assert caught.value.code == code
        (first / names.bundle_file(bundle)).write_bytes(whole)
    scene.promote(first)
    with pytest.raises(Refused, match="it is there"):
        scene.promote(first)


def test_the_sbom_has_models_with_their_cards(scene):
    first = scene.encrypt("1")
    bom = json.loads((first / "sbom.json").read_bytes())["predicate"]
    weights = next(part for part in bom["components"] if part["name"] == "weights")
    assert weights["type"] == "machine-learning-model"
    assert weights["modelCard"]["modelParameters"]["task"] == "text-generation"
    assert weights["hashes"] == [{"alg": "SHA-256", "content": Digest.of(WEIGHTS["1"]).hex}]
    (first / "bom.json").write_text(json.dumps(bom))
    assert tally("sbom", "check", first / "bom.json")[0] == 0


def test_the_commands_as_a_new_user_with_garbage(scene, tmp_path):
    first = scene.encrypt("1")
    place = scene.folder / "v1"
    out, garbage = scene.folder / "out", scene.folder / "garbage"
    garbage.write_bytes(b"\xff\x00{")
    policy_file = ("--policy", place / "policy.yaml")
    recipe = place / "recipe.yaml"
    assert tally("artifact", "show", first)[0] == 0
    assert tally("artifact", "show", first / "files/weights.tsenc")[1]["size"] == len(WEIGHTS["1"])
    weights = ("artifact", "decrypt", first, "weights", "--key", place / "weights.key", "-o", out)
    assert tally(*weights)[0] == 0
    assert out.read_bytes() == WEIGHTS["1"]
    assert out.stat().st_mode & 0o777 == 0o600
    assert refused(*weights) == (2, "artifact.output")
    out.unlink()
    wrong = ("artifact", "decrypt", first, "weights", "--key", place / "tokenizer.key", "-o", out)
    assert refused(*wrong) == (5, "wrapping.key-bytes")
    assert refused("artifact", "decrypt", first, "poem", "--key", garbage, "-o", out) == (
        2,
        "artifact.unknown",
    )
    damaged = bytearray((first / "files/weights.tsenc").read_bytes())
    damaged[-1] ^= 1
    (first / "files/weights.tsenc").write_bytes(damaged)
    assert refused(*weights) == (5, "artifact.chunk")
    assert [p.name for p in scene.folder.iterdir() if p.name.startswith(".out")] == []
    assert not out.exists()
    assert refused("artifact", "show", first) == (5, "artifact.ciphertext")
    assert refused("artifact", "show", garbage)[0] == 3
    assert refused("artifact", "show", scene.folder / "none") == (2, "file.missing")
    assert refused("artifact", "show", place) == (2, "file.missing")
    for arguments, codes in (
        ((recipe, *policy_file, "-o", out, "--key", "x"), (2, "option.pair")),
        ((recipe, *policy_file, "-o", out, "--key", f"a/b/c={garbage}"), (2, "artifact.key.missing")),
        ((recipe, *policy_file, "-o", first, *scene.keys("1")), (2, "artifact.output")),
        ((recipe, "--policy", garbage, "-o", out, *scene.keys("1")), (3, "malformed")),
        ((garbage, *policy_file, "-o", out, *scene.keys("1")), (3, "malformed")),
        ((ROOT / "policies/clean-room.yaml", *policy_file, "-o", out, *scene.keys("1")), (4, "unsupported")),
    ):
        assert refused("artifact", "encrypt", *arguments) == codes
        assert not out.exists()
    (place / "model.safetensors").unlink()
    assert refused("artifact", "encrypt", recipe, *policy_file, "-o", out, *scene.keys("1")) == (
        2,
        "file.missing",
    )
    assert not out.exists()
    data = scene.folder / "init-data.toml"
    assert tally("artifact", "init-data", first, "--broker", URL, "-o", data)[0] == 0
    assert initdata.broker_url(initdata.parse(data.read_bytes())) == URL
    assert refused("artifact", "init-data", first, first, "--broker", URL, "-o", data)[0] == 3
    assert refused("artifact", "sign", first) == (2, "sign.who")
    assert trust_file.load(scene.world.workdir / "trust.json").artifact_signers

"""A model on disk: every name, size and byte counts; what lies there and what is signed are held together."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Unreachable
from tallystick.formats import intoto, oms
from tallystick.formats.oms import HashType, Method, Serialization
from tallystick.handshake import initdata
from tallystick.handshake.manifest import Artifact, Images, Manifest, encode_all
from tallystick.measure import hostdata
from tallystick.measure import model as models

ROOT = Path(__file__).resolve().parents[2]
INDEX = {"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
FILES = {
    "config.json": b"{}",
    "model-1.safetensors": b"one" * 1000,
    "model-2.safetensors": b"two" * 1000,
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
    "tokenizer.json": b"{}",
    "empty.txt": b"",
    "sub/vocab.txt": b"a\nb\n",
}


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "net", FILES)


def write(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_every_file_is_there_with_its_digest_and_role(folder):
    found = models.read(folder)
    assert {one.name: one.sha256.hex for one in found.files} == {
        name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()
    }
    assert {role: len(found.of_role(role)) for role in ("weights", "tokenizer", "index", "other")} == {
        "weights": 2, "tokenizer": 2, "index": 1, "other": 2,
    }  # fmt: skip
    assert found.manifest.model == "net"
    assert found.manifest.statement() == models.read(folder).manifest.statement()
    assert json.loads(models.document(found.files))["files"][0] == {
        "name": "config.json", "sha256": hashlib.sha256(b"{}").hexdigest(), "size": 2,
    }  # fmt: skip


def test_a_single_file_goes_by_its_own_name(folder):
    found = models.read(folder / "tokenizer.json")
    assert [one.name for one in found.files] == ["tokenizer.json"]
    assert found.manifest.resources[0].name == "tokenizer.json"


def test_a_rename_that_keeps_the_order_moves_our_digest_and_not_omss_root(folder):
    before = models.read(folder)
    (folder / "tokenizer.json").rename(folder / "tokenizer.jsom")
    after = models.read(folder)
    assert before.manifest.root == after.manifest.root
    assert before.digest != after.digest


@pytest.mark.parametrize("kind", list(HashType))
def test_shards_are_hashed_range_by_range(folder, kind):
    made = Serialization(method=Method.SHARDS, hash_type=kind, shard_bytes=1000)
    found = models.read(folder, made)
    digests = {one.name: one.digest for one in found.manifest.resources}
    data = FILES["model-1.safetensors"]
    second = kind.hasher()
    second.update(memoryview(data)[2000:])
    assert digests["model-1.safetensors:2000:3000"] == second.hexdigest()
    assert not any(name.startswith("empty.txt") for name in digests)
    assert found.digest == models.read(folder).digest  # however it is serialised
    assert oms.parse(intoto.parse(found.manifest.statement())) == found.manifest


def test_what_is_left_out_is_left_out_at_the_top_alone(folder):
    write(folder, {".git/HEAD": b"x", "sub/.git/HEAD": b"x", "notes/a": b"x", "notes.md": b"x"})
    names = [one.name for one in models.read(folder, Serialization(ignore_paths=("notes",))).files]
    assert names == sorted([*FILES, "sub/.git/HEAD", "notes.md"])


def signed(path, serialization=None):
    return oms.parse(intoto.parse(models.read(path, serialization).manifest.statement()))


def changed_byte(folder):
    (folder / "model-1.safetensors").write_bytes(b"onE" + FILES["model-1.safetensors"][3:])


CHANGES = [
    (changed_byte, "differs", "model-1.safetensors"),
    (lambda f: (f / "config.json").unlink(), "missing", "config.json"),
    (lambda f: (f / "more.bin").write_bytes(b""), "added", "more.bin"),
]


@pytest.mark.parametrize(("change", "code", "name"), CHANGES)
def test_a_model_that_is_not_the_signed_one_is_refused_by_file(folder, change, code, name):
    manifest = signed(folder)
    models.check(models.read(folder), manifest)
    change(folder)
    with pytest.raises(NotGenuine) as caught:
        models.check(models.read(folder), manifest)
    assert [(one.code, one.where) for one in caught.value.findings] == [(f"model.file.{code}", name)]


def test_a_command_line_binds_the_model_once(folder):
    found = models.read(folder)
    word = models.argument(found)
    models.check_cmdline(found, f"quiet {word} panic=-1")
    for text in ("quiet", f"{word} {word}", word[:-1] + ("0" if word[-1] != "0" else "1"), "tally.model"):
        with pytest.raises(NotGenuine) as caught:
            models.check_cmdline(found, text)
        assert caught.value.code == "model.cmdline.unbound"


def test_init_data_binds_the_model_by_its_list(folder):
    found = models.read(folder)
    bound = initdata.make({models.INIT_DATA_NAME: models.document(found.files).decode()})
    models.check_init_data(found, hostdata.init_data(bound).data)
    changed_byte(folder)
    for data in (bound, initdata.make({"other": "x"})):
        with pytest.raises(NotGenuine) as caught:
            models.check_init_data(models.read(folder), hostdata.init_data(data).data)
        assert caught.value.code == "model.initdata.unbound"


def test_init_data_binds_the_model_by_its_artifacts(folder):
    found = models.read(folder)
    artifacts = tuple(
        Artifact(
            name=f"a{n}", kind="other", file=f"a{n}.tsenc", size_bytes=one.size_bytes,
            ciphertext=Digest.of(b"c"), plaintext=one.sha256, key="a/b/c",
        )
        for n, one in enumerate(found.files)
    )  # fmt: skip
    images = (Images(name="image", versions=("1",)),)
    manifest = Manifest(name="net", version="1", policy=Digest.of(b"p"), images=images, artifacts=artifacts)
    bound = initdata.make({initdata.ARTIFACTS: encode_all([manifest]).decode()})
    models.check_init_data(found, hostdata.init_data(bound).data)
    changed_byte(folder)
    with pytest.raises(NotGenuine) as caught:
        models.check_init_data(models.read(folder), hostdata.init_data(bound).data)
    assert [one.where for one in caught.value.findings] == ["model-1.safetensors"]


def test_an_index_names_files_that_are_there(folder):
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(Malformed, match="weight_map: want files of this model, got model-2"):
        models.read(folder)
    (folder / "model.safetensors.index.json").write_bytes(b"[]")
    with pytest.raises(Malformed, match="weight_map: want tensors with their files"):
        models.read(folder)


def test_links_and_devices_are_refused(folder):
    (folder / "sub/link").symlink_to("vocab.txt")
    with pytest.raises(Malformed, match="sub/link: want regular files and folders, got a symbolic link"):
        models.read(folder)
    (folder / "sub/link").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(Malformed, match="pipe: want regular files and folders, got a special file"):
        models.read(folder)


def test_nothing_is_no_model(tmp_path):
    with pytest.raises(Malformed, match="want at least one file"):
        models.read(tmp_path)
    with pytest.raises(Misuse, match="there is nothing at"):
        models.read(tmp_path / "none")
    with pytest.raises(Malformed, match="want a file or a folder"):
        models.read(Path("/dev/null"))


def test_a_name_that_is_no_text_is_refused(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.bin")).write_bytes(b"x")
    with pytest.raises(Malformed, match="a name in UTF-8"):
        models.read(tmp_path)


def test_a_file_that_changes_while_it_is_read_is_refused(folder, monkeypatch):
    real = os.readv

    def growing(handle, buffers):
        with (folder / "config.json").open("ab") as more:
            more.write(b" ")
        return real(handle, buffers)

    monkeypatch.setattr(os, "readv", growing)
    with pytest.raises(Unreachable, match="changes while it is read"):
        models.read(folder / "config.json")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(0, 70), shard=st.integers(1, 40), flip=st.integers(0, 69))
def test_no_changed_byte_goes_unseen(tmp_path, size, shard, flip):
    data = bytearray(hashlib.shake_128(b"x").digest(size))
    path = tmp_path / "w.bin"
    path.write_bytes(data)
    made = Serialization(method=Method.SHARDS, shard_bytes=shard) if size else Serialization()
    before = models.read(path, made)
    data[flip % max(size, 1) : flip % max(size, 1) + 1] = b"" if not size else bytes([data[flip % size] ^ 1])
    path.write_bytes(data)
    after = models.read(path, made)
    assert (before.digest != after.digest) == (before.manifest != after.manifest) == bool(size)


def run(*arguments):
    command = [sys.executable, "-m", "tallystick.cli", "measure", *map(str, arguments)]
    found = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT / "pipeline")}
    )
    return found.returncode, found.stdout


def test_the_command_writes_a_statement_and_holds_the_model_against_it(folder, tmp_path):
    code, out = run("model", folder, "--json", "-o", tmp_path / "m.json")
    assert code == 0
    said = json.loads(out)
    assert said["model"] == str(models.read(folder).digest)
    assert said["bind"]["cmdline"] == f"tally.model={said['model']}"
    assert said["oms_root"] == str(Digest.parse(said["oms_root"]))
    assert run("model", folder, "--manifest", tmp_path / "m.json")[0] == 0
    changed_byte(folder)
    code, out = run("model", folder, "--manifest", tmp_path / "m.json", "--json")
    assert code == 5
    assert json.loads(out)["error"]["findings"][0]["where"] == "model-1.safetensors"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["model", "/nonexistent"], 2),
        (["model", ".", "--method", "tar"], 2),
        (["model", ".", "--hash", "md5"], 4),
        (["model", ".", "--ignore", "../x"], 3),
        (["model", ".", "--shard-size", "5"], 2),
        (["initdata", __file__], 3),
        (["cce", "/dev/zero"], 3),
        (["initdata", "/dev/null", "--evidence", __file__], 3),
        (["cce", "/dev/null"], 3),
    ],
)
def test_garbage_has_its_exit_code(arguments, code):
    assert run(*arguments)[0] == code


@pytest.mark.slow
def test_a_large_file_needs_little_memory(tmp_path):
    path = tmp_path / "w.safetensors"
    with path.open("wb") as stream:
        stream.truncate(1 << 30)
    limit = 1 << 29  # of address space, below the file's size
    found = subprocess.run(
        [sys.executable, "-m", "tallystick.cli", "measure", "model", str(path)],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "pipeline"), "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert found.returncode == 0, found.stderr

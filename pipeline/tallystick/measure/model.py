"""A model's digest: every file with its name, size and SHA-256, and the two places where a launch measures it.

The OMS root digest covers no names, so weights renamed in order have the same root. What is bound into a
measured command line or init-data is therefore the digest of a list with names (docs/decisions/0087).

Source: ossf/model-signing-spec, spec/v1.0.md 6 (enumeration); huggingface/transformers for the names of files.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Unreachable
from tallystick.core.findings import Finding
from tallystick.formats import oms
from tallystick.formats.oms import HashType, Manifest, Serialization
from tallystick.handshake import initdata
from tallystick.handshake import manifest as manifests

SCHEMA = "tallystick/model/v1"
ARGUMENT = "tally.model"  # kernel command line: tally.model=sha256:<hex>
INIT_DATA_NAME = "model.json"  # in the [data] table of init-data
_WHAT = "model"
_BLOCK_BYTES = 1 << 20
_THREADS = 2  # hashlib lets other threads run; more would only fill memory with blocks
_MAX_FILES = 100_000
_MAX_INDEX_BYTES = 64 << 20

WEIGHTS, TOKENIZER, INDEX, OTHER = "weights", "tokenizer", "index", "other"
_INDEX_NAME = re.compile(r".+\.(safetensors|bin|h5)\.index\.json")
_WEIGHTS_NAME = re.compile(
    r".+\.(safetensors|gguf|ggml|bin|pt|pth|onnx|onnx_data|h5|msgpack|ckpt|npz|tflite)"
)
_TOKENIZER_NAME = re.compile(
    r"tokenizer([._].*)?|vocab\..+|merges\.txt|special_tokens_map\.json|added_tokens\.json"
    r"|sentencepiece.*\.model|spiece\.model|chat_template\..+"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """One file of a model."""

    name: str  # relative, with "/"
    sha256: Digest
    size_bytes: int

    @property
    def role(self) -> str:
        """What the file is for, by its name: ``weights``, ``tokenizer``, ``index`` or ``other``."""
        base = self.name.rsplit("/", 1)[-1]
        for role, pattern in ((INDEX, _INDEX_NAME), (TOKENIZER, _TOKENIZER_NAME), (WEIGHTS, _WEIGHTS_NAME)):
            if pattern.fullmatch(base):
                return role
        return OTHER


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model as it lies on disk."""

    files: tuple[ModelFile, ...]  # sorted by name
    manifest: Manifest  # the same as OMS has it

    def of_role(self, role: str) -> tuple[ModelFile, ...]:
        """Return the files of one role."""
        return tuple(file for file in self.files if file.role == role)

    @property
    def digest(self) -> Digest:
        """SHA-256 of :func:`document`: it binds every name, size and content."""
        return digest_of(self.files)


def document(files: Sequence[ModelFile]) -> bytes:
    """Return the list of ``files`` as RFC 8785 bytes, schema ``tallystick/model/v1``."""
    import rfc8785

    listed: list[dict[str, Any]] = [
        {"name": file.name, "sha256": file.sha256.hex, "size": file.size_bytes} for file in files
    ]
    return rfc8785.dumps({"schema": SCHEMA, "files": listed})


def digest_of(files: Sequence[ModelFile]) -> Digest:
    """Return the digest that binds ``files``: SHA-256 of their list."""
    return Digest.of(document(files))


def argument(model: Model) -> str:
    """Return what a measured kernel command line says of ``model``."""
    return f"{ARGUMENT}={model.digest}"


def read(path: Path, serialization: Serialization | None = None) -> Model:
    """Return the model at ``path``, a file or a folder, each byte read once and at most two files at a time.

    Args:
        serialization: how its OMS manifest is made; whole files under SHA-256 when not given.

    Raises:
        Misuse: there is nothing at ``path``.
        Malformed: no file in it, a symbolic link or device, a name that is not UTF-8, or an index that names
            weights which are not there.
        Unreachable: a file can not be read, or changes while it is.
    """
    made = serialization or Serialization()
    found = sorted(_enumerate(path, made), key=lambda pair: pair[0])
    if not found:
        raise Malformed(_WHAT, at=str(path), want="at least one file", got="none")
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        hashed = list(pool.map(lambda pair: _hash(pair[0], pair[1], made), found))
    entries = {name: digest for _, parts in hashed for name, digest in parts.items()}
    files = tuple(file for file, _ in hashed)
    _check_indexes(dict(found), files)
    return Model(files=files, manifest=oms.make(path.resolve().name, made, entries))


def check(model: Model, signed: Manifest) -> None:
    """Hold ``model``, made with the manifest's own serialization, against ``signed`` (spec 8.4).

    Raises:
        NotGenuine: with a finding for each file that is missing, added or another one.
    """
    want = {one.name: one.digest for one in signed.resources}
    got = {one.name: one.digest for one in model.manifest.resources}
    findings = [
        Finding(f"model.file.{code}", name, want.get(name, "no such file"), got.get(name, "no such file"))
        for name in sorted(want.keys() | got.keys())
        for code in ("missing" if name not in got else "added" if name not in want else "differs",)
        if want.get(name) != got.get(name)
    ]
    if findings:
        raise NotGenuine(
            f"the model is not the one of the manifest: {findings[0].message}", findings=findings
        )


def check_cmdline(model: Model, cmdline: str) -> None:
    """Hold ``model`` against the kernel command line that is measured.

    Raises:
        NotGenuine: the command line names no model, several, or another one.
    """
    named = [word for word in cmdline.split() if word.split("=", 1)[0] == ARGUMENT]
    if named != [argument(model)]:
        raise _unbound("cmdline", argument(model), " ".join(named) or f"no {ARGUMENT}=")


def check_init_data(model: Model, data: Sequence[tuple[str, str]]) -> None:
    """Hold ``model`` against the ``data`` table of init-data.

    It binds the model by the list of its files, byte for byte (``model.json``), or by artifacts manifests that
    name every file's digest as the plaintext of an encrypted one (``artifacts.json``, docs/decisions/0081).

    Raises:
        NotGenuine: neither is in it, or it is of other files.
        Malformed, Unsupported: an artifacts manifest that is none.
    """
    texts = dict(data)
    want = document(model.files)
    if INIT_DATA_NAME in texts:
        got = texts[INIT_DATA_NAME].encode("utf-8", "surrogatepass")
        if got != want:
            raise _unbound("initdata", str(Digest.of(want)), str(Digest.of(got)))
        return
    if initdata.ARTIFACTS not in texts:
        raise _unbound("initdata", str(Digest.of(want)), f"no {INIT_DATA_NAME} and no {initdata.ARTIFACTS}")
    listed = manifests.parse_all(texts[initdata.ARTIFACTS].encode("utf-8", "surrogatepass"))
    named = {one.plaintext for manifest in listed for one in manifest.artifacts}
    findings = [
        Finding("model.initdata.unbound", file.name, str(file.sha256), f"not in {initdata.ARTIFACTS}")
        for file in model.files
        if file.sha256 not in named
    ]
    if findings:
        raise NotGenuine(findings[0].message, findings=findings)


def _unbound(where: str, want: str, got: str) -> NotGenuine:
    finding = Finding(f"model.{where}.unbound", where, want, got)
    return NotGenuine(finding.message, findings=[finding])


def _enumerate(path: Path, made: Serialization) -> Iterator[tuple[str, Path]]:
    """Give the name and place of every regular file, what is left out apart."""
    try:
        mode = path.stat().st_mode  # what the user names may be a link; what lies inside may not
    except FileNotFoundError:
        raise Misuse(f"{_WHAT}: there is nothing at {path}", code="file.missing") from None
    except OSError as error:
        raise Unreachable(f"{_WHAT}: {path}: {error.strerror}", code="file.unreadable") from None
    if stat.S_ISREG(mode):
        yield _name(path.resolve().name), path
        return
    if not stat.S_ISDIR(mode):
        raise Malformed(_WHAT, at=str(path), want="a file or a folder", got="neither")
    for count, found in enumerate(_inside(path, "", made)):
        if count == _MAX_FILES:
            raise Malformed(_WHAT, at=str(path), want=f"at most {_MAX_FILES} files", got="more")
        yield found


def _inside(folder: Path, before: str, made: Serialization) -> Iterator[tuple[str, Path]]:
    try:
        with os.scandir(folder) as entries:
            listed = list(entries)
    except OSError as error:
        raise Unreachable(f"{_WHAT}: {folder}: {error.strerror}", code="file.unreadable") from None
    for entry in listed:
        name = before + _name(entry.name)
        if made.ignores(name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _inside(Path(entry.path), f"{name}/", made)
        elif entry.is_file(follow_symlinks=False):
            yield name, Path(entry.path)
        else:
            kind = "a symbolic link" if entry.is_symlink() else "a special file"
            raise Malformed(_WHAT, at=name, want="regular files and folders", got=kind)


def _name(name: str) -> str:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise Malformed(_WHAT, at=ascii(name), want="a name in UTF-8", got="other bytes") from None
    return name


def _hash(name: str, path: Path, made: Serialization) -> tuple[ModelFile, dict[str, str]]:
    """Return the file and the digests of its entries; every byte is read once."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise Unreachable(f"{_WHAT}: {path}: {error.strerror}", code="file.unreadable") from None
    try:
        size = os.fstat(handle).st_size
        whole = HashType.SHA256.hasher()
        entries: dict[str, str] = {}
        at, view = 0, memoryview(bytearray(_BLOCK_BYTES))
        for entry, start, end in oms.ranges(name, size, made):
            part = None if made == Serialization(ignore_paths=made.ignore_paths) else made.hash_type.hasher()
            at = start
            while at < end and (got := os.readv(handle, [view[: min(_BLOCK_BYTES, end - at)]])):
                whole.update(view[:got])
                if part is not None:
                    part.update(view[:got])
                at += got
            if at < end:
                break
            entries[entry] = (whole if part is None else part).hexdigest()
        if at != size or os.read(handle, 1):
            raise Unreachable(f"{_WHAT}: {path} changes while it is read", code="file.changing")
    except OSError as error:
        raise Unreachable(f"{_WHAT}: {path}: {error.strerror}", code="file.unreadable") from None
    finally:
        os.close(handle)
    return ModelFile(name=name, sha256=Digest.parse(f"sha256:{whole.hexdigest()}"), size_bytes=size), entries


def _check_indexes(places: dict[str, Path], files: Sequence[ModelFile]) -> None:
    """An index names the file of every tensor: all of them must be there.

    Source: huggingface/transformers, ``model.safetensors.index.json``: ``weight_map`` from tensor to file.
    """
    for file in files:
        if file.role != INDEX:
            continue
        if file.size_bytes > _MAX_INDEX_BYTES:
            raise Malformed(
                _WHAT, at=file.name, want=f"at most {_MAX_INDEX_BYTES} bytes", got=str(file.size_bytes)
            )
        data = places[file.name].read_bytes()
        if Digest.of(data) != file.sha256:
            raise Unreachable(f"{_WHAT}: {file.name} changes while it is read", code="file.changing")
        index = jsondoc.loads(data, file.name)
        weights = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weights, dict) or not all(isinstance(one, str) for one in weights.values()):
            raise Malformed(_WHAT, at=f"{file.name} weight_map", want="tensors with their files", got="none")
        folder = file.name.rpartition("/")[0]
        missing = sorted({f"{folder}/{one}" if folder else one for one in weights.values()} - places.keys())
        if missing:
            raise Malformed(_WHAT, at=f"{file.name} weight_map", want="files of this model", got=missing[0])

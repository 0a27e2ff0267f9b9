"""Artifact releases are made: every file encrypted under a data key of its own, which is wrapped for the broker's key.

A folder of an artifact release has ``artifacts.json`` (the manifest, whose digest is the release) and ``files/`` with
each encrypted artifact and, beside it, its wrapped data key.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tallystick.core.digests import Digest
from tallystick.core.errors import Misuse, Unreachable
from tallystick.core.files import file_digest, read_file, write_file
from tallystick.handshake import artifact, initdata, wrapping
from tallystick.handshake import manifest as manifests
from tallystick.handshake.artifact import Header
from tallystick.handshake.manifest import Artifact, Images, Manifest

MANIFEST = "artifacts.json"
FILES = "files"
SUFFIX = ".tsenc"
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One artifact before it is encrypted."""

    name: str  # "weights"
    kind: str
    path: Path
    key: str  # KBS resource path of the broker's key


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an artifact release is to be, beside its files."""

    name: str
    version: str
    policy: Digest  # sha256 of the policy file
    images: tuple[Images, ...]  # sorted by name
    chunk_bytes: int = artifact.CHUNK_BYTES


def seal(folder: Path, plan: Plan, parts: Iterable[Part], keys: Mapping[str, bytes]) -> Manifest:
    """Encrypt ``parts`` into ``folder`` and write the manifest that names them.

    Each file is read twice, once for its digest; memory holds one chunk.

    Args:
        folder: an empty folder, which the caller gives its name when all is done.
        keys: the broker's keys by their KBS resource path.

    Raises:
        Misuse: a file or a key is missing. Malformed: a name that no manifest may have.
        Unreachable: a file changes while it is read (``file.changing``).
    """
    (folder / FILES).mkdir(parents=True)
    sealed: dict[str, tuple[Header, bytes]] = {}
    listed: list[Artifact] = []
    for part in sorted(parts, key=lambda part: part.name):
        if part.key not in keys:
            raise Misuse(f"{part.name}: the key {part.key} is not given", code="artifact.key.missing")
        file = part.name + SUFFIX
        manifests.check_names(part.name, file)
        data_key = secrets.token_bytes(artifact.KEY_BYTES)
        header = _encrypt(part.path, folder / FILES / file, data_key, plan.chunk_bytes)
        sealed[part.name] = (header, data_key)
        listed.append(
            Artifact(
                name=part.name,
                kind=part.kind,
                file=file,
                size_bytes=header.size_bytes,
                ciphertext=file_digest(folder / FILES / file),
                plaintext=header.plaintext,
                key=part.key,
            )
        )
    manifest = Manifest(
        name=plan.name,
        version=plan.version,
        policy=plan.policy,
        images=plan.images,
        artifacts=tuple(listed),
    )
    write_file(folder / MANIFEST, manifest.encode())
    for one in listed:
        header, data_key = sealed[one.name]
        bound = wrapping.binding(manifest, one, header)
        wrapped = wrapping.wrap(data_key, keys[one.key], bound, nonce=secrets.token_bytes(_NONCE_BYTES))
        write_file(folder / FILES / (one.file + wrapping.SUFFIX), wrapped)
    return manifest


def rewrap(
    folder: Path, work: Path, plan: Plan, keys: Mapping[str, bytes], renamed: Mapping[str, str]
) -> Manifest:
    """Write into ``work`` the release of ``folder`` under another policy, version or key: nothing is encrypted again.

    The encrypted files are linked, not copied, where the file system can.

    Args:
        keys: the broker's keys by path, those that the data keys are wrapped under now and the new ones.
        renamed: artifact name -> path of its new key, for those that get one.

    Raises:
        NotGenuine: a data key does not unwrap. Misuse: a key is missing, or an artifact is not there.
    """
    old = read(folder)
    unknown = sorted(renamed.keys() - {one.name for one in old.artifacts})
    if unknown:
        raise Misuse(f"{folder} has no artifact {', '.join(unknown)}", code="artifact.unknown")
    listed = tuple(replace(one, key=renamed.get(one.name, one.key)) for one in old.artifacts)
    manifest = Manifest(
        name=plan.name,
        version=plan.version,
        policy=plan.policy,
        images=plan.images,
        artifacts=listed,
    )
    for path in sorted({one.key for one in (*old.artifacts, *listed)} - keys.keys()):
        raise Misuse(f"the key {path} is not given", code="artifact.key.missing")
    write_file(work / MANIFEST, manifest.encode())
    (work / FILES).mkdir()
    for before, after in zip(old.artifacts, listed, strict=True):
        place = folder / FILES / before.file
        data = read_file(
            place.with_name(before.file + wrapping.SUFFIX), "wrapped key", max_bytes=wrapping.MAX_BYTES
        )
        made = wrapping.rewrap(
            data,
            keys[before.key],
            keys[after.key],
            key=after.key,
            policy=manifest.policy,
            release=manifest.digest,
            nonce=secrets.token_bytes(_NONCE_BYTES),
        )
        _link(place, work / FILES / after.file)
        write_file(work / FILES / (after.file + wrapping.SUFFIX), made)
    return manifest


def read(folder: Path) -> Manifest:
    """Return the manifest of the artifact release in ``folder``; its files are not looked at.

    Raises:
        Misuse: there is none. Malformed, Unsupported: as :func:`tallystick.handshake.manifest.parse`.
    """
    return manifests.parse(read_file(folder / MANIFEST, "artifacts manifest", max_bytes=manifests.MAX_BYTES))


def init_data(releases: Iterable[Manifest], broker_url: str) -> bytes:
    """Return the init-data of a deployment of ``releases``, whose guest finds its keys at ``broker_url``.

    Whoever has the same manifests and address makes the same bytes, and so knows what a launch measures.

    Raises:
        Malformed: as :func:`tallystick.handshake.manifest.encode_all`, or an address that has no place in init-data.
    """
    text = manifests.encode_all(releases).decode()
    return initdata.make({initdata.ARTIFACTS: text, initdata.AGENT: initdata.agent_text(broker_url)})


def _encrypt(source: Path, sink: Path, data_key: bytes, chunk_bytes: int) -> Header:
    """Encrypt one file and return its header; a file that changes in between is refused."""
    try:
        with source.open("rb", buffering=0) as stream:
            before = source.stat()
            header = artifact.make_header(
                data_key,
                plaintext=Digest.of_stream(stream),
                size_bytes=before.st_size,
                salt=secrets.token_bytes(artifact.SALT_BYTES),
                chunk_bytes=chunk_bytes,
            )
            stream.seek(0)
            with sink.open("wb", buffering=0) as out:
                artifact.seal(stream, out, data_key, header)
            after = source.stat()
    except FileNotFoundError:
        raise Misuse(f"there is no file {source}", code="file.missing") from None
    except IsADirectoryError:
        raise Misuse(f"{source} is a folder, not a file", code="file.is-folder") from None
    except OSError as error:
        raise Unreachable(f"{source}: {error.strerror}", code="file.unreadable") from None
    except ValueError:
        raise _changing(source) from None
    if (before.st_size, before.st_mtime_ns, before.st_ino) != (
        after.st_size,
        after.st_mtime_ns,
        after.st_ino,
    ):
        raise _changing(source)
    return header


def _changing(path: Path) -> Unreachable:
    return Unreachable(f"{path} changes while it is read", code="file.changing")


def _link(source: Path, place: Path) -> None:
    import os
    import shutil

    try:
        os.link(source, place)
    except FileNotFoundError:
        raise Misuse(f"there is no file {source}", code="file.missing") from None
    except OSError:  # another file system
        shutil.copyfile(source, place)

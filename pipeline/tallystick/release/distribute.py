"""Releases in a registry: pushed as an OCI artifact with what lies beside it as referrers, and pulled back.

Nothing that is pulled takes its place before its digest is right; ``tally verify`` says whether it is genuine.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from tallystick.core.digests import Digest
from tallystick.core.errors import Misuse, NotGenuine, Unreachable
from tallystick.core.files import read_file, whole_folder
from tallystick.release import artifact
from tallystick.release import index as indexes
from tallystick.release.artifact import Blob
from tallystick.release.registry import Kept, Reference, Registry

_MAX_BESIDE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What was pushed or pulled."""

    release: Digest  # the release digest
    manifest: Digest  # of the OCI manifest
    files: int  # in the index, and the index
    beside: tuple[str, ...]  # paths of the bundles, links and promotions, sorted
    sent: int  # blobs that were not there yet


def push(folder: Path, place: Reference, registry: Registry, say: Callable[[str], None]) -> Moved:
    """Push the release directory ``folder``; blobs that the registry has are not sent again.

    Raises:
        NotGenuine: a file of ``folder`` is not as its index says. Unreachable: the registry refuses.
    """
    if place.digest is not None:
        raise Misuse("a release is pushed to a tag; its digest follows", code="oci.reference")
    index = indexes.read(folder)
    indexes.check(folder, index)
    index_bytes = read_file(folder / indexes.FILE, "release index")
    manifest = artifact.manifest(index_bytes)
    sent = _put_bytes(registry, artifact.EMPTY) + _put_bytes(registry, index_bytes)
    kept = Kept(folder.parent / f".{folder.name}.{Digest.of(str(place).encode()).hex[:16]}.push")
    for number, file in enumerate(index.files, 1):
        if not registry.has_blob(file.digest):
            say(f"[{number}/{len(index.files)}] {file.path} ({file.size_bytes} bytes)")
            with (folder / file.path).open("rb") as stream:
                registry.put_blob(stream, file.digest, file.size_bytes, kept)
            sent += 1
    registry.put_manifest(manifest, str(Digest.of(manifest)))
    beside = sorted(_beside(folder))
    for path in beside:
        sent += _attach(registry, manifest, path, read_file(folder / path, path, max_bytes=_MAX_BESIDE_BYTES))
    registry.put_manifest(manifest, place.name)
    return Moved(
        release=index.digest,
        manifest=Digest.of(manifest),
        files=len(index.files) + 1,
        beside=tuple(beside),
        sent=sent,
    )


def pull(place: Reference, registry: Registry, folder: Path, say: Callable[[str], None]) -> Moved:
    """Pull a release into ``folder``, which must not be there yet. What came stays when it is interrupted.

    Raises:
        NotGenuine: a digest is not what it should be, or two referrers claim one file.
        Unreachable: the registry can not be reached, or has no such release.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Misuse(f"{folder} is there already", code="oci.output")
    manifest = registry.manifest(place.name)
    if manifest is None:
        raise Unreachable(f"{place}: the registry has no such release", code="oci.missing")
    with _cache(folder) as cache:
        head = artifact.index_blob(manifest)
        index_bytes = _fetch(registry, head, cache).read_bytes()
        artifact.check(manifest, index_bytes)
        index = indexes.parse(index_bytes)
        wanted = [Blob(file.path, file.digest, file.size_bytes) for file in index.files]
        for number, blob in enumerate(wanted, 1):
            if not (cache / blob.digest.hex).exists():
                say(f"[{number}/{len(wanted)}] {blob.path} ({blob.size_bytes} bytes)")
                _fetch(registry, blob, cache)
        beside = _referred(registry, manifest)
        for blob in beside:
            _fetch(registry, blob, cache)
        with whole_folder(folder) as work:
            for blob in (head, *wanted, *beside):
                (work / blob.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(cache / blob.digest.hex, work / blob.path)
            indexes.check(work, index)
    return Moved(
        release=index.digest,
        manifest=Digest.of(manifest),
        files=len(index.files) + 1,
        beside=tuple(blob.path for blob in beside),
        sent=0,
    )


def _beside(folder: Path) -> Iterator[str]:
    for name in indexes.BESIDE:
        for path in (folder / name).rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(folder).as_posix()


def _put_bytes(registry: Registry, data: bytes) -> int:
    if registry.has_blob(digest := Digest.of(data)):
        return 0
    registry.put_blob(BytesIO(data), digest, len(data))
    return 1


def _attach(registry: Registry, release: bytes, path: str, data: bytes) -> int:
    """Make ``data`` a referrer of the release; one with other bytes under the same path is taken away."""
    sent = _put_bytes(registry, data)
    manifest = artifact.referrer(release, path, data)
    for old, digest in _referrers(registry, release):
        blob = artifact.referred(old, release)
        if blob is not None and blob.path == path and old != manifest:
            registry.delete_manifest(digest)
    registry.put_manifest(manifest, str(Digest.of(manifest)))
    if registry.referrers(Digest.of(release)) is None:
        _list_under_tag(registry, release, path, manifest)
    return sent


def _list_under_tag(registry: Registry, release: bytes, path: str, manifest: bytes) -> None:
    """Keep the list of referrers under the fallback tag (distribution specification 1.1, "Referrers Tag Schema")."""
    kept = []
    for entry in _listed_under_tag(registry, release):
        title = (entry.get("annotations") or {}).get("org.opencontainers.image.title")
        if title != path and entry["digest"] != str(Digest.of(manifest)):
            kept.append(entry)
    listed = artifact.referrers_index([*kept, artifact.referrer_descriptor(manifest)])
    registry.put_manifest(listed, _fallback_tag(release), artifact.INDEX)


def _listed_under_tag(registry: Registry, release: bytes) -> list[dict[str, Any]]:
    data = registry.manifest(_fallback_tag(release))
    return artifact.listed(data) if data is not None else []


def _fallback_tag(release: bytes) -> str:
    return str(Digest.of(release)).replace(":", "-")


def _referrers(registry: Registry, release: bytes) -> Iterator[tuple[bytes, Digest]]:
    data = registry.referrers(Digest.of(release))
    entries = artifact.listed(data) if data is not None else _listed_under_tag(registry, release)
    for entry in entries:
        found = registry.manifest(str(entry["digest"]))
        if found is not None:
            yield found, Digest.of(found)


def _referred(registry: Registry, release: bytes) -> list[Blob]:
    """Return the files that lie beside the release, sorted by path."""
    found: dict[str, Blob] = {}
    for manifest, digest in _referrers(registry, release):
        blob = artifact.referred(manifest, release)
        if blob is None:
            continue
        if blob.size_bytes > _MAX_BESIDE_BYTES:
            message = f"{blob.path}: want at most {_MAX_BESIDE_BYTES} bytes, got {blob.size_bytes}"
            raise NotGenuine(message, code="oci.blob")
        if found.get(blob.path, blob) != blob:
            message = f"{blob.path}: two referrers with other bytes each: {digest} and one more"
            raise NotGenuine(message, code="oci.referrer.twice")
        found[blob.path] = blob
    return [found[path] for path in sorted(found)]


def _fetch(registry: Registry, blob: Blob, cache: Path) -> Path:
    place = cache / blob.digest.hex
    if not place.exists():
        part = place.with_suffix(".part")
        registry.get_blob(blob.digest, blob.size_bytes, part)
        part.rename(place)
    return place


@contextmanager
def _cache(folder: Path) -> Iterator[Path]:
    """Give the folder of what came already: beside ``folder``, kept when the block fails, for one at a time."""
    cache = folder.parent / f".{folder.name}.pull"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Misuse(f"{folder} is being pulled by another process", code="oci.busy") from None
            yield cache
    except OSError as error:
        raise Unreachable(f"{cache}: {error.strerror}", code="file.unwritable") from None
    shutil.rmtree(cache, ignore_errors=True)

"""Lock files: the seeds of a build, pinned by size and sha256. Schema tallystick/lock/v1.

A lock names no host: the path is relative to the archive, and each machine's own configuration says where that is.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Unsupported

SCHEMA = "tallystick/lock/v1"
KINDS = ("debian", "debian-source", "pypi", "release")
_SOURCE_FIELDS = {
    "debian": {"kind", "suite", "component", "packages", "through"},
    "debian-source": {"kind", "suite", "component", "packages"},
    "pypi": {"kind", "python", "packages"},
    "release": {"kind", "recipe", "release", "packages"},
}
_SEED_FIELDS = {"package", "version", "architecture", "path", "file", "size", "sha256", "purl", "licence"}
_UNPACKED_FIELDS = {"member", "sha256", "nar_sha256"}
_MATERIAL_FIELDS = {"purl", "sha256"}
_RECIPE = re.compile(r"build/[a-z0-9][a-z0-9.-]{0,80}\.yaml")
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~%:-]*(/[A-Za-z0-9][A-Za-z0-9._+~%:-]*)*")
_FILE = re.compile(r"[0-9A-Za-z+._?=-]{1,211}")  # what Nix takes as a store name
_HEX = re.compile("[0-9a-f]{64}")
_MAX_SEED_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a released file was itself made from."""

    purl: str
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """One pinned file from outside."""

    package: str
    version: str
    architecture: str
    path: str  # inside the archive: "pool/main/…"; of a wheel, its file name
    file: str  # in the cache, in a seed bundle and in the store
    size_bytes: int
    digest: Digest
    purl: str
    licence: str  # SPDX expression, or "NOASSERTION"
    materials: tuple[Material, ...] = ()  # of a released file alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where newer versions are looked for by `tally seeds update`."""

    kind: str  # "debian" (packages) | "debian-source" | "pypi" | "release" (of a recipe of this project)
    suite: str  # "bookworm"; "" for wheels
    component: str  # "main"; "" for wheels
    python: str  # "3.11"; "" for packages
    packages: tuple[str, ...]
    through: tuple[str, ...]  # metapackages whose first dependency is the package that is wanted
    recipe: str = ""  # of a release: "build/firmware.yaml", which builds the same bytes again
    release: str = ""  # its release digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """A seed that is also needed unpacked, before there is anything to unpack with."""

    member: str  # the file inside the package
    digest: Digest
    nar: Digest  # of the folder that holds the file as bin/<name>


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """One lock file."""

    role: str
    source: Source
    seeds: tuple[Seed, ...]
    unpacked: Unpacked | None = None


def parse(data: bytes, what: str) -> Lock:
    """Return the lock that ``data`` is.

    Raises:
        Malformed: a field is missing, unknown or of another form, or a seed is there twice.
        Unsupported: another schema or kind of source.
    """
    document = _table(jsondoc.loads(data, what, max_bytes=1 << 20), "document", what)
    if document.get("schema") != SCHEMA:
        raise Unsupported(what, at="schema", want=SCHEMA, got=repr(document.get("schema")))
    allowed = {"schema", "role", "source", "seeds"} | ({"unpacked"} & set(document))
    _exactly(document, allowed, "document", what)
    source = _source(document["source"], what)
    seeds = tuple(
        _seed(entry, f"seeds[{index}]", source.kind, what)
        for index, entry in enumerate(_list(document, "seeds", what))
    )
    _check_order(seeds, source.kind, what)
    return Lock(
        role=_text(document, "role", "document", what),
        source=source,
        seeds=seeds,
        unpacked=_unpacked(document["unpacked"], what) if "unpacked" in document else None,
    )


def _check_order(seeds: tuple[Seed, ...], kind: str, what: str) -> None:
    """A source package has several files; everything else is one file for each package."""
    several = kind == "debian-source"
    names = [f"{seed.package} {seed.file}" if several else seed.package for seed in seeds]
    if not seeds or names != sorted(set(names)):
        each = "file" if several else "package"
        raise Malformed(
            what, at="seeds", want=f"at least one, each {each} once and sorted", got=", ".join(names)
        )


def dumps(lock: Lock) -> bytes:
    """Return ``lock`` as its file's bytes: sorted, so that the same lock is the same file."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "role": lock.role,
        "source": _source_document(lock.source),
        "seeds": [
            _seed_document(seed) for seed in sorted(lock.seeds, key=lambda seed: (seed.package, seed.file))
        ],
    }
    if lock.unpacked is not None:
        document["unpacked"] = {
            "member": lock.unpacked.member,
            "sha256": lock.unpacked.digest.hex,
            "nar_sha256": lock.unpacked.nar.hex,
        }
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _source_document(source: Source) -> dict[str, Any]:
    packages, through = sorted(source.packages), sorted(source.through)
    values = {
        "kind": source.kind,
        "packages": packages,
        "through": through,
        "suite": source.suite,
        "component": source.component,
        "python": source.python,
        "recipe": source.recipe,
        "release": source.release,
    }
    return {name: value for name, value in values.items() if name in _SOURCE_FIELDS[source.kind]}


def _seed_document(seed: Seed) -> dict[str, Any]:
    made: dict[str, Any] = {
        "package": seed.package,
        "version": seed.version,
        "architecture": seed.architecture,
        "path": seed.path,
        "file": seed.file,
        "size": seed.size_bytes,
        "sha256": seed.digest.hex,
        "purl": seed.purl,
        "licence": seed.licence,
    }
    if seed.materials:
        made["materials"] = [{"purl": one.purl, "sha256": one.digest.hex} for one in seed.materials]
    return made


def _seed(value: Any, at: str, kind: str, what: str) -> Seed:
    entry = _table(value, at, what)
    _exactly(entry, _SEED_FIELDS | ({"materials"} if kind == "release" else set()), at, what)
    size = entry["size"]
    if type(size) is not int or not 0 < size <= _MAX_SEED_BYTES:
        raise Malformed(what, at=f"{at}.size", want="a size in bytes", got=repr(size))
    return Seed(
        package=_text(entry, "package", at, what),
        version=_text(entry, "version", at, what),
        architecture=_text(entry, "architecture", at, what),
        path=_matching(entry, "path", _PATH, "a path inside the archive, never a host", at, what),
        file=_matching(entry, "file", _FILE, "a file name that Nix takes", at, what),
        size_bytes=size,
        digest=_sha256(entry, "sha256", at, what),
        purl=_text(entry, "purl", at, what),
        licence=_text(entry, "licence", at, what),
        materials=_materials(entry["materials"], at, what) if kind == "release" else (),
    )


def _materials(value: Any, at: str, what: str) -> tuple[Material, ...]:
    if not isinstance(value, list) or not value:
        raise Malformed(what, at=f"{at}.materials", want="what it was made from", got=repr(value))
    found = []
    for index, item in enumerate(value):
        where = f"{at}.materials[{index}]"
        entry = _table(item, where, what)
        _exactly(entry, _MATERIAL_FIELDS, where, what)
        found.append(
            Material(purl=_text(entry, "purl", where, what), digest=_sha256(entry, "sha256", where, what))
        )
    return tuple(found)


def _source(value: Any, what: str) -> Source:
    source = _table(value, "source", what)
    kind = source.get("kind")
    if kind not in KINDS:
        raise Unsupported(what, at="source.kind", want=" or ".join(KINDS), got=repr(kind))
    _exactly(source, _SOURCE_FIELDS[kind], "source", what)
    text = {
        name: _text(source, name, "source", what)
        for name in ("suite", "component", "python", "recipe", "release")
        if name in source
    }
    if kind == "release":
        _matching(source, "recipe", _RECIPE, "a recipe in build/", "source", what)
        Digest.parse(text["release"])
    return Source(
        kind=kind,
        suite=text.get("suite", ""),
        component=text.get("component", ""),
        python=text.get("python", ""),
        packages=_texts(source, "packages", what),
        through=_texts(source, "through", what) if "through" in source else (),
        recipe=text.get("recipe", ""),
        release=text.get("release", ""),
    )


def _unpacked(value: Any, what: str) -> Unpacked:
    entry = _table(value, "unpacked", what)
    _exactly(entry, _UNPACKED_FIELDS, "unpacked", what)
    return Unpacked(
        member=_matching(entry, "member", _PATH, "a path inside the package", "unpacked", what),
        digest=_sha256(entry, "sha256", "unpacked", what),
        nar=_sha256(entry, "nar_sha256", "unpacked", what),
    )


def _sha256(entry: dict[str, Any], name: str, at: str, what: str) -> Digest:
    text = _matching(entry, name, _HEX, "64 lower-case hex digits", at, what)
    return Digest(Algorithm.SHA256, bytes.fromhex(text))


def _matching(entry: dict[str, Any], name: str, form: re.Pattern[str], want: str, at: str, what: str) -> str:
    value = _text(entry, name, at, what)
    if not form.fullmatch(value):
        raise Malformed(what, at=f"{at}.{name}", want=want, got=value)
    return value


def _text(entry: dict[str, Any], name: str, at: str, what: str) -> str:
    value = entry[name]
    if not isinstance(value, str) or not value:
        raise Malformed(what, at=f"{at}.{name}", want="a text", got=repr(value))
    return value


def _texts(entry: dict[str, Any], name: str, what: str) -> tuple[str, ...]:
    values = entry[name]
    if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
        raise Malformed(what, at=f"source.{name}", want="a list of names", got=repr(values))
    return tuple(values)


def _list(entry: dict[str, Any], name: str, what: str) -> list[Any]:
    value = entry[name]
    if not isinstance(value, list):
        raise Malformed(what, at=name, want="a list", got=type(value).__name__)
    return value


def _table(value: Any, at: str, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(what, at=at, want="an object", got=type(value).__name__)
    return value


def _exactly(entry: dict[str, Any], names: set[str], at: str, what: str) -> None:
    if set(entry) != names:
        got = ", ".join(sorted(set(entry) ^ names))
        raise Malformed(what, at=at, want=f"the fields {', '.join(sorted(names))}", got=f"other: {got}")

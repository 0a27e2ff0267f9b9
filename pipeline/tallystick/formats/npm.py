"""Which packages a JavaScript tree was installed from: ``package.json`` below ``node_modules``, and npm's lock files.

Source: npm documentation, package.json and package-lock.json (lock file versions 1, 2 and 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Unsupported

LOCK_FILES = ("package-lock.json", "npm-shrinkwrap.json", ".package-lock.json")
_FOLDER = "node_modules/"
_MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One installed or locked package."""

    name: str  # "@scope/name" or "name"
    version: str
    licence: str  # as the package says it, or ""
    integrity: str  # subresource integrity ("sha512-…"), or ""


def installed(data: bytes) -> Package | None:
    """Return the package whose ``package.json`` is ``data``; None when the file names none, as inner ones may.

    Raises:
        Malformed: not JSON, or no object.
    """
    document = jsondoc.loads(data, "package.json", max_bytes=_MAX_BYTES)
    if not isinstance(document, dict):
        raise Malformed("package.json", at="document", want="an object", got=type(document).__name__)
    name, version = document.get("name"), document.get("version")
    if not (isinstance(name, str) and isinstance(version, str) and name and version):
        return None
    licence = document.get("license")
    return Package(
        name=name, version=version, licence=licence if isinstance(licence, str) else "", integrity=""
    )


def locked(data: bytes) -> tuple[Package, ...]:
    """Return every package that the lock file ``data`` pins, without those for development alone, in its order.

    Raises:
        Malformed: not JSON, or not a lock file's form.
        Unsupported: another version of the format.
    """
    document = jsondoc.loads(data, "package-lock.json", max_bytes=_MAX_BYTES)
    version = document.get("lockfileVersion") if isinstance(document, dict) else None
    if version not in (1, 2, 3):
        raise Unsupported("package-lock.json", at="lockfileVersion", want="1, 2 or 3", got=repr(version))
    found = _first(document.get("dependencies")) if version == 1 else _later(document.get("packages"))
    return tuple(dict.fromkeys(found))


def _later(packages: Any) -> Iterator[Package]:
    """Versions 2 and 3: each place in the tree has an entry; "" is the project itself and links are its folders."""
    for place, entry in _entries(packages, "packages"):
        if _FOLDER in place and not entry.get("link") and not entry.get("dev"):
            name = entry.get("name") or place.rpartition(_FOLDER)[2]
            yield _package(name, entry, place)


def _first(dependencies: Any) -> Iterator[Package]:
    waiting = [dependencies or {}]
    while waiting:
        for name, entry in _entries(waiting.pop(), "dependencies"):
            if not entry.get("dev"):
                yield _package(name, entry, name)
            if "dependencies" in entry:
                waiting.append(entry["dependencies"])


def _entries(value: Any, at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
        raise Malformed("package-lock.json", at=at, want="an object of objects", got=type(value).__name__)
    yield from value.items()


def _package(name: Any, entry: dict[str, Any], at: str) -> Package:
    fields = [name, entry.get("version", ""), entry.get("license", ""), entry.get("integrity", "")]
    text = [value if isinstance(value, str) else "" for value in fields]
    if not text[0] or not text[1]:
        raise Malformed("package-lock.json", at=at, want="a name and a version", got=repr(fields[:2]))
    return Package(name=text[0], version=text[1], licence=text[2], integrity=text[3])

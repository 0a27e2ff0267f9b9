"""The release index: the one list of what a build made, whose digest is the release digest.

Source: DESIGN.md, invariant 6; docs/schemas/release-index.schema.json.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Unreachable, Unsupported
from tallystick.core.files import file_digest, read_file
from tallystick.core.findings import Finding
from tallystick.release.records import Index, IndexedFile

SCHEMA = "tallystick/release-index/v1"
FILE = "index.json"
STATEMENTS = ("measurements", "provenance", "sbom")
_OPTIONAL = ("measurements",)  # a release of firmware alone has none: it is measured with what it starts
BESIDE = ("bundles", "links", "promotions")  # folders that name the release digest, so it can not cover them
_WHAT = "release index"
_FIELDS = ("schema", "name", "version", "files", "statements", "products")
_MAX_INDEX_BYTES = 16 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_MAX_SIZE = 2**53 - 1  # largest integer that RFC 8785 carries exactly


def make(folder: Path, *, name: str, version: str, products: Mapping[str, str]) -> bytes:
    """Return the index of everything that lies in ``folder``, as RFC 8785 bytes. Nothing is written.

    Args:
        products: product name -> path inside ``folder`` ("uki" -> "products/uki.efi").

    Raises:
        Misuse: a product or one of the three statements is not in ``folder`` (``release.file.missing``).
        NotGenuine: something in ``folder`` is no plain file with an ordinary name (``release.file.kind``).
    """
    import rfc8785

    files = {path: _entry(folder, path) for path in _indexed_paths(folder)}
    statements = {statement: f"statements/{statement}.json" for statement in STATEMENTS}
    for statement in _OPTIONAL:
        if statements[statement] not in files:
            del statements[statement]
    for path in (*products.values(), *statements.values()):
        if path not in files:
            raise Misuse(f"{folder}: there is no {path}", code="release.file.missing")
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "name": name,
        "version": version,
        "files": files,
        "statements": {kind: f"sha256:{files[path]['sha256']}" for kind, path in statements.items()},
        "products": dict(products),
    }
    data = rfc8785.dumps(document)
    parse(data)
    return data


def parse(data: bytes) -> Index:
    """Return the index that ``data`` is.

    Raises:
        Malformed: not RFC 8785 bytes of the published schema, or a path that leaves the release.
        Unsupported: another schema.
    """
    import rfc8785

    document = jsondoc.loads(data, _WHAT, max_bytes=_MAX_INDEX_BYTES)
    fields = _object(document, "document")
    if fields.get("schema") != SCHEMA:
        raise Unsupported(_WHAT, at="schema", want=SCHEMA, got=repr(fields.get("schema")))
    if sorted(fields) != sorted(_FIELDS):
        raise Malformed(_WHAT, at="fields", want=", ".join(_FIELDS), got=", ".join(sorted(fields)))
    files = tuple(
        _indexed_file(path, value) for path, value in sorted(_object(fields["files"], "files").items())
    )
    index = Index(
        name=_label(fields["name"], "name"),
        version=_label(fields["version"], "version"),
        files=files,
        statements=_statements(fields["statements"], files),
        products=_products(fields["products"], files),
        digest=Digest.of(data),
    )
    if rfc8785.dumps(document) != data:
        raise Malformed(_WHAT, at="bytes", want="RFC 8785 form", got="another spelling of the same values")
    return index


def read(folder: Path) -> Index:
    """Return the index of the release directory ``folder``; its files are not looked at.

    Raises:
        Misuse: no index there. Malformed, Unsupported: as :func:`parse`.
    """
    return parse(read_file(folder / FILE, _WHAT, max_bytes=_MAX_INDEX_BYTES))


def check(folder: Path, index: Index) -> None:
    """Hash every file of ``folder`` and compare it with ``index``.

    Raises:
        NotGenuine: with one finding for each file that is changed, missing, extra or no plain file.
    """
    findings = tuple(differences(folder, index))
    if findings:
        raise NotGenuine(
            f"{folder}: {len(findings)} file(s) differ from the release index", findings=findings
        )


def differences(folder: Path, index: Index) -> Iterator[Finding]:
    """Yield one finding for each file of ``folder`` that is not as ``index`` says."""
    found, odd = _walk(folder)
    yield from odd
    present = set(found) - {FILE}
    for path in sorted(present - {entry.path for entry in index.files}):
        yield Finding("release.file.extra", path, want="no such file", got="a file")
    for entry in index.files:
        if entry.path not in present:
            if not any(finding.where == entry.path for finding in odd):
                yield Finding("release.file.missing", entry.path, want=str(entry.digest), got="no file")
            continue
        got = file_digest(folder / entry.path)
        if got != entry.digest:
            yield Finding("release.file.changed", entry.path, want=str(entry.digest), got=str(got))


def safe_path(path: str) -> bool:
    """Say whether ``path`` is relative, plain, and stays below the folder it is joined to."""
    return re.fullmatch(r"[A-Za-z0-9._+@=,~:?%-]+(/[A-Za-z0-9._+@=,~:?%-]+)*", path) is not None and not any(
        part in {".", ".."} for part in path.split("/")
    )


def tree_digest(index: Index, prefix: str) -> Digest:
    """Return one digest of all below ``prefix``: sha256 of the RFC 8785 form of its index entries."""
    import rfc8785

    entries: dict[str, Any] = {
        e.path: {"sha256": e.digest.hex, "size": e.size_bytes} for e in index.under(prefix)
    }
    return Digest.of(rfc8785.dumps(entries))


def _indexed_paths(folder: Path) -> list[str]:
    found, odd = _walk(folder)
    if odd:
        raise NotGenuine(f"{folder}: a release holds plain files only", findings=odd)
    return [path for path in found if path != FILE]


def _walk(folder: Path) -> tuple[list[str], tuple[Finding, ...]]:
    """Return every plain file below ``folder`` (but not BESIDE), and a finding for each other thing."""
    found: list[str] = []
    odd: list[Finding] = []

    def visit(where: Path, prefix: str) -> None:
        try:
            entries = sorted(os.scandir(where), key=lambda entry: entry.name)
        except OSError as error:
            raise Unreachable(f"{where}: {error.strerror}", code="file.unreadable") from None
        for entry in entries:
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                if path not in BESIDE:
                    visit(where / entry.name, f"{path}/")
            elif not entry.is_file(follow_symlinks=False):
                kind = "a symbolic link" if entry.is_symlink() else "a special file"
                odd.append(Finding("release.file.kind", path, want="a plain file", got=kind))
            elif not safe_path(path):
                odd.append(Finding("release.file.name", path, want="an ordinary file name", got=repr(path)))
            else:
                found.append(path)

    visit(folder, "")
    return found, tuple(odd)


def _entry(folder: Path, path: str) -> dict[str, Any]:
    return {"sha256": file_digest(folder / path).hex, "size": (folder / path).stat().st_size}


def _object(value: Any, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(_WHAT, at=at, want="an object", got=type(value).__name__)
    return value


def _label(value: Any, at: str) -> str:
    if not isinstance(value, str) or _NAME.fullmatch(value) is None:
        raise Malformed(_WHAT, at=at, want="letters, digits and . _ + -", got=repr(value))
    return value


def _indexed_file(path: str, value: Any) -> IndexedFile:
    at = f"files.{path}"
    if not safe_path(path) or path == FILE or path.split("/")[0] in BESIDE:
        raise Malformed(_WHAT, at=at, want="a path that the index may cover", got=repr(path))
    entry = _object(value, at)
    if sorted(entry) != ["sha256", "size"]:
        raise Malformed(_WHAT, at=at, want="sha256, size", got=", ".join(sorted(entry)))
    size = entry["size"]
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_SIZE:
        raise Malformed(_WHAT, at=f"{at}.size", want="a file size in bytes", got=repr(size))
    return IndexedFile(path=path, digest=_hex(entry["sha256"], f"{at}.sha256"), size_bytes=size)


def _hex(value: Any, at: str) -> Digest:
    if not isinstance(value, str) or re.fullmatch("[0-9a-f]{64}", value) is None:
        raise Malformed(_WHAT, at=at, want="64 lower-case hex digits", got=repr(value))
    return Digest(Algorithm.SHA256, bytes.fromhex(value))


def _statements(value: Any, files: tuple[IndexedFile, ...]) -> tuple[tuple[str, Digest], ...]:
    named = _object(value, "statements")
    if sorted({*named, *_OPTIONAL}) != list(STATEMENTS):
        raise Malformed(_WHAT, at="statements", want=", ".join(STATEMENTS), got=", ".join(sorted(named)))
    by_path = {entry.path: entry for entry in files}
    found = []
    for name, text in sorted(named.items()):
        entry = by_path.get(f"statements/{name}.json")
        if entry is None or text != str(entry.digest):
            want = str(entry.digest) if entry else f"statements/{name}.json among the files"
            raise Malformed(_WHAT, at=f"statements.{name}", want=want, got=repr(text))
        found.append((name, entry.digest))
    return tuple(found)


def _products(value: Any, files: tuple[IndexedFile, ...]) -> tuple[tuple[str, str], ...]:
    named = _object(value, "products")
    paths = {entry.path for entry in files}
    if not named:
        raise Malformed(_WHAT, at="products", want="at least one product", got="none")
    for name, path in named.items():
        _label(name, "products")
        if not isinstance(path, str) or not path.startswith("products/") or path not in paths:
            raise Malformed(_WHAT, at=f"products.{name}", want="a file under products/", got=repr(path))
    if len(set(named.values())) != len(named):
        raise Malformed(_WHAT, at="products", want="each file once", got="two names for one file")
    return tuple(sorted(named.items()))

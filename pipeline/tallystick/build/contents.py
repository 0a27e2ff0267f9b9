"""Contents lists as files, read strictly (docs/schemas/contents.schema.json), and what differs between two of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from tallystick.build.records import Component, Contents, ContentsFile
from tallystick.core import jsondoc
from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Unsupported

SCHEMA = "tallystick/contents/v1"
HEADERS = "(headers)"  # a container's own bytes, as nix/src/uki.py and eif.py list them
KINDS = ("deb", "nixpkgs", "project", "wheel")
_FIELDS = {"schema", "product", "files", "components"}
_FILE_FIELDS = {"path", "sha256", "size", "mode", "component"}
_COMPONENT_FIELDS = {"ref", "kind", "name", "version", "purl", "licence", "seed", "sha256"}
_MAX_SIZE = 2**53 - 1


def parse(data: bytes, what: str = "contents list") -> Contents:
    """Return the contents list that ``data`` is.

    Raises:
        Malformed: not the published schema, not sorted, a path or ref twice, or a component that is not listed.
        Unsupported: another schema.
    """
    document = _object(jsondoc.loads(data, what), "document", what)
    if document.get("schema") != SCHEMA:
        raise Unsupported(what, at="schema", want=SCHEMA, got=repr(document.get("schema")))
    _fields(document, _FIELDS, set(), "document", what)
    components = tuple(
        _component(item, f"components[{index}]", what)
        for index, item in enumerate(_list(document["components"], "components", what))
    )
    files = tuple(
        _file(item, f"files[{index}]", what)
        for index, item in enumerate(_list(document["files"], "files", what))
    )
    _ordered([component.ref for component in components], "components", what)
    _ordered([file.path for file in files], "files", what)
    refs = {component.ref for component in components}
    for file in files:
        if file.component and file.component not in refs:
            want = "a component of this list, or none"
            raise Malformed(what, at=f"{file.path} component", want=want, got=file.component)
    product = _text(document, "product", "document", what)
    return Contents(product=product, files=files, components=components)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One file that two contents lists of a product do not agree on, and whose it is."""

    product: str
    path: str
    component: str  # as the second list says it, or the first where the file is gone
    before: ContentsFile | None  # None: the file is new
    after: ContentsFile | None  # None: the file is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentChange:
    """One component that differs: another version of a package, or the project's own source."""

    name: str
    before: Component | None
    after: Component | None
    files: tuple[Change, ...]

    @property
    def words(self) -> str:
        """The change as one line for people."""
        count = f"{len(self.files)} file{'s' if len(self.files) != 1 else ''}"
        if self.before is None or self.after is None:
            return f"{self.name}: {'added' if self.before is None else 'removed'} ({count})"
        if self.before.version != self.after.version:
            return f"{self.name}: {self.before.version} -> {self.after.version} ({count})"
        if self.before.digest != self.after.digest:
            return f"{self.name} {self.after.version}: other source, same version ({count})"
        return f"{self.name} {self.after.version}: same source, other files ({count})"


def changes(before: Contents, after: Contents) -> tuple[Change, ...]:
    """Return every file that differs, by path. Bytes, mode and nesting count; a component's name alone does not."""
    old = {file.path: file for file in before.files}
    new = {file.path: file for file in after.files}
    found = []
    for path in sorted(old.keys() | new.keys(), key=str.encode):
        first, second = old.get(path), new.get(path)
        if first is None or second is None or _measured(first) != _measured(second):
            owner = second.component if second is not None else old[path].component
            found.append(
                Change(product=after.product, path=path, component=owner, before=first, after=second)
            )
    return tuple(found)


def component_changes(before: Contents, after: Contents) -> tuple[ComponentChange, ...]:
    """Return the changes gathered by component name, so that a new version is one change and not two."""
    old = {component.ref: component for component in before.components}
    new = {component.ref: component for component in after.components}
    names = {ref: component.name for ref, component in (*old.items(), *new.items())}
    files: dict[str, list[Change]] = {}
    for change in changes(before, after):
        files.setdefault(names.get(change.component, change.component), []).append(change)
    moved = {names[ref] for ref in old.keys() ^ new.keys()}
    moved |= {names[ref] for ref in old.keys() & new.keys() if old[ref].digest != new[ref].digest}
    return tuple(
        ComponentChange(
            name=name or "(unexplained)",
            before=_named(old, name),
            after=_named(new, name),
            files=tuple(files.get(name, ())),
        )
        for name in sorted(files.keys() | moved)
    )


def causes(found: Iterable[ComponentChange]) -> tuple[ComponentChange, ...]:
    """Return the changes that are not consequences of others: the one rule for saying *why* two products differ.

    What is assembled from other parts differs whenever a part does, so a component whose own source is the same is
    named only where no component's source differs; and a container's headers, only where nothing else does.
    """
    changed = tuple(found)
    real = {change.name for change in changed if change.files}  # a source may change and leave no trace
    moved = tuple(change for change in changed if _moved(change))
    if with_files := tuple(change for change in moved if change.name in real):
        return with_files
    inner = (
        replace(change, files=tuple(file for file in change.files if file.path != HEADERS))
        for change in changed
    )
    return tuple(change for change in inner if change.files) or moved or changed


def _moved(change: ComponentChange) -> bool:
    return change.before is None or change.after is None or change.before.digest != change.after.digest


def _named(components: dict[str, Component], name: str) -> Component | None:
    return next((component for component in components.values() if component.name == name), None)


def _measured(file: ContentsFile) -> tuple[object, ...]:
    return file.digest, file.size_bytes, file.mode, file.nested


def _file(value: Any, at: str, what: str) -> ContentsFile:
    item = _object(value, at, what)
    _fields(item, _FILE_FIELDS, {"nested"}, at, what)
    size, mode = item["size"], _text(item, "mode", at, what)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_SIZE:
        raise Malformed(what, at=f"{at}.size", want="a size in bytes", got=repr(size))
    if not re.fullmatch("[0-7]{7}", mode):
        raise Malformed(what, at=f"{at}.mode", want="seven octal digits", got=mode)
    return ContentsFile(
        path=_filled(item, "path", at, what),
        digest=_sha256(item, at, what),
        size_bytes=size,
        mode=mode,
        component=_text(item, "component", at, what),
        nested=_text(item, "nested", at, what) if "nested" in item else "",
    )


def _component(value: Any, at: str, what: str) -> Component:
    item = _object(value, at, what)
    _fields(item, _COMPONENT_FIELDS, set(), at, what)
    if item["kind"] not in KINDS:
        raise Malformed(what, at=f"{at}.kind", want=" or ".join(KINDS), got=repr(item["kind"]))
    return Component(
        ref=_filled(item, "ref", at, what),
        kind=item["kind"],
        name=_filled(item, "name", at, what),
        version=_text(item, "version", at, what),
        purl=_text(item, "purl", at, what),
        licence=_text(item, "licence", at, what),
        seed=_text(item, "seed", at, what),
        digest=_sha256(item, at, what),
    )


def _sha256(item: dict[str, Any], at: str, what: str) -> Digest:
    text = _text(item, "sha256", at, what)
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise Malformed(what, at=f"{at}.sha256", want="64 lower-case hex digits", got=text)
    return Digest(Algorithm.SHA256, bytes.fromhex(text))


def _ordered(names: list[str], at: str, what: str) -> None:
    """Sorted by bytes; an equal neighbour is a duplicate, which would hide one entry behind the other."""
    keys = [name.encode() for name in names]
    for before, after in pairwise(keys):
        if before >= after:
            raise Malformed(what, at=at, want="sorted and without duplicates", got=after.decode())


def _fields(item: dict[str, Any], needed: set[str], allowed: set[str], at: str, what: str) -> None:
    if not needed <= set(item) <= needed | allowed:
        got = ", ".join(sorted(item)) or "none"
        raise Malformed(what, at=f"{at} fields", want=", ".join(sorted(needed)), got=got)


def _object(value: Any, at: str, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(what, at=at, want="an object", got=type(value).__name__)
    return value


def _list(value: Any, at: str, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise Malformed(what, at=at, want="a list", got=type(value).__name__)
    return value


def _text(item: dict[str, Any], name: str, at: str, what: str) -> str:
    value = item[name]
    if not isinstance(value, str):
        raise Malformed(what, at=f"{at}.{name}", want="a text", got=type(value).__name__)
    return value


def _filled(item: dict[str, Any], name: str, at: str, what: str) -> str:
    value = _text(item, name, at, what)
    if not value:
        raise Malformed(what, at=f"{at}.{name}", want="a text that is not empty", got="an empty one")
    return value

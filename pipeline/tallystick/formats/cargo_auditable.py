"""Which crates a Rust program was built from: the list that ``cargo auditable`` links into it.

Source: rust-secure-code/cargo-auditable, PARSING.md and the schema of ``auditable-serde`` (section ``.dep-v0``: JSON
compressed with zlib).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed
from tallystick.formats import elf

SECTION = ".dep-v0"
_WHAT = "cargo auditable list"
_MAX_BYTES = 8 << 20  # the limit that cargo-auditable's own reader has as its default


@dataclass(frozen=True, slots=True, kw_only=True)
class Crate:
    """One crate that is in the program."""

    name: str
    version: str
    source: str  # "crates.io", "git", "local", "registry" or another text
    root: bool  # the program's own crate


def find(data: bytes | memoryview) -> tuple[Crate, ...]:
    """Return the crates of the ELF file ``data``, without those that only built it; () where it has no list.

    Raises:
        Malformed: the list does not unpack or parse, or is too large.
    """
    place = elf.section(data, SECTION)
    if place is None:
        return ()
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(place, _MAX_BYTES)
    except zlib.error as error:
        raise Malformed(_WHAT, at=SECTION, want="zlib data", got=str(error)) from None
    if not unpacker.eof:
        got = "more" if unpacker.unconsumed_tail else "data that breaks off"
        raise Malformed(_WHAT, at=SECTION, want=f"at most {_MAX_BYTES} bytes", got=got)
    document = jsondoc.loads(text, _WHAT)
    listed = document.get("packages") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise Malformed(_WHAT, at="packages", want="a list", got=type(listed).__name__)
    crates = [_crate(item, index) for index, item in enumerate(listed) if not _only_builds(item)]
    return tuple(crates)


def _only_builds(item: Any) -> bool:
    return isinstance(item, dict) and item.get("kind") == "build"


def _crate(item: Any, index: int) -> Crate:
    found = item if isinstance(item, dict) else {}
    name, version, source = (found.get(field) for field in ("name", "version", "source"))
    if not (
        isinstance(name, str) and isinstance(version, str) and isinstance(source, str) and name and version
    ):
        raise Malformed(_WHAT, at=f"packages[{index}]", want="name, version and source", got=repr(item))
    return Crate(name=name, version=version, source=source, root=found.get("root") is True)

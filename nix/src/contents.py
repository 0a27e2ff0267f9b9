"""Contents lists: which component every measured file came from. Schema tallystick/contents/v1."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import nar

SCHEMA = "tallystick/contents/v1"


def file_record(path: str, data: bytes, mode: int, component: str, nested: str = "") -> dict[str, Any]:
    """Return the record of one file; of a symbolic link, ``data`` is the target's text."""
    record: dict[str, Any] = {
        "path": path,
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "mode": f"{mode:07o}",
        "component": component,
    }
    return record | ({"nested": nested} if nested else {})


def write(out: Path, product: str, files: list[dict[str, Any]], components: list[dict[str, str]]) -> None:
    """Write one contents list: files by path, the components that they name by ref."""
    used = {record["component"] for record in files}
    by_ref = {component["ref"]: _hashed(component) for component in components if component["ref"] in used}
    document = {
        "schema": SCHEMA,
        "product": product,
        "files": sorted(files, key=lambda record: record["path"].encode()),
        "components": [by_ref[ref] for ref in sorted(by_ref)],
    }
    out.write_text(
        json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8"
    )


def _hashed(component: dict[str, str]) -> dict[str, str]:
    """Return ``component`` with the NAR hash of the store path that it names, where it has no hash of a file."""
    if "nar_of" not in component:
        return component
    kept = {name: value for name, value in component.items() if name != "nar_of"}
    return kept | {"sha256": nar.sha256(Path(component["nar_of"]))}


def read(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Return the files and components of a list that an earlier step wrote."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return document["files"], document["components"]

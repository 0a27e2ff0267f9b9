"""The published CycloneDX schemas, as cyclonedx-python-lib carries them, and a validator that is linear.

The validator of cyclonedx-python-lib itself needs 46 seconds for 1,000 components (its check of
``iri-reference``); jsonschema-rs gives the same answers in milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from tallystick.core.findings import Finding
from tallystick.formats.cyclonedx import Document

if TYPE_CHECKING:
    from jsonschema_rs import Draft7Validator

_FOLDER = "cyclonedx.schema._res"
_SHOWN = 20  # findings of one document: the first ones tell the story, a thousand hide it


def findings(document: Document) -> Iterator[Finding]:
    """Every way in which ``document`` breaks the schema of the version that it names, at most twenty."""
    for count, error in enumerate(_validator(document["specVersion"]).iter_errors(document)):
        if count == _SHOWN:
            return
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
        said = error.message if len(error.message) <= 200 else error.message[:197] + "..."
        yield Finding("sbom.schema", where.removeprefix(".") or "document", "what the schema allows", said)


@cache
def spdx_ids() -> frozenset[str]:
    """Every identifier on the SPDX licence list that CycloneDX knows, exceptions included."""
    return frozenset(_read("spdx.SNAPSHOT.schema.json")["enum"])


@cache
def _validator(version: str) -> Draft7Validator:
    from jsonschema_rs import Draft7, Draft7Validator, Registry

    main = _read(f"bom-{version}.SNAPSHOT.schema.json")
    base = main["$id"].rsplit("/", 1)[0]
    names = ("spdx", "jsf-0.82", "cryptography-defs")
    others = [
        (f"{base}/{name}.SNAPSHOT.schema.json", _read(f"{name}.SNAPSHOT.schema.json")) for name in names
    ]
    return Draft7Validator(main, registry=Registry(others, draft=Draft7), validate_formats=True)


def _read(name: str) -> dict[str, Any]:
    text = resources.files(_FOLDER).joinpath(name).read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found

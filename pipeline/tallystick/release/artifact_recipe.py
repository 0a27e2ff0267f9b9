"""The recipe of an artifact release: what a person writes down of it, apart from policy and keys.

Source: docs/models.md, "Making an artifact release".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tallystick.core.errors import Unsupported
from tallystick.formats.yamldoc import Fields, read
from tallystick.handshake.manifest import KINDS, Images
from tallystick.release.artifact_seal import Part
from tallystick.sbom.models import ModelCard

SCHEMA = "tallystick/artifact-recipe/v1"
_WHAT = "artifact recipe"
_LABEL = (r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", "letters, digits and . _ + -")
_NAME = (r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", "a plain name")
_KEY = (r"[^\s/]+/[^\s/]+/[^\s/]+", "a key name of three parts: repository/type/tag")
_LINE = (r"[^\x00-\x1f\x7f]{1,512}", "one line of text")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRecipe:
    """What an artifact release is made from."""

    name: str
    version: str
    images: tuple[Images, ...]  # sorted by name
    parts: tuple[Part, ...]  # paths as written, relative to the recipe's folder
    cards: tuple[tuple[str, ModelCard], ...]  # artifact name -> its model card


def parse(data: bytes, folder: Path) -> ArtifactRecipe:
    """Return the recipe that the YAML text ``data`` is.

    Args:
        folder: what its paths are relative to.

    Raises:
        Malformed: not YAML, a field missing, unknown or of another form. Unsupported: another schema.
    """
    fields = Fields(read(data, _WHAT), _WHAT)
    schema = fields.text("schema")
    if schema != SCHEMA:
        raise Unsupported(_WHAT, at="schema", want=SCHEMA, got=schema)
    parts: dict[str, Part] = {}
    cards: dict[str, ModelCard] = {}
    name, version = fields.text("name", *_LABEL), fields.text("version", *_LABEL)
    images: dict[str, tuple[str, ...]] = {}
    for row in _rows(fields, "images"):
        images[row.text("name", *_LABEL)] = tuple(sorted(set(row.texts("versions", *_LABEL))))
        row.end()
    for row in _rows(fields, "artifacts"):
        node = row.peek("name")
        part = Part(
            name=row.text("name", *_NAME),
            kind=row.text("kind", "|".join(KINDS), "one of " + ", ".join(KINDS)),
            path=folder / row.text("file", *_LINE),
            key=row.text("key", *_KEY),
        )
        if part.name in parts:
            raise row.bad("name", node, want="each artifact once")
        parts[part.name] = part
        if row.has("card"):
            cards[part.name] = _card(row.table("card"))
        row.end()
    fields.end()
    return ArtifactRecipe(
        name=name,
        version=version,
        images=tuple(Images(name=one, versions=images[one]) for one in sorted(images)),
        parts=tuple(parts.values()),
        cards=tuple(sorted(cards.items())),
    )


def _rows(fields: Fields, name: str) -> list[Fields]:
    node = fields.peek(name)
    rows = fields.tables(name)
    if not rows:
        raise fields.bad(name, node, want="at least one")
    return rows


def _card(fields: Fields) -> ModelCard:
    def text(name: str) -> str:
        return fields.text(name, *_LINE) if fields.has(name) else ""

    def texts(name: str) -> tuple[str, ...]:
        return tuple(fields.texts(name, *_LINE)) if fields.has(name) else ()

    card = ModelCard(
        task=text("task"),
        architecture_family=text("architecture_family"),
        architecture=text("architecture"),
        datasets=texts("datasets"),
        use_cases=texts("use_cases"),
        limitations=texts("limitations"),
        licence=text("licence"),
    )
    fields.end()
    return card

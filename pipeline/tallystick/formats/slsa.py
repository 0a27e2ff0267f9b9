"""SLSA provenance v1: the predicate of an in-toto statement, read strictly into a record and written back.

Source: SLSA 1.2, "Build: Provenance" (predicate unchanged since 1.0); in-toto/attestation,
spec/v1/resource_descriptor.md. Unset, null and empty fields mean the same there, and are read the same here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats.intoto import Statement

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
_WHAT = "SLSA provenance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One ResourceDescriptor: something that a build used or made, and how to recognise it."""

    name: str = ""
    uri: str = ""
    digests: tuple[tuple[str, str], ...] = ()  # (algorithm name as written, value), sorted
    content: bytes = b""
    annotations: tuple[tuple[str, Any], ...] = ()  # sorted by name

    def digest(self, algorithm: str) -> str:
        """Return the digest called ``algorithm``, or an empty string."""
        return dict(self.digests).get(algorithm, "")

    def annotation(self, name: str) -> Any:
        """Return the annotation called ``name``, or None."""
        return dict(self.annotations).get(name)

    def document(self) -> dict[str, Any]:
        """Return the descriptor as JSON has it, without empty fields."""
        fields: dict[str, Any] = {
            "name": self.name,
            "uri": self.uri,
            "digest": dict(self.digests),
            "content": base64.b64encode(self.content).decode("ascii"),
            "annotations": dict(self.annotations),
        }
        return {name: value for name, value in fields.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How some artifacts came to be, as a builder says it. Unknown fields stay in the statement."""

    build_type: str
    external: Mapping[str, Any]  # externalParameters: what whoever asked for the build chose
    internal: Mapping[str, Any]  # internalParameters: what the builder's own set-up was
    dependencies: tuple[Resource, ...]  # resolvedDependencies
    builder_id: str
    builder_version: tuple[tuple[str, str], ...] = ()
    byproducts: tuple[Resource, ...] = ()
    invocation_id: str = ""
    started_on: str = ""  # RFC 3339
    finished_on: str = ""

    def document(self) -> dict[str, Any]:
        """Return the predicate as JSON has it, without empty optional fields."""
        definition: dict[str, Any] = {
            "buildType": self.build_type,
            "externalParameters": dict(self.external),
            "internalParameters": dict(self.internal),
            "resolvedDependencies": [resource.document() for resource in self.dependencies],
        }
        metadata = {
            "invocationId": self.invocation_id,
            "startedOn": self.started_on,
            "finishedOn": self.finished_on,
        }
        details: dict[str, Any] = {
            "builder": {"id": self.builder_id, "version": dict(self.builder_version)},
            "metadata": {name: value for name, value in metadata.items() if value},
            "byproducts": [resource.document() for resource in self.byproducts],
        }
        details["builder"] = {name: value for name, value in details["builder"].items() if value}
        return {
            "buildDefinition": definition,
            "runDetails": {name: value for name, value in details.items() if value},
        }


def parse(statement: Statement) -> Provenance:
    """Return the provenance that ``statement`` holds.

    Raises:
        Malformed: a required field is missing, or a field has another type than the specification's.
        Unsupported: a statement with another predicate.
    """
    if statement.predicate_type != PREDICATE_TYPE:
        raise Unsupported(_WHAT, at="predicateType", want=PREDICATE_TYPE, got=statement.predicate_type)
    definition = _object(statement.predicate, "buildDefinition", "predicate")
    details = _object(statement.predicate, "runDetails", "predicate")
    builder = _object(details, "builder", "runDetails")
    metadata = _object(details, "metadata", "runDetails")
    versions = _object(builder, "version", "runDetails.builder")
    made = Provenance(
        build_type=_text(definition, "buildType", "buildDefinition"),
        external=_object(definition, "externalParameters", "buildDefinition"),
        internal=_object(definition, "internalParameters", "buildDefinition"),
        dependencies=_resources(definition, "resolvedDependencies", "buildDefinition"),
        builder_id=_text(builder, "id", "runDetails.builder"),
        builder_version=tuple(
            (name, _text(versions, name, "runDetails.builder.version")) for name in sorted(versions)
        ),
        byproducts=_resources(details, "byproducts", "runDetails"),
        invocation_id=_text(metadata, "invocationId", "runDetails.metadata"),
        started_on=_text(metadata, "startedOn", "runDetails.metadata"),
        finished_on=_text(metadata, "finishedOn", "runDetails.metadata"),
    )
    for at, value in (
        ("buildDefinition.buildType", made.build_type),
        ("buildDefinition.externalParameters", made.external),
        ("runDetails.builder.id", made.builder_id),
    ):
        if not value:
            raise Malformed(_WHAT, at=at, want="a value: this field is required", got="none")
    return made


def resource(value: object, at: str) -> Resource:
    """Return the ResourceDescriptor that the JSON ``value`` is.

    Raises:
        Malformed: another shape, or none of uri, digest and content, of which one is required.
    """
    if not isinstance(value, dict):
        raise Malformed(_WHAT, at=at, want="an object", got=type(value).__name__)
    digests = _object(value, "digest", at)
    annotations = _object(value, "annotations", at)
    made = Resource(
        name=_text(value, "name", at),
        uri=_text(value, "uri", at),
        digests=tuple((name, _text(digests, name, f"{at}.digest")) for name in sorted(digests)),
        content=_base64(_text(value, "content", at), f"{at}.content"),
        annotations=tuple(sorted(annotations.items())),
    )
    if not (made.uri or made.digests or made.content):
        raise Malformed(_WHAT, at=at, want="a uri, a digest or content", got="none")
    return made


def _resources(where: Mapping[str, Any], name: str, at: str) -> tuple[Resource, ...]:
    value = where.get(name) or []
    if not isinstance(value, list):
        raise Malformed(_WHAT, at=f"{at}.{name}", want="a list", got=type(value).__name__)
    return tuple(resource(item, f"{at}.{name}[{index}]") for index, item in enumerate(value))


def _object(where: Mapping[str, Any], name: str, at: str) -> dict[str, Any]:
    value = where.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Malformed(_WHAT, at=f"{at}.{name}", want="an object", got=type(value).__name__)
    return value


def _text(where: Mapping[str, Any], name: str, at: str) -> str:
    value = where.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed(_WHAT, at=f"{at}.{name}", want="a text", got=type(value).__name__)
    return value


def _base64(text: str, at: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed(_WHAT, at=at, want="base64", got=text) from None

"""The SBOM of an artifact release: artifacts as ``machine-learning-model`` or ``data`` components, with model cards.

Source: CycloneDX 1.6, ``component.type``, ``modelCard`` (modelParameters, considerations).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tallystick import __version__
from tallystick.core.errors import Malformed
from tallystick.core.findings import Finding
from tallystick.formats import cyclonedx, intoto
from tallystick.formats.cyclonedx import Document
from tallystick.handshake.manifest import Artifact, Manifest

PREDICATE_TYPE = "https://cyclonedx.org/bom"
_SPEC_VERSION = "1.6"
_MODELS = ("weights", "adapter", "checkpoint")
_NAMESPACE = uuid.UUID(
    "5a0a1a9c-2f0e-5d53-9f4b-3f6f7b1c0d11"
)  # of serial numbers made from a manifest's digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What people are told about a model. An empty field is left out."""

    task: str = ""  # "text-generation"
    architecture_family: str = ""  # "transformer"
    architecture: str = ""  # "Llama-3-8B"
    datasets: tuple[str, ...] = ()  # names or addresses
    use_cases: tuple[str, ...] = ()
    limitations: tuple[str, ...] = ()
    licence: str = ""  # SPDX expression


def make(manifest: Manifest, cards: Mapping[str, ModelCard], created: datetime) -> Document:
    """Return the CycloneDX document of ``manifest``; equal arguments give equal documents.

    Args:
        cards: artifact name -> its model card.
    """
    ref = f"artifacts:{manifest.name}"
    parts = [
        _component(one, cards.get(one.name, ModelCard()), manifest.version) for one in manifest.artifacts
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": _SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, manifest.digest.hex)}",
        "version": 1,
        "metadata": {
            "timestamp": created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": {"components": [{"type": "application", "name": "tallystick", "version": __version__}]},
            "component": {
                "bom-ref": ref,
                "type": "machine-learning-model",
                "name": manifest.name,
                "version": manifest.version,
                "hashes": [cyclonedx.hash_of(manifest.digest)],
            },
        },
        "components": parts,
        "dependencies": [
            {"ref": ref, "dependsOn": [str(part["bom-ref"]) for part in parts]},
            *({"ref": str(part["bom-ref"])} for part in parts),
        ],
        "compositions": [{"aggregate": "complete", "assemblies": [ref]}],
    }


def again(bom: Document, manifest: Manifest) -> Document:
    """Return the document of ``manifest``, which has the same plaintexts as the release that ``bom`` is of.

    Raises:
        Malformed: ``bom`` is no document of ours.
    """
    created = bom.get("metadata", {}).get("timestamp") if isinstance(bom, dict) else None
    parts = bom.get("components") if isinstance(bom, dict) else None
    if not isinstance(created, str) or not isinstance(parts, list):
        raise Malformed("SBOM", at="metadata.timestamp", want="an SBOM of an artifact release", got="another")
    made = make(manifest, {}, datetime.fromisoformat(created))
    kept = {part["name"]: part for part in parts if isinstance(part, dict) and "name" in part}
    for part in made["components"]:
        told = kept.get(part["name"], {})
        part |= {name: told[name] for name in ("modelCard", "licenses") if name in told}
    return made


def statement(manifest: Manifest, bom: Document) -> bytes:
    """Return the in-toto statement of ``bom``: about the manifest, and about every plaintext in it."""
    about = [("artifacts.json", {"sha256": manifest.digest.hex})]
    about += [(one.name, {"sha256": one.plaintext.hex}) for one in manifest.artifacts]
    return intoto.make(about, PREDICATE_TYPE, bom)


def differences(found: intoto.Statement, manifest: Manifest) -> Iterator[Finding]:
    """Yield what the SBOM statement ``found`` says that ``manifest`` does not, and the other way round."""
    from tallystick.sbom import check

    want = {"artifacts.json": manifest.digest} | {one.name: one.plaintext for one in manifest.artifacts}
    got = {one.name: dict(one.digests).get("sha256", "") for one in found.subjects}
    yield from _compare("subject", {name: digest.hex for name, digest in want.items()}, got)
    findings = check.check_document(found.predicate)
    yield from findings
    if findings:
        return
    listed = {str(part["name"]): _sha256(part) for part in found.predicate.get("components", [])}
    yield from _compare("component", {one.name: one.plaintext.hex for one in manifest.artifacts}, listed)


def _sha256(part: Document) -> str:
    hashes = (one.get("content") for one in part.get("hashes", []) if one.get("alg") == "SHA-256")
    return str(next(hashes, ""))


def _compare(what: str, want: Mapping[str, str], got: Mapping[str, str]) -> Iterator[Finding]:
    for name in sorted(want.keys() | got.keys()):
        if want.get(name) != got.get(name):
            where = f"SBOM {what} {name}"
            yield Finding("artifact.sbom", where, want.get(name, "none"), got.get(name) or "none")


def _component(one: Artifact, card: ModelCard, version: str) -> Document:
    part: dict[str, Any] = {
        "bom-ref": f"artifact:{one.name}",
        "type": "machine-learning-model" if one.kind in _MODELS else "data",
        "name": one.name,
        "version": version,
        "hashes": [cyclonedx.hash_of(one.plaintext)],
        "properties": [
            {"name": "tallystick:kind", "value": one.kind},
            {"name": "tallystick:size", "value": str(one.size_bytes)},
            {"name": "tallystick:ciphertext", "value": str(one.ciphertext)},
        ],
    }
    if card.licence:
        part["licenses"] = [{"expression": card.licence}]
    if one.kind in _MODELS and (shown := _card(card)):
        part["modelCard"] = shown
    return part


def _card(card: ModelCard) -> Document:
    parameters: dict[str, Any] = {
        "task": card.task,
        "architectureFamily": card.architecture_family,
        "modelArchitecture": card.architecture,
        "datasets": [{"type": "dataset", "name": name} for name in card.datasets],
    }
    considerations = {
        "useCases": list(card.use_cases),
        "technicalLimitations": list(card.limitations),
    }
    made = {
        "modelParameters": {name: value for name, value in parameters.items() if value},
        "considerations": {name: value for name, value in considerations.items() if value},
    }
    return {name: value for name, value in made.items() if value}

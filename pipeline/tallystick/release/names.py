"""The names of a release's parts: files, predicate types, and the URIs that verdicts use."""

from __future__ import annotations

from tallystick.release.records import Index
from tallystick.signing.records import Builder, Identity

RELEASE_PREDICATE = "https://in-toto.io/attestation/release/v0.1"
PREDICATES = {  # statement -> its predicateType
    "index": RELEASE_PREDICATE,
    "measurements": "https://in-toto.io/attestation/scai/v0.3",
    "provenance": "https://slsa.dev/provenance/v1",
    "sbom": "https://cyclonedx.org/bom",
}
BUNDLES = "bundles"
PROMOTIONS = "promotions"
PRODUCTION = "production"  # the channel that asks for the most
_BASE = "https://tallystick.local"


SOURCE_VSA = f"{PROMOTIONS}/source.sigstore.json"  # the commit's, beside the verdicts


def bundle_file(statement: str) -> str:
    """Return where the bundle of ``statement`` lies in a release."""
    return f"{BUNDLES}/{statement}.sigstore.json"


def promotion_file(channel: str) -> str:
    """Return where a release keeps the verdict that promoted it into ``channel``."""
    return f"{PROMOTIONS}/{channel}.sigstore.json"


def resource_uri(channel: str, index: Index) -> str:
    """Return what a verdict is about: a release in a channel. A verdict for one channel means nothing in another."""
    return f"{_BASE}/channels/{channel}/{index.name}/{index.version}"


def verifier_id(promoter: Identity) -> str:
    """Return the only ``verifier.id`` that ``promoter`` may claim."""
    return f"{_BASE}/verifiers/{promoter.san}"


def gates_uri() -> str:
    """Return the name of the rules that a promotion checks; docs/decisions/0062-promotion-gates.md lists them."""
    return f"{_BASE}/promotion-gates/v1"


def build_level(builder: Builder) -> str:
    """Return the VSA level of what ``builder`` made: the one that the trust file believes it for."""
    return f"SLSA_BUILD_LEVEL_{builder.slsa_build_level}"


def reproduced_level(count: int) -> str:
    """Return the VSA level that says how many independent rebuilders got the same bytes."""
    return f"TALLYSTICK_REPRODUCED_{count}"

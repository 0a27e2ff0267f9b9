"""The normal form: whole release tuples and constraints, as targets compile them and the broker reads them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tallystick.core.digests import Digest
from tallystick.core.expect import Expect


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuple:
    """All Reference Values of one release on one platform and shape. Never split, never mixed."""

    platform: str
    evidence_kind: str
    expect: tuple[tuple[str, Expect], ...]  # claim path -> expectation, sorted by path


@dataclass(frozen=True, slots=True, kw_only=True)
class PermittedRelease:
    """One verified, promoted release and everything its permission rests on."""

    digest: Digest  # the release digest
    name: str
    version: str
    vsa: Digest  # of the promotion's bundle
    bundles: tuple[Digest, ...]  # of every verified bundle, sorted
    labels: tuple[str, ...]  # roots it rests on: ("embedded-dev",)
    tuples: tuple[Tuple, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRule:
    """One key and the artifact it opens."""

    key: str  # KBS resource path: "confidential-inference/weights/v1"
    artifact: str  # "weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalForm:
    """A compiled policy before any target language: who may get which keys, and on what evidence."""

    policy: str  # name
    policy_digest: Digest  # sha256 of the policy file a person wrote
    channel: str
    keys: tuple[KeyRule, ...]
    releases: tuple[PermittedRelease, ...]
    constraints: tuple[
        tuple[str, str, Expect], ...
    ]  # (evidence kind, claim path, expectation) on every tuple
    roots: tuple[str, ...]  # labels of evidence roots that are accepted: ("software-tpm",)
    max_age_seconds: int  # oldest evidence that is accepted
    waivers: tuple[tuple[str, Expect], ...]  # requirement name -> Waived
    not_after: datetime  # the compiled policy's own end

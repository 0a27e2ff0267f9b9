"""What the chain page shows, as plain values: who fills this in has checked it, and the page only draws it.

``report.gather`` makes most of these from a release directory, a verified release and a channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tallystick.core.digests import Digest
from tallystick.core.findings import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class InputView:
    """One thing that came from outside: a package, a wheel, a tree of sources, a commit."""

    name: str
    kind: str  # "file" | "tree" | "source" | "commit"
    uri: str
    digests: tuple[tuple[str, str], ...]  # (algorithm as labelled, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildView:
    """How the release was made, as its provenance says and its derivations prove."""

    builder_id: str
    build_type: str
    facts: tuple[tuple[str, str], ...]  # (name, value): how Nix ran
    recipe: Digest
    derivations: int
    outputs: int  # of these derivations, all recomputed from their texts
    fixed_outputs: int
    inputs: tuple[InputView, ...]
    statement: Digest  # of statements/provenance.json
    roots: tuple[tuple[str, Digest], ...]  # (file, sha256) of the derivations that nothing else needs
    findings: tuple[Finding, ...] = ()  # where the provenance does not follow


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductView:
    """One product, and how much of it is explained."""

    name: str
    path: str
    digest: Digest
    size_bytes: int
    drv: str
    files: int
    unexplained_files: int
    unexplained_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentView:
    """One component of the SBOM."""

    name: str
    version: str
    kind: str
    licence: str
    digest: str  # SHA-256 in hex; of a source tree "narHash sha256:…"
    files: int
    products: tuple[str, ...]  # that hold a file of it


@dataclass(frozen=True, slots=True, kw_only=True)
class SbomView:
    """What is inside."""

    spec_version: str
    components: tuple[ComponentView, ...]
    statement: Digest  # of statements/sbom.json
    unexplained_files: int
    unexplained_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterView:
    """One register of a release tuple."""

    name: str  # "PCR 4"
    meaning: str
    value: str  # lower-case hex; "" when waived
    waived: str = ""  # "docs/decisions/… by … until …"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementView:
    """One release tuple: what a machine must report."""

    platform: str
    evidence_kind: str
    image: Digest
    firmware: Digest
    shape: tuple[tuple[str, str], ...]
    registers: tuple[RegisterView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureView:
    """One signed statement."""

    statement: str  # "provenance"
    signer: str
    issuer: str
    signed_at: datetime
    bundle: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildView:
    """One rebuild of the release by somebody else."""

    builder_id: str
    organisation: str
    counts: bool
    note: str  # why it does not count


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseView:
    """One release and everything that it rests on."""

    name: str
    version: str
    digest: Digest
    build: BuildView
    products: tuple[ProductView, ...]
    sbom: SbomView
    measurements: tuple[MeasurementView, ...]
    measurements_statement: Digest
    signatures: tuple[SignatureView, ...] = ()
    rebuilds: tuple[RebuildView, ...] = ()
    rebuilds_needed: int = 0
    links: tuple[tuple[str, Digest], ...] = ()  # (file name, sha256) of the rebuilders' links
    labels: tuple[str, ...] = ()  # "embedded-dev": which roots it rests on


@dataclass(frozen=True, slots=True, kw_only=True)
class GateView:
    """One check that a promotion ran."""

    name: str
    detail: str
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionView:
    """One release in one channel, and the people who put it there."""

    release: Digest
    channel: str
    version: int  # of the channel's metadata
    author: str
    approvers: tuple[str, ...]
    threshold: int
    verdict: Digest | None  # of the VSA's bundle
    gates: tuple[GateView, ...] = ()
    expires: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyView:
    """One compiled policy and what was proved of it."""

    name: str
    target: str  # "broker", "trustee"
    channel: str
    digest: Digest  # of the policy file that the broker loads
    releases: tuple[Digest, ...]  # that it names
    released: int | None = None  # tuples of the verified channel; None: not proved for this page
    accepted: int | None = None  # distinct evidence that got a key
    evaluated: int = 0  # pieces of evidence that were tried
    keys: tuple[str, ...] = ()
    waivers: tuple[str, ...] = ()
    not_after: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionView:
    """One answer of the broker, or of a tool that refused before the broker was asked."""

    title: str  # "an added option ROM"
    allowed: bool
    at: datetime
    key: str = ""
    release: Digest | None = None  # the one that matched; when refused, the nearest
    policy: Digest | None = None
    findings: tuple[Finding, ...] = ()  # every reason; empty when allowed
    changed: tuple[str, ...] = ()  # components that differ from the nearest release
    flips: tuple[str, ...] = ()  # changes that together would have made it a yes, as the evaluator said
    steps: tuple[str, ...] = ()  # what the operator can do about it
    log_index: int | None = None
    decision: str = ""  # its identifier in the log
    proof: str = ""  # JSON: its leaf, and the audit path to the checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class LogView:
    """The head of a transparency log."""

    name: str  # what is in it: "key releases"
    origin: str
    size: int
    root: str  # hex
    checkpoint: str = ""  # the signed note
    verifier: str = ""  # the public key line that verifies it


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReport:
    """The chain from source to key release."""

    made_at: datetime
    made_by: str  # "tallystick 0.1.0"
    releases: tuple[ReleaseView, ...]
    promotions: tuple[PromotionView, ...] = ()
    policies: tuple[PolicyView, ...] = ()
    decisions: tuple[DecisionView, ...] = ()
    logs: tuple[LogView, ...] = ()
    notes: tuple[str, ...] = ()  # what a reader must know: "development roots only"

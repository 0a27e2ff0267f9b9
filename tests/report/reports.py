"""A chain report made up at test time: a release from ``releases``, and answers of a broker that never ran."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tallystick.core.digests import Digest
from tallystick.core.findings import Finding
from tallystick.report import gather
from tallystick.report.folder import ReleaseFolder
from tallystick.report.records import (
    ChainReport,
    DecisionView,
    GateView,
    LogView,
    PolicyView,
    PromotionView,
    RebuildView,
    SignatureView,
)

NOW = datetime(2026, 11, 22, 17, 30, tzinfo=UTC)
ISSUER = "https://tallystick.local/embedded-dev"
KEY = "confidential-inference/weights/v1"


def full(folder: Path) -> ChainReport:
    """Return a report that has something in every place, about the release in ``folder``."""
    release = gather.release(ReleaseFolder.open(folder))
    release = replace(
        release,
        signatures=tuple(
            SignatureView(
                statement=name,
                signer="https://ci.example/builder",
                issuer=ISSUER,
                signed_at=NOW,
                bundle=Digest.of(name.encode()),
            )
            for name in ("index", "measurements", "provenance", "sbom")
        ),
        rebuilds=(
            RebuildView(
                builder_id="https://tallystick.local/builders/rebuild",
                organisation="rebuild.example",
                counts=True,
                note="",
            ),
            RebuildView(
                builder_id="https://tallystick.local/builders/rebuild-2",
                organisation="rebuild.example",
                counts=False,
                note="same organisation as another rebuilder",
            ),
        ),
        rebuilds_needed=1,
        labels=("embedded-dev",),
    )
    return ChainReport(
        made_at=NOW,
        made_by="tallystick 0.1.0",
        releases=(release,),
        promotions=(_promotion(release.digest),),
        policies=tuple(_policy(release.digest, target) for target in ("broker", "trustee")),
        decisions=_decisions(release.digest),
        logs=(
            LogView(
                name="key releases",
                origin="tallystick.local/broker",
                size=42,
                root=Digest.of(b"root").hex,
                checkpoint="tallystick.local/broker\n42\nWm9vdA==\n\n— tallystick.local/broker c2lnbmF0dXJl\n",
                verifier="tallystick.local/broker+1a2b3c4d+AXh4eHg=",
            ),
        ),
        notes=(
            "Development roots only: the Sigstore is embedded, the TPM is software. No production policy takes either.",
        ),
    )


def _promotion(release: Digest) -> PromotionView:
    return PromotionView(
        release=release,
        channel="staging",
        version=7,
        author="alice",
        approvers=("bob", "carol"),
        threshold=2,
        verdict=Digest.of(b"vsa"),
        gates=(
            GateView(name="index", detail="212 files are as the signed index says", passed=True),
            GateView(name="provenance", detail="follows from 48 derivations", passed=True),
            GateView(name="quorum", detail="1 of 1 rebuilders agree: rebuilder", passed=True),
        ),
        expires=NOW.replace(month=12),
    )


def _policy(release: Digest, target: str) -> PolicyView:
    return PolicyView(
        name="confidential-inference",
        target=target,
        channel="staging",
        digest=Digest.of(target.encode()),
        releases=(release,),
        released=1,
        accepted=1,
        evaluated=214,
        keys=(KEY, KEY.replace("weights", "tokenizer")),
        waivers=("pcr10: docs/decisions/0004-pcr-10.md, decided by alice, until 2027-11-22",),
        not_after=NOW.replace(year=2027),
    )


def _decisions(release: Digest) -> tuple[DecisionView, ...]:
    zero = "0" * 64
    other = Digest.of(b"other").hex
    refused = (
        ("an added option ROM", (Finding("tpm.pcr02.mismatch", "PCR 2", Digest.of(b"sep").hex, other),), ()),
        (
            "an image built from a changed dependency",
            (
                Finding("tpm.pcr04.mismatch", "PCR 4", Digest.of(b"uki").hex, other),
                Finding("tpm.pcr09.mismatch", "PCR 9", Digest.of(b"initrd").hex, other),
                Finding("tpm.pcr11.mismatch", "PCR 11", Digest.of(b"sections").hex, other),
            ),
            ("rfc8785: 0.1.4 -> 0.1.3 (4 files)",),
        ),
        ("another kernel command line", (Finding("tpm.pcr12.mismatch", "PCR 12", zero, other),), ()),
        ("a replayed nonce", (Finding("nonce.spent", "nonce", "one that was not used", "3f9a…"),), ()),
        (
            "a release with its own <script>alert('trust roots')</script> inside",
            (Finding("signature.untrusted", "bundles/index.sigstore.json", "a signer of the trust file", "mallory"),),
            (),
        ),
    )  # fmt: skip
    return (
        DecisionView(
            title="The promoted image, on a machine with a TPM",
            allowed=True,
            at=NOW,
            key=KEY,
            release=release,
            policy=Digest.of(b"broker"),
            log_index=3,
            decision="20261122T173000Z-a1b2c3d4e5f6",
        ),
        *(
            DecisionView(
                title=title[:1].upper() + title[1:],
                allowed=False,
                at=NOW,
                key=KEY,
                release=release,
                policy=Digest.of(b"broker"),
                findings=findings,
                changed=changed,
                log_index=index,
            )
            for index, (title, findings, changed) in enumerate(refused, 4)
        ),
    )

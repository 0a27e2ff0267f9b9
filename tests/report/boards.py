"""A release managers' page made up at test time, with something in every place and something wrong in one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from report import reports

from tallystick.core.digests import Digest
from tallystick.core.findings import Finding
from tallystick.report.board_records import (
    Board,
    ChangeView,
    ChannelView,
    EndView,
    KeyView,
    LeaseView,
    ReleaseCard,
    RevocationView,
    RunView,
    StageView,
    Trouble,
)
from tallystick.report.records import ChainReport

NOW = reports.NOW
NAME = "confidential-inference"
EVIL = "<script>alert('x')</script>"


def full(folder: Path) -> Board:
    """Return a page about the release in ``folder`` and one before it."""
    chain = reports.full(folder)
    (release,) = chain.releases
    old = Digest.of(b"the release before")
    return Board(
        made_at=NOW,
        made_by="tallystick 0.1.0",
        channel="staging",
        keys=tuple(_key(name, release.digest, old) for name in ("weights", "tokenizer")),
        unusable=(Finding("policy.key-twice", "key team/shared/v1", "one policy", "a and b"),),
        state=_state(old),
        releases=(
            _card(chain, "0.2.0", release.digest, changed=True),
            _card(chain, "0.1.0", old, changed=False),
        ),
        leases=tuple(_lease(number, f"{NAME} 0.2.0") for number in range(4)),
        more_leases=1200,
        refusals=tuple(one for one in chain.decisions if not one.allowed)[:3],
        refused=17,
        released=42,
        log=chain.logs[0],
        ends=_ends(),
        notes=chain.notes,
    )


def broken() -> Board:
    finding = Finding("release.channel.expired", "timestamp", "valid at noon", "valid until eleven")
    return Board(
        made_at=NOW,
        made_by="tallystick 0.1.0",
        channel="staging",
        troubles=(Trouble(part="channel", message=f"nothing holds {EVIL}", findings=(finding,)),),
    )


def _key(artifact: str, *releases: Digest) -> KeyView:
    return KeyView(
        key=f"{NAME}/{artifact}/v1",
        policy=NAME,
        digest=Digest.of(b"broker"),
        max_age_seconds=300,
        reattest_seconds=3600,
        not_after=NOW + timedelta(days=90),
        waivers=("pcr10: docs/decisions/0010-pcr-10.md, decided by alice, until 2027-05-01",),
        runs=tuple(
            RunView(
                name=NAME,
                version=f"0.{2 - number}.0",
                digest=digest,
                promoted_at=NOW - timedelta(days=3 + 30 * number),
                verdict=Digest.of(b"vsa" + digest.value),
                platforms=(("amd-sev-snp", 24), ("intel-tdx", 2), ("qemu-vtpm", 1)),
            )
            for number, digest in enumerate(releases)
        ),
    )


def _state(old: Digest) -> ChannelView:
    def change(kind, summary, missing, approvers):
        return ChangeView(
            kind=kind,
            summary=summary,
            author="alice",
            approvers=approvers,
            missing=missing,
            at=NOW - timedelta(hours=5),
            role="releases" if kind == "release" else "policies",
            version=8,
        )

    return ChannelView(
        name="staging",
        version=19,
        expires=NOW + timedelta(days=6, hours=3),
        threshold=2,
        platforms=("amd-sev-snp", "intel-tdx", "qemu-vtpm"),
        people=("alice", "bob", "carol"),
        waiting=(
            change("release", f"{NAME} 0.3.0 {EVIL}", 1, ("bob",)),
            change("policy", NAME, 2, ()),
        ),
        last=(change("release", f"{NAME} 0.2.0", 0, ("bob", "carol")),),
        revoked=(
            RevocationView(
                release=Digest.of(b"gone"), by="carol", reason="CVE-2026-0001", at=NOW - timedelta(days=9)
            ),
        ),
    )


def _card(chain: ChainReport, version: str, digest: Digest, *, changed: bool) -> ReleaseCard:
    (release,) = chain.releases
    said = (
        ("Source", "git+https://example.org/inference@refs/tags/v0.2.0", b"recipe"),
        ("Image (uki)", "products/uki.efi", b"uki"),
        ("SBOM", "CycloneDX, signed", b"sbom"),
        ("Provenance", "by https://tallystick.local/builders/ci", b"prov"),
        ("Measurements", "27 release tuples", b"meas"),
        ("Release", "the index of all of it", digest.value),
        ("Rebuild", "same bytes at rebuild.example", b"link"),
        ("Promotion", "verdict by alice@example.org", b"vsa"),
    )
    return ReleaseCard(
        name=NAME,
        version=version,
        digest=digest,
        labels=("embedded-dev",),
        chain=tuple(StageView(name=name, said=words, digest=Digest.of(data)) for name, words, data in said),
        components=release.sbom.components,
        measurements=release.measurements,
        signatures=release.signatures,
        rebuilds=release.rebuilds,
        rebuilds_needed=1,
        promotion=chain.promotions[0],
        before=f"{NAME} 0.1.0 sha256:0b1c" if changed else "",
        changes=("inputs: 2 file(s) differ", "  seeds/wheels.json", "  rfc8785: 0.1.3 -> 0.1.4 (4 files)")
        if changed
        else (),
    )


def _lease(number: int, release: str) -> LeaseView:
    return LeaseView(
        lease=f"20261122T17{number:02}00Z-a1b2c3d4e5f6",
        key=f"{NAME}/weights/v1" if number else f"{NAME}/{'a-very-long-name-' * 6}/v1",
        release=release,
        holder=Digest.of(bytes([number])).hex,
        state="draining" if number == 2 else "live",
        issued_at=NOW - timedelta(hours=9),
        renewed_at=NOW - timedelta(minutes=11 * number),
        expires_at=NOW + timedelta(minutes=60 - 11 * number),
    )


def _ends() -> tuple[EndView, ...]:
    return (
        EndView(
            at=NOW - timedelta(hours=1),
            kind="endorsement",
            what="tdx.json: TCB info",
            then="TDX quotes are refused",
        ),
        EndView(
            at=NOW + timedelta(days=6, hours=3),
            kind="channel",
            what="timestamp of channel staging, version 19",
            then="nothing of channel staging is released",
            stops=("20261122T170000Z-a1b2c3d4e5f6",),
        ),
        EndView(
            at=NOW + timedelta(days=160),
            kind="waiver",
            what="waiver of pcr10 in confidential-inference (docs/decisions/0010-pcr-10.md, alice)",
            then="pcr10 is asked again",
        ),
    )

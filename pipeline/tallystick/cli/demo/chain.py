"""The demo's page: the chain from source to key release, gathered from what the demo made, each part checked again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tallystick.core.digests import Digest
from tallystick.core.files import write_file
from tallystick.core.findings import Finding

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from tallystick.cli.demo.story import Told
    from tallystick.report.records import ChainReport, DecisionView, PolicyView, PromotionView

NOTE = "Development roots only: a software TPM and an embedded Sigstore, all people played on one machine."


def write(told: Told, channel: str, now: datetime) -> Path:
    """Write the page into the demo's folder and return its path."""
    from tallystick.report import page

    path = told.workdir / "chain.html"
    write_file(path, page.render(_report(told, channel, now)))
    return path


def promotion(told: Told, channel: str, now: datetime) -> PromotionView:
    """Return how the release came into ``channel``, verified as anybody else would."""
    from tallystick.release import channel as channels
    from tallystick.report import gather
    from tallystick.signing import trust as trust_file

    trust = trust_file.load(told.workdir / "trust.json")
    verified = channels.load(told.workdir / "channels" / channel, channel, trust, now)
    digest = Digest.parse(told.release)
    change = next((one for one in verified.changes if any(digest.hex in path for path in one.adds)), None)
    return gather.promotion(verified, digest, change)


def _report(told: Told, channel: str, now: datetime) -> ChainReport:
    from tallystick import __version__
    from tallystick.release import verify
    from tallystick.report import gather
    from tallystick.report.folder import ReleaseFolder
    from tallystick.report.records import ChainReport
    from tallystick.signing import trust as trust_file

    release = told.workdir / "release"
    trust = trust_file.load(told.workdir / "trust.json")
    verified = verify.verify_release(release, trust, now)
    return ChainReport(
        made_at=now,
        made_by=f"tallystick {__version__}",
        releases=(gather.release(ReleaseFolder.open(release), verified),),
        promotions=() if told.promotion is None else (told.promotion,),
        policies=tuple(_policies(told)),
        logs=(gather.log("the broker's decisions", told.log["checkpoint"]),) if told.log else (),
        decisions=(_allowed(told, now), *(_refused(one, now) for one in told.refused)),
        notes=(
            NOTE,
            f"The release was promoted to {channel} by two people and revoked at the end of the demo.",
        ),
    )


def _policies(told: Told) -> list[PolicyView]:
    from tallystick.report import gather

    compiled = (told.workdir / "compiled/broker/policy.json").read_bytes()
    found = []
    for proof in told.proofs:
        files = proof["files"]
        main = "policy.json" if "policy.json" in files else "as_default_cpu.rego"
        data = (told.workdir / "compiled" / proof["target"] / main).read_bytes()
        found.append(
            gather.policy(
                proof["target"],
                data,
                compiled=compiled,
                released=proof["released"],
                accepted=proof["accepted"],
                evaluated=proof["evaluated"],
            )
        )
    return found


def _allowed(told: Told, now: datetime) -> DecisionView:
    from tallystick.report.records import DecisionView

    return DecisionView(
        title="the promoted image, in a virtual machine",
        allowed=True,
        at=now,
        release=Digest.parse(told.release),
    )


def _refused(one: object, now: datetime) -> DecisionView:
    from tallystick.cli.demo.refusals import Refused
    from tallystick.report.records import DecisionView

    if not isinstance(one, Refused):
        raise TypeError(type(one).__name__)
    return DecisionView(
        title=one.tried,
        allowed=False,
        at=now,
        findings=(Finding(one.code, one.place, one.want, one.got),),
        changed=(one.note,) if one.note else (),
    )

"""``tally approve``: what waits in a channel, checked as a client would check it, and signed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tallystick.cli.desks import As, ChannelName, TrustFile, Workdir
from tallystick.cli.output import JsonFlag, command_app, emit

if TYPE_CHECKING:
    from datetime import datetime

    from tallystick.release.approve import Recompile
    from tallystick.release.records import VerifiedChannel

app = command_app()


@app.command()
def approve(
    channel: ChannelName,
    name: As,
    workdir: Workdir = None,
    trust: TrustFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Approve everything that others proposed for a channel, and publish what then has enough approvals.

    A release is verified again from its statements; a policy is compiled again from its source, and not signed
    when that gives other bytes. Nobody approves their own proposal, and nobody counts twice.
    """
    from tallystick.cli import clock, desks
    from tallystick.release import approve as approvals

    desk = desks.open_desk(channel, workdir, trust, clock.now())
    who = desks.person_key(workdir, name)
    outcomes = approvals.approve(
        desk, who, lambda: desks.online_key(workdir, channel, desk.state().online), recompiler(desk.now)
    )
    for outcome in outcomes:
        desks.keep(workdir, channel, outcome.high_water)
    document = {
        "channel": channel,
        "approved_by": name,
        "changes": [desks.change_document(outcome.change, live=outcome.live) for outcome in outcomes],
    }
    words = [desks.change_words(outcome.change, live=outcome.live) for outcome in outcomes]
    emit(document, "\n".join(words), as_json=as_json)


def recompiler(now: datetime) -> Recompile:
    """Return what compiles a proposed policy again, from the source that was proposed with it."""

    def recompile(name: str, files: Mapping[str, bytes], channel: VerifiedChannel) -> Mapping[str, bytes]:
        from tallystick.compile import output
        from tallystick.compile.compile import NoRelease, normal_form
        from tallystick.compile.policies import load
        from tallystick.compile.produce import chosen, produce
        from tallystick.core.errors import Refused
        from tallystick.core.findings import Finding
        from tallystick.policy.rules import check

        source = files.get(output.SOURCE)
        if source is None:
            finding = Finding("approve.no-source", f"policy {name}", want=output.SOURCE, got="no such file")
            raise Refused(finding.message, findings=[finding])
        policy = load(source)
        if policy.name != name:
            finding = Finding("approve.other-policy", output.SOURCE, want=name, got=policy.name)
            raise Refused(finding.message, findings=[finding])
        check(policy, now)
        targets = chosen(policy, sorted({path.split("/")[0] for path in files if "/" in path}))
        empty = not any(release.index.name in policy.releases for release in channel.releases)
        form = normal_form(policy, channel, now, NoRelease.PERMIT_NOTHING if empty else NoRelease.REFUSE)
        return output.files(form, produce(form, targets, now), source)

    return recompile

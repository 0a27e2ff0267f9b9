"""``tally compile``: a policy and a channel, to the policies that key brokers read; proved, or not written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.channels import At, ChannelDir, PolicyFile, TrustFile, Workdir
from tallystick.cli.output import JsonFlag, command_app, emit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tallystick.compile.produce import Compiled
    from tallystick.policy.normal import NormalForm

app = command_app()


@app.command()
def compile_(
    policy: PolicyFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")],
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="Compile for this target only; may be given again. Default: all."),
    ] = None,
    workdir: Workdir = None,
    channel_dir: ChannelDir = None,
    trust: TrustFile = None,
    permit_nothing: Annotated[
        bool, typer.Option("--permit-nothing", help="Without any release: write a policy that gives no key.")
    ] = False,
    at: At = None,
    as_json: JsonFlag = False,
) -> None:
    """Compile a policy for key brokers from a channel's verified releases, and prove that nothing else gets a key.

    Exit 6 when the policy or a release is refused, or the proof fails; 4 when a target can not express a requirement.
    """
    from tallystick.cli.channels import read_policy, verified_channel
    from tallystick.cli.clock import at as instant
    from tallystick.compile import output as folder
    from tallystick.compile.compile import NoRelease, normal_form
    from tallystick.compile.produce import chosen, produce
    from tallystick.policy.rules import check

    wanted, source = read_policy(policy)
    targets = chosen(wanted, target or [])
    check(wanted, instant(at))
    found, now = verified_channel(wanted.channel.value, at, workdir, channel_dir, trust)
    form = normal_form(wanted, found, now, NoRelease.PERMIT_NOTHING if permit_nothing else NoRelease.REFUSE)
    compiled = produce(form, targets, now)
    folder.write(output, form, compiled, source)
    emit(_document(form, compiled, output), _words(form, compiled, output), as_json=as_json)


def _document(form: NormalForm, compiled: Sequence[Compiled], output: Path) -> dict[str, Any]:
    from tallystick.core.digests import Digest
    from tallystick.policy import document

    return {
        "output": str(output),
        "policy": form.policy,
        "channel": form.channel,
        "normal_form": str(document.digest(form)),
        "releases": [str(release.digest) for release in form.releases],
        "targets": {
            one.emitted.target: {
                "released": one.proof.released,
                "accepted": one.proof.accepted,
                "evaluated": one.proof.evaluated,
                "engines": list(one.proof.engines),
                "max_age_seconds": one.emitted.max_age_seconds,
                "not_after": f"{one.emitted.not_after:%Y-%m-%dT%H:%M:%SZ}",
                "not_checked": [r.requirement for r in form.residuals if r.target == one.emitted.target],
                "files": {name: str(Digest.of(data)) for name, data in one.emitted.files.items()},
            }
            for one in compiled
        },
    }


def _words(form: NormalForm, compiled: Sequence[Compiled], output: Path) -> str:
    lines = [f"{form.policy} for {form.channel}: {len(form.releases)} release(s), {len(form.keys)} key(s)"]
    for one in compiled:
        lines.append(f"  {one.proof.words}")
        lines += [
            f"    not checked there: {residual.requirement}"
            for residual in form.residuals
            if residual.target == one.emitted.target
        ]
    lines.append(f"written to {output}")
    return "\n".join(lines)

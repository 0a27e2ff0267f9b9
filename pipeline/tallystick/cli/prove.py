"""``tally prove``: what a compiled policy accepts, against releases rebuilt from the verified channel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.channels import At, ChannelDir, TrustFile, Workdir
from tallystick.cli.output import JsonFlag, command_app, emit

if TYPE_CHECKING:
    from datetime import datetime

    from tallystick.compile.targets.base import Proof
    from tallystick.policy.model import Policy
    from tallystick.policy.normal import NormalForm

app = command_app()


@app.command()
def prove(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `tally compile` wrote.")],
    policy: Annotated[Path, typer.Option("--policy", help="The policy it should be of, a YAML file.")],
    workdir: Workdir = None,
    channel_dir: ChannelDir = None,
    trust: TrustFile = None,
    at: At = None,
    as_json: JsonFlag = False,
) -> None:
    """Prove that a compiled policy admits the released tuples and nothing else. Nothing it says of itself is believed.

    The policy and the trust file come from you, the releases from the channel. Exit 6 with evidence that would
    get a key when the proof fails.
    """
    _, form, proofs, _ = proved(folder, policy, workdir, channel_dir, trust, at)
    document = {
        "policy": form.policy,
        "channel": form.channel,
        "releases": [str(release.digest) for release in form.releases],
        "targets": {
            proof.target: {
                "released": proof.released,
                "accepted": proof.accepted,
                "evaluated": proof.evaluated,
                "engines": list(proof.engines),
            }
            for proof in proofs
        },
    }
    emit(document, "\n".join(proof.words for proof in proofs), as_json=as_json)


def proved(
    folder: Path,
    policy: Path,
    workdir: Path | None,
    channel_dir: Path | None,
    trust: Path | None,
    at: str | None,
) -> tuple[Policy, NormalForm, list[Proof], datetime]:
    """Return the policy, what it permits by the verified channel, the proofs of ``folder``, and their time.

    Raises:
        Refused: a proof fails. TallystickError: the policy, the channel or the folder is not as it must be.
    """
    from tallystick.cli.channels import read_policy, verified_channel
    from tallystick.compile import output
    from tallystick.compile.compile import NoRelease, normal_form
    from tallystick.compile.produce import Job, prove_all
    from tallystick.core.errors import Misuse

    compilation = output.read(folder)
    wanted, _ = read_policy(policy)
    found, now = verified_channel(wanted.channel.value, at, workdir, channel_dir, trust)
    form = normal_form(wanted, found, now, NoRelease.PERMIT_NOTHING)
    targets = [target for target in wanted.targets if target.name in compilation.files]
    if len(targets) != len(compilation.files) or not targets:
        extra = ", ".join(sorted(set(compilation.files) - {target.name for target in targets})) or "none"
        raise Misuse(f"{folder}: targets that the policy is not for: {extra}", code="target.not-in-policy")
    jobs = [Job(form=form, target=one, now=now, files=compilation.of(one.name)) for one in targets]
    return wanted, form, list(prove_all(jobs)), now

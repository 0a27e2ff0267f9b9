"""``tally policy``: check a policy by itself, and say how two of them differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.channels import At, PolicyFile
from tallystick.cli.output import JsonFlag, command_app, emit

if TYPE_CHECKING:
    from tallystick.policy.normal import NormalForm

app = command_app("Check or compare policies.")


@app.command()
def check(policy: PolicyFile, at: At = None, as_json: JsonFlag = False) -> None:
    """Read a policy and hold it to the rules of its channel. Exit 6 with every rule it breaks."""
    from tallystick.cli.channels import read_policy
    from tallystick.cli.clock import at as instant
    from tallystick.policy import rules

    found, _ = read_policy(policy)
    rules.check(found, instant(at))
    document = {
        "policy": found.name,
        "digest": str(found.digest),
        "channel": found.channel.value,
        "keys": [rule.key for rule in found.keys],
        "targets": [target.name for target in found.targets],
        "waived": [waiver.requirement for waiver in found.waivers],
        "until": f"{found.until:%Y-%m-%dT%H:%M:%SZ}",
    }
    waived = ", ".join(waiver.requirement for waiver in found.waivers) or "nothing"
    words = (
        f"{found.name} ({found.channel.value}, until {found.until:%Y-%m-%d}): {len(found.keys)} key(s), "
        f"for {', '.join(target.name for target in found.targets)}; waived: {waived}"
    )
    emit(document, words, as_json=as_json)


@app.command()
def diff(
    old: Annotated[
        Path, typer.Argument(help="A policy, a folder that `tally compile` wrote, or its policy.json.")
    ],
    new: Annotated[Path, typer.Argument(help="The same kind of thing, newer.")],
    as_json: JsonFlag = False,
) -> None:
    """Say in words what changed, and for compiled policies which tuples are newly allowed and newly denied."""
    say_difference(old, new, as_json=as_json)


def say_difference(old: Path, new: Path, *, as_json: bool) -> None:
    """Print how two policies differ, or two compiled ones.

    Raises:
        Misuse: one of each (``policy.diff.kinds``), or a folder without the target ``broker``.
    """
    from tallystick.cli.channels import read_policy
    from tallystick.core.errors import Misuse
    from tallystick.policy import diff as differences

    one, two = _compiled(old), _compiled(new)
    if (one is None) != (two is None):
        raise Misuse("compare two policies, or two compiled ones, not one of each", code="policy.diff.kinds")
    if one is not None and two is not None:
        found = differences.of_forms(one, two)
    else:
        found = differences.of_policies(read_policy(old)[0], read_policy(new)[0])
    document = {
        "changed": [{"what": c.what, "old": c.old, "new": c.new} for c in found.changes],
        "allowed": list(found.allowed),
        "denied": list(found.denied),
    }
    emit(document, found.words, as_json=as_json)


def _compiled(path: Path) -> NormalForm | None:
    """Return the normal form in ``path``, or None when it is a policy that somebody wrote."""
    from tallystick.core.errors import Misuse
    from tallystick.core.files import read_file
    from tallystick.policy import document

    place = path / "broker" / "policy.json" if path.is_dir() else path
    if path.is_dir() and not place.is_file():
        message = f"{path} was not compiled for broker, whose file is the normal form that is compared"
        raise Misuse(message, code="policy.diff.kinds")
    if place.suffix != ".json":
        return None
    return document.read(read_file(place, "compiled policy", max_bytes=document.MAX_BYTES))

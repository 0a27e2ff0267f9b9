"""What the targets of clouds share: what is asked of a form before it is emitted, the papers, and a proof's end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tallystick.compile.errors import Inexpressible
from tallystick.compile.targets import crossed, keyids, proved
from tallystick.compile.targets.base import Emitted, Lack, Proof
from tallystick.compile.targets.claims import Vocabulary, rows
from tallystick.compile.targets.common import papers, view
from tallystick.policy.normal import NormalForm


def check(form: NormalForm, target: str, keys: keyids.KeyIds, words: Mapping[str, Vocabulary]) -> None:
    """Check that the keys are the policy's, and that every tuple still pins something.

    Raises:
        Inexpressible: ``target.keys``, ``target.no-register``.
    """
    keyids.check(form, target, keys)
    for row in rows(form, target, words):
        if not row.pins:
            raise Inexpressible(f"{target}: no register of {row.platform} is left", code="target.no-register")


def reasons(lacks: Iterable[Lack]) -> dict[str, str]:
    """Return why each requirement is lacked."""
    return {lack.requirement: lack.why for lack in lacks}


def emitted(
    form: NormalForm,
    target: str,
    policies: Mapping[str, bytes],
    readme: str,
    *,
    whys: Mapping[str, str],
    assumes: tuple[str, ...],
    seconds: int,
) -> Emitted:
    """Return the policies with the papers beside them.

    Args:
        whys: why each requirement is lacked.
        seconds: the oldest evidence that the cloud takes.
    """
    files = {
        **policies,
        papers.RESIDUAL: papers.residual(form, target, target, whys, assumes),
        papers.README: readme.encode(),
    }
    return Emitted(
        target=target,
        files=dict(sorted(files.items())),
        max_age_seconds=seconds,
        not_after=view.end(form, target),
        assumes=assumes,
    )


def proof(
    form: NormalForm,
    target: str,
    words: Mapping[str, Vocabulary],
    tried: int,
    engines: tuple[str, ...] = (),
) -> Proof:
    """Return a proof by logic over every tuple; ``tried`` is how much evidence was evaluated beside it."""
    released = len(rows(form, target, words))
    return Proof(
        target=target,
        released=released,
        accepted=released,
        evaluated=tried,
        engines=(proved.ENGINE, crossed.ENGINE, *engines),
    )

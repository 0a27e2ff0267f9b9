"""The target ``azure-skr``: what it can not express, and its files."""

from __future__ import annotations

from collections.abc import Iterator

from tallystick.compile.targets import cloud, leftover
from tallystick.compile.targets.azure_skr import choice as choices
from tallystick.compile.targets.azure_skr import emit
from tallystick.compile.targets.azure_skr.choice import AzureSkrTarget
from tallystick.compile.targets.azure_skr.readme import assumes, readme
from tallystick.compile.targets.azure_skr.words import ATTESTATION_TYPES, NAME, WORDS
from tallystick.compile.targets.base import Emitted, Lack
from tallystick.compile.targets.common.backend import Composed
from tallystick.compile.targets.lacking import lacking
from tallystick.core import expect as expects
from tallystick.core.expect import Expect
from tallystick.policy.normal import NormalForm

POLICY_END = Lack(
    requirement="end",
    why="a release policy knows no time: it gives the key until it is replaced or the key is disabled",
)


def lacks(form: NormalForm, choice: AzureSkrTarget) -> Iterator[Lack]:
    """Yield what ``equals`` and an attestation policy do not say: ages, places, lists, an end."""

    def says(platform: str, path: str, expect: Expect) -> bool:
        if path not in WORDS[platform].names:
            return False
        if isinstance(expect, expects.AtLeast):
            return platform in ATTESTATION_TYPES and not choice.shared
        return isinstance(expect, expects.Exactly | expects.OneOf)

    yield from lacking(form, NAME, WORDS, 60 * choice.token_minutes, says)
    yield POLICY_END


def emitted(form: NormalForm, choice: AzureSkrTarget) -> Emitted:
    """Return the policies, and how to apply them; :meth:`Backend.emit` says more."""
    cloud.check(form, NAME, choice.keys, WORDS)
    whys = cloud.reasons(lacks(form, choice))
    own = emit.attestation_policy(form, choice, leftover.head(form, NAME))
    policies = {emit.RELEASE_POLICY: emit.release_policy(form, choice, own)}
    if own is not None:
        policies[emit.ATTESTATION_POLICY] = own
    return cloud.emitted(
        form,
        NAME,
        policies,
        readme(form, choice, whys, own_policy=own is not None),
        whys=whys,
        assumes=assumes(choice, own_policy=own is not None),
        seconds=60 * choice.token_minutes,
    )


BACKEND = Composed(
    name=NAME,
    kind=AzureSkrTarget,
    schema=choices.SCHEMA,
    read=choices.read,
    lacks=lacks,
    emit=emitted,
    prove_module="tallystick.compile.targets.azure_skr.prove",
)

"""The target ``aws-kms``: what it can not express, and its files."""

from __future__ import annotations

from collections.abc import Iterator

from tallystick.compile.targets import cloud, leftover
from tallystick.compile.targets.aws_kms import choice as choices
from tallystick.compile.targets.aws_kms import emit
from tallystick.compile.targets.aws_kms.choice import AwsKmsTarget
from tallystick.compile.targets.aws_kms.readme import ASSUMES, readme
from tallystick.compile.targets.aws_kms.words import DOCUMENT_SECONDS, NAME, WORDS
from tallystick.compile.targets.base import Emitted, Lack
from tallystick.compile.targets.common import papers, view
from tallystick.compile.targets.common.backend import Composed
from tallystick.compile.targets.lacking import lacking
from tallystick.core import expect as expects
from tallystick.core.expect import Expect
from tallystick.policy.normal import NormalForm, Placement


def lacks(form: NormalForm, choice: AwsKmsTarget) -> Iterator[Lack]:
    """Yield what no condition key says: versions, ages, places, devices."""
    accounts = {arn.split(":")[4] for arn in choice.workloads}

    def placed(place: Placement) -> bool:
        return place.name == "account" and accounts <= set(place.values)

    yield from lacking(form, NAME, WORDS, DOCUMENT_SECONDS, _says, placed)


def emitted(form: NormalForm, choice: AwsKmsTarget) -> Emitted:
    """Return the key policy, and how to apply it; :meth:`Backend.emit` says more."""
    cloud.check(form, NAME, choice.keys, WORDS)
    whys = cloud.reasons(lacks(form, choice))
    end = papers.time(view.end(form, NAME))
    return cloud.emitted(
        form,
        NAME,
        {emit.POLICY: emit.key_policy(form, choice, leftover.head(form, NAME), end)},
        readme(form, choice, whys),
        whys=whys,
        assumes=ASSUMES,
        seconds=DOCUMENT_SECONDS,
    )


def _says(platform: str, path: str, expect: Expect) -> bool:
    """Say whether a condition on ``path`` can say ``expect``."""
    if WORDS[platform].implied.get(path) == expect:
        return True
    known = path in WORDS[platform].names
    return known and isinstance(expect, expects.Exactly | expects.OneOf | expects.NoneOf)


BACKEND = Composed(
    name=NAME,
    kind=AwsKmsTarget,
    schema=choices.SCHEMA,
    read=choices.read,
    lacks=lacks,
    emit=emitted,
    prove_module="tallystick.compile.targets.aws_kms.prove",
)

"""The target ``gcp-wif``: what it can not express, and its files."""

from __future__ import annotations

from collections.abc import Iterator

from tallystick.compile.targets import cloud
from tallystick.compile.targets.base import Emitted, Lack
from tallystick.compile.targets.common import papers, view
from tallystick.compile.targets.common.backend import Composed
from tallystick.compile.targets.gcp_wif import choice as choices
from tallystick.compile.targets.gcp_wif import emit
from tallystick.compile.targets.gcp_wif.choice import GcpWifTarget
from tallystick.compile.targets.gcp_wif.readme import ASSUMES, readme
from tallystick.compile.targets.gcp_wif.words import NAME, TOKEN_SECONDS, WORDS
from tallystick.compile.targets.lacking import lacking
from tallystick.core import expect as expects
from tallystick.core.expect import Expect
from tallystick.policy import document
from tallystick.policy.normal import NormalForm


def lacks(form: NormalForm, choice: GcpWifTarget) -> Iterator[Lack]:
    """Yield what a condition on a token does not say: measurements, whole numbers, versions, ages."""
    yield from lacking(form, NAME, WORDS, TOKEN_SECONDS, _says)


def emitted(form: NormalForm, choice: GcpWifTarget) -> Emitted:
    """Return mapping, condition and allow policy, and how to apply them; :meth:`Backend.emit` says more."""
    cloud.check(form, NAME, choice.keys, WORDS)
    whys = cloud.reasons(lacks(form, choice))
    head = f"tallystick normal form {document.digest(form)}"  # IAM takes 256 characters
    end = papers.time(view.end(form, NAME))
    return cloud.emitted(
        form,
        NAME,
        {
            emit.CONDITION: emit.condition(form).encode(),
            emit.MAPPING: emit.mapping().encode(),
            emit.ALLOW_POLICY: emit.allow_policy(form, choice, head, end),
        },
        readme(form, choice, whys),
        whys=whys,
        assumes=ASSUMES,
        seconds=TOKEN_SECONDS,
    )


def _says(platform: str, path: str, expect: Expect) -> bool:
    if path not in WORDS[platform].names:
        return False
    if isinstance(expect, expects.NoneOf):
        return all(isinstance(value, str) for value in expect.values)
    return not isinstance(expect, expects.AtLeast | expects.AtLeastVersion | expects.Waived)


BACKEND = Composed(
    name=NAME,
    kind=GcpWifTarget,
    schema=choices.SCHEMA,
    read=choices.read,
    lacks=lacks,
    emit=emitted,
    prove_module="tallystick.compile.targets.gcp_wif.prove",
)

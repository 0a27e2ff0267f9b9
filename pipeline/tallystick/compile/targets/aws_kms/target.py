"""The target ``aws-kms``: what it can not express, its files, and their proof."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from tallystick.compile.domain import Case
from tallystick.compile.errors import Inexpressible
from tallystick.compile.logic.formula import ABSENT, Atom, Formula, Value, every, negated, some
from tallystick.compile.logic.tests import Among
from tallystick.compile.targets import crossed, keyids, leftover, proved
from tallystick.compile.targets.aws_kms import actions, document, emit, model
from tallystick.compile.targets.aws_kms import choice as choices
from tallystick.compile.targets.aws_kms.choice import AwsKmsTarget
from tallystick.compile.targets.aws_kms.operators import Operator
from tallystick.compile.targets.aws_kms.readme import ASSUMES, readme
from tallystick.compile.targets.aws_kms.words import DOCUMENT_SECONDS, NAME, SPELLING, WORDS
from tallystick.compile.targets.base import Emitted, Lack, Proof
from tallystick.compile.targets.claims import Vocabulary, asked, points, rows
from tallystick.compile.targets.lacking import lacking
from tallystick.core import expect as expects
from tallystick.core.errors import Malformed, Unsupported
from tallystick.core.expect import Expect
from tallystick.formats.yamldoc import Fields
from tallystick.policy.model import Target, Waiver
from tallystick.policy.normal import NormalForm, Placement

_FILES = (emit.POLICY, leftover.README, leftover.RESIDUAL)


class AwsKms:
    """AWS KMS."""

    name = NAME
    schema = choices.SCHEMA

    def choice(self, fields: Fields, waivers: tuple[Waiver, ...]) -> Target:
        """Return its entry of a policy."""
        return choices.read(fields, waivers)

    def lacks(self, form: NormalForm, choice: Target) -> Iterator[Lack]:
        """Yield what no condition key says: versions, ages, places, devices."""
        accounts = {arn.split(":")[4] for arn in choices.of(choice).workloads}

        def placed(place: Placement) -> bool:
            return place.name == "account" and accounts <= set(place.values)

        yield from lacking(form, NAME, WORDS, DOCUMENT_SECONDS, _says, placed)

    def emit(self, form: NormalForm, choice: Target) -> Emitted:
        """Return the key policy, and how to apply it."""
        return emitted(form, choices.of(choice))

    def prove(self, files: Mapping[str, bytes], form: NormalForm, choice: Target, now: datetime) -> Proof:
        """Read the key policy back, and compare what it allows with what is permitted."""
        return prove(files, form, choices.of(choice))


def emitted(form: NormalForm, choice: AwsKmsTarget) -> Emitted:
    """Return every file; :meth:`Backend.emit` says more."""
    keyids.check(form, NAME, choice.keys)
    for row in rows(form, NAME, WORDS):
        if not row.pins:
            raise Inexpressible(f"{NAME}: no register of {row.platform} is left", code="target.no-register")
    end = leftover.end(form, NAME)
    whys = {lack.requirement: lack.why for lack in AwsKms().lacks(form, choice)}
    files = {
        emit.POLICY: emit.key_policy(form, choice, leftover.head(form, NAME), leftover.time(end)),
        leftover.RESIDUAL: leftover.residual(form, NAME, whys, ASSUMES),
        leftover.README: readme(form, choice, whys).encode(),
    }
    return Emitted(
        target=NAME,
        files=dict(sorted(files.items())),
        max_age_seconds=DOCUMENT_SECONDS,
        not_after=end,
        assumes=ASSUMES,
    )


def prove(files: Mapping[str, bytes], form: NormalForm, choice: AwsKmsTarget) -> Proof:
    """Return what was shown of ``files``.

    Raises:
        Unproven: the key policy allows something else than what is permitted.
    """
    tried = evaluate(files, form, choice)
    made = emitted(form, choice).files
    proved.require_same(NAME, files, made, (leftover.README, leftover.RESIDUAL))
    head, right = (document.read(one[emit.POLICY]).id for one in (files, made))
    if head != right:
        raise proved.unreadable(NAME, emit.POLICY, "the head of this compilation in Id", head)
    released = len(rows(form, NAME, WORDS))
    return Proof(
        target=NAME,
        released=released,
        accepted=released,
        evaluated=tried,
        engines=(proved.ENGINE, crossed.ENGINE),
    )


def evaluate(files: Mapping[str, bytes], form: NormalForm, choice: AwsKmsTarget) -> int:
    """Compare what the key policy means with what is permitted; return how much evidence was tried beside that.

    Raises:
        Unproven: they differ, or the policy can not be read.
    """
    proved.require_files(NAME, files, _FILES)
    try:
        policy = document.read(files[emit.POLICY])
    except (Malformed, Unsupported) as error:
        raise proved.unreadable(NAME, emit.POLICY, "a key policy", error.message) from None
    for place in model.exact(policy):
        raise proved.unreadable(NAME, emit.POLICY, "only what is modelled exactly", place)
    size = len(files[emit.POLICY])
    if size > document.MOST_BYTES:
        raise proved.unreadable(NAME, emit.POLICY, f"{document.MOST_BYTES} bytes", str(size))
    released = rows(form, NAME, WORDS)
    data = every([model.decision(policy), Atom(model.ACTION, Among(actions.RELEASE))])
    given = every([model.requests(policy), Atom(model.TIME, model.IsTime()), _attested()])
    compare = partial(
        proved.same, NAME, released=len(released), apart=points(released), shown=request, given=given
    )
    # Allows and Denies each alone, so that neither rests on the other: somebody may allow everything beside the
    # Denies, in an identity policy or by a grant, and somebody may take a Deny away.
    compare(model.allowed(policy), permitted(form, choice), counted=data)
    compare(negated(model.denied(policy)), undenied(form))
    return crossed.check(NAME, form, WORDS, data, _shown(form, choice))


def undenied(form: NormalForm) -> Formula:
    """Return what no Deny may be about: actions without data, and registers of the released values in time."""
    released = rows(form, NAME, WORDS)
    families = []
    for platform in sorted({row.platform for row in released}):
        ours = [dict(row.pins) for row in released if row.platform == platform]
        common = sorted(set.intersection(*(set(pins) for pins in ours)))
        families.append(
            every(_meets(key, expects.OneOf(tuple(pins[key] for pins in ours))) for key in common)
        )
    end = leftover.time(leftover.end(form, NAME))
    late = Operator("", "DateGreaterThan", if_exists=False, values=(end,))
    in_time = negated(Atom(model.TIME, late))
    return some([negated(Atom(model.ACTION, Among(*actions.DATA))), every([in_time, some(families)])])


def permitted(form: NormalForm, choice: AwsKmsTarget) -> Formula:
    """Return which requests are permitted: administration to administrators, and releases to workloads.

    The end is in a Deny alone: :func:`undenied`.
    """
    administrators = Atom(model.PRINCIPAL, Among(*choice.administrators))
    workloads = Atom(model.PRINCIPAL, Among(*choice.workloads))
    evidence = []
    for name, vocabulary in WORDS.items():
        ours = [row for row in rows(form, NAME, WORDS) if row.platform == name]
        common = [
            _meets(vocabulary.names[one.path], one.expect)
            for one in asked(form, NAME, name)
            if one.path in vocabulary.names
        ]
        tuples = some(every(_meets(key, expects.Exactly(value)) for key, value in row.pins) for row in ours)
        evidence.append(every([*common, tuples]))
    release = every(
        [
            workloads,
            Atom(model.ACTION, Among(actions.RELEASE)),
            some(evidence),
        ]
    )
    administration = every([administrators, Atom(model.ACTION, Among(*actions.ADMINISTRATION))])
    return some([administration, release])


def request(claims: Mapping[str, Value]) -> dict[str, Any]:
    """Return a request as a person would see it."""
    context = {
        SPELLING.get(key, key): value
        for key, value in sorted(claims.items())
        if value is not ABSENT and ":" in key
    }
    return {"principal": claims.get(model.PRINCIPAL), "action": claims.get(model.ACTION), "context": context}


def _says(platform: str, path: str, expect: Expect) -> bool:
    """Say whether a condition on ``path`` can say ``expect``."""
    if WORDS[platform].implied.get(path) == expect:
        return True
    known = path in WORDS[platform].names
    return known and isinstance(expect, expects.Exactly | expects.OneOf | expects.NoneOf)


def _meets(key: str, expect: Expect) -> Formula:
    """Return when a register is as expected. Its hexadecimal digits mean the same in either case."""
    match expect:
        case expects.Exactly(value):
            return Atom(key, Operator("", "StringEqualsIgnoreCase", if_exists=False, values=(str(value),)))
        case expects.OneOf(values):
            return Atom(
                key, Operator("", "StringEqualsIgnoreCase", if_exists=False, values=tuple(map(str, values)))
            )
        case expects.NoneOf(values):
            among = Atom(
                key, Operator("", "StringEqualsIgnoreCase", if_exists=False, values=tuple(map(str, values)))
            )
            return every([Atom(key, model.IsText()), negated(among)])
        case _:
            raise ValueError(f"{expect} can not be said of a register")


def _attested() -> Formula:
    """A register is absent or a text, and comes only with an action that takes an attestation document."""
    return every(
        some(
            [
                Atom(key, Among(ABSENT)),
                every([Atom(key, model.IsRegister()), Atom(model.ACTION, Among(*actions.ATTESTED))]),
            ]
        )
        for key in sorted(SPELLING)
    )


def _shown(form: NormalForm, choice: AwsKmsTarget) -> crossed.Translate:
    """Return how a machine's evidence looks in a request for a release. A register is a text, or not there."""
    base = {
        model.ACTION: actions.RELEASE,
        model.TIME: leftover.time(leftover.end(form, NAME)),
        model.PRINCIPAL: choice.workloads[-1],
    }

    def translate(vocabulary: Vocabulary, case: Case) -> Mapping[str, Value] | None:
        found = crossed.renamed(vocabulary, case)
        if not all(isinstance(value, str) and value == value.lower() for value in found.values()):
            return None
        return base | found

    return translate


BACKEND = AwsKms()

"""The target ``aws-kms``: what it can not express, its files, and their proof."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from tallystick.compile.errors import Inexpressible
from tallystick.compile.logic.formula import ABSENT, Atom, Formula, Value, evaluate, every, negated, some
from tallystick.compile.logic.tests import Among
from tallystick.compile.targets import leftover, proved
from tallystick.compile.targets.aws_kms import actions, document, emit, model
from tallystick.compile.targets.aws_kms.choice import AwsKmsTarget
from tallystick.compile.targets.aws_kms.operators import Operator
from tallystick.compile.targets.aws_kms.readme import ASSUMES, readme
from tallystick.compile.targets.aws_kms.words import DOCUMENT_SECONDS, NAME, SPELLING, WORDS
from tallystick.compile.targets.base import Emitted, Lack, Proof
from tallystick.compile.targets.claims import asked, points, rows
from tallystick.compile.targets.lacking import lacking
from tallystick.core import expect as expects
from tallystick.core.errors import Malformed, Unsupported
from tallystick.core.expect import Expect
from tallystick.policy.model import Target
from tallystick.policy.normal import NormalForm, Placement

_FILES = (emit.POLICY, leftover.README, leftover.RESIDUAL)


class AwsKms:
    """AWS KMS."""

    name = NAME

    def lacks(self, form: NormalForm, choice: Target) -> Iterator[Lack]:
        """Yield what no condition key says: versions, ages, places, devices."""
        accounts = {arn.split(":")[4] for arn in choice_of(choice).workloads}

        def placed(place: Placement) -> bool:
            return place.name == "account" and accounts <= set(place.values)

        yield from lacking(form, NAME, WORDS, DOCUMENT_SECONDS, _says, placed)

    def emit(self, form: NormalForm, choice: Target) -> Emitted:
        """Return the key policy, and how to apply it."""
        return emitted(form, choice_of(choice))

    def prove(self, files: Mapping[str, bytes], form: NormalForm, choice: Target, now: datetime) -> Proof:
        """Read the key policy back, and compare what it allows with what is permitted."""
        return prove(files, form, choice_of(choice))


def choice_of(choice: Target) -> AwsKmsTarget:
    """Return ``choice`` as what it is; ValueError for another target's: a caller's bug."""
    if not isinstance(choice, AwsKmsTarget):
        raise ValueError("the aws-kms target takes a policy's aws-kms entry")
    return choice


def emitted(form: NormalForm, choice: AwsKmsTarget) -> Emitted:
    """Return every file; :meth:`Backend.emit` says more."""
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
    proved.require_files(NAME, files, _FILES)
    try:
        policy = document.read(files[emit.POLICY])
    except (Malformed, Unsupported) as error:
        raise proved.unreadable(NAME, emit.POLICY, "a key policy", error.message) from None
    for place in model.exact(policy):
        raise proved.unreadable(NAME, emit.POLICY, "only what is modelled exactly", place)
    if len(files[emit.POLICY]) > document.MOST_BYTES:
        raise proved.unreadable(
            NAME, emit.POLICY, f"{document.MOST_BYTES} bytes", str(len(files[emit.POLICY]))
        )
    accepted, released = model.decision(policy), rows(form, NAME, WORDS)
    given = every([model.requests(policy), Atom(model.TIME, model.IsTime()), _attested()])
    data = every([accepted, Atom(model.ACTION, Among(actions.RELEASE))])
    right = permitted(form, choice)
    proved.same(
        NAME,
        accepted,
        right,
        released=len(released),
        apart=points(released),
        shown=request,
        given=given,
        counted=data,
    )
    tried = _tried(form, choice, data, right)
    made = emitted(form, choice).files
    proved.require_same(NAME, files, made, (leftover.README, leftover.RESIDUAL))
    if policy.id != document.read(made[emit.POLICY]).id:
        raise proved.unreadable(NAME, emit.POLICY, "the head of this compilation in Id", policy.id)
    return Proof(
        target=NAME,
        released=len(released),
        accepted=len(released),
        evaluated=tried,
        engines=(proved.ENGINE, "tallystick.compile.logic"),
    )


def permitted(form: NormalForm, choice: AwsKmsTarget) -> Formula:
    """Return which requests are permitted: administration to administrators, and releases to workloads."""
    administrators = Atom(model.PRINCIPAL, Among(*choice.administrators))
    workloads = Atom(model.PRINCIPAL, Among(*choice.workloads))
    end = leftover.time(leftover.end(form, NAME))
    late = Operator("", "DateGreaterThan", if_exists=False, values=(end,))
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
            negated(Atom(model.TIME, late)),
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
                every([Atom(key, model.IsText()), Atom(model.ACTION, Among(*actions.ATTESTED))]),
            ]
        )
        for key in sorted(SPELLING)
    )


def _tried(form: NormalForm, choice: AwsKmsTarget, data: Formula, right: Formula) -> int:
    """Evaluate every released tuple without the solver, for every workload, and each with one register changed."""
    tried = 0
    moment = leftover.time(leftover.end(form, NAME))
    for row in rows(form, NAME, WORDS):
        names = WORDS[row.platform].names
        extra = {names[c.path]: c.expect for c in asked(form, NAME, row.platform) if c.path in names}
        base = {model.ACTION: actions.RELEASE, model.TIME: moment, **_examples(extra), **dict(row.pins)}
        for workload in choice.workloads:
            claims: dict[str, Value] = {**base, model.PRINCIPAL: workload}
            changed = [
                {**claims, key: other} for key, _ in row.pins for other in (ABSENT, "0" * 96, "ab" * 48)
            ]
            wrong = [one for one in changed if evaluate(data, one) != evaluate(right, one)]
            if not evaluate(data, claims) or wrong:
                raise AssertionError("the evaluator and the solver disagree: our bug")
            tried += 1 + len(changed)
    return tried


def _examples(extra: Mapping[str, Expect]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for key, expect in extra.items():
        if isinstance(expect, expects.Exactly):
            found[key] = expect.value
        elif isinstance(expect, expects.OneOf):
            found[key] = expect.values[0]
        else:
            found[key] = "5a" * 48
    return found

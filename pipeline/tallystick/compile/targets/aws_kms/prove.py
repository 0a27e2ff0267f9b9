"""The proof of a key policy: what its bytes mean, and what is permitted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

from tallystick.compile.domain import Case
from tallystick.compile.logic.formula import ABSENT, Atom, Formula, Value, every, negated, some
from tallystick.compile.logic.tests import Among
from tallystick.compile.targets import cloud, crossed, proved
from tallystick.compile.targets.aws_kms import actions, document, emit, model
from tallystick.compile.targets.aws_kms.choice import AwsKmsTarget
from tallystick.compile.targets.aws_kms.operators import Operator
from tallystick.compile.targets.aws_kms.target import emitted
from tallystick.compile.targets.aws_kms.words import NAME, SPELLING, WORDS
from tallystick.compile.targets.base import Proof
from tallystick.compile.targets.claims import Vocabulary, asked, points, rows
from tallystick.compile.targets.common import papers, trial, view
from tallystick.core import expect as expects
from tallystick.core.errors import Malformed, Unsupported
from tallystick.core.expect import Expect
from tallystick.policy.normal import NormalForm


def prove(files: Mapping[str, bytes], form: NormalForm, choice: AwsKmsTarget, now: datetime) -> Proof:
    """Return what was shown of ``files``.

    Raises:
        Unproven: the key policy allows something else than what is permitted.
    """
    made = emitted(form, choice).files
    trial.expect_files(NAME, files, made)
    tried = evaluate(files, form, choice)
    trial.expect_equal(NAME, files, made)
    return cloud.proof(form, NAME, WORDS, tried)


def evaluate(files: Mapping[str, bytes], form: NormalForm, choice: AwsKmsTarget) -> int:
    """Compare what the key policy means with what is permitted; return how much evidence was tried beside that.

    Raises:
        Unproven: they differ, or the policy can not be read.
    """
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
    end = papers.time(view.end(form, NAME))
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
        model.TIME: papers.time(view.end(form, NAME)),
        model.PRINCIPAL: choice.workloads[-1],
    }

    def translate(vocabulary: Vocabulary, case: Case) -> Mapping[str, Value] | None:
        found = crossed.renamed(vocabulary, case)
        if not all(isinstance(value, str) and value == value.lower() for value in found.values()):
            return None
        return base | found

    return translate

"""A key policy as logic: who gets an answer from KMS, for which action, with which attestation document.

Claims of a request: ``principal`` (an ARN), ``action``, and the context keys in lower case. The worst case is taken
wherever a key policy leaves something to others: an account that may use IAM policies has one that allows
everything, and a condition that is not modelled does whatever the caller would like.

Source: IAM User Guide, "Policy evaluation logic" (an explicit Deny wins, nothing is allowed by default); AWS KMS
Developer Guide, "Default key policy" (what the account principal means).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tallystick.compile.logic.formula import (
    TRUE,
    Atom,
    Formula,
    Value,
    every,
    negated,
    some,
)
from tallystick.compile.logic.space import OTHER_TEXT
from tallystick.compile.logic.tests import Among, Present
from tallystick.compile.targets.aws_kms import actions
from tallystick.compile.targets.aws_kms.document import ConditionEntry, KeyPolicy, Statement
from tallystick.compile.targets.aws_kms.operators import Operator, operator, pattern

PRINCIPAL, ACTION = "principal", "action"
RECIPIENT = "kms:recipientattestation:"
TIME = "aws:currenttime"
_CHOSEN = Among("as the caller likes")  # of a condition that is not modelled
ANONYMOUS = "anonymous"
_ACCOUNT = re.compile(r"(?:arn:[a-z-]+:iam::)?([0-9]{12})(?::root)?")
_ARN_ACCOUNT = re.compile(r"arn:[a-z-]+:(?:iam|sts)::([0-9]{12}):")
_OF_PRINCIPAL = {"aws:principalarn": "arn", "aws:principalaccount": "account", "kms:calleraccount": "account"}


@dataclass(frozen=True, slots=True)
class IsPrincipal:
    """The caller is one of these elements of a Principal; an account is everybody in it."""

    elements: tuple[tuple[str, str], ...]

    @property
    def spelled(self) -> bool:
        """Names of callers are as they are: no other spelling of one is a caller."""
        return False

    def holds(self, value: Value) -> bool:
        """Say whether the ARN ``value`` is meant."""
        return isinstance(value, str) and any(_meant(kind, name, value) for kind, name in self.elements)

    def landmarks(self) -> Iterable[Value]:
        """Return a caller of every kind that the elements tell apart."""
        for kind, name in self.elements:
            yield from _callers(kind, name)


@dataclass(frozen=True, slots=True)
class IsAction:
    """The action fits one of these patterns, which know no case."""

    patterns: tuple[str, ...]

    def holds(self, value: Value) -> bool:
        """Say whether the action ``value`` fits."""
        return isinstance(value, str) and any(
            pattern(one.lower()).fullmatch(value.lower()) for one in self.patterns
        )

    def landmarks(self) -> Iterable[Value]:
        """Return every action of KMS, and one that it does not have yet."""
        return actions.ALL


@dataclass(frozen=True, slots=True)
class OfCaller:
    """A condition on a context key that KMS takes from the caller: his ARN, or his account."""

    part: str  # "arn", "account"
    wanted: Operator

    @property
    def spelled(self) -> bool:
        """As :attr:`IsPrincipal.spelled`."""
        return False

    def holds(self, value: Value) -> bool:
        """Answer of the caller ``value``."""
        if not isinstance(value, str):
            return False
        return self.wanted.holds(value if self.part == "arn" else account_of(value))

    def landmarks(self) -> Iterable[Value]:
        """Return a caller with each value that is named."""
        for value in self.wanted.landmarks():
            if isinstance(value, str):
                yield from _callers("AWS", value)


@dataclass(frozen=True, slots=True)
class IsText:
    """The context key is there, and one text."""

    def holds(self, value: Value) -> bool:
        """Say whether ``value`` is a text."""
        return isinstance(value, str)

    def landmarks(self) -> Iterable[Value]:
        """Return none: every text is as good as another."""
        return ()


def decision(policy: KeyPolicy) -> Formula:
    """Return when KMS answers: some Allow matches, and no Deny does."""
    return every([allowed(policy), negated(denied(policy)), requests(policy)])


def allowed(policy: KeyPolicy) -> Formula:
    """Return what some Allow is about, whether or not a Deny is about it, too."""
    effective = [one for one in policy.statements if one.effective]
    return some(matches(one, number) for number, one in enumerate(effective) if one.allow)


def denied(policy: KeyPolicy) -> Formula:
    """Return what some Deny is about: this holds against identity policies and grants of the account, too."""
    effective = [one for one in policy.statements if one.effective]
    return some(matches(one, number) for number, one in enumerate(effective) if not one.allow)


def matches(statement: Statement, number: int) -> Formula:
    """Return when ``statement`` is about a request."""
    parts = [_principal(statement), _action(statement), _resource(statement, number)]
    for place, entry in enumerate(statement.conditions):
        parts.append(condition(entry, f"{number}.{place}"))
    return every(parts)


def condition(entry: ConditionEntry, mark: str) -> Formula:
    """Return when one condition holds. One that is not modelled is the caller's choice, by a claim of its own."""
    found, key = operator(entry.operator, entry.values), entry.key.lower()
    if found is None:
        return Atom(f"unmodelled {entry.operator} {entry.key} {mark}", _CHOSEN)
    if key in _OF_PRINCIPAL:
        return Atom(PRINCIPAL, OfCaller(_OF_PRINCIPAL[key], found))
    return Atom(key, found)


def requests(policy: KeyPolicy) -> Formula:
    """Return what is true of every request, so that nothing impossible is shown.

    A caller is an ARN or nobody, a context key one text or (for set operators) several, an attestation document
    comes with the actions that take one, and is of an enclave or of a NitroTPM.
    """
    parts: list[Formula] = [Atom(PRINCIPAL, Caller()), Atom(ACTION, Among(*actions.ALL))]
    attested = Atom(ACTION, Among(*actions.ATTESTED))
    enclave: list[Formula] = []
    tpm: list[Formula] = []
    for key in sorted(_keys(policy)):
        there = Atom(key, Present())
        if key == TIME:
            parts.append(Atom(key, IsTime()))
        elif key in _sets(policy):
            parts.append(some([negated(there), Atom(key, IsContext())]))
        else:
            kind = IsRegister() if key.startswith(RECIPIENT) else IsText()
            parts.append(some([negated(there), Atom(key, kind)]))
        if key.startswith(RECIPIENT):
            parts.append(some([negated(there), attested]))
            (tpm if key.startswith(f"{RECIPIENT}nitrotpm") else enclave).append(there)
    if enclave and tpm:
        parts.append(negated(every([some(enclave), some(tpm)])))
    return every(parts)


@dataclass(frozen=True, slots=True)
class Caller:
    """An ARN, a service, or nobody that AWS knows."""

    def holds(self, value: Value) -> bool:
        """Say whether ``value`` can be a caller."""
        return isinstance(value, str) and value.startswith(("arn:", "service:", "federated:", ANONYMOUS))

    def landmarks(self) -> Iterable[Value]:
        """Return somebody of an account that no policy names."""
        return ("arn:aws:iam::999999999999:role/stranger", ANONYMOUS)


@dataclass(frozen=True, slots=True)
class IsTime:
    """The context key is an instant, as ``aws:CurrentTime`` always is."""

    def holds(self, value: Value) -> bool:
        """Say whether ``value`` is one."""
        return isinstance(value, str) and re.fullmatch(r"[0-9-]{10}T[0-9:]{8}Z", value) is not None

    def landmarks(self) -> Iterable[Value]:
        """Return an instant."""
        return ("2026-01-01T00:00:00Z",)


@dataclass(frozen=True, slots=True)
class IsRegister:
    """The context key is a register's value: KMS writes hexadecimal digits in lower case."""

    def holds(self, value: Value) -> bool:
        """Say whether ``value`` can be one."""
        return isinstance(value, str) and value == value.lower()

    def landmarks(self) -> Iterable[Value]:
        """Return one that no policy names."""
        return ("5a" * 48,)


@dataclass(frozen=True, slots=True)
class IsContext:
    """The context key is one text, or a list of texts."""

    def holds(self, value: Value) -> bool:
        """Say whether ``value`` is one of these."""
        return isinstance(value, str) or (
            isinstance(value, list) and all(isinstance(one, str) for one in value)
        )

    def landmarks(self) -> Iterable[Value]:
        """Return a list of two texts."""
        return ([OTHER_TEXT, "second"],)


def account_of(caller: str) -> str:
    """Return the account of the ARN ``caller``; empty when there is none."""
    match = _ARN_ACCOUNT.match(caller)
    return match[1] if match else ""


def is_account(element: str) -> str:
    """Return the account that a Principal's element means as a whole, or the empty text."""
    match = _ACCOUNT.fullmatch(element)
    return match[1] if match else ""


def exact(policy: KeyPolicy) -> Iterator[str]:
    """Yield every place of ``policy`` whose meaning is taken for the worst, not modelled exactly."""
    for number, statement in enumerate(policy.statements):
        where = f"Statement[{number}]"
        if not statement.effective:
            yield f"{where}: no effect"
        if statement.not_principals is not None:
            yield f"{where}.NotPrincipal"
        if statement.resources != ("*",):
            yield f"{where}.Resource"
        for entry in statement.conditions:
            found = operator(entry.operator, entry.values)
            if found is None or not found.exact:
                yield f"{where}.Condition.{entry.operator}.{entry.key}"


def _principal(statement: Statement) -> Formula:
    if statement.principals is not None:
        return Atom(PRINCIPAL, IsPrincipal(statement.principals))
    return negated(Atom(PRINCIPAL, IsPrincipal(statement.not_principals or ())))


def _action(statement: Statement) -> Formula:
    if statement.actions is not None:
        return Atom(ACTION, IsAction(statement.actions))
    return negated(Atom(ACTION, IsAction(statement.not_actions or ())))


def _resource(statement: Statement, number: int) -> Formula:
    """In a key policy "*" is the key. Whether another text is the key's ARN can not be told from the policy."""
    if statement.resources is not None and "*" in statement.resources:
        return TRUE
    return Atom(f"unmodelled Resource {number}", _CHOSEN)


def _keys(policy: KeyPolicy) -> set[str]:
    return {
        entry.key.lower()
        for statement in policy.statements
        for entry in statement.conditions
        if entry.key.lower() not in _OF_PRINCIPAL and operator(entry.operator, entry.values) is not None
    }


def _sets(policy: KeyPolicy) -> set[str]:
    return {
        entry.key.lower()
        for statement in policy.statements
        for entry in statement.conditions
        if entry.operator.startswith("For") and not entry.key.lower().startswith(RECIPIENT)
    }


def _meant(kind: str, name: str, caller: str) -> bool:
    if kind == "Service":
        return caller == f"service:{name}"
    if kind != "AWS":
        return caller == f"federated:{name}"
    if name == "*":
        return True
    account = is_account(name)
    return caller == name if not account else account_of(caller) == account


def _callers(kind: str, name: str) -> Iterator[str]:
    if kind == "Service":
        yield f"service:{name}"
    elif kind != "AWS":
        yield f"federated:{name}"
    else:
        account = is_account(name) or account_of(name)
        if account:
            yield f"arn:aws:iam::{account}:role/anybody"
        if name != "*" and not is_account(name):
            yield name.replace("*", "anybody")

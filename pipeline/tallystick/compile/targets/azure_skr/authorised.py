"""An attestation policy as logic: for which claims of the evidence the service issues a token at all.

A claim of the service (``issuer=="AttestationService"``) is the claim of its type. Whoever sends the evidence can add
claims of his own (``CustomClaim``), as many as he likes: a condition that does not ask for the issuer is his to meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tallystick.compile.logic.formula import FALSE, TRUE, Atom, Formula, Value, every, negated, some
from tallystick.compile.logic.tests import Among, Present
from tallystick.compile.targets.azure_skr.attestation import (
    AttestationPolicy,
    Computed,
    Condition,
    Literal,
    Property,
    Rule,
)

SERVICE, CUSTOM, POLICY = "AttestationService", "CustomClaim", "AttestationPolicy"
_CHOSEN = Among("as the sender likes")


@dataclass(frozen=True, slots=True)
class Compared:
    """A claim of the service whose value meets comparisons with literals, each of the literal's own type.

    The service's claims are texts, whole numbers and booleans. A value of another type than the literal is unequal
    to it, and in no order with it.
    """

    comparisons: tuple[tuple[str, Literal], ...]

    def holds(self, value: Value) -> bool:
        """Say whether ``value`` meets all of them."""
        if not isinstance(value, bool | int | str):
            return bool(Present().holds(value)) and all(operator == "!=" for operator, _ in self.comparisons)
        return all(_compared(operator, value, literal) for operator, literal in self.comparisons)

    def landmarks(self) -> Iterable[Value]:
        """Return every literal, and the numbers beside it."""
        for _, literal in self.comparisons:
            yield literal
            if isinstance(literal, int) and not isinstance(literal, bool):
                yield from (literal - 1, literal + 1, literal + 0.5)


def authorised(policy: AttestationPolicy) -> Formula:
    """Return when the service goes on to issue a token: some rule permits, and none denies."""
    permits, denies = [], []
    known: list[tuple[Formula, str, Literal | Computed]] = []
    for number, rule in enumerate(policy.rules("authorizationrules")):
        holds = _rule(rule, known, number)
        if rule.action == "permit":
            permits.append(holds)
        elif rule.action == "deny":
            denies.append(holds)
        else:
            arguments = dict(rule.arguments)
            known.append((holds, str(arguments.get("type", "")), arguments.get("value", Computed("none"))))
    return every([some(permits), negated(some(denies))])


def exact(policy: AttestationPolicy) -> Iterator[str]:
    """Yield every place whose meaning is taken for the worst, not modelled exactly."""
    for section, rules in policy.sections:
        for rule in rules:
            where = f"{section}, line {rule.line}"
            if section == "authorizationrules" and rule.action not in ("permit", "deny"):
                yield f"{where}: {rule.action}"
            for condition in rule.conditions:
                literal = condition.literal("type"), condition.literal("issuer")
                if not isinstance(literal[0], str) or literal[1] != SERVICE:
                    yield f"{where}: a condition that does not name type and {SERVICE}"
                if any(isinstance(one.value, Computed) for one in condition.properties):
                    yield f"{where}: a computed value"


def _rule(rule: Rule, known: list[tuple[Formula, str, Literal | Computed]], number: int) -> Formula:
    parts = []
    for place, condition in enumerate(rule.conditions):
        found = _condition(condition, known, f"{number}.{place}")
        parts.append(negated(found) if condition.negated else found)
    return every(parts)


def _condition(
    condition: Condition, known: list[tuple[Formula, str, Literal | Computed]], mark: str
) -> Formula:
    kind, issuer = condition.literal("type"), condition.literal("issuer")
    values = [one for one in condition.properties if one.name == "value"]
    chosen = Atom(f"custom claim {kind} {mark}", _CHOSEN)
    if any(isinstance(one.value, Computed) for one in values) or not isinstance(kind, str):
        return chosen
    sources: list[Formula] = []
    if issuer in (None, SERVICE):
        comparisons = tuple(
            (one.operator, one.value) for one in values if not isinstance(one.value, Computed)
        )
        sources.append(Atom(kind, Compared(comparisons) if comparisons else Present()))
    if issuer in (None, CUSTOM):
        sources.append(chosen)
    if issuer in (None, POLICY):
        sources += [
            every([when, _constant(values, value, chosen)]) for when, name, value in known if name == kind
        ]
    return some(sources)


def _constant(values: list[Property], value: Literal | Computed, chosen: Formula) -> Formula:
    if isinstance(value, Computed):
        return chosen
    for one in values:
        if isinstance(one.value, Computed) or not _compared(one.operator, value, one.value):
            return FALSE
    return TRUE


def _compared(operator: str, value: Literal, literal: Literal) -> bool:
    alike = type(value) is type(literal)
    if operator == "==":
        return alike and value == literal
    if operator == "!=":
        return not alike or value != literal
    if not alike or isinstance(value, bool | str) or isinstance(literal, bool | str):
        return False
    answers = {"<": value < literal, "<=": value <= literal, ">": value > literal, ">=": value >= literal}
    return answers[operator]

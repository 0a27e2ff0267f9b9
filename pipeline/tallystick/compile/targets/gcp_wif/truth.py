"""A CEL condition as logic. An expression is true, false, or an error; a condition admits when it is true.

``&&`` and ``||`` take an error for whatever the other side makes irrelevant; everything else hands it on. A claim that
is missing is an error, and so is a function of a value of another type; values of different types are unequal.

Source: https://github.com/google/cel-spec, doc/langdef.md ("Logical Operators", "Field Selection", "Macros",
"List of Standard Definitions").
"""

from __future__ import annotations

from dataclasses import dataclass

from tallystick.compile.logic.formula import (
    FALSE,
    TRUE,
    Atom,
    Formula,
    every,
    negated,
    some,
)
from tallystick.compile.logic.tests import Among, Contains, OfType, Present, is_number
from tallystick.compile.targets.gcp_wif.cel import Call, Constant, Expression, Index, ListOf, Name, Select
from tallystick.compile.targets.gcp_wif.questions import (
    EachAmong,
    EachText,
    EqualTo,
    Number,
    Ordered,
    Size,
    Text,
)

ROOT = "assertion"
_YES, _NO = (Among(value) for value in (True, False))


@dataclass(frozen=True, slots=True)
class Truth:
    """When an expression is true, and when it is false; in neither case it is an error."""

    true: Formula
    false: Formula


class Inexact(ValueError):
    """An expression that is not modelled; the message is its text."""


def truth(expression: Expression) -> Truth:
    """Return when ``expression`` is true and when it is false.

    Raises:
        Inexact: it, or a part of it, is not modelled.
    """
    match expression:
        case Constant(value) if isinstance(value, bool):
            return Truth(TRUE, FALSE) if value else Truth(FALSE, TRUE)
        case Call("_&&_", (one, other)):
            a, b = truth(one), truth(other)
            return Truth(every([a.true, b.true]), some([a.false, b.false]))
        case Call("_||_", (one, other)):
            a, b = truth(one), truth(other)
            return Truth(some([a.true, b.true]), every([a.false, b.false]))
        case Call("!_", (one,)):
            a = truth(one)
            return Truth(a.false, a.true)
        case Call("has", (Select() as claim,)):
            there = Atom(path(claim), Present())
            return Truth(there, negated(there))
        case Call("_==_", (left, right)):
            return _equal(left, right)
        case Call("_!=_", (left, right)):
            found = _equal(left, right)
            return Truth(found.false, found.true)
        case Call("_in_", (left, right)):
            return _in(left, right)
        case Call(("_<_" | "_<=_" | "_>_" | "_>=_") as sign, (left, right)):
            return _ordered(sign.strip("_"), left, right)
        case Call((".startsWith" | ".endsWith" | ".contains") as name, (claim, Constant(str() as part))):
            return _text(claim, name.removeprefix("."), part)
        case Call(".all", (Select() as claim, Name(bound), each)):
            return _all(path(claim), bound, each)
        case Select():
            place = path(expression)
            return Truth(Atom(place, _YES), Atom(place, _NO))
    raise Inexact(shown(expression))


def path(expression: Expression) -> str:
    """Return the dotted path of a claim: ``assertion.submods.gce.zone`` is ``submods.gce.zone``.

    Raises:
        Inexact: it is no claim.
    """
    names: list[str] = []
    found = expression
    while isinstance(found, Select):
        names.append(found.field)
        found = found.target
    if found != Name(ROOT) or not names:
        raise Inexact(shown(expression))
    return ".".join(reversed(names))


def shown(expression: Expression) -> str:
    """Return an expression's text, for messages."""
    match expression:
        case Constant(value):
            return repr(value)
        case Name(name):
            return name
        case Select(target, field):
            return f"{shown(target)}.{field}"
        case Index(target, index):
            return f"{shown(target)}[{shown(index)}]"
        case Call(function, arguments):
            return f"{function}({', '.join(map(shown, arguments))})"
        case _:
            return type(expression).__name__


def _equal(left: Expression, right: Expression) -> Truth:
    """A claim and a literal, in either order; or the size of one."""
    if isinstance(left, Constant | ListOf) and not isinstance(right, Constant | ListOf):
        left, right = right, left
    if isinstance(left, Call) and left.function in ("size", ".size") and isinstance(right, Constant):
        return _size(left, "==", right)
    if isinstance(right, ListOf) and not right.items:
        return _told(path(left), EqualTo(()))
    if isinstance(right, Constant) and isinstance(left, Select):
        return _told(path(left), EqualTo(right.value))
    raise Inexact(f"{shown(left)} == {shown(right)}")


def _told(claim: str, test: EqualTo) -> Truth:
    """A comparison that any claim that is there has an answer to."""
    holds = Atom(claim, test)
    return Truth(holds, every([Atom(claim, Present()), negated(holds)]))


def _in(left: Expression, right: Expression) -> Truth:
    if isinstance(right, ListOf) and isinstance(left, Select):
        claim = path(left)
        values = [item.value for item in right.items if isinstance(item, Constant)]
        if len(values) != len(right.items):
            raise Inexact(shown(right))
        texts = [value for value in values if not is_number(value)]
        holds = some(
            [
                *([Atom(claim, Among(*texts))] if texts else []),
                *(Atom(claim, EqualTo(value)) for value in values if is_number(value)),
            ]
        )
        return Truth(holds, every([Atom(claim, Present()), negated(holds)]))
    if isinstance(left, Constant) and isinstance(left.value, str) and isinstance(right, Select):
        claim = path(right)
        holds = Atom(claim, Contains(left.value))
        container = every([Atom(claim, Size("", 0)), negated(Atom(claim, Text("startsWith", "")))])
        return Truth(holds, every([container, negated(holds)]))
    raise Inexact(f"{shown(left)} in {shown(right)}")


def _ordered(sign: str, left: Expression, right: Expression) -> Truth:
    turned = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
    if isinstance(left, Constant) and not isinstance(right, Constant):
        left, right, sign = right, left, turned[sign]
    if isinstance(left, Call) and left.function in ("size", ".size") and isinstance(right, Constant):
        return _size(left, sign, right)
    if not isinstance(right, Constant) or not is_number(right.value) or not isinstance(left, Select):
        raise Inexact(f"{shown(left)} {sign} {shown(right)}")
    bound = right.value
    if not isinstance(bound, int | float):
        raise Inexact(shown(right))
    claim = path(left)
    holds = Atom(claim, Ordered(sign, bound))
    return Truth(holds, every([Atom(claim, Number()), negated(holds)]))


def _size(call: Call, sign: str, right: Constant) -> Truth:
    bound = right.value
    match call.arguments:
        case (Call("_+_", (longer, ListOf(()))),) if (sign, bound) == (">=", 0):
            return Truth(Atom(path(longer), OfType(("list",))), FALSE)  # nothing but a list has a list added
    if (
        len(call.arguments) != 1
        or not isinstance(bound, int)
        or isinstance(bound, bool)
        or not -1 < bound < 10
    ):
        raise Inexact(shown(call))
    claim = path(call.arguments[0])
    holds = Atom(claim, Size(sign, bound))
    return Truth(holds, every([Atom(claim, Size("", bound)), negated(holds)]))


def _all(claim: str, name: str, each: Expression) -> Truth:
    """Every element is one of some texts, or every element is a text (which can only fail by an error)."""
    match each:
        case Call("_in_", (Name(one), ListOf(items))) if one == name:
            members = tuple(item.value for item in items if isinstance(item, Constant))
            texts = tuple(member for member in members if isinstance(member, str))
            if len(texts) == len(items):
                holds = Atom(claim, EachAmong(texts))
                container = every([Atom(claim, Size("", 0)), negated(Atom(claim, Text("startsWith", "")))])
                return Truth(holds, every([container, negated(holds)]))
        case Call(".startsWith", (Name(one), Constant(""))) if one == name:
            return Truth(Atom(claim, EachText()), FALSE)
    raise Inexact(shown(each))


def _text(target: Expression, relation: str, part: str) -> Truth:
    claim = path(target)
    holds = Atom(claim, Text(relation, part))
    return Truth(holds, every([Atom(claim, Text("startsWith", "")), negated(holds)]))

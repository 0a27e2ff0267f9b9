"""What IAM's condition operators ask of a request's context key.

Source: IAM User Guide, "IAM JSON policy elements: Condition operators" and "Creating a condition with multiple keys
or values" (set operators, ``…IfExists``, a missing key).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tallystick.compile.logic.formula import ABSENT, Value
from tallystick.compile.logic.space import OTHER_TEXT

_SPELLING = re.compile(r"(ForAllValues:|ForAnyValue:)?([A-Za-z]+?)(IfExists)?")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_STRINGS = {
    "StringEquals": "equals",
    "StringNotEquals": "equals",
    "StringEqualsIgnoreCase": "folded",
    "StringNotEqualsIgnoreCase": "folded",
    "StringLike": "like",
    "StringNotLike": "like",
    "ArnEquals": "like",
    "ArnLike": "like",
    "ArnNotEquals": "like",
    "ArnNotLike": "like",
    "Bool": "folded",
}
_DATES = frozenset(
    {"DateGreaterThan", "DateGreaterThanEquals", "DateLessThan", "DateLessThanEquals"}
)  # of one value each


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator with its values: a question about one context key.

    A context key is absent, one text, or (when it is multi-valued) a list of texts.
    """

    quantifier: str  # "", "ForAllValues:", "ForAnyValue:"
    base: str
    if_exists: bool
    values: tuple[str, ...]

    @property
    def negated(self) -> bool:
        """Whether the operator is the negation of another, and so holds of a missing key."""
        return "Not" in self.base

    @property
    def folded(self) -> tuple[str, ...] | None:
        """The values whose spellings are all that the operator holds of; None when it holds of others too."""
        if self.negated or self.if_exists or self.quantifier or self.base not in _STRINGS:
            return None
        return None if _STRINGS[self.base] == "like" else self.values

    def holds(self, value: Value) -> bool:
        """Answer as IAM does."""
        if self.base == "Null":
            return ("true" if value is ABSENT else "false") in (one.lower() for one in self.values)
        if value is ABSENT:
            if self.quantifier == "ForAnyValue:":
                return self.if_exists
            return self.if_exists or self.negated or self.quantifier == "ForAllValues:"
        members = value if isinstance(value, list) else [value]
        answers = [isinstance(one, str) and self._member(one) for one in members]
        return all(answers) if self.quantifier == "ForAllValues:" else any(answers)

    def _member(self, member: str) -> bool:
        if self.base in _DATES:
            return _date(self.base, member, self.values[0])
        kind = _STRINGS[self.base]
        if kind == "equals":
            found = member in self.values
        elif kind == "folded":
            found = member.lower() in (one.lower() for one in self.values)
        else:
            found = any(pattern(one).fullmatch(member) for one in self.values)
        return found != self.negated

    def landmarks(self) -> Iterable[Value]:
        """Return every value that is named; of patterns, texts that fit them in different ways."""
        for value in self.values if self.base != "Null" else ():
            if self.base in _DATES:
                edge = _instant(value)
                for second in (-1, 0, 1) if edge else ():
                    yield (edge + timedelta(seconds=second)).strftime(_TIME) if edge else value
                continue
            yield value
            if _STRINGS.get(self.base) == "like":
                for rest in ("", OTHER_TEXT):
                    yield value.replace("*", rest).replace("?", "x")
            if self.quantifier:
                yield [value]

    @property
    def exact(self) -> bool:
        """Whether the landmarks cover every answer: a pattern with wildcards may be met in other ways too."""
        if _STRINGS.get(self.base) == "like":
            return not any("*" in value or "?" in value for value in self.values)
        return True


def operator(spelling: str, values: tuple[str, ...]) -> Operator | None:
    """Return the operator that is spelled so, or None when its meaning is not modelled."""
    match = _SPELLING.fullmatch(spelling)
    if match is None or any("${" in value for value in values):  # a policy variable
        return None
    base = match[2]
    known = base == "Null" or base in _STRINGS
    known = known or (base in _DATES and len(values) == 1 and _instant(values[0]) is not None)
    if not known or (base == "Null" and (match[1] or match[3])):
        return None
    return Operator(match[1] or "", base, match[3] is not None, values)


def pattern(text: str) -> re.Pattern[str]:
    """Return what an IAM pattern matches: ``*`` is any text, ``?`` any character."""
    escaped = "".join(".*" if one == "*" else "." if one == "?" else re.escape(one) for one in text)
    return re.compile(escaped, re.DOTALL)


def _date(base: str, member: str, bound: str) -> bool:
    got, want = _instant(member), _instant(bound)
    if got is None or want is None:
        return False
    if base.endswith("Equals") and got == want:
        return True
    return got > want if base.startswith("DateGreaterThan") else got < want


def _instant(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None

"""One expectation of one claim as lines of Rego, in the form in which Trustee spells the claim.

Every condition asks for the type before it compares: in Rego a text is greater than every number, and a number is
greater than null. Both engines of the proof read these lines alike; docs/decisions/0102 says which words they do not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from tallystick.compile.targets.trustee.codec import Form, Tee, encode
from tallystick.core.expect import (
    AtLeast,
    AtLeastVersion,
    Exactly,
    Excludes,
    Expect,
    Includes,
    NoneOf,
    OneOf,
    Only,
    Scalar,
    version_of,
)

_NOT_DEBUG = ("0", "1", "4", "5", "8", "9", "c", "d")  # low digits of the first byte with bit 1 (DEBUG) clear
_DEBUG = ("2", "3", "6", "7", "a", "b", "e", "f")
_TYPES = {bool: "is_boolean", int: "is_number", str: "is_string"}
_MOST_COLUMNS = 100


def lines(tee: Tee, path: str, expect: Expect) -> tuple[str, ...]:
    """Return the conditions that hold when the claim at ``path`` is what is expected."""
    return tuple(_lines(tee.reference(path), tee.places[path].form, expect))


def expressible(tee: Tee, path: str, expect: Expect) -> bool:
    """Say whether Trustee shows the claim, in a form in which this can be asked."""
    if path in tee.enforced:
        return expect == tee.enforced[path]
    if path not in tee.places:
        return False
    form = tee.places[path].form
    if form is Form.FLAG:
        return isinstance(expect, Exactly)
    if form is Form.TEXT:
        return isinstance(expect, Exactly | OneOf | NoneOf | AtLeast)
    if form is Form.LITTLE16:
        return isinstance(expect, Exactly | OneOf | NoneOf | AtLeast)
    return True


def _lines(claim: str, form: Form, expect: Expect) -> Iterator[str]:
    match expect:
        case Exactly(value):
            if form is Form.FLAG:
                yield from _flag(claim, value)
            else:
                yield f"{claim} == {_literal(value, form)}"
        case OneOf(values):
            yield from _among(f"{claim} in ", [_literal(value, form) for value in values])
        case NoneOf(values):
            spelled = [encode(value, form) for value in values]
            yield f"{_TYPES[type(spelled[0])]}({claim})"
            if form is Form.LITTLE16:
                yield f"regex.match(`^[0-9a-f]{{4}}$`, {claim})"
            if form is Form.TEXT:
                yield from _kind_of_text(claim, values[0])
            yield from _among(f"not {claim} in ", [json.dumps(value) for value in spelled])
        case AtLeast(minimum):
            yield from _at_least(claim, form, minimum)
        case AtLeastVersion(minimum):
            yield from _version(claim, minimum)
        case Only() | Includes() | Excludes():
            yield from _list(claim, form, expect)
        case _:
            raise ValueError("a requirement on every tuple is never a waiver")


def _literal(value: Scalar, form: Form) -> str:
    return json.dumps(encode(value, form))


def _among(start: str, values: Iterable[str]) -> Iterator[str]:
    """A set; over several lines where one would be long."""
    listed = list(values)
    line = f"{start}{{{', '.join(listed)}}}"
    if len(line) <= _MOST_COLUMNS:
        yield line
        return
    yield f"{start}{{"
    row = ""
    for value in listed:
        if row and len(row) + len(value) > _MOST_COLUMNS:
            yield f"\t{row}"
            row = ""
        row += f"{value}, "
    yield f"\t{row.rstrip()}"
    yield "}"


def _kind_of_text(claim: str, like: Scalar) -> Iterator[str]:
    pattern = "^(true|false)$" if isinstance(like, bool) else "^(0|[1-9][0-9]{0,2})$"
    yield f"regex.match(`{pattern}`, {claim})"


def _at_least(claim: str, form: Form, minimum: int) -> Iterator[str]:
    if form is Form.TEXT:
        yield f"is_string({claim})"
        yield from _kind_of_text(claim, minimum)
        least = min(max(0, minimum), 999)
        yield f'concat("", [substring("000", 0, 3 - count({claim})), {claim}]) >= "{least:03}"'
    elif form is Form.LITTLE16:
        yield f"is_string({claim})"
        yield f"regex.match(`^[0-9a-f]{{4}}$`, {claim})"
        least = min(max(0, minimum), 0xFFFF)
        yield f'concat("", [substring({claim}, 2, 2), substring({claim}, 0, 2)]) >= "{least:04x}"'
    else:
        yield f"is_number({claim})"
        yield f"floor({claim}) == {claim}"
        yield f"{claim} >= {minimum}"


def _version(claim: str, minimum: str) -> Iterator[str]:
    """Numbers are compared as texts of nine digits each, which both engines put in the same order."""
    least = ".".join(f"{number:09}" for number in version_of(minimum) or ())
    yield f"is_string({claim})"
    yield f"regex.match(`^(0|[1-9][0-9]{{0,8}})([.][0-9]{{1,9}}){{0,7}}$`, {claim})"
    yield 'concat(".", [concat("", [substring("000000000", 0, 9 - count(part)), part]) |'
    yield f'\tsome part in split({claim}, ".")]) >= "{least}"'


def _list(claim: str, form: Form, expect: Only | Includes | Excludes) -> Iterator[str]:
    values = [json.dumps(encode(value, form)) for value in expect.values]
    yield f"is_array({claim})"
    if isinstance(expect, Only):
        if not values:
            yield f"count({claim}) == 0"
            return
        yield f"every item in {claim} {{"
        yield from (f"\t{line}" for line in _among("item in ", values))
        yield "}"
        return
    yield f"every item in {claim} {{"
    yield "\tis_string(item)"
    yield "}"
    if isinstance(expect, Includes):
        yield from (f"{value} in {claim}" for value in values)
    else:
        yield f"count([item | some item in {claim}; item in {{{', '.join(values)}}}]) == 0"


def _flag(claim: str, value: object) -> Iterator[str]:
    digits = _DEBUG if value is True else _NOT_DEBUG
    yield f"is_string({claim})"
    yield f"regex.match(`^[0-9a-f]{{16}}$`, {claim})"
    yield f"substring({claim}, 1, 1) in {{{', '.join(json.dumps(digit) for digit in digits)}}}"

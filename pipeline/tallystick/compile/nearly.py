"""Values for the domain of a proof: one that meets an expectation, and those that only just do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tallystick.compile.oracle import meets, typed
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
    version_of,
)

__all__ = ["beside", "example", "nearly", "typed"]


def example(expectations: Sequence[Expect]) -> Any:
    """Return a value that meets all of them.

    Raises:
        ValueError: none was found; a policy that nobody can meet permits nothing.
    """
    tried = [value for expect in expectations for value in _inside(expect)]
    for value in tried:
        if all(meets(expect, value) for expect in expectations):
            return value
    wanted = {name for e in expectations if isinstance(e, Includes) for name in e.values}
    if wanted:
        return sorted(wanted)
    raise ValueError(f"nothing meets {expectations}")


def _inside(expect: Expect) -> list[Any]:
    if isinstance(expect, Exactly):
        return [expect.value]
    if isinstance(expect, OneOf):
        return list(expect.values)
    if isinstance(expect, AtLeast):
        return [expect.minimum + above for above in range(66)]
    if isinstance(expect, AtLeastVersion):
        return [
            expect.minimum,
            _later(expect.minimum),
            *(f"{expect.minimum}.{part}" for part in range(1, 66)),
        ]
    if isinstance(expect, NoneOf):
        return _others(expect.values)
    if isinstance(expect, Only):
        return [list(expect.values), []]
    if isinstance(expect, Includes):
        return [list(expect.values)]
    if isinstance(expect, Excludes):
        return [["another"], []]
    raise ValueError("a requirement on every tuple is never a waiver")


def _others(values: Sequence[Any]) -> list[Any]:
    """Values of the type of ``values``, and of its form, that are not among them."""
    first = values[0]
    if isinstance(first, bool):
        return [not first]
    if isinstance(first, int):
        return [max(values) + 1, min(values) - 1]
    found = [*({str(value)[:-1] + digit for value in values for digit in "0123456789abcdef"}), "another"]
    return sorted(set(found).difference(values))


def beside(expect: Expect) -> list[Any]:
    """Return values on both sides of an expectation: each that it takes, and what is next to them."""
    if isinstance(expect, OneOf | NoneOf):
        listed = list(expect.values)
        return [*listed, *(near for value in listed[:4] for near in nearly(value)), *_others(listed)[:2]]
    if isinstance(expect, AtLeast):
        least = expect.minimum
        return [least + 1, least - 1, str(least), str(least + 1), f"{least}.0", float(least) + 0.5, 10**9, -1]
    if isinstance(expect, AtLeastVersion):
        return _beside_version(expect.minimum)
    if isinstance(expect, Only | Includes | Excludes):
        names = list(expect.values)
        lists = [[], ["another"], [*names, "another"], names, list(reversed(names)), [None], [1], [[]]]
        lists += [[name] for name in names] + [[other for other in names if other != gone] for gone in names]
        return [*lists, ",".join(names), dict.fromkeys(names, True), "another", None, 0]
    return [expect.value, *nearly(expect.value)] if isinstance(expect, Exactly) else []


def _beside_version(minimum: str) -> list[Any]:
    low = version_of(minimum) or (0,)
    before = _dotted((*low[:-1], low[-1] - 1)) if low[-1] else "0"
    near: list[Any] = [
        minimum,
        f"{minimum}.0",
        f"{minimum}.1",
        _later(minimum),
        before,
        str(low[0] + 1),
        str(low[0]),
        f"1{minimum}",
        f"2{minimum}",
        _dotted((low[0], 0, *low[1:])),
    ]
    odd = [f"v{minimum}", f"{minimum}-rc1", f" {minimum}", "9", "10", "", ".", "1..2"]
    return [*near, *odd, list(minimum.split(".")), low[0]]


def _later(version: str) -> str:
    numbers = version_of(version) or (0,)
    return _dotted((*numbers[:-1], numbers[-1] + 10))


def _dotted(numbers: Sequence[int]) -> str:
    return ".".join(str(number) for number in numbers)


def nearly(value: Any) -> list[Any]:
    """Return values that are almost ``value``, and values of every other type."""
    common: list[Any] = [None, "", True, False, 0, 1, 1.5, [], [value], {}, {"value": value}]
    if isinstance(value, bool):
        return [not value, str(value).lower(), int(value), *common]
    if isinstance(value, int):
        return [value - 1, value + 1, str(value), str(value + 1), float(value) + 0.5, *common]
    if isinstance(value, str) and value:
        flipped = ("1" if value[0] == "0" else "0") + value[1:]
        last = value[:-1] + ("1" if value[-1] == "0" else "0")
        return [flipped, last, value[:-1], value + "0", value.upper(), f" {value}", f"{value}\n", *common]
    return common

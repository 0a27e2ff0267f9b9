"""One claim against one expectation. Both the answer and its explanation come from here.

A claim that is absent, None or of another type never satisfies anything: True is not 1, and "8" is not 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, assert_never

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
    Waived,
    version_of,
)
from tallystick.core.findings import Change, Finding


def compare(
    code: str, where: str, expect: Expect, got: Any, now: datetime, *, field: tuple[str, ...] = ()
) -> Iterator[Finding]:
    """Yield why ``got`` is not what is expected of a claim; nothing when it is.

    Args:
        code: begins the finding's code: "tpm.pcr04".
        where: names the claim for people.
        field: names it for a :class:`Change`; empty for what no evidence can change.
    """
    match expect:
        case Waived(decision, decided_by, until):
            if now > until:
                note = f"{decision}, decided by {decided_by}"
                yield Finding(
                    f"{code}.waiver-expired", where, f"a waiver at {_time(now)}", _time(until), note
                )
        case Exactly(value):
            if not same(value, got):
                yield _finding(code, where, shown(value), value, got, change=_change(field, expect, got))
        case OneOf(values):
            if not any(same(value, got) for value in values):
                want = "one of " + (", ".join(shown(value) for value in values) or "no value at all")
                like, change = values[0] if values else None, _change(field, expect, got)
                yield _finding(code, where, want, like, got, change=change)
        case NoneOf(values):
            if not values or type(got) is not type(values[0]) or any(same(value, got) for value in values):
                want = "none of " + (", ".join(shown(value) for value in values) or "no value at all")
                like, change = values[0] if values else None, _change(field, expect, got)
                yield _finding(code, where, want, like, got, other="denied", change=change)
        case AtLeast(minimum):
            number = isinstance(got, int) and not isinstance(got, bool)
            if not number or got < minimum:
                change = _change(field, expect, got)
                yield _finding(code, where, f"at least {minimum}", minimum, got, other="low", change=change)
        case AtLeastVersion(version):
            least, found = version_of(version), version_of(got)
            if least is None or found is None or found < least:
                want, change = f"version {version} or later", _change(field, expect, got)
                yield _finding(code, where, want, version, got, other="low", change=change)
        case Only() | Includes() | Excludes():
            yield from _list(code, where, expect, got, field)
        case _:
            assert_never(expect)


def satisfying(expect: Expect, got: Any) -> object | None:
    """Return a value near ``got`` that meets ``expect``; None when none can be named."""
    match expect:
        case Exactly(value):
            return value
        case OneOf(values):
            return values[0] if values else None
        case NoneOf(values):
            return next(
                (one for one in (False, True) if values and type(values[0]) is bool and one not in values),
                None,
            )
        case AtLeast(minimum):
            return minimum
        case AtLeastVersion(version):
            return version
        case Only(values):
            return tuple(one for one in _texts(got) if one in values)
        case Includes(values):
            return tuple(dict.fromkeys((*_texts(got), *values)))
        case Excludes(values):
            return tuple(one for one in _texts(got) if one not in values)
        case Waived():
            return None
        case _:
            assert_never(expect)


def _change(field: tuple[str, ...], expect: Expect, got: Any) -> Change | None:
    value = satisfying(expect, got) if field else None
    return None if value is None else Change(field, value)


def _texts(got: Any) -> tuple[str, ...]:
    return tuple(one for one in got if isinstance(one, str)) if isinstance(got, list | tuple) else ()


def _list(
    code: str, where: str, expect: Only | Includes | Excludes, got: Any, field: tuple[str, ...]
) -> Iterator[Finding]:
    """A list of texts, and nothing that only looks like one."""
    texts = isinstance(got, list | tuple) and all(isinstance(item, str) for item in got)
    names = ", ".join(expect.values) or "nothing"
    if isinstance(expect, Only):
        met, want, other = texts and set(got) <= set(expect.values), f"nothing but {names}", "mismatch"
    elif isinstance(expect, Includes):
        met, want, other = texts and set(got) >= set(expect.values), f"also {names}", "mismatch"
    else:
        met, want, other = texts and set(got).isdisjoint(expect.values), f"without {names}", "denied"
    if met:
        return
    change = _change(field, expect, got)
    if got is None:
        yield Finding(f"{code}.absent", where, want, "nothing", change=change)
    elif not texts:
        yield Finding(f"{code}.type", where, want, f"{shown(got)} ({type(got).__name__})", change=change)
    else:
        yield Finding(f"{code}.{other}", where, want, ", ".join(got) or "nothing", change=change)


def same(want: object, got: object) -> bool:
    """Say whether ``got`` is ``want``, of the very same type."""
    return type(got) is type(want) and bool(got == want)


def shown(value: Any) -> str:
    """Return a claim as a finding shows it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | str) else f"a {type(value).__name__}"


def _finding(
    code: str,
    where: str,
    want: str,
    like: object,
    got: Any,
    *,
    change: Change | None,
    other: str = "mismatch",
) -> Finding:
    if got is None:
        return Finding(f"{code}.absent", where, want, "nothing", change=change)
    if type(got) is not type(like):
        return Finding(f"{code}.type", where, want, f"{shown(got)} ({type(got).__name__})", change=change)
    return Finding(f"{code}.{other}", where, want, shown(got), change=change)


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")

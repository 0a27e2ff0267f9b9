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
from tallystick.core.findings import Finding


def compare(code: str, path: str, expect: Expect, got: Any, now: datetime) -> Iterator[Finding]:
    """Yield why ``got`` is not what is expected of the claim ``path``; nothing when it is.

    Args:
        code: begins the finding's code: "tpm.pcr04".
    """
    match expect:
        case Waived(decision, decided_by, until):
            if now > until:
                note = f"{decision}, decided by {decided_by}"
                yield Finding(f"{code}.waiver-expired", path, f"a waiver at {_time(now)}", _time(until), note)
        case Exactly(value):
            if not same(value, got):
                yield _finding(code, path, shown(value), value, got)
        case OneOf(values):
            if not any(same(value, got) for value in values):
                want = "one of " + (", ".join(shown(value) for value in values) or "no value at all")
                yield _finding(code, path, want, values[0] if values else None, got)
        case NoneOf(values):
            if not values or type(got) is not type(values[0]) or any(same(value, got) for value in values):
                want = "none of " + (", ".join(shown(value) for value in values) or "no value at all")
                yield _finding(code, path, want, values[0] if values else None, got, other="denied")
        case AtLeast(minimum):
            number = isinstance(got, int) and not isinstance(got, bool)
            if not number or got < minimum:
                yield _finding(code, path, f"at least {minimum}", minimum, got, other="low")
        case AtLeastVersion(version):
            least, found = version_of(version), version_of(got)
            if least is None or found is None or found < least:
                yield _finding(code, path, f"version {version} or later", version, got, other="low")
        case Only() | Includes() | Excludes():
            yield from _list(code, path, expect, got)
        case _:
            assert_never(expect)


def _list(code: str, path: str, expect: Only | Includes | Excludes, got: Any) -> Iterator[Finding]:
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
    if got is None:
        yield Finding(f"{code}.absent", path, want, "nothing")
    elif not texts:
        yield Finding(f"{code}.type", path, want, f"{shown(got)} ({type(got).__name__})")
    else:
        yield Finding(f"{code}.{other}", path, want, ", ".join(got) or "nothing")


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


def _finding(code: str, path: str, want: str, like: object, got: Any, other: str = "mismatch") -> Finding:
    if got is None:
        return Finding(f"{code}.absent", path, want, "nothing")
    if type(got) is not type(like):
        return Finding(f"{code}.type", path, want, f"{shown(got)} ({type(got).__name__})")
    return Finding(f"{code}.{other}", path, want, shown(got))


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")

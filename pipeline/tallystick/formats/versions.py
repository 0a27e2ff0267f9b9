"""The order of versions, one rule for each ecosystem. A version that breaks its ecosystem's rule has no place in it.

Source: Debian policy manual, section 5.6.12 (dpkg); PEP 440, by ``packaging``; Semantic Versioning 2.0.0, section 11,
for Go (golang.org/ref/mod#versions), crates.io and npm.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cmp_to_key
from itertools import zip_longest
from typing import Any

_PART = re.compile(r"([^0-9]*)([0-9]*)")
_DEBIAN = re.compile(r"(?:[0-9]+:)?[0-9A-Za-z.+~:-]+")
_SEMVER = re.compile(
    r"v?(?P<numbers>[0-9]+(?:\.[0-9]+){0,2})(?:-?(?P<pre>(?:(?<=-)[0-9A-Za-z]|[a-z])[0-9A-Za-z.-]*))?(?:\+[0-9A-Za-z.-]+)?"
)
_MAX_CHARACTERS = 200  # no ecosystem's longest; numbers of more digits than Python converts are not read
Key = Callable[[str], Any]


def debian(first: str, second: str) -> int:
    """Return a number below, equal to or above zero as ``first`` is older than, as old as or newer than ``second``."""
    a, b = _split(first), _split(second)
    if a[0] != b[0]:
        return a[0] - b[0]
    return _compare_part(a[1], b[1]) or _compare_part(a[2], b[2])


def key(ecosystem: str, version: str) -> Any | None:
    """Return what orders ``version`` among those of ``ecosystem``; None when it has no place there.

    Args:
        ecosystem: as OSV names it: "Debian:12", "PyPI", "Go", "crates.io", "npm". Of another one, none has a place.
    """
    rule = _RULES.get(ecosystem.split(":")[0])
    return rule(version) if rule is not None and len(version) <= _MAX_CHARACTERS else None


def _debian_key(version: str) -> Any | None:
    return _BY_DEBIAN(version) if _DEBIAN.fullmatch(version) else None


_BY_DEBIAN = cmp_to_key(debian)


def _pep440(version: str) -> Any | None:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version)
    except InvalidVersion:
        return None


def _semver(version: str) -> Any | None:
    """A pre-release comes before its release; its numbers come before its words. Go's "1.22rc1" is read as well."""
    match = _SEMVER.fullmatch(version)
    if match is None:
        return None
    numbers = [int(part) for part in match["numbers"].split(".")]
    words = match["pre"].split(".") if match["pre"] else []
    ranks = tuple((0, int(word), "") if word.isdecimal() else (1, 0, word) for word in words)
    return (*numbers, *[0] * (3 - len(numbers)), not ranks, ranks)


_RULES: dict[str, Key] = {
    "Debian": _debian_key,
    "Ubuntu": _debian_key,
    "PyPI": _pep440,
    "Go": _semver,
    "crates.io": _semver,
    "npm": _semver,
}


def _split(version: str) -> tuple[int, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return int(epoch) if epoch.isdecimal() else 0, upstream if dash else rest, revision if dash else "0"


def _compare_part(first: str, second: str) -> int:
    pairs = zip_longest(_PART.findall(first), _PART.findall(second), fillvalue=("", ""))
    for (text_a, number_a), (text_b, number_b) in pairs:
        for x, y in zip_longest(map(_weight, text_a), map(_weight, text_b), fillvalue=0):
            if x != y:
                return x - y
        if difference := int(number_a or 0) - int(number_b or 0):
            return difference
    return 0


def _weight(letter: str) -> int:
    """A tilde sorts before everything, even the end; letters sort before other signs."""
    if letter == "~":
        return -1
    return ord(letter) if letter.isalpha() else ord(letter) + 256

"""What audits of Trustee's Rego share: recognising it, and what its texts compare with what."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tallystick.compile.targets.trustee import limits

_REFERENCE = r'(input(?:\.\w+|\["[^"]+"\])+)'
_QUERIED = re.compile(_REFERENCE + r'\s+(in|==|>=|>|<=|<)\s+query_reference_value\("([^"]+)"\)')
_LITERAL = re.compile(_REFERENCE + r'\s+==\s+("(?:[^"\\]|\\.)*"|true|false|-?\d+)')
_PART = re.compile(r'\.(\w+)|\["([^"]+)"\]')


@dataclass(frozen=True, slots=True)
class Compared:
    """One comparison of a claim: with a Reference Value, or with what stands there."""

    path: tuple[str, ...]  # below ``input``; the first is the TEE
    operator: str
    reference: str  # the Reference Value's name; "" for a literal
    literal: Any = None


def text_of(data: bytes) -> str | None:
    """Return a Rego policy of Trustee's package, or None when ``data`` is none."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if "package policy" in limits.code_of(text) else None


def comparisons(text: str) -> Iterator[Compared]:
    """Yield every comparison of a claim that stands in a policy."""
    code = limits.without_comments(text)
    for reference, operator, name in _QUERIED.findall(code):
        yield Compared(_path(reference), operator, name)
    for reference, literal in _LITERAL.findall(code):
        yield Compared(_path(reference), "==", "", json.loads(literal))


def _path(reference: str) -> tuple[str, ...]:
    return tuple(plain or quoted for plain, quoted in _PART.findall(reference.removeprefix("input")))

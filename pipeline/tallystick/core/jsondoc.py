"""JSON from outside, read strictly: no duplicate keys, no NaN, no lone surrogates, bounded depth and size."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from tallystick.core.errors import Malformed

MAX_BYTES = 64 << 20
MAX_DEPTH = 64


def loads(data: bytes, what: str, *, max_bytes: int = MAX_BYTES) -> Any:
    """Return the value of the JSON text ``data``.

    Args:
        what: names the document in errors.
        max_bytes: longest text that is read at all.

    Raises:
        Malformed: not UTF-8, not JSON, a duplicate key, NaN or Infinity, or nested deeper than ``MAX_DEPTH``.
    """
    if len(data) > max_bytes:
        raise Malformed(what, at="size", want=f"at most {max_bytes} bytes", got=f"{len(data)}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(what, at=f"byte {error.start}", want="UTF-8", got=error.reason) from None
    _check_depth(text, what)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                raise Malformed(what, at=key, want="each key once", got="a duplicate key")
            found[key] = value
        return found

    def constant(name: str) -> NoReturn:
        raise Malformed(what, at="number", want="a JSON number", got=name)

    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
        json.dumps(value, ensure_ascii=False).encode(
            "utf-8"
        )  # a lone surrogate can be escaped in, and not out
    except json.JSONDecodeError as error:
        raise Malformed(
            what, at=f"line {error.lineno} column {error.colno}", want="JSON", got=error.msg
        ) from None
    except UnicodeEncodeError:
        raise Malformed(what, at="text", want="Unicode scalar values", got="a lone surrogate") from None
    except (ValueError, RecursionError) as error:  # an integer of more digits than Python reads
        raise Malformed(what, at="value", want="JSON within limits", got=str(error)) from None
    return value


def dumps(value: object) -> bytes:
    """Return ``value`` as JSON for people: indented, keys in the order given, a final newline."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")


def _check_depth(text: str, what: str) -> None:
    """Refuse deep nesting before the parser, whose own limit depends on the interpreter's stack."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _BRACKET.finditer(_STRING.sub("", text)):
        depth += 1 if match[0] in "[{" else -1
        if depth > MAX_DEPTH:
            raise Malformed(what, at="nesting", want=f"at most {MAX_DEPTH} levels", got="more")

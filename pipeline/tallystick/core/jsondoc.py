"""JSON from outside, read strictly: no duplicate keys, no NaN, no lone surrogates, bounded depth and size."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from tallystick.core.errors import Malformed

MAX_BYTES = 64 << 20
MAX_DEPTH = 64
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


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
    _check_depth(data, what)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            seen: set[str] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise Malformed(what, at=twice, want="each key once", got="a duplicate key")
        return found

    def constant(name: str) -> NoReturn:
        raise Malformed(what, at="number", want="a JSON number", got=name)

    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
        if "\\ud" in text or "\\uD" in text:  # a lone surrogate can be escaped in, and not out
            json.dumps(value, ensure_ascii=False).encode("utf-8")
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


def canonical(value: object) -> bytes:
    """Return the RFC 8785 bytes of ``value``, for which :func:`is_plain` holds: sorted keys, no spaces.

    The standard library writes them many times faster than a general canonicaliser does.

    Raises:
        UnicodeEncodeError: a lone surrogate, which is a ValueError.
    """
    return _CANONICAL.encode(value).encode("utf-8")


def is_plain(value: object) -> bool:
    """Say whether :func:`canonical` writes what RFC 8785 asks for: ASCII keys, and numbers that are whole and safe.

    Beyond ASCII, RFC 8785 sorts by UTF-16 and Python by code points; fractions it writes as ECMAScript does.
    """
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if type(one) is dict:
            if not all(type(key) is str and key.isascii() for key in one):
                return False
            waiting += one.values()
        elif type(one) is list:
            waiting += one
        elif type(one) is int:
            if abs(one) >= 1 << 53:
                return False
        elif one is not None and type(one) is not str and type(one) is not bool:
            return False
    return True


_STRING = re.compile(rb'"[^"]*"')
_PAIR = re.compile(rb"\[\]|\{\}")
_ALL_BUT_STRUCTURE = bytes(byte for byte in range(256) if byte not in b'[]{}"')


def _check_depth(data: bytes, what: str) -> None:
    """Refuse deep nesting before the parser, whose own limit depends on the interpreter's stack.

    Each pass takes away the innermost brackets, so there are as many passes as levels; what is not JSON is left to
    the parser.
    """
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    plain = data.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _ALL_BUT_STRUCTURE)
    brackets = _STRING.sub(b"", plain)
    for _ in range(MAX_DEPTH):
        shorter = _PAIR.sub(b"", brackets)
        if len(shorter) == len(brackets):
            break
        brackets = shorter
    else:
        if brackets:
            raise Malformed(what, at="nesting", want=f"at most {MAX_DEPTH} levels", got="more")
    if brackets.count(b"[") + brackets.count(b"{") > MAX_DEPTH:
        raise Malformed(what, at="nesting", want="brackets that close", got="others")

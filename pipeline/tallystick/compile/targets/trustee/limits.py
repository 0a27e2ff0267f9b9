"""What Trustee's policy engine takes, and what its REST interface takes.

Source: regorus 0.10 and later, as Trustee 0.20 and later use it (built with ``regex``, ``base64``, ``time`` and
``std`` alone); Trustee, kbs/src/config.rs, DEFAULT_PAYLOAD_REQUEST_SIZE; rust-ear, src/trust/claim.rs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tallystick.core.findings import Finding

MOST_COLUMNS = 1_024
MOST_FILE_BYTES = 1 << 20
MOST_LINES = 20_000
MOST_DEPTH = 32
MOST_REQUEST_BYTES = 2 << 20

# Trustworthiness values that are one byte, and not of tier "none" (which lowers no status).
CONSTANTS = frozenset({2, 3, 32, 33, 36, 96, 97, 99})
VECTOR = frozenset(
    {
        "instance-identity",
        "configuration",
        "executables",
        "file-system",
        "hardware",
        "runtime-opaque",
        "storage-opaque",
        "sourced-data",
    }
)
# The built-in functions that the emitted policies use; Trustee's build has all of them.
BUILTINS = frozenset(
    {
        *("concat", "count", "floor", "is_array", "is_boolean", "is_number", "is_string", "object.keys"),
        *("regex.match", "split", "startswith", "substring", "time.now_ns"),
    }
)
OWN = frozenset({"accompanied"})  # functions that the resource policy defines itself
EXTENSION = "query_reference_value"

_CALL = re.compile(r"(?<![\w\]])([A-Za-z_][\w.]*)\(")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"|`[^`\n]*`')
_COMMENT = re.compile(r"#[^\n]*")  # of a text whose strings are emptied


def code_of(text: str) -> str:
    """Return the policy without comments, and with every string emptied."""
    return _COMMENT.sub("", _STRING.sub('""', text))


def strings_of(text: str) -> list[str]:
    """Return every string that stands in the policy, comments included."""
    return [match[0][1:-1] for match in _STRING.finditer(text)]


def without_comments(text: str) -> str:
    """Return the policy without its comments; strings stay, and hold no ``#``."""
    return _COMMENT.sub("", text)


def check(name: str, text: str) -> Iterator[Finding]:
    """Yield what Trustee's engine would not take, or would take for something else."""
    size = len(text.encode("utf-8"))
    lines = text.split("\n")
    code = code_of(text)
    depth = most_depth(code)
    for what, most, got in (
        ("bytes", MOST_FILE_BYTES, size),
        ("lines", MOST_LINES, len(lines)),
        ("columns", MOST_COLUMNS, max(map(len, lines))),
        ("depth", MOST_DEPTH, depth),
    ):
        if got > most:
            yield Finding(f"trustee.limit.{what}", name, want=f"at most {most} {what}", got=str(got))
    statements = [line.strip() for line in code.split("\n") if line.strip()]
    if statements[:2] != ["package policy", "import rego.v1"]:
        want = "package policy, then import rego.v1 (without it, `if` is no condition on old engines)"
        yield Finding("trustee.head", name, want=want, got="; ".join(statements[:2]) or "nothing")
    for function in sorted(set(_CALL.findall(code))):
        if function not in BUILTINS | OWN | {EXTENSION}:
            yield Finding("trustee.builtin", name, want=", ".join(sorted(BUILTINS)), got=function)


def most_depth(code: str) -> int:
    """Return how deep brackets nest."""
    depth = deepest = 0
    for character in code:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest

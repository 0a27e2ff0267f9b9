"""The ``keys`` of a cloud target's entry in a policy: which key of the cloud each key of the policy is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tallystick.compile.errors import Inexpressible
from tallystick.core.findings import Finding
from tallystick.formats.yamldoc import Fields
from tallystick.policy.normal import NormalForm

_KEY = (r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+){2}", "a key of the policy")
KeyIds = tuple[tuple[str, str], ...]  # our key -> the cloud's name of it, sorted


def schema(pattern: str) -> Mapping[str, Any]:
    """Return the JSON Schema of the field ``keys``."""
    text = {"type": "string", "pattern": f"^{pattern}$"}
    item = {
        "type": "object",
        "properties": {"key": {"type": "string", "pattern": f"^{_KEY[0]}$"}, "id": text},
        "required": ["id", "key"],
        "additionalProperties": False,
    }
    return {"type": "array", "items": item, "minItems": 1}


def read(fields: Fields, pattern: str, want: str) -> KeyIds:
    """Return the field ``keys``.

    Raises:
        Malformed: not a list of ``key`` and ``id``, or one of them twice.
    """
    node = fields.peek("keys")
    found: dict[str, str] = {}
    rows = fields.tables("keys")
    for row in rows:
        key, name = row.text("key", *_KEY), row.text("id", pattern, want)
        row.end()
        if key in found or name in found.values():
            raise fields.bad("keys", node, want="each key and each id once")
        found[key] = name
    if not found:
        raise fields.bad("keys", node, want="at least one")
    return tuple(sorted(found.items()))


def check(form: NormalForm, target: str, keys: KeyIds) -> None:
    """Check that every key of the policy has a name in the cloud, and nothing else has.

    Raises:
        Inexpressible: ``target.keys``.
    """
    ours, theirs = {rule.key for rule in form.keys}, {key for key, _ in keys}
    findings = [
        Finding("target.keys", f"{target}: {key}", want="its id under keys", got="none")
        for key in sorted(ours - theirs)
    ]
    findings += [
        Finding("target.keys", f"{target}: {key}", want="a key of the policy", got="an id of another")
        for key in sorted(theirs - ours)
    ]
    if findings:
        raise Inexpressible(f"{target}: the keys are not those of the policy", findings=findings)

"""A key policy's JSON text, to records. Strict: what is not understood is malformed, never ignored.

Source: IAM User Guide, "Grammar of the IAM JSON policy language"; AWS KMS Developer Guide, "Key policies".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Unsupported

VERSION = "2012-10-17"
MOST_BYTES = 32_768  # AWS KMS Developer Guide, "Quotas": key policy document size, 32 KB
_WHAT = "AWS key policy"
_ELEMENTS = frozenset(
    {
        "Sid",
        "Effect",
        "Principal",
        "NotPrincipal",
        "Action",
        "NotAction",
        "Resource",
        "NotResource",
        "Condition",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionEntry:
    """One key under one operator: the operator holds of the key's value and any of ``values``."""

    operator: str  # "StringEqualsIgnoreCase", "ForAllValues:StringLikeIfExists"
    key: str  # as written; condition keys know no case
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement. Of each pair of elements (``actions``, ``not_actions``) one is None."""

    sid: str
    allow: bool
    principals: tuple[tuple[str, str], ...] | None  # ("AWS", "arn:aws:iam::111122223333:root")
    not_principals: tuple[tuple[str, str], ...] | None
    actions: tuple[str, ...] | None
    not_actions: tuple[str, ...] | None
    resources: tuple[str, ...] | None
    not_resources: tuple[str, ...] | None
    conditions: tuple[ConditionEntry, ...]

    @property
    def effective(self) -> bool:
        """KMS stores a statement without actions or resources, and it has no effect."""
        return (self.actions or self.not_actions) is not None and (
            self.resources or self.not_resources
        ) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPolicy:
    """One key policy."""

    id: str
    statements: tuple[Statement, ...]


def read(data: bytes) -> KeyPolicy:
    """Return the key policy that ``data`` is.

    Raises:
        Malformed: not JSON, an unknown or doubled element, or one of the wrong form.
        Unsupported: another version of the policy language.
    """
    value = jsondoc.loads(data, _WHAT, max_bytes=1 << 20)
    if not isinstance(value, dict):
        raise _bad("document", "an object", value)
    for name in value:
        if name not in ("Version", "Id", "Statement"):
            raise _bad("document", "Version, Id and Statement", name)
    if value.get("Version") != VERSION:
        got = str(value.get("Version", "none, which is 2008-10-17"))
        raise Unsupported(_WHAT, at="Version", want=VERSION, got=got)
    rows = value.get("Statement")
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not rows:
        raise _bad("Statement", "a list of statements", rows)
    identifier = value.get("Id", "")
    if not isinstance(identifier, str):
        raise _bad("Id", "a text", identifier)
    return KeyPolicy(id=identifier, statements=tuple(_statement(row, n) for n, row in enumerate(rows)))


def _statement(row: Any, number: int) -> Statement:
    at = f"Statement[{number}]"
    if not isinstance(row, dict):
        raise _bad(at, "an object", row)
    for name in row:
        if name not in _ELEMENTS:
            raise _bad(at, "a known element", name)
    for name in ("Principal", "Action", "Resource"):
        if name in row and f"Not{name}" in row:
            raise _bad(at, f"{name} or Not{name}", "both")
    if row.get("Effect") not in ("Allow", "Deny"):
        raise _bad(f"{at}.Effect", "Allow or Deny", row.get("Effect"))
    if "Principal" not in row and "NotPrincipal" not in row:
        raise _bad(at, "a Principal", "none")
    sid = row.get("Sid", "")
    if not isinstance(sid, str):
        raise _bad(f"{at}.Sid", "a text", sid)
    return Statement(
        sid=sid,
        allow=row["Effect"] == "Allow",
        principals=_principals(row, "Principal", at),
        not_principals=_principals(row, "NotPrincipal", at),
        actions=_texts(row, "Action", at),
        not_actions=_texts(row, "NotAction", at),
        resources=_texts(row, "Resource", at),
        not_resources=_texts(row, "NotResource", at),
        conditions=tuple(_conditions(row.get("Condition", {}), f"{at}.Condition")),
    )


def _texts(row: dict[str, Any], name: str, at: str) -> tuple[str, ...] | None:
    if name not in row:
        return None
    value = row[name]
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise _bad(f"{at}.{name}", "a text or a list of texts", value)
    return tuple(found)


def _principals(row: dict[str, Any], name: str, at: str) -> tuple[tuple[str, str], ...] | None:
    if name not in row:
        return None
    value = row[name]
    if value == "*":
        return (("AWS", "*"),)
    if not isinstance(value, dict) or not value:
        raise _bad(f"{at}.{name}", '"*" or an object', value)
    found: list[tuple[str, str]] = []
    for kind in value:
        if kind not in ("AWS", "Service", "Federated", "CanonicalUser"):
            raise _bad(f"{at}.{name}", "AWS, Service, Federated or CanonicalUser", kind)
        found += [(kind, one) for one in _texts(value, kind, f"{at}.{name}") or ()]
    return tuple(found)


def _conditions(value: Any, at: str) -> Iterable[ConditionEntry]:
    if not isinstance(value, dict):
        raise _bad(at, "an object", value)
    for operator, keys in value.items():
        if not isinstance(keys, dict) or not keys:
            raise _bad(f"{at}.{operator}", "an object of condition keys", keys)
        for key, wanted in keys.items():
            found = wanted if isinstance(wanted, list) else [wanted]
            if not found or not all(isinstance(one, str | bool | int) for one in found):
                raise _bad(f"{at}.{operator}.{key}", "texts, numbers or booleans", wanted)
            values = tuple(str(one).lower() if isinstance(one, bool) else str(one) for one in found)
            yield ConditionEntry(operator=operator, key=key, values=values)


def _bad(at: str, want: str, got: object) -> Malformed:
    return Malformed(_WHAT, at=at, want=want, got=repr(got))

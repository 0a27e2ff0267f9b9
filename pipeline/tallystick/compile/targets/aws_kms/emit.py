"""The key policy: administrators without data, one Allow for each tuple, one Deny for each register.

An Allow names a whole tuple. The Denies repeat the union of each register's values: they hold against identity
policies and grants of the account too, so that a statement added later does not give the key away.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tallystick.compile.errors import Inexpressible
from tallystick.compile.targets.aws_kms import actions
from tallystick.compile.targets.aws_kms.choice import AwsKmsTarget
from tallystick.compile.targets.aws_kms.document import MOST_BYTES, VERSION
from tallystick.compile.targets.aws_kms.words import NAME, SPELLING, WORDS
from tallystick.compile.targets.claims import Row, asked, rows
from tallystick.core import expect as expects
from tallystick.core.findings import Finding
from tallystick.policy.normal import NormalForm

POLICY = "key-policy.json"
_EQUALS, _DIFFERS = "StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase"
_Conditions = dict[str, dict[str, Any]]


def key_policy(form: NormalForm, choice: AwsKmsTarget, header: str, end: str) -> bytes:
    """Return the key policy's bytes.

    Args:
        header: what it is of and what it does not check, for the policy's Id.
        end: the last instant at which a key is given, RFC 3339 in UTC.

    Raises:
        Inexpressible: it is larger than KMS takes; the error says how many releases fit.
    """
    released = rows(form, NAME, WORDS)
    statements = [*_administration(choice), *_allows(form, choice, released), *_denies(released, end)]
    data = _bytes(header, statements)
    if len(data) > MOST_BYTES:
        room = _room(form, choice, header, end)
        finding = Finding("aws.limit.bytes", POLICY, want=f"at most {MOST_BYTES} bytes", got=str(len(data)))
        raise Inexpressible(
            f"{NAME}: {len(form.releases)} releases do not fit into one key policy; {room} would",
            code="target.size",
            findings=[finding],
        )
    return data


def _bytes(header: str, statements: list[dict[str, Any]]) -> bytes:
    document = {"Version": VERSION, "Id": header, "Statement": statements}
    return json.dumps(document, separators=(",", ":")).encode()


def _administration(choice: AwsKmsTarget) -> Iterator[dict[str, Any]]:
    yield {
        "Sid": "AdministrationWithoutData",
        "Effect": "Allow",
        "Principal": {"AWS": _one_or_more(choice.administrators)},
        "Action": list(actions.ADMINISTRATION),
        "Resource": "*",
    }


def _allows(form: NormalForm, choice: AwsKmsTarget, released: tuple[Row, ...]) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(released):
        yield {
            "Sid": f"R{number}x{row.releases[0].removeprefix('sha256:')[:12]}",
            "Effect": "Allow",
            "Principal": {"AWS": _one_or_more(choice.workloads)},
            "Action": actions.RELEASE,
            "Resource": "*",
            "Condition": _condition(form, row),
        }


def _condition(form: NormalForm, row: Row) -> _Conditions:
    """Return the tuple, and what is asked of every machine beside it."""
    found: _Conditions = {_EQUALS: {SPELLING[key]: value for key, value in row.pins}}
    names = WORDS[row.platform].names
    for constraint in asked(form, NAME, row.platform):
        key = names.get(constraint.path)
        match constraint.expect:
            case _ if key is None:
                continue
            case expects.Exactly(value):
                _put(found, _EQUALS, key, [value])
            case expects.OneOf(values):
                _put(found, _EQUALS, key, list(values))
            case expects.NoneOf(values):
                _put(found, "Null", key, ["false"])
                _put(found, _DIFFERS, key, list(values))
            case other:
                raise ValueError(f"{other} can not be said, and compiling went on")
    return found


def _put(found: _Conditions, operator: str, key: str, values: list[Any]) -> None:
    """Add a condition. Two lists under one key and operator become what stands in both."""
    there = found.setdefault(operator, {})
    name = SPELLING[key]
    old = there.get(name)
    if old is None or operator == "Null":
        kept = values
    elif operator == _DIFFERS:
        kept = sorted({*_listed(old), *values})
    else:
        kept = [value for value in _listed(old) if value in values]
    there[name] = _one_or_more(kept) if kept else "nothing fits"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _denies(released: tuple[Row, ...], end: str) -> Iterator[dict[str, Any]]:
    everybody: dict[str, Any] = {"Principal": "*", "Action": list(actions.ATTESTED), "Resource": "*"}
    yield {"Sid": "DenyBypasses", "Effect": "Deny", **everybody, "Action": list(actions.UNATTESTED)}
    families = sorted({row.platform for row in released})
    number = 0
    for family in families:
        ours = [row for row in released if row.platform == family]
        others = [_marker(released, other) for other in families if other != family]
        for key in sorted(set.intersection(*(set(dict(row.pins)) for row in ours))):
            values = sorted({str(dict(row.pins)[key]) for row in ours})
            condition: _Conditions = {_DIFFERS: {SPELLING[key]: values}}
            if others:  # a document of the other family has none of these registers, and its own Denies
                condition["Null"] = {SPELLING[other]: "true" for other in others}
            yield {"Sid": f"Deny{number}", "Effect": "Deny", **everybody, "Condition": condition}
            number += 1
    yield {
        "Sid": "DenyAfterEnd",
        "Effect": "Deny",
        **everybody,
        "Condition": {"DateGreaterThan": {"aws:CurrentTime": end}},
    }
    if not released:
        yield {"Sid": "DenyAll", "Effect": "Deny", **everybody}


def _marker(released: tuple[Row, ...], family: str) -> str:
    """Return a register that every tuple of ``family`` pins."""
    ours = [set(dict(row.pins)) for row in released if row.platform == family]
    return sorted(set.intersection(*ours))[0]


def _room(form: NormalForm, choice: AwsKmsTarget, header: str, end: str) -> int:
    """Return how many of the releases fit, the newest first."""
    from dataclasses import replace

    newest = sorted(form.releases, key=lambda one: one.promoted_at, reverse=True)
    low, high = 0, len(newest)
    while low < high:
        middle = (low + high + 1) // 2
        part = replace(form, releases=tuple(newest[:middle]))
        released = rows(part, NAME, WORDS)
        statements = [*_administration(choice), *_allows(part, choice, released), *_denies(released, end)]
        if len(_bytes(header, statements)) <= MOST_BYTES:
            low = middle
        else:
            high = middle - 1
    return low


def _one_or_more(values: Any) -> Any:
    found = list(values)
    return found[0] if len(found) == 1 else found

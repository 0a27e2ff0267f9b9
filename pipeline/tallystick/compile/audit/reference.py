"""The Reference Values that an audit compares with, read from a file.

Either a compiled policy of our own (``tallystick/compiled/v1``), whose tuples count, or a plain document::

    {"schema": "tallystick/reference-values/v1", "tuples": [{"pcr0": "<hex>", "pcr8": "<hex>"}]}
"""

from __future__ import annotations

from typing import Any

from tallystick.compile.audit.records import ReferenceValues
from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Unsupported
from tallystick.core.expect import Exactly
from tallystick.policy import document
from tallystick.policy.jsonfields import JsonFields

SCHEMA = "tallystick/reference-values/v1"
_WHAT = "reference values"
_MOST_TUPLES = 10_000


def read(data: bytes) -> ReferenceValues:
    """Return the Reference Values that ``data`` is.

    Raises:
        Malformed: not JSON, unknown fields, no tuple, an empty tuple, or a value that is no text, number or
            boolean. Unsupported: another schema.
    """
    value = jsondoc.loads(data, _WHAT)
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema == document.SCHEMA:
        return _compiled(data)
    fields = JsonFields(value, _WHAT)
    if fields.text("schema") != SCHEMA:
        raise Unsupported(_WHAT, at="schema", want=f"{SCHEMA} or {document.SCHEMA}", got=str(schema))
    rows = fields.items("tuples")
    fields.end()
    if not 0 < len(rows) <= _MOST_TUPLES:
        raise Malformed(_WHAT, at="tuples", want=f"1 to {_MOST_TUPLES}", got=str(len(rows)))
    return ReferenceValues(tuples=tuple(_tuple(row, number) for number, row in enumerate(rows)))


def _tuple(row: Any, number: int) -> dict[str, bool | int | str]:
    at = f"tuples[{number}]"
    if not isinstance(row, dict) or not row:
        raise Malformed(_WHAT, at=at, want="an object with at least one claim", got=str(row))
    for name, value in row.items():
        if not isinstance(value, bool | int | str):
            raise Malformed(_WHAT, at=f"{at}.{name}", want="a text, number or boolean", got=str(value))
    return dict(row)


def _compiled(data: bytes) -> ReferenceValues:
    form = document.read(data)
    tuples = tuple(
        {path: expect.value for path, expect in entry.expect if isinstance(expect, Exactly)}
        for release in form.releases
        for entry in release.tuples
    )
    if not tuples:
        raise Malformed(_WHAT, at="releases", want="at least one tuple", got="none")
    return ReferenceValues(tuples=tuples)

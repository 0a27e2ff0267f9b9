"""The few shapes that the page is made of: sections, facts, tables, badges, digests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from tallystick.core.digests import Digest
from tallystick.core.findings import Finding
from tallystick.report.html import Element, el

_WORD = 22  # characters of a cell that is not broken
_NAME = 30  # characters of a name for machines that heads a row and is not broken
_PHRASE = 8  # characters of several words that are not broken either
_SHORT = 12  # hex digits that tell two digests on one page apart
Cell = Element | str


def section(
    anchor: str, number: int, title: str, why: str, *children: Cell | Iterable[Cell] | None
) -> Element:
    """Return one numbered part of the page with its heading."""
    heading = el("h2", el("span", f"{number}", class_="number"), " ", title, id=f"{anchor}-title")
    return el(
        "section",
        heading,
        el("p", why, class_="why"),
        *children,
        id=anchor,
        aria_labelledby=f"{anchor}-title",
    )


def facts(pairs: Iterable[tuple[str, Cell | Sequence[Cell]]]) -> Element:
    """Return names and values as a description list."""
    rows: list[Element] = []
    for name, value in pairs:
        rows += [el("dt", name), el("dd", value)]
    return el("dl", rows, class_="facts")


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, numbers: str = ""
) -> Element:
    """Return a table whose first column heads its rows.

    Roles are written out, since the narrow layout shows rows as blocks, which would take them away.

    Args:
        numbers: the columns, by name and separated by commas, that hold numbers.
    """
    kinds = {name: "number" for name in numbers.split(",") if name}
    head = el(
        "tr",
        (el("th", name, scope="col", role="columnheader", class_=kinds.get(name)) for name in columns),
        role="row",
    )
    body = [el("tr", _cells(columns, row, kinds), role="row") for row in rows]
    return el(
        "table",
        el("caption", caption),
        el("thead", head, role="rowgroup"),
        el("tbody", body, role="rowgroup"),
        role="table",
    )


def _cells(columns: Sequence[str], row: Sequence[Cell], kinds: dict[str, str]) -> Iterable[Element]:
    yield el("th", row[0], scope="row", role="rowheader", class_="long" if _is_long(row[0]) else None)
    for name, value in zip(columns[1:], row[1:], strict=True):
        kind = kinds.get(name) or _kind(value)
        yield el("td", value, role="cell", data_label=name, class_=kind)


def _is_long(head: Cell) -> bool:
    """Say whether what heads a row has to be broken: a long word, or a name for machines that no column holds."""
    if isinstance(head, Element):
        return sum(len(child) for child in head.children if isinstance(child, str)) > _NAME
    return _kind(head) == "long"


def _kind(value: Cell) -> str | None:
    """Return how a cell wraps: hex needs room for half of a SHA-256, a short word stays whole, a long one not."""
    if isinstance(value, Element):
        if value.tag != "code":
            return None
        return "word" if dict(value.attributes).get("title") else "hex"  # a shortened one stays whole
    longest = max(map(len, value.split()), default=0)
    if longest > _WORD:
        return "long"
    return "word" if longest == len(value) or len(value) <= _PHRASE else None


def badge(text: str, kind: str) -> Element:
    """Return a word with a mark in front, so that colour alone never says it. ``kind``: good, bad, soon or plain."""
    mark = {"good": "✓ ", "bad": "✗ "}.get(kind, "")
    return el("span", el("span", mark, aria_hidden="true") if mark else None, text, class_=f"badge {kind}")


def digest(value: Digest | None) -> Element:
    """Return a digest in full, to be compared and copied."""
    return code(str(value)) if value is not None else el("span", "none", class_="plain")


def short(value: Digest | None) -> Element:
    """Return the beginning of a digest, to recognise it by."""
    return el("code", f"{value.hex[:_SHORT]}…", title=str(value)) if value is not None else el("code", "")


def code(text: str) -> Element:
    """Return a text for machines."""
    return el("code", text)


def when(moment: datetime) -> Element:
    """Return an instant in UTC."""
    utc = moment.astimezone(UTC)
    return el("time", f"{utc:%Y-%m-%d %H:%M:%S} UTC", datetime=f"{utc:%Y-%m-%dT%H:%M:%SZ}")


def findings(caption: str, found: Iterable[Finding]) -> Element:
    """Return findings as a table: which check, where, what it wanted and what it got."""
    return table(
        caption,
        ("Check", "Where", "Wanted", "Got"),
        ((code(one.code), one.where, code(one.want), code(one.got)) for one in found),
    )


def more(summary: str, *children: Cell | Iterable[Cell]) -> Element:
    """Return something that is folded away until it is asked for."""
    return el("details", el("summary", summary), *children)


def count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size(size_bytes: int) -> str:
    """Return a size in the unit that reads best, and exact where that is bytes."""
    value = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:
            return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} GiB"

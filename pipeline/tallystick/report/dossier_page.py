"""The compliance dossier as a page: each clause with its evidence, and what attestation does not cover, said first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tallystick.report import cards, shell
from tallystick.report import widgets as w
from tallystick.report.dossier import KINDS, NOT_COVERED, Dossier, Framework, Item, Line
from tallystick.report.html import Element, el


def render(dossier: Dossier) -> bytes:
    """Return the page of ``dossier``, UTF-8. The same dossier gives the same bytes."""
    items = {one.id: one for one in dossier.items}
    parts = [
        ("not-covered", "Not covered"),
        *((one.id, one.name.partition(",")[0]) for one in dossier.frameworks),
    ]
    parts.append(("evidence", "Evidence"))
    links = [el("li", el("a", name, href=f"#{anchor}")) for anchor, name in parts]
    body = el(
        "body",
        el("a", "Skip to what is not covered", href="#not-covered", class_="skip"),
        _header(dossier),
        el("nav", el("ul", links), class_="parts", aria_label="Parts of this dossier"),
        el(
            "main",
            _not_covered(),
            [_framework(number, one, items) for number, one in enumerate(dossier.frameworks, 2)],
            _evidence(len(dossier.frameworks) + 2, dossier),
        ),
        el(
            "footer",
            el("p", f"Made by {dossier.made_by} at ", w.when(dossier.made_at), ". It loads nothing."),
        ),
    )
    return shell.page(f"Compliance dossier of channel {dossier.channel}", body)


def _header(dossier: Dossier) -> Element:
    lines = [line for one in dossier.frameworks for line in one.lines]
    figures = [
        ("clauses", f"{len(lines)}"),
        ("with all evidence", f"{sum(line.evidenced for line in lines)}"),
        ("lack some", f"{sum(not line.evidenced for line in lines)}"),
        ("pieces of evidence", f"{len(dossier.items)}"),
    ]
    return el(
        "header",
        shell.stick(),
        el("p", f"Tallystick · channel {dossier.channel}", class_="eyebrow"),
        el("h1", "Compliance dossier"),
        el(
            "p",
            "What speaks to each clause, every piece by its digest. ",
            el("strong", "No clause is met by attestation alone: "),
            "each line says what stays with the organisation.",
            class_="lead",
        ),
        [el("p", note, class_="note") for note in dossier.notes],
        el("dl", [el("div", el("dt", name), el("dd", value)) for name, value in figures], class_="figures"),
    )


def _not_covered() -> Element:
    return w.section(
        "not-covered",
        1,
        "What attestation does not cover",
        "None of this is shown by anything below.",
        cards.lines(NOT_COVERED),
    )


def _framework(number: int, one: Framework, items: Mapping[str, Item]) -> Element:
    rows = [
        (
            line.clause,
            line.title,
            w.badge("evidenced", "good") if line.evidenced else w.badge("incomplete", "bad"),
            line.how,
            el("span", list(_pieces(line, items))),
            line.left,
        )
        for line in one.lines
    ]
    columns = ("Clause", "Title", "State", "What Tallystick does", "Evidence", "Left to the organisation")
    return w.section(
        one.id,
        number,
        one.name,
        "A line is evidenced when each kind of evidence that it rests on is there.",
        w.table(w.count(len(rows), "clause"), columns, rows),
    )


def _pieces(line: Line, items: Mapping[str, Item]) -> Iterator[Element | str]:
    """Yield each kind that a line rests on, with its first piece and how many more there are."""
    kinds: dict[str, list[Item]] = {}
    for name in line.evidence:
        kinds.setdefault(items[name].kind, []).append(items[name])
    for kind, found in kinds.items():
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        yield el("span", f"{kind} ", w.short(found[0].digest), f"{more} ", class_="piece")
    for kind in line.missing:
        yield el("span", w.badge(f"no {kind}", "bad"), " ", class_="piece")


def _evidence(number: int, dossier: Dossier) -> Element:
    rows = [(one.kind, one.what, w.code(one.where), w.digest(one.digest)) for one in dossier.items]
    kinds = [(name, what) for name, what in KINDS.items()]
    return w.section(
        "evidence",
        number,
        "Evidence",
        "Where the bytes of each piece lie, and their SHA-256; --check reads them all again.",
        w.table(w.count(len(rows), "piece"), ("Kind", "What", "Where", "Digest"), rows) if rows else None,
        w.more("The kinds of evidence", w.facts(kinds)),
    )

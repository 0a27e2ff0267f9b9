"""The frame of every page: head, style and content policy. No page loads anything or runs a script."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources

from tallystick.report.html import Element, document, el

_NOTCHES = (70, 130, 150, 170, 290, 380, 400, 520, 600, 620, 640, 760, 850)


def page(title: str, body: Element) -> bytes:
    """Return the page, UTF-8. The same title and body give the same bytes."""
    return document(el("html", _head(title), body, lang="en"))


@cache
def policy() -> str:
    """Return the content security policy of every page: our one style, by its hash, and nothing else."""
    hashed = base64.b64encode(hashlib.sha256(_style().encode("utf-8")).digest()).decode("ascii")
    return (
        f"default-src 'none'; style-src 'sha256-{hashed}'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def stick() -> Element:
    """Return a split tally stick: the same notches in both halves."""
    above = "".join(f"L{x + 6} 27 L{x} 17 L{x - 6} 27 " for x in reversed(_NOTCHES))
    below = "".join(f"L{x - 6} 33 L{x} 43 L{x + 6} 33 " for x in _NOTCHES)
    stock = f"M4 0 H996 Q1000 0 1000 6 V27 {above}L0 27 V6 Q0 0 4 0 Z"
    foil = f"M0 33 {below}L1000 33 V54 Q1000 60 996 60 H4 Q0 60 0 54 Z"
    return el(
        "svg",
        el("path", d=stock, class_="stock"),
        el("path", d=foil, class_="foil"),
        viewBox="0 0 1000 60",
        preserveAspectRatio="none",
        aria_hidden="true",
        focusable="false",
        class_="stick",
    )


@cache
def _style() -> str:
    return resources.files("tallystick.report").joinpath("page.css").read_text("utf-8")


def _head(title: str) -> Element:
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy()),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", title),
        el("link", rel="icon", href="data:,"),
        el("style", _style()),
    )

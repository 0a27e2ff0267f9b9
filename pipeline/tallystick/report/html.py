"""HTML that can not be injected into: text is always text, and only these elements are ever written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

_VOID = frozenset({"meta", "link", "br", "hr"})
_RAW = frozenset({"style"})  # its one child is ours and is written as it is


@dataclass(frozen=True, slots=True)
class Element:
    """One element: tag, attributes in order, children."""

    tag: str
    attributes: tuple[tuple[str, str], ...]
    children: tuple[Element | str, ...]


def el(
    tag: str, *children: Element | str | Iterable[Element | str] | None, **attributes: str | None
) -> Element:
    """Return an element; ``class_`` is ``class``, ``aria_label`` is ``aria-label``, None leaves one out.

    Strings among ``children`` are text, whatever they hold.
    """
    flat: list[Element | str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Element | str):
            flat.append(child)
        else:
            flat.extend(child)
    named = tuple(
        (name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items() if value is not None
    )
    return Element(tag, named, tuple(flat))


def render(element: Element | str) -> str:
    """Return the element as HTML. Everything that came from outside is escaped."""
    if isinstance(element, str):
        return escape(_visible(element), quote=False)
    attributes = "".join(f' {name}="{escape(_visible(value))}"' for name, value in element.attributes)
    start = f"<{element.tag}{attributes}>"
    if element.tag in _VOID:
        return start
    if element.tag in _RAW:
        inner = "".join(child for child in element.children if isinstance(child, str))
    else:
        inner = "".join(render(child) for child in element.children)
    return f"{start}{inner}</{element.tag}>"


def document(root: Element) -> bytes:
    """Return the page whose ``<html>`` element is ``root``."""
    return b"<!DOCTYPE html>\n" + render(root).encode("utf-8") + b"\n"


def _visible(text: str) -> str:
    """Return ``text`` with what a reader can not see, or what turns text around, written out.

    A file name may hold anything: a right-to-left override can show "exe.fdp" for "pdf.exe".
    """
    return "".join(char if _plain(char) else f"\\u{ord(char):04x}" for char in text)


def _plain(char: str) -> bool:
    code = ord(char)
    if code < 0x20:
        return char in "\n\t"
    hidden = 0x7F <= code < 0xA0 or 0x200B <= code <= 0x200F or 0x202A <= code <= 0x202E
    return not (hidden or 0x2060 <= code <= 0x206F or 0xD800 <= code <= 0xDFFF or code == 0xFEFF)

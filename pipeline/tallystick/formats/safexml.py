"""XML from outside, read so that it can not grow: no DTD, no entities, no network, bounded size, depth and width.

What a document may hold here is what signed manifests need. The bounds are far above them (NVIDIA's have 25 KB, 100
elements and 12 attributes each) and far below what makes canonicalization slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tallystick.core.errors import Malformed

if TYPE_CHECKING:
    from lxml.etree import _Element

MAX_BYTES = 512 << 10
MAX_DEPTH = 16
MAX_ELEMENTS = 4096
MAX_ATTRIBUTES = 128
MAX_NAMESPACES = 32
_FORBIDDEN = (b"<!DOCTYPE", b"<!ENTITY", b"<?")  # beside the declaration that begins a document
_DECLARATION = b"<?xml "


def parse(data: bytes, what: str) -> _Element:
    """Return the root element of the XML text ``data``.

    Args:
        what: names the document in errors.

    Raises:
        Malformed: no well-formed UTF-8 XML, a DTD or processing instruction, or more of something than is read.
    """
    from lxml import etree

    _check_text(data, what)
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        recover=False,
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise Malformed(what, at="XML", want="a well-formed document", got=str(error)) from None
    _check_tree(root, what)
    return root


def _check_text(data: bytes, what: str) -> None:
    """Refuse before the parser sees it what its text already shows."""
    if len(data) > MAX_BYTES:
        raise Malformed(what, at="size", want=f"at most {MAX_BYTES} bytes", got=str(len(data)))
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(what, at=f"byte {error.start}", want="UTF-8", got=error.reason) from None
    body = data
    if data.startswith(_DECLARATION):
        declaration, _, body = data.partition(b"?>")
        if b"encoding" in declaration and b"utf-8" not in declaration.lower():
            raise Malformed(what, at="encoding", want="UTF-8", got=declaration.decode("utf-8"))
    for text in _FORBIDDEN:
        if text in body:
            raise Malformed(what, at="XML", want="no DTD and no processing instruction", got=text.decode())
    if data.count(b"<") > 2 * MAX_ELEMENTS:
        raise Malformed(what, at="XML", want=f"at most {MAX_ELEMENTS} elements", got="more")


def _check_tree(root: _Element, what: str) -> None:
    docinfo = root.getroottree().docinfo
    if docinfo.internalDTD is not None or docinfo.externalDTD is not None:
        raise Malformed(what, at="XML", want="no DTD", got="one")
    waiting = [(root, 1)]
    seen = 0
    while waiting:
        element, depth = waiting.pop()
        seen += 1
        over = [
            (MAX_ELEMENTS, "elements", seen),
            (MAX_DEPTH, "levels", depth),
            (MAX_ATTRIBUTES, "attributes", len(element.attrib)),
            (MAX_NAMESPACES, "namespaces", len(element.nsmap)),
        ]
        for most, name, got in over:
            if got > most:
                raise Malformed(what, at="XML", want=f"at most {most} {name}", got=str(got))
        waiting += [(child, depth + 1) for child in element if isinstance(child.tag, str)]

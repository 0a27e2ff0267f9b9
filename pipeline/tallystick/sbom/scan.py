"""What is really inside a product: the file itself taken apart, without a look at any list.

Nothing is left over: whatever the format does not put into a file or section comes back under a name in
parentheses, so that the comparison sees it too.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tallystick.core.digests import Digest
from tallystick.core.errors import Unsupported
from tallystick.formats import cpio, eif, initramfs, oci, pe, tar

HEADERS = "(headers)"
FIRMWARE = "(firmware)"
_FILE_MODE = f"{stat.S_IFREG | 0o644:07o}"  # what contents lists say for sections, which have no mode


# Device nodes that an image may hold (Linux, Documentation/admin-guide/devices.txt). A contents list has no
# place for a device's numbers, and /dev/console with those of /dev/mem would have the same bytes: none.
_DEVICES = {"dev/console": (5, 1), "dev/null": (1, 3)}


@dataclass(frozen=True, slots=True)
class Found:
    """One file or section as it lies in the product."""

    path: str
    mode: str
    data: memoryview

    @property
    def digest(self) -> Digest:
        """The SHA-256 of its bytes."""
        return Digest.of(self.data)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Scan:
    """Everything in one product, and what is odd about it whatever any list says."""

    files: tuple[Found, ...]
    odd: tuple[tuple[str, str, str], ...]  # (path, want, got)


def scan(data: bytes | memoryview, what: str) -> Scan:
    """Return what is inside ``data``, which is told by its own first bytes and not by its name.

    Raises:
        Malformed: it breaks its format.
        Unsupported: a format, or a part of one, that is not taken apart here.
    """
    view = memoryview(data).toreadonly()
    if bytes(view[:2]) == b"MZ":
        return Scan(tuple(_pe(view)), ())
    if bytes(view[:4]) == b".eif":
        return Scan(tuple(_eif(view)), ())
    if bytes(view[257:262]) == b"ustar":
        return _oci(view, what)
    if bytes(view[:4]) == b"0707" or bytes(view[:6]) == b"\xfd7zXZ\x00" or bytes(view[:2]) == b"\x1f\x8b":
        entries = initramfs.read(view, what).entries
        return Scan(tuple(_entries(entries)), tuple(_odd(entries)))
    if (
        bytes(view[40:44]) == b"_FVH"
    ):  # a firmware volume: compiled from one source, so it has no files of others
        return Scan((Found(FIRMWARE, _FILE_MODE, view),), ())
    raise Unsupported(
        what,
        at="first bytes",
        want="PE, EIF, OCI layout, cpio, xz, gzip or firmware",
        got=bytes(view[:8]).hex(),
    )


def _pe(view: memoryview) -> Iterator[Found]:
    image = pe.parse(view)
    yield Found(HEADERS, _FILE_MODE, view[: image.headers_size])
    end = image.headers_size
    for section in sorted(image.sections, key=lambda s: s.raw_offset):
        content = image.content(section)
        yield Found(section.name, _FILE_MODE, content)
        if section.raw_size:
            yield from _gap(view, end, section.raw_offset)
            end = section.raw_offset + section.raw_size
            yield from _gap(view, section.raw_offset + len(content), end)
    yield from _gap(view, end, len(view))


def _gap(view: memoryview, start: int, end: int) -> Iterator[Found]:
    """Padding is zero; anything else between the parts is a part of its own."""
    if any(view[start:end]):
        yield Found(f"(bytes {start} to {end})", _FILE_MODE, view[start:end])


def _eif(view: memoryview) -> Iterator[Found]:
    """The header, and the sections by their kind; the second ramdisk is ``ramdisk-2``."""
    yield Found(HEADERS, _FILE_MODE, view[: eif.HEADER_BYTES])
    seen: dict[str, int] = {}
    for section in eif.parse(view).sections:  # the parser accounts for the bytes between them
        name = section.kind.name.lower()
        seen[name] = count = seen.get(name, 0) + 1
        yield Found(name if count == 1 else f"{name}-{count}", _FILE_MODE, section.data)


def _oci(view: memoryview, what: str) -> Scan:
    """The files of the layers in the layers' place, and the other files of the layout."""
    layout = oci.read(view, what)
    inside = tuple(oci.entries(layout, what))
    others = (Found(path, _FILE_MODE, data) for path, data in layout.others)
    return Scan((*_entries(inside), *others), tuple(_odd(inside)))


def _entries(entries: Iterable[cpio.Entry | tar.Entry]) -> Iterator[Found]:
    for entry in entries:
        if not entry.is_directory:
            yield Found(entry.path, entry.mode_text, entry.data)


def _odd(entries: Iterable[cpio.Entry | tar.Entry]) -> Iterator[tuple[str, str, str]]:
    """What contents lists have no field for, because it is always the same."""
    entries = tuple(entries)
    links = {entry.path for entry in entries if stat.S_ISLNK(entry.mode)}
    for entry in entries:
        if (through := _through(entry.path, links)) is not None:
            yield entry.path, "no file behind a symbolic link", f"one that lands where {through} leads"
        if (entry.uid, entry.gid) != (0, 0):
            yield entry.path, "owner 0:0", f"{entry.uid}:{entry.gid}"
        if isinstance(entry, cpio.Entry) and stat.S_IFMT(entry.mode) in (stat.S_IFCHR, stat.S_IFBLK):
            yield from _odd_device(entry)
        if entry.is_directory and entry.mode & 0o022 and not entry.mode & stat.S_ISVTX:
            yield entry.path, "a folder that only its owner writes to", f"mode {entry.mode_text}"


def _through(path: str, links: set[str]) -> str | None:
    """Return the link that an unpacker follows on its way to ``path``, so that it writes another file than that."""
    steps = path.split("/")
    return next((link for end in range(1, len(steps)) if (link := "/".join(steps[:end])) in links), None)


def _odd_device(entry: cpio.Entry) -> Iterator[tuple[str, str, str]]:
    want = _DEVICES.get(entry.path)
    if stat.S_ISBLK(entry.mode) or entry.device != want:
        said = "no device node" if want is None else f"character device {want[0]}:{want[1]}"
        kind = "block" if stat.S_ISBLK(entry.mode) else "character"
        yield entry.path, said, f"{kind} device {entry.device[0]}:{entry.device[1]}"

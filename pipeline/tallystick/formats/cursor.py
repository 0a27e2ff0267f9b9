"""Read every byte of a binary structure, once, and say where it breaks."""

from __future__ import annotations

from tallystick.core.errors import Malformed


class Cursor:
    """A position in bytes. Every read names its field, so that an error can name it too."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        self._data = bytes(data)
        self._what = what
        self._at = 0

    @property
    def at(self) -> int:
        """Offset of the next byte."""
        return self._at

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._at

    def take(self, field: str, size_bytes: int) -> bytes:
        """Return the next ``size_bytes`` bytes.

        Raises:
            Malformed: fewer are left.
        """
        if size_bytes < 0 or size_bytes > self.left:
            raise self.bad(field, want=f"{size_bytes} bytes", got=f"{self.left} left")
        value = self._data[self._at : self._at + size_bytes]
        self._at += size_bytes
        return value

    def little(self, field: str, size_bytes: int) -> int:
        """Return the next unsigned little-endian integer."""
        return int.from_bytes(self.take(field, size_bytes), "little")

    def big(self, field: str, size_bytes: int) -> int:
        """Return the next unsigned big-endian integer."""
        return int.from_bytes(self.take(field, size_bytes), "big")

    def reserved(self, field: str, size_bytes: int) -> None:
        """Skip bytes that must be zero (MBZ)."""
        value = self.take(field, size_bytes)
        if any(value):
            raise self.bad(field, want="all zero", got=value.hex())

    def rest(self) -> bytes:
        """Return everything that is left."""
        return self.take("rest", self.left)

    def end(self) -> None:
        """Fail on trailing bytes."""
        if self.left:
            raise self.bad("end", want="no more bytes", got=f"{self.left} bytes")

    def bad(self, field: str, *, want: str, got: str) -> Malformed:
        """Return the error for ``field`` at this place; the caller raises it."""
        return Malformed(self._what, at=f"{field} at offset {self._at}", want=want, got=got)

"""Fields of JSON messages, read by name and type, and the base64 that they carry."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed


class Fields:
    """One JSON object. Fields that nobody asks for are left alone: other implementations add their own."""

    __slots__ = ("_values", "_what")

    def __init__(self, value: Any, what: str) -> None:
        if not isinstance(value, dict):
            raise Malformed(what, at="document", want="a JSON object", got=kind(value))
        self._values: Mapping[str, Any] = value
        self._what = what

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._values.get(name) is not None

    def raw(self, name: str) -> Any:
        """Return the field as it is, or None when it is absent."""
        return self._values.get(name)

    def text(self, name: str, *, max_characters: int = 1 << 20) -> str:
        """Return a string field.

        Raises:
            Malformed: absent, of another type, or longer than ``max_characters``.
        """
        value = self._values.get(name)
        if not isinstance(value, str):
            raise self.bad(name, want="a string", got=kind(value))
        if len(value) > max_characters:
            raise self.bad(name, want=f"at most {max_characters} characters", got=f"{len(value)}")
        return value

    def child(self, name: str) -> Fields:
        """Return an object field."""
        value = self._values.get(name)
        if not isinstance(value, dict):
            raise self.bad(name, want="an object", got=kind(value))
        return Fields(value, f"{self._what}: {name}")

    def base64(self, name: str, *, max_bytes: int = 1 << 20) -> bytes:
        """Return the bytes of a field in standard base64 with padding."""
        return self._decoded(name, unb64, "base64 (RFC 4648, section 4)", max_bytes)

    def base64url(self, name: str, *, max_bytes: int = 1 << 20) -> bytes:
        """Return the bytes of a field in base64url without padding."""
        return self._decoded(name, unb64url, "base64url without padding (RFC 7515, section 2)", max_bytes)

    def hex_bytes(self, name: str, size_bytes: int) -> bytes:
        """Return the bytes of a field of so many lower-case hex digits.

        Raises:
            Malformed: anything else.
        """
        text = self.text(name)
        if not re.fullmatch(f"[0-9a-f]{{{2 * size_bytes}}}", text):
            raise self.bad(name, want=f"{2 * size_bytes} lower-case hex digits", got=repr(text))
        return bytes.fromhex(text)

    def sha256(self, name: str) -> Digest:
        """Return the digest of a field ``sha256:<hex>``.

        Raises:
            Malformed: anything else.
        """
        text = self.text(name)
        if not re.fullmatch("sha256:[0-9a-f]{64}", text):
            raise self.bad(name, want="sha256: and 64 lower-case hex digits", got=repr(text))
        return Digest(Algorithm.SHA256, bytes.fromhex(text[7:]))

    def only(self, *names: str) -> None:
        """Refuse fields that none of ``names`` is: for documents of our own.

        Raises:
            Malformed: there is one.
        """
        for name in self._values:
            if name not in names:
                raise self.bad(str(name), want="one of " + ", ".join(names), got="an unknown field")

    def rows(self, name: str) -> list[Any]:
        """Return a list field with at least one item.

        Raises:
            Malformed: anything else.
        """
        value = self._values.get(name)
        if not isinstance(value, list) or not value:
            raise self.bad(name, want="a list of at least one", got=kind(value) if value != [] else "none")
        return value

    def bad(self, name: str, *, want: str, got: str) -> Malformed:
        """Return the error for the field ``name``; the caller raises it."""
        return Malformed(self._what, at=name, want=want, got=got)

    def _decoded(self, name: str, decode: Any, want: str, max_bytes: int) -> bytes:
        text = self.text(name, max_characters=4 * max_bytes)
        try:
            value: bytes = decode(text)
        except ValueError:
            raise self.bad(name, want=want, got=f"{len(text)} characters that are not") from None
        if len(value) > max_bytes:
            raise self.bad(name, want=f"at most {max_bytes} bytes", got=f"{len(value)}")
        return value


def kind(value: Any) -> str:
    """Return the JSON name of a value's type, for errors that must not show the value."""
    if value is None:
        return "nothing"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object")


def b64(data: bytes) -> str:
    """Return standard base64 with padding (RFC 4648, section 4)."""
    return base64.b64encode(data).decode("ascii")


def unb64(text: str) -> bytes:
    """Return the bytes that ``text`` stands for; only the one canonical spelling is taken.

    Raises:
        ValueError: another alphabet, white space, missing padding, or stray bits in the last character.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise ValueError(str(error)) from None
    if b64(data) != text:
        raise ValueError("not the canonical spelling")
    return data


def b64url(data: bytes) -> str:
    """Return base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64url(text: str) -> bytes:
    """Return the bytes that ``text`` stands for; only the one canonical spelling is taken.

    Raises:
        ValueError: another alphabet, padding, white space, or stray bits in the last character.
    """
    if "+" in text or "/" in text or "=" in text:
        raise ValueError("not base64url without padding")
    return unb64(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4))

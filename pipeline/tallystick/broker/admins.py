"""Who may do key operations over the network: enrolled public keys, each for channels that are named.

The file is the broker's own (0600); only its own user, on its own machine, enrols. An empty file lets nobody in.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785

from tallystick.broker.secretfiles import locked, read_secret, write_secret
from tallystick.broker.vault import channel_name
from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Refused, Unsupported
from tallystick.handshake.fields import Fields
from tallystick.handshake.teekey import ECDH_ES_A256KW, P256, TeePublicKey

SCHEMA = "tallystick/broker-admins/v1"
MAX_FILE_BYTES = 1 << 20
_WHAT = "administrators"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._-]{0,126}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    """One enrolled administrator."""

    name: str
    channels: tuple[str, ...]  # whose keys; never empty
    key: TeePublicKey  # P-256; it signs requests

    @classmethod
    def parse(cls, name: str, channels: tuple[str, ...], jwk: Any) -> Admin:
        """Return an administrator.

        Raises:
            Malformed: no name, no channel, or no public key. Unsupported: another kind of key.
        """
        if not _NAME.fullmatch(name):
            raise Malformed(_WHAT, at="name", want="letters, digits and @._-", got=name)
        if not channels:
            raise Malformed(_WHAT, at="channels", want="the channels whose keys are theirs", got="none")
        fields = Fields(jwk, "administrator's key")
        if fields.has("d"):
            raise fields.bad("d", want="a public key alone", got="a private key")
        members = {member: fields.text(member, max_characters=128) for member in ("kty", "crv", "x", "y")}
        if members["crv"] != P256:
            raise Unsupported("administrator's key", at="crv", want=P256, got=members["crv"])
        key = TeePublicKey.parse({**members, "alg": ECDH_ES_A256KW})
        return cls(name=name, channels=tuple(sorted(map(channel_name, channels))), key=key)

    def document(self) -> dict[str, Any]:
        """Return the administrator as the file keeps it and ``--json`` prints it."""
        members = {name: value for name, value in self.key.document().items() if name != "alg"}
        return {
            "name": self.name,
            "channels": list(self.channels),
            "jwk": members,
            "kid": self.key.thumbprint(),
        }


def load(path: Path) -> tuple[Admin, ...]:
    """Return the administrators, sorted by name; none when there is no file.

    Raises:
        NotGenuine: others can read or write the file. Malformed, Unsupported: not what this program writes.
    """
    if not path.exists():
        return ()
    document = jsondoc.loads(read_secret(path, _WHAT, max_bytes=MAX_FILE_BYTES), _WHAT)
    if not isinstance(document, dict) or not isinstance(document.get("admins"), list):
        raise Malformed(_WHAT, at=str(path), want="an object with admins", got=type(document).__name__)
    if document.get("schema") != SCHEMA:
        raise Unsupported(_WHAT, at="schema", want=SCHEMA, got=str(document.get("schema")))
    return tuple(map(_admin, document["admins"]))


def enrol(path: Path, admin: Admin) -> None:
    """Add ``admin``.

    Raises:
        Refused: the name or the key is enrolled already (``admin.exists``).
    """
    with locked(path.with_suffix(".lock")):
        found = load(path)
        for one in found:
            if one.name == admin.name or one.key == admin.key:
                raise Refused(f"{one.name} is enrolled already: remove them first", code="admin.exists")
        _write(path, (*found, admin))


def remove(path: Path, name: str) -> None:
    """Take ``name`` out; the next request is refused.

    Raises:
        Refused: nobody of that name is enrolled (``admin.unknown``).
    """
    with locked(path.with_suffix(".lock")):
        found = load(path)
        if name not in {one.name for one in found}:
            raise Refused(f"nobody of the name {name} is enrolled", code="admin.unknown")
        _write(path, tuple(one for one in found if one.name != name))


def by_thumbprint(admins: tuple[Admin, ...], kid: str) -> Admin | None:
    """Return the administrator whose key has the thumbprint ``kid``."""
    asked = kid.encode("utf-8", "surrogatepass")
    return next((one for one in admins if hmac.compare_digest(one.key.thumbprint().encode(), asked)), None)


def _admin(value: Mapping[str, Any]) -> Admin:
    fields = Fields(value, _WHAT)
    channels = fields.raw("channels")
    if not isinstance(channels, list) or not all(isinstance(one, str) for one in channels):
        raise fields.bad("channels", want="a list of names", got=type(channels).__name__)
    return Admin.parse(fields.text("name"), tuple(channels), fields.raw("jwk"))


def _write(path: Path, admins: tuple[Admin, ...]) -> None:
    ordered = sorted(admins, key=lambda one: one.name)
    write_secret(path, rfc8785.dumps({"schema": SCHEMA, "admins": [one.document() for one in ordered]}))

"""The key that signs the broker log's checkpoints, and the line that others verify them with.

Source: C2SP signed-note, "Verifier keys": ``<name>+<key ID>+<base64 of type and key>``.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from tallystick.broker.secretfiles import read_secret, write_secret
from tallystick.core.errors import Malformed, Unsupported
from tallystick.core.files import write_file
from tallystick.formats import canonical_base64
from tallystick.tlog.checkpoint import Checkpoint, Kind, NoteKey, SignedNote, sign
from tallystick.tlog.mark import Head

_MAX_KEY_BYTES = 64 << 10
_NAME_DIGITS = 16


class LogKey:
    """Signs checkpoints under a name that no two brokers share."""

    __slots__ = ("_key", "note_key")

    def __init__(self, key: ed25519.Ed25519PrivateKey) -> None:
        self._key = key
        raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        name = f"tallystick-broker/{raw.hex()[:_NAME_DIGITS]}"
        self.note_key = NoteKey(name=name, kind=Kind.ED25519, public=key.public_key())

    def checkpoint(self, head: Head) -> str:
        """Return the signed checkpoint of the log at ``head``."""
        text = Checkpoint(origin=self.note_key.name, size=head.size, root=head.root).text
        return str(SignedNote(text=text, signatures=(sign(text, self.note_key.name, self._key),)))

    def verifier_line(self) -> str:
        """Return the public half as others configure it."""
        raw = self._key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        value = canonical_base64.encode(bytes([Kind.ED25519.value]) + raw)
        return f"{self.note_key.name}+{self.note_key.hint.hex()}+{value}"


def create(path: Path) -> LogKey:
    """Make the key in a 0600 file at ``path``, and its public line beside it in a file ending in ``.pub``."""
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_secret(path, pem)
    made = LogKey(key)
    write_file(path.with_suffix(".pub"), f"{made.verifier_line()}\n".encode())
    return made


def load(path: Path) -> LogKey:
    """Return the key in the file at ``path``.

    Raises:
        Misuse: there is none.
        NotGenuine: others can read it.
        Malformed, Unsupported: not a PEM key, or not Ed25519.
    """
    try:
        key = serialization.load_pem_private_key(read_secret(path, "log key", max_bytes=_MAX_KEY_BYTES), None)
    except (ValueError, TypeError):
        raise Malformed("log key", at=str(path), want="a PEM private key", got="other bytes") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise Unsupported("log key", at=str(path), want="Ed25519", got=type(key).__name__)
    return LogKey(key)

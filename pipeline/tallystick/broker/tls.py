"""The operator's certificate. Keys travel wrapped to the attested machine either way; TLS hides who asks for what."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from tallystick.broker.secretfiles import read_secret
from tallystick.core.errors import Misuse

_MAX_KEY_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """A PEM chain, the server's own certificate first, and its private key without a passphrase."""

    chain: Path
    key: Path


def context(files: TlsFiles) -> ssl.SSLContext:
    """Return a context for TLS 1.2 and 1.3 with these files.

    Raises:
        Misuse: no such file, or a chain and a key that are none or do not belong together (``tls.certificate``).
        NotGenuine: others may read the key's file (``file.not-private``).
    """
    if not files.chain.is_file():
        raise Misuse(f"TLS certificate: there is no file {files.chain}", code="file.missing")
    read_secret(files.key, "TLS key", max_bytes=_MAX_KEY_BYTES)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        made.load_cert_chain(files.chain, files.key, password=_no_passphrase)
    except (ssl.SSLError, OSError, ValueError):
        message = f"{files.chain} and {files.key} are no PEM chain and its private key without a passphrase"
        raise Misuse(message, code="tls.certificate") from None
    return made


def _no_passphrase() -> str:
    """Answer for an encrypted key: the library would ask on the terminal."""
    raise ValueError("the key is encrypted")

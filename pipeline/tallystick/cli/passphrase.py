"""Where the passphrase of encrypted keys comes from: a file descriptor, an environment variable, or the terminal.

Never an argument: those can be read by everybody on the machine. ``tally --passphrase-fd N …`` and
``tally --passphrase-env NAME …`` say where it is; else ``TALLY_PASSPHRASE_FD`` may, and else a key that turns out
to be encrypted is asked for at the terminal. The PIN of a hardware key comes the same way.
"""

from __future__ import annotations

import os
import sys
from functools import cache, lru_cache

from tallystick.core.errors import Misuse

_MAX_BYTES = 4096
_FD_VARIABLE = "TALLY_PASSPHRASE_FD"
_source: dict[str, str | int] = {}


def choose(descriptor: int | None, variable: str | None) -> None:
    """Keep what the command line said about where the passphrase is."""
    _source.clear()
    given.cache_clear()
    secret.cache_clear()
    if descriptor is not None and variable is not None:
        raise Misuse("name one place: --passphrase-fd or --passphrase-env", code="passphrase.where")
    if descriptor is not None:
        _source["fd"] = descriptor
    elif variable is not None:
        _source["env"] = variable
    elif os.environ.get(_FD_VARIABLE, "").isdigit():
        _source["fd"] = int(os.environ[_FD_VARIABLE])


@lru_cache(maxsize=1)
def given() -> bytes | None:
    """Return the passphrase, read once; None when nobody said where it is.

    Raises:
        Misuse: it is not where it was said to be (``passphrase.missing``).
    """
    if "fd" in _source:
        return _of_descriptor(int(_source["fd"]))
    if "env" in _source:
        value = os.environ.pop(str(_source["env"]), "")  # not for the programs that are started from here
        if not value:
            raise Misuse(f"there is no passphrase in ${_source['env']}", code="passphrase.missing")
        return value.encode()
    return None


@cache
def secret(what: str) -> bytes | None:
    """Return the passphrase or PIN of the key ``what``: as given, else as somebody types it, each once."""
    return given() or asked(what)


def asked(what: str) -> bytes | None:
    """Return the passphrase that somebody types for ``what``; None when there is nobody to ask."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    import getpass

    return getpass.getpass(f"passphrase of {what}: ", stream=sys.stderr).encode() or None


def _of_descriptor(descriptor: int) -> bytes:
    try:
        data = os.read(descriptor, _MAX_BYTES)
    except OSError as error:
        raise Misuse(f"file descriptor {descriptor}: {error.strerror}", code="passphrase.missing") from None
    line = data.split(b"\n", 1)[0].rstrip(b"\r")
    if not line:
        raise Misuse(f"file descriptor {descriptor} holds no passphrase", code="passphrase.missing")
    return line

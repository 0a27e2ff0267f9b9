"""Nix store paths, computed from what they stand for. No Nix is needed.

Source: Nix 2.8.0, src/libstore/store-api.cc (makeStorePath, makeTextPath, makeFixedOutputPath,
makeOutputPath) and src/libutil/hash.cc (printHash32, compressHash). The rules are the same up to 2.34.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from tallystick.core.errors import Malformed, Unsupported

STORE_DIR = "/nix/store"
_BASE32 = "0123456789abcdfghijklmnpqrsvwxyz"  # no e, o, t, u
_HASH_BYTES = 20  # store paths keep 160 bits of a folded SHA-256
_PATH = re.compile(r"/nix/store/([0-9abcdfghijklmnpqrsvwxyz]{32})-([0-9A-Za-z+\-._?=]{1,211})")

# How many bytes a fixed output's hash has. Nix takes md5 and sha1 too, for old sources.
HASH_BYTES = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64}


def base32(data: bytes) -> str:
    """Return ``data`` in Nix's base 32: least significant bits last, an alphabet of its own."""
    number = int.from_bytes(data, "little")
    digits = (len(data) * 8 + 4) // 5
    return "".join(_BASE32[number >> (5 * place) & 31] for place in range(digits - 1, -1, -1))


def split(path: str, what: str) -> tuple[str, str]:
    """Return the hash part and the name part of a store path.

    Raises:
        Malformed: not a path directly under ``/nix/store``.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise Malformed(what, at="store path", want="/nix/store/<32 characters>-<name>", got=path)
    return match[1], match[2]


def name_of(path: str) -> str:
    """Return the name part of the store path ``path``: what follows the hash."""
    return split(path, "store path")[1]


def store_path(kind: str, sha256_hex: str, name: str) -> str:
    """Return the store path of an object of ``kind`` whose contents hash to ``sha256_hex``."""
    full = hashlib.sha256(f"{kind}:sha256:{sha256_hex}:{STORE_DIR}:{name}".encode()).digest()
    folded = bytearray(_HASH_BYTES)
    for place, byte in enumerate(full):
        folded[place % _HASH_BYTES] ^= byte
    return f"{STORE_DIR}/{base32(bytes(folded))}-{name}"


def text_path(name: str, text: bytes, references: Iterable[str]) -> str:
    """Return the path of a text object, as every ``.drv`` is one; ``references`` are part of its hash."""
    kind = ":".join(["text", *sorted(references)])
    return store_path(kind, hashlib.sha256(text).hexdigest(), name)


def output_path(output: str, sha256_hex: str, name: str) -> str:
    """Return the path of an input-addressed output of a derivation called ``name``."""
    return store_path(f"output:{output}", sha256_hex, name if output == "out" else f"{name}-{output}")


def source_path(nar_sha256_hex: str, name: str) -> str:
    """Return the path of a source tree without references, from the SHA-256 of its NAR."""
    return store_path("source", nar_sha256_hex, name)


def fixed_path(algorithm: str, hash_hex: str, name: str) -> str:
    """Return the path of a fixed output.

    Args:
        algorithm: as the derivation has it: ``sha256`` (of the file) or ``r:sha256`` (of the NAR).

    Raises:
        Unsupported: a way of addressing content that Nix added later (``text:``, ``git:``).
    """
    if algorithm.removeprefix("r:") not in HASH_BYTES:
        raise Unsupported("fixed output", at="hashAlgo", want="[r:]" + " or ".join(HASH_BYTES), got=algorithm)
    if algorithm == "r:sha256":
        return source_path(hash_hex, name)
    inner = hashlib.sha256(f"fixed:out:{algorithm}:{hash_hex}:".encode()).hexdigest()
    return output_path("out", inner, name)

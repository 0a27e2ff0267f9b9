"""Digests whose algorithm travels with them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import Enum
from typing import BinaryIO

from tallystick.core.errors import Malformed, Unsupported

_BLOCK_BYTES = 1 << 20


class Algorithm(Enum):
    """A hash we accept. Adding one is a decision record, not a patch."""

    SHA256 = ("sha256", 32)  # FIPS 180-4; Nix outputs, in-toto subjects, TPM PCR bank
    SHA384 = ("sha384", 48)  # FIPS 180-4; SNP MEASUREMENT, TDX MRTD and RTMR, Nitro PCR
    SHA512 = ("sha512", 64)  # FIPS 180-4; BSI TR-03183-2 component hashes

    def __init__(self, label: str, size_bytes: int) -> None:
        self.label = label
        self.size_bytes = size_bytes

    @classmethod
    def named(cls, label: str) -> Algorithm:
        """Return the algorithm called ``label``.

        Raises:
            Unsupported: no such algorithm is accepted here.
        """
        for algorithm in cls:
            if algorithm.label == label:
                return algorithm
        raise Unsupported(
            "digest", at="algorithm", want="one of " + ", ".join(a.label for a in cls), got=label
        )


@dataclass(frozen=True, slots=True)
class Digest:
    """A hash value and the algorithm that made it; prints as ``sha256:<hex>``."""

    algorithm: Algorithm
    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) != self.algorithm.size_bytes:
            raise ValueError(
                f"{self.algorithm.label} has {self.algorithm.size_bytes} bytes, not {len(self.value)}"
            )

    @classmethod
    def of(cls, data: bytes, algorithm: Algorithm = Algorithm.SHA256) -> Digest:
        """Return the digest of ``data``."""
        return cls(algorithm, hashlib.new(algorithm.label, data).digest())

    @classmethod
    def of_stream(cls, stream: BinaryIO, algorithm: Algorithm = Algorithm.SHA256) -> Digest:
        """Return the digest of everything left in ``stream``, in constant memory."""
        hasher = hashlib.new(algorithm.label)
        block = bytearray(_BLOCK_BYTES)
        view = memoryview(block)
        while size := stream.readinto(block):  # type: ignore[attr-defined]
            hasher.update(view[:size])
        return cls(algorithm, hasher.digest())

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Return the digest that ``text`` (``<algorithm>:<lower-case hex>``) names.

        Raises:
            Malformed: not that form, or the wrong length.
            Unsupported: an algorithm that is not accepted here.
        """
        match = re.fullmatch(r"([a-z0-9]+):([0-9a-f]*)", text)
        if match is None:
            raise Malformed("digest", at="text", want="<algorithm>:<lower-case hex>", got=text)
        algorithm = Algorithm.named(match[1])
        if len(match[2]) != 2 * algorithm.size_bytes:
            raise Malformed(
                "digest",
                at=algorithm.label,
                want=f"{2 * algorithm.size_bytes} hex digits",
                got=f"{len(match[2])}",
            )
        return cls(algorithm, bytes.fromhex(match[2]))

    @property
    def hex(self) -> str:
        """The value alone, in lower-case hex."""
        return self.value.hex()

    def __str__(self) -> str:
        return f"{self.algorithm.label}:{self.value.hex()}"

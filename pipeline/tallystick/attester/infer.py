"""A small character model that answers a prompt: counts of what followed what, and nothing but Python.

The model is an interpolated n-gram with Witten-Bell smoothing: the chance of a letter after a context is mixed
from what followed that context, the context one letter shorter, and so on down to the letter alone. ``weights``
is a safetensors file, ``tokenizer`` a tokenizer.json with one letter a token.

Source: safetensors format (huggingface/safetensors, README, "Format"); Witten and Bell, "The zero-frequency
problem", IEEE Trans. Information Theory 37(4), 1991.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Unsupported
from tallystick.handshake.fields import Fields, kind

MAX_TOKENS = 256  # a token is one byte in the tensors
MAX_ORDER = 16
_MAX_HEADER_BYTES = 1 << 20
_ITEM_BYTES = {"U8": 1, "I32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that is ready to answer."""

    vocabulary: tuple[str, ...]
    # of each order, from the longest context to the empty one: context -> what followed, and how often
    tables: tuple[Mapping[bytes, tuple[tuple[int, int], ...]], ...]

    def answer(self, prompt: str, *, letters: int, seed: int = 1) -> str:
        """Return ``letters`` letters that continue ``prompt``; the same every time for one seed.

        Letters that the model never saw are left out of the prompt.
        """
        tokens = bytes(self.vocabulary.index(c) for c in prompt.lower() if c in self.vocabulary)
        state, said = seed, bytearray(tokens)
        for _ in range(letters):
            state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)  # Knuth's MMIX generator
            said.append(_pick(self.chances(bytes(said)), (state >> 11) / (1 << 53)))
        return "".join(self.vocabulary[token] for token in said[len(tokens) :])

    def chances(self, context: bytes) -> list[float]:
        """Return the chance of every token after ``context``; they add up to one."""
        chances = [1 / len(self.vocabulary)] * len(self.vocabulary)
        orders = len(self.tables)
        for length in range(min(orders - 1, len(context)) + 1):
            followed = self.tables[orders - 1 - length].get(context[len(context) - length :])
            if followed is None:
                break
            seen, kinds = sum(count for _, count in followed), len(followed)
            chances = [chance * kinds / (seen + kinds) for chance in chances]
            for token, count in followed:
                chances[token] += count / (seen + kinds)
        return chances


def _pick(chances: list[float], point: float) -> int:
    """Return the token at ``point`` of the chances, after squaring them: likely letters become likelier."""
    squares = [chance * chance for chance in chances]
    left = point * sum(squares)
    for token, square in enumerate(squares):
        left -= square
        if left < 0:
            return token
    return max(range(len(squares)), key=squares.__getitem__)


def load(weights: bytes, tokenizer: bytes) -> Model:
    """Return the model in a safetensors file and a tokenizer.json.

    Raises:
        Malformed: either is not what it should be, or they do not belong together.
        Unsupported: another kind of tokenizer.
    """
    vocabulary = _vocabulary(tokenizer)
    tensors = read_safetensors(weights)
    orders = sum(1 for name in tensors if name.startswith("context."))
    if not 1 <= orders <= MAX_ORDER or len(tensors) != 3 * orders:
        got = f"{len(tensors)} tensors, {orders} orders"
        raise Malformed("weights", at="tensors", want="three for each order", got=got)
    tables = tuple(_table(tensors, order, len(vocabulary)) for order in reversed(range(orders)))
    return Model(vocabulary=vocabulary, tables=tables)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor of a safetensors file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def read_safetensors(data: bytes) -> dict[str, Tensor]:
    """Return the tensors in ``data``. They must fill the file without gap or overlap, in the header's order.

    Raises:
        Malformed: not a safetensors file.
        Unsupported: a number format that this model does not use.
    """
    what = "weights"
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(len(data) - 8, _MAX_HEADER_BYTES):
        raise Malformed(what, at="header size", want=f"at most {len(data)} bytes", got=str(size))
    header = jsondoc.loads(data[8 : 8 + size], what, max_bytes=_MAX_HEADER_BYTES)
    if not isinstance(header, dict):
        raise Malformed(what, at="header", want="a JSON object", got=kind(header))
    body, at, found = data[8 + size :], 0, {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        tensor, end = _tensor(body, Fields(entry, f"{what}: {name}"), at)
        found[name], at = tensor, end
    if at != len(body):
        raise Malformed(what, at="data", want=f"{at} bytes", got=f"{len(body)}")
    return found


def _tensor(body: bytes, fields: Fields, at: int) -> tuple[Tensor, int]:
    dtype = fields.text("dtype")
    if dtype not in _ITEM_BYTES:
        raise Unsupported("weights", at="dtype", want=" or ".join(_ITEM_BYTES), got=dtype)
    shape, offsets = _numbers(fields, "shape"), _numbers(fields, "data_offsets")
    size = _ITEM_BYTES[dtype]
    for length in shape:
        size *= length
    if offsets != (at, at + size) or at + size > len(body):
        raise fields.bad("data_offsets", want=f"{at} to {at + size}", got=str(offsets))
    return Tensor(dtype=dtype, shape=shape, data=body[at : at + size]), at + size


def _numbers(fields: Fields, name: str) -> tuple[int, ...]:
    value = fields.raw(name)
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n < 1 << 40 for n in value):
        raise fields.bad(name, want="an array of sizes", got=kind(value))
    return tuple(value)


def _table(
    tensors: Mapping[str, Tensor], order: int, tokens: int
) -> dict[bytes, tuple[tuple[int, int], ...]]:
    """Return what followed each context of ``order`` letters."""
    names = (f"context.{order}", f"token.{order}", f"count.{order}")
    wanted = (("U8", 2), ("U8", 1), ("I32", 1))
    parts = [tensors.get(name) for name in names]
    rows = parts[1].shape[0] if parts[1] is not None and parts[1].shape else 0
    for name, part, (dtype, dimensions) in zip(names, parts, wanted, strict=True):
        shape = (rows, order)[:dimensions]
        if part is None or part.dtype != dtype or part.shape != shape:
            raise Malformed("weights", at=name, want=f"{dtype} of {shape}", got="something else")
    contexts, following, counts = (part.data for part in parts if part is not None)
    if max(contexts + following, default=0) >= tokens:
        raise Malformed("weights", at=names[0], want=f"tokens below {tokens}", got="a token out of range")
    table: dict[bytes, list[tuple[int, int]]] = {}
    for row, (token, count) in enumerate(zip(following, struct.iter_unpack("<i", counts), strict=True)):
        if count[0] < 1:
            raise Malformed("weights", at=names[2], want="counts of one or more", got=str(count[0]))
        table.setdefault(contexts[row * order : (row + 1) * order], []).append((token, count[0]))
    return {context: tuple(followed) for context, followed in table.items()}


def _vocabulary(tokenizer: bytes) -> tuple[str, ...]:
    what = "tokenizer"
    document: Any = jsondoc.loads(tokenizer, what, max_bytes=_MAX_HEADER_BYTES)
    model = Fields(document, what).child("model")
    if model.text("type") != "WordLevel":
        raise Unsupported(what, at="model.type", want="WordLevel", got=model.text("type"))
    vocabulary = model.raw("vocab")
    if not isinstance(vocabulary, dict) or not 1 <= len(vocabulary) <= MAX_TOKENS:
        raise Malformed(what, at="model.vocab", want=f"1 to {MAX_TOKENS} tokens", got=kind(vocabulary))
    numbered = {number: letter for letter, number in vocabulary.items() if type(number) is int}
    if sorted(numbered) != list(range(len(vocabulary))) or any(len(c) != 1 for c in vocabulary):
        raise Malformed(what, at="model.vocab", want="single letters, numbered from 0", got="others")
    return tuple(numbered[number] for number in range(len(vocabulary)))

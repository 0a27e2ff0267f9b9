"""The demo's model: trained here, in a moment, on a short text that ships with the package."""

from __future__ import annotations

import json
import struct
from collections import Counter
from importlib import resources
from pathlib import Path

from tallystick.core import jsondoc
from tallystick.core.files import write_file

WEIGHTS = "weights.safetensors"
TOKENIZER = "tokenizer.json"
LONGEST_CONTEXT = 6  # letters: more would recite the text, fewer would not make words

_SAFETENSORS_ALIGNMENT = 8  # huggingface/safetensors, README: the header is padded with spaces


def corpus() -> str:
    """Return the text that the demo's model learns."""
    return resources.files(__package__).joinpath("corpus.txt").read_text("utf-8")


def train(text: str, *, longest_context: int = LONGEST_CONTEXT) -> tuple[bytes, bytes]:
    """Return the weights (safetensors) and the tokenizer (tokenizer.json) of a model of ``text``.

    Nothing is drawn at random: the same text gives the same bytes.
    """
    letters = " ".join(text.lower().split())
    vocabulary = {letter: number for number, letter in enumerate(sorted(set(letters)))}
    tokens = bytes(vocabulary[letter] for letter in letters)
    tensors: dict[str, tuple[str, list[int], bytes]] = {}
    for order in range(longest_context + 1):
        counted = Counter(tokens[at - order : at + 1] for at in range(order, len(tokens)))
        rows = sorted(counted.items())
        contexts = b"".join(row[:-1] for row, _ in rows)
        following = bytes(row[-1] for row, _ in rows)
        counts = struct.pack(f"<{len(rows)}i", *(count for _, count in rows))
        tensors[f"context.{order}"] = ("U8", [len(rows), order], contexts)
        tensors[f"token.{order}"] = ("U8", [len(rows)], following)
        tensors[f"count.{order}"] = ("I32", [len(rows)], counts)
    return _safetensors(tensors), _tokenizer(vocabulary)


def write(folder: Path) -> tuple[Path, Path]:
    """Train the demo's model and write it into ``folder``; return the two files, weights first."""
    weights, tokenizer = train(corpus())
    write_file(folder / WEIGHTS, weights)
    write_file(folder / TOKENIZER, tokenizer)
    return folder / WEIGHTS, folder / TOKENIZER


def _safetensors(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """Return a safetensors file. Source: huggingface/safetensors, README, "Format"."""
    header: dict[str, object] = {}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % _SAFETENSORS_ALIGNMENT)
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values())


def _tokenizer(vocabulary: dict[str, int]) -> bytes:
    """Return a tokenizer.json: every letter a token. Source: huggingface/tokenizers, WordLevel, Split."""
    split = {"type": "Split", "pattern": {"Regex": "(?s)."}, "behavior": "Isolated", "invert": False}
    return jsondoc.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": split,
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": " "},
        }
    )

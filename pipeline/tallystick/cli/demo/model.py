"""The demo's model: trained here, in a moment, on a short text that ships with the package; and sealed."""

from __future__ import annotations

import json
import os
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from tallystick.core import jsondoc
from tallystick.core.digests import Digest
from tallystick.core.files import write_file
from tallystick.handshake import artifact, initdata

WEIGHTS = "weights.safetensors"
TOKENIZER = "tokenizer.json"
LONGEST_CONTEXT = 6  # letters: more would recite the text, fewer would not make words

_CHUNK_BYTES = 16 << 10  # so that even this model has several
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What a guest is handed: init-data, which is measured, and the encrypted files that it names."""

    init_data: bytes
    files: Mapping[str, bytes]


def seal(parts: Mapping[str, bytes], keys: Mapping[str, tuple[str, bytes]], *, broker_url: str) -> Deployment:
    """Encrypt each part under its own key and name it in init-data.

    Args:
        parts: plaintexts by name: ``weights`` and ``tokenizer``.
        keys: of each part its KBS resource path and its 32 bytes, the ones that the broker keeps.
        broker_url: where the guest finds the broker; measured with the rest.
    """
    files: dict[str, bytes] = {}
    artifacts = []
    for name, plaintext in parts.items():
        path, key = keys[name]
        file = f"{name}.tsenc"
        salt = os.urandom(artifact.SALT_BYTES)
        files[file] = artifact.encrypt(plaintext, key, salt=salt, chunk_bytes=_CHUNK_BYTES)
        artifacts.append(
            initdata.Artifact(
                name=name,
                file=file,
                ciphertext=Digest.of(files[file]),
                plaintext=Digest.of(plaintext),
                key=path,
            )
        )
    agent = initdata.agent_text(broker_url)
    manifest = initdata.artifacts_text(tuple(artifacts))
    init_data = initdata.make({initdata.ARTIFACTS: manifest, initdata.AGENT: agent})
    return Deployment(init_data=init_data, files=files)


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

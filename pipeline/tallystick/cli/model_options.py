"""How the OMS manifest of a model is made, as options say it: shared by ``tally measure model`` and ``tally model``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from tallystick.formats.oms import Serialization

Method = Annotated[str, typer.Option(help="OMS serialisation: files or shards.")]
HashName = Annotated[str, typer.Option("--hash", help="OMS hash: sha256, blake2b or blake3.")]
ShardSize = Annotated[int, typer.Option(help="Bytes of a shard. Default: 1,000,000,000.")]
Ignore = Annotated[list[str] | None, typer.Option(help="Path that is left out; repeatable.")]


def serialization(method: str, hash_type: str, shard_size: int, ignore: list[str]) -> Serialization:
    """Return how the manifest is made.

    Raises:
        Misuse: a method that OMS does not have, or a shard size without shards.
        Unsupported, Malformed: another hash, or a path that can not be ignored.
    """
    from tallystick.formats import oms

    if method not in [one.value for one in oms.Method]:
        raise Misuse(f"--method: want files or shards, got {method[:40]}")
    if shard_size < 0 or (shard_size and method != "shards"):
        raise Misuse("--shard-size: a positive number, with --method shards")
    return oms.Serialization(
        method=oms.Method(method),
        hash_type=oms.HashType.named(hash_type, "--hash"),
        shard_bytes=(shard_size or oms.DEFAULT_SHARD_BYTES) if method == "shards" else 0,
        ignore_paths=oms.check_ignored(ignore),
    )


def without(made: Serialization, path: Path, own: Path | None) -> Serialization:
    """Leave the signature's own file out, where it lies inside the model (spec 6.2)."""
    from dataclasses import replace

    if own is None or not path.is_dir() or not own.resolve().is_relative_to(path.resolve()):
        return made
    inside = own.resolve().relative_to(path.resolve()).as_posix()
    return replace(made, ignore_paths=tuple(sorted({*made.ignore_paths, inside})))

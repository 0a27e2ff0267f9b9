"""The model owner's part: train, encrypt each artifact under a key of its own, and give the keys to the broker."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tallystick.build import recipe as recipes
from tallystick.cli.demo import model
from tallystick.cli.demo.machine import GUEST_BROKER_URL
from tallystick.core.digests import Digest
from tallystick.core.files import write_file
from tallystick.handshake.manifest import Images
from tallystick.release import artifact_seal
from tallystick.release.artifact_seal import Part, Plan

KEYS = {"weights": "confidential-inference/weights/v1", "tokenizer": "confidential-inference/tokenizer/v1"}
PROMPT = "the key"
_KEY_BYTES = 32
_CHUNK_BYTES = 64 << 10  # so that even this model has several


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """Encrypted artifacts, the init-data that names them, and where the keys lie until the broker has them."""

    init_data: Path
    files: Mapping[str, bytes]  # what goes on the machine's disk
    keys: Mapping[str, Path]  # KBS resource path -> file with the key, 0600


def seal(folder: Path, recipe: Path, policy: Path) -> Sealed:
    """Train the model into ``folder`` and encrypt it for the image of ``recipe`` and the keys of ``policy``."""
    weights, tokenizer = model.write(folder)
    image = recipes.parse(recipe.read_bytes())
    keys = {path: secrets.token_bytes(_KEY_BYTES) for path in KEYS.values()}
    plan = Plan(
        name="tally-stick-letters",
        version="1",
        policy=Digest.of(policy.read_bytes()),
        images=(Images(name=image.name, versions=(image.version,)),),
        chunk_bytes=_CHUNK_BYTES,
    )
    parts = [
        Part(name=name, kind=name, path=path, key=KEYS[name])
        for name, path in (("weights", weights), ("tokenizer", tokenizer))
    ]
    release = folder / "release"
    manifest = artifact_seal.seal(release, plan, parts, keys)
    init_data = folder / "init-data.toml"
    write_file(init_data, artifact_seal.init_data((manifest,), GUEST_BROKER_URL))
    places = {path: folder / f"{name}.key" for name, path in KEYS.items()}
    for path, key in keys.items():
        write_file(places[path], key, mode=0o600)
    files = {path.name: path.read_bytes() for path in sorted((release / artifact_seal.FILES).iterdir())}
    return Sealed(init_data=init_data, files=files, keys=places)

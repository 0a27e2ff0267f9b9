"""The model owner's part: train, encrypt each artifact under a key of its own, and give the keys to the broker."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tallystick.cli.demo import model
from tallystick.cli.demo.machine import GUEST_BROKER_URL
from tallystick.core.digests import Digest
from tallystick.core.files import write_file
from tallystick.handshake import artifact, initdata
from tallystick.handshake.initdata import Artifact

KEYS = {"weights": "confidential-inference/weights/v1", "tokenizer": "confidential-inference/tokenizer/v1"}
PROMPT = "the key"
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """Encrypted artifacts, the init-data that names them, and where the keys lie until the broker has them."""

    init_data: Path
    files: Mapping[str, bytes]  # what goes on the machine's disk
    keys: Mapping[str, Path]  # KBS resource path -> file with the key, 0600


def seal(folder: Path) -> Sealed:
    """Train the model into ``folder`` and encrypt it."""
    weights, tokenizer = model.write(folder)
    files: dict[str, bytes] = {}
    keys: dict[str, Path] = {}
    listed: list[Artifact] = []
    for name, path in (("weights", weights), ("tokenizer", tokenizer)):
        plaintext, key = path.read_bytes(), secrets.token_bytes(_KEY_BYTES)
        sealed = artifact.encrypt(plaintext, key, salt=secrets.token_bytes(artifact.SALT_BYTES))
        files[f"{name}.tsenc"] = sealed
        keys[KEYS[name]] = folder / f"{name}.key"
        write_file(keys[KEYS[name]], key, mode=0o600)
        listed.append(
            Artifact(
                name=name,
                file=f"{name}.tsenc",
                ciphertext=Digest.of(sealed),
                plaintext=Digest.of(plaintext),
                key=KEYS[name],
            )
        )
    data = {
        initdata.ARTIFACTS: initdata.artifacts_text(tuple(listed)),
        initdata.AGENT: initdata.agent_text(GUEST_BROKER_URL),
    }
    write_file(folder / "init-data.toml", initdata.make(data))
    return Sealed(init_data=folder / "init-data.toml", files=files, keys=keys)

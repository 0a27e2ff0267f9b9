"""Artifact releases made at test time."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tallystick.core.digests import Digest
from tallystick.handshake.manifest import Images, Manifest
from tallystick.release import artifact_seal
from tallystick.release.artifact_seal import Part, Plan

POLICY = Digest.of(b"the policy")
IMAGES = (Images(name="confidential-inference", versions=("0.1.0",)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What a guest is handed: init-data, which is measured, and the files that it names."""

    init_data: bytes
    files: Mapping[str, bytes]
    manifest: Manifest


def plan(**changes: object) -> Plan:
    made = {"name": "letters", "version": "1", "policy": POLICY, "images": IMAGES}
    return Plan(**(made | changes))


def seal(
    parts: Mapping[str, bytes],
    keys: Mapping[str, tuple[str, bytes]],
    *,
    broker_url: str,
    chunk_bytes: int = 16 << 10,
) -> Deployment:
    """Encrypt each part; ``keys`` has its KBS resource path and the broker's key."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        listed = []
        for name, data in parts.items():
            (folder / name).write_bytes(data)
            listed.append(Part(name=name, kind="other", path=folder / name, key=keys[name][0]))
        made = plan(chunk_bytes=chunk_bytes)
        manifest = artifact_seal.seal(folder / "release", made, listed, dict(keys.values()))
        files = {path.name: path.read_bytes() for path in (folder / "release/files").iterdir()}
        init_data = artifact_seal.init_data((manifest,), broker_url)
        return Deployment(init_data=init_data, files=files, manifest=manifest)

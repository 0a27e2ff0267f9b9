"""Hand-made releases, people and layouts for tests: every key and every byte is new each time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tallystick.core.digests import Digest
from tallystick.release import index, keys, layout, links
from tallystick.release.keys import Signatory
from tallystick.release.layout import Layout
from tallystick.release.records import Functionary, Index

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
YEAR = timedelta(days=365)
CI = "https://tallystick.local/builders/ci"


def signatory(name: str = "somebody") -> Signatory:
    """A key that lives in memory only."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import CryptoSigner

    private = Ed25519PrivateKey.generate()
    raw = private.public_key().public_bytes_raw()
    return Signatory(name=name, keyid=keys.keyid_of(raw), public_key=raw, signer=CryptoSigner(private))


def functionary(who: Signatory, *, builder_id: str = "", organisation: str = "") -> Functionary:
    return Functionary(
        name=who.name,
        builder_id=builder_id or f"https://tallystick.local/builders/{who.name}",
        organisation=organisation or f"{who.name}.example",
        keyid=who.keyid,
        public_key=who.public_key,
    )


def plain_release(folder: Path, *, seed: str = "one") -> Index:
    """Write a release directory of small plain files (no signatures) and return its index."""
    for path in (
        "recipe.yaml",
        "nix/flake.nix",
        "nix/images/uki.nix",
        "seeds/lock.json",
        "products/uki.efi",
        "products/initramfs.cpio.xz",
        "firmware/ovmf.fd",
        "contents/uki.json",
        "derivations/0000-uki.drv",
        "statements/provenance.json",
        "statements/sbom.json",
        "statements/measurements.json",
    ):
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{seed}: {path}\n")
    data = index.make(
        folder,
        name="confidential-inference",
        version="0.1.0",
        products={"uki": "products/uki.efi", "initramfs": "products/initramfs.cpio.xz"},
    )
    (folder / index.FILE).write_bytes(data)
    return index.parse(data)


def owned_layout(
    functionaries: Iterable[Functionary], *, threshold: int = 1, owner: Signatory | None = None
) -> Layout:
    owner = owner or signatory("owner")
    data = layout.make([owner], list(functionaries), threshold=threshold, expires=NOW + YEAR)
    return layout.read(data, [keys.public_pem(owner.public_key)], NOW)


def link_files(
    release: Index, whos: Sequence[Signatory], *, changed: dict[str, Digest] | None = None
) -> dict[str, bytes]:
    """Links by each of ``whos`` over the release, with products ``changed``."""
    true = links.expected(release)
    products = tuple(sorted((dict(true.products) | (changed or {})).items()))
    artifacts = links.Artifacts(materials=true.materials, products=products)
    return {links.file_name(who.keyid): links.make(release.digest, artifacts, who) for who in whos}


def edited(data: bytes, change: Any) -> bytes:
    """The JSON document ``data`` after ``change`` was applied to it."""
    document = json.loads(data)
    change(document)
    return json.dumps(document).encode()

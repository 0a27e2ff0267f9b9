"""Pairs for ``make bench``: a promotion with every gate, a whole release's verification, against fixed times or parts.

``pairs(folder)`` gives (what, ours, peer's name, peer's, limit) for :func:`run.pair`. With a ``make demo`` there, its
release is the one; else a small one of the tests, which says little about a real image.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from release import world as worlds

from tallystick.release import gates, verify
from tallystick.signing import trust as trust_file
from tallystick.signing.records import Trust
from tallystick.signing.verify import Verifier

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo"
_PROMOTION_SECONDS = 3.0
Pair = tuple[str, Callable[[], object], str, Callable[[], object], str]


def pairs(folder: Path) -> list[Pair]:
    name, release, trust = _release(folder)
    now = datetime.now(UTC)
    settings = replace(_settings(trust), platforms=())
    asked = gates.Asked(folder=release, settings=settings, revoked=frozenset(), trust=trust, now=now)

    def promotion() -> None:
        found, _ = gates.run(asked)
        gates.require(found)

    promote: Pair = (
        f"every gate of a promotion, {name}",
        promotion,
        "3 s",
        lambda: time.sleep(_PROMOTION_SECONDS),
        "1.0",
    )
    return [promote, _whole(name, release, trust, now)]


def _release(folder: Path) -> tuple[str, Path, Trust]:
    if (DEMO / "release" / "bundles").is_dir():
        return "the demo's release", DEMO / "release", trust_file.load(DEMO / "trust.json")
    world = worlds.make(folder / "work")
    world.release(folder / "release")
    return "a small release", folder / "release", world.trust


def _settings(trust: Trust) -> gates.Settings:
    return gates.Settings(name="staging", platforms=("qemu-vtpm",), threshold=2)


def _whole(name: str, release: Path, trust: Trust, now: datetime) -> Pair:
    """Verify a release, beside nothing but the signature checks of its bundles."""
    bundles = [path.read_bytes() for path in sorted(release.glob("bundles/*.json"))]
    verifier = Verifier(trust.sigstore_root)
    signers = tuple(builder.identity for builder in trust.builders)

    def signatures() -> None:
        from sigstore.models import Bundle

        from tallystick.formats import sigstore_bundle
        from tallystick.signing import library

        for data in bundles:
            facts = verifier._facts(sigstore_bundle.parse(data), signers, now, "bundle")
            facts.verifier.verify_dsse(Bundle.from_json(data), library.Exactly(facts.certificate))

    return (
        f"{name} verified, {len(bundles)} bundles",
        lambda: verify.verify_release(release, trust, now, verifier),
        "its bundles' signature checks",
        signatures,
        "1.3 (and reading its files)",
    )

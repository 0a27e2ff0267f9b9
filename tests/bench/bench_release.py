"""Pairs for ``make bench``: a promotion with every gate, a release verified in process and by command line.

``pairs(folder)`` gives (what, ours, peer's name, peer's, limit) for :func:`run.pair`. With a ``make demo`` there, its
release is the one; else a small one of the tests, which says little about a real image.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bench_signing import python
from release import world as worlds

from tallystick.release import gates, names, verdict, verify
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
    return [promote, _whole(name, release, trust, now), _twelve(folder / "twelve")]


BARE = """
import sys
from pathlib import Path
from sigstore.models import Bundle, TrustedRoot
from sigstore.verify import Verifier, policy
verifier = Verifier(trusted_root=TrustedRoot.from_file(sys.argv[1]))
for path in sys.argv[2:]:
    verifier.verify_dsse(Bundle.from_json(Path(path).read_bytes()), policy.UnsafeNoOp())
"""


def _twelve(folder: Path) -> Pair:
    """Verify a small release with twelve bundles by command line, beside nothing but start-up and their signatures.

    Four statements, the Source VSA, and the verdicts of seven channels.
    """
    from release.test_source import vouched, with_commit

    world = worlds.make(folder / "work")
    release = folder / "release"
    world.release(release, change=with_commit)
    channels = tuple((f"channel{number}", world.trust.channels[0][1]) for number in range(7))
    trust = replace(world.trust, channels=channels)
    (folder / "trust.json").write_bytes(trust_file.dump(trust))
    (release / "promotions").mkdir()
    (release / names.SOURCE_VSA).write_bytes(vouched(world, "bob"))
    found = verify.verify_release(release, trust, worlds.now())
    for channel, _ in channels:
        settings = gates.Settings(name=channel, platforms=("qemu-vtpm",), threshold=2)
        rules = gates.rules(settings, trust)
        statement = verdict.make(found, channel, world.identity("alice"), rules, worlds.now())
        (release / names.promotion_file(channel)).write_bytes(world.sign_one("alice")(statement))
    bundles = sorted(map(str, release.rglob("*.sigstore.json")))
    root = str(folder / "work/sigstore/trusted_root.json")
    ours = ["-m", "tallystick.cli", "verify", release, "--trust", folder / "trust.json"]
    return (
        f"`tally verify` of a release with {len(bundles)} bundles",
        python(ours),
        "starting sigstore-python, and its bundles' signature checks",
        python(["-c", BARE, root, *bundles]),
        "1.3",
    )


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

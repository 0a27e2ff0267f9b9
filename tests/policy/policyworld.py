"""Made-up releases, forms and claims that the tests of policy, appraisal and compile share."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tallystick.appraisal.records import Challenge
from tallystick.core.digests import Digest
from tallystick.core.expect import Exactly, Waived
from tallystick.evidence.claims import Claims
from tallystick.policy.normal import KeyRule, NormalForm, PermittedRelease, PlatformRule, Tuple

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
END = datetime(2028, 1, 1, tzinfo=UTC)
WAIVED = Waived("docs/decisions/0010-pcr-10.md", "alice@example.org", END)
REPORT_DATA = bytes(range(32))
WEIGHTS = "confidential-inference/weights/v1"
TOKENIZER = "confidential-inference/tokenizer/v1"
ZERO = "0" * 64
EMPTY = ("pcr12", "pcr13", "pcr14", "pcr15")


def digest(text: str) -> Digest:
    return Digest(Digest.of(b"").algorithm, hashlib.sha256(text.encode()).digest())


def registers(image: str, firmware: str = "fw", ram_mib: int = 512) -> dict[str, str]:
    """PCR values as one image on one firmware and shape would have them: what is shared is equal."""
    fixed = {f"pcr{n:02}": digest(f"{firmware} {n}").hex for n in (1, 2, 3, 5, 6, 7)}
    fixed |= {"pcr00": digest(f"{firmware} {ram_mib}").hex, **dict.fromkeys(EMPTY, ZERO)}
    return fixed | {f"pcr{n:02}": digest(f"{image} {n}").hex for n in (4, 8, 9, 11)}


def entry(image: str, **shape: int | str) -> Tuple:
    values = registers(image, ram_mib=int(shape.get("ram_mib", 512)))
    expect = {**{name: Exactly(value) for name, value in values.items()}, "pcr10": WAIVED}
    return Tuple(
        platform="qemu-vtpm",
        evidence_kind="tpm-quote",
        image=digest(f"image {image}"),
        firmware=digest("firmware fw"),
        shape=tuple(sorted({"ram_mib": 512, "vcpus": 1, "vmm": "qemu", **shape}.items())),
        expect=tuple(sorted(expect.items())),
    )


def release(image: str, *, version: str = "0.1.0", days: int = 0, shapes: tuple[int, ...] = (512,)):
    from tallystick.policy.document import tuple_order

    vsa = digest(f"vsa {image}")
    bundles = sorted([vsa, digest(f"bundle {image}")], key=str)
    return PermittedRelease(
        digest=digest(f"release {image}"),
        name="confidential-inference",
        version=version,
        promoted_at=NOW - timedelta(days=10) + timedelta(days=days),
        vsa=vsa,
        bundles=tuple(bundles),
        labels=("embedded-dev",),
        tuples=tuple(sorted((entry(image, ram_mib=ram) for ram in shapes), key=tuple_order)),
    )


def form(*releases: PermittedRelease, **changes: object) -> NormalForm:
    made = NormalForm(
        policy="confidential-inference",
        policy_digest=digest("policy"),
        channel="staging",
        keys=(KeyRule(key=TOKENIZER, artifact="tokenizer"), KeyRule(key=WEIGHTS, artifact="weights")),
        releases=tuple(sorted(releases or (release("a"),), key=lambda r: str(r.digest))),
        platforms=(
            PlatformRule(
                platform="qemu-vtpm", evidence_kind="tpm-quote", roots=("software-tpm",), require=()
            ),
        ),
        max_age_seconds=300,
        reattest_seconds=300,
        waivers=(("pcr10", WAIVED),),
        residuals=(),
        not_after=END,
    )
    return replace(made, **changes)


def claims(image: str = "a", *, ram_mib: int = 512, drop: tuple[str, ...] = (), **values: object) -> Claims:
    """Verified claims of a machine that booted ``image``, with some of them changed or dropped."""
    found: dict[str, object] = {**registers(image, ram_mib=ram_mib), "pcr10": digest("ima").hex, "safe": True}
    found |= {"firmware_version": 8, "reset_count": 1}
    found |= values
    return Claims(
        kind="tpm-quote",
        values={name: value for name, value in found.items() if name not in drop},
        roots=("software-tpm",),
        report_data=REPORT_DATA,
        valid_from=NOW - timedelta(hours=1),
        valid_until=NOW + timedelta(hours=1),
    )


def challenge(age_seconds: float = 5) -> Challenge:
    return Challenge(report_data=REPORT_DATA, issued_at=NOW - timedelta(seconds=age_seconds))


def policy_text(**changes: str) -> str:
    """The demo's policy, with some lines replaced: ``policy_text(**{"until: 2028-01-01": "until: 2020-01-01"})``."""
    text = (ROOT / "policies" / "confidential-inference.yaml").read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new, 1)
    return text

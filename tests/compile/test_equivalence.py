"""The same evidence gets the same answer from every target that can express the policy.

Each group is one platform with what all its targets can say of it. The exhaustive part crosses, for every claim, both
releases' values with absent, null, another type and another value; the generated part changes several claims at once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any

import pytest
from compile.judges import judge
from compile.machines import CHOICES, entry, form, release

from tallystick.compile.domain import Case, cases, released
from tallystick.compile.nearly import nearly
from tallystick.compile.targets.vault_jwt.choice import Tokens, VaultJwt
from tallystick.core.expect import Exactly, Expect
from tallystick.policy.model import Target
from tallystick.policy.normal import NormalForm, PlatformRule
from tallystick.policy.platforms import platform

GENERATED, SOAK = 1_000, 100_000  # SOAK: over all groups together
PARTS = 4  # of each group, so that it can be run a part at a time
_CROSSED = 5  # claims that are crossed exhaustively


@dataclass(frozen=True)
class Group:
    platform: str
    root: str
    asked: tuple[tuple[str, Expect], ...]
    targets: tuple[str, ...]
    tokens: Tokens | None = None

    def form(self) -> NormalForm:
        kind = platform(self.platform).evidence_kind
        rule = PlatformRule(
            platform=self.platform, evidence_kind=kind, roots=(self.root,), require=tuple(sorted(self.asked))
        )
        return form((rule,), tuple(release(image, entry(self.platform, image)) for image in "ab"))

    def choice(self, target: str) -> Target | None:
        vault = CHOICES["vault-jwt"]
        if target != "vault-jwt" or self.tokens is None or not isinstance(vault, VaultJwt):
            return None
        return replace(vault, tokens=self.tokens, audiences=())


OFF = Exactly(value=False)
GROUPS: Mapping[str, Group] = {
    "vtpm": Group(
        "qemu-vtpm", "software-tpm", (), ("broker", "trustee", "keylime", "corim", "vault-jwt"), Tokens.EAR
    ),
    "tdx": Group(
        "intel-tdx",
        "intel",
        (
            ("quote.body.mr_seam", Exactly("5e" * 48)),
            ("tcb_status", Exactly("UpToDate")),
            ("td_attributes.debug", OFF),
        ),
        ("broker", "trustee", "intel-ita", "corim", "vault-jwt", "azure-skr"),
        Tokens.ITA,
    ),
    "snp": Group(
        "amd-sev-snp",
        "amd",
        (("policy_debug_allowed", OFF), ("policy_migrate_ma", OFF), ("vmpl", Exactly(0))),
        ("broker", "trustee", "intel-ita", "contrast", "corim", "azure-skr"),
    ),
    "nitro": Group("aws-nitro", "aws-nitro", (("debug", OFF),), ("broker", "aws-kms")),
    "confidential-space": Group(
        "gcp-confidential-space",
        "google-confidential-space",
        (
            ("dbgstat", Exactly("disabled-since-boot")),
            ("hwmodel", Exactly("GCP_INTEL_TDX")),
            ("swname", Exactly("CONFIDENTIAL_SPACE")),
        ),
        ("broker", "gcp-wif", "vault-jwt"),
        Tokens.GCP,
    ),
}


def answers(group: Group, count: int, seed: str) -> tuple[int, int]:
    """Return how much evidence was tried and how much of it got a key; fails on the first difference."""
    made = group.form()
    judges = {target: judge(target, made, group.choice(target)) for target in group.targets}
    tried = given = 0
    for case in evidence(made, count, seed):
        said = {target: decide(case) for target, decide in judges.items()}
        told = {target: one for target, one in said.items() if one is not None}
        assert len(set(told.values())) == 1, f"{case.what}: {told}: {dict(case.claims)}"
        tried, given = tried + 1, given + any(told.values())
    return tried, given


def evidence(made: NormalForm, count: int, seed: str) -> Iterator[Case]:
    """The proof's own domain in small, an exhaustive cross of some claims, and ``count`` random changes."""
    bases = list(released(made))
    yield from (case for case in cases(made, (), (), 100) if not case.devices)
    chosen = random.Random(seed)
    names = sorted(bases[0].claims)
    for start in range(0, len(names), _CROSSED):
        yield from islice(_crossed(bases, names[start : start + _CROSSED]), 4_096)
    for _ in range(count):
        base = chosen.choice(bases)
        claims = dict(base.claims)
        for name in chosen.sample(names, chosen.randint(0, 3)):
            other = chosen.choice([_GONE, chosen.choice(bases).claims[name], *nearly(claims[name])])
            claims.pop(name) if other is _GONE else claims.update({name: other})
        yield Case(base.kind, "a generated case", claims)


_GONE = object()


def _crossed(bases: list[Case], names: list[str]) -> Iterator[Case]:
    columns: list[list[Any]] = []
    for name in names:
        values = list({repr(base.claims[name]): base.claims[name] for base in bases}.values())
        columns.append([*values, _GONE, None])
    for base in bases:
        for combination in product(*columns):
            changed = dict(zip(names, combination, strict=True))
            claims = {name: value for name, value in {**base.claims, **changed}.items() if value is not _GONE}
            yield Case(base.kind, "a crossed case", claims)


@pytest.mark.slow
@pytest.mark.parametrize("name", GROUPS)
def test_every_target_says_the_same(name):
    tried, given = answers(GROUPS[name], GENERATED, name)
    assert tried > GENERATED
    assert 0 < given < tried


@pytest.mark.soak
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", GROUPS)
def test_every_target_says_the_same_of_very_many(name, part):
    count = SOAK // len(GROUPS) // PARTS
    tried, given = answers(GROUPS[name], count, f"soak {name} {part}")
    assert tried > count
    print(f"\n{name} {part}: {tried} tried, {count} of them generated, {given} got a key: no difference")


def test_a_target_that_says_something_else_is_found():
    made = GROUPS["vtpm"].form()
    loose = replace(made, releases=made.releases[:1])
    judges = [judge("broker", made), judge("keylime", loose)]
    assert any(len({decide(case) for decide in judges}) > 1 for case in evidence(made, 0, "x"))

"""``tally compile`` for AWS, Azure and Google from a promoted release: what is written, and what is refused by name."""

from __future__ import annotations

import json

import pytest
from compile import realworld
from compile.realworld import run
from release import world as worlds

from tallystick.core.digests import Digest
from tallystick.core.errors import Exit
from tallystick.signing import trust as trust_file

CLOUDS = ("aws-nitro", "azure-aci", "gcp-confidential-space")
HEAD, KEY = "platforms:\n", "confidential-inference"
PLATFORMS = {
    "aws-kms": """
  - platform: aws-nitro
    roots: [aws-nitro]
    require: {}
""",
    "azure-skr": """
  - platform: azure-aci
    roots: [amd]
    require:
      reported_tcb_bootloader: {at_least: 4}
      reported_tcb_tee: {at_least: 0}
      reported_tcb_snp: {at_least: 8}
      reported_tcb_microcode: {at_least: 115}
""",
    "gcp-wif": """
  - platform: gcp-confidential-space
    roots: [google-confidential-space]
    require:
      hwmodel: {one_of: [GCP_AMD_SEV, GCP_INTEL_TDX]}
""",
}
IDS = {
    "aws-kms": "arn:aws:kms:eu-central-1:111122223333:key/",
    "azure-skr": "https://acme.vault.azure.net/keys/",
    "gcp-wif": "projects/acme/locations/eu/keyRings/r/cryptoKeys/",
}
OWN = {
    "aws-kms": """
    administrators: ["arn:aws:iam::111122223333:role/KeyAdmin"]
    workloads: ["arn:aws:iam::111122223333:role/Workload"]
""",
    "azure-skr": """
    authority: https://acme.weu.attest.azure.net
    token_minutes: 10
    waivers:
      - requirement: end
        decision: docs/decisions/0107-azure-equals-and-more.md
        decided_by: alice@example.org
        until: 2027-06-01T00:00:00Z
""",
    "gcp-wif": """
    project_number: "42"
    pool: acme
    provider: tally
""",
}
AGES = {"aws-kms": 300, "azure-skr": 600, "gcp-wif": 7200}


@pytest.fixture(scope="session")
def clouds(tmp_path_factory):
    """A work directory with one release in staging that is measured for every cloud."""
    folder = tmp_path_factory.mktemp("clouds")
    world = worlds.make(folder / "work")
    world.release(folder / "release", change=realworld.measured("a", *CLOUDS))
    realworld.promote_release(world, folder / "release")
    trust_file.save(folder / "work/trust.json", world.trust)
    return realworld.Real(folder=folder, world=world)


def wanted(target: str, *changes: tuple[str, str]) -> str:
    """The demo's policy for one cloud."""
    text = realworld.policy()
    start, end = text.index(HEAD), text.index("freshness:")
    keys = "".join(
        f"      - {{key: {KEY}/{name}/v1, id: {IDS[target]}{name}}}\n" for name in ("tokenizer", "weights")
    )
    text = f"{text[:start]}{HEAD}{PLATFORMS[target].lstrip(chr(10))}\n{text[end:]}"
    text = text.replace("max_age_seconds: 300", f"max_age_seconds: {AGES[target]}")
    text = f"{text[: text.index('waivers:')]}waivers: []\ntargets:\n  - target: {target}{OWN[target]}    keys:\n{keys}"
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def compiled(clouds, capsys, tmp_path, text, *more):
    path, out = tmp_path / "policy.yaml", tmp_path / "out"
    path.write_text(text)
    code, found = run(clouds.arguments("compile", str(path), "-o", str(out), *more), capsys)
    return out, code, found


@pytest.mark.parametrize("target", PLATFORMS)
def test_a_promoted_release_compiles_for_a_cloud_and_is_proved_again(clouds, capsys, tmp_path, target):
    out, code, found = compiled(clouds, capsys, tmp_path, wanted(target))
    assert code == Exit.OK, found
    said = found["targets"][target]
    assert (said["released"], said["accepted"], said["max_age_seconds"]) == (1, 1, AGES[target])
    assert said["not_checked"] == (["end"] if target == "azure-skr" else [])
    readme = (out / target / "README.md").read_text()
    assert found["releases"][0] in readme
    assert len(_bundles(readme)) > 3  # index, SBOM, provenance, measurements, and the verdict
    code, again = run(clouds.arguments("prove", str(out), "--policy", str(tmp_path / "policy.yaml")), capsys)
    assert (code, again["targets"][target]["accepted"]) == (Exit.OK, 1)


def _bundles(readme):
    line = next(line for line in readme.split("\n") if "resting on the bundles" in line)
    return [part for part in line.partition("bundles")[2].split("`") if part.startswith("sha256:")]


@pytest.mark.parametrize("target", PLATFORMS)
def test_an_edited_policy_is_not_proved(clouds, capsys, tmp_path, target):
    out, _, _ = compiled(clouds, capsys, tmp_path, wanted(target))
    place = out / target / "README.md"
    place.write_text(place.read_text() + "\n")
    manifest = json.loads((out / "compiled.json").read_text())
    data = place.read_bytes()
    manifest["targets"][target]["files"]["README.md"] = {"sha256": Digest.of(data).hex, "size": len(data)}
    (out / "compiled.json").write_text(json.dumps(manifest))
    code, found = run(clouds.arguments("prove", str(out), "--policy", str(tmp_path / "policy.yaml")), capsys)
    assert (code, found["error"]["code"]) == (Exit.REFUSED, "prove.differs")


STAGING, UNSAID = "channel: staging", (Exit.UNSUPPORTED, "target.inexpressible")
ONE_OF = "hwmodel: {one_of: [GCP_AMD_SEV, GCP_INTEL_TDX]}"


@pytest.mark.parametrize(
    ("target", "old", "new", "answer", "said"),
    [
        # evidence that is older than the policy allows: named, with what to do
        ("gcp-wif", "_seconds: 7200", "_seconds: 600", UNSAID, "max_age_seconds to 7200"),
        ("azure-skr", "_minutes: 10", "_minutes: 480", UNSAID, "Freshness is never waived"),
        ("aws-kms", "_seconds: 300", "_seconds: 299", UNSAID, "max_age_seconds to 300"),
        # no policy for production takes it, and no waiver helps
        ("gcp-wif", STAGING, "channel: production", (Exit.REFUSED, ""), "at most 600 in production"),
        (
            "azure-skr",
            "requirement: end",
            "requirement: freshness",
            (Exit.REFUSED, "policy.waiver.never"),
            "no such",
        ),
        # what the language has no word for
        ("azure-skr", "requirement: end", "requirement: other", UNSAID, "a release policy knows no time"),
        ("aws-kms", "require: {}", "require: {module_id: i-1}", UNSAID, "claim-module_id"),
        ("gcp-wif", ONE_OF, "hwmodel: GCP_INTEL_TDX\n      oemid: 11129", UNSAID, "claim-oemid"),
        # what is no name of a key, a role, or of a key of the policy
        ("gcp-wif", "cryptoKeys/weights", "cryptoKeys/", (Exit.MALFORMED, "malformed"), "full name of a key"),
        ("aws-kms", "role/Workload", "role/*", (Exit.MALFORMED, "malformed"), "ARN of an IAM role or user"),
        (
            "aws-kms",
            "/weights/v1, id",
            "/other/v1, id",
            (Exit.UNSUPPORTED, "target.keys"),
            "its id under keys",
        ),
    ],
)
def test_what_a_cloud_can_not_say_is_refused_by_name(
    clouds, capsys, tmp_path, target, old, new, answer, said
):
    out, code, found = compiled(clouds, capsys, tmp_path, wanted(target, (old, new)))
    assert code == answer[0], found
    assert found["error"]["code"].startswith(answer[1])
    assert said in json.dumps(found)
    assert not out.exists()

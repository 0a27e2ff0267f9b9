"""``tally compile``, ``prove`` and ``policy`` on a channel with real signatures."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import jsonschema_rs
import pytest
from compile.realworld import measured, policy, promote_release, run
from policy.policyworld import ROOT, WEIGHTS, challenge, claims
from release import world as worlds
from sbom import builds

from tallystick.appraisal.appraise import appraise
from tallystick.compile import output
from tallystick.core.errors import Exit
from tallystick.policy import document


def compiled(real, capsys, *more: str, name: str = "out"):
    target = real.folder / name
    code, found = run(real.arguments("compile", str(real.policy), "-o", str(target), *more), capsys)
    return target, code, found


def codes(found) -> list[str]:
    return sorted({finding["code"] for finding in found["error"]["findings"]})


def test_a_promoted_release_compiles_for_every_target_and_is_proved(real, capsys):
    target, code, found = compiled(real, capsys)
    assert (code, found["channel"]) == (Exit.OK, "staging")
    counts = {name: (entry["released"], entry["accepted"]) for name, entry in found["targets"].items()}
    assert counts == {"broker": (1, 1), "trustee": (1, 1)}
    assert found["targets"]["trustee"]["not_checked"] == ["attestation-key-root", "pcr-selection"]
    assert found["targets"]["trustee"]["max_age_seconds"] == 300
    assert (target / "policy.yaml").read_bytes() == real.policy.read_bytes()
    for name, file in (("compilation", "compiled.json"), ("residual", "trustee/residual.json")):
        schema = json.loads((ROOT / f"docs/schemas/{name}.schema.json").read_text())
        jsonschema_rs.validate(schema, json.loads((target / file).read_text()))
    read = output.read(target)
    assert [str(digest) for digest in read.releases] == found["releases"]
    assert sorted(read.of("broker")) == ["policy.json"]


def test_what_the_broker_reads_gives_the_key_to_the_released_machine_alone(real, capsys):
    target, _, found = compiled(real, capsys)
    form = document.read((target / "broker/policy.json").read_bytes())
    now = worlds.now()
    asked = replace(challenge(), issued_at=now)

    def decide(image):
        shown = replace(claims(image), valid_from=now - timedelta(1), valid_until=now + timedelta(1))
        return appraise(shown, form, WEIGHTS, asked, now)

    assert decide("a").allowed
    assert str(decide("a").release) == found["releases"][0]
    assert not decide("b").allowed


def test_two_people_compile_to_equal_bytes(real, capsys):
    one, _, _ = compiled(real, capsys, name="one")
    later = (worlds.now() + timedelta(days=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    two, code, _ = compiled(real, capsys, "--at", later, name="two")
    assert code == Exit.OK

    def held(folder):
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    assert held(one) == held(two)
    assert len(held(one)) == 8


def test_every_bundle_of_the_release_is_in_the_policies(real, capsys):
    target, _, _ = compiled(real, capsys)
    text = (target / "trustee/as_default_cpu.rego").read_text()
    (release,) = json.loads((target / "broker/policy.json").read_bytes())["releases"]
    assert len(release["bundles"]) == 5
    assert all(bundle in text for bundle in (*release["bundles"], release["digest"], release["vsa"]))


def test_one_target_may_be_chosen_and_an_unknown_one_is_misuse(real, capsys):
    target, code, found = compiled(real, capsys, "--target", "broker")
    assert (code, sorted(found["targets"])) == (Exit.OK, ["broker"])
    assert not (target / "trustee").exists()
    assert compiled(real, capsys, "--target", "aws-kms")[1] == Exit.MISUSE


def test_a_compilation_is_proved_again_from_the_channel(real, capsys):
    target, _, _ = compiled(real, capsys)
    code, found = run(real.arguments("prove", str(target), "--policy", str(real.policy)), capsys)
    assert code == Exit.OK
    assert {name: entry["accepted"] for name, entry in found["targets"].items()} == {
        "broker": 1,
        "trustee": 1,
    }


def test_a_file_edited_by_hand_is_no_compilation(real, capsys):
    target, _, _ = compiled(real, capsys)
    for name in ("broker/policy.json", "trustee/resource_policy.rego", "policy.yaml"):
        data = (target / name).read_bytes()
        (target / name).write_bytes(data + b"\n")
        code, found = run(real.arguments("prove", str(target), "--policy", str(real.policy)), capsys)
        assert (code, codes(found)) == (Exit.NOT_GENUINE, ["compilation.file.changed"])
        (target / name).write_bytes(data)
    (target / "broker/more.json").write_text("{}")
    code, found = run(real.arguments("prove", str(target), "--policy", str(real.policy)), capsys)
    assert (code, codes(found)) == (Exit.NOT_GENUINE, ["compilation.file.extra"])


def test_a_forged_manifest_does_not_help(real, capsys):
    """Both the files and their manifest are the attacker's: the proof starts from the channel all the same."""
    target, _, _ = compiled(real, capsys)
    place = target / "broker/policy.json"
    changed = json.loads(place.read_bytes())
    changed["releases"][0]["tuples"][0]["expect"]["pcr04"] = {"exactly": "ab" * 32}
    import rfc8785

    forge(target, "broker/policy.json", rfc8785.dumps(changed))
    code, found = run(real.arguments("prove", str(target), "--policy", str(real.policy)), capsys)
    assert code == Exit.REFUSED
    assert "prove.admits" in codes(found)


def forge(target, path, data):
    from tallystick.core.digests import Digest

    (target / path).write_bytes(data)
    folder, name = path.split("/")
    manifest = json.loads((target / output.MANIFEST).read_bytes())
    manifest["targets"][folder]["files"][name] = {"sha256": Digest.of(data).hex, "size": len(data)}
    (target / output.MANIFEST).write_text(json.dumps(manifest))


def test_a_compilation_of_a_revoked_release_is_not_proved(real, capsys):
    from tallystick.release import revoke

    target, _, _ = compiled(real, capsys)
    digest = worlds_release(real)
    revoke.revoke(real.world.desk(), digest, real.world.signatories["bob"], real.world.online, "a test")
    code, found = run(real.arguments("prove", str(target), "--policy", str(real.policy)), capsys)
    assert code == Exit.REFUSED
    assert "prove.admits" in codes(found)
    _, code, found = compiled(real, capsys, name="after")
    assert (code, codes(found)) == (Exit.REFUSED, ["compile.no-release"])
    target, code, found = compiled(real, capsys, "--permit-nothing", name="after")
    assert (code, found["targets"]["trustee"]["accepted"]) == (Exit.OK, 0)


def worlds_release(real):
    from tallystick.release import index

    return index.read(real.release).digest


def test_a_signed_but_unpromoted_release_is_not_there(real, capsys):
    other = real.folder / "other"
    files = (*builds.FILES[:-1], ("lib/python/cbor2.py", b"import os\n", 0o100644, builds.CBOR))
    real.world.release(other, files=files, change=measured("b"))
    _, code, found = compiled(real, capsys, "--target", "broker")
    assert (code, len(found["releases"])) == (Exit.OK, 1)
    promote_release(real.world, other)
    _, code, found = compiled(real, capsys, "--target", "broker")
    assert (code, len(found["releases"])) == (Exit.OK, 2)
    assert found["targets"]["broker"]["accepted"] == 2


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("slsa_build_level: 1", "slsa_build_level: 3", Exit.REFUSED, ["release.slsa-level"]),
        (
            "https://ci.example/builder",
            "https://ci.example/other",
            Exit.REFUSED,
            ["release.builder.not-allowed"],
        ),
        (
            "pkg:deb/debian/telnetd",
            "pkg:deb/debian/busybox-static",
            Exit.REFUSED,
            ["release.component.denied"],
        ),
        ("threshold: 1 ", "threshold: 2 ", Exit.REFUSED, ["release.rebuilds"]),
        ("requirement: pcr10", "requirement: rebuilds", Exit.REFUSED, ["release.register.not-waived"]),
        ("requirement: pcr-selection", "requirement: pcr-other", Exit.UNSUPPORTED, ["target.inexpressible"]),
        ("releases: [demo]", "releases: [other]", Exit.REFUSED, ["compile.no-release"]),
        ("until: 2028-01-01", "until: 2020-01-01", Exit.REFUSED, ["policy.expired"]),
        ("session_minutes: 1 ", "session_minutes: 5 ", Exit.UNSUPPORTED, ["target.inexpressible"]),
    ],
)
def test_what_a_policy_asks_and_is_not_there_is_refused_and_nothing_is_written(
    real, capsys, old, new, code, said
):
    real.policy.write_text(policy(**{old: new}) if old != "releases: [demo]" else policy().replace(old, new))
    target, got, found = compiled(real, capsys)
    assert (got, codes(found)) == (code, said)
    assert not target.exists()
    assert [path.name for path in real.folder.iterdir() if "out" in path.name] == []


def test_a_policy_for_production_refuses_development_roots(real, capsys):
    real.policy.write_text(policy(**{"channel: staging": "channel: production"}))
    _, code, found = compiled(real, capsys)
    assert code == Exit.REFUSED
    assert "policy.production.development-root" in codes(found)


def test_an_older_compilation_is_replaced_and_nothing_else_is(real, capsys):
    target, _, _ = compiled(real, capsys, "--target", "broker")
    (target / "broker/policy.json").unlink()
    assert compiled(real, capsys, "--target", "broker")[1] == Exit.OK
    other = real.folder / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("three years of work")
    _, code, found = compiled(real, capsys, name="other")
    assert (code, found["error"]["code"]) == (Exit.MISUSE, "output.not-ours")
    assert (other / "thesis.txt").exists()


def test_policy_check_and_diff(real, capsys):
    code, found = run(["policy", "check", str(real.policy)], capsys)
    assert (code, found["targets"], found["waived"]) == (Exit.OK, ["broker", "trustee"], ["pcr10"])
    changed = real.folder / "changed.yaml"
    changed.write_text(policy(**{"max_age_seconds: 300": "max_age_seconds: 299"}))
    code, found = run(["policy", "diff", str(real.policy), str(changed)], capsys)
    assert (code, found["changed"]) == (
        Exit.OK,
        [
            {"what": "maximum age", "old": "300 s", "new": "299 s"},
            {"what": "attests again within", "old": "300 s", "new": "299 s"},  # the same unless it is said
        ],
    )
    bad = real.folder / "bad.yaml"
    bad.write_text(policy(**{"until: 2028-01-01": "until: 2020-01-01"}))
    code, found = run(["policy", "check", str(bad)], capsys)
    assert (code, codes(found)) == (Exit.REFUSED, ["policy.expired"])
    assert "line 5 column 8" in found["error"]["findings"][0]["where"]
    bad.write_text("schema: tallystick/policy/v1\nname: 5\n")
    code, found = run(["policy", "check", str(bad)], capsys)
    assert code == Exit.MALFORMED


def test_compiled_policies_are_compared_by_tuples(real, capsys):
    one, _, before = compiled(real, capsys, "--target", "broker", name="one")
    other = real.folder / "other"
    files = (*builds.FILES[:-1], ("lib/python/cbor2.py", b"import os\n", 0o100644, builds.CBOR))
    real.world.release(other, files=files, change=measured("b"))
    promote_release(real.world, other)
    two, _, after = compiled(real, capsys, "--target", "broker", name="two")
    (new,) = set(after["releases"]) - set(before["releases"])
    code, found = run(["policy", "diff", str(one), str(two)], capsys)
    assert code == Exit.OK
    assert len(found["allowed"]) == 2
    assert all(new in entry for entry in found["allowed"])
    assert found["denied"] == []
    assert run(["diff", str(one), str(two)], capsys) == (Exit.OK, found)
    assert run(["diff", str(one), str(two), "--markdown"], capsys)[0] == Exit.MISUSE
    assert run(["diff", str(one), str(real.release)], capsys)[0] == Exit.MISUSE
    _, found = run(["policy", "diff", str(two), str(one)], capsys)
    assert (len(found["allowed"]), len(found["denied"])) == (0, 2)
    _, found = run(["policy", "diff", str(one), str(one / "broker/policy.json")], capsys)
    assert found == {"changed": [], "allowed": [], "denied": []}
    code, _ = run(["policy", "diff", str(one), str(real.policy)], capsys)
    assert code == Exit.MISUSE


def test_a_missing_policy_channel_or_trust_file_is_misuse(real, capsys):
    nowhere = str(real.folder / "nowhere")
    code, _ = run(real.arguments("compile", nowhere, "-o", nowhere), capsys)
    assert code == Exit.MISUSE
    code, _ = run(["compile", str(real.policy), "-o", nowhere, "--workdir", nowhere], capsys)
    assert code == Exit.MISUSE
    code, _ = run(real.arguments("prove", nowhere, "--policy", str(real.policy)), capsys)
    assert code == Exit.MISUSE

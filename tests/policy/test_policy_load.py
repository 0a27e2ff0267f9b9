"""Reading a policy: the demo's own, every field it must have, and where an error says the fault is."""

from __future__ import annotations

import json
import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy.policyworld import ROOT, policy_text

from tallystick.compile.policies import load
from tallystick.compile.targets.trustee.choice import TrusteeTarget
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.core.expect import AtLeast, Exactly, OneOf
from tallystick.policy.model import Channel

DEMO = policy_text()


def plain(text: str):
    """The policy as a JSON value, for the schema."""
    from tallystick.formats.yamldoc import read

    def walk(node):
        if isinstance(node.value, dict):
            return {name: walk(value) for name, value in node.value.items()}
        return [walk(item) for item in node.value] if isinstance(node.value, list) else node.value

    return walk(read(text.encode(), "policy"))


def schema_takes(text: str) -> bool:
    import jsonschema_rs

    schema = json.loads((ROOT / "docs" / "schemas" / "policy.schema.json").read_text())
    return bool(jsonschema_rs.is_valid(schema, plain(text)))


def test_the_demo_policy_is_read():
    policy = load(DEMO.encode())
    assert policy.channel is Channel.STAGING
    assert policy.digest == Digest.of(DEMO.encode())
    assert [rule.artifact for rule in policy.keys] == ["tokenizer", "weights"]
    assert [target.name for target in policy.targets] == ["broker", "trustee"]
    assert isinstance(policy.target("trustee"), TrusteeTarget)
    assert policy.target("aws-kms") is None
    assert policy.waiver("pcr10") is not None
    assert policy.waiver("pcr11") is None
    assert str(policy.place("until")) == "line 5 column 8"
    assert schema_takes(DEMO)


FIELDS = sorted(set(re.findall(r"^ *(?:- )?([a-z_]+):", DEMO, re.MULTILINE)))


@pytest.mark.parametrize("field", FIELDS)
def test_there_is_no_default_for_any_field(field):
    renamed = re.sub(rf"^( *(?:- )?){field}:", rf"\1{field}x:", DEMO, count=1, flags=re.MULTILINE)
    with pytest.raises((Malformed, Unsupported), match=field):
        load(renamed.encode())
    assert not schema_takes(renamed)


def with_one_more() -> list[str]:
    """The policy with an unknown field after each line that has a field, in that field's mapping."""
    lines = DEMO.splitlines()
    found = []
    for number, line in enumerate(lines):
        match = re.match(r"( *)(- )?[a-z_]+: +[^#\s]", line)
        if match:
            indent = " " * (len(match[1]) + len(match[2] or ""))
            found.append("\n".join([*lines[: number + 1], f"{indent}surprise: x", *lines[number + 1 :]]))
    return found


@pytest.mark.parametrize("text", with_one_more())
def test_no_mapping_has_an_unknown_field(text):
    with pytest.raises(Malformed, match=r"surprise \(line \d+ column \d+\): want a known field"):
        load(text.encode())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "channel: staging ",
            "channel: prod ",
            r"channel \(line 4 column 10\): want one of debug, staging, prod",
        ),
        (
            "until: 2028-01-01T00:00:00Z",
            "until: 2028-02-30T00:00:00Z",
            r"until \(line 5 column 8\): want a day",
        ),
        (
            "until: 2028-01-01T00:00:00Z",
            "until: 2028-01-01",
            r"until \(line 5 column 8\): want a time in UTC",
        ),
        ("until: 2028-01-01T00:00:00Z", "until: never", "want a time in UTC"),
        (
            "releases: [confidential-inference]",
            "releases: []",
            "releases .*: want at least one, got an empty list",
        ),
        ("releases: [confidential-inference]", "releases: ['*']", r"releases\[0\] .*: want a release's name"),
        ("weights/v1", "weights", r"keys\[0\]\.key \(line 9 column 10\): want a key name of three parts"),
        ("tokenizer/v1", "weights/v1", r"keys\[1\]\.key .*: want each key once"),
        ("weights/v1", "../v1", "want a key name of three parts"),
        (
            "identity: https://ci.example/builder",
            "identity: https://ci.example/*",
            "want an exact value, with no pat",
        ),
        ("slsa_build_level: 1", "slsa_build_level: 0", "want a whole number from 1 to 3, got 0"),
        ("slsa_build_level: 1", "slsa_build_level: true", "want a whole number from 1 to 3, got true"),
        ("threshold: 1 ", "threshold: 0 ", "threshold .*: want a whole number from 1 to 16, got 0"),
        ("pkg:deb/debian/telnetd", "telnetd", r"denied\[0\] .*: want a package URL"),
        ("unexplained_files: 0", "unexplained_files: any", "want a whole number"),
        (
            "platform: qemu-vtpm",
            "platform: any",
            r"platform \(line 29 column 15\): want one of .*qemu-vtpm, got any",
        ),
        ("roots: [software-tpm]", "roots: []", r"platforms\[0\]\.roots .*: want at least one"),
        ("roots: [software-tpm]", "roots: software-tpm", "want a list"),
        (
            "require: {}",
            "require: {pcr44: x}",
            r"require\.pcr44 .*: want a claim that evidence of qemu-vtpm has",
        ),
        ("require: {}", "require: {safe: 'true'}", "want true or false, or {one_of"),
        ("require: {}", "require: {safe: 1}", "want true or false"),
        ("require: {}", "require: {pcr07: AB}", "want 64 lower-case hex digits"),
        ("require: {}", "require: {reset_count: '8'}", "want a whole number, {at_least"),
        ("require: {}", "require: {safe: {at_least: 1}}", "want true or false"),
        ("require: {}", "require: {reset_count: {at_least: '1'}}", "want a whole number"),
        ("require: {}", "require: {reset_count: {one_of: []}}", "want at least one value"),
        ("require: {}", "require: {reset_count: {one_of: 1}}", "want a whole number"),
        ("require: {}", "require: {reset_count: {most: 1}}", "want a whole number"),
        ("require: {}", "require: {safe: {at_least: true}}", "want true or false"),
        ("require: {}", "require: {reset_count: {at_least: 1, one_of: [1]}}", "want a whole number"),
        ("max_age_seconds: 300", "max_age_seconds: 0", r"freshness\.max_age_seconds .*: want a whole number"),
        ("max_age_seconds: 300", "max_age_seconds: 99999999", "want a whole number from 1 to 86400"),
        (
            "  - platform: qemu-vtpm\n",
            "  - {platform: qemu-vtpm, roots: [software-tpm], require: {}}\n  - platform: qemu-vtpm\n",
            r"platforms\[1\]\.platform .*: want each platform once",
        ),
        (
            "targets:\n  - target: broker\n",
            "targets: []\nrest:\n  - target: broker\n",
            "targets .*: want at least one",
        ),
        (
            "target: broker",
            "target: everything",
            r"target \(line 43 column 13\): want one of .*broker, .*trustee, .*got everything",
        ),
        ("target: trustee", "target: broker", r"targets\[1\]\.target .*: want each target once"),
        ("requirement: pcr-selection", "requirement: attestation-key-root", "want each requirement once"),
        ('version: "0.21"', "version: latest", "want a Trustee version such as 0.21"),
        ("attestation_keys: []", "attestation_keys: [any]", "want the base64 of a DER public key"),
        ("schema: tallystick/policy/v1", "schema: tallystick/policy/v2", "schema: want tallystick/policy/v1"),
    ],
)
def test_what_a_policy_may_not_say(old, new, said):
    with pytest.raises((Malformed, Unsupported), match=said):
        load(policy_text(**{old: new}).encode())


@pytest.mark.parametrize(
    ("text", "expect"),
    [
        ("safe: true", Exactly(True)),
        ("reset_count: 3", Exactly(3)),
        ("reset_count: {at_least: 3}", AtLeast(3)),
        ("reset_count: {one_of: [3, 1]}", OneOf((1, 3))),
        (f"pcr07: {'a' * 64}", Exactly("a" * 64)),
    ],
)
def test_requirements_are_typed(text, expect):
    changed = policy_text(**{"require: {}": f"require: {{{text}}}"})
    assert load(changed.encode()).platforms[0].require == ((text.split(":")[0], expect),)
    assert schema_takes(changed)


def test_a_plain_version_is_text_and_not_a_number():
    policy = load(policy_text(**{'version: "0.21"': "version: 0.21"}).encode())
    target = policy.target("trustee")
    assert isinstance(target, TrusteeTarget)
    assert target.version == "0.21"


def test_order_in_the_file_means_nothing():
    lines = DEMO.split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("keys:"))
    swapped = [
        *lines[:start],
        *lines[start : start + 1],
        *lines[start + 3 : start + 5],
        *lines[start + 1 : start + 3],
    ]
    again = load("\n".join([*swapped, *lines[start + 5 :]]).encode())
    assert again.keys == load(DEMO.encode()).keys


LINES = DEMO.splitlines()


@given(st.integers(0, len(LINES) - 1), st.text(alphabet="abz019:-{}[]'\"#* \n", max_size=20), st.booleans())
def test_a_damaged_policy_is_read_or_refused_by_name(line, junk, insert):
    damaged = [*LINES[:line], *([LINES[line] + junk] if insert else [junk]), *LINES[line + 1 :]]
    with suppress(Malformed, Unsupported):
        load("\n".join(damaged).encode())


@given(st.binary(max_size=120))
def test_any_bytes_are_refused_by_name(data):
    with pytest.raises((Malformed, Unsupported)):
        load(data)

"""The entries of a policy for the targets of other brokers: what is read, what is refused, and the published schema."""

from __future__ import annotations

import json

import jsonschema_rs
import pytest
from compile.machines import TARGETS
from policy.policyworld import ROOT, policy_text

from tallystick.compile.policies import load
from tallystick.compile.targets.registry import backend
from tallystick.core.errors import Malformed
from tallystick.formats.yamldoc import read

ENTRIES = {
    "intel-ita": "token_seconds: 300",
    "corim": "evidence_seconds: 300",
    "contrast": (
        f'coordinator: "{"ee" * 32}"\n    products: [Milan]\n    sans: ["*"]\n'
        "    workload_owners: []\n    seedshare_owners: []"
    ),
    "keylime": "quote_interval_seconds: 60",
    "nvidia": "",
    "vault-jwt": (
        "tokens: ear\n    issuer: CoCo-Attestation-Service\n    audiences: []\n    mount: jwt\n"
        "    secrets: secret\n    token_seconds: 200\n    login_seconds: 60"
    ),
}


def policy(name: str, entry: str) -> bytes:
    return f"{policy_text().rstrip()}\n  - target: {name}\n    {entry}\n".encode()


@pytest.mark.parametrize("name", TARGETS)
def test_an_entry_is_read_and_says_itself_in_one_line(name):
    found = load(policy(name, ENTRIES[name])).target(name)
    assert found is not None
    assert found.name == name
    assert "\n" not in found.words


@pytest.mark.parametrize("name", TARGETS)
def test_an_unknown_or_missing_field_is_malformed(name):
    with pytest.raises(Malformed, match="surprise"):
        load(policy(name, f"{ENTRIES[name]}\n    surprise: 1"))
    if backend(name).schema["required"]:
        with pytest.raises(Malformed):
            load(policy(name, ""))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("contrast", "[Milan]", "[]"),
        ("contrast", "[Milan]", "[Turin]"),
        ("contrast", '["*"]', "[]"),
        ("contrast", "ee" * 32, "ee" * 31),
        ("vault-jwt", "tokens: ear", "tokens: maa"),
        ("vault-jwt", "mount: jwt", "mount: ../jwt"),
        ("intel-ita", "300", "0"),
        ("keylime", "60", "100000"),
    ],
)
def test_a_wrong_value_is_malformed(name, old, new):
    assert old in ENTRIES[name]
    with pytest.raises(Malformed):
        load(policy(name, ENTRIES[name].replace(old, new)))


@pytest.mark.parametrize("name", TARGETS)
def test_the_published_schema_takes_what_is_read(name):
    schema = json.loads((ROOT / "docs" / "schemas" / "policy.schema.json").read_text())
    right, wrong = (plain(policy(name, ENTRIES[name] + more)) for more in ("", "\n    surprise: 1"))
    assert jsonschema_rs.is_valid(schema, right)
    assert not jsonschema_rs.is_valid(schema, wrong)


def plain(data: bytes):
    """A YAML text as the values that the policy's own reader makes of it."""

    def walk(node):
        if isinstance(node.value, dict):
            return {name: walk(value) for name, value in node.value.items()}
        return [walk(item) for item in node.value] if isinstance(node.value, list) else node.value

    return walk(read(data, "policy"))

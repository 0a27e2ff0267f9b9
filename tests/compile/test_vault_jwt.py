"""Vault's JWT roles: one for each tuple, what bound claims can not say, and how they were permissive."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from compile.machines import CHOICES, NOW, compiled, entry, form, release, rule, world

from tallystick.compile.errors import Unproven
from tallystick.compile.targets.registry import backend
from tallystick.compile.targets.vault_jwt import model, prove
from tallystick.compile.targets.vault_jwt.choice import Tokens, VaultJwt
from tallystick.core.expect import AtLeast, Includes, OneOf

GCP = (
    "gcp-confidential-space",
    "google-confidential-space",
    ("hwmodel", OneOf(("GCP_AMD_SEV", "GCP_INTEL_TDX"))),
)
ROLE: dict[str, Any] = {
    "role_type": "jwt",
    "user_claim": "sub",
    "bound_audiences": ["v"],
    "bound_claims": {"/a/b": "x"},
}
AT = int(NOW.timestamp())
TOKEN: dict[str, Any] = {"sub": "s", "aud": "v", "iat": AT, "exp": AT + 60, "a": {"b": "x"}}


def choice(**changes: Any) -> VaultJwt:
    found = CHOICES["vault-jwt"]
    assert isinstance(found, VaultJwt)
    return replace(found, **changes)


def refused(edit) -> str:
    made = world("vault-jwt")
    found = json.loads(made.made.files["roles.json"])
    for role in found["roles"].values():
        edit(role)
    with pytest.raises(Unproven) as caught:
        prove.evaluate(
            {**made.made.files, "roles.json": json.dumps(found).encode()}, made.form, made.choice, NOW
        )
    return "; ".join(finding.message for finding in caught.value.findings)


def test_what_roles_can_not_say():
    made = form((rule(*GCP),), (release("a", entry(GCP[0], "a")),))
    names = {lack.requirement for lack in backend("vault-jwt").lacks(made, choice())}
    assert names == {"claim-submods.container.cmd_override", "holder", "claim-types", "end"}
    assert "holder" in choice().never_in_production


def test_numbers_and_several_members_of_a_list_have_no_words():
    asked = (("oemid", AtLeast(1)), ("swversion", Includes(("1", "2"))))
    made = form((rule(*GCP[:2], *asked),), (release("a", entry(GCP[0], "a")),))
    names = {lack.requirement for lack in backend("vault-jwt").lacks(made, choice())}
    assert {"claim-oemid", "claim-swversion"} <= names


def test_a_token_and_a_login_that_outlive_the_policy_are_a_lack_of_freshness():
    made = form((rule(*GCP),), (release("a", entry(GCP[0], "a")),))
    names = {
        one.requirement
        for one in backend("vault-jwt").lacks(made, choice(token_seconds=541, login_seconds=60))
    }
    assert "freshness" in names


@pytest.mark.parametrize(
    ("tokens", "platform", "root", "asked"),
    [
        (Tokens.EAR, "intel-tdx", "intel", ()),
        (Tokens.EAR, "qemu-vtpm", "software-tpm", ()),
        (Tokens.ITA, "intel-tdx", "intel", ()),
    ],
)
def test_each_issuer_is_proved(tokens, platform, root, asked):
    made = form(
        (rule(platform, root, *asked),),
        tuple(release(image, entry(platform, image)) for image in "ab"),
    )
    assert compiled("vault-jwt", made, choice(tokens=tokens, audiences=())).prove().accepted == 2


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda r: r["bound_claims"].pop("/dbgstat"), "dbgstat"),
        (lambda r: r["bound_claims"].pop("/iss"), "issuer"),
        (lambda r: r["bound_claims"].pop("/submods/container/image_digest"), "image_digest"),
        (lambda r: r["bound_claims"].update({"/hwmodel": ["GCP_SHIELDED_VM"]}), "refused"),
        (lambda r: r.update(bound_claims_type="glob"), "got refused"),
        (lambda r: r.update(bound_audiences=[]), "got refused"),
        (lambda r: r.update(clock_skew_leeway=0), "clock_skew_leeway"),
        (lambda r: r.update(token_type="service"), "token_type"),
        (lambda r: r.update(token_policies=["root"]), "token_policies"),
        (lambda r: r.update(token_period=86400), "no other field"),
        (lambda r: r.update(user_claim="nobody"), "refused"),
        (lambda r: r.update(bound_claims={}), "accepted"),
    ],
)
def test_a_guard_that_is_broken_is_seen(edit, said):
    assert said in refused(edit)


def test_two_tuples_in_one_role_mix():
    made = compiled(
        "vault-jwt",
        form((rule("qemu-vtpm", "software-tpm"),), tuple(release(i, entry("qemu-vtpm", i)) for i in "ab")),
        choice(tokens=Tokens.EAR, audiences=()),
    )
    found = json.loads(made.made.files["roles.json"])
    one, two = found["roles"].values()
    for path, value in two["bound_claims"].items():
        if one["bound_claims"][path] != value:
            one["bound_claims"][path] = [one["bound_claims"][path], value]
    files = {**made.made.files, "roles.json": json.dumps(found).encode()}
    with pytest.raises(Unproven) as caught:
        prove.evaluate(files, made.form, made.choice, NOW)
    assert caught.value.findings[0].code == "prove.admits"


@pytest.mark.parametrize(
    "hcl",
    [
        'path "secret/data/*" {\n  capabilities = ["read"]\n}\n',
        'path "secret/data/confidential-inference/weights/v1" {\n  capabilities = ["read", "list"]\n}\n',
        "",
    ],
)
def test_another_grant_is_seen(hcl):
    made = world("vault-jwt")
    with pytest.raises(Unproven, match=r"keys\.hcl"):
        prove.evaluate({**made.made.files, "keys.hcl": hcl.encode()}, made.form, made.choice, NOW)


@pytest.mark.parametrize(
    ("role", "token", "right"),
    [
        ({}, {}, True),
        ({}, {"a": {"b": ["y", "x"]}}, True),  # a list that holds the value
        ({"bound_claims": {"/a/b": 2}}, {"a": {"b": 2.9}}, True),  # the fraction is cut
        ({"bound_claims": {"/a/b": "*"}}, {}, False),
        ({"bound_claims": {"/a/b": "*"}, "bound_claims_type": "glob"}, {}, True),
        ({"bound_claims": {"/a/b": True}}, {"a": {"b": "true"}}, False),
        ({"bound_claims": {"/a/b": True}}, {"a": {"b": 1}}, False),
        ({"bound_claims": {}}, {}, True),
        ({}, {"a": {}}, False),
        ({}, {"a": {"b": None}}, False),
        ({}, {"a": {"b": {"x": "x"}}}, False),
        ({}, {"aud": "w"}, False),
        ({}, {"aud": ["w", "v"]}, True),
        ({"bound_audiences": []}, {}, False),
        ({"bound_audiences": []}, {"aud": None}, True),
        ({}, {"sub": 1}, False),
        ({}, {"exp": AT - 61}, False),
        ({}, {"exp": AT - 59}, True),  # a minute of skew unless the role says -1
        ({"clock_skew_leeway": -1}, {"exp": AT - 1}, False),
        ({}, {"exp": None, "iat": AT - 100}, True),  # no end: 150 seconds after iat
        ({"expiration_leeway": -1, "clock_skew_leeway": -1}, {"exp": None, "iat": AT - 1}, False),
        ({}, {"exp": None, "iat": None}, False),
        ({}, {"nbf": AT + 61}, False),
        ({"role_type": "oidc"}, {}, False),
    ],
)
def test_the_model_does_what_the_plugin_does(role, token, right):
    """Each row was read from claims.go or cap's jwt.go, and says what surprises there."""
    claims = {name: value for name, value in {**TOKEN, **token}.items() if value is not None or name == "a"}
    assert model.logs_in({**ROLE, **role}, claims, NOW) is right

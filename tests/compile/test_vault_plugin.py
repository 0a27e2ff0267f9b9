"""Vault's own JWT plugin and our model of it: the same logins, for every case of the domain.

The Go program in tests/foreign/vault is built when the test runs: it needs Go 1.26, which a gate on Debian 12 does not
have, and minutes. So it is in ``make soak``.
"""

from __future__ import annotations

import json
import subprocess
import time
from datetime import UTC, datetime

import jwt
import pytest
from compile.machines import compiled, entry, form, release, rule
from compile.test_vault_jwt import GCP, choice
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support_go import built

from tallystick.compile.domain import cases, released
from tallystick.compile.targets.common import view
from tallystick.compile.targets.vault_jwt import emit, model, prove
from tallystick.compile.targets.vault_jwt.choice import Tokens

pytestmark = pytest.mark.soak
MANY = 4_000


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """Build the program; give a function that returns which logins Vault takes."""
    program = built("vault", tmp_path_factory.mktemp("vault"))
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    def ask(roles, logins):
        signed = [{"role": role, "jwt": _signed(claims, key)} for role, claims in logins]
        config = {"jwt_validation_pubkeys": [public.decode()]}
        asked = json.dumps({"config": config, "roles": roles, "logins": signed})
        done = subprocess.run([program], input=asked, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return ask


def _signed(claims, key):
    """A token of any claims: also of those that a signer of tokens would not sign."""
    return jwt.PyJWS().encode(json.dumps(claims).encode(), key, algorithm="ES256")


def world(tokens, platform, root, *asked):
    """A compiled policy for two releases."""
    releases = tuple(release(image, entry(platform, image)) for image in "ab")
    made = compiled("vault-jwt", form((rule(platform, root, *asked),), releases), choice(tokens=tokens))
    return made, json.loads(made.made.files[emit.ROLES])["roles"]


@pytest.mark.parametrize(
    ("tokens", "asked"),
    [(Tokens.GCP, GCP), (Tokens.EAR, ("intel-tdx", "intel")), (Tokens.ITA, ("intel-tdx", "intel"))],
)
def test_vault_takes_the_logins_that_the_model_takes(plugin, tokens, asked):
    made, roles = world(tokens, *asked)
    now = datetime.fromtimestamp(time.time(), UTC)
    left = view.served(made.form, emit.NAME)
    issued = prove._Issued(left, made.choice, now)
    shown = [(case.what, issued.of(case)) for case in cases(left)][:MANY]
    shown += [(what, claims) for what, claims, _ in issued.around(["https://vault.example", "other"])]
    logins = [(what, name, claims) for what, claims in shown if claims is not None for name in roles]
    said = plugin(roles, [(name, claims) for _, name, claims in logins])
    given = 0
    for (what, name, claims), policies in zip(logins, said, strict=True):
        late = (
            "future" in what or "last second" in what or "a second ago" in what
        )  # by our clock, which went on
        right = model.logs_in(roles[name], claims, now)
        assert late or (policies is not None) == right, f"{what}: {name}: {claims}"
        if policies is not None:
            assert policies == [emit.policy_name(made.form)]
            given += 1
    assert given >= len(list(released(left)))
    print(f"\n{tokens.value}: {len(logins)} logins, {given} given")


ROLE = {"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["v"], "token_type": "batch"}
CLAIMS = ("x", ["x"], ["x", "y"], [], "", None, True, "true", 1, 1.9, "1", {"x": 1}, "X", [["x"]], [None])


@pytest.mark.parametrize("kind", ["string", "glob"])
def test_vault_compares_claims_as_the_model_does(plugin, kind):
    """Every kind of claim with every kind of bound value: what surprises in the plugin surprises here too."""
    bounds = (
        ("x", ["x"], ["x", "y"], True, 1, "1", "true", "*", "x*", "")
        if kind == "string"
        else ("x", "*", "x*", "")
    )
    roles = {
        f"r{number}": {**ROLE, "bound_claims_type": kind, "bound_claims": {"/a/b": bound}}
        for number, bound in enumerate(bounds)
    }
    at = int(time.time())
    base = {"sub": "s", "aud": "v", "iat": at, "exp": at + 600}
    logins = [(name, {**base, "a": {"b": value}}) for name in roles for value in CLAIMS]
    logins += [(name, {**base, "a": {}}) for name in roles] + [(name, {**base, "a": "x"}) for name in roles]
    now = datetime.fromtimestamp(at, UTC)
    different = [
        (roles[name]["bound_claims"], claims.get("a"), policies)
        for (name, claims), policies in zip(logins, plugin(roles, logins), strict=True)
        if (policies is not None) != model.logs_in(roles[name], claims, now)
    ]
    assert different == []

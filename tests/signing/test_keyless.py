"""Signing against a Sigstore over HTTP with an OIDC token: the same code that signs against any real one."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from signing.boxes import PAYLOAD, PREDICATE, Box
from signing.sigstore_server import serving

from tallystick.core.errors import Unreachable
from tallystick.signing import sigstore
from tallystick.signing.records import Identity
from tallystick.signing.verify import Verifier

ISSUER = "https://issuer.example"
DAVE = Identity(san="https://github.example/org/repo/.github/workflows/ci.yml@refs/heads/main", issuer=ISSUER)


class Keyless:
    """A box that knows an OIDC issuer, its trust config, and tokens of that issuer."""

    def __init__(self, box: Box) -> None:
        self._folder, self._key = box.workdir / "sigstore", ec.generate_private_key(ec.SECP256R1())
        jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key()))
        pinned = [{"issuer": ISSUER, "jwks": {"keys": [jwk]}, "claim": "sub"}]
        (self._folder / "issuers.json").write_text(json.dumps(pinned))
        self.url = ""

    @property
    def config(self) -> bytes:
        document = json.loads((self._folder / "client_trust_config.json").read_bytes())
        for services in ("caUrls", "rekorTlogUrls"):
            document["signingConfig"][services][0]["url"] = self.url
        return json.dumps(document).encode()

    def token(self, issuer: str = ISSUER) -> str:
        at = int(datetime.now(UTC).timestamp())
        claims = {"iss": issuer, "sub": DAVE.san, "aud": "sigstore", "iat": at, "exp": at + 300}
        return jwt.encode(claims, self._key, algorithm="ES256")


@pytest.fixture(scope="module")
def keyless(tmp_path_factory):
    box = Box.make(tmp_path_factory.mktemp("keyless"))
    made = Keyless(box)
    with serving(box) as made.url:
        yield made


def test_a_token_and_a_trust_config_are_enough(keyless):
    with sigstore.keyless(keyless.config, keyless.token()) as signer:
        bundles = [signer.statement(PAYLOAD) for _ in range(2)]
    assert sigstore.signer_of(bundles[0]) == DAVE
    verifier = Verifier(signer.trusted_root)
    for bundle in bundles:
        found = verifier.statement(bundle, signers=(DAVE,), predicate_type=PREDICATE, now=datetime.now(UTC))
        assert found.payload == PAYLOAD


def test_a_sigstore_that_refuses_is_said_so(keyless):
    with (
        pytest.raises(Unreachable, match="Sigstore could not sign") as caught,
        sigstore.keyless(keyless.config, keyless.token("https://other.example")),
    ):
        pass
    assert caught.value.code == "sigstore.unreachable"

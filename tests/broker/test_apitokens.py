"""API tokens bound to a key of the attested machine: a stolen one is useless, and a proof counts once."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta

import jwt
import pytest
from broker.records import NOW
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st
from jwcrypto.jwk import JWK

from tallystick.broker import apitokens
from tallystick.core.errors import Malformed, NotGenuine, TallystickError, Unsupported
from tallystick.handshake import dpop
from tallystick.handshake.dpop import ProofKey
from tallystick.handshake.jwe import TeeKeyPair

BROKER = ec.generate_private_key(ec.SECP256R1())
KEYS = [{**ProofKey(BROKER).jwk, "kid": "k1"}]
HOLDER = TeeKeyPair.make().public.thumbprint()
MINE, THIEFS = ProofKey.make(), ProofKey.make()
URL = "https://store.internal/v1/records"


def sign(data: bytes) -> bytes:
    r, s = decode_dss_signature(BROKER.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def token(until: timedelta = timedelta(hours=1), signed=sign) -> str:
    request = apitokens.Request(key="a/b/c", audience="store", proof_key=dpop.public(MINE.jwk))
    said = {"release": "sha256:aa", "policy": "p", "attestation": "d1"}
    return apitokens.issue(
        request, signed, key_id="k1", issuer="broker", holder=HOLDER, said=said, until=NOW + until, now=NOW
    )


def check(shown: str, proof: str, *, now=NOW, seen: set[str] | None = None, **changes: object):
    known = set() if seen is None else seen

    def unseen(identifier: str) -> bool:
        new = identifier not in known
        known.add(identifier)
        return new

    asked = {"issuer": "broker", "audience": "store", "method": "GET", "url": URL, **changes}
    return apitokens.verify(shown, proof, KEYS, now=now, unseen=unseen, **asked)


def code(refused) -> str:
    return refused.value.code


def test_a_token_with_its_proof_says_who_asks():
    shown = token()
    granted = check(shown, MINE.proof("GET", URL, shown, now=NOW))
    assert granted.subject == f"urn:ietf:params:oauth:jwk-thumbprint:sha-256:{HOLDER}"
    assert (granted.release, granted.expires_at) == ("sha256:aa", NOW + apitokens.LIFE)


def test_another_implementation_reads_and_verifies_it():
    shown = token()
    public = jwt.PyJWK({**KEYS[0], "alg": "ES256"})
    said = jwt.decode(
        shown,
        public,
        algorithms=["ES256"],
        audience="store",
        options={"verify_exp": False, "verify_iat": False},
    )
    assert said["cnf"] == {"jkt": JWK(**MINE.jwk).thumbprint()}
    proof = MINE.proof("GET", URL, shown, now=NOW)
    header = jwt.get_unverified_header(proof)
    assert header["typ"] == "dpop+jwt"
    jwt.decode(
        proof,
        jwt.PyJWK({**header["jwk"], "alg": "ES256"}),
        algorithms=["ES256"],
        options={"verify_iat": False},
    )


def test_a_token_never_outlives_what_it_rests_on():
    shown = token(until=timedelta(seconds=30))
    assert check(shown, MINE.proof("GET", URL, shown, now=NOW)).expires_at == NOW + timedelta(seconds=30)
    late = NOW + timedelta(seconds=30)
    assert check(shown, MINE.proof("GET", URL, shown, now=NOW), now=late - timedelta(seconds=1))
    with pytest.raises(NotGenuine) as refused:
        check(shown, MINE.proof("GET", URL, shown, now=late), now=late)
    assert code(refused) == "token.expired"


def test_a_stolen_token_is_useless_and_a_proof_counts_once():
    shown = token()
    with pytest.raises(NotGenuine) as refused:
        check(shown, THIEFS.proof("GET", URL, shown, now=NOW))
    assert code(refused) == "dpop.key"
    seen: set[str] = set()
    proof = MINE.proof("GET", URL, shown, now=NOW)
    check(shown, proof, seen=seen)
    with pytest.raises(NotGenuine) as refused:
        check(shown, proof, seen=seen)
    assert code(refused) == "dpop.replay"


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({"method": "POST"}, "dpop.htm"),
        ({"url": URL + "/other"}, "dpop.htu"),
        ({"audience": "other"}, "token.audience"),
        ({"issuer": "other"}, "token.audience"),
        ({"now": NOW + timedelta(seconds=61)}, "dpop.stale"),
        ({"now": NOW - timedelta(seconds=6)}, "token.expired"),
    ],
)
def test_what_is_for_something_else_is_named(changes, want):
    shown = token()
    with pytest.raises(NotGenuine) as refused:
        check(shown, MINE.proof("GET", URL, shown, now=NOW), **changes)
    assert code(refused) == want


def test_a_proof_for_another_token_and_forged_signatures_are_refused():
    shown, other = token(), token()
    with pytest.raises(NotGenuine) as refused:
        check(shown, MINE.proof("GET", URL, other, now=NOW))
    assert code(refused) == "dpop.ath"
    with pytest.raises(NotGenuine) as refused:
        check(token(signed=lambda data: b"\1" * 64), MINE.proof("GET", URL, shown, now=NOW))
    assert code(refused) == "token.signature"
    proof = MINE.proof("GET", URL, shown, now=NOW)
    with pytest.raises(NotGenuine) as refused:
        check(
            shown,
            proof.rpartition(".")[0] + "." + THIEFS.proof("GET", URL, shown, now=NOW).rpartition(".")[2],
        )
    assert code(refused) == "dpop.signature"


def test_other_algorithms_and_types_are_refused():
    shown = token()
    proof = MINE.proof("GET", URL, shown, now=NOW)
    none = jwt.encode({"aud": "store"}, None, algorithm="none")
    for one, two in ((none, proof), (proof, proof), (shown, shown), (shown, none)):
        with pytest.raises((NotGenuine, Malformed)) as refused:
            check(one, two)
        assert code(refused) in ("token.type", "dpop.type", "malformed")


def test_a_request_is_for_a_public_p256_key():
    asked = {"key": "a/b/c", "audience": "store", "jwk": MINE.jwk}
    assert apitokens.Request.parse(json.dumps(asked).encode()).audience == "store"
    for changed, error in (
        ({"jwk": {**MINE.jwk, "d": "AAAA"}}, Malformed),
        ({"jwk": {**MINE.jwk, "crv": "P-384"}}, Unsupported),
        ({"jwk": {**MINE.jwk, "crv": "P-521"}}, Unsupported),
        ({"jwk": {"kty": "oct", "k": "AA"}}, Malformed),
        ({"audience": ""}, Malformed),
        ({"audience": "a\nb"}, Malformed),
    ):
        with pytest.raises(error):
            apitokens.Request.parse(json.dumps(asked | changed).encode())


@given(st.binary() | st.dictionaries(st.text(), st.text() | st.integers()).map(json.dumps).map(str.encode))
def test_no_request_crashes(data):
    with pytest.raises(TallystickError):
        apitokens.Request.parse(data)


@given(st.text(), st.text(), st.booleans())
def test_no_token_and_no_proof_crash(one, two, real):
    with suppress(TallystickError):
        check(token() if real else one, two)

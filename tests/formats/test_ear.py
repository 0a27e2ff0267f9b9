"""EAR tokens: what is written reads back, and everything nearly right is refused by name."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, TallystickError, Unsupported
from tallystick.formats import ear

JWK = {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}
SIGNATURE = bytes(range(64))


def made(**vector: int) -> ear.Ear:
    names = {name.replace("_", "-"): value for name, value in vector.items()}
    return ear.Ear(
        profile=ear.PROFILE,
        issuer="broker",
        developer="https://example.org",
        build="1",
        issued_at=1_700_000_000,
        expires_at=1_700_000_300,
        submods=(("cpu0", ear.submod(names, policy="sha256:00", annotated={"tpm": {"pcr00": "ab"}})),),
    )


def token(found: ear.Ear) -> str:
    return ear.compact(ear.signing_input(found, JWK), SIGNATURE)


def altered(text: str, part: int, change) -> str:
    parts = text.split(".")
    raw = base64.urlsafe_b64decode(parts[part] + "=" * (-len(parts[part]) % 4))
    value = json.loads(raw)
    change(value)
    parts[part] = base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
    return ".".join(parts)


def test_a_token_reads_back():
    wrote = made(hardware=2, executables=3)
    read = ear.parse(token(wrote))
    assert read.ear == wrote
    assert read.signature == SIGNATURE
    assert read.signed.decode() == token(wrote).rpartition(".")[0]
    assert read.header == {"typ": "JWT", "alg": "ES256", "jwk": JWK}


def test_the_claims_have_the_names_that_trustee_gives_them():
    claims = json.loads(base64.urlsafe_b64decode(token(made(hardware=2)).split(".")[1] + "=="))
    assert claims["eat_profile"] == "tag:github.com,2024:confidential-containers/Trustee"
    assert set(claims) == {"eat_profile", "iss", "iat", "exp", "ear.verifier-id", "submods"}
    cpu0 = claims["submods"]["cpu0"]
    assert cpu0["ear.status"] == "affirming"
    assert list(cpu0["ear.trustworthiness-vector"]) == list(ear.VECTOR)
    assert set(cpu0) == {
        "ear.status",
        "ear.trustworthiness-vector",
        "ear.appraisal-policy-id",
        "ear.veraison.annotated-evidence",
    }


@pytest.mark.parametrize(
    ("value", "tier"),
    [
        (-128, "contraindicated"),
        (-97, "contraindicated"),
        (-96, "warning"),
        (-33, "warning"),
        (-32, "affirming"),
        (-2, "affirming"),
        (-1, "none"),
        (0, "none"),
        (1, "none"),
        (2, "affirming"),
        (31, "affirming"),
        (32, "warning"),
        (95, "warning"),
        (96, "contraindicated"),
        (127, "contraindicated"),
    ],
)
def test_tiers_have_the_bounds_of_ar4si(value, tier):
    assert ear.Tier.of(value).value == tier


@pytest.mark.parametrize("value", [-129, 128])
def test_a_value_outside_a_byte_is_malformed(value):
    with pytest.raises(Malformed, match="trustworthiness value: want -128 to 127"):
        ear.Tier.of(value)


def test_the_status_is_the_worst_tier():
    assert made(hardware=2, executables=33).submods[0][1].status is ear.Tier.WARNING
    assert made().submods[0][1].status is ear.Tier.NONE


def test_a_name_that_is_not_in_the_vector_is_our_bug():
    with pytest.raises(ValueError, match="not in the trustworthiness vector"):
        ear.submod({"hardwar": 2}, policy="", annotated={})


def test_a_status_better_than_the_vector_is_refused():
    bad = altered(
        token(made(hardware=97)), 1, lambda c: c["submods"]["cpu0"].update({"ear.status": "affirming"})
    )
    with pytest.raises(Malformed, match=r"cpu0\.ear\.status: want contraindicated"):
        ear.parse(bad)


def test_a_status_worse_than_the_vector_is_the_verifiers_right():
    worse = altered(
        token(made(hardware=2)), 1, lambda c: c["submods"]["cpu0"].update({"ear.status": "warning"})
    )
    assert ear.parse(worse).ear.submods[0][1].status is ear.Tier.WARNING


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: h.update(alg="none"), "alg: want ES256, got none"),
        (lambda h: h.update(alg="HS256"), "alg: want ES256, got HS256"),
        (lambda h: h.pop("alg"), "alg: want ES256, got None"),
        (lambda h: h.update(crit=["exp"]), "crit: want no critical extensions"),
    ],
)
def test_other_algorithms_are_unsupported(change, said):
    with pytest.raises(Unsupported, match=said):
        ear.parse(altered(token(made(hardware=2)), 0, change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("iat"), "iat: want an integer"),
        (lambda c: c.update(exp=True), "exp: want an integer, got bool"),
        (lambda c: c.update(iss=3), "iss: want a string, got int"),
        (lambda c: c.update(submods=[]), "submods: want an object, got list"),
        (lambda c: c["submods"]["cpu0"].update({"ear.status": "great"}), "want one of none, affirming"),
        (
            lambda c: c["submods"]["cpu0"]["ear.trustworthiness-vector"].update(extra=2),
            "want names of AR4SI, got extra",
        ),
        (
            lambda c: c["submods"]["cpu0"]["ear.trustworthiness-vector"].update(hardware="2"),
            "hardware: want an integer, got str",
        ),
        (lambda c: c["submods"].update(cpu0=1), "cpu0: want an object, got int"),
    ],
)
def test_claims_of_other_shapes_are_malformed(change, said):
    with pytest.raises(Malformed, match=said):
        ear.parse(altered(token(made(hardware=2)), 1, change))


def test_another_profile_is_unsupported():
    with pytest.raises(Unsupported, match="eat_profile"):
        ear.parse(altered(token(made(hardware=2)), 1, lambda c: c.update(eat_profile="tag:example")))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda t: t + "=", "signature: want base64url without padding"),
        (lambda t: t[:-1] + ("R" if t[-1] != "R" else "S"), "signature: want base64url"),
        (lambda t: t.replace(".", "..", 1), "token: want header.claims.signature, got 4 parts"),
        (lambda t: t.rpartition(".")[0], "token: want header.claims.signature, got 2 parts"),
        (lambda t: t[:-2], "signature: want 64 bytes"),
        (lambda t: "+" + t[1:], "header"),
        (lambda t: t + "A" * (128 << 10), "size: want at most"),
    ],
)
def test_nearly_right_tokens_are_malformed(damage, said):
    with pytest.raises(Malformed, match=said):
        ear.parse(damage(token(made(hardware=2))))


def test_a_signature_of_another_length_is_our_bug():
    with pytest.raises(ValueError, match="has 64 bytes, not 63"):
        ear.compact(b"a.b", bytes(63))


@given(st.text(max_size=400) | st.tuples(st.integers(0, 400), st.characters()))
def test_any_text_is_refused_by_name(found):
    text = token(made(hardware=2))
    if isinstance(found, tuple):
        at, character = found
        found = text[:at] + character + text[at + 1 :]
    try:
        read = ear.parse(found)
    except TallystickError:
        return
    assert read.signed.decode() == found.rpartition(".")[0]

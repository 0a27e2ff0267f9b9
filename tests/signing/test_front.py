"""The HTTP front of the embedded Sigstore, asked without a socket; the real clients are in test_clients.py."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import socket
import ssl

import jwt
import pytest
import support_tls
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from signing.boxes import ALICE, BUILDER, NOW, PAYLOAD, Box
from signing.sigstore_server import now, serving

from tallystick.broker import tls
from tallystick.cli.app import _run
from tallystick.core.errors import TallystickError
from tallystick.signing import people, sigstore
from tallystick.signing.certificate import identity
from tallystick.signing.embedded import http as front_http
from tallystick.signing.embedded import instance, proofs
from tallystick.signing.embedded.front import Front
from tallystick.signing.embedded.instance import ISSUER
from tallystick.tlog import checkpoint as cp
from tallystick.tlog import merkle


@pytest.fixture
def box(tmp_path):
    return Box.make(tmp_path / "box")


@pytest.fixture
def front(box):
    return Front(box.instance)


def get(front, path):
    return front.answer("GET", path, {}, b"", NOW)


def post(front, path, document, headers=None):
    return front.answer("POST", path, headers or {}, json.dumps(document).encode(), NOW)


def asked(front, box, name="ci-builder", key=None, who=None, spki=proofs.FOR_A_TOKEN):
    person = people.load(box.workdir, name)
    nonce = json.loads(get(front, "/tally/v0/challenge").body)["nonce"]
    proof = proofs.prove(who or person.identity, key or person.key, nonce, spki, NOW)
    return post(front, "/tally/v0/token", {"proof": proof})


def token(front, box, name="ci-builder"):
    return json.loads(asked(front, box, name).body)["id_token"]


def fresh():
    return ec.generate_private_key(ec.SECP256R1())


def request(key, said, signed=None):
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    possession = (signed or key).sign(said.encode(), ec.ECDSA(hashes.SHA256()))
    content = {"algorithm": "ECDSA", "content": pem}
    return {
        "publicKeyRequest": {
            "publicKey": content,
            "proofOfPossession": base64.b64encode(possession).decode(),
        }
    }


def leaf(answer):
    chain = json.loads(answer.body)["signedCertificateEmbeddedSct"]["chain"]["certificates"]
    assert len(chain) == 3
    return x509.load_pem_x509_certificate(chain[0].encode())


def test_an_enrolled_key_gets_a_token_and_with_it_one_certificate(front, box):
    mine = token(front, box)
    headers = {"authorization": f"Bearer {mine}"}
    first = post(front, "/api/v2/signingCert", request(fresh(), BUILDER.san), headers)
    assert (first.status, identity(leaf(first), "leaf")) == (200, BUILDER)
    again = post(front, "/api/v2/signingCert", request(fresh(), BUILDER.san), headers)
    assert again.status == 401
    assert "used before" in json.loads(again.body)["message"]


def test_a_used_token_stays_used_after_a_restart(front, box):
    mine = token(front, box)
    request_of = {"credentials": {"oidcIdentityToken": mine}} | request(fresh(), BUILDER.san)
    assert post(front, "/api/v2/signingCert", request_of).status == 200
    authority = box.instance.authority
    with pytest.raises(TallystickError, match="used before"):
        authority.used.take(mine, NOW, NOW)


def test_who_does_not_have_the_key_of_the_request_gets_no_certificate(front, box):
    document = request(fresh(), BUILDER.san, signed=fresh())
    headers = {"authorization": f"Bearer {token(front, box)}"}
    answer = post(front, "/api/v2/signingCert", document, headers)
    assert (answer.status, "proof of possession" in answer.body.decode()) == (401, True)


@pytest.mark.parametrize("how", ["stranger", "another name", "a certificate's proof"])
def test_only_an_enrolled_key_gets_a_token_and_for_its_own_name(front, box, how):
    changed = {
        "stranger": {"key": fresh()},
        "another name": {"who": ALICE},
        "a certificate's proof": {"spki": b"0\x59"},
    }[how]
    answer = asked(front, box, **changed)
    assert (answer.status, "id_token" in json.loads(answer.body)) == (401, False)


def test_a_challenge_gets_one_token(front, box):
    person = people.load(box.workdir, "alice")
    nonce = json.loads(get(front, "/tally/v0/challenge").body)["nonce"]
    proof = proofs.prove(ALICE, person.key, nonce, proofs.FOR_A_TOKEN, NOW)
    statuses = [post(front, "/tally/v0/token", {"proof": proof}).status for _ in range(2)]
    assert statuses == [200, 401]


def test_nobody_else_signs_tokens_in_the_fronts_name(front):
    claims = {
        "iss": ISSUER,
        "sub": ALICE.san,
        "aud": "sigstore",
        "iat": NOW.timestamp(),
        "exp": NOW.timestamp() + 300,
    }
    forged = jwt.encode(claims, fresh(), algorithm="ES256")
    answer = post(
        front, "/api/v2/signingCert", request(fresh(), ALICE.san), {"authorization": f"Bearer {forged}"}
    )
    assert answer.status == 401


def test_an_issuer_whose_tokens_must_answer_a_challenge(box):
    key, url = fresh(), "https://issuer.example"
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    pinned = [{"issuer": url, "jwks": {"keys": [jwk]}, "claim": "sub", "nonce": True}]
    (box.workdir / "sigstore" / "issuers.json").write_text(json.dumps(pinned))
    authority = box.instance.authority
    at = int(NOW.timestamp())

    def said(nonce):
        claims = {"iss": url, "sub": "https://x.example", "aud": "sigstore", "iat": at, "exp": at + 60}
        return jwt.encode(claims | nonce, key, algorithm="ES256")

    def csr():
        return (
            x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(fresh(), hashes.SHA256())
        )

    for nonce in ({}, {"nonce": "made up"}):
        with pytest.raises(TallystickError, match="answers no challenge of ours"):
            authority.certify(csr(), said(nonce), NOW)
    good = said({"nonce": authority.challenge()})
    assert identity(authority.certify(csr(), good, NOW), "leaf").san == "https://x.example"
    with pytest.raises(TallystickError, match="answers no challenge of ours"):
        authority.certify(csr(), good, NOW)


def test_the_log_can_be_followed_from_outside(front, box):
    before = json.loads(get(front, "/api/v1/log").body)
    box.sign()
    after = json.loads(get(front, "/api/v1/log").body)
    assert (before["treeSize"], after["treeSize"]) == (2, 3)
    path = f"/api/v1/log/proof?firstSize={before['treeSize']}&lastSize={after['treeSize']}"
    hashes_ = [bytes.fromhex(step) for step in json.loads(get(front, path).body)["hashes"]]
    merkle.verify_consistency(
        2, bytes.fromhex(before["rootHash"]), 3, bytes.fromhex(after["rootHash"]), hashes_
    )
    key = box.instance.log.key.public_key()
    note = cp.parse_note(after["signedTreeHead"])
    cp.verify(note, cp.NoteKey(name="rekor.tallystick.local", kind=cp.Kind.ECDSA, public=key))
    ((uuid, document),) = json.loads(get(front, "/api/v1/log/entries?logIndex=2").body).items()
    assert document["logIndex"] == 2
    assert json.loads(get(front, f"/api/v1/log/entries/{uuid}").body)[uuid]["body"] == document["body"]
    assert get(front, "/api/v1/log/entries?logIndex=3").status == 404
    assert get(front, "/api/v1/log/proof?firstSize=9&lastSize=2").status == 400


def test_every_certificate_is_in_the_ct_log_that_monitors_read(front, box):
    box.sign()
    head = json.loads(get(front, "/ct/v1/get-sth").body)
    assert head["tree_size"] == 1
    signed = b"\0\1" + head["timestamp"].to_bytes(8, "big") + (1).to_bytes(8, "big")
    signed += base64.b64decode(head["sha256_root_hash"])
    signature = base64.b64decode(head["tree_head_signature"])[4:]
    box.instance.authority.ct_key.public_key().verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    (only,) = json.loads(get(front, "/ct/v1/get-entries?start=0&end=99").body)["entries"]
    leaf_input = base64.b64decode(only["leaf_input"])
    assert hashlib.sha256(b"\0" + leaf_input).digest() == base64.b64decode(head["sha256_root_hash"])
    assert get(front, "/ct/v1/get-entries?start=1&end=1").status == 400
    assert json.loads(get(front, "/api/v2/trustBundle").body)["chains"][0]["certificates"]
    assert b"PUBLIC KEY" in get(front, "/api/v1/log/publicKey").body


PATHS = [
    "/api/v2/signingCert",
    "/api/v1/log/entries",
    "/tally/v0/token",
    "/api/v1/log",
    "/",
    "//",
    "/ct/v1/get-entries?start=0",
]


@pytest.fixture(scope="module")
def lasting(tmp_path_factory):
    return Front(Box.make(tmp_path_factory.mktemp("front") / "box").instance)


FIELDS = ["proof", "kind", "spec", "credentials", "publicKeyRequest", "certificateSigningRequest"]
VALUES = st.text() | st.integers() | st.none()
OBJECTS = st.dictionaries(st.sampled_from(FIELDS), VALUES).map(lambda value: json.dumps(value).encode())
BODIES = st.binary(max_size=60) | OBJECTS


@given(
    st.sampled_from(["GET", "POST", "PUT"]),
    st.sampled_from(PATHS) | st.text(max_size=20).map("/api/v1/log/entries/{}".format),
    BODIES,
)
def test_whatever_is_asked_is_answered_and_nothing_is_certified(lasting, method, path, body):
    answer = lasting.answer(method, path, {}, body, NOW)
    assert answer.status in ({200, 400, 404} if method == "GET" else {400, 401, 404})


def test_over_a_socket_bodies_have_a_bound(box):
    with serving(box) as url:
        line = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        line.request("GET", "/api/v1/log")
        assert line.getresponse().read()
        line = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        line.putrequest("POST", "/api/v1/log/entries")
        line.putheader("Content-Length", str(1 << 40))
        line.endheaders()
        assert line.getresponse().status == 413


@pytest.fixture
def secure(box, tmp_path):
    """The front behind a certificate of its own: the URL, and what to believe."""
    files = support_tls.certificate(tmp_path)
    with front_http.serving(Front(box.instance), "127.0.0.1", 0, now, tls.context(files)) as url:
        yield url, files.chain


def over_tls(url, chain, method, path, body=None):
    line = http.client.HTTPSConnection(
        url.removeprefix("https://"), timeout=10, context=ssl.create_default_context(cafile=chain)
    )
    line.request(method, path, None if body is None else json.dumps(body))
    answer = line.getresponse()
    assert answer.status == 200
    return json.loads(answer.read())


def test_a_stock_client_signs_over_tls(box, secure, monkeypatch):
    url, chain = secure
    assert url.startswith("https://")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(chain))
    person = people.load(box.workdir, "ci-builder")
    nonce = over_tls(url, chain, "GET", "/tally/v0/challenge")["nonce"]
    proof = proofs.prove(person.identity, person.key, nonce, proofs.FOR_A_TOKEN, now())
    token = over_tls(url, chain, "POST", "/tally/v0/token", {"proof": proof})["id_token"]
    path = box.workdir / "sigstore" / "client_trust_config.json"
    config = instance.served_at(json.loads(path.read_bytes()), url)
    with sigstore.keyless(json.dumps(config).encode(), token) as signer:
        box.verify(signer.statement(PAYLOAD), now=now())


def test_who_does_not_speak_tls_holds_nobody_up(secure, capfd):
    url, chain = secure
    host, port = url.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port))), socket.create_connection((host, int(port))) as plain:
        plain.sendall(b"GET /api/v1/log HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/1.1 200" not in plain.recv(1000)
        assert over_tls(url, chain, "GET", "/api/v1/log")["treeSize"]
    assert capfd.readouterr().err == ""


def test_a_certificate_goes_with_its_key(box, tmp_path, capsys):
    files = support_tls.certificate(tmp_path)
    command = ["sigstore", "serve", "--workdir", str(box.workdir), "--port", "0", "--json"]
    for wrong in (["--tls-certificate", str(files.chain)], ["--tls-key", str(files.key)]):
        assert _run(command[:-1] + wrong) == 2
        assert "go together" in capsys.readouterr().err
    (tmp_path / "odd.pem").write_text("odd")
    assert (
        _run([*command[:-1], "--tls-certificate", str(tmp_path / "odd.pem"), "--tls-key", str(files.key)])
        == 2
    )
    assert "[tls.certificate]" in capsys.readouterr().err

"""The embedded Sigstore: whom it certifies, what it logs, and what its folder survives."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from signing.boxes import ALICE, BUILDER, DAY, NOW, PAYLOAD, Box, b64

from tallystick.core.errors import Malformed, Misuse, NotGenuine, Refused, TallystickError, Unsupported
from tallystick.formats import intoto
from tallystick.signing import keyfile, people, sigstore
from tallystick.signing.certificate import identity
from tallystick.signing.embedded import instance, proofs, x509parts
from tallystick.signing.records import Identity
from tallystick.tlog import checkpoint as cp
from tallystick.tlog import merkle
from tallystick.tlog.log import Log

ROOT = Path(__file__).resolve().parents[2]
MINUTE = timedelta(minutes=1)


@pytest.fixture
def own(tmp_path):
    return Box.make(tmp_path / "own")


def request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> x509.CertificateSigningRequest:
    return x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())


def fresh() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def answer(box: Box, name: str, asked: ec.EllipticCurvePrivateKey, nonce: str, **changed: object) -> str:
    """A proof for the key ``asked`` by the enrolled person ``name``, or one that differs."""
    person = people.load(box.workdir, name)
    options = {"identity": person.identity, "key": person.key, "now": NOW} | changed
    spki = x509parts.spki(asked.public_key())
    return proofs.prove(options["identity"], options["key"], nonce, spki, options["now"])


# Whom the CA certifies


def test_an_enrolled_key_that_answers_the_challenge_is_certified(own):
    authority, key = own.instance.authority, fresh()
    leaf = authority.certify(request(key), answer(own, "alice", key, authority.challenge()), NOW)
    assert identity(leaf, "leaf") == ALICE
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(minutes=10)
    assert leaf.public_key() == key.public_key()


def refused(own: Box, make, now=NOW) -> str:
    authority, key = own.instance.authority, fresh()
    with pytest.raises(NotGenuine) as caught:
        authority.certify(request(key), make(authority, key), now)
    assert caught.value.code == "sigstore.proof"
    assert not (own.workdir / "sigstore" / "ct" / "leaves").exists()  # nothing was certified
    return caught.value.message


def test_who_is_not_enrolled_is_not_certified(own):
    stranger = fresh()
    said = refused(own, lambda ca, key: answer(own, "alice", key, ca.challenge(), key=stranger))
    assert "no enrolled key signed it" in said


def test_an_enrolled_key_speaks_for_its_own_name_alone(own):
    said = refused(own, lambda ca, key: answer(own, "alice", key, ca.challenge(), identity=BUILDER))
    assert "enrolled for somebody else" in said


def test_a_proof_for_another_key_is_worth_nothing(own):
    said = refused(own, lambda ca, _: answer(own, "alice", fresh(), ca.challenge()))
    assert "another key than the request" in said


def test_an_answer_to_another_challenge_is_refused(own):
    person, key = people.load(own.workdir, "alice"), fresh()
    spki = x509parts.spki(key.public_key())
    proof = proofs.prove(ALICE, person.key, "yours", spki, NOW)
    with pytest.raises(NotGenuine, match="another challenge"):
        proofs.verify_enrolled(proof, own.instance.authority.enrolled, "mine", spki, NOW)


def test_a_challenge_is_good_for_one_try(own):
    authority, key = own.instance.authority, fresh()
    proof = answer(own, "alice", key, authority.challenge())
    authority.certify(request(key), proof, NOW)
    with pytest.raises(NotGenuine, match="answers no challenge of ours"):
        authority.certify(request(key), proof, NOW)


@pytest.mark.parametrize("now", [NOW + timedelta(hours=1), NOW - timedelta(hours=1)])
def test_a_proof_of_another_time_is_refused(own, now):
    assert "not valid now" in refused(own, lambda ca, key: answer(own, "alice", key, ca.challenge()), now)


@pytest.mark.parametrize("proof", ["", "a.b.c", "....", "eyJhbGciOiJub25lIn0.e30."])
def test_what_is_no_token_is_refused(own, proof):
    refused(own, lambda ca, key: proof)


def test_a_request_that_its_key_did_not_sign_is_refused(own):
    authority, key = own.instance.authority, fresh()
    data = bytearray(request(key).public_bytes(Encoding.DER))
    data[-1] ^= 1
    broken = x509.load_der_x509_csr(bytes(data))
    with pytest.raises(NotGenuine, match="signature does not hold"):
        authority.certify(broken, answer(own, "alice", key, authority.challenge()), NOW)


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)],
    ids=["P-384", "RSA"],
)
def test_only_keys_that_every_verifier_takes_are_certified(own, key):
    with pytest.raises(Unsupported, match="P-256"):
        own.instance.authority.certify(request(key), "x", NOW)


# OIDC tokens of pinned issuers

ISSUER = "https://issuer.example"


@pytest.fixture
def oidc(own):
    """The box with a pinned issuer, and a function that makes its tokens."""
    key = fresh()
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())) | {"kid": "k1", "use": "sig"}
    stranger = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(fresh().public_key())) | {"kid": "k0"}
    pinned = [{"issuer": ISSUER, "jwks": {"keys": [stranger, jwk]}, "claim": "email"}]
    (own.workdir / "sigstore" / "issuers.json").write_text(json.dumps(pinned))

    def token(signer: ec.EllipticCurvePrivateKey = key, kid: str | None = "k1", **changed: object) -> str:
        at = int(NOW.timestamp())
        claims = {
            "iss": ISSUER, "sub": "123", "aud": "sigstore", "iat": at, "exp": at + 300,
            "email": "dave@example.org", "email_verified": True,
        } | changed  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, signer, algorithm="ES256", headers={"kid": kid} if kid else {})

    return own, token


def test_a_token_of_a_pinned_issuer_names_its_person(oidc):
    own, token = oidc
    for proof in (token(), token(kid=None)):
        leaf = own.instance.authority.certify(request(fresh()), proof, NOW)
        assert identity(leaf, "leaf") == Identity(san="dave@example.org", issuer=ISSUER)


@pytest.mark.parametrize(
    "changed",
    [{"aud": "another"}, {"aud": None}, {"iss": "https://other.example"}, {"exp": 1}, {"iat": 99999999999},
     {"nbf": 99999999999}, {"email": ""}, {"email": 7}, {"email": None}, {"email_verified": False},
     {"email_verified": None}, {"sub": None}, {"exp": "soon"}, {"exp": float("inf")}, {"kid": "k0"}, {"kid": "k9"},
     {"signer": fresh()}],
    ids=lambda forged: str(sorted(forged)) if isinstance(forged, dict) else str(forged),
)  # fmt: skip
def test_any_other_token_is_refused(oidc, changed):
    own, token = oidc
    refused(own, lambda ca, key: token(**changed))


def test_a_token_without_signature_is_refused(oidc):
    own, _ = oidc
    at = int(NOW.timestamp())
    claims = {
        "iss": ISSUER,
        "sub": "x",
        "aud": "sigstore",
        "iat": at,
        "exp": at + 9,
        "email": "x@example.org",
    }
    for proof in (jwt.encode(claims, "", algorithm="none"), jwt.encode(claims, "k" * 64, algorithm="HS256")):
        refused(own, lambda ca, key, proof=proof: proof)


# The logs


def test_every_certificate_is_in_the_ct_log_before_it_is_used(own):
    own.sign()
    log = Log.read(own.workdir / "sigstore" / "ct")
    assert log.size == 1
    assert x509parts.tree_leaf_time(log.entry(0)) == int(NOW.timestamp()) * 1000
    assert BUILDER.san.encode() in log.entry(0)


def test_the_log_grows_and_each_checkpoint_holds_the_one_before(own):
    log = own.instance.log
    assert Log.read(log.folder).size == 2  # genesis leaves, so that no entry has index 0
    notes = []
    for _ in range(4):
        own.sign()
        notes.append(cp.parse_note(log.checkpoint()))
    key = cp.NoteKey(name="rekor.tallystick.local", kind=cp.Kind.ECDSA, public=log.key.public_key())
    reader = Log.read(log.folder)
    heads = [cp.parse(note.text) for note in notes]
    for note, older, newer in zip(notes[1:], heads, heads[1:], strict=False):
        cp.verify(note, key)
        proof = reader.consistency(older.size, newer.size)
        merkle.verify_consistency(older.size, older.root, newer.size, newer.root, proof)
    assert reader.verify().root == heads[-1].root


def test_a_log_that_lost_entries_does_not_sign(own):
    own.sign()
    leaves = own.workdir / "sigstore" / "rekor" / "leaves"
    leaves.write_bytes(leaves.read_bytes()[:-50])
    with pytest.raises(NotGenuine) as caught:
        own.sign()
    assert caught.value.code == "log.shorter"


def test_time_does_not_run_back(own):
    own.sign()
    authority, key = own.instance.authority, fresh()
    past = NOW - MINUTE
    with pytest.raises(Refused) as caught:
        authority.certify(request(key), answer(own, "alice", key, authority.challenge(), now=past), past)
    assert caught.value.code == "sigstore.clock"


EDWARDS_KEY = ed25519.Ed25519PrivateKey.generate()
EDWARDS = b64(
    x509.CertificateBuilder(x509.Name([]), x509.Name([]), EDWARDS_KEY.public_key(), 1, NOW, NOW + MINUTE)
    .sign(EDWARDS_KEY, None)
    .public_bytes(Encoding.PEM)
)  # a certificate, but of no key that our CA certifies
ENVELOPE = '{"payload":"","payloadType":"x","signatures":[{"sig":"AA=="}]}'


def hashed(algorithm: str = "sha256", value: str = "00" * 32) -> dict:
    """A hashedrekord entry whose signature does not hold."""
    signature = {"content": "AA==", "publicKey": {"content": "AA=="}}
    spec = {"data": {"hash": {"algorithm": algorithm, "value": value}}, "signature": signature}
    return {"kind": "hashedrekord", "apiVersion": "0.0.1", "spec": spec}


def enveloped(**content: object) -> dict:
    return {"kind": "dsse", "apiVersion": "0.0.1", "spec": {"proposedContent": content}}


@pytest.mark.parametrize(
    ("proposed", "error"),
    [
        (hashed() | {"kind": "intoto"}, Unsupported),
        (hashed() | {"apiVersion": "0.0.2"}, Unsupported),
        ({}, Unsupported),
        (hashed() | {"spec": []}, Malformed),
        (hashed() | {"spec": {}}, Malformed),
        (hashed(algorithm="sha1"), Malformed),
        (hashed(value="00"), Malformed),
        (hashed(), NotGenuine),
        (enveloped(), Malformed),
        (enveloped(envelope="{}"), Malformed),
        (enveloped(envelope=ENVELOPE, verifiers=[]), Malformed),
        (enveloped(envelope=ENVELOPE, verifiers=["AA=="]), NotGenuine),
        (enveloped(envelope=ENVELOPE, verifiers=[EDWARDS]), NotGenuine),
    ],
)
def test_the_log_takes_only_signatures_that_hold(box, proposed, error):
    before = Log.read(box.instance.log.folder).size
    with pytest.raises(error):
        box.instance.log.submit(proposed, NOW)
    assert Log.read(box.instance.log.folder).size == before


def test_several_sign_at_once(own):
    bundles: list[bytes] = []
    threads = [threading.Thread(target=lambda: bundles.append(own.sign())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bundles) == 6
    for bundle in bundles:
        own.verify(bundle)


# The folder


def test_keys_are_for_their_owner(own):
    keys = [*own.workdir.rglob("*.key"), *own.workdir.rglob("key.pem")]
    assert len(keys) == 5
    assert [path for path in keys if path.stat().st_mode & 0o077] == []
    (own.workdir / "sigstore" / "ca.key").chmod(0o644)
    with pytest.raises(Misuse) as caught:
        own.sign()
    assert caught.value.code == "key.readable"


def test_long_issuers_are_written_too(own):
    """DER lengths from 128 on take more than one byte."""
    long = Identity(san=BUILDER.san, issuer="https://issuer.example/" + "x" * 300)
    assert identity(own.leaf(fresh(), long), "leaf") == long


def test_a_sigstore_is_not_made_over_another(own):
    before = {path: path.read_bytes() for path in own.workdir.rglob("*") if path.is_file()}
    with pytest.raises(Misuse) as caught:
        instance.create(own.workdir / "sigstore", NOW)
    assert caught.value.code == "sigstore.exists"
    assert {path: path.read_bytes() for path in own.workdir.rglob("*") if path.is_file()} == before


def test_a_second_key_for_one_name_is_refused(own):
    with pytest.raises(Misuse) as caught:
        instance.enrol(own.workdir / "sigstore", ALICE, keyfile.public_pem(fresh()))
    assert caught.value.code == "sigstore.enrolled"


def test_keys_with_a_passphrase_stay_closed_without_it(tmp_path):
    instance.create(tmp_path / "sigstore", NOW, b"open")
    key = people.create(tmp_path / "people" / "alice", ALICE, None, b"open")
    instance.enrol(tmp_path / "sigstore", ALICE, keyfile.public_pem(key))
    assert b"ENCRYPTED" in (tmp_path / "sigstore" / "ca.key").read_bytes()
    with sigstore.embedded(tmp_path, "alice", NOW, b"open") as signer:
        signer.statement(PAYLOAD)
    for wrong in (None, b"shut"):
        with pytest.raises(Misuse) as caught, sigstore.embedded(tmp_path, "alice", NOW, wrong):
            pass
        assert caught.value.code == "key.passphrase"


RSA_PEM = rsa.generate_private_key(65537, 2048).private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
)


@pytest.mark.parametrize("text", ["", "junk", keyfile.public_pem(fresh()), RSA_PEM.decode()])
def test_what_is_no_key_is_malformed(tmp_path, text):
    (tmp_path / "k").write_text(text)
    (tmp_path / "k").chmod(0o600)
    with pytest.raises(Malformed, match="private key"):
        keyfile.read(tmp_path / "k")


def test_there_has_to_be_a_sigstore(tmp_path):
    people.create(tmp_path / "people" / "alice", ALICE, None)
    with pytest.raises(Misuse) as caught, sigstore.embedded(tmp_path, "alice", NOW):
        pass
    assert caught.value.code == "sigstore.missing"


@pytest.mark.parametrize(
    ("name", "code"), [("dave", "person.unknown"), ("../alice", "person.name"), ("", "person.name")]
)
def test_there_has_to_be_the_person(own, name, code):
    with pytest.raises(Misuse) as caught, sigstore.embedded(own.workdir, name, NOW):
        pass
    assert caught.value.code == code


@pytest.mark.parametrize(
    "text", ["[]", '{"schema":"x"}', '{"schema":"tallystick/person/v1","san":"a"}',
             '{"schema":"tallystick/person/v1","san":"a","issuer":"b","more":1}',
             '{"schema":"tallystick/person/v1","san":"a","issuer":"b","builder_id":1}'],
)  # fmt: skip
def test_a_person_is_read_strictly(own, text):
    (own.workdir / "people" / "alice" / "person.json").write_text(text)
    with pytest.raises(Malformed, match="person"):
        people.describe(own.workdir, "alice")


@pytest.mark.parametrize(
    ("file", "text"),
    [("enrolled.json", "[]"), ("enrolled.json", '{"schema":"tallystick/enrolled/v1","people":[{}]}'),
     ("issuers.json", "[{}]"), ("issuers.json", '[{"issuer":"x","jwks":{},"claim":"name"}]'), ("issuers.json", "7")],
)  # fmt: skip
def test_the_folders_own_files_are_read_strictly(own, file, text):
    (own.workdir / "sigstore" / file).write_text(text)
    with pytest.raises(Malformed, match=r"enrolled|pinned"):
        instance.Instance(own.workdir / "sigstore")


# Signing


def test_a_subject_that_sigstore_python_does_not_take_is_named(box):
    payload = intoto.make([("repo", {"gitCommit": "ab" * 20})], "https://example.org/p", {})
    with pytest.raises(Unsupported, match=r"subject repo: want a digest of .*, got gitCommit"):
        box.sign(payload)


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b"{"])
def test_what_is_no_statement_is_not_signed(box, payload):
    with pytest.raises(TallystickError) as caught:
        box.sign(payload)
    assert caught.value.exit == 3


def test_an_error_of_the_callers_own_is_left_alone(box):
    with pytest.raises(FileNotFoundError), sigstore.embedded(box.workdir, "alice", NOW):
        raise FileNotFoundError("mine")


def test_a_person_is_with_the_sigstore_that_enrolled_them(own, tmp_path):
    other = Box.make(tmp_path / "other")
    (own.workdir / "people").rename(tmp_path / "gone")
    (other.workdir / "people").rename(own.workdir / "people")
    with pytest.raises(NotGenuine, match="no enrolled key signed it"):
        own.sign()


def test_an_old_now_is_refused_by_name(tmp_path):
    """sigstore-python's signer compares the certificate with the machine's clock."""
    box = Box.make(tmp_path)
    with pytest.raises(Refused) as caught, sigstore.embedded(box.workdir, "alice", NOW - DAY) as signer:
        signer.statement(PAYLOAD)
    assert caught.value.code == "sigstore.clock"


def test_the_signer_is_told_from_the_bundle(box, bundle):
    assert sigstore.signer_of(bundle) == BUILDER
    document = json.loads(bundle)
    document["verificationMaterial"]["publicKey"] = {"hint": "x"}
    del document["verificationMaterial"]["certificate"]
    with pytest.raises(NotGenuine, match="no certificate"):
        sigstore.signer_of(json.dumps(document).encode())


def test_outside_ci_there_is_no_ambient_token(monkeypatch):
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE"):
        monkeypatch.delenv(name, raising=False)
    assert sigstore.ambient_token() is None
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", raising=False)
    with pytest.raises(TallystickError) as caught:
        sigstore.ambient_token()
    assert caught.value.code == "sigstore.unreachable"


@pytest.mark.parametrize("config", [b"{}", b'{"mediaType":"x"}'])
def test_a_trust_config_is_read_before_anything_is_asked(config):
    with pytest.raises(Malformed, match="client trust config"), sigstore.keyless(config, "x"):
        pass


def test_a_real_sigstore_is_asked_by_its_trust_config(box):
    """The embedded instance's own config names hosts that nobody can reach: as far as a test without network goes."""
    config = (box.workdir / "sigstore" / "client_trust_config.json").read_bytes()
    with pytest.raises(Malformed, match="identity token"), sigstore.keyless(config, "no token"):
        pass
    at = int(datetime.now(UTC).timestamp())  # sigstore-python asks the machine's clock
    claims = {"iss": ISSUER, "sub": "x", "aud": "sigstore", "iat": at, "exp": at + 300}
    token = jwt.encode(claims, fresh(), algorithm="ES256")
    with pytest.raises(TallystickError) as caught, sigstore.keyless(config, token):
        pass
    assert (caught.value.code, int(caught.value.exit)) == ("sigstore.unreachable", 7)


SIGNER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from tallystick.signing import sigstore
work, out = Path(sys.argv[1]), Path(sys.argv[2])
payload = (work / "payload").read_bytes()
number = 0
while True:
    with sigstore.embedded(work, "alice", datetime.now(UTC).replace(microsecond=0)) as signer:
        for _ in range(5):
            sys.stdout.buffer.write(signer.statement(payload) + b"\\n")
            sys.stdout.flush()
"""


def signed_while_killed(box: Box, times: int) -> None:
    (box.workdir / "payload").write_bytes(PAYLOAD)
    seen = 0
    for number in range(times):
        process = subprocess.Popen(
            [sys.executable, "-c", SIGNER, str(box.workdir), str(box.workdir)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT / "pipeline")},
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(1 + number % 7)]
        process.kill()
        rest = process.stdout.read()
        process.wait()
        process.stdout.close()
        bundles = [line for line in (*lines, *rest.splitlines(keepends=True)) if line.endswith(b"\n")]
        log = Log.read(box.workdir / "sigstore" / "rekor")
        for bundle in bundles:
            document = json.loads(bundle)
            index = int(document["verificationMaterial"]["tlogEntries"][0]["logIndex"])
            body = document["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"]
            assert base64.b64decode(body) == log.entry(index)
            seen += 1
    with Log.open(box.workdir / "sigstore" / "rekor") as log:
        assert log.verify().size >= 2 + seen
    now = datetime.now(UTC).replace(microsecond=0)
    with sigstore.embedded(box.workdir, "alice", now) as signer:
        box.verify(signer.statement(PAYLOAD), signers=(ALICE,), now=now)


def test_kill_while_signing_leaves_a_sigstore_that_signs(own):
    signed_while_killed(own, 3)


@pytest.mark.soak
def test_kill_while_signing_500_times(own):
    signed_while_killed(own, 500)

"""Keys at rest: encrypted, in a token, and never in a process list."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import support_softhsm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from hypothesis import given
from hypothesis import strategies as st
from signing.boxes import BUILDER, NOW, PAYLOAD, PREDICATE, Box

from tallystick.core.errors import Malformed, Misuse, TallystickError, Unreachable, Unsupported
from tallystick.release import keys as release_keys
from tallystick.signing import hardware, keyfile, people, sigstore
from tallystick.signing.embedded import instance
from tallystick.signing.verify import Verifier

ROOT = Path(__file__).resolve().parents[2]
SECRET = b"correct horse"


def test_an_encrypted_key_opens_with_its_passphrase_alone(tmp_path):
    path = tmp_path / "a.key"
    key = ec.generate_private_key(ec.SECP256R1())
    keyfile.write(path, key)
    assert keyfile.kind(path) == "plain"
    keyfile.protect(path, SECRET)
    assert (keyfile.kind(path), path.stat().st_mode & 0o777) == ("encrypted", 0o600)
    assert keyfile.read(path, SECRET).private_numbers() == key.private_numbers()
    assert keyfile.read(path, lambda what: SECRET).private_numbers() == key.private_numbers()
    for wrong in (None, b"", b"other", lambda what: None):
        with pytest.raises(Misuse) as caught:
            keyfile.read(path, wrong)
        assert caught.value.code == "key.passphrase"
        assert SECRET.decode() not in str(caught.value)


def test_a_passphrase_is_asked_for_only_when_it_is_needed(tmp_path):
    path = tmp_path / "a.key"
    keyfile.write(path, ec.generate_private_key(ec.SECP256R1()))
    keyfile.read(path, lambda what: pytest.fail("asked for"))


def test_a_whole_sigstore_with_encrypted_keys_signs(tmp_path):
    box = Box.make(tmp_path)
    for path in (*tmp_path.rglob("*.key"), *tmp_path.rglob("key.pem")):
        keyfile.protect(path, SECRET)
    with pytest.raises(Misuse), sigstore.embedded(tmp_path, "ci-builder", NOW):
        pass
    with sigstore.embedded(tmp_path, "ci-builder", NOW, SECRET) as signer:
        bundle = signer.statement(PAYLOAD)
    box.verify(bundle)


def test_release_keys_are_encrypted_too(tmp_path):
    made = release_keys.make(tmp_path, "alice")
    keyfile.protect(tmp_path / release_keys.KEY_FILE, SECRET)
    assert release_keys.load(tmp_path, "alice", passphrase=SECRET).keyid == made.keyid
    with pytest.raises(Misuse):
        release_keys.load(tmp_path, "alice")


def tally(*arguments, home, environment=None, **options):
    command = [sys.executable, "-m", "tallystick.cli", *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT / "pipeline"), "TALLY_HOME": str(home)} | (environment or {})
    options |= {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "check": False}
    return subprocess.run(command, env=env, **options)


def by_descriptor(*arguments, home, secret=SECRET, **options):
    reading, writing = os.pipe()
    os.write(writing, secret + b"\n")
    os.close(writing)
    try:
        return tally("--passphrase-fd", str(reading), *arguments, home=home, pass_fds=(reading,), **options)
    finally:
        os.close(reading)


def test_the_command_line_takes_a_passphrase_where_nobody_can_see_it(tmp_path):
    Box.make(tmp_path)
    assert "plain" in tally("keys", "show", home=tmp_path).stdout
    (tmp_path / "channels").mkdir()
    (tmp_path / "layout").mkdir()
    done = by_descriptor("keys", "protect", home=tmp_path)
    assert (done.returncode, done.stdout.count("encrypted")) == (0, 5)
    shown = tally("keys", "show", home=tmp_path).stdout
    assert "plain" not in shown
    without = tally("sigstore", "checkpoint", home=tmp_path)
    assert (without.returncode, "[key.passphrase]" in without.stderr) == (2, True)
    assert by_descriptor("sigstore", "checkpoint", home=tmp_path).stdout.startswith("rekor.tallystick.local")
    wrong = by_descriptor("sigstore", "checkpoint", home=tmp_path, secret=b"wrong")
    assert (wrong.returncode, "wrong" in wrong.stdout) == (2, False)
    named = tally(
        "--passphrase-env",
        "MINE",
        "sigstore",
        "checkpoint",
        home=tmp_path,
        environment={"MINE": SECRET.decode()},
    )
    assert named.returncode == 0
    for arguments, code in (
        (["--passphrase-env", "NOWHERE"], "missing"),
        (["--passphrase-fd", "77"], "missing"),
    ):
        done = tally(*arguments, "sigstore", "checkpoint", home=tmp_path)
        assert (done.returncode, f"[passphrase.{code}]" in done.stderr) == (2, True)


def test_keys_of_nowhere_are_misuse(tmp_path):
    Box.make(tmp_path)
    for arguments in (
        ["show", "--workdir", "/nonexistent"],
        ["protect", "--only", "../x"],
        ["hardware", "people/x", "pkcs11:"],
    ):
        done = tally("keys", *arguments, home=tmp_path)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)


# Hardware keys


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("pkcs11:", Malformed),
        ("pkcs11:token=t;object=o?module-path=/m&pin-value=1234", Malformed),
        ("pkcs11:token=t;token=u;object=o?module-path=/m", Malformed),
        ("pkcs11:token=t?module-path=/m", Malformed),
        ("pkcs11:object=o?module-path=/m", Malformed),
        ("file:token=t;object=o?module-path=/m", Malformed),
        ("pkcs11:token=t;object=o", Misuse),
    ],
)
def test_a_uri_says_token_and_object_and_no_pin(uri, error, monkeypatch):
    monkeypatch.delenv("TALLY_PKCS11_MODULE", raising=False)
    with pytest.raises(error):
        hardware.parse(uri)
    place = hardware.parse("pkcs11:token=my%20token;object=ca?module-path=/m.so")
    assert (place.token, place.label, place.module) == ("my token", "ca", "/m.so")


@given(st.text() | st.text(alphabet="tokenbjc=;?&%2-mduleph/").map("pkcs11:{}".format))
def test_whatever_is_read_as_a_uri_is_read_or_refused(text):
    try:
        place = hardware.parse(text)
    except TallystickError:
        return
    assert place.token
    assert place.label


@pytest.fixture
def token(tmp_path, monkeypatch):
    """A function that makes a key in a SoftHSM token and gives its URI."""
    with support_softhsm.token(tmp_path, monkeypatch) as found:

        def make(name, curve):
            from pkcs11 import Attribute, KeyType, Mechanism
            from pkcs11.util.ec import encode_named_curve_parameters

            def generate(session):
                if curve == "ed25519":
                    parameters = {Attribute.EC_PARAMS: b"\x13\x0cedwards25519"}
                    domain = session.create_domain_parameters(KeyType.EC_EDWARDS, parameters, local=True)
                    mechanism = Mechanism.EC_EDWARDS_KEY_PAIR_GEN
                    domain.generate_keypair(mechanism=mechanism, store=True, label=name)
                else:
                    parameters = {Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}
                    domain = session.create_domain_parameters(KeyType.EC, parameters, local=True)
                    domain.generate_keypair(store=True, label=name)

            return found.make(name, generate)

        yield make


@pytest.mark.parametrize("curve", ["secp256r1", "secp384r1"])
def test_a_token_signs_what_its_public_key_verifies(token, curve):
    key = hardware.load(token("one", curve), b"1234")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    key.public_key().verify(key.sign(b"data", ec.ECDSA(hashes.SHA384())), b"data", ec.ECDSA(hashes.SHA384()))
    digest, scheme = b"\x11" * 32, ec.ECDSA(utils.Prehashed(hashes.SHA256()))
    key.public_key().verify(key.sign(digest, scheme), digest, scheme)
    for reveal in (
        key.private_numbers,
        lambda: key.private_bytes(None, None, None),
        lambda: key.exchange(None, None),
    ):
        with pytest.raises(Misuse, match="stays in its token"):
            reveal()


def test_an_approvers_key_in_a_token_signs_links_and_channels(token, tmp_path):
    uri = token("alice", "ed25519")
    folder = tmp_path / "alice"
    folder.mkdir()
    (folder / release_keys.KEY_FILE).write_text(f"{uri}\n")
    (folder / release_keys.KEY_FILE).chmod(0o600)
    who = release_keys.load(folder, "alice", passphrase=b"1234")
    assert release_keys.holds(who.public_key, bytes.fromhex(who.signer.sign(b"text").signature), b"text")
    key = keyfile.read_any(folder / release_keys.KEY_FILE, b"1234")
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    with pytest.raises(Misuse, match="PIN of its own"):
        keyfile.protect(folder / release_keys.KEY_FILE, b"x")


def test_what_is_wrong_with_a_token_is_said(token):
    uri, odd = token("one", "secp256r1"), token("odd", "secp521r1")
    for pin in (None, b"9999"):
        hardware._session.cache_clear()
        with pytest.raises(Misuse) as caught:
            hardware.load(uri, pin)
        assert caught.value.code == "key.passphrase"
    with pytest.raises(Misuse, match="want one key of that label"):
        hardware.load(uri.replace("object=one", "object=two"), b"1234")
    with pytest.raises(Unreachable):
        hardware.load(uri.replace("token=tally", "token=other"), b"1234")
    with pytest.raises(Unreachable):
        hardware.load(uri.rpartition("=")[0] + "=/nonexistent.so", b"1234")
    with pytest.raises(Unsupported):
        hardware.load(odd, b"1234")


def test_the_embedded_ca_signs_with_keys_in_a_token(token, tmp_path):
    places = {
        "ca": token("ca", "secp384r1"),
        "ct": token("ct", "secp256r1"),
        "rekor": token("rekor", "secp256r1"),
    }
    instance.create(tmp_path / "w" / "sigstore", NOW, b"1234", hardware=places)
    key = people.create(tmp_path / "w" / "people" / "ci-builder", BUILDER, None)
    instance.enrol(tmp_path / "w" / "sigstore", BUILDER, keyfile.public_pem(key))
    assert {keyfile.kind(path) for path in (tmp_path / "w" / "sigstore").glob("*.key")} == {"hardware"}
    with sigstore.embedded(tmp_path / "w", "ci-builder", NOW, b"1234") as signer:
        bundle = signer.statement(PAYLOAD)
        root = signer.trusted_root
    Verifier(root).statement(bundle, signers=(BUILDER,), predicate_type=PREDICATE, now=NOW)

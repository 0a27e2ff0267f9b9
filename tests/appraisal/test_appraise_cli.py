"""``tally appraise`` on a real quote: allowed, refused with every reason, and not genuine."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from broker import world as brokers
from broker.world import Machine
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID, ObjectIdentifier
from policy.policyworld import NOW, WEIGHTS, digest

from tallystick.core.errors import Exit
from tallystick.policy import document

NONCE = bytes(range(32))


def certificate(subject: str, key, issuer: str, by, *, ca: bool) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), critical=True)
    )
    if not ca:
        usage = x509.ExtendedKeyUsage([ObjectIdentifier("2.23.133.8.3")])  # TCG: attestation key
        builder = builder.add_extension(usage, critical=False)
    return builder.sign(by, hashes.SHA256())


@pytest.fixture
def files(tmp_path):
    """A compiled policy, evidence of the machine that it releases to, and the authority of its key."""
    authority, ak = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
    root = certificate("authority", authority, "authority", authority, ca=True)
    leaf = certificate("ak", ak, "authority", authority, ca=False)
    machine = Machine(ak=ak, certificate=leaf.public_bytes(serialization.Encoding.DER))
    (tmp_path / "root.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "policy.json").write_bytes(document.write(brokers.form()))
    shown = machine.quote(NONCE)
    (tmp_path / "good.json").write_text(json.dumps(shown))
    machine.changed = {"pcr04": "ab" * 32}
    shown = machine.quote(NONCE)
    (tmp_path / "changed.json").write_text(json.dumps(shown))
    return tmp_path


def run(files, capsys, *more: str, evidence: str = "good.json") -> tuple[int, dict]:
    from tallystick.cli.app import _run

    arguments = [
        "appraise",
        str(files / evidence),
        "--kind",
        "tpm-quote",
        "--policy",
        str(files / "policy.json"),
    ]
    code = _run([*arguments, *more, "--json"])
    return code, json.loads(capsys.readouterr().out)


def asked(files, *, seconds: int = 5) -> list[str]:
    issued = (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    at = NOW.strftime("%Y-%m-%dT%H:%M:%SZ")
    root = f"software-tpm={files / 'root.pem'}"
    return ["--nonce", NONCE.hex(), "--issued-at", issued, "--at", at, "--root", root]


def codes(found) -> list[str]:
    return sorted({finding["code"] for finding in found["error"]["findings"]})


def test_a_released_machine_is_allowed_each_key(files, capsys):
    code, found = run(files, capsys, *asked(files))
    assert code == Exit.OK, found
    assert [(entry["key"], entry["allowed"]) for entry in found["decisions"]] == [
        (rule.key, True) for rule in brokers.form().keys
    ]
    assert {entry["release"] for entry in found["decisions"]} == {str(digest("release a"))}
    code, found = run(files, capsys, *asked(files), "--key", WEIGHTS)
    assert [entry["key"] for entry in found["decisions"]] == [WEIGHTS]


def test_a_changed_machine_is_refused_with_the_register_and_the_nearest_release(files, capsys):
    code, found = run(files, capsys, *asked(files), evidence="changed.json")
    assert (code, codes(found)) == (Exit.REFUSED, ["tpm.pcr04.mismatch"])
    assert f"nearest release: {digest('release a')}" in found["error"]["message"]
    assert found["error"]["findings"][0]["got"] == "ab" * 32


def test_without_a_challenge_the_answer_is_no(files, capsys):
    at, root = asked(files)[4:6], asked(files)[6:]
    code, found = run(files, capsys, *at, *root)
    assert (code, codes(found)) == (Exit.REFUSED, ["evidence.report-data.mismatch"])
    code, found = run(files, capsys, "--nonce", NONCE.hex())
    assert (code, found["error"]["code"]) == (Exit.MISUSE, "challenge.half")


def test_an_old_challenge_another_nonce_key_or_root_is_refused(files, capsys):
    code, found = run(files, capsys, *asked(files, seconds=301))
    assert (code, codes(found)) == (Exit.REFUSED, ["evidence.stale"])
    other = [bytes(32).hex() if text == NONCE.hex() else text for text in asked(files)]
    assert run(files, capsys, *other)[0] == Exit.NOT_GENUINE
    code, found = run(files, capsys, *asked(files), "--key", "no/such/key")
    assert (code, codes(found)) == (Exit.REFUSED, ["policy.key.unknown"])
    mine = [text.replace("software-tpm=", "hardware-tpm=") for text in asked(files)]
    code, found = run(files, capsys, *mine)
    assert (code, codes(found)) == (Exit.REFUSED, ["evidence.root.not-allowed"])


@pytest.mark.parametrize("root", ["software-tpm", "=x", "software-tpm="])
def test_a_root_is_a_label_and_a_file(files, capsys, root):
    code, found = run(files, capsys, "--root", root)
    assert (code, found["error"]["code"]) == (Exit.MISUSE, "root.malformed")


def test_a_root_that_is_no_certificate_is_malformed(files, capsys):
    (files / "root.pem").write_text("nonsense")
    assert run(files, capsys, *asked(files))[0] == Exit.MALFORMED


def test_a_policy_edited_by_hand_is_not_read(files, capsys):
    place = files / "policy.json"
    place.write_bytes(place.read_bytes().replace(b'"max_age_seconds":300', b'"max_age_seconds": 300'))
    assert run(files, capsys, *asked(files))[0] == Exit.MALFORMED

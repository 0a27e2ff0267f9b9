"""Confidential Containers' own KBS client against this broker: auth, attest, resource, unchanged.

TALLY_KBS_CLIENT names the program (Trustee's ``kbs-client`` with its sample attester). Sample evidence proves nothing,
and no broker takes it: a stand-in of the test reads it here, as if a machine had booted release "a".
Everything else is the service as it runs: sessions, binding, appraisal, log, wrapping.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from broker.world import CANARY, LABEL, WEIGHTS, new_world, registers, release
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tallystick.core.errors import NotGenuine
from tallystick.evidence import composite, kinds
from tallystick.evidence.claims import Claims
from tallystick.formats import ear

CLIENT = os.environ.get("TALLY_KBS_CLIENT", "")

pytestmark = pytest.mark.skipif(
    not Path(CLIENT).is_file(), reason="TALLY_KBS_CLIENT does not name Trustee's kbs-client"
)


@pytest.fixture
def running(tmp_path, monkeypatch):
    """A broker whose machines show sample evidence."""

    def verify(kind, raw, files, *, nonce, at):
        if kind != "sample":
            return real(kind, raw, files, nonce=nonce, at=at)
        said = json.loads(raw)
        if base64.b64decode(said["report_data"]) != nonce:
            raise NotGenuine("sample evidence over something else", code="sample.nonce")
        return Claims(
            kind="tpm-quote",
            values=registers("a"),
            roots=(LABEL,),
            report_data=nonce,
            valid_from=at - timedelta(hours=1),
            valid_until=at + timedelta(hours=1),
        )

    real = kinds.verify_one
    monkeypatch.setattr(kinds, "verify_one", verify)
    monkeypatch.setitem(composite._TEES, "sample", composite._Tee(name="sample", report_data_bytes=None))
    with new_world(tmp_path).running() as found:
        yield found


def client(running, *words: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(running.world.folder), "RUST_LOG": "warn"}
    command = [CLIENT, "--url", running.url, *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)


def last_refusal(running) -> list[str]:
    return next(leaf["codes"] for leaf in reversed(running.world.leaves()) if leaf["kind"] == "refusal")


def test_the_real_client_gets_a_key_by_ecdh(running):
    done = client(running, "get-resource", "--path", WEIGHTS)
    assert done.returncode == 0, done.stderr
    assert base64.b64decode(done.stdout.strip()) == CANARY
    kinds_logged = [leaf["kind"] for leaf in running.world.leaves()]
    assert kinds_logged[-2:] == ["attestation", "release"]


def test_the_real_client_reads_our_token(running):
    done = client(running, "attest")
    assert done.returncode == 0, done.stderr
    token = ear.parse(done.stdout.strip())
    assert [name for name, _ in token.ear.submods] == ["cpu0"]


def test_the_real_client_gets_a_key_by_rsa(running, tmp_path):
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    (tmp_path / "tee.pem").write_bytes(pem)
    done = client(running, "get-resource", "--path", WEIGHTS, "--tee-key-file", str(tmp_path / "tee.pem"))
    assert done.returncode == 0, done.stderr
    assert base64.b64decode(done.stdout.strip()) == CANARY


def test_the_real_client_gets_a_key_by_p_521(running, tmp_path):
    key = ec.generate_private_key(ec.SECP521R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "tee.pem").write_bytes(pem)
    done = client(running, "get-resource", "--path", WEIGHTS, "--tee-key-file", str(tmp_path / "tee.pem"))
    assert done.returncode == 0, done.stderr
    assert base64.b64decode(done.stdout.strip()) == CANARY


def test_the_real_client_understands_a_refusal(running):
    done = client(running, "get-resource", "--path", "acme/unknown/v1")
    assert done.returncode != 0
    assert "PolicyDeny" in done.stderr
    assert "key.unnamed" in last_refusal(running)
    running.world.revoke(release())
    gone = client(running, "get-resource", "--path", WEIGHTS)
    assert gone.returncode != 0
    assert last_refusal(running) == ["release.revoked"]
    assert CANARY.decode() not in gone.stdout + gone.stderr


def test_a_token_of_ours_alone_gets_the_real_client_nothing(running, tmp_path):
    """Trustee releases to a bearer token; here a session that has attested is asked for (invariant 11)."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    (tmp_path / "tee.pem").write_bytes(pem)
    token = client(running, "attest", "--tee-key-file", str(tmp_path / "tee.pem"))
    assert token.returncode == 0, token.stderr
    (tmp_path / "token").write_text(token.stdout)
    words = ["--tee-key-file", str(tmp_path / "tee.pem"), "--attestation-token", str(tmp_path / "token")]
    done = client(running, "get-resource", "--path", WEIGHTS, *words)
    assert done.returncode != 0
    assert not any(leaf["kind"] == "release" for leaf in running.world.leaves())

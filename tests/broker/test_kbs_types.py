"""Our messages through the KBS protocol's published types (the crate ``kbs-types``), and theirs through ours.

The Rust program in tests/foreign/kbstypes is built when the test runs. What those types drop or rename does not reach a
client that is built on them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from broker.world import INIT_DATA, Machine, new_world

from tallystick.handshake import jwe, kbs
from tallystick.handshake.jwe import TeeKeyPair
from tallystick.handshake.teekey import ECDH_ES_A256KW, RSA_OAEP_256

pytestmark = [pytest.mark.net, pytest.mark.soak]
SOURCE = Path(__file__).resolve().parents[1] / "foreign" / "kbstypes"
SECRET = b"CANARY-through their types"


@pytest.fixture(scope="module")
def through(tmp_path_factory):
    """Build the program; give a function that returns a message as the published types write it again."""
    cargo = shutil.which("cargo")
    if cargo is None:
        pytest.skip("no cargo on this machine")
    folder = tmp_path_factory.mktemp("kbstypes")
    shutil.copytree(SOURCE, folder / "source")
    env = {**os.environ, "CARGO_TARGET_DIR": str(folder / "target")}
    subprocess.run([cargo, "build", "--quiet", "--locked"], cwd=folder / "source", check=True, env=env)
    program = folder / "target" / "debug" / "kbstypes"

    def ask(kind: str, message: object) -> dict[str, object]:
        line = json.dumps({"kind": kind, "message": message})
        done = subprocess.run([program], input=line, capture_output=True, text=True, check=True)
        said = json.loads(done.stdout)
        assert "error" not in said, said
        return said["ok"]

    return ask


def test_what_we_send_as_a_client_is_what_the_types_say(through):
    asked = kbs.Request(tee="tpm").document()
    assert through("Request", asked) == asked
    for alg in (ECDH_ES_A256KW, RSA_OAEP_256):
        pair = TeeKeyPair.make(alg)
        message = kbs.Attestation(
            nonce="bm9uY2U=",
            tee_pubkey=pair.public,
            primary_evidence=Machine().quote(bytes(32)),
            init_data=INIT_DATA,
        ).document()
        again = through("Attestation", message)
        assert kbs.Attestation.parse(json.dumps(again).encode()).document() == message
        assert kbs.Attestation.parse(json.dumps(again).encode()).tee_pubkey == pair.public


def test_what_we_answer_as_a_broker_is_what_the_types_say(through, tmp_path):
    with new_world(tmp_path).running() as running:
        asked = kbs.Request(tee="tpm").document()
        challenge = running.ask("POST", kbs.AUTH_PATH, asked).json
        assert through("Challenge", challenge) == challenge
        refused = running.fetch("0" * 32).json
        again = through("ErrorInformation", refused)
        assert again == {name: refused[name] for name in ("type", "detail")}


@pytest.mark.parametrize("alg", [ECDH_ES_A256KW, RSA_OAEP_256])
def test_a_wrapped_key_is_read_and_written_again_by_the_types_and_still_opens(through, alg):
    pair = TeeKeyPair.make(alg)
    wrapped = json.loads(jwe.encrypt(SECRET, pair.public))
    again = through("Response", wrapped)
    assert {name: again[name] for name in ("encrypted_key", "iv", "ciphertext", "tag")} == {
        name: wrapped[name] for name in ("encrypted_key", "iv", "ciphertext", "tag")
    }
    assert pair.decrypt(json.dumps(wrapped).encode()) == SECRET

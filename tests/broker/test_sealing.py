"""Master keys outside the broker: in a hardware token, and in a transit engine."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import support_http
import support_softhsm
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from tallystick.broker import sealing
from tallystick.broker.vault import Vault, key_id
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Unreachable, Unsupported

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEY = key_id("acme/weights/v1")
SECRET = b"a secret that is looked for in files"
ROOT = Path(__file__).resolve().parents[2]


class Transit:
    """A transit engine: AES-GCM under a key of its own, with the API of Vault 1.17 and OpenBao 2."""

    def __init__(self) -> None:
        self.key = AESGCM(os.urandom(32))
        self.token = "s.token"
        self.seen: list[tuple[str, str]] = []
        self.status = 0
        self.raw: bytes | None = None
        self.location = ""

    def answer(self, path: str, token: str, asked: dict[str, str]) -> tuple[int, dict[str, object]]:
        self.seen.append((path, token))
        if token != self.token:
            return 403, {"errors": ["permission denied"]}
        if path == "/v1/transit/encrypt/tally":
            nonce = os.urandom(12)
            plain, beside = (base64.b64decode(asked[name]) for name in ("plaintext", "associated_data"))
            sealed = base64.b64encode(nonce + self.key.encrypt(nonce, plain, beside)).decode()
            return 200, {"data": {"ciphertext": f"vault:v1:{sealed}", "key_version": 1}}
        if path == "/v1/transit/decrypt/tally":
            data = base64.b64decode(asked["ciphertext"].removeprefix("vault:v1:"))
            try:
                plain = self.key.decrypt(data[:12], data[12:], base64.b64decode(asked["associated_data"]))
            except InvalidTag:
                return 400, {"errors": ["cipher: message authentication failed"]}
            return 200, {"data": {"plaintext": base64.b64encode(plain).decode()}}
        return 404, {"errors": []}

    @contextmanager
    def serving(self):
        state = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, said = state.answer(self.path, self.headers.get("X-Vault-Token", ""), asked)
                body = state.raw if state.raw is not None else json.dumps(said).encode()
                self.send_response(state.status or status)
                if state.location:
                    self.send_header("Location", state.location)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        with support_http.serving(Handler) as url:
            yield f"{url}/v1/transit/keys/tally"


@pytest.fixture
def transit():
    state = Transit()
    with state.serving() as url:
        yield state, url


@pytest.fixture
def hsm(tmp_path, monkeypatch):
    with support_softhsm.token(tmp_path, monkeypatch) as found:
        yield found


def _aes(session, name, bits=256):
    from pkcs11 import KeyType

    session.generate_key(KeyType.AES, bits, store=True, label=name)


@pytest.fixture(params=["hsm", "transit"])
def master(request):
    """Where a master key is, and what opens it."""
    if request.param == "hsm":
        token = request.getfixturevalue("hsm")
        uri = token.make("tally", lambda session: _aes(session, "tally"))
        return {"master": "pkcs11", "key": uri}, support_softhsm.PIN
    return {"master": "transit", "key": request.getfixturevalue("transit")[1]}, "s.token"


def test_a_key_comes_back_and_no_file_holds_it_or_a_master_key(master, tmp_path):
    folder = tmp_path / "vault"
    place, opens = master
    Vault.create(folder, passphrase=opens, master=place).bring(KEY, SECRET, channel="staging", now=NOW)
    assert Vault.open(folder, passphrase=opens).material(KEY).secret == SECRET
    assert not (folder / "master.key").exists()
    for path in folder.rglob("*"):
        assert path.is_dir() or (SECRET not in path.read_bytes() and opens.encode() not in path.read_bytes())


def test_a_key_file_that_was_edited_or_renamed_is_not_genuine(master, tmp_path):
    folder = tmp_path / "vault"
    vault = Vault.create(folder, passphrase=master[1], master=master[0])
    vault.bring(KEY, SECRET, channel="staging", now=NOW)
    (file,) = (folder / "keys").glob("*.json")
    document = json.loads(file.read_bytes())
    for name, value in (("channel", "production"), ("key", "acme/other/v1"), ("state", "destroyed")):
        file.write_bytes(json.dumps({**document, name: value}).encode())
        with pytest.raises(NotGenuine) as caught:
            vault.material(KEY)
        assert caught.value.code == "vault.not-genuine"
    head, _, tail = document["sealed"].rpartition(":")
    data = bytearray(base64.b64decode(tail))
    data[-1] ^= 1
    sealed = f"{head}:{base64.b64encode(data).decode()}".lstrip(":")
    file.write_bytes(json.dumps({**document, "sealed": sealed}).encode())
    with pytest.raises(NotGenuine):
        vault.material(KEY)


def test_the_wrong_pin_or_token_opens_nothing_and_makes_nothing(master, tmp_path):
    folder = tmp_path / "vault"
    Vault.create(folder, passphrase=master[1], master=master[0]).generate(KEY, channel="staging", now=NOW)
    from tallystick.signing import hardware

    hardware._session.cache_clear()
    with pytest.raises((Misuse, Unreachable)):
        Vault.open(folder, passphrase="9999").material(KEY)
    with pytest.raises((Misuse, Unreachable)):
        Vault.create(tmp_path / "other", passphrase="9999", master=master[0])
    assert not (tmp_path / "other").exists()
    with pytest.raises(Misuse):
        Vault.open(folder)


def test_many_threads_use_one_token(hsm, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    uri = hsm.make("tally", lambda session: _aes(session, "tally"))
    sealer = sealing.TokenSealer(uri, support_softhsm.PIN.encode())

    def there_and_back(number: int) -> bool:
        secret = str(number).encode() * 10
        return sealer.unseal(sealer.seal(secret, b"b"), b"b") == secret

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(there_and_back, range(200)))


def test_a_token_without_the_key_or_with_a_short_one(hsm):
    short = hsm.make("short", lambda session: _aes(session, "short", 128))
    with pytest.raises(Misuse, match="want one secret key"):
        sealing.TokenSealer(hsm.uri("none"), support_softhsm.PIN.encode())
    with pytest.raises(Unsupported, match="32 bytes"):
        sealing.TokenSealer(short, support_softhsm.PIN.encode())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://vault.example/v1/transit/keys/tally",
        "https://vault.example/v1/transit/tally",
        "https://vault.example/transit/keys/tally",
        "https://u:p@vault.example/v1/transit/keys/tally",
        "https://vault.example/v1/transit/keys/tally?x=1",
        "https://vault.example/v1/../keys/..%2f",
    ],
)
def test_a_transit_address_that_is_none(url):
    with pytest.raises(Misuse):
        sealing.TransitSealer(url, b"token")


def test_a_transit_engine_that_is_gone_refuses_redirects_or_talks_nonsense(transit):
    state, url = transit
    sealer = sealing.TransitSealer(url, b"s.token")
    sealed = sealer.seal(SECRET, b"b")
    for status, raw in (
        (503, None),
        (403, None),
        (200, b"not json"),
        (200, b"[]"),
        (200, b"{" + b" " * (2 << 20)),
    ):
        state.status, state.raw = status, raw
        with pytest.raises(Unreachable):
            sealer.unseal(sealed, b"b")
    state.status, state.raw, state.location = 307, None, "http://127.0.0.1:1/v1/transit/decrypt/tally"
    with pytest.raises(Unreachable, match="307"):
        sealer.unseal(sealed, b"b")
    with pytest.raises(Unreachable) as caught:
        sealing.TransitSealer("http://127.0.0.1:1/v1/transit/keys/tally", b"t").seal(SECRET, b"b")
    assert "s.token" not in str(caught.value)


def test_somebody_elses_ciphertext_is_not_genuine(transit):
    _, url = transit
    sealer = sealing.TransitSealer(url, b"s.token")
    with pytest.raises(NotGenuine):
        sealer.unseal(sealer.seal(SECRET, b"b"), b"other")


@given(
    st.dictionaries(st.sampled_from(["nonce", "sealed"]), st.none() | st.text(max_size=40) | st.integers())
)
def test_fields_of_another_form_are_malformed_or_not_genuine(fields):
    for sealer in (
        sealing.LocalSealer(bytes(32)),
        sealing.TransitSealer("http://127.0.0.1:1/v1/t/keys/k", b"t"),
    ):
        with pytest.raises((Malformed, NotGenuine, Unreachable)):
            sealer.unseal(fields, b"")


def test_a_broker_is_made_with_a_token(hsm, tmp_path):
    uri = hsm.make("tally", lambda session: _aes(session, "tally"))
    (tmp_path / "pin").touch(mode=0o600)
    (tmp_path / "pin").write_text(support_softhsm.PIN + "\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT / "pipeline")}
    place = ["--workdir", str(tmp_path / "work"), "--passphrase-file", str(tmp_path / "pin")]

    def tally(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tallystick.cli", "broker", *words]
        return subprocess.run(command, capture_output=True, text=True, env=env, check=False)

    made = tally("init", *place, "--hsm", uri)
    assert made.returncode == 0, made.stderr
    assert tally("key", "generate", KEY, "--channel", "staging", *place).returncode == 0
    assert KEY in tally("key", "list", *place).stdout
    shutil.rmtree(tmp_path / "tokens")
    gone = tally("key", "list", *place)
    assert gone.returncode == 7
    assert "Traceback" not in gone.stderr
    both = tally("init", *place, "--hsm", uri, "--transit", "https://x/v1/t/keys/k")
    assert both.returncode == 2

"""Sealed keys in a key-value engine, under the documented API of Vault's and OpenBao's version 2."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

import pytest
import support_http
from broker.test_cli import tally
from broker.test_sealing import Transit
from hypothesis import given
from hypothesis import strategies as st

from tallystick.broker.kvplace import KvPlace
from tallystick.broker.places import NEW, FolderPlace
from tallystick.broker.vault import Vault, key_id
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Refused, TallystickError, Unreachable

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEY = key_id("acme/weights/v1")
SECRET = b"CANARY-a secret that is looked for"
NAME = "ab" * 32


class Engine:
    """A key-value engine, version 2: versions, check-and-set, destroy, list; and a transit engine beside it."""

    def __init__(self) -> None:
        self.token = "s.token"
        self.kept: dict[str, dict[int, str | None]] = {}
        self.transit = Transit()
        self.transit.token = self.token
        self.answers: list[tuple[int, bytes]] = []  # that are given instead, once each

    def answer(self, method: str, path: str, query: str, token: str, asked: dict) -> tuple[int, object]:
        if token != self.token:
            return 403, {"errors": ["permission denied"]}
        if path.startswith("/v1/transit/"):
            return self.transit.answer(path, token, asked)
        _, _, mount, what, *rest = path.split("/")
        name = "/".join(rest)
        if mount != "kv":
            return 404, {"errors": []}
        versions = self.kept.get(name, {})
        match method, what:
            case "GET", "metadata" if query == "list=true":
                keys = [one.removeprefix(f"{name}/") for one in self.kept if one.startswith(f"{name}/")]
                return (200, {"data": {"keys": keys}}) if keys else (404, {"errors": []})
            case "GET", "data":
                if not versions:
                    return 404, {"errors": []}
                last = max(versions)
                said = {"data": {"data": None, "metadata": {"version": last, "destroyed": True}}}
                if versions[last] is None:
                    return 404, said
                return 200, {"data": {"data": json.loads(versions[last]), "metadata": {"version": last}}}
            case "POST", "data":
                last = max(versions, default=0)
                if asked["options"]["cas"] != last:
                    return 400, {"errors": ["check-and-set parameter did not match the current version"]}
                self.kept.setdefault(name, {})[last + 1] = json.dumps(asked["data"])
                return 200, {"data": {"version": last + 1}}
            case "POST", "destroy":
                for version in asked["versions"]:
                    versions[version] = None
                return 204, None
        return 405, {"errors": []}

    @contextmanager
    def serving(self):
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                parts, token = urlsplit(self.path), self.headers.get("X-Vault-Token", "")
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, said = engine.answer(
                    self.command, parts.path, parts.query, token, json.loads(body or b"{}")
                )
                data = b"" if said is None else json.dumps(said).encode()
                if engine.answers:
                    status, data = engine.answers.pop(0)
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        with support_http.serving(Handler) as url:
            yield f"{url}/v1"


@pytest.fixture
def engine():
    state = Engine()
    with state.serving() as url:
        yield state, url


@pytest.fixture(params=["folder", "kv"])
def place(request, tmp_path):
    if request.param == "kv":
        _, url = request.getfixturevalue("engine")
        return KvPlace(f"{url}/kv/data/tally", b"s.token")
    made = FolderPlace(tmp_path)
    made.create()
    return made


def test_a_place_keeps_what_was_written_after_what_was_read(place):
    assert (place.read(NAME), place.names()) == (None, ())
    place.write(NAME, b"one", after=NEW)
    first = place.read(NAME)
    assert (first.data, place.names()) == (b"one", (NAME,))
    with pytest.raises(Refused) as caught:
        place.write(NAME, b"two", after=NEW)
    assert caught.value.code == "key.raced"
    place.write(NAME, b"two", after=first.version)
    with pytest.raises(Refused):
        place.write(NAME, b"three", after=first.version)
    assert place.read(NAME).data == b"two"


@pytest.mark.parametrize("master", ["file", "transit"])
def test_a_vault_in_the_engine_keeps_its_keys_there_and_sealed(engine, tmp_path, master):
    state, url = engine
    folder = tmp_path / "vault"
    sealed = {"master": "transit", "key": f"{url}/transit/keys/tally"} if master == "transit" else None
    made = Vault.create(folder, passphrase="s.token", master=sealed, kv={"url": f"{url}/kv/data/tally"})
    made.bring(KEY, SECRET, channel="staging", now=NOW)
    vault = Vault.open(folder, passphrase="s.token")
    assert vault.material(KEY).secret == SECRET
    assert [one.key for one in vault.records()] == [KEY]
    assert not list(folder.glob("keys/*"))
    assert SECRET.decode() not in json.dumps(state.kept)
    with pytest.raises(Refused, match="is taken"):
        vault.generate(KEY, channel="production", now=NOW)
    vault.destroy(KEY, now=NOW)
    with pytest.raises(Refused, match="was destroyed"):
        vault.material(KEY)
    (versions,) = state.kept.values()
    assert versions[1] is None, "the sealed secret is still there"


def test_a_document_that_somebody_edited_or_renamed_in_the_engine_opens_for_nobody(engine, tmp_path):
    state, url = engine
    vault = Vault.create(tmp_path / "v", passphrase="s.token", kv={"url": f"{url}/kv/data/tally"})
    vault.bring(KEY, SECRET, channel="staging", now=NOW)
    ((path, versions),) = state.kept.items()
    good = json.loads(versions[1])
    changed = json.loads(good["document"]) | {"channel": "production"}
    versions[1] = json.dumps({"document": json.dumps(changed)})
    with pytest.raises(NotGenuine):
        vault.material(KEY)
    for other in ({}, {"document": 1}, {"other": "x"}):
        versions[1] = json.dumps(other)
        with pytest.raises(NotGenuine):
            vault.material(KEY)
    versions[1] = json.dumps(good)
    vault.generate(key_id("acme/other/v1"), channel="staging", now=NOW)
    other = next(name for name in state.kept if name != path)
    state.kept[other][1] = json.dumps(good)
    with pytest.raises(NotGenuine, match="got the file of key acme/weights/v1"):
        vault.material(key_id("acme/other/v1"))


def test_an_engine_that_is_gone_or_talks_nonsense_is_unreachable(engine):
    state, url = engine
    place = KvPlace(f"{url}/kv/data/tally", b"s.token")
    place.write(NAME, b"one", after=NEW)
    for status, data in (
        (503, b""),
        (403, b"{}"),
        (307, b""),
        (200, b"no"),
        (200, b" " * (2 << 20)),
        (404, b"[]"),
    ):
        state.answers = [(status, data)]
        if status == 404:
            assert place.read(NAME) is None
            continue
        with pytest.raises((Unreachable, NotGenuine)):
            place.read(NAME)
        state.answers = [(status, data)]
        with pytest.raises(Unreachable):
            place.names()
    with pytest.raises(Unreachable) as caught:
        KvPlace("http://127.0.0.1:1/v1/kv/data/tally", b"s.token").read(NAME)
    assert "s.token" not in str(caught.value)
    state.answers = [(200, b"{}"), (500, b"")]
    with pytest.raises(Unreachable):
        place.write(NAME, b"two", after=1)


def test_the_wrong_token_makes_no_vault(engine, tmp_path):
    _, url = engine
    with pytest.raises(Unreachable):
        Vault.create(tmp_path / "v", passphrase="other", kv={"url": f"{url}/kv/data/tally"})
    assert not (tmp_path / "v").exists()
    with pytest.raises(Misuse, match="token is missing"):
        Vault.create(tmp_path / "v", kv={"url": f"{url}/kv/data/tally"})


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://vault.example/v1/kv/data/tally",
        "https://vault.example/v1/kv/tally",
        "https://vault.example/v1/kv/data/",
        "https://vault.example/v1/kv/data/../sys",
        "https://u:p@vault.example/v1/kv/data/tally",
        "https://vault.example/v1/kv/data/tally?x=1",
        "https://vault.example/v1/kv/data/tally#x",
    ],
)
def test_an_address_that_is_none(url):
    with pytest.raises(Misuse):
        KvPlace(url, b"token")


def test_one_secret_opens_a_vault(engine, tmp_path):
    _, url = engine
    with pytest.raises(Misuse, match="same service"):
        Vault.create(
            tmp_path / "v",
            passphrase="s.token",
            master={"master": "pkcs11", "key": "pkcs11:token=x"},
            kv={"url": f"{url}/kv/data/tally"},
        )
    Vault.create(tmp_path / "v", passphrase="s.token", kv={"url": f"{url}/kv/data/tally"})
    path = tmp_path / "v" / "vault.json"
    for kv in (None, [], {"url": 1}, {"url": "x", "ca": 1}):
        path.write_text(json.dumps({**json.loads(path.read_text()), "kv": kv}))
        with pytest.raises(Malformed):
            Vault.open(tmp_path / "v", passphrase="s.token")


@given(st.binary(max_size=60) | st.text(max_size=30).map(lambda text: json.dumps({"data": text}).encode()))
def test_any_answer_of_the_engine_is_refused_by_name(shared_engine, data):
    state, url = shared_engine
    state.answers = [(200, data)]
    with pytest.raises(TallystickError):
        KvPlace(f"{url}/kv/data/tally", b"s.token").read(NAME)


@pytest.fixture(scope="module")
def shared_engine():
    state = Engine()
    with state.serving() as url:
        yield state, url


def test_a_broker_is_made_with_its_keys_in_the_engine(engine, tmp_path):
    state, url = engine
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text("s.token\n")
    place = ["--workdir", tmp_path / "work", "--passphrase-file", tmp_path / "token"]
    made = ["--transit", f"{url}/transit/keys/tally", "--kv", f"{url}/kv/data/tally"]
    tally("broker", "init", *place, *made)
    tally("broker", "key", "generate", KEY, "--channel", "staging", *place)
    said = tally("broker", "key", "rotate", KEY, *place, "--json")
    assert (said["key"], said["replaces"]) == ("acme/weights/v2", KEY)
    assert f"replaces {KEY}" in tally("broker", "key", "list", *place)
    assert len(state.kept) == 2
    tally("broker", "init", "--workdir", tmp_path / "other", "--kv-ca", tmp_path / "token", fails=2)

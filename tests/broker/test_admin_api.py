"""Key operations over the network: by signed requests of enrolled administrators, and in no other way."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from broker.test_cli import tally
from broker.world import CANARY, WEIGHTS, Ticking, new_world
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tallystick.broker import adminapi, adminauth, admins
from tallystick.broker.adminauth import AdminKey, Call
from tallystick.broker.adminclient import AdminClient
from tallystick.broker.admins import Admin
from tallystick.broker.keyops import Action, KeyOperation
from tallystick.broker.tls import TlsFiles
from tallystick.broker.vault import key_id
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Refused, TallystickError, Unsupported
from tallystick.handshake.fields import b64url

NEW = key_id("acme/new/v1")
KEYS = adminapi.KEYS_PATH


def make_key(audience: str) -> AdminKey:
    return AdminKey(audience=audience, private=ec.generate_private_key(ec.SECP256R1()))


def jwk(key: AdminKey) -> dict[str, str]:
    return {name: value for name, value in key.public.document().items() if name != "alg"}


def enrol(running, *channels: str, name: str = "alice") -> AdminKey:
    key = make_key(running.broker.log_key.verifier_line())
    admins.enrol(running.world.home.admins, Admin.parse(name, channels or ("staging",), jwk(key)))
    return key


def client(running, key: AdminKey) -> AdminClient:
    return AdminClient(running.url, key, now=lambda: running.world.clock.at)


def operation(action: Action, key: str = NEW, **more: object) -> KeyOperation:
    return KeyOperation(action=action, key=key_id(key), **more)


@pytest.fixture(scope="module")
def alice(steady):
    """An administrator of the broker that all tests of this file only ask."""
    return enrol(steady)


def send(
    running, token: str, *, method: str = "GET", path: str = KEYS, body: bytes = b"", scheme: str = "Bearer"
):
    headers = {"Authorization": f"{scheme} {token}"} if token else {}
    return running.ask(method, path, body, headers=headers)


def leaves(running, kind: str) -> list[dict[str, object]]:
    return [leaf for leaf in running.world.leaves() if leaf["kind"] == kind]


def test_keys_are_made_rotated_listed_and_destroyed(running):
    admin = client(running, enrol(running))
    assert admin.operate(operation(Action.GENERATE, channel="staging"))["state"] == "live"
    rotated = admin.operate(operation(Action.ROTATE))
    assert (rotated["key"], rotated["replaces"]) == ("acme/new/v2", NEW)
    brought = operation(Action.IMPORT, "acme/own/v1", channel="staging", secret=b"brought along")
    assert admin.operate(brought)["origin"] == "imported"
    assert running.broker.vault.material(key_id("acme/own/v1")).secret == b"brought along"
    assert admin.operate(operation(Action.DESTROY))["state"] == "destroyed"
    listed = admin.keys()
    assert {one["key"]: one["state"] for one in listed}[NEW] == "destroyed"
    assert [leaf["action"] for leaf in leaves(running, "key")][-4:] == [
        "generate",
        "rotate",
        "import",
        "destroy",
    ]
    assert {leaf["by"] for leaf in leaves(running, "key")[-4:]} == {"alice"}
    assert b"brought along" not in b"".join(
        path.read_bytes() for path in running.world.folder.rglob("*") if path.is_file()
    )


def test_each_use_is_a_leaf_that_names_who_and_what(running):
    admin = client(running, enrol(running))
    before = len(leaves(running, "admin"))
    admin.keys()
    admin.read_channel()
    used = leaves(running, "admin")[before:]
    assert [(leaf["by"], leaf["method"], leaf["path"]) for leaf in used] == [
        ("alice", "GET", KEYS),
        ("alice", "POST", adminapi.CHANNEL_PATH),
    ]
    assert used[0]["body"] == f"sha256:{hashlib.sha256(b'').hexdigest()}"


@pytest.mark.parametrize("path", [KEYS, adminapi.CHANNEL_PATH])
@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer a.b.c", "Bearer " + "a" * 9000]
)
def test_there_is_no_way_in_without_a_signature(steady, alice, path, header):
    before = len(steady.world.leaves())
    headers = {"Authorization": header} if header else {}
    told = steady.ask("POST", path, b"{}", headers=headers)
    assert (told.status, told.code) == (401, "admin.unauthorised")
    assert len(steady.world.leaves()) == before


def test_nobody_is_enrolled_until_somebody_is(running):
    key = make_key(running.broker.log_key.verifier_line())
    with pytest.raises(NotGenuine) as caught:
        client(running, key).keys()
    assert caught.value.code == "admin.unauthorised"


def test_a_stranger_learns_nothing_and_a_removed_administrator_is_one(running):
    key = enrol(running)
    stranger = make_key(key.audience)
    told = send(running, stranger.sign("GET", KEYS, b"", now=running.world.clock.at))
    assert (told.status, told.code) == (401, "admin.unauthorised")
    assert client(running, key).keys()
    admins.remove(running.world.home.admins, "alice")
    with pytest.raises(NotGenuine) as caught:
        client(running, key).keys()
    assert caught.value.code == "admin.unauthorised"


def test_a_signed_request_is_for_one_broker_method_path_body_and_minute_and_once(running):
    key, now = enrol(running), running.world.clock.at
    body = json.dumps({"action": "generate", "key": NEW, "channel": "staging"}).encode()
    other = replace(key, audience="tallystick-broker/other+00000000+AAAA")
    cases = {
        "admin.aud": (other.sign("POST", KEYS, body, now=now), KEYS, body),
        "admin.htm": (key.sign("GET", KEYS, body, now=now), KEYS, body),
        "admin.htu": (key.sign("POST", adminapi.CHANNEL_PATH, body, now=now), KEYS, body),
        "admin.digest": (key.sign("POST", KEYS, b"{}", now=now), KEYS, body),
        "admin.expired": (key.sign("POST", KEYS, body, now=now - timedelta(seconds=61)), KEYS, body),
    }
    for code, (token, path, sent) in cases.items():
        told = send(running, token, method="POST", path=path, body=sent)
        assert (told.status, told.code) == (401, code)
    early = key.sign("POST", KEYS, body, now=now + timedelta(seconds=60))
    assert send(running, early, method="POST", body=body).code == "admin.expired"
    token = key.sign("POST", KEYS, body, now=now)
    assert send(running, token, method="POST", body=body).status == 200
    again = send(running, token, method="POST", body=body)
    assert (again.status, again.code) == (401, "nonce.used")
    assert [leaf["key"] for leaf in leaves(running, "key")][-1:] == [NEW]


def test_an_administrator_has_the_keys_of_their_channels_alone(running):
    admin = client(running, enrol(running, "debug"))
    for asked in (
        operation(Action.DESTROY, WEIGHTS),
        operation(Action.ROTATE, WEIGHTS),
        operation(Action.GENERATE, channel="staging"),
        operation(Action.GENERATE, "acme/never/v1"),
    ):
        with pytest.raises(Refused) as caught:
            admin.operate(asked)
        assert caught.value.code == "admin.channel"
    assert admin.keys() == []
    assert running.broker.vault.material(key_id(WEIGHTS)).secret == CANARY


def test_what_can_not_be_done_is_refused_by_name(running):
    admin = client(running, enrol(running))
    with pytest.raises(Refused) as caught:
        admin.operate(operation(Action.GENERATE, WEIGHTS, channel="staging"))
    assert caught.value.code == "key.exists"
    with pytest.raises(Refused) as caught:
        admin.operate(operation(Action.GENERATE, channel="staging", secret=b"x"))
    assert caught.value.code == "key.secret"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"action":"read","key":"a/b/c"}', b'{"action":1}', b"\xff"]
)
def test_a_body_that_is_no_operation_is_refused_by_name(steady, alice, body):
    told = send(steady, alice.sign("POST", KEYS, body, now=steady.world.clock.at), method="POST", body=body)
    assert told.status == 400


def test_the_secret_of_an_import_is_in_no_answer_and_no_log_line(running, caplog):
    caplog.set_level("DEBUG")
    secret = b"CANARY-imported-over-the-network"
    key, sealed = enrol(running), base64.b64encode(b"CANARY-imported-over-the-network")
    body = json.dumps({"action": "import", "key": NEW, "channel": "x y", "secret": sealed.decode()}).encode()
    told = send(running, key.sign("POST", KEYS, body, now=running.world.clock.at), method="POST", body=body)
    assert told.status in (400, 403)
    said = told.body + caplog.text.encode() + json.dumps(running.world.leaves()).encode()
    assert secret not in said
    assert sealed not in said


def test_it_is_served_over_tls_or_to_this_machine_alone(world, tmp_path):
    files = TlsFiles(chain=tmp_path / "c", key=tmp_path / "k")
    served = {
        (host, tls is not None): adminapi.served(replace(world.config, host=host, tls=tls))
        for host in ("127.0.0.1", "::1", "localhost", "192.0.2.1", "10.0.0.1", "example.org")
        for tls in (None, files)
    }
    assert [where for where, yes in served.items() if not yes] == [
        ("192.0.2.1", False),
        ("10.0.0.1", False),
        ("example.org", False),
    ]
    key = make_key("x+00000000+AAAA")
    for url in (
        "http://10.0.0.1:1",
        "ftp://127.0.0.1",
        "https://",
        "http://127.0.0.1/path",
        "https://h/?x=1",
    ):
        with pytest.raises(Misuse):
            AdminClient(url, key, now=lambda: world.clock.at)


def test_the_file_of_administrators_is_the_owners_alone(running):
    key = enrol(running)
    running.world.home.admins.chmod(0o644)
    told = send(running, key.sign("GET", KEYS, b"", now=running.world.clock.at))
    assert told.status == 401
    assert told.code == "file.not-private"


def test_a_name_or_key_is_enrolled_once(tmp_path):
    path, key = tmp_path / "admins.json", make_key("x")
    admins.enrol(path, Admin.parse("alice", ("staging",), jwk(key)))
    for name, other in (("alice", make_key("x")), ("bob", key)):
        with pytest.raises(Refused, match="enrolled already"):
            admins.enrol(path, Admin.parse(name, ("staging",), jwk(other)))
    with pytest.raises(Refused, match="nobody"):
        admins.remove(path, "bob")
    assert admins.load(path)[0].document()["kid"] == key.public.thumbprint()


@pytest.mark.parametrize(
    ("name", "channels", "change", "error"),
    [
        ("", ("staging",), {}, Malformed),
        ("a b", ("staging",), {}, Malformed),
        ("alice", (), {}, Malformed),
        ("alice", ("Staging",), {}, Malformed),
        ("alice", ("staging",), {"d": "AAAA"}, Malformed),
        ("alice", ("staging",), {"crv": "P-384"}, Unsupported),
        ("alice", ("staging",), {"crv": "P-521"}, Unsupported),
        ("alice", ("staging",), {"x": "AAAA"}, Malformed),
        ("alice", ("staging",), {"kty": "RSA"}, Unsupported),
    ],
)
def test_who_can_not_be_enrolled(name, channels, change, error):
    with pytest.raises(error):
        Admin.parse(name, channels, {**jwk(make_key("x")), **change})


SIGNER = make_key("the broker")
ADMINS = (Admin.parse("alice", ("staging",), jwk(SIGNER)),)
CALL = Call(audience="the broker", method="POST", path=KEYS, body=b"{}")
AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
GOOD = SIGNER.sign("POST", KEYS, b"{}", now=AT)


def test_a_good_request_is_believed():
    admin, nonce = adminauth.verify(f"Bearer {GOOD}", ADMINS, CALL, now=AT)
    assert (admin.name, len(nonce)) == ("alice", 32)


@given(st.integers(0, len(GOOD) - 1), st.sampled_from("Aa0-_.=\n é") | st.characters())
def test_one_changed_character_is_not_believed(at, letter):
    changed = GOOD[:at] + letter + GOOD[at + 1 :]
    if changed != GOOD:
        with pytest.raises(NotGenuine):
            adminauth.verify(f"Bearer {changed}", ADMINS, CALL, now=AT)


@given(st.text())
def test_any_header_is_refused_by_name(header):
    with pytest.raises(NotGenuine) as caught:
        adminauth.verify(header, ADMINS, CALL, now=AT)
    assert caught.value.code == "admin.unauthorised"


@given(
    st.dictionaries(
        st.sampled_from(["aud", "htm", "htu", "digest", "iat", "exp", "jti"]),
        st.none() | st.integers() | st.text(max_size=5) | st.booleans() | st.lists(st.none(), max_size=1),
        min_size=1,
    )
)
def test_any_claims_that_an_administrator_signs_are_refused_by_name(said):
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    times = {"iat": int(AT.timestamp()), "exp": int(AT.timestamp()) + 60}
    claims = {**CALL.claims(), **times, "jti": "j", **said}
    if {**claims, "jti": "j"} == {**CALL.claims(), **times, "jti": "j"} and isinstance(claims["jti"], str):
        return
    header = {"typ": adminauth.TYPE, "alg": "ES256", "kid": SIGNER.public.thumbprint()}
    signed = ".".join(b64url(json.dumps(part).encode()) for part in (header, claims))
    r, s = decode_dss_signature(SIGNER.private.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    token = f"{signed}.{b64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"
    with pytest.raises(TallystickError):
        adminauth.verify(f"Bearer {token}", ADMINS, CALL, now=AT)


@pytest.mark.parametrize(
    "change", [{"alg": "none"}, {"alg": "HS256"}, {"typ": "JWT"}, {"kid": "x"}, {"crit": ["x"]}]
)
def test_another_header_is_not_believed(change):
    header, claims, signature = GOOD.split(".")
    said = json.loads(base64.urlsafe_b64decode(header + "=="))
    changed = b64url(json.dumps({**said, **change}).encode())
    with pytest.raises(NotGenuine) as caught:
        adminauth.verify(f"Bearer {changed}.{claims}.{signature}", ADMINS, CALL, now=AT)
    assert caught.value.code == "admin.unauthorised"


class Running(Ticking):
    """The world's clock, going: the command reads its own."""

    def __call__(self) -> datetime:
        return datetime.now(UTC).replace(microsecond=0)


def test_the_command_line_works_over_the_network(tmp_path):
    world = new_world(tmp_path / "w")
    world.clock = Running()
    here = ["--workdir", world.folder]
    with world.running() as running:
        line = running.broker.log_key.verifier_line()
        made = tally("broker", "admin", "new", "-o", tmp_path / "alice.key", "--broker", line)
        assert (tmp_path / "alice.key").stat().st_mode & 0o077 == 0
        (tmp_path / "alice.jwk").write_text(json.dumps(made))
        public = ["--key", tmp_path / "alice.jwk", *here]
        tally("broker", "admin", "enrol", "alice@example.org", "--channel", "staging", *public)
        far = ["--url", running.url, "--admin-key", tmp_path / "alice.key", "--json"]
        tally("broker", "key", "generate", NEW, "--channel", "staging", *far)
        assert tally("broker", "key", "rotate", NEW, *far)["replaces"] == NEW
        assert "acme/new/v2" in json.dumps(tally("broker", "key", "list", *far))
        taken = tally("broker", "key", "generate", NEW, "--channel", "staging", *far, fails=6)
        assert taken["error"]["code"] == "key.exists"
        assert "alice@example.org" in str(tally("broker", "admin", "list", *here))
        tally("broker", "admin", "remove", "alice@example.org", *here)
        tally("broker", "key", "list", *far, fails=5)
        assert [leaf["action"] for leaf in leaves(running, "admin") if "action" in leaf] == [
            "enrol",
            "remove",
        ]
    tally("broker", "key", "list", *far, fails=7)
    tally("broker", "key", "list", "--url", "https://127.0.0.1:1", fails=2)
    tally("broker", "admin", "new", "-o", tmp_path / "alice.key", "--broker", line, fails=2)
    tally("broker", "admin", "new", "-o", tmp_path / "bob.key", "--broker", "x", fails=2)

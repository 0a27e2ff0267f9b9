"""Slow, huge, deep and malformed requests; faults of the disk and the clock; and a secret that is never seen."""

import http.client
import json
import logging
import shutil
import socket
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from broker.world import CANARY, TOKENIZER, WEIGHTS, Machine, release
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick.broker import server
from tallystick.broker.store import Batch
from tallystick.broker.vault import Vault, key_id
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Refused, Unreachable
from tallystick.handshake import kbs
from tallystick.release.tuf import Folder

ERRORS = "https://github.com/confidential-containers/kbs/errors/"


def copied(world, folder):
    """The world's channel in another folder, as a replica has it."""
    shutil.copytree(world.channel.folder.path, folder)
    return replace(world.channel, folder=Folder(folder))


def connect(running):
    host, port = urlsplit(running.url).netloc.split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def written(caplog, count):
    """Wait until that many lines are logged: a request's line is written behind its answer."""
    for _ in range(200):
        if len(caplog.records) >= count:
            return
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"[]", "want a JSON object"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"version":"0.4.0","version":"0.4.0"}', "a duplicate key"),
        (b'{"version":NaN}', "a JSON number"),
        (b"[" * 2000, "nesting"),
        (b'{"a":' * 700 + b"1" + b"}" * 700, "nesting"),
        (b'{"version":"0.4.0","tee":"\\ud800"}', "a lone surrogate"),
        (b'{"version":' + b"9" * 5000 + b"}", "JSON within limits"),
    ],
)
def test_malformed_json_is_refused_by_name(steady, body, said):
    cookie, _ = steady.challenge()
    reply = steady.ask("POST", kbs.ATTEST_PATH, body, cookie=cookie)
    assert (reply.status, reply.code) == (400, "malformed")
    assert reply.json["type"] == f"{ERRORS}SerdeError"
    assert said in reply.json["detail"]


def test_deep_nesting_in_evidence_is_refused(steady):
    cookie, _ = steady.challenge()
    reply = steady.ask("POST", kbs.ATTEST_PATH, b'{"tee-evidence":' + b"[" * 200_000, cookie=cookie)
    assert reply.status == 400
    assert "nesting" in reply.json["detail"]


@pytest.mark.parametrize(
    ("path", "size"),
    [
        (kbs.AUTH_PATH, 5 << 10),
        (kbs.ATTEST_PATH, 2 << 20),
        (kbs.ENROL_PATH, 65 << 10),
        (kbs.ACTIVATE_PATH, 5 << 10),
    ],
)
def test_a_huge_body_is_refused_before_it_is_read(steady, path, size):
    cookie, _ = steady.challenge()
    with connect(steady) as peer:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nCookie: kbs-session-id={cookie}\r\nContent-Length: {size}\r\n\r\n"
        peer.sendall(head.encode())
        answer = b""
        while b"body.large" not in answer and (more := peer.recv(65536)):
            answer += more
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"body.large" in answer


def test_a_huge_body_without_a_length_is_cut_off(steady):
    connection = http.client.HTTPConnection(urlsplit(steady.url).netloc, timeout=20)
    connection.request("POST", kbs.AUTH_PATH, body=iter([b"x" * 4096] * 3), encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 413
    connection.close()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_an_encoded_body_is_not_decoded(steady, encoding):
    reply = steady.ask("POST", kbs.AUTH_PATH, b"\x1f\x8b", headers={"Content-Encoding": encoding})
    assert (reply.status, reply.code) == (415, "body.encoded")


def test_a_slow_body_ends(world):
    world.limits = replace(world.limits, body_seconds=0.2)
    with world.running() as running, connect(running) as peer:
        peer.sendall(f"POST {kbs.AUTH_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
        answer = peer.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert running.ask("GET", "/healthz").status == 200


@pytest.mark.parametrize("sent", [b"", b"POST /kbs/v0/auth HTTP/1.1\r\nHost: x\r\nX-"])
def test_a_slow_head_ends(world, sent):
    world.limits = replace(world.limits, header_seconds=0.2)
    with world.running() as running, connect(running) as peer:
        peer.sendall(sent)
        assert peer.recv(65536) == b"", "the connection is closed without an answer"


def test_a_huge_head_ends(steady):
    with connect(steady) as peer:
        peer.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        line = b"X-A: " + b"a" * 8000 + b"\r\n"
        answer = b""
        try:
            for _ in range(40):
                peer.sendall(line)
            answer = peer.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            answer = b"HTTP/1.1 400 "
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1",
        b"GET\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /kbs/v0/auth HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /kbs/v0/auth HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused_and_does_not_hurt(steady, sent):
    with connect(steady) as peer:
        peer.sendall(sent)
        answer = peer.recv(65536)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 ", b"HTTP/1.1 405 "))
    assert steady.ask("GET", "/healthz").status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", kbs.AUTH_PATH, 405),
        ("DELETE", kbs.RESOURCE_PATH + WEIGHTS, 405),
        ("POST", kbs.RESOURCE_PATH + WEIGHTS, 405),
        ("PUT", kbs.RESOURCE_PATH + WEIGHTS, 405),
        ("POST", "/kbs/v0/attestation-policy", 404),
        ("POST", "/kbs/v0/resource-policy", 404),
        ("POST", "/kbs/v0/reference-value", 404),
        ("GET", "/", 404),
        ("GET", "/kbs/v0/resource/", 404),
    ],
)
def test_there_is_no_way_to_upload_a_policy_or_a_key(steady, method, path, status):
    reply = steady.ask(method, path, b"{}")
    assert reply.status == status
    assert reply.json["type"] == f"{ERRORS}InvalidRequestPath"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.sampled_from(["nonce", "tee-pubkey", "message", "signature", "pcrs", "ak_certificate", "whole"]),
    value=st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=40)
    | st.lists(st.text(max_size=5), max_size=3)
    | st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)
def test_nearly_right_attestations_are_refused_by_name(steady, pair, place, value):
    machine = steady.certify(Machine(ak=_AK))
    cookie, nonce = steady.challenge()
    message = steady.message(machine, nonce, pair)
    evidence = message["tee-evidence"]["primary_evidence"]
    match place:
        case "nonce" | "tee-pubkey":
            message["runtime-data"][place] = value
        case "message" | "signature" | "pcrs":
            evidence["tpm_quote"][place] = value
        case "ak_certificate":
            evidence[place] = value
        case _:
            message["tee-evidence"]["primary_evidence"] = value
    reply = steady.ask("POST", kbs.ATTEST_PATH, message, cookie=cookie)
    assert reply.status in (400, 401)
    assert reply.code != "bug"
    assert steady.fetch(cookie).status == 401


def _key():
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(65537, 2048)


_AK = _key()


def test_without_its_leaf_no_key_leaves(running, pair, monkeypatch):
    def full(*args, **kwargs):
        raise Unreachable("broker store: disk full", code="store.unreachable")

    cookie, _ = running.attest(Machine(), pair)
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "append", full)
        refused = running.fetch(cookie)
        assert refused.status == 503
        assert refused.json["detail"] == "the broker can not answer now"
        assert b"ciphertext" not in refused.body
        _, unattested = running.attest(Machine(), pair)
        assert unattested.status == 503
    assert running.fetch(cookie).status == 200, "it goes on when the disk has room again"
    assert [leaf["kind"] for leaf in running.world.leaves()] == ["policy", "attestation", "release"]


def test_a_key_leaves_only_after_its_leaf_is_on_the_disk(running, pair, monkeypatch):
    """While the write hangs there is no answer; when it is done there is."""
    go, original = threading.Event(), Batch.end

    def slow(*args, **kwargs):
        go.wait(10)
        return original(*args, **kwargs)

    cookie, _ = running.attest(Machine(), pair)
    monkeypatch.setattr(Batch, "end", slow)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(running.fetch, cookie)
        time.sleep(0.3)
        assert not answer.done()
        go.set()
        assert answer.result(10).status == 200


def test_a_clock_that_was_set_back_decides_nothing(running, pair):
    cookie, _ = running.attest(Machine(), pair)
    assert running.fetch(cookie).status == 200
    running.world.clock.forward(hours=-1)
    for reply in (
        running.fetch(cookie),
        running.ask("POST", kbs.AUTH_PATH, kbs.Request(tee="tpm").document()),
    ):
        assert (reply.status, reply.code) == (503, "clock.behind")
    running.world.clock.forward(hours=1)
    assert running.fetch(cookie).status == 200


def test_a_broker_does_not_start_behind_its_own_past(world, pair):
    with world.running() as running:
        cookie, _ = running.attest(Machine(), pair)
        assert running.fetch(cookie).status == 200
    world.clock.forward(minutes=-10)
    with pytest.raises(Refused, match="has been at") as caught:
        world.open()
    assert caught.value.code == "clock.behind"


def test_a_broker_does_not_start_on_a_log_that_was_cut_back(world, pair):
    with world.running() as running:
        running.attest(Machine(), pair)
    with sqlite3.connect(world.home.store) as db:
        db.execute("DELETE FROM decisions WHERE position = (SELECT max(position) FROM decisions)")
    db.close()
    with pytest.raises(NotGenuine) as caught:
        world.open()
    assert caught.value.code == "log.shorter"


def test_sessions_and_used_nonces_outlive_the_broker(world, pair):
    """Every answer, and every attempt, counts for whoever has the store next."""
    with world.running() as running:
        machine = running.certify(Machine())
        cookie, _ = running.attest(machine, pair)
        other, nonce = running.challenge()
        wrong = running.message(machine, "AAAA", pair)
        assert running.ask("POST", kbs.ATTEST_PATH, wrong, cookie=other).code == "attestation.nonce"
    with world.running() as running:
        assert pair.decrypt(running.fetch(cookie).body) == CANARY
        message = running.message(machine, nonce, pair)
        again = running.ask("POST", kbs.ATTEST_PATH, message, cookie=other)
        assert (again.status, again.code) == (401, "nonce.used")
        world.clock.forward(minutes=6)
        assert running.fetch(cookie).code == "session.unknown"


def test_two_brokers_of_one_store_are_one_broker(world, pair):
    """A session begun at one attests at the other, once, and a revocation that one has seen holds at both."""
    machine = Machine()
    with world.running() as first, world.running() as second:
        cookie, nonce = first.challenge()
        message = first.message(first.certify(machine), nonce, pair)
        assert second.ask("POST", kbs.ATTEST_PATH, message, cookie=cookie).status == 200
        again = first.ask("POST", kbs.ATTEST_PATH, message, cookie=cookie)
        assert (again.status, again.code) == (401, "nonce.used")
        for one in (first, second):
            assert pair.decrypt(one.fetch(cookie).body) == CANARY
        world.revoke(release())
        for one in (first, second):
            assert one.fetch(cookie).code == "release.revoked"
    assert [leaf["kind"] for leaf in world.leaves()].count("policy") == 2


def test_a_broker_whose_channel_is_behind_releases_nothing(world, pair, tmp_path):
    """A replica's copy of the channel may be late: what another one has put in force holds for it."""
    late = replace(world, channel=copied(world, tmp_path / "late"))
    with world.running() as first, late.running() as second:
        cookie, _ = first.attest(Machine(), pair)
        assert second.fetch(cookie).status == 200
        world.revoke(release())
        assert first.fetch(cookie).code == "release.revoked"
        refused = second.fetch(cookie)
        assert refused.status == 403
        assert "rollback" in refused.code or "version" in refused.code
        assert second.ask("GET", "/readyz").status == 503


def test_many_clients_at_once_each_get_their_own(running):
    from tallystick.handshake.jwe import TeeKeyPair

    machine = running.certify(Machine())

    def one(_):
        pair = TeeKeyPair.make()
        cookie, reply = running.attest(machine, pair)
        assert reply.status == 200, reply.body
        return [pair.decrypt(running.fetch(cookie, key).body) for key in (WEIGHTS, TOKENIZER)]

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(one, range(40)))
    assert all(found[0] == CANARY for found in got)
    assert len({found[1] for found in got}) == 1
    leaves = running.world.leaves()
    assert [leaf["kind"] for leaf in leaves].count("release") == 80
    assert len({leaf["nonce"] for leaf in leaves if leaf["kind"] == "attestation"}) == 40


def test_one_nonce_sent_by_many_at_once_attests_once(running, pair):
    machine = running.certify(Machine())
    cookie, nonce = running.challenge()
    message = running.message(machine, nonce, pair)
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(running.ask, "POST", kbs.ATTEST_PATH, message, cookie=cookie) for _ in range(8)]
        statuses = sorted(answer.result().status for answer in sent)
    assert statuses == [200] + [401] * 7
    assert [leaf["kind"] for leaf in running.world.leaves()].count("attestation") == 1


def test_sessions_that_wait_take_no_memory(running):
    for _ in range(20):
        running.challenge()
    assert len(running.broker.sessions) == 0


def test_the_secret_is_never_seen_outside_its_wrapping(world, pair, caplog, capfd):
    """Everything that is written, logged or answered while keys are released, refused and destroyed."""
    seen = []
    with caplog.at_level(logging.DEBUG), world.running() as running:
        machine = running.certify(Machine())
        for attempt in range(3):
            cookie, reply = running.attest(machine, pair)
            seen += [reply.body, running.fetch(cookie).body]
            cookie, reply = running.attest(Machine(image=f"b{attempt}"), pair)
            seen += [reply.body, running.fetch(cookie).body, running.fetch(cookie, "a/b/c").body]
        for path in (kbs.AUTH_PATH, kbs.ATTEST_PATH, kbs.ENROL_PATH):
            seen.append(running.ask("POST", path, b"{").body)
        running.broker.vault.destroy(key_id(WEIGHTS), now=world.clock.at)
        seen.append(running.fetch(cookie).body)
    seen += [path.read_bytes() for path in world.folder.rglob("*") if path.is_file()]
    seen += [caplog.text.encode(), *(text.encode() for text in capfd.readouterr())]
    assert CANARY not in b"\n".join(seen)
    assert CANARY.hex().encode() not in b"\n".join(seen)
    import base64

    for cut in range(3):
        part = base64.b64encode(CANARY[cut : cut + 30])[2:-4]
        assert part not in b"\n".join(seen)


def test_the_access_log_has_no_cookie_no_token_and_no_foreign_path(running, pair, caplog):
    with caplog.at_level(logging.INFO, logger="tallystick.broker.access"):
        cookie, reply = running.attest(Machine(), pair)
        token = reply.json["token"]
        running.fetch(cookie, headers={"Authorization": f"Bearer {token}"})
        running.ask("GET", "/secret-in-a-path?token=secret-in-a-query")
        refused = running.fetch(cookie, "a/b/c")
        written(caplog, 5)
    lines = [json.loads(record.message) for record in caplog.records]
    assert [line["status"] for line in lines] == [200, 200, 200, 404, 403]
    assert lines[-1]["decision"] == refused.json["decision"]
    assert lines[-1]["code"] == "key.unnamed"
    assert lines[3]["path"] == "(other)"
    text = caplog.text
    for secret in (cookie, token, "secret-in"):
        assert secret not in text


def test_the_servers_own_access_log_stays_off(running, caplog):
    """It would print queries. Whoever turns it on for the process does not turn it on here."""
    own = logging.getLogger("uvicorn.access")
    own.propagate = True
    with caplog.at_level(logging.DEBUG):
        running.ask("GET", "/healthz?token=secret-in-a-query")
        written(caplog, 1)
    assert "secret-in-a-query" not in caplog.text


def test_a_fault_of_ours_is_said_without_its_values(running, pair, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise KeyError(CANARY.decode())

    cookie, _ = running.attest(Machine(), pair)
    monkeypatch.setattr("tallystick.broker.service.releasing.decide", broken)
    with caplog.at_level(logging.INFO, logger="tallystick.broker"):
        reply = running.fetch(cookie)
        written(caplog, 2)
    assert (reply.status, reply.code) == (500, "bug")
    assert CANARY not in reply.body
    assert CANARY.decode() not in caplog.text
    assert "KeyError" in caplog.text
    assert running.ask("GET", "/healthz").status == 200


def test_a_port_in_use_is_said_so():
    with server.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unreachable, match=f"port {port} of 127.0.0.1 is in use") as caught:
            server.listen("127.0.0.1", port)
    assert caught.value.code == "port.in-use"


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_not_ours_is_said_so(host):
    with pytest.raises(Unreachable) as caught:
        server.listen(host, 0)
    assert caught.value.code == "address.unusable"


def test_a_port_is_a_number_of_16_bits():
    with pytest.raises(Misuse, match="want 0 to 65535"):
        server.listen("127.0.0.1", 70000)


def test_an_open_request_is_answered_before_the_broker_ends(world, pair, monkeypatch):
    original = Batch.end

    def slow(*args, **kwargs):
        time.sleep(0.5)
        return original(*args, **kwargs)

    with world.running() as running, ThreadPoolExecutor(1) as pool:
        cookie, _ = running.attest(Machine(), pair)
        monkeypatch.setattr(Batch, "end", slow)
        answer = pool.submit(running.fetch, cookie)
        time.sleep(0.2)
    assert answer.result(10).status == 200
    assert world.leaves()[-1]["kind"] == "release"


def test_a_master_key_that_others_can_read_stops_the_broker(world):
    (world.home.vault / "master.key").chmod(0o644)
    with pytest.raises(NotGenuine) as caught:
        world.open()
    assert caught.value.code == "file.not-private"
    (world.home.vault / "master.key").chmod(0o600)
    world.open().close()


def test_a_key_file_that_was_edited_releases_nothing(running, pair):
    cookie, _ = running.attest(Machine(), pair)
    vault = Vault.open(running.world.home.vault)
    (path,) = [p for p in (running.world.home.vault / "keys").glob("*.json") if WEIGHTS in p.read_text()]
    path.write_text(path.read_text().replace('"staging"', '"debug"'))
    with pytest.raises((NotGenuine, Malformed)):
        vault.material(key_id(WEIGHTS))
    refused = running.fetch(cookie)
    assert (refused.status, refused.code) == (403, "vault.not-genuine")
    assert str(running.world.folder) not in refused.body.decode()


def test_the_log_is_the_operators_word_for_every_answer(running, pair):
    """Each released and each refused key has one leaf, and the leaf's record opens its commitment."""
    from tallystick.broker import audit

    cookie, _ = running.attest(Machine(), pair)
    for key in (WEIGHTS, TOKENIZER, "a/b/c"):
        running.fetch(cookie, key)
    report = audit.verify(running.world.home)
    assert report["kinds"] == {"attestation": 1, "policy": 1, "refusal": 1, "release": 2}

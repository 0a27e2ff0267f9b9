"""A client asks a TLS service what it is before it sends anything; a gate holds traffic until an appraisal passes."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import ssl
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from broker.records import NOW, WEIGHTS, authority, form, machine
from broker.world import INIT_DATA, release
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from tallystick.appraisal.index import prepare
from tallystick.broker import peer as peers
from tallystick.broker.proving import Backing
from tallystick.cli import attest_peer, clock, front
from tallystick.cli.app import _run
from tallystick.core.errors import (
    Exit,
    Malformed,
    NotGenuine,
    Refused,
    TallystickError,
    Unreachable,
    Unsupported,
)
from tallystick.evidence.endorsements import Endorsements
from tallystick.handshake import cmw
from tallystick.policy import document

BACKING = Backing(authorities=Endorsements(endorsers=(authority().endorser(),)), collateral=())
PREPARED = prepare(form(release("a")))


@pytest.fixture(autouse=True)
def at_noon(monkeypatch):
    monkeypatch.setattr(clock, "now", lambda: NOW)


@contextmanager
def running(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def witness(public, image: str = "a", **changed: str) -> front.Witness:
    found = machine(NOW, image, **changed)
    return front.Witness(tee="tpm", prove=found.quote, public=public, init_data=INIT_DATA)


@pytest.fixture(scope="module")
def tls():
    return attest_peer.own_tls()


@contextmanager
def service(tls, *, image: str = "a", gate: front.Gate | None = None, upstream=None):
    context, public = tls
    if gate is None:
        gate = front.Gate()
        gate.passed()
    made = front.server(
        ("127.0.0.1", 0), gate, witness=witness(public, image), upstream=upstream, tls=context
    )
    with running(made) as port:
        yield port


def verify(shown: peers.Shown) -> peers.Verified:
    return peers.verify(shown, PREPARED, [WEIGHTS], BACKING, asked_at=NOW, now=NOW)


def test_a_peer_that_the_policy_accepts(tls):
    with service(tls) as port:
        found = verify(peers.ask("127.0.0.1", port))
    (decision,) = found.decisions
    assert (decision.allowed, decision.release) == (True, release("a").digest)


def test_evidence_for_another_key_is_somebody_elses(tls):
    """A relay that terminates TLS itself shows the attested machine's evidence, and has another key."""
    with service(tls) as port:
        honest = peers.ask("127.0.0.1", port)
    relay = attest_peer.own_tls()
    context, _ = relay
    server = front.server(("127.0.0.1", 0), front.Gate(), witness=witness(tls[1]), tls=context)
    with running(server) as port:
        shown = peers.ask("127.0.0.1", port)
    with pytest.raises(NotGenuine, match="key that the evidence is bound to") as refused:
        verify(shown)
    assert refused.value.code == "peer.key"
    with pytest.raises(NotGenuine) as refused:  # nor does its own key help with evidence for the other one
        verify(replace(shown, nonce=honest.nonce, record=honest.record))
    assert refused.value.code == "peer.key"


def test_evidence_that_was_shown_to_somebody_else_is_a_replay(tls):
    with service(tls) as port:
        first, second = peers.ask("127.0.0.1", port), peers.ask("127.0.0.1", port)
    with pytest.raises(NotGenuine) as refused:
        verify(replace(second, record=first.record))
    assert refused.value.code == "attestation.nonce"


def test_a_message_that_was_edited_to_fit_does_not_verify(tls):
    """The nonce and the key in the message are the right ones then, and the quote is over others."""
    with service(tls) as port:
        first, second = peers.ask("127.0.0.1", port), peers.ask("127.0.0.1", port)
    tee, data = cmw.unwrap(first.record)
    message = json.loads(data)
    message["runtime-data"]["nonce"] = base64.b64encode(second.nonce).decode()
    with pytest.raises(NotGenuine) as refused:
        verify(replace(second, record=cmw.wrap(tee, json.dumps(message).encode())))
    assert any("nonce" in f.code or "report-data" in f.code for f in refused.value.findings)


def test_old_evidence_is_refused_by_the_policy(tls):
    with service(tls) as port:
        shown = peers.ask("127.0.0.1", port)
    later = NOW + timedelta(seconds=301)
    found = peers.verify(shown, PREPARED, [WEIGHTS], BACKING, asked_at=NOW, now=later)
    assert [finding.code for finding in found.decisions[0].findings] == ["evidence.stale"]


# The wrapper


@given(
    st.binary()
    | st.recursive(st.integers() | st.text(), lambda v: st.lists(v, max_size=4))
    .map(json.dumps)
    .map(str.encode)
)
def test_what_is_no_record_is_refused_by_name(data):
    with pytest.raises((Malformed, Unsupported)):
        cmw.unwrap(data)


@given(st.from_regex(r"[a-z0-9-]{1,40}", fullmatch=True), st.binary())
def test_a_record_opens_to_what_was_wrapped(tee, message):
    assert cmw.unwrap(cmw.wrap(tee, message)) == (tee, message)


def test_records_of_other_messages_are_not_taken():
    record = json.loads(cmw.wrap("tpm", b"x"))
    for changed in (["text/plain", *record[1:]], [*record[:2], 8]):
        with pytest.raises(Unsupported):
            cmw.unwrap(json.dumps(changed).encode())


# The gate


class Workload(BaseHTTPRequestHandler):
    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("X-Mine", "yes")
        self.end_headers()
        self.wfile.write(b"answer to " + data)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def workload():
    with running(ThreadingHTTPServer(("127.0.0.1", 0), Workload)) as port:
        yield ("127.0.0.1", port)


def ask(
    port: int, method: str, path: str, body: bytes | None = None, *, secure: bool = False, **headers: str
):
    if secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_nothing_passes_before_the_appraisal_does_and_nothing_after_it_fails(workload):
    gate = front.Gate()
    with running(front.server(("127.0.0.1", 0), gate, upstream=workload)) as port:
        status, body = ask(port, "POST", "/v1/chat", b"a prompt")
        assert (status, json.loads(body)["code"]) == (503, "attest.not-yet")
        assert ask(port, "GET", "/readyz")[0] == 503
        assert ask(port, "GET", "/healthz")[0] == 200
        gate.passed()
        assert ask(port, "GET", "/readyz") == (200, b'{"ready": true}\n')
        assert ask(port, "POST", "/v1/chat", b"a prompt") == (200, b"answer to a prompt")
        gate.failed(Refused("no more", code="release.revoked"))
        status, body = ask(port, "POST", "/v1/chat", b"a prompt")
        assert (status, json.loads(body)["code"]) == (503, "release.revoked")
        assert ask(port, "GET", cmw.PATH)[0] == 503  # a gate without TLS shows no evidence


def test_the_gate_appraises_now_and_then_until_it_is_told_to_stop():
    gate, seen = front.Gate(), []
    server = front.server(("127.0.0.1", 0), gate)
    port = server.server_address[1]

    def appraised() -> None:
        seen.append(ask(port, "GET", "/readyz")[0])
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        if len(seen) == 2:
            raise Refused("not any more", code="release.revoked")

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        attest_peer._serve(server, gate, appraised, 0.02)
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
    assert seen == [503, 200, 503]


def test_a_gate_with_a_workload_that_is_not_there_says_so(tls):
    gate = front.Gate()
    gate.passed()
    with service(tls, gate=gate, upstream=("127.0.0.1", 9)) as port:
        status, body = ask(port, "GET", "/v1/chat", secure=True)
        assert (status, json.loads(body)["code"]) == (502, "upstream.unreachable")
        status, body = ask(port, "POST", "/v1/chat", b"x", secure=True, **{"Content-Length": "-3"})
        assert (status, json.loads(body)["code"]) == (411, "body.length")


@pytest.mark.parametrize(
    "query", ["", "?nonce=", "?nonce=AAAA", "?nonce=%%%", "?other=1", "?nonce=" + "A" * 200]
)
def test_a_nonce_that_is_none_is_told_so(tls, query):
    with service(tls) as port:
        status, body = ask(port, "GET", cmw.PATH + query, secure=True)
    assert (status, json.loads(body)["code"]) == (400, "peer.nonce")


def test_evidence_that_can_not_be_made_is_told_so(tls):
    context, public = tls

    def prove(digest: bytes) -> object:
        raise Unreachable("no TPM", code="tpm.gone")

    shown = front.Witness(tee="tpm", prove=prove, public=public, init_data=None)
    silent = front.server(("127.0.0.1", 0), front.Gate(), witness=shown, tls=context)
    with running(silent) as port, pytest.raises(Unreachable, match=r"tpm\.gone") as refused:
        peers.ask("127.0.0.1", port)
    assert refused.value.code == "peer.no-evidence"


# The commands


@pytest.fixture
def files(tmp_path):
    for image in ("a", "b"):
        (tmp_path / f"{image}.json").write_bytes(document.write(form(release(image))))
    (tmp_path / "root.pem").write_bytes(authority().certificate.public_bytes(Encoding.PEM))
    return tmp_path


def run(capsys, *arguments: object) -> tuple[int, dict, str]:
    code = _run(["attest", "verify-peer", *map(str, arguments), "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else {}, said.err


def test_the_command_accepts_refuses_and_names_what_is_not_genuine(tls, files, capsys):
    root = ("--root", f"software-tpm={files / 'root.pem'}")
    with service(tls) as port:
        code, said, _ = run(capsys, f"127.0.0.1:{port}", "--policy", files / "a.json", *root)
        assert (code, said["release"], said["tee"]) == (Exit.OK, str(release("a").digest), "tpm")
        assert said["pin"].startswith("sha256//")
        code, said, _ = run(capsys, f"127.0.0.1:{port}", "--policy", files / "b.json", *root)
        assert (code, said["error"]["code"].startswith("tpm.")) == (Exit.REFUSED, True)
        code, said, _ = run(capsys, f"127.0.0.1:{port}", "--policy", files / "a.json")
        assert code == Exit.NOT_GENUINE


def test_garbage_is_answered_with_a_reason(tls, files, capsys):
    policy = ("--policy", files / "a.json")
    assert run(capsys, "nowhere", *policy)[0] == Exit.MISUSE
    assert run(capsys, "127.0.0.1:99999", *policy)[0] == Exit.MISUSE
    assert run(capsys, "127.0.0.1:9", *policy)[0] == Exit.UNREACHABLE
    assert run(capsys, "127.0.0.1:9", "--policy", files / "none.json")[0] == Exit.MISUSE
    assert run(capsys, "127.0.0.1:9", *policy, "--root", "x")[0] == Exit.MISUSE
    (files / "junk").write_bytes(b"junk")
    assert run(capsys, "127.0.0.1:9", *policy, "--root", f"x={files / 'junk'}")[0] == Exit.MALFORMED
    with running(front.server(("127.0.0.1", 0), front.Gate())) as port:  # no TLS there
        assert run(capsys, f"127.0.0.1:{port}", *policy)[0] == Exit.UNREACHABLE
    with running(front.server(("127.0.0.1", 0), front.Gate(), tls=tls[0])) as port:  # TLS, and no evidence
        code, said, _ = run(capsys, f"127.0.0.1:{port}", *policy)
        assert (code, said["error"]["code"]) == (Exit.UNREACHABLE, "peer.no-evidence")
    gate = ["attest", "gate", "--broker", "http://127.0.0.1:9", "--once", "--tee", "tpm", "--tpm", "/none"]
    assert _run([*gate, "--listen", "x"]) == Exit.MISUSE
    assert _run(gate) == Exit.UNREACHABLE
    assert _run([*gate, "--broker", "ftp://x"]) == Exit.MISUSE


def test_a_result_that_affirms_nothing_holds_the_gate():
    with pytest.raises(TallystickError):
        attest_peer.check_affirming("x.y.z")

"""Secrets are looked for where they must not be: answers, log lines, files, arguments, environment, core settings."""

from __future__ import annotations

import ast
import base64
import http.client
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from broker.test_admin_api import jwk, make_key
from broker.world import CANARY, INIT_DATA, LABEL, NOW, WEIGHTS, Machine, new_world
from cryptography.hazmat.primitives import serialization

from tallystick.attester.client import KbsClient
from tallystick.broker import admins, enrolment_ca, logkey
from tallystick.broker.adminapi import KEYS_PATH
from tallystick.broker.adminclient import AdminClient
from tallystick.broker.admins import Admin
from tallystick.broker.keyops import Action, KeyOperation
from tallystick.broker.vault import key_id
from tallystick.core.errors import Refused, TallystickError
from tallystick.handshake import kbs

ROOT = Path(__file__).resolve().parents[2]
SERVE = Path(__file__).parent / "serve_world.py"
IMPORTED = b"CANARY-imported-5f3a9c27e1"
SENT = "CANARY-sent-by-a-client-77c1"  # in cookies, tokens, queries, paths and bodies of strangers


def spellings(secret: bytes) -> list[bytes]:
    """Return ``secret`` as it might be written somewhere by mistake."""
    found = [secret, secret.hex().encode(), secret.hex().upper().encode(), quote(secret).encode()]
    for cut in range(3):  # base64 of a text that it stands in, wherever it begins
        coded = base64.b64encode(bytes(cut) + secret + bytes(3))[4 * (cut > 0) : -8]
        found += [coded, coded.replace(b"+", b"-").replace(b"/", b"_")]
    found += [json.dumps(list(secret)).encode(), json.dumps(list(secret), separators=(",", ":")).encode()]
    return [*found, repr(secret)[2:-1].encode()]


def found_in(data: bytes, secrets: list[bytes]) -> list[bytes]:
    return [secret for secret in secrets if any(one in data for one in spellings(secret))]


def test_the_search_finds_what_it_looks_for():
    for secret in (CANARY, IMPORTED):
        for before in (b"", b"a", b"ab"):
            text = before + secret + b"!!!"
            for shown in (text, base64.b64encode(text), base64.urlsafe_b64encode(text), text.hex().encode()):
                assert found_in(b"x" + shown + b"y", [CANARY, IMPORTED]) == [secret]
    assert found_in(b"nothing", [CANARY]) == []


@dataclass
class Seen:
    """Everything that came out of a broker while it did all that it does."""

    answers: list[bytes] = field(default_factory=list)
    log: bytes = b""
    arguments: bytes = b""
    environment: bytes = b""
    limits: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    secrets: list[bytes] = field(default_factory=list)  # that this run made: cookies, tokens, nonces


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("canaries")
    world = new_world(folder)
    (folder / "root.json").write_bytes(world.channel.root)
    admin = make_key(logkey.load(world.home.log_key).verifier_line())
    admins.enrol(world.home.admins, Admin.parse("alice", ("staging",), jwk(admin)))
    found = Seen()
    process = subprocess.Popen(
        [sys.executable, str(SERVE), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'pipeline'}{os.pathsep}{ROOT / 'tests'}",
            "TALLY_TEST_DEBUG": "1",
        },
    )
    lines: list[bytes] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr))
    reader.start()
    try:
        url = process.stdout.readline().decode().strip()
        place = Path(f"/proc/{process.pid}")
        found.arguments = (place / "cmdline").read_bytes()
        found.environment = (place / "environ").read_bytes()
        found.limits = (place / "limits").read_text()
        honest(world, url, admin, found)
        strangers(url, found)
    finally:
        process.terminate()
        rest, _ = process.communicate(timeout=30) if not reader.is_alive() else (b"", b"")
        reader.join(timeout=30)
        process.wait(timeout=30)
        process.stdout.close()
    found.log = b"".join(lines) + (rest or b"")
    found.files = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return found


def honest(world, url: str, admin, found: Seen) -> None:
    """Import a key over the network, release one, refuse one; keep every answer and every session's secrets."""
    far = AdminClient(url, admin, now=lambda: NOW)
    operation = KeyOperation(
        action=Action.IMPORT, key=key_id("acme/brought/v1"), channel="staging", secret=IMPORTED
    )
    found.answers += [json.dumps(far.operate(operation)).encode(), json.dumps(far.keys()).encode()]
    token = admin.sign("GET", KEYS_PATH, b"", now=NOW)
    found.answers.append(request(url, "GET", KEYS_PATH, {"Authorization": f"Bearer {token}"}))
    found.secrets.append(token.encode())
    authority = enrolment_ca.authority(world.home.enrolment, LABEL, now=NOW)
    for machine in (Machine(), Machine(image="b")):
        life = world.config.lifetimes.ak_certificate
        certificate = authority.certify(machine.ak.public_key(), now=NOW, life=life)
        machine.certificate = certificate.public_bytes(serialization.Encoding.DER)
        client = KbsClient(url, pause=lambda _: None)
        token = client.attest(machine.quote, init_data=INIT_DATA)
        found.secrets += [client._cookie.encode(), token.encode()]
        if machine.image == "a":
            assert client.fetch(WEIGHTS) == CANARY
        else:
            with pytest.raises(Refused):
                client.fetch(WEIGHTS)
        cookie = {"Cookie": f"{kbs.SESSION_COOKIE}={client._cookie}"}
        found.answers.append(request(url, "GET", kbs.RESOURCE_PATH + WEIGHTS, cookie))


def strangers(url: str, found: Seen) -> None:
    """Send one client's secret wherever a client can put it, well-formed and not."""
    body = json.dumps({"version": "0.4.0", "tee": SENT, "extra-params": ""}).encode()
    for method, path, headers, data in (
        ("GET", f"/{SENT}", {}, b""),
        ("GET", f"{kbs.RESOURCE_PATH}a/b/c?{SENT}", {}, b""),
        ("GET", kbs.RESOURCE_PATH + WEIGHTS, {"Cookie": f"{kbs.SESSION_COOKIE}={SENT}"}, b""),
        ("GET", kbs.RESOURCE_PATH + WEIGHTS, {"Authorization": f"Bearer {SENT}"}, b""),
        ("GET", KEYS_PATH, {"Authorization": f"Bearer {SENT}.{SENT}.{SENT}"}, b""),
        ("POST", KEYS_PATH, {"Authorization": f"Basic {SENT}"}, json.dumps({"secret": SENT}).encode()),
        ("POST", kbs.ATTEST_PATH, {"Cookie": f"{kbs.SESSION_COOKIE}={SENT}"}, SENT.encode()),
        ("POST", kbs.AUTH_PATH, {"X-Secret": SENT}, b"{" + SENT.encode()),
        ("POST", kbs.AUTH_PATH, {"Content-Encoding": "gzip"}, body),
    ):
        request(url, method, path, headers, data)
    for path in (
        "/healthz",
        "/readyz",
        "/tally/v0/policies",
        "/tally/v0/log/checkpoint",
        "/tally/v0/token-keys",
    ):
        found.answers.append(request(url, "GET", path, {}))


def request(url: str, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return str(answer.headers).encode() + answer.read()
    finally:
        connection.close()


def test_no_answer_holds_a_secret(seen):
    assert len(seen.answers) > 8
    assert [found_in(answer, [CANARY, IMPORTED]) for answer in seen.answers] == [[]] * len(seen.answers)


def test_no_log_line_holds_a_secret_whatever_is_logged(seen):
    """At the level that shows most, of every library in the process."""
    assert b"DEBUG" in seen.log or b"INFO" in seen.log
    assert found_in(seen.log, [CANARY, IMPORTED, SENT.encode(), *seen.secrets]) == []


def test_no_file_holds_a_secret_in_the_clear(seen):
    assert len(seen.files) > 5
    held = {path: found_in(data, [CANARY, IMPORTED, SENT.encode()]) for path, data in seen.files.items()}
    assert {path: found for path, found in held.items() if found} == {}


def test_the_process_list_and_the_environment_hold_none(seen):
    assert b"serve_world" in seen.arguments
    assert found_in(seen.arguments + seen.environment, [CANARY, IMPORTED, *seen.secrets]) == []


def test_no_core_is_dumped_to_a_file_or_a_program(seen):
    (line,) = (line for line in seen.limits.splitlines() if line.startswith("Max core file size"))
    assert line.split()[4:6] == ["0", "0"]
    script = (
        "import ctypes; from tallystick.broker import hardening;"
        "print(hardening.keep_memory_private(), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"  # PR_GET_DUMPABLE
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "pipeline")}
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
    assert said.stdout.split() == ["True", "0"]


def test_an_error_never_shows_the_secret_that_it_is_about(tmp_path):
    from tallystick.broker.vault import Vault

    vault = Vault.create(tmp_path / "v")
    vault.bring(key_id(WEIGHTS), IMPORTED, channel="staging", now=NOW)
    (file,) = (tmp_path / "v" / "keys").glob("*.json")
    for damage in (
        b"",
        b"{",
        IMPORTED,
        file.read_bytes()[:-3],
        file.read_bytes().replace(b"staging", b"debug"),
    ):
        file.write_bytes(damage)
        with pytest.raises(TallystickError) as caught:
            vault.material(key_id(WEIGHTS))
        said = f"{caught.value} {caught.value.document()} {caught.value!r}".encode()
        assert found_in(said, [IMPORTED]) == []


SECRET_WORDS = {
    "secret",
    "cookie",
    "mac",
    "tag",
    "signature",
    "passphrase",
    "password",
    "share",
    "nonce",
}
PACKAGES = ("broker", "handshake", "attester")
# A database compares these, and they are hashes already (broker/sessions.py).
HASHED = "sessions.c.cookie == "


def compared() -> list[tuple[str, int, str]]:
    """Every ``==`` or ``!=`` between values of which one has a secret's name."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / "pipeline" / "tallystick" / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Compare) and any(
                    isinstance(op, ast.Eq | ast.NotEq) for op in node.ops
                ):
                    sides = [node.left, *node.comparators]
                    names = [
                        one.attr if isinstance(one, ast.Attribute) else getattr(one, "id", "")
                        for one in sides
                    ]
                    literal = any(isinstance(one, ast.Constant) for one in sides)
                    if not literal and SECRET_WORDS & {word for name in names for word in name.split("_")}:
                        found.append((f"{package}/{path.name}", node.lineno, ast.unparse(node)))
    return found


def test_secrets_are_compared_in_constant_time():
    """By ``hmac.compare_digest``, or by looking up their hash; not with ``==``, which ends where they differ."""
    assert [one for one in compared() if not one[2].startswith(HASHED)] == []

"""``tally broker`` and ``tally explain`` as people and programs run them."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from broker.world import CANARY, WEIGHTS, Machine

from tallystick.handshake import kbs

ROOT = Path(__file__).resolve().parents[2]
TALLY = [sys.executable, "-m", "tallystick.cli"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "pipeline")}


def tally(*arguments, fails=0):
    """Run tally, and return what it printed as JSON (or as text, where it printed that).

    In this process where that changes nothing: a process of its own takes most of a second.
    """
    argv = [str(argument) for argument in arguments]
    if argv[:2] == ["broker", "serve"]:
        done = subprocess.run([*TALLY, *argv], capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
        code, out, err = done.returncode, done.stdout, done.stderr
    else:
        from tallystick.cli.app import run

        printed, said = io.StringIO(), io.StringIO()
        with redirect_stdout(printed), redirect_stderr(said), pytest.raises(SystemExit) as end:
            run(argv)
        code, out, err = end.value.code, printed.getvalue(), said.getvalue()
    assert code == fails, err
    assert "Traceback" not in err
    text = out or err
    return json.loads(text) if text.startswith("{") and argv[1:3] != ["log", "export"] else text


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A work directory as ``tally init`` and ``tally broker init`` make it."""
    folder = tmp_path_factory.mktemp("work")
    tally("init", "--workdir", folder)
    said = tally("broker", "init", "--workdir", folder, "--json")
    assert said["log_verifier"].startswith("tallystick-broker/")
    return folder


@contextmanager
def serving(folder, *more):
    """Run ``tally broker serve`` and give its process and URL."""
    argv = [*TALLY, "broker", "serve", "--workdir", folder, "--channel-dir", folder / "channels" / "staging"]
    process = subprocess.Popen(
        [*map(str, argv), "--port", "0", *more], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    try:
        line = process.stderr.readline()
        assert line.startswith("broker ready at http://127.0.0.1:"), line + process.stderr.read()
        yield process, line.split()[3]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()


def test_a_broker_is_made_once_and_privately(made):
    refused = tally("broker", "init", "--workdir", made, "--json", fails=2)
    assert refused["error"]["code"] == "broker.exists"
    for path in (made / "broker").rglob("*"):
        private = path.suffix in {".pub", ".crt"} or path.stat().st_mode & 0o077 == 0
        assert private, path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_says_when_it_is_ready_and_ends_when_it_is_told(made, number):
    with serving(made) as (process, url):
        with urllib.request.urlopen(f"{url}/healthz") as reply:  # noqa: S310
            assert reply.read() == b"ok\n"
        request = urllib.request.Request(  # noqa: S310
            url + kbs.AUTH_PATH, data=json.dumps(kbs.Request(tee="tpm").document()).encode()
        )
        with urllib.request.urlopen(request) as reply:  # noqa: S310
            assert "nonce" in json.load(reply)
        process.send_signal(number)
        assert process.wait(15) == 0
        lines = process.stderr.read().splitlines()
    assert lines[-1] == "broker stopped"
    said = [json.loads(line) for line in lines[:-1]]
    assert [(line["method"], line["path"], line["status"]) for line in said] == [
        ("GET", "/healthz", 200),
        ("POST", kbs.AUTH_PATH, 200),
    ]
    assert all(line["at"].endswith("+00:00") and line["level"] == "info" for line in said)
    assert not (made / "broker" / "admin.sock").exists()


def test_several_workers_serve_one_broker_and_one_that_dies_is_started_again(made):
    with serving(made, "--workers", "2") as (process, url):

        def children():
            listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return {int(number) for number in listed}

        def answered():
            with urllib.request.urlopen(f"{url}/readyz", timeout=10) as reply:  # noqa: S310
                return reply.status == 200

        assert all(answered() for _ in range(10))
        before = children()
        assert len(before) == 2
        os.kill(min(before), signal.SIGKILL)
        for _ in range(200):
            if len(children()) == 2 and children() != before:
                break
            time.sleep(0.05)
        assert len(children() - before) == 1
        time.sleep(0.5)
        assert all(answered() for _ in range(10))
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        assert process.stderr.read().splitlines()[-1] == "broker stopped"


def test_workers_that_can_not_start_say_why_once(made):
    channel = made / "channels" / "staging"
    place = ("--workdir", made, "--channel-dir", channel, "--port", 0, "--workers", 2)
    assert "does not know the channel other" in tally(
        "broker", "serve", *place, "--channel", "other", fails=6
    )
    with serving(made) as (_, url):
        assert "broker.running" in tally("broker", "serve", *place, fails=7)
        port = url.rpartition(":")[2]
        in_use = ("--workdir", made, "--channel-dir", channel, "--port", port, "--workers", 2)
        assert "port.in-use" in tally("broker", "serve", *in_use, fails=7)


def test_a_serving_broker_leaves_no_core(made):
    with serving(made) as (process, _):
        limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
    (line,) = (line for line in limits if line.startswith("Max core file size"))
    assert line.split()[4:6] == ["0", "0"]


def test_half_a_certificate_is_misuse(made, tmp_path):
    for option in ("--tls-certificate", "--tls-key"):
        place = ("--workdir", made, "--channel-dir", made / "channels" / "staging", "--port", "0")
        said = tally("broker", "serve", *place, option, tmp_path / "x", fails=2)
        assert "tls.certificate" in said


def test_a_port_in_use_is_exit_7(made):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        channel = made / "channels" / "staging"
        said = tally("broker", "serve", "--workdir", made, "--channel-dir", channel, "--port", port, fails=7)
    assert f"port {port} of 127.0.0.1 is in use" in said


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--trust", "none.json"], 2, "trust file"),
        (["--channel", "other"], 6, "does not know the channel other"),
        (["--port", "70000"], 2, "want 0 to 65535"),
        (["--passphrase-file", "none"], 2, "there is no file"),
    ],
)
def test_serve_refuses_what_can_not_be(made, more, code, said):
    channel = made / "channels" / "staging"
    text = tally(
        "broker", "serve", "--workdir", made, "--channel-dir", channel, "--port", 0, *more, fails=code
    )
    assert said in text


def test_serve_without_a_broker_says_what_to_do(made, tmp_path):
    text = tally(
        "broker", "serve", "--workdir", tmp_path, "--channel-dir", made / "channels" / "staging",
        "--trust", made / "trust.json", "--port", 0, fails=2,
    )  # fmt: skip
    assert "tally broker init" in text


def test_a_second_broker_in_one_folder_is_refused(made):
    with serving(made):
        text = tally(
            "broker", "serve", "--workdir", made, "--channel-dir", made / "channels" / "staging", "--port", 0,
            fails=7,
        )  # fmt: skip
    assert "broker.running" in text


@pytest.mark.parametrize("beside", ["alone", "running"])
def test_keys_are_managed_beside_a_running_broker_and_without_one(made, tmp_path, beside):
    def all_of_it():
        name = f"acme/{beside}/v1"
        secret = tmp_path / "secret"
        secret.write_bytes(CANARY)
        made_key = tally(
            "broker", "key", "generate", name, "--channel", "staging", "--workdir", made, "--json"
        )
        assert (made_key["key"], made_key["channel"], made_key["state"]) == (name, "staging", "live")
        brought = f"acme/{beside}/v2"
        argv = ["broker", "key", "import", brought, "--channel", "debug", "--from", secret, "--workdir", made]
        assert "live in channel debug" in tally(*argv)
        again = tally(
            "broker", "key", "generate", name, "--channel", "debug", "--workdir", made, "--json", fails=6
        )
        assert again["error"]["code"] == "key.exists"
        refused = tally("broker", "key", "destroy", name, "--workdir", made, "--json", fails=2)
        assert refused["error"]["code"] == "key.destroy-unconfirmed"
        gone = tally("broker", "key", "destroy", name, "--yes", "--workdir", made, "--json")
        assert gone["state"] == "destroyed"
        missing = tally("broker", "key", "destroy", name, "--yes", "--workdir", made, "--json", fails=6)
        assert missing["error"]["code"] == "key.missing"
        listed = {
            one["key"]: one for one in tally("broker", "key", "list", "--workdir", made, "--json")["keys"]
        }
        assert (listed[name]["state"], listed[brought]["state"]) == ("destroyed", "live")
        actions = [
            leaf
            for leaf in leaves(made)
            if leaf["kind"] == "key" and leaf["key"].startswith(f"acme/{beside}/")
        ]
        assert [leaf["action"] for leaf in actions] == ["generate", "import", "destroy"]
        assert actions[-1]["decision"] == gone["decision"]

    if beside == "alone":
        all_of_it()
    else:
        with serving(made):
            all_of_it()
    for path in (made / "broker").rglob("*"):
        assert path.is_dir() or path.is_socket() or CANARY not in path.read_bytes()


def leaves(folder):
    return [json.loads(line) for line in tally("broker", "log", "export", "--workdir", folder).splitlines()]


@pytest.mark.parametrize(
    "arguments",
    [
        ["key", "generate", "a/b", "--channel", "staging"],
        ["key", "generate", "a/b/c", "--channel", "Not a channel"],
        ["key", "import", "a/b/c", "--channel", "staging", "--from", os.devnull],
    ],
)
def test_bad_keys_are_refused_before_anything_is_logged(made, arguments):
    before = len(leaves(made))
    refused = tally("broker", *arguments, "--workdir", made, "--json", fails=3)
    assert refused["error"]["exit"] == 3
    assert len(leaves(made)) == before


def test_a_passphrase_keeps_the_master_key(tmp_path):
    phrase = tmp_path / "phrase"
    phrase.write_text("a long phrase\n")
    phrase.chmod(0o600)
    work = tmp_path / "work"
    tally("broker", "init", "--workdir", work, "--passphrase-file", phrase)
    argv = ["broker", "key", "generate", "a/b/c", "--channel", "staging", "--workdir", work]
    tally(*argv, "--passphrase-file", phrase)
    assert "wants a passphrase" in tally(*argv, fails=2)
    phrase.write_text("another phrase\n")
    assert "does not open" in tally(*argv, "--passphrase-file", phrase, fails=5)
    phrase.chmod(0o644)
    assert "0600" in tally(*argv, "--passphrase-file", phrase, fails=5)


def test_the_log_is_verified_proved_and_kept_against(made, tmp_path):
    tally("broker", "key", "generate", "acme/log/v1", "--channel", "staging", "--workdir", made)
    report = tally("broker", "log", "verify", "--workdir", made, "--json")
    kept = tmp_path / "kept"
    kept.write_text(report["checkpoint"])
    decision = leaves(made)[-1]["decision"]
    proof = tally("broker", "log", "prove", decision, "--workdir", made, "--json")
    check_inclusion(proof)
    tally("broker", "key", "destroy", "acme/log/v1", "--yes", "--workdir", made)
    assert (
        tally("broker", "log", "verify", "--workdir", made, "--checkpoint", kept, "--json")["size"]
        == report["size"] + 1
    )
    kept.write_text(report["checkpoint"].replace("\n\n", "\n \n", 1))
    tally("broker", "log", "verify", "--workdir", made, "--checkpoint", kept, fails=3)
    unknown = tally("broker", "log", "prove", "nothing", "--workdir", made, "--json", fails=6)
    assert unknown["error"]["code"] == "decision.unknown"


def test_a_kept_checkpoint_of_another_past_is_exit_5(made, tmp_path):
    """Signed by the log's own key: it is the log that was rewritten since."""
    from tallystick.broker import logkey
    from tallystick.tlog.mark import Head

    tally("broker", "key", "generate", "acme/past/v1", "--channel", "staging", "--workdir", made)
    key, kept = logkey.load(made / "broker" / "log-key.pem"), tmp_path / "kept"
    for head in (Head(size=1, root=bytes(32)), Head(size=10_000, root=bytes(32))):
        kept.write_text(key.checkpoint(head))
        argv = ["broker", "log", "verify", "--workdir", made, "--checkpoint", kept, "--json"]
        assert tally(*argv, fails=5)["error"]["code"] == "log.not-earlier"
    other = logkey.create(tmp_path / "other.pem")
    kept.write_text(other.checkpoint(Head(size=1, root=bytes(32))))
    assert tally(*argv, fails=5)["error"]["code"] == "log.checkpoint"


def check_inclusion(proof):
    """Check a proof with nothing of ours: RFC 6962, section 2.1.1."""
    import hashlib

    node = hashlib.sha256(b"\0" + proof["leaf"].encode()).digest()
    index, last = proof["index"], proof["size"] - 1
    for step in map(bytes.fromhex, proof["hashes"]):
        if index % 2 or index == last:
            node = hashlib.sha256(b"\1" + step + node).digest()
            while index % 2 == 0 and index:
                index, last = index // 2, last // 2
        else:
            node = hashlib.sha256(b"\1" + node + step).digest()
        index, last = index // 2, last // 2
    import base64

    assert base64.b64encode(node).decode() == proof["checkpoint"].split("\n")[2]


def test_a_log_that_was_tampered_with_is_exit_5(tmp_path):
    tally("broker", "init", "--workdir", tmp_path)
    for tag in ("v1", "v2"):
        tally("broker", "key", "generate", f"a/b/{tag}", "--channel", "staging", "--workdir", tmp_path)
    import sqlite3

    with sqlite3.connect(tmp_path / "broker" / "store.sqlite") as db:
        db.execute(
            "UPDATE decisions SET leaf = CAST(replace(leaf, 'a/b/v1', 'a/b/v9') AS BLOB) WHERE position = 0"
        )
        (decision,) = db.execute("SELECT id FROM decisions WHERE position = 0").fetchone()
    db.close()
    for argv, code in ((["verify"], "log.altered"), (["prove", decision], "log.inclusion")):
        refused = tally("broker", "log", *argv, "--workdir", tmp_path, "--json", fails=5)
        assert refused["error"]["code"] == code


def test_explain_says_what_was_wanted_and_what_was_got(running, pair):
    cookie, _ = running.attest(Machine(image="b"), pair)
    refused = running.fetch(cookie)
    folder, decision = running.world.folder, refused.json["decision"]
    said = tally("explain", decision, "--workdir", folder, "--json")
    assert (said["kind"], said["key"], said["decided_again"]) == ("refusal", WEIGHTS, True)
    finding = {f["where"]: f for f in said["findings"]}["pcr04"]
    assert finding["got"] == Machine(image="b").registers[4].hex()
    assert finding["want"] == Machine().registers[4].hex()
    assert said["nearest"]["name"] == "confidential-inference"
    text = tally("explain", decision, "--workdir", folder)
    assert text.startswith(f"refusal {WEIGHTS} at 2026-11-22T12:00:00Z\n")
    assert f"pcr04: want {finding['want']}, got {finding['got']}" in text
    assert "the same answer" in text
    for leaf in running.world.leaves():
        tally("explain", leaf["decision"], "--workdir", folder)


def test_a_record_that_was_altered_is_neither_explained_nor_audited(running, pair):
    import sqlite3

    cookie, _ = running.attest(Machine(image="b"), pair)
    decision = running.fetch(cookie).json["decision"]
    folder = running.world.folder
    with sqlite3.connect(running.world.home.store) as db:
        (record,) = db.execute("SELECT record FROM decisions WHERE id = ?", (decision,)).fetchone()
        altered = record.replace(b"tpm.pcr04.mismatch", b"tpm.pcr05.mismatch")
        db.execute("UPDATE decisions SET record = ? WHERE id = ?", (altered, decision))
    db.close()
    for argv in (["explain", decision], ["broker", "log", "verify"], ["broker", "log", "prove", decision]):
        refused = tally(*argv, "--workdir", folder, "--json", fails=5)
        assert refused["error"]["code"] == "decision.altered"


def test_an_attestation_whose_record_was_altered_decides_nothing_again(running, pair):
    import sqlite3

    cookie, _ = running.attest(Machine(image="b"), pair)
    decision = running.fetch(cookie).json["decision"]
    attestation = running.world.leaves()[-1]["attestation"]
    with sqlite3.connect(running.world.home.store) as db:
        (record,) = db.execute("SELECT record FROM decisions WHERE id = ?", (attestation,)).fetchone()
        altered = record.replace(b'"safe":true', b'"safe":false')
        db.execute("UPDATE decisions SET record = ? WHERE id = ?", (altered, attestation))
    db.close()
    refused = tally("explain", decision, "--workdir", running.world.folder, "--json", fails=5)
    assert refused["error"]["code"] == "decision.altered"


def test_a_policy_that_was_altered_since_decides_nothing_again(running, pair):
    import sqlite3

    cookie, _ = running.attest(Machine(image="b"), pair)
    decision = running.fetch(cookie).json["decision"]
    with sqlite3.connect(running.world.home.store) as db:
        db.execute("UPDATE policies SET data = ?", (b"{}",))
    db.close()
    refused = tally("explain", decision, "--workdir", running.world.folder, "--json", fails=5)
    assert refused["error"]["code"] == "policy.record"


def test_a_log_in_which_a_nonce_attests_twice_is_exit_5(tmp_path):
    from broker.world import NOW

    from tallystick.broker.clock import Clock
    from tallystick.broker.config import Home
    from tallystick.broker.decisions import Kind, entry
    from tallystick.broker.opening import open_ledger
    from tallystick.broker.store import Store

    tally("broker", "init", "--workdir", tmp_path)
    home = Home(tmp_path / "broker")
    store = Store.open(home.store)
    ledger = open_ledger(store, Clock(NOW, read=lambda: NOW))
    for _ in range(2):
        made = entry(Kind.ATTESTATION, now=NOW, public={"nonce": "sha256:00"}, details={})
        ledger.submit([made], now=NOW).result()
    ledger.close()
    store.close()
    refused = tally("broker", "log", "verify", "--workdir", tmp_path, "--json", fails=5)
    assert refused["error"]["code"] == "nonce.twice"


def test_explain_names_the_components_that_differ(running, pair, tmp_path):
    cookie, _ = running.attest(Machine(image="b"), pair)
    decision = running.fetch(cookie).json["decision"]
    for name, version in (("old", "1.35.0"), ("new", "1.36.0")):
        write_contents(tmp_path / name, version)
    argv = ["explain", decision, "--workdir", running.world.folder, "--promoted", tmp_path / "old"]
    said = tally(*argv, "--running", tmp_path / "new")
    assert "component busybox: 1.35.0 -> 1.36.0 (1 file)" in said
    assert "given together" in tally(*argv, fails=2)
    (tmp_path / "none").mkdir()
    assert "share no contents list" in tally(*argv, "--running", tmp_path / "none", fails=2)


def write_contents(folder, version):
    import hashlib

    def sha(text):
        return hashlib.sha256(text.encode()).hexdigest()

    ref = f"pkg:deb/debian/busybox@{version}"
    document = {
        "schema": "tallystick/contents/v1",
        "product": "initramfs",
        "files": [
            {"path": "bin/busybox", "sha256": sha(version), "size": 5, "mode": "0100755", "component": ref}
        ],
        "components": [
            {
                "ref": ref,
                "kind": "deb",
                "name": "busybox",
                "version": version,
                "purl": ref,
                "licence": "GPL-2.0-only",
                "seed": f"busybox_{version}.deb",
                "sha256": sha(f"seed {version}"),
            }
        ],
    }
    (folder / "contents").mkdir(parents=True)
    (folder / "contents" / "initramfs.json").write_text(json.dumps(document))


def test_a_killed_broker_starts_again_and_has_lost_nothing(made):
    with serving(made) as (process, _):
        tally("broker", "key", "generate", "acme/killed/v1", "--channel", "staging", "--workdir", made)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert (made / "broker" / "admin.sock").exists()
    assert [leaf["key"] for leaf in leaves(made) if leaf["kind"] == "key"][-1] == "acme/killed/v1"
    tally("broker", "key", "destroy", "acme/killed/v1", "--yes", "--workdir", made)
    with serving(made):
        time.sleep(0)


def test_the_admin_socket_is_the_owners_alone(running):
    path = running.world.home.admin_socket
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "sent", [b"{}\n", b"[]\n", b"nothing\n", b'{"action":"read","key":"a/b/c"}\n', b"\n"]
)
def test_the_admin_socket_refuses_what_is_no_operation(running, sent):
    from tallystick.broker.admin import _reachable

    with _reachable(running.world.home.admin_socket) as address, socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(address)
        peer.sendall(sent)
        with peer.makefile("rb") as stream:
            answer = json.loads(stream.readline())
    assert answer["error"]["kind"] in ("Malformed", "Unsupported")
    assert [leaf["kind"] for leaf in running.world.leaves()] == []

"""Three brokers, two of whom must release their share: one may refuse, lie or be down, and none can release alone."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from broker.test_cli import tally
from broker.world import INIT_DATA, LABEL, NOW, WEIGHTS, Machine, new_world, release
from cryptography.hazmat.primitives import serialization

from tallystick.attester.client import KbsClient
from tallystick.attester.shared import gather
from tallystick.broker import enrolment_ca
from tallystick.broker.vault import Vault, key_id
from tallystick.core.errors import NotGenuine, Refused, TallystickError, Unreachable
from tallystick.handshake import initdata, shares
from tallystick.policy.normal import KeyRule

KEY = "acme/shared/v1"
SECRET = b"CANARY-two of three"
SHARED, PARTS = shares.split(KEY, SECRET, threshold=2, count=3)
_, LIES = shares.split(KEY, b"another secret", threshold=2, count=3)
ROOT = Path(__file__).resolve().parents[2]
SERVE = Path(__file__).parent / "serve_world.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'pipeline'}{os.pathsep}{ROOT / 'tests'}"}


class Office:
    """A broker of its own: its folder, channel, log and process."""

    def __init__(self, folder: Path, share: shares.Share, *, revoked: bool = False) -> None:
        self.world = new_world(folder)
        (folder / "root.json").write_bytes(self.world.channel.root)
        keys = tuple(KeyRule(key=key, artifact=key.split("/")[1]) for key in (KEY, WEIGHTS))
        self.world.publish(release(), keys=keys)
        vault = Vault.open(self.world.home.vault)
        vault.bring(key_id(KEY), share.encode(), channel="staging", now=NOW)
        if revoked:
            self.world.revoke(release())
        self.url = ""
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> Office:
        command = [sys.executable, str(SERVE), str(self.world.folder)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT
        )
        return self

    def ready(self) -> None:
        self.url = self.process.stdout.readline().strip()
        assert self.url

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()

    def fetch(self, machine: Machine, key: str) -> bytes:
        """What the guest does: prove itself to this broker in a session of its own, and ask."""
        authority = enrolment_ca.authority(self.world.home.enrolment, LABEL, now=NOW)
        certificate = authority.certify(
            machine.ak.public_key(), now=NOW, life=self.world.config.lifetimes.ak_certificate
        )
        machine.certificate = certificate.public_bytes(serialization.Encoding.DER)
        client = KbsClient(self.url, timeout_seconds=10, pause=lambda _: None)
        client.attest(machine.quote, init_data=INIT_DATA)
        return client.fetch(key)

    def kinds(self) -> list[str]:
        return [str(leaf["kind"]) for leaf in self.world.leaves() if leaf.get("key") == KEY]


@pytest.fixture(scope="module")
def offices(tmp_path_factory):
    """Honest, honest, lying, refusing. Each one is a process."""
    with ExitStack() as stack:
        made = []
        for name, share, revoked in (
            ("first", PARTS[0], False),
            ("second", PARTS[1], False),
            ("liar", LIES[2], False),
            ("refuser", PARTS[2], True),
        ):
            office = Office(tmp_path_factory.mktemp(name), share, revoked=revoked)
            stack.callback(office.stop)
            made.append(office.start())
        for office in made:
            office.ready()
        yield dict(zip(("first", "second", "liar", "refuser"), made, strict=True))


def down(_: str) -> bytes:
    raise KbsClient("http://127.0.0.1:9", pause=lambda _: None)._post("/kbs/v0/auth", {})


def asked(offices, *names: str, machine: Machine | None = None):
    machine = machine or Machine()
    found = {name: down if name == "down" else partial(offices[name].fetch, machine) for name in names}
    return gather(SHARED, found)


def test_two_of_three_open_the_key_and_each_has_its_own_leaf(offices):
    gathered = asked(offices, "first", "second")
    assert (gathered.secret, gathered.gave, gathered.failed) == (SECRET, ("first", "second"), ())
    assert offices["first"].kinds()[-1] == offices["second"].kinds()[-1] == "release"
    assert SECRET.decode() not in repr(gathered)


@pytest.mark.parametrize(
    ("third", "code"),
    [("down", "broker.unreachable"), ("liar", "share.wrong"), ("refuser", "release.revoked")],
)
def test_one_may_be_down_lie_or_refuse_and_is_named(offices, third, code):
    gathered = asked(offices, third, "first", "second")
    assert (gathered.secret, gathered.gave) == (SECRET, ("first", "second"))
    assert [(one.where, one.code) for one in gathered.failed] == [(third, code)]


@pytest.mark.parametrize(
    ("others", "error"),
    [
        (("down",), Unreachable),
        (("liar",), NotGenuine),
        (("refuser",), Refused),
        (("liar", "refuser", "down"), NotGenuine),
        (("refuser", "down"), Refused),
        ((), Refused),
    ],
)
def test_one_honest_broker_is_not_enough_and_the_others_are_named(offices, others, error):
    with pytest.raises(error, match="1 of the 2 shares") as caught:
        asked(offices, "first", *others)
    assert [one.where for one in caught.value.findings] == list(others)


def test_a_broker_that_sends_anothers_share_counts_once(offices):
    machine = Machine()
    first = partial(offices["first"].fetch, machine)
    with pytest.raises(NotGenuine, match="came from another broker already"):
        gather(SHARED, {"first": first, "mirror": first})


def test_a_machine_that_no_policy_takes_gets_no_share(offices):
    with pytest.raises(Refused) as caught:
        asked(offices, "first", "second", machine=Machine(image="b"))
    assert {one.code for one in caught.value.findings} <= {"tpm.pcr04.mismatch", "tpm.pcr09.mismatch"}
    assert "refusal" in offices["first"].kinds()


def test_no_broker_holds_the_key(offices):
    for office in offices.values():
        vault = Vault.open(office.world.home.vault)
        assert SECRET not in vault.material(key_id(KEY)).secret
    with pytest.raises(TallystickError):
        shares.combine(SHARED, (PARTS[0],))


def test_the_command_line_splits_a_key_and_deletes_nothing(tmp_path):
    (tmp_path / "secret").write_bytes(SECRET)
    numbers = ["--threshold", "2", "--shares", "3"]
    made = tally("broker", "key", "split", KEY, *numbers, "-o", tmp_path / "s", "--from", tmp_path / "secret")
    assert "2 open it" in made
    found = shares.SharedKey.parse((tmp_path / "s" / "shared.json").read_bytes())
    parts = [shares.Share.parse((tmp_path / "s" / f"share-{n}").read_bytes()) for n in (1, 3)]
    assert shares.combine(found, parts) == SECRET
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "s").glob("share-*"))
    tally("broker", "key", "split", KEY, *numbers, "-o", tmp_path / "s", fails=2)
    tally("broker", "key", "split", KEY, "-k", "4", "-n", "3", "-o", tmp_path / "t", fails=2)
    said = tally("broker", "key", "split", KEY, *numbers, "-o", tmp_path / "u", "--json")
    assert said["files"] == ["key", "share-1", "share-2", "share-3", "shared.json"]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (
            {"shared.json": SHARED.encode().decode()},
            ["--broker", "http://127.0.0.1:1", "--shared", "shared.json"],
        ),
        ({"shared.json": SHARED.encode().decode()}, ["--shared", "other.json"]),
        ({"shared.json": SHARED.encode().decode()}, ["--broker", "http://127.0.0.1:2"]),
        ({}, ["--shared", "shared.json"]),
    ],
)
def test_a_shared_key_is_asked_of_brokers_enough_by_a_document_that_is_measured(tmp_path, entries, words):
    (tmp_path / "id.toml").write_bytes(initdata.make({"artifacts.json": "{}", **entries}))
    first = ["--broker", "http://127.0.0.1:1", "--key", KEY, "--init-data", tmp_path / "id.toml", "--stdout"]
    tally("attest", "run", *first, *words, fails=2)
    unmeasured = ["--broker", "http://127.0.0.1:1", "--key", KEY, "--shared", "shared.json", "--stdout"]
    tally("attest", "run", *unmeasured, fails=2)


def test_a_document_of_another_key_is_refused(tmp_path):
    (tmp_path / "id.toml").write_bytes(initdata.make({"shared.json": SHARED.encode().decode()}))
    brokers = ["--broker", "http://127.0.0.1:1", "--broker", "http://127.0.0.1:2"]
    words = ["--shared", "shared.json", "--init-data", tmp_path / "id.toml", "--stdout"]
    tally("attest", "run", *brokers, "--key", WEIGHTS, *words, fails=2)
    tally("attest", "run", *brokers, "--key", KEY, "--tpm", tmp_path / "none", *words, fails=7)

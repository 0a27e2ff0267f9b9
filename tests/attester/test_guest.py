"""The workload on a software TPM: the order of its steps, what it checks, and what it never says."""

from __future__ import annotations

import io
import json
import sys
import threading
from dataclasses import replace

import pytest
import support_artifacts
from attester.little_broker import LittleBroker, serving
from release.channels import made

from tallystick.attester import channel, guest
from tallystick.attester.disk import DataDisk
from tallystick.attester.tpm import open_tpm
from tallystick.cli.demo import model
from tallystick.cli.demo.machine import parse_line, write_disk
from tallystick.cli.demo.softtpm import emulator
from tallystick.core.digests import Digest
from tallystick.handshake import artifact, initdata, kbs, wrapping
from tallystick.release import artifact_seal
from tallystick.release.changes import Added

KEYS = {
    "weights": ("confidential-inference/weights/v1", bytes(range(32))),
    "tokenizer": ("confidential-inference/tokenizer/v1", bytes(range(100, 132))),
}
WEIGHTS, TOKENIZER = model.train(model.corpus())
PARTS = {"weights": WEIGHTS, "tokenizer": TOKENIZER}


class World:
    """A broker, a TPM in power, and a disk; ``events`` is what the guest said."""

    def __init__(self, broker, tpm, path):
        self.broker, self.tpm, self.path = broker, tpm, path
        self.events: list[dict[str, object]] = []
        self.channel: Digest | None = None  # what the image's command line pins

    def say(self, event: str, **values: object) -> None:
        self.events.append({"event": event, **values})

    def deploy(
        self, parts=PARTS, keys=KEYS, *, prompt: str | None = "why?", change=lambda deployment: deployment
    ):
        deployment = change(support_artifacts.seal(parts, keys, broker_url=self.broker.url))
        write_disk(self.path, deployment.init_data, deployment.files, prompt=prompt)
        return deployment

    def run(self) -> int:
        machine = guest.Machine(tpm=self.tpm, event_log=b"", channel=self.channel)
        return guest.supervise(
            lambda: guest.run(self.disk(), machine, self.say, guest.prompts_of(self.disk(), self.say)),
            self.say,
        )

    def disk(self) -> DataDisk:
        return DataDisk(self.path)

    def names(self) -> list[object]:
        return [event["event"] for event in self.events]


@pytest.fixture
def world(tpm_state, tmp_path):
    with serving(LittleBroker(dict(KEYS.values()))) as broker, emulator(tpm_state) as path:
        tpm = open_tpm(str(path))
        yield World(broker, tpm, tmp_path / "disk")
        tpm.shutdown()
        tpm.close()


def test_it_measures_proves_fetches_opens_and_answers(world):
    deployment = world.deploy()
    assert world.run() == 0
    assert world.names() == ["measured", "attested", "opened", "opened", "answer"]
    assert world.events[0]["init_data"] == str(Digest.of(deployment.init_data))
    assert len(world.events[-1]["text"]) == guest.ANSWER_LETTERS


def test_init_data_is_in_the_quote_that_asks_for_keys(world):
    deployment = world.deploy()
    world.run()
    pcrs = world.broker.attestation.primary_evidence["tpm_quote"]["pcrs"]
    assert pcrs[8] == initdata.pcr8(deployment.init_data).hex()
    assert world.broker.attestation.init_data == deployment.init_data.decode()


def test_no_line_holds_a_key(world):
    world.deploy()
    world.run()
    said = json.dumps(world.events)
    for _, key in KEYS.values():
        assert key.hex() not in said
        assert kbs.b64(key) not in said


def test_each_part_has_a_key_of_its_own(world):
    world.deploy()
    world.run()
    asked = [path for path, _ in world.broker.seen if path.startswith(kbs.RESOURCE_PATH)]
    assert asked == [kbs.RESOURCE_PATH + KEYS[name][0] for name in ("tokenizer", "weights")]


def refused(world, event: str, code: str, words: str) -> None:
    assert world.run() != 0
    last = world.events[-1]
    assert (last["event"], last["code"]) == (event, code)
    assert words in last["message"]
    assert "answer" not in world.names()


def test_a_swapped_file_is_seen_before_a_key_is_asked_for(world):
    def swap(deployment):
        sealed = dict(deployment.files)
        sealed["weights.tsenc"] = sealed["tokenizer.tsenc"]
        return replace(deployment, files=sealed)

    world.deploy(change=swap)
    refused(world, "refused", "artifact.ciphertext", "weights.tsenc: want sha256:")
    assert world.broker.seen == []


def rewrapped(deployment, name, manifest, **bound):
    """The wrapped data key of ``name``, bound to another release by who has the broker's key."""
    path, key = KEYS[name]
    wanted = {"key": path, "policy": manifest.policy, "release": manifest.digest} | bound
    return wrapping.rewrap(deployment.files[f"{name}.tsenc.key"], key, key, nonce=bytes(12), **wanted)


def test_a_plaintext_other_than_the_measured_one_is_refused(world):
    """Whoever holds the keys can seal another model under the promised digest; the guest computes it."""

    def lie(deployment):
        other, sink, data_key = WEIGHTS + b"\0", io.BytesIO(), bytes(32)
        header = artifact.make_header(
            data_key, plaintext=Digest.of(WEIGHTS), size_bytes=len(other), salt=bytes(32)
        )
        artifact.seal(io.BytesIO(other), sink, data_key, header)
        listed = tuple(
            replace(one, ciphertext=Digest.of(sink.getvalue())) if one.name == "weights" else one
            for one in deployment.manifest.artifacts
        )
        manifest = replace(deployment.manifest, artifacts=listed)
        bound = wrapping.binding(manifest, listed[1], header)
        files = deployment.files | {
            "weights.tsenc": sink.getvalue(),
            "weights.tsenc.key": wrapping.wrap(data_key, KEYS["weights"][1], bound, nonce=bytes(12)),
            "tokenizer.tsenc.key": rewrapped(deployment, "tokenizer", manifest),
        }
        init_data = artifact_seal.init_data((manifest,), world.broker.url)
        return replace(deployment, init_data=init_data, files=files)

    world.deploy(change=lie)
    refused(world, "refused", "artifact.plaintext", f"want {Digest.of(WEIGHTS)}")


@pytest.mark.parametrize("bound", ["policy", "release"])
def test_a_data_key_that_is_wrapped_for_something_else_is_refused_by_name(world, bound):
    def other(deployment):
        wrapped = rewrapped(deployment, "weights", deployment.manifest, **{bound: Digest.of(b"another")})
        return replace(deployment, files=deployment.files | {"weights.tsenc.key": wrapped})

    world.deploy(change=other)
    refused(world, "refused", f"wrapping.{bound}", f"{bound}: want sha256:")


def test_a_wrapped_key_of_another_artifact_is_refused(world):
    def swap(deployment):
        files = dict(deployment.files)
        files["weights.tsenc.key"] = files["tokenizer.tsenc.key"]
        return replace(deployment, files=files)

    world.deploy(change=swap)
    refused(world, "refused", "wrapping.artifact", "artifact: want sha256:")


def test_keys_that_were_swapped_open_nothing(world):
    world.deploy(keys={"weights": KEYS["weights"], "tokenizer": (KEYS["tokenizer"][0], bytes(32))})
    refused(world, "refused", "wrapping.key-bytes", "tokenizer/v1 is not the key that it is wrapped under")


def test_an_image_that_pins_a_channel_takes_what_that_channel_lists(world, tmp_path):
    place = made(tmp_path / "channel")
    world.channel = Digest.of(place.root)

    def listed(deployment):
        target = f"artifacts/{deployment.manifest.digest.hex}/artifacts.json"
        added = [Added(path=target, data=deployment.manifest.encode())]
        place.change("alice", ["bob", "carol"], added, role="releases")
        metadata = place.folder.path / "metadata"
        found = (
            place.root,
            (metadata / "1.targets.json").read_bytes(),
            (metadata / "2.releases.json").read_bytes(),
        )
        return replace(deployment, files={**deployment.files, **dict(zip(channel.FILES, found, strict=True))})

    deployment = world.deploy(change=listed)
    assert world.run() == 0
    assert world.names()[:3] == ["measured", "listed", "attested"]
    other = {name: data for name, data in deployment.files.items() if name in channel.FILES}
    world.events.clear()
    world.broker.seen.clear()
    world.tpm = None  # nothing is asked, so nothing is proved
    world.deploy(change=lambda made: replace(made, files={**made.files, **other}))
    assert world.run() != 0
    assert (world.events[-1]["event"], world.events[-1]["code"]) == ("refused", "channel.artifacts")
    assert world.broker.seen == []


def test_a_manifest_without_weights_is_refused(world):
    world.deploy(parts={"tokenizer": TOKENIZER})
    refused(world, "failed", "malformed", "want one called weights")


def test_a_refusal_of_the_broker_is_said_with_its_reasons(world):
    world.deploy()
    world.broker.denied[KEYS["weights"][0]] = kbs.ErrorDocument(kind="PolicyDeny", detail="no", code="x.y")
    refused(world, "refused", "x.y", "HTTP 403 PolicyDeny: no")
    assert world.names() == ["measured", "attested", "opened", "refused"]


def test_something_else_in_the_register_is_refused_before_asking(world):
    world.deploy()
    world.tpm.extend(8, bytes(32))
    refused(world, "refused", "init-data.register", "PCR 8: want not extended yet")
    assert world.broker.seen == []


def test_a_mistake_of_ours_is_said_and_shows_no_value(world):
    def broken() -> None:
        raise KeyError("a secret value")

    assert guest.supervise(broken, world.say) == 1
    assert world.events[-1]["code"] == "bug"
    assert "KeyError" in world.events[-1]["message"]
    assert "secret" not in json.dumps(world.events)


def test_without_a_prompt_on_the_disk_the_console_is_asked(world, monkeypatch):
    world.deploy(prompt=None)
    monkeypatch.setattr(sys, "stdin", io.StringIO("why?\nwho?\n\nnever read\n"))
    assert world.run() == 0
    assert world.names()[-3:] == ["listening", "answer", "answer"]


def test_a_line_on_the_console_is_one_json_object(capsys):
    guest.console("answer", text='a "quoted"\nline')
    event = parse_line("[    1.0] some words of the kernel's " + capsys.readouterr().out)
    assert event["text"] == 'a "quoted"\nline'
    assert event["uptime_seconds"] > 0


@pytest.mark.parametrize("line", ["", "TALLY", 'TALLY {"cut', "TALLY [1]", "no mark {}"])
def test_other_lines_are_no_events(line):
    assert parse_line(line) is None


def test_without_a_disk_it_says_so_and_ends(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(guest, "DISK", tmp_path / "vda")
    monkeypatch.setattr(guest, "_DISK_SECONDS", 0)
    assert guest.main() == 7
    events = [parse_line(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["started", "failed"]
    assert events[1]["code"] == "disk.missing"


def test_a_disk_that_comes_late_is_waited_for(tmp_path):
    path = tmp_path / "vda"
    threading.Timer(0.1, path.touch).start()
    guest._wait_for(path)
    assert path.exists()


def test_main_runs_on_the_machines_own_devices(world, capsys, monkeypatch):
    world.deploy()
    monkeypatch.setattr(guest, "DISK", world.path)
    monkeypatch.setattr(guest, "detect", lambda devices: "tpm")
    monkeypatch.setattr(guest, "open_tpm", lambda path: world.tpm)
    monkeypatch.setattr(world.tpm, "close", lambda: None)
    assert guest.main() == 0
    events = [parse_line(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert events == ["started", "measured", "attested", "opened", "opened", "answer", "done"]

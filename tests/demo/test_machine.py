"""The demo's machines: what QEMU is told, what is left running (nothing), and boots replayed without a VM."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import support_artifacts
from attester.little_broker import LittleBroker, serving
from hypothesis import given
from hypothesis import strategies as st

from tallystick.attester.tpm import open_tpm
from tallystick.cli.demo import model, relay, softtpm
from tallystick.cli.demo.machine import (
    GUEST_BROKER_URL,
    Machine,
    boots_under_kvm,
    parse_line,
    write_disk,
)
from tallystick.cli.demo.optionrom import driver, option_rom
from tallystick.cli.demo.replay import event_log, recorded, replayed
from tallystick.core.digests import Digest
from tallystick.core.errors import Unreachable
from tallystick.formats import eventlog, pe
from tallystick.measure.records import Event

KEYS = {
    "weights": ("confidential-inference/weights/v1", bytes(range(32))),
    "tokenizer": ("confidential-inference/tokenizer/v1", bytes(range(100, 132))),
}
EVENTS = (
    Event(register=0, digest=Digest.of(b"firmware"), what="EV_S_CRTM_VERSION"),
    Event(register=4, digest=Digest.of(b"image"), what="EV_EFI_BOOT_SERVICES_APPLICATION: the UKI"),
    Event(register=4, digest=Digest.of(b"kernel"), what="something without a type"),
    Event(register=10, digest=Digest.of(b"ima"), what="IMA: boot_aggregate"),
    Event(register=8, digest=Digest.of(b"init-data"), what="init-data"),
)


@pytest.fixture
def deployment():
    weights, tokenizer = model.train(model.corpus())
    parts = {"weights": weights, "tokenizer": tokenizer}
    return support_artifacts.seal(parts, KEYS, broker_url=GUEST_BROKER_URL)


def extended(*data: bytes) -> bytes:
    value = bytes(32)
    for one in data:
        value = Digest.of(value + Digest.of(one).value).value
    return value


def test_a_replayed_boot_leaves_the_registers_of_its_events(tpm_state):
    with replayed(tpm_state, EVENTS) as machine:
        pcrs = machine.tpm.read_pcrs()
    assert pcrs[0] == extended(b"firmware")
    assert pcrs[4] == extended(b"image", b"kernel")
    assert pcrs[10] == extended(b"ima")
    assert pcrs[8] == bytes(32)  # the guest measures its init-data itself


def test_the_log_of_a_replayed_boot_replays_to_the_same_registers():
    log = eventlog.parse(event_log(EVENTS))
    assert dict(eventlog.replay(log, "sha256")) == {
        0: extended(b"firmware"),
        4: extended(b"image", b"kernel"),
    }
    assert [event.kind_name for event in log.events] == [
        "EV_S_CRTM_VERSION",
        "EV_EFI_BOOT_SERVICES_APPLICATION",
        "EV_IPL",
    ]


def test_a_recorded_log_replays_as_the_boot_did(tpm_state):
    log = event_log(EVENTS)
    assert [(event.register, event.digest) for event in recorded(log)] == [
        (event.register, event.digest) for event in EVENTS[:3]
    ]
    with replayed(tpm_state, log) as machine:
        assert machine.event_log == log
        assert machine.tpm.read_pcrs()[4] == extended(b"image", b"kernel")


def test_each_replay_starts_from_a_fresh_power_on(tpm_state):
    for _ in range(2):
        with replayed(tpm_state, EVENTS[:1]) as machine:
            assert machine.tpm.read_pcrs()[0] == extended(b"firmware")


def test_a_replayed_machine_gets_its_keys_and_answers(tpm_state, deployment, tmp_path):
    write_disk(tmp_path / "disk", deployment.init_data, deployment.files, prompt="why is a key like")
    with serving(LittleBroker(dict(KEYS.values()))) as broker, replayed(tpm_state, EVENTS) as machine:
        outcome = machine.run(tmp_path / "disk", broker_url=broker.url)
        log = broker.attestation.primary_evidence["event_log"]
    assert outcome.refusal is None
    assert len(outcome.answer) == 120
    assert outcome.key_seconds is not None
    assert outcome.event("done") == {"event": "done"}
    assert log


def test_a_replayed_machine_says_why_it_got_none(tpm_state, deployment, tmp_path):
    write_disk(tmp_path / "disk", b"no init-data", deployment.files, prompt=None)
    with replayed(tpm_state, EVENTS) as machine:
        outcome = machine.run(tmp_path / "disk", broker_url="http://127.0.0.1:9")
    assert (outcome.answer, outcome.key_seconds) == (None, None)
    assert outcome.refusal["code"] == "malformed"


def test_two_machines_can_not_use_one_tpm_at_once(tpm_state):
    refused = pytest.raises(Unreachable, match="swtpm did not start")
    with replayed(tpm_state, ()), refused as caught, replayed(tpm_state, ()):
        pass
    assert caught.value.code == "tpm.start"


def test_a_tpm_authority_that_made_none_yet_has_no_certificate(tmp_path):
    with pytest.raises(Unreachable, match=r"swtpm-localca-rootca-cert\.pem: No such file"):
        softtpm.TpmMaker(tmp_path).certificates()


def test_the_authority_lives_in_its_own_folder_alone(maker):
    assert {"signkey.pem", "issuercert.pem", "localca.conf"} <= {path.name for path in maker.folder.iterdir()}
    assert str(maker.folder) in (maker.folder / "setup.conf").read_text()


def test_a_failed_manufacture_says_what_swtpm_said(maker, tmp_path, monkeypatch):
    fake_tool(tmp_path, monkeypatch, "swtpm_setup", "print('first'); print('no space'); raise SystemExit(1)")
    with pytest.raises(Unreachable, match="swtpm_setup failed: first / no space"):
        maker.manufacture(tmp_path / "state")


def test_a_missing_tool_is_named(monkeypatch):
    with pytest.raises(Unreachable, match="no-such-tool is not installed") as caught:
        softtpm.tool("no-such-tool")
    assert caught.value.code == "tool.missing"


# --- QEMU, without QEMU: a program in its place that records how it was called


def fake_tool(folder: Path, monkeypatch, name: str, body: str) -> Path:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{sys.executable} -S\nimport sys\n" + textwrap.dedent(body))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return path


def machine(tmp_path, tpm_state, **changes) -> Machine:
    values = {
        "uki": tmp_path / "uki.efi",
        "firmware": tmp_path / "OVMF.fd",
        "disk": tmp_path / "a disk, with a comma",
        "tpm_state": tpm_state,
        "broker_port": 4711,
        "timeout_seconds": 20.0,
        **changes,
    }
    return Machine(**values)


ECHO = "print('ARGV ' + repr(sys.argv[1:]).replace('\\n', ' '))"


def called(tmp_path, tpm_state, monkeypatch, **changes) -> list[str]:
    fake_tool(tmp_path, monkeypatch, "qemu-system-x86_64", ECHO)
    outcome = machine(tmp_path, tpm_state, **changes).boot()
    (line,) = (text for _, text in outcome.lines if text.startswith("ARGV "))
    return [part[1:-1] for part in re.findall(r"'[^']*'|\"[^\"]*\"", line.removeprefix("ARGV "))]


def after(argv: list[str], option: str) -> list[str]:
    return [argv[at + 1] for at, part in enumerate(argv) if part == option]


def test_the_machine_reaches_the_broker_and_nothing_else(tmp_path, tpm_state, monkeypatch):
    (network,) = after(called(tmp_path, tpm_state, monkeypatch), "-netdev")
    assert network.startswith("user,id=net,restrict=on,guestfwd=tcp:10.0.2.100:8777-cmd:")
    assert network.endswith(" 4711")
    assert "hostfwd" not in network


def test_emulation_is_asked_for_by_name_and_the_card_has_no_rom(tmp_path, tpm_state, monkeypatch):
    argv = called(tmp_path, tpm_state, monkeypatch)
    assert after(argv, "-accel") == ["tcg,tb-size=512"]
    assert after(argv, "-cpu") == ["max,-cx16"]
    assert after(argv, "-append") == []
    assert "virtio-net-pci,netdev=net,romfile=" in after(argv, "-device")
    assert (after(argv, "-m"), after(argv, "-smp")) == (["512"], ["1"])
    (disk,) = after(argv, "-drive")
    assert disk.endswith("a disk,, with a comma")
    assert "readonly=on" in disk


def test_what_a_host_may_change_is_changed(tmp_path, tpm_state, monkeypatch):
    argv = called(tmp_path, tpm_state, monkeypatch, option_rom=True, append="debug", ram_mib=1024, vcpus=2)
    assert after(argv, "-append") == ["debug"]
    assert (after(argv, "-m"), after(argv, "-smp")) == (["1024"], ["2"])
    (card,) = (device for device in after(argv, "-device") if "virtio-net" in device)
    assert card.endswith("option.rom")


def test_the_consoles_events_are_read(tmp_path, tpm_state, monkeypatch):
    body = """
    sys.stdout.write('\\x1b[2J[ 1.0] kernel TALLY {"event":"opened"}\\r\\n')
    sys.stdout.write('noise\\n\\nTALLY {"event":"answer","text":"yes"}\\nTALLY {"event":"refused","code":"x"}')
    """
    fake_tool(tmp_path, monkeypatch, "qemu-system-x86_64", body)
    seen: list[str] = []
    outcome = machine(tmp_path, tpm_state).boot(seen.append)
    assert [event["event"] for _, event in outcome.events] == ["opened", "answer", "refused"]
    assert (outcome.answer, outcome.refusal) == ("yes", {"event": "refused", "code": "x"})
    assert not outcome.timed_out
    assert seen == [text for _, text in outcome.lines]
    assert outcome.key_seconds is not None


def test_prompts_are_typed_once_the_guest_listens(tmp_path, tpm_state, monkeypatch):
    body = """
    print('TALLY {"event":"listening"}', flush=True)
    for line in iter(sys.stdin.readline, "\\n"):
        print("heard", line.strip(), flush=True)
    """
    fake_tool(tmp_path, monkeypatch, "qemu-system-x86_64", body)
    outcome = machine(tmp_path, tpm_state, prompts=("why?", "who?")).boot()
    assert [text for _, text in outcome.lines][1:] == ["heard why?", "heard who?"]


HANG = """
import subprocess, time
child = subprocess.Popen(["sleep", "300"])
print("PIDS", __import__("os").getpid(), child.pid, flush=True)
time.sleep(300)
"""


def pids(lines) -> list[int]:
    return [int(pid) for text in lines if text.startswith("PIDS") for pid in text.split()[1:]]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def all_end(found: list[int]) -> bool:
    """Return whether all are gone soon: a killed process takes a moment to die."""
    deadline = time.monotonic() + 5
    while (left := [pid for pid in found if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not left


def test_a_machine_that_hangs_is_ended_with_all_it_started(tmp_path, tpm_state, monkeypatch):
    fake_tool(tmp_path, monkeypatch, "qemu-system-x86_64", HANG)
    outcome = machine(tmp_path, tpm_state, timeout_seconds=4.0).boot()
    assert outcome.timed_out
    found = pids(text for _, text in outcome.lines)
    assert len(found) == 2
    assert all_end(found)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_a_kill_leave_nothing_running(tmp_path, tpm_state, monkeypatch, number):
    fake_tool(tmp_path, monkeypatch, "qemu-system-x86_64", HANG.replace('["sleep", "300"]', '["sleep", "0"]'))
    program = f"""
    from pathlib import Path
    from tallystick.cli.demo.machine import Machine
    Machine(uki=Path("u"), firmware=Path("f"), disk=Path("d"), tpm_state=Path({str(tpm_state)!r}),
            broker_port=1).boot(lambda line: print(line, flush=True))
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "pipeline")}
    argv = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        found = pids([process.stdout.readline().decode()])
        process.send_signal(number)
        process.wait(10)
    assert found
    assert all_end(found[:1])
    with replayed(tpm_state, ()) as free:  # and its TPM is free again
        free.tpm.read_pcrs()


def test_ctrl_c_while_a_tpm_is_made_ends_the_emulator_that_its_setup_started(tmp_path, monkeypatch):
    seen = tmp_path / "pids"
    body = f"""
    import os, subprocess, time
    child = subprocess.Popen(["sleep", "300"])
    with open({str(seen)!r} + ".new", "w") as file:
        file.write(f"PIDS {{os.getpid()}} {{child.pid}}")
    os.rename({str(seen)!r} + ".new", {str(seen)!r})
    time.sleep(300)
    """
    fake_tool(tmp_path, monkeypatch, "swtpm_setup", body)
    program = f"""
    from pathlib import Path
    from tallystick.cli.demo.softtpm import TpmMaker
    TpmMaker(Path({str(tmp_path / "ca")!r})).manufacture(Path({str(tmp_path / "state")!r}))
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "pipeline")}
    argv = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(argv, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 10
        while not seen.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.wait(10)
    found = pids([seen.read_text()])
    assert len(found) == 2
    assert all_end(found)


def test_a_console_without_end_is_cut(tmp_path, tpm_state, monkeypatch):
    body = """
    while True:
        sys.stdout.write("x" * 65536)
    """
    fake_tool(tmp_path, monkeypatch, "qemu-system-x86_64", body)
    outcome = machine(tmp_path, tpm_state).boot()
    assert outcome.timed_out
    assert outcome.seconds < 15


@pytest.mark.parametrize(
    ("body", "boots"),
    [
        ("print('BdsDxe', flush=True); import time; time.sleep(60)", True),
        ("print('KVM internal error', file=sys.stderr, flush=True); import time; time.sleep(60)", False),
        ("pass", False),
    ],
)
def test_hardware_virtualisation_is_believed_when_the_firmware_speaks(tmp_path, monkeypatch, body, boots):
    fake_tool(tmp_path, monkeypatch, "qemu-system-x86_64", body)
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    assert boots_under_kvm(tmp_path / "OVMF.fd") is boots


def test_without_the_device_there_is_no_hardware_virtualisation(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert boots_under_kvm(tmp_path / "OVMF.fd") is False


def test_the_option_rom_holds_one_driver_that_a_firmware_can_hash():
    rom = option_rom()
    assert rom[:2] == b"\x55\xaa"
    assert len(rom) >= 4096
    size = 512 * int.from_bytes(rom[2:4], "little")
    data = int.from_bytes(rom[0x18:0x1A], "little")
    assert (rom[data : data + 4], data % 4) == (b"PCIR", 0)
    assert rom[data + 20 : data + 22] == b"\3\x80"  # UEFI code, the last image
    assert rom[int.from_bytes(rom[0x16:0x18], "little") : size] == driver()
    pe.authenticode(pe.parse(driver()))


class Echo(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body[::-1])

    def log_message(self, *_):
        pass


def test_the_relay_carries_a_request_and_its_answer():
    server = HTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    body = bytes(range(256)) * 2000
    request = b"POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    argv = [sys.executable, "-I", "-S", relay.__file__, str(server.server_address[1])]
    done = subprocess.run(argv, input=request, capture_output=True, timeout=20, check=True)
    thread.join()
    server.server_close()
    assert done.stdout.partition(b"\r\n\r\n")[2] == body[::-1]


def test_the_relay_ends_when_nobody_answers():
    argv = [sys.executable, "-I", "-S", relay.__file__, "9"]
    assert subprocess.run(argv, capture_output=True, timeout=20, check=False).returncode == 1


@given(st.text(max_size=60))
def test_any_line_of_a_console_is_read(text):
    parse_line(text)
    event = parse_line("TALLY {" + text)
    assert event is None or isinstance(event, dict)


def test_an_emulator_is_ready_when_it_is_given(tpm_state):
    for _ in range(5):
        with softtpm.emulator(tpm_state) as path:
            open_tpm(str(path)).close()

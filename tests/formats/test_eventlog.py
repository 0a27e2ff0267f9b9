"""TCG event logs: every byte read, replay by bank, and what is no log."""

from __future__ import annotations

import hashlib
import json
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_corpus import corpus
from support_eventlog import ACTION, NO_ACTION, SEPARATOR, event, header, legacy, log

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import eventlog

EVENTS = [(0, ACTION, b"one"), (4, SEPARATOR, bytes(4)), (0, ACTION, b"two"), (11, 13, b".linux\0")]


def extended(bank: str, *data: bytes, start: bytes = b"") -> bytes:
    value = start or bytes(hashlib.new(bank).digest_size)
    for one in data:
        value = hashlib.new(bank, value + hashlib.new(bank, one).digest()).digest()
    return value


def test_each_bank_replays_by_its_own_hash():
    banks = ("sha1", "sha256", "sha384", "sha512")
    parsed = eventlog.parse(log(EVENTS, banks))
    assert parsed.banks == banks
    for bank in banks:
        assert eventlog.replay(parsed, bank) == {
            0: extended(bank, b"one", b"two"),
            4: extended(bank, bytes(4)),
            11: extended(bank, b".linux\0"),
        }


def test_events_keep_place_kind_and_data():
    parsed = eventlog.parse(log(EVENTS))
    assert [(e.register, e.kind_name, e.data) for e in parsed.events] == [
        (0, "EV_ACTION", b"one"),
        (4, "EV_SEPARATOR", bytes(4)),
        (0, "EV_ACTION", b"two"),
        (11, "EV_IPL", b".linux\0"),
    ]
    assert parsed.events[0].offset == len(header())
    assert eventlog.parse(log([(1, 0x77, b"")])).events[0].kind_name == "0x00000077"


def test_no_action_is_not_extended_and_may_belong_to_no_register():
    parsed = eventlog.parse(log([(0xFFFFFFFF, NO_ACTION, b"SP800-155 Event"), (7, ACTION, b"x")]))
    assert dict(eventlog.replay(parsed, "sha256")) == {7: extended("sha256", b"x")}


@pytest.mark.parametrize("locality", [0, 3, 4])
def test_startup_locality_is_what_register_0_begins_with(locality):
    data = b"StartupLocality\0" + bytes([locality])
    parsed = eventlog.parse(log([(0, NO_ACTION, data), (0, ACTION, b"x")]))
    start = bytes(31) + bytes([locality])
    assert eventlog.replay(parsed, "sha256")[0] == extended("sha256", b"x", start=start)


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([(0, ACTION, b"x"), (0, NO_ACTION, b"StartupLocality\0\3")], "before it is extended"),
        ([(0, NO_ACTION, b"StartupLocality\0\3")] * 2, "want one"),
        ([(1, NO_ACTION, b"StartupLocality\0\3")], "in register 0"),
        ([(0, NO_ACTION, b"StartupLocality\0\1")], "want locality 0, 3 or 4, got 01"),
        ([(0, NO_ACTION, b"StartupLocality\0")], "want locality 0, 3 or 4"),
    ],
)
def test_a_startup_locality_that_can_not_be_is_malformed(events, said):
    with pytest.raises(Malformed, match=said):
        eventlog.parse(log(events))


@pytest.mark.parametrize("filling", [b"\0" * 40, b"\xff" * 40, b"\0", b"\xff"])
def test_filling_after_the_last_event_is_not_an_event(filling):
    assert len(eventlog.parse(log(EVENTS) + filling).events) == len(EVENTS)
    ends_in_zeros = log([(4, SEPARATOR, bytes(4))])
    assert len(eventlog.parse(ends_in_zeros + filling).events) == 1


def test_a_log_of_tpm_1_2_has_one_bank():
    parsed = eventlog.parse(legacy(0, 8, b"version") + legacy(4, SEPARATOR, bytes(4)))
    assert parsed.banks == ("sha1",)
    assert eventlog.replay(parsed, "sha1")[4] == extended("sha1", bytes(4))


def test_an_unknown_hash_is_carried_by_number_and_never_replayed():
    algorithms = [(0xB, 32), (0x27, 32)]
    one = struct.pack("<IIIH", 3, ACTION, 2, 0x27) + b"k" * 32 + struct.pack("<H", 0xB)
    one += hashlib.sha256(b"x").digest() + struct.pack("<I", 1) + b"x"
    parsed = eventlog.parse(header(algorithms=algorithms) + one)
    assert parsed.banks == ("sha256", "0x0027")
    assert eventlog.replay(parsed, "sha256") == {3: extended("sha256", b"x")}
    with pytest.raises(Unsupported, match="bank: want one of sha256, got 0x0027"):
        eventlog.replay(parsed, "0x0027")
    with pytest.raises(Unsupported, match="bank: want one of sha256, got sha384"):
        eventlog.replay(parsed, "sha384")


GOOD = event(0, ACTION, b"x")
BROKEN = [
    (b"", "pcrIndex at offset 0: want 4 bytes, got 0 left"),
    (b"log", "pcrIndex at offset 0"),
    (header()[:-4], "want"),
    (header() + GOOD[:-1], "event at offset"),
    (header() + GOOD + b"\1", "pcrIndex at offset"),
    (header() + event(24, ACTION, b"x"), "pcrIndex at offset 73: want at most 23, got 24"),
    (header() + event(0xFFFFFFFF, ACTION, b"x"), "pcrIndex"),
    (header() + struct.pack("<III", 0, ACTION, 0) + struct.pack("<I", 1) + b"x", "digests.count"),
    (header() + event(0, ACTION, b"x", ("sha384",)), "each declared algorithm once, got 0x000c"),
    (header(("sha256", "sha384")) + event(0, ACTION, b"x"), "digests.count"),
    (header() + GOOD[:-5] + b"\xff\xff\xff\xff" + b"x", "event at offset"),
    (header(algorithms=[]), "numberOfAlgorithms at offset 28: want 1 to 16, got 0"),
    (header(algorithms=[(0xB, 20)]), "digestSize at offset 32: want 32 for sha256, got 20"),
    (header(algorithms=[(0xB, 32), (0xB, 32)]), "each algorithm once, got sha256"),
    (header(algorithms=[(0x99, 0)]), "digestSize"),
    (legacy(0, NO_ACTION, b"Spec ID Event03\0" + bytes(4) + b"\0\2\0\3" + bytes(5), bytes(20)), "uintnSize"),
    (legacy(0, NO_ACTION, header()[32:] + b"\0", bytes(20)), "end at offset"),
    (legacy(0, NO_ACTION, header()[32:], b"d" * 20), "want a digest of zeros"),
]


@pytest.mark.parametrize(("data", "said"), BROKEN)
def test_what_breaks_the_format_is_named(data, said):
    with pytest.raises(Malformed) as caught:
        eventlog.parse(data)
    assert said in str(caught.value)


def test_the_same_algorithm_twice_in_one_event_is_malformed():
    one = struct.pack("<III", 0, ACTION, 2) + (struct.pack("<H", 0xB) + bytes(32)) * 2 + struct.pack("<I", 0)
    with pytest.raises(Malformed, match="each declared algorithm once"):
        eventlog.parse(header(("sha256", "sha384")) + one)


def test_too_long_a_log_is_not_read():
    with pytest.raises(Malformed, match="size: want at most"):
        eventlog.parse(bytes(eventlog.MAX_LOG_BYTES + 1))


def test_data_may_be_believed_only_when_it_was_digested():
    good, bad = eventlog.parse(header() + GOOD + event(0, ACTION, b"x", digests={"sha256": bytes(32)})).events
    assert eventlog.data_is_digested(good, "sha256")
    assert not eventlog.data_is_digested(bad, "sha256")


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        (0x80000001, bytes(16) + struct.pack("<QQ", 2, 0) + "db".encode("utf-16-le"), "db"),
        (0x80000001, bytes(16) + struct.pack("<QQ", 1 << 60, 0), None),
        (5, b"Exit Boot Services Invocation", "Exit Boot Services Invocation"),
        (13, "quiet\0".encode("utf-16-le"), "quiet"),
        (6, bytes(8) + b"Linux initrd\0", "Linux initrd"),
        (4, bytes(4), "00000000"),
        (8, b"\x80" * 40, "80" * 32 + "… (40 bytes)"),
    ],
)
def test_events_are_described_for_people(kind, data, said):
    text = eventlog.describe(eventlog.parse(log([(0, kind, data)])).events[0])
    assert text == said if said else text


@given(st.data())
def test_nearly_right_bytes_give_a_log_or_a_refusal(data):
    raw = bytearray(log(EVENTS, ("sha1", "sha256")))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    with suppress(Malformed, Unsupported):
        parsed = eventlog.parse(bytes(raw[:cut] if data.draw(st.booleans()) else raw))
        for one in parsed.events:
            eventlog.describe(one)
        eventlog.replay(parsed, "sha256")


@given(st.binary(max_size=200))
def test_any_bytes_give_a_log_or_a_refusal(raw):
    with suppress(Malformed):
        eventlog.parse(raw)
    with suppress(Malformed):
        eventlog.parse(header() + raw)


# Other people's logs. go-tpm-tools reads these PCRs from the machines themselves.
LOGS = {
    "Debian10GCE": "debian-10.bin",
    "UbuntuAmdSevGCE": "ubuntu-1804-amd-sev.bin",
    "Ubuntu2104NoDbxGCE": "ubuntu-2104-no-dbx.bin",
    "Ubuntu2104NoSecureBootGCE": "ubuntu-2104-no-secure-boot.bin",
    "GlinuxNoSecureBootLaptop": "glinux-alex.bin",
    "ArchLinuxWorkstation": "arch-linux-workstation.bin",
    "SP800155EventLog": "eventlogwithsp800155.bin",
    "CGKE251000": "confidential-gke-debug-251000_eventlog.bin",
}


@pytest.mark.corpus
@pytest.mark.parametrize("name", sorted(LOGS))
def test_real_logs_replay_to_what_the_machine_held(name):
    expected = json.loads(corpus("evidence/tpm/gce/expected_pcrs.json").read_text())[name]
    parsed = eventlog.parse(corpus(f"evidence/tpm/gce/eventlogs/{LOGS[name]}").read_bytes())
    checked = 0
    for bank, values in expected["banks" if "banks" in expected else "pcrs"].items():
        replayed = eventlog.replay(parsed, bank.lower())
        for register, value in values.items():
            assert replayed.get(int(register), bytes(len(value) // 2)).hex() == value, (bank, register)
            checked += 1
    assert checked


@pytest.mark.corpus
@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
def test_the_log_of_a_measured_boot_replays_to_its_registers(bank):
    """PCR 10 is IMA's, which has a log of its own."""
    folder = corpus("evidence/tpm/qemu_swtpm_uki")
    held = json.loads((folder / "pcrs.json").read_text())["pcrs"][bank]
    replayed = eventlog.replay(eventlog.parse((folder / "eventlog.bin").read_bytes()), bank)
    for register in sorted(set(range(16)) - {10}):
        assert replayed.get(register, bytes(len(held["0"]) // 2)).hex() == held[str(register)].lower()


@pytest.mark.corpus
def test_real_logs_at_the_edge():
    folder = corpus("evidence/tpm/eventlog_edge")
    banks = {
        name: eventlog.parse((folder / name).read_bytes()).banks
        for name in ("crypto_agile_eventlog", "ebs_event_missing_eventlog", "short_no_action_eventlog")
    }
    assert banks == {
        "crypto_agile_eventlog": ("sha256",),
        "ebs_event_missing_eventlog": ("sha1",),
        "short_no_action_eventlog": ("sha1",),
    }
    keylime = corpus("evidence/tpm/keylime")
    assert len(eventlog.parse((keylime / "binary_bios_measurements").read_bytes()).events) == 120
    with pytest.raises(Malformed, match="event at offset 32"):
        eventlog.parse((keylime / "binary_bios_measurements-bogus").read_bytes())


@pytest.mark.corpus
@pytest.mark.parametrize("name", ["CCEL_unpadded.data.bin", "CCEL_data_ovmf", "CCEL_data_gcp.trimmed"])
def test_a_confidential_guests_log_has_the_same_form(name):
    parsed = eventlog.parse(corpus(f"evidence/tdx/ccel/{name}").read_bytes())
    assert "sha384" in parsed.banks
    assert {event.register for event in parsed.events} <= {0, 1, 2, 3, 4}

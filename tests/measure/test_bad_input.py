"""Bytes that lie: every reader that measuring uses answers malformed or unsupported, with the field and its offset.

The readers are fed nearly right files, mutated at random: a sample here, many more under ``make soak``.
"""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from measure.launches import snp_firmware
from measure.test_nitro import image as eif_image
from measure.test_sgx import ADD, CREATE
from measure.test_tdx import PAGE, firmware_with
from support_eventlog import log
from support_firmware import image as firmware_image
from support_firmware import pei_volume
from support_pe import kernel, pe, uki

from tallystick.cli import app
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import eif, eventlog, firmware, intoto, oms, ovmf, sgx
from tallystick.formats import pe as pe_format
from tallystick.formats import uki as uki_format
from tallystick.handshake import initdata
from tallystick.measure import firmwares, hostdata, nitro, snp, tdx
from tallystick.measure.uki import image_events

FIRMWARE = snp_firmware()
TDVF = firmware_with(
    [(0, PAGE, 0xFFFFF000, PAGE, 0, 1), (0, 0, 0x809000, PAGE, 2, 0), (PAGE, PAGE, 0xFFFFE000, PAGE, 1, 0)]
).data
SHAPE = snp.SnpShape(vcpus=2, vcpu_signature=0, guest_features=1)


def _snp(data: bytes) -> None:
    parsed = ovmf.parse(data)
    if (
        sum(r.size_bytes for r in parsed.sev_ranges()) < 1 << 20
    ):  # hashing what a table claims is not reading it
        snp.launch_digest(snp.launch_image(parsed), SHAPE, snp.KernelHashes.of(b"", b"", ""))


def _tdx(data: bytes) -> None:
    parsed = ovmf.parse(data)
    if sum(s.memory_bytes for s in parsed.tdx_sections()) < 1 << 20:
        tdx.mrtd(parsed)
        tdx.platform(parsed, memory_bytes=1 << 30, acpi_loader=b"", acpi_rsdp=b"", acpi_tables=b"")


def _eif(data: bytes) -> None:
    raw = bytearray(data)
    if len(raw) >= eif.HEADER_BYTES:  # a right CRC lets the mutation through to the fields behind it
        struct.pack_into(">I", raw, 544, zlib.crc32(raw[548:], zlib.crc32(raw[:544])))
    nitro.pcrs(eif.parse(bytes(raw)))


def _bzimage() -> bytes:
    data = bytearray(kernel() * 4)
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x206, 0x20F)
    return bytes(data)


READERS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "SEV metadata": (FIRMWARE, _snp),
    "TDVF metadata": (TDVF, _tdx),
    "EIF": (eif_image(), _eif),
    "PE": (
        pe([(".text", b"x" * 700), (".data", b"y")]),
        lambda d: pe_format.authenticode(pe_format.parse(d)),
    ),
    "UKI": (uki(), lambda d: image_events(uki_format.parse(d))),
    "firmware volumes": (firmware_image(), firmware.parse),
    "PEI volume": (pei_volume(), lambda d: firmwares.platform_info_offset(memoryview(d))),
    "kernel": (_bzimage(), lambda d: tdx.kernel_authenticode(d, initrd_bytes=4096, memory_bytes=1 << 30)),
    "SGXS": (CREATE + ADD, lambda d: list(sgx.measured_parts(d))),
    "event log": (log([(0, 4, bytes(4)), (7, 1, b"x" * 40)]), eventlog.parse),
    "init-data": (initdata.make({"a": "b"}), hostdata.init_data),
    "OMS": (
        oms.make("m", oms.Serialization(), {"a": "00" * 32, "b": "11" * 32}).statement(),
        lambda d: oms.parse(intoto.parse(d)),
    ),
}
INTERESTING = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0xFFF,
    0x1000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    (1 << 63) - 1,
    (1 << 64) - 1,
)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return ``data`` with bytes flipped, numbers overwritten, parts cut, doubled or moved."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not raw:
            return rng.randbytes(rng.randrange(40))
        # Tables lie at the ends of these files; a place near one is worth more than one in the middle.
        edge = rng.choice((0, len(raw) - 1500, rng.randrange(len(raw))))
        at = min(max(0, edge + rng.randrange(1500)), len(raw) - 1)
        match rng.randrange(6):
            case 0:
                raw[at] ^= 1 << rng.randrange(8)
            case 1 | 2:
                size = rng.choice((1, 2, 4, 8))
                value = rng.choice(INTERESTING) + rng.choice((-1, 0, 1))
                raw[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, rng.choice(("little", "big")))
            case 3:
                del raw[at : at + rng.choice((1, 16, 4096, len(raw)))]
            case 4:
                raw[at:at] = raw[at : at + rng.choice((1, 18, 4096))]
            case 5:
                other = rng.randrange(len(raw))
                raw[at : at + 16] = raw[other : other + 16]
    return bytes(raw)


def feed(name: str, rng: random.Random, count: int) -> int:
    """Feed ``count`` mutants to a reader and return how many it refused, each with a place."""
    data, read = READERS[name]
    return sum(refused(read, mutated(data, rng)) for _ in range(count))


def refused(read: Callable[[bytes], object], data: bytes) -> bool:
    """Return whether ``read`` refused ``data`` with a place; any other error is ours, and is raised."""
    try:
        read(data)
    except (Malformed, Unsupported) as error:
        return bool(error.at) or pytest.fail(f"no place in: {error}")
    return False


@pytest.mark.parametrize("name", READERS)
def test_a_sample_of_mutants_is_read_or_refused_with_a_place(name):
    assert feed(name, random.Random(f"20261122 {name}"), 150) > 0


@pytest.mark.soak
@pytest.mark.parametrize("name", READERS)
def test_many_mutants_are_read_or_refused_with_a_place(name):
    feed(name, random.Random(), 20_000)


@pytest.mark.parametrize("name", READERS)
def test_files_cut_anywhere_are_read_or_refused_with_a_place(name):
    data, read = READERS[name]
    for size in {*range(0, min(len(data), 700), 7), *range(0, len(data), max(1, len(data) // 50))}:
        refused(read, data[:size])


def firmware_entry(change: Callable[[bytearray], None], data: bytes = FIRMWARE) -> bytes:
    raw = bytearray(data)
    change(raw)
    return bytes(raw)


def at(data: bytes, mark: bytes) -> int:
    return data.index(mark)


SEV, TDX = at(FIRMWARE, b"ASEV"), at(TDVF, b"TDVF")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (FIRMWARE[:-1], "size: want whole pages"),
        (b"", "size: want whole pages"),
        (
            firmware_entry(lambda d: struct.pack_into("<H", d, len(d) - 50, 5)),
            "table length at offset 0xffce: want",
        ),
        (firmware_entry(lambda d: struct.pack_into("<H", d, len(d) - 50, 0xFFFF)), "table length at offset"),
        (firmware_entry(lambda d: struct.pack_into("<H", d, len(d) - 68, 3)), "table entry"),
        (firmware_entry(lambda d: struct.pack_into("<I", d, SEV + 4, 16)), "count at offset 16"),
        (firmware_entry(lambda d: struct.pack_into("<I", d, SEV + 16, 0x800001)), "section 0 at offset 28"),
        (firmware_entry(lambda d: struct.pack_into("<I", d, SEV + 20, 0xFFFFF000)), "section 0 at offset 28"),
        (firmware_entry(lambda d: struct.pack_into("<I", d, SEV + 28, 0x800000)), "section at 0x80"),
    ],
)
def test_lying_sev_tables_are_named_by_field_and_place(data, said):
    with pytest.raises(Malformed) as caught:
        _snp(data)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda d: d.__setitem__(slice(TDX, TDX + 4), b"TDVX"), Malformed, "signature at offset 4"),
        (lambda d: struct.pack_into("<I", d, TDX + 8, 2), Unsupported, "version: want 1, got 2"),
        (lambda d: struct.pack_into("<I", d, TDX + 12, 65), Malformed, "count at offset 16"),
        (lambda d: struct.pack_into("<I", d, TDX + 20, 0xFFFF), Malformed, "section 0 at offset 48"),
        (lambda d: struct.pack_into("<Q", d, TDX + 32, 1 << 40), Malformed, "section 0 at offset 48"),
        (lambda d: struct.pack_into("<Q", d, TDX + 32, 65 << 20), Malformed, "at most 64 MiB"),
        (lambda d: struct.pack_into("<I", d, TDX + 44, 4), Unsupported, "section 0 attributes"),
        (lambda d: struct.pack_into("<Q", d, TDX + 16 + 32 + 8, 0xFFFFF000), Malformed, "no overlap with"),
    ],
)
def test_lying_tdvf_tables_are_named_by_field_and_place(change, error, said):
    with pytest.raises(error) as caught:
        _tdx(firmware_entry(change, TDVF))
    assert said in str(caught.value)


def run(capsys, *arguments: object) -> tuple[int, dict]:
    code = app._run(["measure", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def files(tmp_path) -> Path:
    wrong = bytearray(eif_image())
    wrong[600] ^= 1
    odd = bytearray(uki())
    start = struct.unpack_from("<I", odd, 0x3C)[0]
    table = start + 24 + struct.unpack_from("<H", odd, start + 20)[0]
    struct.pack_into("<I", odd, table + 16, 0x10001)  # SizeOfRawData of the first section
    unknown = bytearray(eif_image([(1, b"k"), (2, b"c"), (3, b"r"), (9, b"x")]))
    for name, data in {
        "fw": FIRMWARE, "tdvf": TDVF, "cut": FIRMWARE[:5000], "eif-crc": bytes(wrong), "eif-kind": bytes(unknown),
        "pe-odd": bytes(odd), "pe-cut": uki()[:300], "empty": b"", "text": b"hello\n", "zeros": bytes(8192),
        "initrd": b"x",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    return tmp_path


TYPE = ("--vcpu-type", "EPYC")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("snp", "{}/fw", *TYPE, "--vcpus", "0"), 3, "vcpus: want 1 to 512, got 0"),
        (("snp", "{}/fw", *TYPE, "--vcpus", "513"), 3, "vcpus: want 1 to 512, got 513"),
        (("snp", "{}/fw", *TYPE, "--vcpus", "-1"), 3, "vcpus: want 1 to 512, got -1"),
        (("snp", "{}/fw", "--vcpu-type", "Skylake"), 4, "got Skylake"),
        (("snp", "{}/fw", "--vcpu-sig", "0x100000000"), 3, "vcpu signature: want 32 bits"),
        (("snp", "{}/fw", *TYPE, "--guest-features", "2"), 3, "guest features: want bit 0"),
        (("snp", "{}/fw", *TYPE, "--vcpus", "two"), 2, "--vcpus: want a number"),
        (("snp", "{}/cut", *TYPE), 3, "firmware: size: want whole pages of 4096 bytes, got 5000 bytes"),
        (("snp", "{}/zeros", *TYPE), 4, "table footer at offset 0x1fe0"),
        (("snp", "{}/tdvf", *TYPE), 4, "OVMF_SEV_META_DATA"),
        (("snp", "{}/empty", *TYPE), 3, "firmware: size"),
        (("tdx", "{}/fw"), 4, "TDX_METADATA_OFFSET"),
        (("tdx", "{}/tdvf", "--kernel", "{}/text", "--memory-mib", "512"), 3, "setup header at 0x202"),
        (("tdx", "{}/tdvf", "--memory-mib", "512", "--acpi", "00,11"), 2, "three SHA-384 values"),
        (("nitro", "{}/eif-crc"), 3, "CRC at offset 544"),
        (("nitro", "{}/eif-kind"), 4, "type of section 3 at offset"),
        (("nitro", "{}/empty"), 3, "header at offset 0"),
        (("nitro", "{}/text"), 3, "header at offset 0"),
        (("uki", "{}/pe-odd"), 3, "section .text SizeOfRawData"),
        (("uki", "{}/pe-cut"), 3, "at offset"),
        (("uki", "{}/text"), 3, "e_magic at offset 0"),
        (("sgx", "{}/text"), 3, ""),
        (("cca", "--data", "0x1:{}/text"), 3, "data"),
        (("cca", "--ripas", "0:0"), 3, "ripas"),
        (("cca", "--hash", "md5"), 4, "hash algorithm"),
    ],
)
def test_the_command_says_what_is_wrong_and_where(files, capsys, arguments, code, said):
    got, document = run(capsys, *(one.format(files) for one in arguments))
    assert (got, said in document["error"]["message"]) == (code, True), document


def test_every_reader_reads_its_own_file():
    """The mutants are of files that are right: each is read whole."""
    for data, read in READERS.values():
        read(data)
    assert Digest.of(FIRMWARE) == Digest.of(snp_firmware())

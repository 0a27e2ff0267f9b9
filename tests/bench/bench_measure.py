"""Pairs for ``make bench``: what measuring takes, each beside what it is held against.

``pairs(folder, tally)`` gives (what, ours, peer's name, peer's, limit, rounds) for :func:`run.pair`. The results of
both sides are compared before anything is timed, where both have one.
"""

from __future__ import annotations

import hashlib
import mmap
import resource
import shutil
import struct
import subprocess
import sys
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path

from support_corpus import CORPUS

from tallystick.formats import eif, ovmf
from tallystick.measure import nitro, tdx
from tallystick.measure.registers import replay
from tallystick.measure.uki import pcr11_events

Pair = tuple[str, Callable[[], object], str, Callable[[], object], str, int]
_PAGE = 4096
_MODEL_BYTES = 4 << 30
_MODEL_MEMORY_MIB = 100


def pairs(folder: Path, tally: list[str]) -> list[Pair]:
    made = [*_snp(folder, tally), _mrtd(), _nitro(folder), *_pcr11(folder), _model(folder, tally)]
    return [pair for pair in made if pair is not None]


def _run(*command: str | Path) -> str:
    return subprocess.run(list(map(str, command)), capture_output=True, check=True, text=True).stdout


def _bytes(path: Path, size: int) -> Path:
    path.write_bytes(hashlib.shake_128(path.name.encode()).digest(size))
    return path


def _snp(folder: Path, tally: list[str]) -> list[Pair]:
    """The corpus's firmware tail behind four MiB that stand for the rest: size and code path of a real one."""
    tail = (CORPUS / "evidence/snp/measure/ovmf_AmdSev_suffix.bin").read_bytes()
    firmware = folder / "ovmf.fd"
    firmware.write_bytes(hashlib.shake_128(b"firmware").digest((4 << 20) - len(tail)) + tail)
    kernel, initrd = _bytes(folder / "kernel", 14 << 20), _bytes(folder / "initrd", 64 << 20)
    files = ["--ovmf", firmware, "--kernel", kernel, "--initrd", initrd, "--append", "console=ttyS0"]
    peer = Path(sys.executable).with_name("sev-snp-measure")
    types, counts = ["EPYC-Milan", "EPYC-Genoa", "EPYC-Turin"], ["1", "2", "8", "32", "64", "192"]

    def ours(kinds: list[str], numbers: list[str]) -> str:
        shape = ["--vcpus", ",".join(numbers), "--vcpu-type", ",".join(kinds)]
        return _run(*tally, "measure", "snp", *files, *shape)

    def theirs(kind: str, number: str) -> str:
        return _run(peer, "--mode", "snp", *files, "--vcpus", number, "--vcpu-type", kind)

    matrix = ours(types, counts).split()
    assert matrix == [theirs(kind, number).strip() for kind in types for number in counts]
    one = lambda: ours(["EPYC-Milan"], ["8"])  # noqa: E731
    return [
        ("SNP digest, one shape", one, "`sev-snp-measure`", lambda: theirs("EPYC-Milan", "8"), "0.75", 9),
        (
            "SNP digests, 3 generations x 6 vCPU counts",
            lambda: ours(types, counts),
            "18 runs of `sev-snp-measure`",
            lambda: [theirs(kind, number) for kind in types for number in counts],
            "0.05",
            5,
        ),
        ("SNP matrix of 18", lambda: ours(types, counts), "our own single digest", one, "1.15", 9),
    ]


def _mrtd() -> Pair:
    """Four MiB of firmware, every page extended, in both page orders; the peer hashes as many bytes and no more."""
    size = 4 << 20
    descriptor = b"TDVF" + struct.pack("<III", 48, 1, 1)
    descriptor += struct.pack("<IIQQII", 0, size, (1 << 32) - size, size, 0, 1)
    entry = struct.pack("<I", 1024) + struct.pack("<H", 22) + uuid.UUID(ovmf.TDX_METADATA).bytes_le
    table = entry + struct.pack("<H", len(entry) + 18) + uuid.UUID(ovmf.FOOTER).bytes_le
    data = bytearray(hashlib.shake_128(b"tdvf").digest(size))
    data[size - 1024 : size - 1024 + len(descriptor)] = descriptor
    data[size - 32 - len(table) : size - 32] = table
    firmware = ovmf.parse(bytes(data))
    stream = bytes(size // _PAGE * (128 + 16 * (128 + 256)))

    def raw() -> None:
        for _ in range(2):
            hashlib.sha384(stream).digest()

    return (
        "MRTD of 4 MiB, both page orders",
        lambda: tdx.mrtd(firmware),
        "SHA-384 of the same bytes",
        raw,
        "2.5",
        9,
    )


def _nitro(folder: Path) -> Pair:
    """272 MiB: a kernel, a bootstrap and an application; the peer's scheme gives each register its own hasher."""
    parts = [(1, 14 << 20), (2, 60), (3, 2 << 20), (3, 256 << 20)]
    path, offsets, sizes, at = folder / "image.eif", [], [], eif.HEADER_BYTES
    for _, size in parts:
        offsets.append(at)
        sizes.append(size)
        at += eif.SECTION_HEADER_BYTES + size
    numbers = [*offsets, *[0] * (32 - len(parts)), *sizes, *[0] * (32 - len(parts))]
    head = struct.pack(">4sHHQQHH64QI", b".eif", 4, 0, 1 << 30, 2, 0, len(parts), *numbers, 0)
    crc = zlib.crc32(head)
    with path.open("wb") as stream:
        stream.write(head + bytes(4))
        for kind, size in parts:
            block = struct.pack(">HHQ", kind, 0, size) + hashlib.shake_128(b"%d" % size).digest(size)
            crc = zlib.crc32(block, crc)
            stream.write(block)
        stream.seek(eif.HEADER_BYTES - 4)
        stream.write(struct.pack(">I", crc))
    with path.open("rb") as stream:
        view = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    image = eif.parse(view)

    def theirs() -> list[str]:
        hashers = [hashlib.sha384() for _ in range(3)]
        kernel, words, first, app = (section.data for section in image.sections)
        for part, into in ((kernel, (0, 1)), (words, (0, 1)), (first, (0, 1)), (app, (0, 2))):
            for number in into:
                hashers[number].update(part)
        return [hashlib.sha384(bytes(48) + hasher.digest()).hexdigest() for hasher in hashers]

    found = nitro.pcrs(image)
    assert [found.pcr0.hex, found.pcr1.hex, found.pcr2.hex] == theirs()
    return (
        "Nitro PCR0, 1 and 2 of 272 MiB",
        lambda: nitro.pcrs(image),
        "a hasher for each, as in aws-nitro-enclaves-image-format",
        theirs,
        "0.6",
        7,
    )


def _pcr11(folder: Path) -> list[Pair]:
    """In process against systemd's program: ours has no start, theirs takes some milliseconds to begin."""
    command = shutil.which("systemd-measure", path="/usr/lib/systemd:/lib/systemd:/usr/bin")
    if command is None:
        sys.stderr.write("no systemd-measure: no row for PCR 11\n")
        return []
    kernel, initrd = folder / "kernel", folder / "initrd"
    osrel, words = folder / "osrel", folder / "cmdline"
    osrel.write_bytes(b"ID=bench\n")
    words.write_bytes(b"quiet")
    names = {".linux": kernel, ".osrel": osrel, ".cmdline": words, ".initrd": initrd}

    def ours() -> str:
        views = {}
        for name, path in names.items():
            with path.open("rb") as stream:
                views[name] = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        return replay(pcr11_events(views.items(), 252))[11].hex

    def theirs() -> str:
        options = [f"--{name[1:]}={path}" for name, path in names.items()]
        return _run(command, "calculate", *options, "--bank=sha256", "--phase=", "--json=short")

    assert ours() in theirs()
    return [("PCR 11 of 78 MiB, in process", ours, "`systemd-measure calculate`", theirs, "1.0", 9)]


def _model(folder: Path, tally: list[str]) -> Pair:
    """A weights file of 4 GiB (a hole, so that no disk is timed) by the command, against hashlib in a loop."""
    path = folder / "model.safetensors"
    with path.open("wb") as stream:
        stream.truncate(_MODEL_BYTES)

    def raw() -> str:
        hasher, block = hashlib.sha256(), bytearray(1 << 20)
        with path.open("rb", buffering=0) as stream:
            while size := stream.readinto(block):
                hasher.update(memoryview(block)[:size])
        return hasher.hexdigest()

    def ours() -> str:
        return _run(*tally, "measure", "model", path, "--json")

    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert raw() in ours()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # of the largest child so far, in KiB
    assert peak == before or peak < _MODEL_MEMORY_MIB << 10, f"{peak} KiB"
    return ("`tally measure model`, 4 GiB of weights", ours, "hashlib in a loop", raw, "1.18", 3)

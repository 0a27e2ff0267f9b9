"""Single changes injected into a real release, re-assembled by the writers that Nix runs, and what was changed."""

from __future__ import annotations

import importlib
import lzma
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import ModuleType

from support_machine import release_file

from tallystick.build import contents as lists
from tallystick.build.records import Component, Contents, ContentsFile
from tallystick.core.digests import Digest
from tallystick.formats import cpio, intoto
from tallystick.formats import uki as uki_format
from tallystick.measure import qemu
from tallystick.measure.causes import Change
from tallystick.measure.predict import measure_release
from tallystick.measure.records import Measurement
from tallystick.measure.shapes import LaunchShape
from tallystick.measure.statement import from_statement
from tallystick.release import index as indexes
from tallystick.release.causes import Inputs, Releases
from tallystick.release.causes import explain as explain_releases
from tallystick.release.diff import Side
from tallystick.release.records import Index

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def writers() -> Iterator[Callable[[str], ModuleType]]:
    """Give a loader of the modules that write images inside Nix; they import one another by plain names."""
    kept, folder = dict(sys.modules), str(ROOT / "nix/src")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - set(kept):
            if str(getattr(sys.modules[name], "__file__", "")).startswith(folder):
                del sys.modules[name]


with writers() as load:
    PE, CPIO, INITRAMFS, DEB = (load(name) for name in ("pe", "cpio", "initramfs", "deb"))


@dataclass(frozen=True)
class Built:
    """One release in memory: what is measured, and the lists that say what is in it."""

    stub: bytes
    sections: Mapping[str, bytes]  # of the UKI, in the order that the writer adds them
    parts: tuple[bytes, ...]  # of the initramfs, compressed
    uki_list: Contents
    initramfs_list: Contents
    index: Index
    firmware: bytes
    shape: Mapping[str, int | str]
    init_data: Digest | None = None

    @property
    def image(self) -> bytes:
        return PE.append(self.stub, list((dict(self.sections) | {".initrd": self.initramfs}).items()))

    @property
    def initramfs(self) -> bytes:
        return b"".join(self.parts)

    def measurement(self) -> Measurement:
        shape = LaunchShape.of(qemu.PLATFORM, dict(self.shape))
        (one,) = measure_release(self.image, self.firmware, [shape], self.init_data, "test")
        return one

    def side(self) -> Side:
        digests = {"products/uki.efi": self.image, "products/initramfs.cpio.xz": self.initramfs}
        files = tuple(
            replace(entry, digest=Digest.of(digests[entry.path])) if entry.path in digests else entry
            for entry in self.index.files
        )
        sized = {f.path: f for f in self.uki_list.files}
        initrd = replace(sized[".initrd"], digest=Digest.of(self.initramfs), size_bytes=len(self.initramfs))
        made = self.image
        head = replace(sized["(headers)"], digest=Digest.of(made[: PE.headers_size(made)]))
        uki = [{".initrd": initrd, "(headers)": head}.get(f.path, f) for f in self.uki_list.files]
        return Side(
            index=replace(self.index, files=files),
            contents=(self.initramfs_list, replace(self.uki_list, files=tuple(uki))),
            measurements=(self.measurement(),),
        )


@cache
def real() -> Built:
    """Return the release that ``make demo`` (or TALLY_RELEASE) built, checked to re-assemble to its own bytes."""
    folder = release_file("index.json").parent
    image = (folder / "products/uki.efi").read_bytes()
    parsed = uki_format.parse(image)
    package = next((folder / "seeds").glob("systemd-boot-efi_*.deb"))
    stub = next(data for name, _, data in DEB.members(package) if name.endswith("/linuxx64.efi.stub"))
    (one,) = _first(folder)
    known = {section.name for section in PE.sections(stub)}
    init_data = folder / "init-data.toml"
    found = Built(
        stub=stub,
        sections={name: bytes(data) for name, data in parsed.sections.items() if name not in known},
        parts=tuple(_parts((folder / "products/initramfs.cpio.xz").read_bytes())),
        uki_list=lists.parse((folder / "contents/uki.json").read_bytes()),
        initramfs_list=lists.parse((folder / "contents/initramfs.json").read_bytes()),
        index=indexes.read(folder),
        firmware=next(p for p in (folder / "firmware").iterdir() if Digest.of(p.read_bytes()) == one.firmware)
        .read_bytes(),
        shape=dict(one.shape),
        init_data=Digest.of(init_data.read_bytes()) if init_data.is_file() else None,
    )  # fmt: skip
    assert found.image == image
    assert found.measurement().values == one.values
    return found


def _first(folder: Path) -> list[Measurement]:
    statement = intoto.parse((folder / "statements/measurements.json").read_bytes())
    return [one for one in from_statement(statement) if one.platform == qemu.PLATFORM][:1]


def _parts(data: bytes) -> Iterator[bytes]:
    while data:
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
        stream.decompress(data)
        yield data[: len(data) - len(stream.unused_data)]
        data = stream.unused_data


def _pack(archive: bytes, **filters: int) -> bytes:
    chain = [INITRAMFS._FILTERS[0], INITRAMFS._FILTERS[1] | filters]
    return lzma.compress(archive, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=chain)


@dataclass(frozen=True)
class Injected:
    """A changed release, and which cause is the right one: (where, kind, name)."""

    what: str
    after: Built
    right: tuple[str, str, str]


def _edit(data: bytes, rng: random.Random) -> bytes:
    """Return ``data`` with one byte changed, or one more where it has none."""
    if not data:
        return b"x"
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


@dataclass
class _Archive:
    """One part of the initramfs, unpacked."""

    number: int
    entries: dict[str, tuple[int, bytes, tuple[int, int]]] = field(default_factory=dict)

    @classmethod
    def of(cls, built: Built, number: int) -> _Archive:
        raw = lzma.decompress(built.parts[number])
        found = {e.path: (e.mode, bytes(e.data), e.device) for e in cpio.read(raw).entries}
        return cls(number, found)

    def packed(self, **filters: int) -> bytes:
        return _pack(CPIO.archive([(n, m, d, dev) for n, (m, d, dev) in self.entries.items()]), **filters)


def _replaced(built: Built, archive: _Archive, **filters: int) -> Built:
    parts = list(built.parts)
    parts[archive.number] = archive.packed(**filters)
    return replace(built, parts=tuple(parts))


def _listed(contents: Contents, path: str, data: bytes | None, mode: int | None = None) -> Contents:
    """Return the list with ``path`` as it is now; None takes it out."""
    files = []
    for one in contents.files:
        if one.path == path:
            if data is None:
                continue
            text = one.mode if mode is None else f"{mode:07o}"
            one = replace(one, digest=Digest.of(data), size_bytes=len(data), mode=text)
        files.append(one)
    return replace(contents, files=tuple(files))


def _moved(contents: Contents, name: str, version: str) -> Contents:
    """Return the list with the component ``name`` at another version, from another source."""
    refs: dict[str, str] = {}
    components: list[Component] = []
    for one in contents.components:
        if one.name == name:
            ref = one.ref.replace(one.version, version) if one.version in one.ref else f"{one.ref}#{version}"
            refs[one.ref] = ref
            digest = Digest.of(f"{name} {version}".encode())
            one = replace(one, ref=ref, version=version, digest=digest)
        components.append(one)
    files = tuple(replace(f, component=refs.get(f.component, f.component)) for f in contents.files)
    return replace(contents, files=files, components=tuple(components))


FAST_PARTS = (2, 3)  # the project's part and the kernel's modules; the other two take seconds to compress


def _file_choice(built: Built, rng: random.Random, parts: tuple[int, ...]) -> tuple[_Archive, str]:
    archive = _Archive.of(built, rng.choice(parts))
    listed = {one.path for one in built.initramfs_list.files}
    names = [n for n, (mode, _, _) in archive.entries.items() if n in listed and mode >> 12 == 0o10]
    return archive, rng.choice(sorted(names))


def file_change(built: Built, rng: random.Random, parts: tuple[int, ...] = FAST_PARTS) -> Injected:
    """One byte of one file in the initramfs."""
    archive, name = _file_choice(built, rng, parts)
    mode, data, device = archive.entries[name]
    archive.entries[name] = (mode, changed := _edit(data, rng), device)
    listed = _listed(built.initramfs_list, name, changed)
    after = replace(_replaced(built, archive), initramfs_list=listed)
    return Injected(f"byte of {name}", after, ("image", "file", f"initramfs: {name}"))


def file_mode(built: Built, rng: random.Random) -> Injected:
    """The permissions of one file."""
    archive, name = _file_choice(built, rng, FAST_PARTS)
    mode, data, device = archive.entries[name]
    archive.entries[name] = (mode ^ 0o111, data, device)
    listed = _listed(built.initramfs_list, name, data, mode ^ 0o111)
    after = replace(_replaced(built, archive), initramfs_list=listed)
    return Injected(f"mode of {name}", after, ("image", "file", f"initramfs: {name}"))


def file_gone(built: Built, rng: random.Random) -> Injected:
    """One file less."""
    archive, name = _file_choice(built, rng, FAST_PARTS)
    del archive.entries[name]
    after = replace(_replaced(built, archive), initramfs_list=_listed(built.initramfs_list, name, None))
    return Injected(f"{name} gone", after, ("image", "file", f"initramfs: {name}"))


def file_new(built: Built, rng: random.Random) -> Injected:
    """One file more, of a component that is there."""
    archive, beside = _file_choice(built, rng, FAST_PARTS)
    name, data = f"{beside}.{rng.randrange(10**6)}", rng.randbytes(40)
    archive.entries[name] = (0o100644, data, (0, 0))
    owner = next(one.component for one in built.initramfs_list.files if one.path == beside)
    made = ContentsFile(path=name, digest=Digest.of(data), size_bytes=40, mode="0100644", component=owner)
    files = sorted((*built.initramfs_list.files, made), key=lambda one: one.path.encode())
    after = replace(
        _replaced(built, archive), initramfs_list=replace(built.initramfs_list, files=tuple(files))
    )
    return Injected(f"{name} new", after, ("image", "file", f"initramfs: {name}"))


def component(built: Built, rng: random.Random, parts: tuple[int, ...] = FAST_PARTS) -> Injected:
    """Another version of a component: its source, and some of its files."""
    archive, name = _file_choice(built, rng, parts)
    owner = next(one.component for one in built.initramfs_list.files if one.path == name)
    known = next(one for one in built.initramfs_list.components if one.ref == owner)
    listed = built.initramfs_list
    own = [f.path for f in listed.files if f.component == owner and f.path in archive.entries]
    for path in rng.sample(own, min(len(own), rng.randrange(1, 6))):
        mode, data, device = archive.entries[path]
        if mode >> 12 == 0o10:
            archive.entries[path] = (mode, changed := _edit(data, rng), device)
            listed = _listed(listed, path, changed)
    if listed == built.initramfs_list:
        mode, data, device = archive.entries[name]
        archive.entries[name] = (mode, changed := _edit(data, rng), device)
        listed = _listed(listed, name, changed)
    version = rng.choice([f"{known.version}.{rng.randrange(99)}", known.version])
    listed = _moved(listed, known.name, version)
    after = replace(
        _replaced(built, archive), initramfs_list=listed, uki_list=_moved(built.uki_list, known.name, version)
    )
    return Injected(f"{known.name} {known.version} -> {version}", after, ("image", "component", known.name))


def packing(built: Built, rng: random.Random) -> Injected:
    """The same files, compressed otherwise."""
    archive = _Archive.of(built, rng.choice(FAST_PARTS))
    after = _replaced(
        built, archive, dict_size=rng.choice([1 << 17, 1 << 18, 1 << 19]), nice_len=rng.randrange(9, 60)
    )
    return Injected("packing", after, ("image", "packing", "initramfs"))


def command_line(built: Built, rng: random.Random) -> Injected:
    """One more word on the command line."""
    text = built.sections[".cmdline"] + f" word={rng.randrange(10**6)}".encode()
    after = replace(
        built,
        sections=dict(built.sections) | {".cmdline": text},
        uki_list=_listed(built.uki_list, ".cmdline", text),
    )
    return Injected("command line", after, ("image", "command-line", "uki"))


def section(built: Built, rng: random.Random) -> Injected:
    """The operating system's name or release in the UKI."""
    name = rng.choice([".osrel", ".uname"])
    data = built.sections[name].rstrip(b"\n") + f"{rng.randrange(10**6)}\n".encode()
    after = replace(
        built, sections=dict(built.sections) | {name: data}, uki_list=_listed(built.uki_list, name, data)
    )
    return Injected(f"section {name}", after, ("image", "file", f"uki: {name}"))


def kernel(built: Built, rng: random.Random) -> Injected:
    """Another kernel of the same name."""
    data = bytearray(built.sections[".linux"])
    at = rng.randrange(len(data) // 2, len(data) - 4096)
    data[at] ^= 1 << rng.randrange(8)
    listed = _listed(built.uki_list, ".linux", bytes(data))
    owner = next(one.component for one in listed.files if one.path == ".linux")
    known = next(one for one in listed.components if one.ref == owner)
    version = f"{known.version}+b{rng.randrange(99)}"
    after = replace(
        built,
        sections=dict(built.sections) | {".linux": bytes(data)},
        uki_list=_moved(listed, known.name, version),
        initramfs_list=_moved(built.initramfs_list, known.name, version),
    )
    return Injected(f"kernel -> {version}", after, ("image", "component", known.name))


def stub_byte(built: Built, rng: random.Random) -> Injected:
    """One byte of the stub's data."""
    data_section = next(one for one in PE.sections(built.stub) if one.name == ".data")
    stub = bytearray(built.stub)
    stub[data_section.raw_offset + rng.randrange(min(data_section.raw_size, data_section.virtual_size))] ^= 1
    size = min(data_section.raw_size, data_section.virtual_size)
    changed = bytes(stub[data_section.raw_offset : data_section.raw_offset + size])
    after = replace(built, stub=bytes(stub), uki_list=_listed(built.uki_list, ".data", changed))
    return Injected("byte of the stub", after, ("image", "file", "uki: .data"))


def shape(built: Built, rng: random.Random) -> Injected:
    """Another launch shape."""
    name = rng.choice(["ram_mib", "vcpus"])
    value = rng.choice([256, 1024, 2048, 4096, 8192]) if name == "ram_mib" else rng.randrange(2, 64)
    after = replace(built, shape=dict(built.shape) | {name: value})
    return Injected(f"{name} {value}", after, ("host", name, name))


def init_data(built: Built, rng: random.Random) -> Injected:
    """Other init-data."""
    after = replace(built, init_data=Digest.of(rng.randbytes(20)))
    return Injected("init-data", after, ("host", "init-data", "init-data"))


IMAGE_CHANGES: tuple[Callable[[Built, random.Random], Injected], ...] = (
    file_change, file_mode, file_gone, file_new, component, packing, command_line, section, kernel, stub_byte,
)  # fmt: skip
HOST_CHANGES: tuple[Callable[[Built, random.Random], Injected], ...] = (shape, init_data)


def between(before: Built, after: Built) -> Change:
    """Return what the explanation says of two releases; both are predicted again from their own bytes."""
    images = {Digest.of(one.image): one.image for one in (before, after)}
    known: dict[Inputs, Mapping[str, str] | None] = {}

    def predict(inputs: Inputs) -> Mapping[str, str] | None:
        if inputs not in known:
            shape = LaunchShape.of(inputs.platform, dict(inputs.shape))
            (one,) = measure_release(images[inputs.image], before.firmware, [shape], inputs.init_data, "test")
            known[inputs] = dict(one.values)
        return known[inputs]

    texts = [one.sections[".cmdline"].decode() for one in (before, after)]
    releases = Releases(
        before=before.side(),
        after=after.side(),
        inputs=(),
        init_data=(before.init_data, after.init_data),
        command_lines=(texts[0], texts[1]),
    )
    (change,) = explain_releases(releases, predict)
    return change

"""The released firmware: what its bytes do, and that the recipe still makes them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tallystick.build import debian, host, lock, make, released, seeds
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Unreachable
from tallystick.core.files import file_digest
from tallystick.formats import firmware, pe

ROOT = Path(__file__).resolve().parents[2]
LOCK = lock.parse((ROOT / "nix/lock/released.json").read_bytes(), "released.json")
AMDSEV = ROOT / "nix/released/ovmf-amdsev.fd"
MESSAGE = b"Tallystick: the launch measured no kernel. Stopped."


def quiet(words: str) -> None:
    pass


@pytest.mark.boot
@pytest.mark.slow
def test_snp_firmware_that_is_given_no_kernel_starts_nothing():
    """Its one boot entry is our application, which says so and stops: no disk is looked at."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("no qemu-system-x86_64")
    command = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "512"]
    command += ["-nodefaults", "-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot"]
    machine = subprocess.Popen(
        [*command, "-bios", str(AMDSEV)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = b""
    try:
        with pytest.raises(subprocess.TimeoutExpired):  # it halts; nothing ends the machine
            machine.wait(20)
    finally:
        machine.kill()
        said = machine.communicate()[0]
    assert MESSAGE in said
    assert said.rstrip().endswith(MESSAGE)


def test_where_a_boot_loader_would_be_the_snp_firmware_has_ours():
    """The application of nix/firmware/loader.py, whole, in the volume that the firmware unpacks; and no GRUB."""
    spec = importlib.util.spec_from_file_location("loader", ROOT / "nix/firmware/loader.py")
    assert spec is not None
    assert spec.loader is not None
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    image = loader.image()
    volume = bytes(firmware.parse(AMDSEV.read_bytes()).dxe)
    assert volume.count(image) == 1
    assert b"grub" not in volume
    text = pe.parse(image).sections[0]
    code = bytes(pe.parse(image).content(text))
    stop = code.index(bytes.fromhex("faf4ebfc"))  # cli; hlt; jmp to the cli
    message = loader.MESSAGE.encode("utf-16-le")
    lea = code.index(bytes.fromhex("488d15"))
    assert code.index(message) == lea + 7 + int.from_bytes(code[lea + 3 : lea + 7], "little", signed=True)
    assert stop < code.index(message)


@pytest.mark.nix
@pytest.mark.slow
def test_the_pinned_files_are_of_the_recipe_as_it_is():
    """The sample of the gate: the source that the lock names is the one that the recipe builds from now."""
    order = make.order(ROOT / LOCK.source.recipe, seeds.cache_folder())
    locks = dict(order.locks)
    made_from = {one.digest for seed in LOCK.seeds for one in seed.materials}
    assert made_from == {seed.digest for seed in locks["edk2"].seeds}
    assert {seed.package for seed in LOCK.seeds} == set(order.recipe.products)
    assert {seed.version for seed in LOCK.seeds} == {order.recipe.version}


@pytest.mark.nix
@pytest.mark.soak
def test_two_builds_of_the_recipe_are_the_pinned_bytes(place):
    order = make.order(ROOT / LOCK.source.recipe, seeds.cache_folder())
    made = make.build(order, state=place / "state", say=quiet)  # twice, and compared
    pinned = {seed.package: seed.digest for seed in LOCK.seeds}
    assert {product.name: product.digest for product in made.build.products} == pinned
    for name, file in made.files:
        assert file_digest(file) == file_digest(ROOT / f"nix/released/{name}.fd")


@pytest.fixture
def place() -> Iterator[Path]:
    base = ROOT / ".state"
    base.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="firmware-test-", dir=base))
    folder.chmod(0o755)
    yield folder
    host.remove(host.prepare(folder / "state"), folder)


def test_released_seeds_come_from_the_checkout(tmp_path):
    seeds.fetch([LOCK], tmp_path / "cache", quiet, ROOT / "nix/released")
    seeds.check([LOCK], tmp_path / "cache")


def test_a_checkout_without_them_says_how_they_are_made(tmp_path):
    with pytest.raises(
        Unreachable, match=r"tally build build/firmware\.yaml -o DIR.*tally seeds adopt DIR"
    ) as caught:
        seeds.fetch([LOCK], tmp_path / "cache", quiet, tmp_path)
    assert caught.value.code == "seeds.release"


def test_a_changed_file_in_the_checkout_is_not_taken(tmp_path):
    (tmp_path / "released").mkdir()
    for seed in LOCK.seeds:
        data = bytearray((ROOT / "nix/released" / seed.file).read_bytes())
        data[0x1000] ^= 1
        (tmp_path / "released" / seed.file).write_bytes(data)
    with pytest.raises(Exception, match="the archive has other bytes than the lock"):
        seeds.fetch([LOCK], tmp_path / "cache", quiet, tmp_path / "released")


def test_releases_are_adopted_and_not_resolved():
    assert seeds.updated(LOCK, lambda source: pytest.fail("nothing is looked up")) == LOCK


def test_the_lock_of_a_release_names_its_source_and_reads_back():
    source = {"uri": "pkg:deb/debian/edk2@1?arch=source", "digest": {"sha256": "ab" * 32}}
    compiler = {"uri": "pkg:deb/debian/gcc@1?arch=amd64", "digest": {"sha256": "cd" * 32}}
    one = released.lock_of(
        recipe="build/firmware.yaml",
        release=Digest.of(b"index"),
        version="1.0+x",
        products={"ovmf-amdsev": b"firmware"},
        lists={"ovmf-amdsev": contents_of("ovmf-amdsev", b"firmware")},
        provenance=provenance([source, compiler]),
    )
    (seed,) = one.seeds
    assert [material.digest.hex for material in seed.materials] == ["ab" * 32]
    assert (seed.purl, seed.licence) == ("pkg:generic/tallystick/ovmf-amdsev@1.0%2Bx", "MIT")
    assert lock.parse(lock.dumps(one), "lock") == one
    with pytest.raises(Malformed, match="want a source package, got none"):
        released.lock_of(
            recipe="build/firmware.yaml",
            release=Digest.of(b"index"),
            version="1",
            products={"ovmf-amdsev": b"firmware"},
            lists={"ovmf-amdsev": contents_of("ovmf-amdsev", b"firmware")},
            provenance=provenance([compiler]),
        )


def contents_of(product: str, data: bytes) -> bytes:
    component = {
        "ref": "pkg:deb/debian/edk2@1", "kind": "deb", "name": "edk2", "version": "1", "purl": "pkg:deb/debian/edk2@1",
        "licence": "MIT", "seed": "edk2.tar.xz", "sha256": "ab" * 32,
    }  # fmt: skip
    record = {
        "path": "(firmware)", "sha256": Digest.of(data).hex, "size": len(data), "mode": "0100644",
        "component": component["ref"],
    }  # fmt: skip
    made = {
        "schema": "tallystick/contents/v1",
        "product": product,
        "files": [record],
        "components": [component],
    }
    return json.dumps(made).encode()


def provenance(dependencies: list[dict]) -> bytes:
    from tallystick.formats import intoto, slsa

    predicate = {
        "buildDefinition": {
            "buildType": "https://example.org/build",
            "externalParameters": {"recipe": "x"},
            "internalParameters": {"x": "y"},
            "resolvedDependencies": dependencies,
        },
        "runDetails": {"builder": {"id": "https://example.org/builder"}},
    }
    return intoto.make([("x", {"sha256": "00" * 32})], slsa.PREDICATE_TYPE, predicate)


BAD_LOCKS = [
    (lambda d: d["seeds"][0].pop("materials"), "materials"),
    (lambda d: d["seeds"][0].update(materials=[]), "want what it was made from"),
    (lambda d: d["seeds"][0]["materials"][0].update(sha256="x"), "64 lower-case hex digits"),
    (lambda d: d["seeds"][0]["materials"][0].update(more=1), "want the fields"),
    (lambda d: d["source"].update(recipe="../x.yaml"), "want a recipe in build/"),
    (lambda d: d["source"].update(release="sha256:00"), "sha256"),
    (lambda d: d["source"].pop("release"), "want the fields"),
    (lambda d: d["seeds"].append(d["seeds"][0]), "each package once and sorted"),
]


@pytest.mark.parametrize(("change", "message"), BAD_LOCKS)
def test_locks_of_releases_are_read_strictly(change, message):
    document = json.loads((ROOT / "nix/lock/released.json").read_bytes())
    change(document)
    with pytest.raises(Malformed, match=message):
        lock.parse(json.dumps(document).encode(), "lock")


def test_only_a_source_package_has_several_files():
    document = json.loads((ROOT / "nix/lock/edk2.json").read_bytes())
    assert len(lock.parse(json.dumps(document).encode(), "lock").seeds) == 2
    document["seeds"].append(document["seeds"][0])
    with pytest.raises(Malformed, match="each file once and sorted"):
        lock.parse(json.dumps(document).encode(), "lock")


STANZA = """Package: edk2
Version: 1-2
Directory: pool/main/e/edk2
Checksums-Sha256:
 {a} 10 edk2_1-2.dsc
 {b} 20 edk2_1.orig.tar.xz
 {c} 30 edk2_1-2.debian.tar.xz
 {c} 30 edk2_1.orig.tar.xz.asc

Package: other
Version: 9
Directory: pool/main/o/other
""".format(a="a" * 64, b="b" * 64, c="c" * 64)


def test_source_archives_are_read_from_the_index():
    found = list(debian.source_files(STANZA, "edk2", "trixie main"))
    assert [(one.path, one.size_bytes, one.architecture) for one in found] == [
        ("pool/main/e/edk2/edk2_1.orig.tar.xz", 20, "source"),
        ("pool/main/e/edk2/edk2_1-2.debian.tar.xz", 30, "source"),
    ]
    with pytest.raises(Malformed, match="trixie main: edk2: want Directory"):
        list(debian.source_files(STANZA.replace("Directory", "Folder"), "edk2", "trixie main"))

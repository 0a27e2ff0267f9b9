"""The data disk: written by a host that nobody trusts."""

from __future__ import annotations

import io
import tarfile
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick.attester.disk import DataDisk
from tallystick.cli.demo.machine import write_disk
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine, Unreachable
from tallystick.handshake.manifest import Artifact


@pytest.fixture
def path(tmp_path):
    write_disk(tmp_path / "disk", b"toml", {"a.tsenc": b"sealed"}, prompt="why?")
    return tmp_path / "disk"


def artifact(data: bytes) -> Artifact:
    digest = Digest.of(data)
    return Artifact(
        name="a",
        kind="other",
        file="a.tsenc",
        size_bytes=len(data),
        ciphertext=digest,
        plaintext=digest,
        key="a/b/c",
    )


def test_it_gives_what_was_written(path):
    with DataDisk(path) as disk:
        assert disk.read("initdata.toml", max_bytes=10) == b"toml"
        assert disk.read("prompt.txt", max_bytes=4) == b"why?"
        assert (disk.has("a.tsenc"), disk.has("b")) == (True, False)
        disk.check(artifact(b"sealed"))


def test_a_disk_may_be_longer_than_what_is_on_it(path):
    path.write_bytes(path.read_bytes() + bytes(100_000))
    with DataDisk(path) as disk:
        assert disk.read("initdata.toml", max_bytes=10) == b"toml"


def test_no_disk_is_unreachable(tmp_path):
    with pytest.raises(Unreachable, match=r"data disk: .*vda: No such file") as caught:
        DataDisk(tmp_path / "vda")
    assert caught.value.code == "disk.missing"


@pytest.mark.parametrize("data", [b"no tar", b"\1" * 2000])
def test_no_tar_is_malformed(tmp_path, data):
    (tmp_path / "disk").write_bytes(data)
    with pytest.raises(Malformed, match="data disk: tar: want a tar archive"):
        DataDisk(tmp_path / "disk")


def test_a_file_that_is_not_there_is_named(path):
    with DataDisk(path) as disk, pytest.raises(Malformed, match="data disk: b: want a file, got none"):
        disk.read("b", max_bytes=10)


def test_a_file_has_a_largest_size(path):
    with DataDisk(path) as disk, pytest.raises(Malformed, match=r"initdata\.toml: want at most 3 bytes"):
        disk.read("initdata.toml", max_bytes=3)


def test_another_encrypted_file_than_was_measured_is_refused(path):
    with DataDisk(path) as disk, pytest.raises(NotGenuine, match=r"want sha256:.*, got sha256:") as caught:
        disk.check(artifact(b"another"))
    assert caught.value.code == "artifact.ciphertext"


def test_links_and_devices_are_no_files(tmp_path):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo(f"member-{kind.decode()}")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    (tmp_path / "disk").write_bytes(made.getvalue())
    with DataDisk(tmp_path / "disk") as disk:
        assert not any(disk.has(f"member-{n}") for n in range(8))


def test_the_first_of_two_files_with_one_name_counts(tmp_path):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for data in (b"first", b"other"):
            member = tarfile.TarInfo("initdata.toml")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    (tmp_path / "disk").write_bytes(made.getvalue())
    with DataDisk(tmp_path / "disk") as disk:
        assert disk.read("initdata.toml", max_bytes=10) == b"first"


def test_a_disk_with_too_many_files_is_malformed(tmp_path):
    write_disk(tmp_path / "disk", b"", {f"f{n}": b"" for n in range(256)}, prompt=None)
    with pytest.raises(Malformed, match="want at most 256 files"):
        DataDisk(tmp_path / "disk")


def test_a_file_that_the_disk_cuts_short_is_malformed(tmp_path):
    write_disk(tmp_path / "disk", b"x" * 4000, {}, prompt=None)
    (tmp_path / "disk").write_bytes((tmp_path / "disk").read_bytes()[:2000])
    with pytest.raises(Malformed, match="data disk"), DataDisk(tmp_path / "disk") as disk:
        disk.read("initdata.toml", max_bytes=4000)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.integers(0, 3000), st.integers(0, 255), st.integers(0, 10240))
def test_any_disk_is_read_or_refused_by_name(tmp_path, at, byte, end):
    write_disk(tmp_path / "disk", b"toml", {"a.tsenc": b"sealed"}, prompt="why?")
    data = bytearray((tmp_path / "disk").read_bytes())
    data[at] = byte
    (tmp_path / "damaged").write_bytes(bytes(data[:end]))
    with suppress(Malformed, NotGenuine), DataDisk(tmp_path / "damaged") as disk:
        disk.read("initdata.toml", max_bytes=100)
        disk.check(artifact(b"sealed"))

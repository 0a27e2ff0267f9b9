"""The seed cache: fetched once, checked at every use, and clear about what can not be had."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from support_deb import deb

from tallystick.build import archive, lock, seeds
from tallystick.build.lock import Lock, Seed, Source
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Unreachable

DEBIAN = Source(kind="debian", suite="bookworm", component="main", python="", packages=("tool",), through=())
PYPI = Source(kind="pypi", suite="", component="", python="3.11", packages=("thing",), through=())


def quiet(words: str) -> None:
    pass


def seed(path: str, data: bytes, *, package: str = "tool", version: str = "1.0") -> Seed:
    return Seed(
        package=package,
        version=version,
        architecture="amd64",
        path=path,
        file=path.rpartition("/")[2],
        size_bytes=len(data),
        digest=Digest.of(data),
        purl=f"pkg:deb/debian/{package}@{version}",
        licence="MIT",
    )


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Path:
    """A mirror in a folder, which the user named by hand."""
    folder = tmp_path / "mirror"
    (folder / "pool/main/t").mkdir(parents=True)
    (folder / "pool/main/t/tool_1.0_amd64.deb").write_bytes(b"the package")
    monkeypatch.setenv("TALLY_DEBIAN_MIRROR", folder.as_uri())
    return folder


TOOL = seed("pool/main/t/tool_1.0_amd64.deb", b"the package")
TOOL_LOCK = Lock(role="stub", source=DEBIAN, seeds=(TOOL,))


def test_a_seed_is_fetched_once_and_then_needs_no_mirror(mirror, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    said: list[str] = []
    seeds.fetch([TOOL_LOCK], cache, said.append)
    assert (cache / TOOL.file).read_bytes() == b"the package"
    assert said[0].startswith("fetching 1 seeds, 0.0 MB")
    shutil.rmtree(mirror)
    monkeypatch.setattr(archive, "bases", lambda: pytest.fail("the network was asked"))
    seeds.fetch([TOOL_LOCK], cache, said.append)
    assert sorted(path.name for path in cache.iterdir()) == [TOOL.file]


def test_a_damaged_cache_is_fetched_again(mirror, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / TOOL.file).write_bytes(b"the pAckage")
    seeds.fetch([TOOL_LOCK], cache, quiet)
    assert (cache / TOOL.file).read_bytes() == b"the package"


def test_a_mirror_that_serves_other_bytes_is_caught_and_nothing_is_kept(mirror, tmp_path):
    (mirror / TOOL.path).write_bytes(b"the pAckage")
    with pytest.raises(NotGenuine, match=r"tool 1.0: the archive has other bytes than the lock") as caught:
        seeds.fetch([TOOL_LOCK], tmp_path / "cache", quiet)
    (finding,) = caught.value.findings
    assert (finding.code, finding.want) == ("seeds.digest", str(Digest.of(b"the package")))
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_size_is_caught_before_it_is_hashed(mirror, tmp_path):
    (mirror / TOOL.path).write_bytes(b"longer than the package")
    with pytest.raises(NotGenuine) as caught:
        seeds.fetch([TOOL_LOCK], tmp_path / "cache", quiet)
    assert caught.value.code == "seeds.size"


def test_a_version_that_vanished_is_named_with_what_to_do(mirror, tmp_path):
    (mirror / TOOL.path).unlink()
    with pytest.raises(
        Unreachable, match=r"tool 1.0 is no longer in Debian's archive .*tally seeds update"
    ) as caught:
        seeds.fetch([TOOL_LOCK], tmp_path / "cache", quiet)
    assert caught.value.code == "seeds.vanished"


def test_a_mirror_that_does_not_answer_is_another_error(tmp_path, monkeypatch):
    monkeypatch.setenv("TALLY_DEBIAN_MIRROR", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(Unreachable, match=r"tool 1.0 could not be fetched") as caught:
        seeds.fetch([TOOL_LOCK], tmp_path / "cache", quiet)
    assert caught.value.code == "seeds.unreachable"


def script(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("apt", [None, 'echo "http://ubuntu.invalid/ubuntu/ Ubuntu"'])
def test_a_system_without_debians_archive_is_told_how_to_name_a_mirror(apt, tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    if apt:
        script(tools, "apt-get", apt)
    monkeypatch.delenv("TALLY_DEBIAN_MIRROR", raising=False)
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(Unreachable, match="set TALLY_DEBIAN_MIRROR to a Debian mirror's address") as caught:
        seeds.fetch([TOOL_LOCK], tmp_path / "cache", quiet)
    assert caught.value.code == "seeds.no-debian-archive"


def test_apt_says_where_debians_archive_is(tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    lines = [
        "http://one.invalid/debian/ Debian",
        "http://x.invalid/ubuntu/ Ubuntu",
        "http://one.invalid/debian/ Debian",
    ]
    script(tools, "apt-get", "\n".join(f'echo "{line}"' for line in lines))
    monkeypatch.delenv("TALLY_DEBIAN_MIRROR", raising=False)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    assert archive.bases() == ("http://one.invalid/debian/",)


def test_apt_that_never_updated_still_says_its_archives(tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    script(tools, "apt-get", 'case "$*" in *--no-release-info*) echo "http://one.invalid/debian/ x";; esac')
    monkeypatch.delenv("TALLY_DEBIAN_MIRROR", raising=False)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    assert archive.bases() == ("http://one.invalid/debian/",)


def test_a_list_of_mirrors_is_followed(tmp_path, monkeypatch):
    tools, listed = tmp_path / "bin", tmp_path / "debian.list"
    listed.write_text("# ours\nhttp://one.invalid/debian\thint\nhttp://two.invalid/debian/\n")
    script(tools, "apt-get", f'echo "mirror+file:{listed}/ Debian"')
    monkeypatch.delenv("TALLY_DEBIAN_MIRROR", raising=False)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    assert archive.bases() == ("http://one.invalid/debian/", "http://two.invalid/debian/")


def wheel(folder: Path, version: str) -> bytes:
    name = f"thing-{version}-py3-none-any.whl"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / name, "w") as out:
        out.writestr("thing.py", "x = 1\n")
        out.writestr(
            f"thing-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: thing\nVersion: {version}\n"
        )
        out.writestr(
            f"thing-{version}.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        out.writestr(f"thing-{version}.dist-info/RECORD", "")
    return (folder / name).read_bytes()


def wheel_lock(data: bytes, version: str = "1.0") -> Lock:
    one = seed(f"thing-{version}-py3-none-any.whl", data, package="thing", version=version)
    return Lock(role="wheels", source=PYPI, seeds=(one,))


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """pip's own configuration, by its environment: a folder of wheels."""
    folder = tmp_path / "wheels"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.slow
def test_wheels_come_through_the_machines_own_pip(index, tmp_path):
    data = wheel(index, "1.0")
    seeds.fetch([wheel_lock(data)], tmp_path / "cache", quiet)
    assert (tmp_path / "cache/thing-1.0-py3-none-any.whl").read_bytes() == data


@pytest.mark.slow
def test_a_wheel_with_other_bytes_is_refused_by_pip(index, tmp_path):
    wheel(index, "1.0")
    with pytest.raises(Unreachable, match=r"thing 1.0"):
        seeds.fetch([wheel_lock(b"other bytes")], tmp_path / "cache", quiet)


@pytest.mark.slow
def test_a_wheel_that_vanished_is_named(index, tmp_path):
    wheel(index, "2.0")
    with pytest.raises(Unreachable, match=r"pip could not fetch thing 1.0: .*tally seeds update") as caught:
        seeds.fetch([wheel_lock(b"x")], tmp_path / "cache", quiet)
    assert caught.value.code == "seeds.vanished"


@pytest.mark.slow
def test_update_pins_the_newest_wheel_and_keeps_its_licence(index):
    wheel(index, "1.0")
    data = wheel(index, "1.10")
    with archive.indexes() as resolve:
        new = seeds.updated(wheel_lock(b"x"), resolve)
    (one,) = new.seeds
    assert (one.version, one.digest, one.licence) == ("1.10", Digest.of(data), "MIT")
    assert lock.parse(lock.dumps(new), "lock") == new


def test_update_without_apt_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with archive.indexes() as resolve, pytest.raises(Misuse, match="debian-archive-keyring") as caught:
        seeds.updated(TOOL_LOCK, resolve)
    assert caught.value.code == "seeds.no-apt"


def test_a_bundle_is_a_cache_with_its_locks(mirror, tmp_path):
    cache, out = tmp_path / "cache", tmp_path / "bundle"
    seeds.fetch([TOOL_LOCK], cache, quiet)
    seeds.bundle([("stub", TOOL_LOCK)], cache, out)
    assert seeds.read_locks(out / "lock", [("stub", "stub")]) == (TOOL_LOCK,)
    seeds.check([TOOL_LOCK], out)
    (out / TOOL.file).write_bytes(b"")
    with pytest.raises(NotGenuine, match=r"1 seed\(s\) are not the pinned ones"):
        seeds.check([TOOL_LOCK], out)


def test_a_lock_of_another_role_is_refused(tmp_path):
    (tmp_path / "stub.json").write_bytes(lock.dumps(TOOL_LOCK))
    with pytest.raises(Malformed, match="role: want kernel, got stub"):
        seeds.read_locks(tmp_path, [("kernel", "stub")])
    with pytest.raises(Misuse, match="there is no file"):
        seeds.read_locks(tmp_path, [("kernel", "kernel")])


def test_the_unpacked_seed_is_checked_too(tmp_path):
    data = deb({"bin/busybox": b"static"})
    (tmp_path / "tool.deb").write_bytes(data)
    one = replace(seed("pool/tool.deb", data), file="tool.deb")
    good = lock.Unpacked(member="bin/busybox", digest=Digest.of(b"static"), nar=Digest.of(b""))
    pinned = Lock(role="busybox", source=DEBIAN, seeds=(one,), unpacked=good)
    assert seeds.unpacked(tmp_path, pinned) == b"static"
    other = replace(good, digest=Digest.of(hashlib.sha256(b"").digest()))
    with pytest.raises(NotGenuine, match="another bin/busybox inside"):
        seeds.unpacked(tmp_path, replace(pinned, unpacked=other))


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.delenv("TALLY_SEED_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert seeds.cache_folder() == tmp_path / "tallystick/seeds"
    monkeypatch.setenv("TALLY_SEED_CACHE", str(tmp_path / "x"))
    assert seeds.cache_folder() == tmp_path / "x"

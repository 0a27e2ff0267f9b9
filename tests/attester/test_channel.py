"""The channel's root in the image: a guest takes the artifacts that enough people approved, and no others."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

import pytest
from handshake.test_manifest import MANIFEST
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from release.channels import made

from tallystick.attester import channel
from tallystick.attester.channel import FILES, RELEASES, ROOT, TARGETS
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine
from tallystick.release.changes import Added

PATH = f"artifacts/{MANIFEST.digest.hex}/artifacts.json"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A channel that lists the manifest, made by the release package; and its metadata as a disk has it."""
    place = made(tmp_path_factory.mktemp("channel"))
    place.change("alice", ["bob", "carol"], [Added(path=PATH, data=MANIFEST.encode())], role="releases")
    folder = place.folder.path / "metadata"
    files = {
        ROOT: place.root,
        TARGETS: (folder / "1.targets.json").read_bytes(),
        RELEASES: (folder / "2.releases.json").read_bytes(),
    }
    return place, files


def check(files, manifest=MANIFEST, pin=None):
    channel.check(pin or Digest.of(files[ROOT]), files.__getitem__, [manifest])


def test_what_the_channel_lists_is_taken(world):
    check(world[1])


def test_another_manifest_is_not(world):
    with pytest.raises(
        NotGenuine, match=r"letters 3: want sha256:.* in the channel's list, got none"
    ) as caught:
        check(world[1], replace(MANIFEST, version="3"))
    assert caught.value.code == "channel.artifacts"


def test_another_channels_root_is_not_the_pinned_one(world, tmp_path):
    other = made(tmp_path / "other")
    with pytest.raises(NotGenuine) as caught:
        check(world[1] | {ROOT: other.root}, pin=Digest.of(world[0].root))
    assert caught.value.code == "channel.root"
    with pytest.raises(NotGenuine) as caught:
        check(world[1] | {ROOT: other.root})
    assert caught.value.code == "channel.signatures"


@pytest.mark.parametrize(("name", "needed"), [(TARGETS, 2), (RELEASES, 3)])
def test_every_signature_counts_once(world, name, needed):
    """The list of releases has three: the author's and two approvals. One fewer, or one twice, is too few."""
    document = json.loads(world[1][name])
    few = document["signatures"][: needed - 1]
    for rows in (few, [*few, few[-1]]):
        data = json.dumps(document | {"signatures": rows}).encode()
        with pytest.raises(NotGenuine, match="signatures of the role") as caught:
            check(world[1] | {name: data})
        assert caught.value.code == "channel.signatures"


def test_metadata_of_another_role_do_not_stand_in(world):
    with pytest.raises((NotGenuine, Malformed)):
        check(world[1] | {RELEASES: world[1][TARGETS]})
    policies = (world[0].folder.path / "metadata/1.policies.json").read_bytes()
    with pytest.raises(NotGenuine):
        check(world[1] | {RELEASES: policies})


def test_an_edited_list_is_refused(world):
    document = json.loads(world[1][RELEASES])
    other = replace(MANIFEST, version="3")
    entry = document["signed"]["targets"][PATH]
    document["signed"]["targets"][f"artifacts/{other.digest.hex}/artifacts.json"] = entry
    with pytest.raises(NotGenuine) as caught:
        check(world[1] | {RELEASES: json.dumps(document).encode()}, other)
    assert caught.value.code == "channel.signatures"


def test_the_command_line_pins_one_root_or_none():
    pin = Digest.of(b"root")
    assert channel.pinned("console=ttyS0 quiet") is None
    assert channel.pinned(f"quiet tally.channel={pin} panic=-1") == pin
    for text in (f"tally.channel={pin} tally.channel={pin}", "tally.channel", "tally.channel=sha256:00"):
        with pytest.raises(Malformed, match=r"tally\.channel: want one sha256"):
            channel.pinned(text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.sampled_from(FILES), st.integers(0, 5000), st.integers(0, 255))
def test_damaged_metadata_are_refused_by_name(world, name, at, byte):
    damaged = bytearray(world[1][name])
    damaged[at % len(damaged)] = byte
    with suppress(NotGenuine, Malformed):
        check(world[1] | {name: bytes(damaged)}, pin=Digest.of(bytes(damaged)) if name == ROOT else None)

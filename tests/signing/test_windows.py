"""validFor of CA, log and CT log: a part of the root counts for what was signed in its time, ends included.

sigstore-python 4.5.1 accepts every refused case here.
"""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from signing.boxes import DAY, NOW, Box, rfc3339

from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.signing import root

SECOND = timedelta(seconds=1)
PARTS = {
    "tlogs": "bundle.log-window",
    "ctlogs": "bundle.ct-window",
    "certificateAuthorities": "bundle.ca-window",
}


def windowed(box: Box, part: str, **window: object) -> bytes:
    """The box's root with another window for one part."""
    document = json.loads(box.root)
    where = document[part][0] if part == "certificateAuthorities" else document[part][0]["publicKey"]
    where["validFor"] = {name: rfc3339(at) if at else None for name, at in window.items()}
    return json.dumps(document).encode()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "window",
    [{"start": NOW - 9 * DAY, "end": NOW - DAY}, {"start": NOW + timedelta(minutes=1)},
     {"start": NOW - DAY, "end": NOW - SECOND}, {"start": NOW + SECOND, "end": NOW + DAY}],
    ids=["ended", "not begun", "ended a second before", "begins a second after"],
)  # fmt: skip
def test_outside_its_window_a_part_counts_for_nothing(box, bundle, part, window):
    with pytest.raises(NotGenuine, match="validFor") as caught:
        box.verify(bundle, root=windowed(box, part, **window))
    assert caught.value.code == PARTS[part]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "window",
    [{"start": NOW - DAY, "end": NOW}, {"start": NOW, "end": NOW + DAY}, {"start": NOW}, {"start": NOW, "end": None}],
    ids=["ends then", "begins then", "open", "open by null"],
)  # fmt: skip
def test_both_ends_are_inside(box, bundle, part, window):
    box.verify(bundle, root=windowed(box, part, **window))


@pytest.mark.parametrize("part", ["tlogs", "ctlogs"])
def test_one_key_with_two_windows_counts_in_each(box, bundle, part):
    """A log that was retired and taken back: the window that holds is the one that counts."""
    document = json.loads(box.root)
    closed = json.loads(windowed(box, part, start=NOW - 9 * DAY, end=NOW - DAY))[part][0]
    document[part].insert(0, closed)
    box.verify(bundle, root=json.dumps(document).encode())


def test_a_closed_authority_does_not_count_beside_an_open_one_of_the_same_name(box, bundle, tmp_path):
    """The leaf's own CA is closed; another with the same name is open, and its key did not sign."""
    other = Box.make(tmp_path)
    document = json.loads(windowed(box, "certificateAuthorities", start=NOW - 9 * DAY, end=NOW - DAY))
    document["certificateAuthorities"] += json.loads(other.root)["certificateAuthorities"]
    with pytest.raises(NotGenuine) as caught:
        box.verify(bundle, root=json.dumps(document).encode())
    assert caught.value.code == "bundle.ca-window"


@pytest.mark.parametrize("validity", [None, {}, {"end": "2030-01-01T00:00:00Z"}, {"start": "yesterday"}])
def test_a_window_without_a_start_is_malformed(box, validity):
    document = json.loads(box.root)
    document["tlogs"][0]["publicKey"]["validFor"] = validity
    with pytest.raises(Malformed, match=r"tlogs\[0\]\.publicKey\.validFor"):
        root.parse(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda d: d.update(mediaType="application/vnd.dev.sigstore.trustedroot.v0.2+json"), Unsupported, "mediaType"),
        (lambda d: d.update(more=1), Malformed, "got more"),
        (lambda d: d.update(tlogs={}), Malformed, "tlogs: want a list"),
        (lambda d: d["tlogs"].append([]), Malformed, r"tlogs\[1\]: want an object"),
        (lambda d: d["tlogs"][0]["publicKey"].pop("keyDetails"), Malformed, "keyDetails"),
        (lambda d: d["tlogs"][0].pop("logId"), Malformed, "logId"),
        (lambda d: d["certificateAuthorities"][0]["certChain"].update(certificates=[]), Malformed, "certificates"),
        (lambda d: d["certificateAuthorities"][0]["validFor"].update(start="2026-13-01T00:00:00Z"), Malformed, "3339"),
    ],
)  # fmt: skip
def test_a_root_is_read_strictly(box, change, error, message):
    document = json.loads(box.root)
    change(document)
    with pytest.raises(error, match=message):
        root.parse(json.dumps(document).encode())


def test_a_root_is_an_object():
    with pytest.raises(Malformed, match="want an object"):
        root.parse(b"[]")


def test_what_sigstore_python_does_not_read_is_malformed(box, bundle):
    document = json.loads(box.root)
    document["tlogs"][0]["unknown"] = 1
    with pytest.raises(Malformed, match="one sigstore-python reads"):
        box.verify(bundle, root=json.dumps(document).encode())


def test_an_embedded_root_is_known_by_its_certificates(box):
    assert root.parse(box.root).is_embedded

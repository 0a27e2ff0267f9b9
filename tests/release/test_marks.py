"""High-water marks rise and never fall."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.errors import Malformed
from tallystick.release import marks
from tallystick.release.records import HighWater

MARKS = st.builds(
    lambda versions, revoked, at: HighWater(
        versions=tuple(sorted(versions.items())), revoked=tuple(sorted(revoked)), at=at
    ),
    st.dictionaries(st.sampled_from(["root", "timestamp", "releases"]), st.integers(0, 9)),
    st.sets(st.sampled_from(["sha256:a", "sha256:b", "sha256:c"])),
    st.none()
    | st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)).map(  # noqa: DTZ001
        lambda at: at.replace(microsecond=0, tzinfo=UTC)
    ),
)


@given(MARKS)
def test_what_is_written_reads_back(mark):
    assert marks.parse(marks.write(mark)) == mark


@given(MARKS, MARKS)
def test_the_higher_of_two_is_below_neither(one, other):
    top = marks.higher(one, other)
    for mark in (one, other):
        earlier = mark.version("root") < top.version("root")  # its snapshot and timestamp may be an old key's
        held = [one for one in mark.versions if not (earlier and one[0] in ("snapshot", "timestamp"))]
        assert all(top.version(role) >= version for role, version in held)
        assert set(mark.revoked) <= set(top.revoked)
        assert mark.at is None or (top.at is not None and top.at >= mark.at)
    assert marks.higher(other, one) == top


def test_keeping_a_lower_mark_changes_nothing(tmp_path):
    path = tmp_path / "marks/staging.json"
    assert marks.load(path) == HighWater()
    high = HighWater(versions=(("timestamp", 7),), revoked=("sha256:a",), at=datetime(2026, 5, 1, tzinfo=UTC))
    marks.keep(path, high)
    marks.keep(path, HighWater(versions=(("timestamp", 3),)))
    assert marks.load(path) == high


GOOD = json.loads(marks.write(HighWater()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"more": 1}, "fields: want at, revoked"),
        ({"schema": "x"}, "schema: want tallystick/high-water/v1"),
        ({"versions": {"root": -1}}, "want versions by role"),
        ({"versions": {"root": True}}, "want versions by role"),
        ({"revoked": [1]}, "want release digests"),
        ({"at": "now"}, "at: want YYYY"),
        ({"at": 1}, "at: want YYYY"),
    ],
)
def test_a_damaged_mark_is_malformed_and_not_an_empty_one(change, said):
    with pytest.raises(Malformed, match=said):
        marks.parse(json.dumps(GOOD | change).encode())


@given(st.binary())
def test_whatever_is_read_is_read_or_refused(data):
    with suppress(Malformed):
        marks.parse(data)

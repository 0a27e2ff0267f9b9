"""Lock files: read strictly, written the same way every time, and never with a host."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.build import lock
from tallystick.core.errors import Malformed, Unsupported

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "nix/lock").glob("*.json"))
WHEELS = (ROOT / "nix/lock/wheels.json").read_bytes()
BUSYBOX = (ROOT / "nix/lock/busybox.json").read_bytes()


@pytest.mark.parametrize("path", LOCKS, ids=lambda p: p.stem)
def test_locks_of_the_project_read_and_print_back(path):
    import jsonschema_rs

    one = lock.parse(path.read_bytes(), path.name)
    assert lock.dumps(one) == path.read_bytes()
    schema = json.loads((ROOT / "docs/schemas/lock.schema.json").read_bytes())
    assert jsonschema_rs.validator_for(schema).is_valid(json.loads(path.read_bytes()))


@pytest.mark.parametrize("path", LOCKS, ids=lambda p: p.stem)
def test_debian_seeds_are_from_main_and_not_from_security(path):
    one = lock.parse(path.read_bytes(), path.name)
    if one.source.kind == "debian":
        assert one.source.component == "main"
        assert "security" not in one.source.suite
        assert all(seed.path.startswith("pool/main/") for seed in one.seeds)


@pytest.mark.parametrize("path", LOCKS, ids=lambda p: p.stem)
def test_purls_and_licences_are_what_they_say(path):
    from packageurl import PackageURL

    for seed in lock.parse(path.read_bytes(), path.name).seeds:
        purl = PackageURL.from_string(seed.purl)
        assert purl.to_string() == seed.purl
        assert (purl.name, purl.version) == (seed.package, seed.version)


def broken(change) -> bytes:
    doc = json.loads(BUSYBOX)
    change(doc)
    return json.dumps(doc).encode()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda d: d.update(schema="tallystick/lock/v2"), Unsupported),
        (lambda d: d.update(mirror="x"), Malformed),
        (lambda d: d["source"].update(kind="ubuntu"), Unsupported),
        (lambda d: d["source"].pop("suite"), Malformed),
        (lambda d: d["source"].update(packages="busybox"), Malformed),
        (lambda d: d["seeds"].clear(), Malformed),
        (lambda d: d["seeds"].append(d["seeds"][0]), Malformed),
        (lambda d: d["seeds"][0].pop("sha256"), Malformed),
        (lambda d: d["seeds"][0].update(url="x"), Malformed),
        (lambda d: d["seeds"][0].update(path="http://mirror.invalid/pool/x.deb"), Malformed),
        (lambda d: d["seeds"][0].update(path="/etc/shadow"), Malformed),
        (lambda d: d["seeds"][0].update(path="pool/../../etc/shadow"), Malformed),
        (lambda d: d["seeds"][0].update(file="../x"), Malformed),
        (lambda d: d["seeds"][0].update(file="a/b"), Malformed),
        (lambda d: d["seeds"][0].update(size=0), Malformed),
        (lambda d: d["seeds"][0].update(size=True), Malformed),
        (lambda d: d["seeds"][0].update(size="12"), Malformed),
        (lambda d: d["seeds"][0].update(sha256=d["seeds"][0]["sha256"].upper()), Malformed),
        (lambda d: d["seeds"][0].update(licence=""), Malformed),
        (lambda d: d["unpacked"].pop("member"), Malformed),
        (lambda d: d.update(unpacked=[]), Malformed),
        (lambda d: d.update(seeds={}), Malformed),
    ],
)
def test_wrong_locks_are_refused(change, error):
    with pytest.raises(error, match=r"lock busybox: "):
        lock.parse(broken(change), "lock busybox")


@given(st.binary(max_size=300))
def test_bytes_are_a_lock_or_an_error_of_ours(data):
    with suppress(Malformed, Unsupported):
        lock.parse(data, "lock")


@given(st.data())
def test_nearly_a_lock_prints_back_or_is_refused(data):
    at = data.draw(st.integers(0, len(WHEELS) - 1))
    size = data.draw(st.integers(0, 20))
    text = WHEELS[:at] + data.draw(st.binary(max_size=8)) + WHEELS[at + size :]
    with suppress(Malformed, Unsupported):
        assert lock.parse(lock.dumps(lock.parse(text, "lock")), "lock") == lock.parse(text, "lock")

"""Realm Initial Measurements: known answers and the rules written out again."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest
from support_corpus import corpus

from tallystick.core.errors import Malformed, Unsupported
from tallystick.measure.cca import DataCreate, InitRipas, RealmParams, RecCreate, populate, rim

PARAMS = RealmParams(s2sz=48, num_bps=2, num_wps=2, hash_algorithm="sha256")


@pytest.mark.corpus
def test_known_answers():
    cases = [
        c for c in json.loads(corpus("evidence/cca/measure/rim_vectors.json").read_text()) if "s2sz" in c
    ]
    assert len(cases) == 2
    for case in cases:
        params = RealmParams(
            s2sz=case["s2sz"],
            num_bps=case["num_bps"],
            num_wps=case["num_wps"],
            hash_algorithm=case["hash"],
            sve_vl=case.get("sve_vl", 0),
            pmu_num_ctrs=case.get("pmu", 0),
        )
        assert rim(params).hex() == case["rim"]


def test_each_step_is_one_descriptor_over_the_measurement_so_far():
    """DEN0137's descriptors, by hand: 256 bytes, the running measurement padded to 64."""
    first = rim(PARAMS)
    ripas = struct.pack("<B7xQ", 2, 256) + first.ljust(64, b"\0") + struct.pack("<QQ", 0x80000000, 0x80200000)
    second = hashlib.sha256(ripas.ljust(256, b"\0")).digest()
    content = b"kernel".ljust(4096, b"\0")
    data = struct.pack("<B7xQ", 0, 256) + second.ljust(64, b"\0") + struct.pack("<QQ", 0x80000000, 1)
    data += hashlib.sha256(content).digest().ljust(64, b"\0")
    third = hashlib.sha256(data.ljust(256, b"\0")).digest()
    record = bytearray(4096)
    struct.pack_into("<Q", record, 0, 1)
    struct.pack_into("<Q", record, 0x200, 0x80000000)
    struct.pack_into("<Q", record, 0x300, 0x83000000)
    rec = struct.pack("<B7xQ", 1, 256) + third.ljust(64, b"\0")
    rec += hashlib.sha256(record).digest().ljust(64, b"\0")
    steps = [
        InitRipas(base=0x80000000, top=0x80200000),
        *populate(0x80000000, b"kernel"),
        RecCreate(flags=1, pc=0x80000000, gprs=(0x83000000,)),
    ]
    assert rim(PARAMS, steps) == hashlib.sha256(rec.ljust(256, b"\0")).digest()


def test_an_unmeasured_granule_leaves_only_its_address():
    one = rim(PARAMS, [DataCreate(ipa=0, content=b"a" * 4096, measured=False)])
    assert one == rim(PARAMS, [DataCreate(ipa=0, content=b"b" * 4096, measured=False)])
    assert one != rim(PARAMS, [DataCreate(ipa=4096, content=b"a" * 4096, measured=False)])


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([DataCreate(ipa=1, content=bytes(4096))], "one aligned granule"),
        ([DataCreate(ipa=0, content=b"")], "one aligned granule"),
        ([InitRipas(base=0, top=0)], "an aligned range"),
        ([RecCreate(flags=0, pc=0, gprs=(0,) * 9)], "8 registers"),
    ],
)
def test_steps_that_no_monitor_takes_are_refused(steps, said):
    with pytest.raises(Malformed, match=said):
        rim(PARAMS, steps)


def test_parameters_outside_their_fields_are_refused():
    with pytest.raises(Malformed, match="num_bps: want 1 to 64, got 0"):
        rim(RealmParams(s2sz=48, num_bps=0, num_wps=2, hash_algorithm="sha256"))
    with pytest.raises(Unsupported, match="want sha256 or sha512, got md5"):
        rim(RealmParams(s2sz=48, num_bps=2, num_wps=2, hash_algorithm="md5"))

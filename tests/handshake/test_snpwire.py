"""SNP reports as KBS clients send them: back to the bytes that AMD signed."""

from __future__ import annotations

import contextlib
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_corpus import corpus

from tallystick.core.errors import Malformed
from tallystick.handshake import snpwire

# what the format's own table calls reserved: AMD 56860, ATTESTATION_REPORT, Table 23
_RESERVED = {2: [(0x188, 3), (0x1F8, 168)], 3: [(0x1F8, 168)], 5: [(0x208, 152)]}
_ALWAYS_RESERVED = [(0x4C, 4), (0x18B, 21), (0x1EB, 1), (0x1EF, 1), (0x330, 368)]
_TCBS = (0x38, 0x180, 0x1E0, 0x1F0)


def _report(version: int, *, turin: bool, seed: int = 1) -> bytes:
    """Random bytes in every field of a report, zeros where nothing is."""
    data = bytearray(random.Random(seed).randbytes(snpwire.REPORT_BYTES))
    data[0:4] = version.to_bytes(4, "little")
    for at, size in (*_ALWAYS_RESERVED, *_RESERVED[version]):
        data[at : at + size] = bytes(size)
    for at in _TCBS:
        unused = (4, 3) if turin else (2, 4)
        data[at + unused[0] : at + sum(unused)] = bytes(unused[1])
    if version >= 3:
        data[0x188:0x18B] = bytes((0x1A if turin else 0x19, 1, 1))
    elif turin:
        data[0x1A8:0x1E0] = bytes(56)
    return bytes(data)


@pytest.mark.parametrize("version", [2, 3, 5])
@pytest.mark.parametrize("turin", [False, True])
def test_every_byte_comes_back(version, turin):
    report = _report(version, turin=turin)
    sent = json.loads(json.dumps(snpwire.document(report, {"VCEK": b"der", "ASK": b"other"})))
    assert snpwire.parse(sent) == (report, (b"der", b"other"))
    assert (sent["attestation_report"]["reported_tcb"]["fmc"] is None) != turin
    assert (sent["attestation_report"]["cpuid_fam_id"] is None) == (version == 2)
    assert (sent["attestation_report"]["launch_mit_vector"] is None) == (version < 5)


@pytest.mark.parametrize("version", [2, 3, 5])
def test_every_field_changes_the_bytes(version):
    report = _report(version, turin=False)
    sent = snpwire.document(report)
    fields = sent["attestation_report"]
    changed = 0
    for name, value in fields.items():
        if name == "version":
            continue  # which has other fields
        for other in _others(value):
            again = snpwire.parse({**sent, "attestation_report": {**fields, name: other}})[0]
            assert again != report, name
            changed += 1
    assert changed > 40


def _others(value):
    """Every value that differs from ``value`` in one place, of the same shape."""
    if isinstance(value, int):
        return [value ^ 1]
    if isinstance(value, list):
        return [[*value[:-1], value[-1] ^ 1], [value[0] ^ 1, *value[1:]]]
    if isinstance(value, dict):
        return [{**value, key: other} for key, inner in value.items() for other in _others(inner)]
    return []


@pytest.mark.corpus
@pytest.mark.parametrize(
    "name",
    [
        "trustee_milan_v2.report.bin",
        "gosevguest_milan_v2_DEBUG.report.bin",
        "trustee_vlek_milan_v3_vmpl1.report.bin",
    ],
)
def test_real_reports_come_back(name):
    report = corpus(f"evidence/snp/reports/{name}").read_bytes()
    assert snpwire.parse(snpwire.document(report)) == (report, ())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), -1),
        (("version",), 1 << 32),
        (("version",), True),
        (("version",), "2"),
        (("report_data",), [0] * 63),
        (("report_data",), [0] * 63 + [256]),
        (("report_data",), [0] * 63 + [True]),
        (("report_data",), "00"),
        (("current_tcb",), 1),
        (("current_tcb", "snp"), 256),
        (("current", "major"), None),
        (("signature",), None),
        (("signature", "r"), [0] * 73),
        (("cpuid_step",), None),
    ],
)
def test_a_value_that_is_none_of_its_field_is_named(path, value):
    sent = json.loads(json.dumps(snpwire.document(_report(3, turin=False))))
    place = sent["attestation_report"]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(Malformed, match=path[-1]):
        snpwire.parse(sent)


@pytest.mark.parametrize("chain", ["x", [{}], [{"data": "x"}], [{"data": [1]}] * 17, [{"data": [0] * 65537}]])
def test_a_certificate_chain_is_bounded(chain):
    sent = snpwire.document(_report(3, turin=False)) | {"cert_chain": chain}
    with pytest.raises(Malformed):
        snpwire.parse(sent)


def test_what_is_no_report_has_no_document():
    with pytest.raises(Malformed):
        snpwire.document(bytes(1183))


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.lists(st.integers(0, 300), max_size=3),
    lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(name=st.sampled_from(sorted(snpwire.document(bytes(1184))["attestation_report"])), value=_values)
def test_nothing_ends_in_a_traceback(name, value):
    sent = snpwire.document(_report(5, turin=True))
    sent["attestation_report"][name] = value
    with contextlib.suppress(Malformed):
        assert len(snpwire.parse(sent)[0]) == snpwire.REPORT_BYTES

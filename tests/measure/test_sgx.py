"""SGX measurements: a real enclave and its author's signature; streams that no processor would take."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_corpus import corpus

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.formats.sgx import parse_sigstruct
from tallystick.measure import sgx

CREATE = struct.pack("<8sIQ44x", b"ECREATE", 1, 0x4000)
ADD = struct.pack("<8sQ48s", b"EADD", 0x1000, b"\x05\x02")
EXTEND = struct.pack("<8sQ48x", b"EEXTEND", 0x1100) + bytes(range(256))
UNMEASURED = struct.pack("<8sQ48x", b"UNMEASRD", 0x1200) + b"x" * 256


def test_unmeasured_chunks_do_not_count():
    whole = CREATE + ADD + EXTEND + UNMEASURED
    assert sgx.mrenclave(whole) == sgx.mrenclave(CREATE + ADD + EXTEND) == Digest.of(CREATE + ADD + EXTEND)


@pytest.mark.parametrize(
    ("stream", "error", "said"),
    [
        (b"", Malformed, "want ECREATE, got an empty stream"),
        (ADD, Malformed, "offset 0: want ECREATE at the start"),
        (CREATE + CREATE, Malformed, "offset 64: want ECREATE at the start"),
        (b"UNSIZED\0" + CREATE[8:], Unsupported, "got UNSIZED"),
        (CREATE + EXTEND, Malformed, "a chunk of a page that was added"),
        (CREATE + ADD + ADD, Malformed, "a new page inside 0x4000 bytes, got 0x1000"),
        (CREATE + ADD + EXTEND[:-1], Malformed, "want 256 bytes, got 255 left"),
        (CREATE + ADD + b"EEX", Malformed, "a block of 64 bytes, got 3 left"),
        (CREATE[:12] + struct.pack("<Q", 0x3000) + CREATE[20:], Malformed, "a power of two"),
        (CREATE + b"EREMOVE\0" + bytes(56), Malformed, "ECREATE, EADD, EEXTEND or UNMEASRD"),
    ],
)
def test_a_stream_that_builds_no_enclave_is_refused(stream, error, said):
    with pytest.raises(error, match=said):
        sgx.mrenclave(stream)


@pytest.mark.corpus
def test_a_real_enclave_and_its_signature():
    folder = corpus("evidence/sgx/measure")
    found = sgx.mrenclave((folder / "test_enclave.sgxs").read_bytes())
    assert found.hex == "784acfd7d5096a8f0fbd3265760bff21b120f62407a9a9e5ba31aa3c8ed198fc"
    signed = parse_sigstruct((folder / "test_enclave.sig").read_bytes())
    sgx.check(signed, found)
    assert len(sgx.mrsigner(signed).value) == 32
    with pytest.raises(NotGenuine, match="EINIT") as refused:
        sgx.check(signed, Digest.of(b"another enclave"))
    assert [f.code for f in refused.value.findings] == ["sgx.sigstruct.enclave"]


@pytest.mark.corpus
@pytest.mark.parametrize("at", [20, 130, 600, 930, 970, 1025])
def test_a_flipped_byte_of_a_sigstruct_is_refused(at):
    data = bytearray(corpus("evidence/sgx/measure/test_enclave.sig").read_bytes())
    data[at] ^= 1
    with pytest.raises((NotGenuine, Malformed)):
        sgx.check(parse_sigstruct(bytes(data)), None)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=700) | st.binary(max_size=400).map(lambda tail: CREATE + ADD + tail))
def test_no_stream_crashes_the_parser(stream):
    with suppress(Malformed, Unsupported):
        sgx.mrenclave(stream)


@given(st.binary(max_size=2000))
def test_no_bytes_crash_the_sigstruct_parser(data):
    with suppress(Malformed):
        parse_sigstruct(data)

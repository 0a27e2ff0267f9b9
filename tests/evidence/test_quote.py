"""Intel quotes: real ones judged at their time, beside dcap-qvl; damage, other platforms, other times."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_corpus import corpus

from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.evidence import dcap_collateral, dcap_level, quote
from tallystick.formats import dcap_quote

# kind, quote, collateral, time, status, advisories, debug
SAMPLES = [
    ("tdx-quote", "tdx/tdx_quote", "tdx/tdx_quote_collateral.json", (2025, 6, 20), "UpToDate", [], False),
    (
        "tdx-quote",
        "tdx/gotdx/quote_v5_sample.dat",
        "tdx/composite_collateral/gotdx-v5-90c06f000000.json",
        (2026, 2, 5),
        "UpToDate",
        [],
        False,
    ),
    (
        "tdx-quote",
        "tdx/gotdx/ccel/cos-113-tdx-quote.dat",
        "tdx/composite_collateral/automata-1025-00806F050000.json",
        (2025, 10, 20),
        "UpToDate",
        [],
        False,
    ),
    (
        "sgx-quote",
        "sgx/sgx_quote",
        "sgx/sgx_quote_collateral.json",
        (2025, 6, 20),
        "ConfigurationAndSWHardeningNeeded",
        ["INTEL-SA-00289", "INTEL-SA-00615"],
        False,
    ),
    (
        "tdx-quote",
        "tdx/trustee_tdx_quote_4.dat",
        "tdx/composite_collateral/gotdx-50806f000000.json",
        (2023, 6, 20),
        "UpToDate",
        [],
        True,
    ),
]
IDS = [sample[1] for sample in SAMPLES]

pytestmark = pytest.mark.corpus


def read(path):
    return corpus(f"evidence/{path}").read_bytes()


def codes(error):
    return [finding.code for finding in error.value.findings]


@pytest.mark.parametrize(
    ("kind", "path", "collateral", "day", "status", "advisories", "debug"), SAMPLES, ids=IDS
)
def test_real_quotes_and_a_second_opinion(kind, path, collateral, day, status, advisories, debug):
    at = datetime(*day, tzinfo=UTC)
    data, endorsement = read(path), read(collateral)
    claims = quote.verify(kind, data, [endorsement], nonce=None, at=at)
    assert (claims.values["tcb_status"], claims.values["advisory_ids"]) == (status, advisories)
    assert (claims.values["debug"], claims.roots) == (debug, ("intel",))
    qvl = pytest.importorskip("dcap_qvl")
    theirs = qvl.QuoteCollateralV3.from_json(endorsement.decode())
    if debug:  # genuine, and dcap-qvl refuses it all the same
        with pytest.raises(ValueError, match="Debug mode is enabled"):
            qvl.verify(data, theirs, int(at.timestamp()))
    else:
        second = qvl.verify(data, theirs, int(at.timestamp()))
        assert (second.status, sorted(second.advisory_ids)) == (status, advisories)


def sample(index=0):
    kind, path, collateral, day, *_ = SAMPLES[index]
    return kind, read(path), read(collateral), datetime(*day, tzinfo=UTC)


@pytest.mark.parametrize("index", [0, 3])
def test_every_flipped_byte_is_refused(index):
    kind, data, collateral, at = sample(index)
    signed = len(dcap_quote.parse(data).signed)
    for place in [*range(0, signed, 11), *range(signed, len(data), 97)]:
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        with suppress(Malformed, Unsupported, NotGenuine):
            quote.verify(kind, bytes(damaged), [collateral], nonce=None, at=at)
            assert place >= len(data.rstrip(b"\0")), place  # only padding after the quote may change


def test_times_outside_the_collaterals_window():
    kind, data, collateral, at = sample()
    for moment, code in ((at + timedelta(days=60), "expired"), (at - timedelta(days=60), "not-yet-valid")):
        with pytest.raises(NotGenuine, match="not genuine") as refused:
            quote.verify(kind, data, [collateral], nonce=None, at=moment)
        assert f"dcap.collateral.{code}" in codes(refused)


def test_the_window_is_exact_to_the_second():
    kind, data, collateral, at = sample()
    until = quote.verify(kind, data, [collateral], nonce=None, at=at).valid_until
    quote.verify(kind, data, [collateral], nonce=None, at=until)
    with pytest.raises(NotGenuine, match="not genuine"):
        quote.verify(kind, data, [collateral], nonce=None, at=until + timedelta(seconds=1))


def test_missing_and_other_collateral():
    kind, data, _, at = sample()
    for endorsements, got in (
        ([], "none was given"),
        ([read("sgx/sgx_quote_collateral.json")], "SGX 00a067110000"),
    ):
        with pytest.raises(NotGenuine, match=got) as refused:
            quote.verify(kind, data, endorsements, nonce=None, at=at)
        assert codes(refused) == ["dcap.collateral.missing"]


@pytest.mark.parametrize("field", ["tcb_info", "qe_identity"])
def test_edited_collateral_is_refused(field):
    kind, data, collateral, at = sample()
    document = json.loads(collateral)
    document[field] = document[field].replace('"svn":5', '"svn":1', 1).replace('"isvsvn":4', '"isvsvn":1', 1)
    assert json.loads(collateral)[field] != document[field]
    with pytest.raises(NotGenuine, match="a signature by its issuer") as refused:
        quote.verify(kind, data, [json.dumps(document).encode()], nonce=None, at=at)
    assert codes(refused) == ["dcap.collateral.signature"]


def test_the_nonce_and_the_kind():
    kind, data, collateral, at = sample()
    with pytest.raises(NotGenuine, match="not genuine") as refused:
        quote.verify(kind, data, [collateral], nonce=bytes(64), at=at)
    assert codes(refused) == ["quote.report-data.mismatch"]
    with pytest.raises(Malformed, match="want sgx-quote, got tdx-quote"):
        quote.verify("sgx-quote", data, [collateral], nonce=None, at=at)


def test_an_event_log_replays_to_the_registers():
    kind, data, collateral, at = sample(2)
    log = read("tdx/gotdx/ccel/ccel_data.dat")
    quote.verify(kind, data, [collateral, log], nonce=None, at=at)
    other = read("tdx/ccel/CCEL_data_ovmf")
    with pytest.raises(NotGenuine, match="not genuine") as refused:
        quote.verify(kind, data, [collateral, other], nonce=None, at=at)
    assert set(codes(refused)) <= {f"quote.eventlog.rtmr{i}" for i in range(4)}


def test_hex_is_read_as_bytes():
    kind, data, collateral, at = sample()
    for text in (data.hex().encode(), b"0x" + data.hex().encode() + b"\n"):
        assert quote.verify(kind, text, [collateral], nonce=None, at=at).kind == kind


def test_an_unlisted_level_is_not_genuine():
    """This machine's firmware is older than any level that Intel lists for its family."""
    with pytest.raises(NotGenuine, match=r"dcap|quote|TCB|collateral"):
        quote.verify(
            "tdx-quote",
            read("tdx/tdx-quote.hex"),
            [read("tdx/tdx_quote_collateral.json")],
            nonce=None,
            at=datetime(2025, 6, 20, tzinfo=UTC),
        )


def test_the_claims_are_trustees():
    expected = json.loads(read("tdx/trustee_parse_tdx_claims_expected.json"))
    found = quote.claims(dcap_quote.parse(read("tdx/trustee_tdx_quote_4.dat")))
    assert found["quote"] == expected["quote"]
    assert found["td_attributes"] == expected["td_attributes"]
    assert found["report_data"] == expected["report_data"]


@pytest.mark.parametrize(
    ("statuses", "together"),
    [
        (["UpToDate", "OutOfDate"], "OutOfDate"),
        (["ConfigurationNeeded", "OutOfDate"], "OutOfDateConfigurationNeeded"),
        (["SWHardeningNeeded", "ConfigurationNeeded"], "ConfigurationAndSWHardeningNeeded"),
        (["UpToDate", "Revoked"], "Revoked"),
    ],
)
def test_statuses_converge_as_intels_library_has_it(statuses, together):
    assert dcap_level.worst(statuses) == together


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=700), st.binary(max_size=100))
def test_no_bytes_crash_the_parsers(data, extension):
    with suppress(Malformed, Unsupported, NotGenuine):
        quote.verify("tdx-quote", data, [data], nonce=None, at=datetime(2026, 1, 1, tzinfo=UTC))
    with suppress(Malformed):
        dcap_quote.pck_extension(extension)
    with suppress(Malformed):
        dcap_collateral.parse(extension)

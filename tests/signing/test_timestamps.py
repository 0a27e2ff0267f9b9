"""RFC 3161 timestamps: each has to hold, in its authority's closed window, and over this signature."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from signing.boxes import DAY, NOW, Box, b64, edited
from signing.stamper import Stamper

from tallystick.core.errors import NotGenuine
from tallystick.formats import sigstore_bundle
from tallystick.signing import checks
from tallystick.signing.verify import Verifier

SECOND = timedelta(seconds=1)
STAMPER = Stamper()


def rooted(box: Box, *authorities: dict) -> bytes:
    return json.dumps(json.loads(box.root) | {"timestampAuthorities": list(authorities)}).encode()


def stamped(bundle: bytes, *responses: bytes, promise: bool = True) -> bytes:
    def change(document: dict) -> None:
        material = document["verificationMaterial"]
        listed = [{"signedTimestamp": b64(response)} for response in responses]
        material["timestampVerificationData"] = {"rfc3161Timestamps": listed}
        if not promise:
            entry = material["tlogEntries"][0]
            del entry["inclusionPromise"], entry["integratedTime"]

    return edited(bundle, change)


def signature(bundle: bytes) -> bytes:
    return checks.signature_of(sigstore_bundle.parse(bundle))


def test_a_timestamp_beside_the_promise(box, bundle):
    stamp = STAMPER.stamp(signature(bundle), NOW + SECOND)
    found = box.verify(stamped(bundle, stamp), root=rooted(box, STAMPER.authority()))
    assert found.signed_at == NOW


def test_a_timestamp_instead_of_the_promise(box, bundle):
    stamp = STAMPER.stamp(signature(bundle), NOW + SECOND)
    found = box.verify(stamped(bundle, stamp, promise=False), root=rooted(box, STAMPER.authority()))
    assert found.signed_at == NOW + SECOND


@pytest.mark.parametrize("window", [{"start": NOW, "end": NOW + DAY}, {"start": NOW - DAY, "end": NOW}])
def test_both_ends_of_the_window_are_inside(box, bundle, window):
    """sigstore-python 4.5.1 takes the end to be outside."""
    stamp = STAMPER.stamp(signature(bundle))
    box.verify(stamped(bundle, stamp, promise=False), root=rooted(box, STAMPER.authority(**window)))


def refusal(box: Box, bundle: bytes, root: bytes) -> str:
    with pytest.raises(NotGenuine) as caught:
        box.verify(bundle, root=root)
    return caught.value.code


@pytest.mark.parametrize("promise", [True, False])
@pytest.mark.parametrize(
    "window", [{"end": NOW - SECOND}, {"start": NOW + SECOND}, {"start": NOW - 9 * DAY, "end": NOW - 8 * DAY}]
)
def test_outside_the_window_it_counts_for_nothing(box, bundle, promise, window):
    stamp = STAMPER.stamp(signature(bundle))
    root = rooted(box, STAMPER.authority(**window))
    assert refusal(box, stamped(bundle, stamp, promise=promise), root) == "bundle.timestamp"


@pytest.mark.parametrize("promise", [True, False])
def test_a_timestamp_that_does_not_hold_is_not_passed_over(box, bundle, promise):
    """sigstore-python leaves it aside when there is a promise."""
    good = STAMPER.stamp(signature(bundle))
    root = rooted(box, STAMPER.authority())
    bad = bytearray(good)
    bad[-1] ^= 1
    for wrong in (
        bytes(bad),
        STAMPER.stamp(b"another signature"),
        Stamper().stamp(signature(bundle)),
        good[:-4],
    ):
        assert refusal(box, stamped(bundle, good, wrong, promise=promise), root) == "bundle.timestamp"
        assert refusal(box, stamped(bundle, wrong, promise=promise), root) == "bundle.timestamp"


def test_a_timestamp_by_an_authority_that_the_root_does_not_know(box, bundle):
    stamp = STAMPER.stamp(signature(bundle))
    assert refusal(box, stamped(bundle, stamp), rooted(box)) == "bundle.timestamp"
    short = STAMPER.authority()
    del short["certChain"]["certificates"][1]
    assert refusal(box, stamped(bundle, stamp), rooted(box, short)) == "bundle.timestamp"


def test_two_authorities_each_in_its_own_time(box, bundle):
    other = Stamper()
    stamps = STAMPER.stamp(signature(bundle)), other.stamp(signature(bundle), NOW + 2 * SECOND)
    first, second = STAMPER.authority(end=NOW), other.authority(start=NOW + SECOND)
    verifier = Verifier(rooted(box, first, second))
    document = stamped(bundle, *stamps)
    found = box.verify(document, root=rooted(box, first, second))
    assert found.signed_at == NOW
    assert len(verifier.root.timestamp_authorities) == 2


def test_a_time_outside_the_certificate_is_refused(box, bundle):
    stamp = STAMPER.stamp(signature(bundle), NOW - timedelta(minutes=1))
    root = json.loads(rooted(box, STAMPER.authority()))
    for part in (
        root["tlogs"][0]["publicKey"],
        root["ctlogs"][0]["publicKey"],
        root["certificateAuthorities"][0],
    ):
        part["validFor"] = {"start": "2020-01-01T00:00:00Z"}
    for promise in (True, False):
        data = json.dumps(root).encode()
        assert refusal(box, stamped(bundle, stamp, promise=promise), data) == "bundle.certificate"


def test_without_a_promise_nothing_may_say_what_only_a_promise_signs(box, bundle):
    stamp = STAMPER.stamp(signature(bundle))
    root = rooted(box, STAMPER.authority())
    plain = stamped(bundle, stamp, promise=False)

    def put(name: str, value: str) -> bytes:
        return edited(plain, lambda d: d["verificationMaterial"]["tlogEntries"][0].update({name: value}))

    assert refusal(box, put("integratedTime", "1"), root) == "bundle.log-entry"
    assert refusal(box, put("logIndex", "12345"), root) == "bundle.log-entry"
    assert box.verify(put("integratedTime", "0"), root=root).signed_at == NOW

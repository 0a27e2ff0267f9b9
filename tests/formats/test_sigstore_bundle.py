"""Sigstore bundles are read strictly: nothing unknown, nothing double, one spelling for each value."""

from __future__ import annotations

import copy
import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, TallystickError, Unsupported
from tallystick.formats import dsse
from tallystick.formats import sigstore_bundle as bundles

ENTRY = {
    "logIndex": "7",
    "logId": {"keyId": "AAAA"},
    "kindVersion": {"kind": "dsse", "version": "0.0.1"},
    "integratedTime": "1700000000",
    "inclusionPromise": {"signedEntryTimestamp": "AAAA"},
    "inclusionProof": {
        "logIndex": "7", "rootHash": "AAAA", "treeSize": "8", "hashes": ["AAAA", "AAAA"],
        "checkpoint": {"envelope": "x"},
    },
    "canonicalizedBody": "e30=",
}  # fmt: skip
GOOD = {
    "mediaType": bundles.MEDIA_TYPE,
    "verificationMaterial": {
        "certificate": {"rawBytes": "AAAA"},
        "tlogEntries": [ENTRY],
        "timestampVerificationData": {"rfc3161Timestamps": [{"signedTimestamp": "AAAA"}]},
    },
    "dsseEnvelope": {"payload": "e30=", "payloadType": "x", "signatures": [{"sig": "AAAA"}]},
}
MESSAGE = {"messageDigest": {"algorithm": "SHA2_256", "digest": "AAAA"}, "signature": "AAAA"}


def changed(path: str, value: object) -> bytes:
    """GOOD with ``value`` at ``path``; ``...`` takes the field away."""
    document = copy.deepcopy(GOOD)
    place: dict = document
    *way, last = path.split(".")
    for step in way:
        place = place[int(step)] if step.isdigit() else place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document).encode()


def test_a_bundle():
    found = bundles.parse(json.dumps(GOOD).encode())
    assert found.certificates == (b"\0\0\0",)
    assert found.key_hint is None
    assert found.timestamps == (b"\0\0\0",)
    (entry,) = found.entries
    assert (entry.log_index, entry.integrated_time, entry.body) == (7, 1700000000, b"{}")
    assert entry.proof is not None
    assert (entry.proof.tree_size, len(entry.proof.hashes), entry.proof.checkpoint) == (8, 2, "x")
    assert isinstance(found.content, dsse.Envelope)


def test_the_other_forms():
    chain = {"certificates": [{"rawBytes": "AAAA"}, {"rawBytes": "AQEB"}]}
    document = copy.deepcopy(GOOD)
    document["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.1"
    document["verificationMaterial"] = {"x509CertificateChain": chain}
    del document["dsseEnvelope"]
    document["messageSignature"] = MESSAGE
    found = bundles.parse(json.dumps(document).encode())
    assert found.certificates == (b"\0\0\0", b"\1\1\1")
    assert found.entries == found.timestamps == ()
    assert found.content == bundles.MessageSignature(
        algorithm="SHA2_256", digest=b"\0\0\0", signature=b"\0\0\0"
    )
    document["verificationMaterial"] = {"publicKey": {}}
    document["messageSignature"] = {"signature": "AAAA"}
    found = bundles.parse(json.dumps(document).encode())
    assert (found.certificates, found.key_hint) == ((), "")
    assert found.content.digest is None


def test_what_protobuf_leaves_out_is_zero():
    for name in ("logIndex", "integratedTime"):
        (entry,) = bundles.parse(changed(f"verificationMaterial.tlogEntries.0.{name}", ...)).entries
        assert (entry.log_index, entry.integrated_time) == (
            (0, 1700000000) if name == "logIndex" else (7, None)
        )


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("mediaType", ..., "the field mediaType"),
        ("more", 1, "got more"),
        ("verificationMaterial", [], "want an object"),
        ("verificationMaterial.more", 1, "got more"),
        ("verificationMaterial.certificate", ..., "exactly one of certificate"),
        ("verificationMaterial.publicKey", {"hint": "x"}, "exactly one of certificate"),
        ("verificationMaterial.certificate.rawBytes", "AAA", "base64"),
        ("verificationMaterial.certificate.more", 1, "got more"),
        ("verificationMaterial.timestampVerificationData.more", 1, "got more"),
        ("verificationMaterial.timestampVerificationData.rfc3161Timestamps.0.more", 1, "got more"),
        ("verificationMaterial.tlogEntries", {}, "want a list"),
        ("verificationMaterial.tlogEntries", [ENTRY] * 65, "at most 64"),
        ("verificationMaterial.tlogEntries.0.more", 1, "got more"),
        ("verificationMaterial.tlogEntries.0.logIndex", 7, "decimal digits"),
        ("verificationMaterial.tlogEntries.0.logIndex", "07", "decimal digits"),
        ("verificationMaterial.tlogEntries.0.logIndex", " 7", "decimal digits"),
        ("verificationMaterial.tlogEntries.0.logIndex", "-7", "decimal digits"),
        ("verificationMaterial.tlogEntries.0.logIndex", "7_0", "decimal digits"),
        ("verificationMaterial.tlogEntries.0.logIndex", "\u0667", "decimal digits"),
        ("verificationMaterial.tlogEntries.0.logIndex", str(2**63), "decimal digits"),
        ("verificationMaterial.tlogEntries.0.logId.more", 1, "got more"),
        ("verificationMaterial.tlogEntries.0.logId.keyId", "AA A", "base64"),
        ("verificationMaterial.tlogEntries.0.kindVersion.version", 1, "want a text"),
        ("verificationMaterial.tlogEntries.0.inclusionPromise.more", 1, "got more"),
        ("verificationMaterial.tlogEntries.0.inclusionProof.more", 1, "got more"),
        ("verificationMaterial.tlogEntries.0.inclusionProof.checkpoint.more", 1, "got more"),
        ("verificationMaterial.tlogEntries.0.inclusionProof.hashes", ["AAAA", 1], "base64"),
        ("verificationMaterial.tlogEntries.0.canonicalizedBody", ..., "the field canonicalizedBody"),
        ("dsseEnvelope", ..., "exactly one of dsseEnvelope"),
        ("messageSignature", MESSAGE, "exactly one of dsseEnvelope"),
        ("dsseEnvelope.more", 1, "got more"),
    ],
)
def test_what_is_wrong_is_named(path, value, message):
    with pytest.raises(Malformed, match=message):
        bundles.parse(changed(path, value))


@pytest.mark.parametrize("chain", [{}, {"certificates": []}])
def test_a_chain_has_a_leaf(chain):
    document = copy.deepcopy(GOOD)
    document["verificationMaterial"] = {"x509CertificateChain": chain}
    with pytest.raises(Malformed, match="at least one certificate"):
        bundles.parse(json.dumps(document).encode())


def test_another_media_type_is_unsupported():
    with pytest.raises(Unsupported, match=r"mediaType.*v0\.4"):
        bundles.parse(changed("mediaType", "application/vnd.dev.sigstore.bundle.v0.4+json"))


@settings(max_examples=300)
@given(st.binary(max_size=50), st.integers(0), st.booleans())
def test_bytes_are_refused_by_our_errors_alone(noise, at, inside):
    data = json.dumps(GOOD).encode()
    at %= len(data)
    with suppress(TallystickError):
        bundles.parse(data[:at] + noise + data[at + len(noise) :] if inside else noise)

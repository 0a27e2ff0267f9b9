"""Bundles by unmodified sigstore-python, and everything about them that must not be otherwise."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from signing.boxes import (
    ALICE,
    ARTIFACT,
    BUILDER,
    DAY,
    NOW,
    PAYLOAD,
    PREDICATE,
    SUBJECT,
    Box,
    b64,
    bundle_of,
    edited,
    flipped,
    replaced,
    spelled,
)

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine, TallystickError, Unsupported
from tallystick.formats import dsse, intoto
from tallystick.signing import checks, library
from tallystick.signing.artifact import Artifact
from tallystick.signing.records import Builder, Identity
from tallystick.signing.verify import Verifier


def refusal(box: Box, bundle: bytes, **options: object) -> str:
    with pytest.raises(NotGenuine) as caught:
        box.verify(bundle, **options)
    return caught.value.code


def test_a_statement_comes_back_byte_for_byte(box, bundle):
    found = box.verify(bundle)
    assert found.payload == PAYLOAD
    assert found.statement["predicate"] == {"vcpus": 4}
    assert (found.signer, found.signed_at, found.predicate_type) == (BUILDER, NOW, PREDICATE)
    assert found.bundle == Digest.of(bundle)


def test_unmodified_sigstore_python_verifies_it(box, bundle):
    from sigstore.models import Bundle, TrustedRoot
    from sigstore.verify import Verifier as Stock
    from sigstore.verify import policy

    stock = Stock(trusted_root=TrustedRoot.from_file(str(box.workdir / "sigstore" / "trusted_root.json")))
    who = policy.AllOf(
        [policy.Identity(identity=BUILDER.san, issuer=BUILDER.issuer), policy.OIDCIssuerV2(BUILDER.issuer)]
    )
    assert stock.verify_dsse(Bundle.from_json(bundle), who) == (intoto.PAYLOAD_TYPE, PAYLOAD)


def test_an_email_identity_too(box):
    assert box.verify(box.sign(name="alice"), signers=(BUILDER, ALICE)).signer == ALICE


def test_one_verifier_serves_many_bundles_and_asks_the_library_once_for_its_keys(box):
    verifier = Verifier(box.root)
    for payload in (PAYLOAD, intoto.make([("b", {"sha256": "00" * 32})], PREDICATE, {})):
        bundle = box.sign(payload)
        found = verifier.statement(bundle, signers=(BUILDER,), predicate_type=PREDICATE, now=NOW)
        assert found.payload == payload
    assert len(verifier._libraries) == 1


# Who signed


@pytest.mark.parametrize(
    "signer",
    [
        Identity(san="https://ci.example/build", issuer=BUILDER.issuer),  # what was signed begins with it
        Identity(san="https://ci.example/builder/", issuer=BUILDER.issuer),
        Identity(san="https://ci.example/builder.evil.example", issuer=BUILDER.issuer),
        Identity(san="https://CI.example/builder", issuer=BUILDER.issuer),
        Identity(san="https://ci.example/.*", issuer=BUILDER.issuer),
        Identity(san=BUILDER.san, issuer="https://tallystick.local/embedded"),
        Identity(san=BUILDER.san, issuer="https://accounts.google.com"),
        Identity(san="", issuer=""),
    ],
)
def test_identities_are_compared_exactly(box, bundle, signer):
    assert refusal(box, bundle, signers=(signer,)) == "bundle.identity"


def test_nobody_may_sign_when_nobody_is_named(box, bundle):
    assert refusal(box, bundle, signers=()) == "bundle.identity"


def two_names(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
    names = [x509.UniformResourceIdentifier(BUILDER.san), x509.RFC822Name(ALICE.san)]
    return replaced(builder, x509.SubjectAlternativeName(names))


def test_a_certificate_with_two_names_names_nobody(box):
    key = ec.generate_private_key(ec.SECP256R1())
    bundle = spelled(box.forge(key=key, certificate=box.leaf(key, edit=two_names)))
    assert refusal(box, bundle) == "bundle.identity"


def test_two_issuers_in_one_certificate_are_refused(box):
    key = ec.generate_private_key(ec.SECP256R1())
    other = x509.UnrecognizedExtension(
        x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), b"https://other.example"
    )
    leaf = box.leaf(key, edit=lambda builder: replaced(builder, other))
    assert refusal(box, spelled(box.forge(key=key, certificate=leaf))) == "bundle.identity"


def test_a_builder_may_claim_its_own_builder_id_alone(box, bundle):
    found = box.verify(bundle)
    mine = Builder(identity=BUILDER, builder_id="https://b.example/ci")
    hers = Builder(identity=ALICE, builder_id="https://b.example/alice")
    assert checks.check_builder(found, mine.builder_id, (hers, mine), "x") == mine
    for claimed, builders in ((hers.builder_id, (hers, mine)), (mine.builder_id, (hers,)), ("", (mine,))):
        with pytest.raises(NotGenuine) as caught:
            checks.check_builder(found, claimed, builders, "x")
        assert caught.value.code == "bundle.builder-id"


# What was signed


def test_another_predicate_type_is_refused(box, bundle):
    assert refusal(box, bundle, predicate_type="https://example.org/predicate/v2") == "bundle.predicate-type"


def test_another_payload_type_is_refused_though_it_is_signed(box):
    bundle = spelled(box.forge(payload_type="application/json"))
    assert refusal(box, bundle) == "bundle.payload-type"


def test_a_swapped_payload_type_breaks_the_signature(box, bundle):
    swapped = edited(bundle, lambda d: d["dsseEnvelope"].update(payloadType="text/plain"))
    assert refusal(box, swapped) == "bundle.signature"


def test_a_payload_that_is_no_statement_is_malformed(box):
    with pytest.raises(Malformed, match="JSON"):
        box.verify(spelled(box.forge(b"not json")))
    with pytest.raises(Unsupported, match=r"Statement/v0\.1"):
        box.verify(spelled(box.forge(PAYLOAD.replace(b"Statement/v1", b"Statement/v0.1"))))


# When


def test_a_bundle_from_the_future_is_refused(box, bundle):
    assert refusal(box, bundle, now=NOW - DAY) == "bundle.future"
    box.verify(bundle, now=NOW - timedelta(minutes=4))


def test_a_bundle_is_as_good_years_later(box, bundle):
    assert box.verify(bundle, now=NOW + 3000 * DAY).signed_at == NOW


def test_a_signature_after_the_certificate_expired_is_refused(box):
    key = ec.generate_private_key(ec.SECP256R1())
    old = box.leaf(key, now=NOW - DAY)
    root = json.loads(box.root)
    for part in (
        root["tlogs"][0]["publicKey"],
        root["ctlogs"][0]["publicKey"],
        root["certificateAuthorities"][0],
    ):
        part["validFor"] = {"start": "2020-01-01T00:00:00Z"}
    bundle = spelled(box.forge(key=key, certificate=old))
    assert refusal(box, bundle, root=json.dumps(root).encode()) == "bundle.certificate"


@pytest.mark.parametrize("when", [2**63 - 1, 253402300800])
def test_a_time_outside_the_calendar_is_in_the_future(box, bundle, when):
    assert refusal(box, edited(bundle, put(entry, "integratedTime", str(when)))) == "bundle.future"


# Every part of it


def entry(document: dict) -> dict:
    return document["verificationMaterial"]["tlogEntries"][0]


def proof(document: dict) -> dict:
    return entry(document)["inclusionProof"]


def change_body(document: dict) -> None:
    body = bytearray(base64.b64decode(entry(document)["canonicalizedBody"]))
    at = body.index(b"payloadHash")
    at = body.index(b'"value":"', at) + 10
    body[at] ^= 1
    entry(document)["canonicalizedBody"] = b64(bytes(body))


def rename_signer(document: dict) -> None:
    note = proof(document)["checkpoint"]
    note["envelope"] = note["envelope"].replace("— rekor", "— rekoz")


def repeat_line(document: dict) -> None:
    note = proof(document)["checkpoint"]
    note["envelope"] += note["envelope"].split("\n\n")[1]


def change_checkpoint_signature(document: dict) -> None:
    note = proof(document)["checkpoint"]
    head, line = note["envelope"].rstrip("\n").rsplit(" ", 1)
    note["envelope"] = f"{head} {flipped(line, 20)}\n"


def without(holder, name):
    return lambda document: holder(document).pop(name)


def material(document: dict) -> dict:
    return document["verificationMaterial"]


def shorten(document: dict) -> None:
    proof(document)["hashes"] = proof(document)["hashes"][:-1]


def flip(holder, name, at=5):
    def change(document: dict) -> None:
        holder(document)[name] = flipped(holder(document)[name], at)

    return change


def put(holder, name, value):
    return lambda document: holder(document).update({name: value})


def envelope(document: dict) -> dict:
    return document["dsseEnvelope"]


def signature(document: dict) -> dict:
    return envelope(document)["signatures"][0]


def certificate(document: dict) -> dict:
    return material(document)["certificate"]


def promise(document: dict) -> dict:
    return entry(document)["inclusionPromise"]


def enlarge(document: dict) -> None:
    proof(document)["treeSize"] = str(int(proof(document)["treeSize"]) + 1)


def change_hash(document: dict) -> None:
    hashes = proof(document)["hashes"]
    hashes[0] = flipped(hashes[0])


def double(holder, name):
    return lambda document: holder(document).update({name: holder(document)[name] * 2})


OLDER = "application/vnd.dev.sigstore.bundle+json;version=0.3"
LATER = str(int(NOW.timestamp()) + 1)
STAMP = {"rfc3161Timestamps": [{"signedTimestamp": "MAA="}]}
TAMPERED = {
    "payload": (flip(envelope, "payload"), "bundle.signature"),
    "signature": (flip(signature, "sig", 20), "bundle.signature"),
    "certificate's signature": (flip(certificate, "rawBytes", -3), "bundle.certificate"),
    "certificate's key": (flip(certificate, "rawBytes", 200), "bundle.certificate"),
    "promise": (flip(promise, "signedEntryTimestamp", 30), "bundle.set"),
    "time": (put(entry, "integratedTime", LATER), "bundle.set"),
    "index": (put(entry, "logIndex", "1"), "bundle.set"),
    "proof index": (put(proof, "logIndex", "0"), "bundle.log-proof"),
    "proof hash": (change_hash, "bundle.log-proof"),
    "proof length": (shorten, "bundle.log-proof"),
    "root hash": (flip(proof, "rootHash"), "bundle.checkpoint"),
    "tree size": (enlarge, "bundle.checkpoint"),
    "checkpoint signature": (change_checkpoint_signature, "bundle.checkpoint"),
    "checkpoint signer": (rename_signer, "bundle.checkpoint"),
    "checkpoint line twice": (repeat_line, "bundle.checkpoint"),
    "body": (change_body, "bundle.log-proof"),
    "kind": (put(lambda d: entry(d)["kindVersion"], "kind", "hashedrekord"), "bundle.log-entry"),
    "version": (put(lambda d: entry(d)["kindVersion"], "version", "0.0.2"), "bundle.log-entry"),
    "log id": (flip(lambda d: entry(d)["logId"], "keyId"), "bundle.log-unknown"),
    "no promise": (without(entry, "inclusionPromise"), "bundle.timestamp"),
    "no time": (without(entry, "integratedTime"), "bundle.timestamp"),
    "no proof": (without(entry, "inclusionProof"), "bundle.log-proof"),
    "no checkpoint": (without(proof, "checkpoint"), "bundle.log-proof"),
    "no entry": (put(material, "tlogEntries", []), "bundle.log-entry"),
    "two entries": (double(material, "tlogEntries"), "bundle.log-entry"),
    "two signatures": (double(envelope, "signatures"), "bundle.refused"),
    "foreign timestamp": (put(material, "timestampVerificationData", STAMP), "bundle.timestamp"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_no_part_can_be_changed(box, bundle, name):
    change, code = TAMPERED[name]
    assert refusal(box, edited(bundle, change)) == code


@settings(max_examples=400, deadline=None)
@given(at=st.integers(0), by=st.integers(1, 255))
def test_a_flipped_byte_anywhere_is_refused(box, bundle, at, by):
    damaged = bytearray(bundle)
    damaged[at % len(damaged)] ^= by
    with pytest.raises(TallystickError) as caught:
        box.verify(bytes(damaged))
    assert caught.value.exit in (3, 4, 5)


@pytest.mark.soak
def test_every_bit_of_every_byte(box, bundle):
    verifier = Verifier(box.root)
    for at in range(len(bundle)):
        for bit in range(8):
            damaged = bytearray(bundle)
            damaged[at] ^= 1 << bit
            with pytest.raises(TallystickError):
                verifier.statement(bytes(damaged), signers=(BUILDER,), predicate_type=PREDICATE, now=NOW)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda b: b + b"\n", "RFC 8785"),
        (lambda b: b.replace(b'":', b'": ', 1), "RFC 8785"),
        (lambda b: json.dumps(json.loads(b), separators=(",", ":")).encode(), "RFC 8785"),
        (lambda b: edited(b, lambda d: d.update(mediaType=OLDER)), "mediaType"),
        (lambda b: edited(b, lambda d: d["dsseEnvelope"]["signatures"][0].update(keyid="")), "keyid"),
        (lambda b: b.replace(b'{"dsseEnvelope"', b'{"dsseEnvelope":0,"dsseEnvelope"', 1), "each key once"),
        (lambda b: edited(b, lambda d: d.update(unknown=1)), "got unknown"),
    ],
)  # fmt: skip
def test_a_release_bundle_has_one_spelling(box, bundle, other, message):
    with pytest.raises(Malformed, match=message):
        box.verify(other(bundle))


# Whose log, whose CA


def rooted(box: Box, other: Box, part: str) -> bytes:
    """The box's root with one part of another Sigstore."""
    return json.dumps(json.loads(box.root) | {part: json.loads(other.root)[part]}).encode()


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return Box.make(tmp_path_factory.mktemp("other"))


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ("tlogs", "bundle.log-unknown"),
        ("ctlogs", "bundle.ct-unknown"),
        ("certificateAuthorities", "bundle.certificate"),
    ],
)
def test_parts_of_another_sigstore_do_not_do(box, other, bundle, part, code):
    assert refusal(box, bundle, root=rooted(box, other, part)) == code


def test_a_log_key_that_is_not_the_named_logs_does_not_sign_for_it(box, other, bundle):
    """sigstore-python tries every key of the root when it does not know the log's ID."""
    root = json.loads(box.root)
    stranger = json.loads(other.root)["tlogs"][0]
    stranger["logId"] = root["tlogs"][0]["logId"]  # another key under the name of the bundle's log
    root["tlogs"] = [stranger]
    assert refusal(box, bundle, root=json.dumps(root).encode()) == "bundle.checkpoint"
    retired = json.loads(box.root)["tlogs"][0]
    retired["logId"] = {"keyId": b64(b"\0" * 32)}
    root["tlogs"] = [stranger, retired]  # the true key is there too, under another name
    assert refusal(box, bundle, root=json.dumps(root).encode()) == "bundle.checkpoint"


def test_an_sct_by_a_strangers_key_is_refused(box, other):
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = box.leaf(key, ct_key=other.instance.authority.ct_key)
    assert refusal(box, spelled(box.forge(key=key, certificate=leaf))) == "bundle.ct-unknown"


def test_a_leaf_without_sct_is_refused(box):
    key = ec.generate_private_key(ec.SECP256R1())
    real = box.leaf(key)
    drop = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")

    def stripped(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
        builder._extensions[:] = [extension for extension in builder._extensions if extension.oid != drop]
        return builder

    leaf = box.leaf(key, edit=stripped)
    assert real.extensions.get_extension_for_oid(drop)
    assert refusal(box, spelled(box.forge(key=key, certificate=leaf))) == "bundle.sct"


def test_a_certificate_by_another_ca_of_the_same_name_is_refused(box, other):
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = other.leaf(key, ct_key=box.instance.authority.ct_key)
    assert refusal(box, spelled(box.forge(key=key, certificate=leaf))) == "bundle.certificate"


def test_a_log_entry_about_another_signature_is_refused(box, bundle):
    swapped = edited(bundle, lambda d: material(d).update(tlogEntries=[entry(json.loads(box.sign()))]))
    assert refusal(box, swapped) == "bundle.log-entry"


def test_a_leaf_with_a_key_of_another_kind_is_refused_and_not_a_crash(box):
    """sigstore-python 4.5.1 raises a bare TypeError here."""
    key = ed25519.Ed25519PrivateKey.generate()
    leaf = box.leaf(key)
    sig = key.sign(dsse.pae(intoto.PAYLOAD_TYPE, PAYLOAD))
    signatures = (dsse.Signature(sig=sig),)
    made = dsse.Envelope(payload=PAYLOAD, payload_type=intoto.PAYLOAD_TYPE, signatures=signatures)
    spec = {
        "envelopeHash": {"algorithm": "sha256", "value": "00" * 32},
        "payloadHash": {"algorithm": "sha256", "value": Digest.of(PAYLOAD).hex},
        "signatures": [{"signature": b64(sig), "verifier": b64(leaf.public_bytes(Encoding.PEM))}],
    }
    document = bundle_of(box.log("dsse", "0.0.1", spec), {"dsseEnvelope": dsse.to_json(made)}, leaf)
    assert refusal(box, spelled(document)) == "bundle.refused"


@pytest.mark.parametrize(
    "error", [TypeError("odd"), ValueError("odd"), RecursionError("odd"), BaseException("panic")]
)
def test_whatever_the_library_raises_is_a_refusal(box, bundle, monkeypatch, error):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(library, "verify_dsse", fail)
    assert refusal(box, bundle) == "bundle.refused"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, MemoryError])
def test_but_stopping_is_stopping(box, bundle, monkeypatch, stop):
    def fail(*_: object) -> None:
        raise stop

    monkeypatch.setattr(library, "verify_dsse", fail)
    with pytest.raises(stop):
        box.verify(bundle)


def test_a_library_that_answers_for_another_payload_is_not_believed(box, bundle, monkeypatch):
    monkeypatch.setattr(library, "verify_dsse", lambda *_: (intoto.PAYLOAD_TYPE, b"{}"))
    assert refusal(box, bundle) == "bundle.signature"


def test_the_librarys_policy_takes_the_compared_certificate_alone(box):
    from sigstore.errors import VerificationError

    mine, another = (box.leaf(ec.generate_private_key(ec.SECP256R1())) for _ in range(2))
    library.Exactly(mine).verify(mine)
    with pytest.raises(VerificationError):
        library.Exactly(mine).verify(another)


# Any bundle, about a file


def test_a_statement_has_to_name_the_file(box, bundle):
    verifier = Verifier(box.root)
    found = verifier.artifact(bundle, artifact=ARTIFACT, signer=BUILDER, now=NOW)
    assert (found.signer, found.predicate_type, found.log_checked) == (BUILDER, PREDICATE, True)
    with pytest.raises(NotGenuine) as caught:
        verifier.artifact(bundle, artifact=Artifact(sha256=Digest.of(b"x")), signer=BUILDER, now=NOW)
    assert caught.value.code == "bundle.subject"


def test_a_foreign_spelling_does_for_any_bundle(box, bundle):
    spaced = json.dumps(json.loads(bundle), indent=2).encode()
    Verifier(box.root).artifact(spaced, artifact=ARTIFACT, signer=BUILDER, now=NOW)


def test_a_file_signature_holds_for_its_file(box, tmp_path):
    from sigstore.models import TrustedRoot
    from sigstore.sign import SigningContext

    from tallystick.signing import people
    from tallystick.signing import sigstore as ours

    person = people.load(box.workdir, "ci-builder")
    context = SigningContext(
        fulcio=ours._Fulcio(box.instance, NOW),
        rekor=ours._Rekor(box.instance, NOW),
        trusted_root=TrustedRoot.from_file(str(box.workdir / "sigstore" / "trusted_root.json")),
    )
    with context.signer(ours._Proof(person.identity, person.key, NOW)) as signer:
        data = signer.sign_artifact(b"the artifact").to_json().encode()
    verifier = Verifier(box.root)
    found = verifier.artifact(data, artifact=ARTIFACT, signer=BUILDER, now=NOW)
    assert found.predicate_type is None
    with pytest.raises(NotGenuine) as caught:
        verifier.artifact(data, artifact=Artifact(sha256=Digest.of(b"x")), signer=BUILDER, now=NOW)
    assert caught.value.code == "bundle.subject"
    with pytest.raises(NotGenuine) as caught:
        box.verify(ours.canonical(data))
    assert caught.value.code == "bundle.payload-type"


def test_the_subject_may_be_named_by_another_digest_when_the_file_is_here(box, tmp_path):
    (tmp_path / "f").write_bytes(b"the artifact")
    about = Artifact(sha256=SUBJECT, path=tmp_path / "f")
    by_sha512 = intoto.make([("f", {"sha512": about.digests()[2].hex})], PREDICATE, {})
    bundle = box.sign(by_sha512)
    verifier = Verifier(box.root)
    verifier.artifact(bundle, artifact=about, signer=BUILDER, now=NOW)
    with pytest.raises(NotGenuine):
        verifier.artifact(bundle, artifact=ARTIFACT, signer=BUILDER, now=NOW)

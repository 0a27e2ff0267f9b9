"""Bundles of a bare key, and of the log entries that sigstore-python does not take: all of it checked by us."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
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
    flipped,
    replaced,
    signed,
    spelled,
)
from signing.stamper import Stamper
from signing.test_windows import PARTS, windowed

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine, TallystickError, Unsupported
from tallystick.formats import dsse, intoto
from tallystick.signing import artifact as artifacts
from tallystick.signing import managed, root
from tallystick.signing.artifact import Artifact
from tallystick.signing.embedded import x509parts
from tallystick.signing.verify import Verifier

STAMPER = Stamper()
KEYS = {
    "P-256": (ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()),
    "P-384": (ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
    "P-521": (ec.generate_private_key(ec.SECP521R1()), hashes.SHA512()),
    "RSA": (rsa.generate_private_key(65537, 2048), hashes.SHA256()),
    "Ed25519": (ed25519.Ed25519PrivateKey.generate(), None),
}


def sign(name: str, data: bytes) -> bytes:
    key, algorithm = KEYS[name]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(algorithm))
    return key.sign(data, padding.PKCS1v15(), algorithm) if algorithm else key.sign(data)


def der(key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def pem(key) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def statement(name: str, *, payload: bytes = PAYLOAD, kind: str = intoto.PAYLOAD_TYPE) -> dict:
    """A DSSE bundle by the managed key, without log entry."""
    signature = dsse.Signature(sig=sign(name, dsse.pae(kind, payload)))
    envelope = dsse.Envelope(payload=payload, payload_type=kind, signatures=(signature,))
    return keyed(name, {"dsseEnvelope": dsse.to_json(envelope)})


def keyed(name: str, content: dict) -> dict:
    document = bundle_of({}, content, None)
    document["verificationMaterial"] |= {
        "tlogEntries": [],
        "publicKey": {"hint": b64(hashlib.sha256(der(KEYS[name][0])).digest())},
    }
    return document


def file_signature(name: str, data: bytes = b"the artifact") -> dict:
    digest = {"algorithm": "SHA2_256", "digest": b64(hashlib.sha256(data).digest())}
    return keyed(name, {"messageSignature": {"messageDigest": digest, "signature": b64(sign(name, data))}})


def logged(box: Box, document: dict, name: str = "P-256", form: str = "dsse") -> dict:
    """The bundle with an entry of ``form`` about it in the box's log."""
    key, content = KEYS[name][0], document.get("dsseEnvelope")
    sig = content["signatures"][0]["sig"] if content else document["messageSignature"]["signature"]
    encoded = b64(pem(key))
    payload = {"algorithm": "sha256", "value": hashlib.sha256(PAYLOAD).hexdigest()}
    over = hashlib.sha256(dsse.pae(intoto.PAYLOAD_TYPE, PAYLOAD)).digest() if content else SUBJECT.value
    verifier = {"keyDetails": "PKIX_ECDSA_P256_SHA_256", "publicKey": {"rawBytes": b64(der(key))}}
    record = {
        "data": {"algorithm": "SHA2_256", "digest": b64(over)},
        "signature": {"content": sig, "verifier": verifier},
    }
    signature = {"publicKey": encoded, "sig": b64(sig.encode())}
    specs = {
        "dsse": ("0.0.1", {"payloadHash": payload, "signatures": [{"signature": sig, "verifier": encoded}]}),
        "intoto": ("0.0.2", {"content": {"envelope": {"signatures": [signature]}, "payloadHash": payload}}),
        "hashedrekord": ("0.0.1", {
            "data": {"hash": {"algorithm": "sha256", "value": over.hex()}},
            "signature": {"content": sig, "publicKey": {"content": encoded}},
        }),
        "hashedrekord2": ("0.0.2", {"hashedRekordV002": record}),
    }  # fmt: skip
    version, spec = specs[form]
    entry = box.log(form.removesuffix("2"), version, spec)
    document["verificationMaterial"]["tlogEntries"] = [entry]
    return document


def verify(
    document: dict, name: str = "P-256", *, about: Artifact = ARTIFACT, box: Box | None = None, **more
):
    trusted = None if box is None else root.parse(more.pop("root", box.root))
    key = pem(KEYS[name][0])
    return managed.verify(spelled(document), key, artifact=about, root=trusted, **({"now": NOW} | more))


def refusal(*arguments, **options) -> str:
    with pytest.raises(NotGenuine) as caught:
        verify(*arguments, **options)
    return caught.value.code


@pytest.mark.parametrize("name", KEYS)
def test_a_statement_by_any_key_that_we_know(name):
    found = verify(statement(name), name)
    assert (found.signer, found.signed_at, found.log_checked) == (None, None, False)
    assert found.predicate_type == PREDICATE


@pytest.mark.parametrize("name", KEYS)
def test_a_files_signature_by_any_key_that_we_know(name, tmp_path):
    (tmp_path / "f").write_bytes(b"the artifact")
    assert verify(file_signature(name), name, about=artifacts.of(str(tmp_path / "f"))).predicate_type is None


@pytest.mark.parametrize("name", ["P-384", "Ed25519"])
def test_a_digest_alone_does_not_do_for_every_key(name):
    with pytest.raises(Unsupported, match="want the file"):
        verify(file_signature(name), name)


@pytest.mark.parametrize("name", KEYS)
def test_another_key_did_not_sign_it(name):
    other = "P-256" if name != "P-256" else "P-384"
    free = statement(name)
    free["verificationMaterial"]["publicKey"] = {"hint": "release key"}  # hints are free text
    assert refusal(free, other) == "bundle.signature"
    assert refusal(statement(name), other) == "bundle.key"  # by its own word


def test_a_hint_may_be_left_out():
    document = statement("P-256")
    document["verificationMaterial"]["publicKey"] = {}
    verify(document)


def test_what_is_signed_is_checked():
    assert refusal(statement("P-256", kind="text/plain")) == "bundle.payload-type"
    assert refusal(statement("P-256"), about=Artifact(sha256=Digest.of(b"x"))) == "bundle.subject"
    assert refusal(file_signature("P-256"), about=Artifact(sha256=Digest.of(b"x"))) == "bundle.subject"
    bare = file_signature("P-256")
    del bare["messageSignature"]["messageDigest"]
    verify(bare)
    assert refusal(bare, about=Artifact(sha256=Digest.of(b"x"))) == "bundle.signature"
    twice = statement("P-256")
    twice["dsseEnvelope"]["signatures"] *= 2
    assert refusal(twice) == "bundle.signature"
    changed = statement("P-256")
    changed["dsseEnvelope"]["payload"] = flipped(changed["dsseEnvelope"]["payload"])
    assert refusal(changed) == "bundle.signature"


def test_a_key_is_not_what_a_certificates_bundle_is_verified_with(box, bundle):
    assert refusal(json.loads(bundle)) == "bundle.key"
    with pytest.raises(NotGenuine) as caught:
        Verifier(box.root).artifact(spelled(statement("P-256")), artifact=ARTIFACT, signer=BUILDER, now=NOW)
    assert caught.value.code == "bundle.key"
    with pytest.raises(NotGenuine) as caught:
        box.verify(spelled(statement("P-256")))
    assert caught.value.code == "bundle.key"


@pytest.mark.parametrize("form", ["dsse", "hashedrekord", "hashedrekord2", "intoto"])
def test_the_log_is_checked_when_there_is_a_root(box, form):
    document = logged(box, statement("P-256"), form=form)
    found = verify(document, box=box)
    assert (found.signed_at, found.log_checked) == (NOW, True)
    assert not verify(document).log_checked


@pytest.mark.parametrize("form", ["hashedrekord", "hashedrekord2"])
def test_a_files_signature_in_the_log(box, form):
    verify(logged(box, file_signature("P-256"), form=form), box=box)


def test_with_a_root_there_has_to_be_an_entry(box):
    assert refusal(statement("P-256"), box=box) == "bundle.log-entry"


@pytest.mark.parametrize("form", ["dsse", "hashedrekord", "hashedrekord2", "intoto"])
def test_an_entry_about_something_else_is_refused(box, form):
    """Of another signature; of another key; of a file where the bundle has a statement."""
    entry = logged(box, statement("P-256"), form=form)["verificationMaterial"]["tlogEntries"]
    document = statement("P-256")
    document["verificationMaterial"]["tlogEntries"] = entry
    for options in ({}, {"box": box}):
        assert refusal(document, **options) == "bundle.log-entry"
    other = statement("P-384")
    other["verificationMaterial"]["tlogEntries"] = entry
    assert refusal(other, "P-384") == "bundle.log-entry"
    file = file_signature("P-256")
    file["verificationMaterial"]["tlogEntries"] = entry
    assert refusal(file) == "bundle.log-entry"


@pytest.mark.parametrize("form", ["dsse", "hashedrekord", "hashedrekord2", "intoto"])
def test_an_entry_that_says_another_key_made_the_signature_is_refused(box, form):
    assert refusal(logged(box, statement("P-256"), name="P-384", form=form)) == "bundle.log-entry"


@pytest.mark.parametrize("spec", [{}, [], {"signatures": []}, {"payloadHash": 1, "signatures": [{}]}])
def test_an_entry_of_another_shape_is_refused(box, spec):
    document = statement("P-256")
    document["verificationMaterial"]["tlogEntries"] = [box.log("dsse", "0.0.1", spec)]
    assert refusal(document) == "bundle.log-entry"


def test_an_entry_of_a_kind_that_we_do_not_know_is_refused(box):
    document = statement("P-256")
    document["verificationMaterial"]["tlogEntries"] = [box.log("rpm", "0.0.1", {})]
    assert refusal(document) == "bundle.log-entry"


def entry_of(document: dict) -> dict:
    return document["verificationMaterial"]["tlogEntries"][0]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda e: e["inclusionProof"].update(rootHash=flipped(e["inclusionProof"]["rootHash"])), "bundle.checkpoint"),
        (lambda e: e["inclusionProof"].update(hashes=[]), "bundle.log-proof"),
        (lambda e: e["inclusionProof"].update(logIndex="0"), "bundle.log-proof"),
        (lambda e: e["inclusionPromise"].update(signedEntryTimestamp=b64(b"x" * 70)), "bundle.set"),
        (lambda e: e.update(integratedTime=str(int(NOW.timestamp()) + 1)), "bundle.set"),
        (lambda e: e.update(logIndex="7"), "bundle.set"),
        (lambda e: e.update(logIndex=str(2**60)), "bundle.set"),
        (lambda e: e["logId"].update(keyId=flipped(e["logId"]["keyId"])), "bundle.log-unknown"),
        (lambda e: e.pop("inclusionProof"), "bundle.log-proof"),
        (lambda e: e.pop("inclusionPromise"), "bundle.timestamp"),
        (lambda e: e.pop("integratedTime"), "bundle.timestamp"),
    ],
)  # fmt: skip
def test_every_part_of_the_log_counts(box, change, code):
    document = logged(box, statement("P-256"))
    change(entry_of(document))
    assert refusal(document, box=box) == code


def test_the_arithmetic_of_the_proof_counts_without_a_root_too(box):
    document = logged(box, statement("P-256"))
    entry_of(document)["inclusionProof"]["hashes"] = []
    assert refusal(document) == "bundle.log-proof"


def test_the_checkpoint_has_to_be_signed(box):
    document = logged(box, statement("P-256"))
    note = entry_of(document)["inclusionProof"]["checkpoint"]
    head, line = note["envelope"].rstrip("\n").rsplit(" ", 1)
    note["envelope"] = f"{head} {flipped(line, 20)}\n"
    assert refusal(document, box=box) == "bundle.checkpoint"


def test_the_logs_window_counts_here_too(box):
    document = logged(box, statement("P-256"))
    closed = windowed(box, "tlogs", start=NOW - 9 * DAY, end=NOW - DAY)
    assert refusal(document, box=box, root=closed) == "bundle.log-window"
    assert refusal(document, box=box, now=NOW - DAY) == "bundle.future"


def test_a_log_with_an_edwards_key(box):
    """Rekor v2 signs so; its promise, if it gave one, would be by that key too."""
    key = ed25519.Ed25519PrivateKey.generate()
    document = logged(box, statement("P-256"))
    trusted = json.loads(box.root)
    trusted["tlogs"][0]["publicKey"] |= {"keyDetails": "PKIX_ED25519", "rawBytes": b64(der(key))}
    proof = entry_of(document)["inclusionProof"]
    text, line = proof["checkpoint"]["envelope"].split("\n\n")
    hint = root.parse(box.root).logs[0].log_id[:4]
    signature = b64(hint + key.sign(f"{text}\n".encode()))
    proof["checkpoint"]["envelope"] = f"{text}\n\n{line.rsplit(' ', 1)[0]} {signature}\n"
    signed_root = json.dumps(trusted).encode()
    assert refusal(document, box=box, root=signed_root) == "bundle.set"
    proof["checkpoint"]["envelope"] = proof["checkpoint"]["envelope"].replace(
        signature, b64(hint + b"x" * 64)
    )
    assert refusal(document, box=box, root=signed_root) == "bundle.checkpoint"


def test_a_promise_without_the_time_that_it_signs(box):
    document = logged(box, statement("P-256"))
    stamp = STAMPER.stamp(base64.b64decode(document["dsseEnvelope"]["signatures"][0]["sig"]))
    document["verificationMaterial"]["timestampVerificationData"] = {
        "rfc3161Timestamps": [{"signedTimestamp": b64(stamp)}]
    }
    trusted = json.dumps(json.loads(box.root) | {"timestampAuthorities": [STAMPER.authority()]}).encode()
    assert verify(document, box=box, root=trusted).signed_at == NOW
    del entry_of(document)["integratedTime"]
    assert refusal(document, box=box, root=trusted) == "bundle.set"


def test_a_log_key_of_a_kind_that_we_do_not_know(box):
    document = logged(box, statement("P-256"))
    trusted = json.loads(box.root)
    trusted["tlogs"][0]["publicKey"]["keyDetails"] = "PKIX_RSA_PKCS1V15_2048_SHA256"
    with pytest.raises(Unsupported, match="log key"):
        verify(document, box=box, root=json.dumps(trusted).encode())
    trusted["tlogs"][0]["publicKey"]["rawBytes"] = "AA=="
    with pytest.raises(Malformed, match="log key"):
        verify(document, box=box, root=json.dumps(trusted).encode())


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"", Malformed),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", Malformed),
        (pem(x25519.X25519PrivateKey.generate()), Unsupported),
        (pem(ec.generate_private_key(ec.SECP256K1())), Unsupported),
        (pem(rsa.generate_private_key(65537, 1024)), Unsupported),  # noqa: S505
    ],
    ids=["nothing", "no key", "X25519", "secp256k1", "RSA 1024"],
)
def test_a_key_of_a_kind_that_we_do_not_know(text, error):
    with pytest.raises(error, match="public key"):
        managed.verify(spelled(statement("P-256")), text, artifact=ARTIFACT, root=None, now=NOW)


# intoto/0.0.2 with a certificate


def legacy(
    box: Box, *, identity=BUILDER, edit=None, kind: str = intoto.PAYLOAD_TYPE, key=None, now=NOW
) -> dict:
    key = key or ec.generate_private_key(ec.SECP256R1())
    leaf = box.leaf(key, identity, edit=edit, now=now)
    envelope = signed(key if isinstance(key, ec.EllipticCurvePrivateKey) else KEYS["P-256"][0], PAYLOAD, kind)
    sig = b64(envelope.signatures[0].sig)
    signature = {"publicKey": b64(leaf.public_bytes(Encoding.PEM)), "sig": b64(sig.encode())}
    payload = {"algorithm": "sha256", "value": hashlib.sha256(PAYLOAD).hexdigest()}
    entry = box.log(
        "intoto", "0.0.2", {"content": {"envelope": {"signatures": [signature]}, "payloadHash": payload}}
    )
    return bundle_of(entry, {"dsseEnvelope": dsse.to_json(envelope)}, leaf)


def judge(box: Box, document: dict, **options):
    verifier = Verifier(options.pop("root", box.root))
    return verifier.artifact(
        spelled(document), **({"artifact": ARTIFACT, "signer": BUILDER, "now": NOW} | options)
    )


def judged(box: Box, document: dict, **options) -> str:
    with pytest.raises(NotGenuine) as caught:
        judge(box, document, **options)
    return caught.value.code


def test_the_old_form_of_entry_is_verified_in_full(box):
    found = judge(box, legacy(box))
    assert (found.signer, found.signed_at, found.predicate_type) == (BUILDER, NOW, PREDICATE)


@pytest.mark.parametrize("part", PARTS)
def test_the_old_form_keeps_to_the_windows(box, part):
    closed = windowed(box, part, start=NOW - 9 * DAY, end=NOW - DAY)
    assert judged(box, legacy(box), root=closed) == PARTS[part]


def test_the_old_form_is_checked_as_the_new_one_is(box, tmp_path):
    other = Box.make(tmp_path)
    assert judged(box, legacy(box, identity=ALICE)) == "bundle.identity"
    assert judged(box, legacy(box, kind="text/plain")) == "bundle.payload-type"
    assert judged(box, legacy(box), artifact=Artifact(sha256=Digest.of(b"x"))) == "bundle.subject"
    assert judged(box, legacy(box), now=NOW - DAY) == "bundle.future"
    foreign = json.dumps(json.loads(box.root) | {"ctlogs": json.loads(other.root)["ctlogs"]}).encode()
    assert judged(box, legacy(box), root=foreign) == "bundle.ct-unknown"
    stranger = json.loads(box.root)
    stranger["ctlogs"][0]["publicKey"]["rawBytes"] = json.loads(other.root)["ctlogs"][0]["publicKey"][
        "rawBytes"
    ]
    assert judged(box, legacy(box), root=json.dumps(stranger).encode()) == "bundle.sct"
    stranger = json.loads(box.root)
    stranger["certificateAuthorities"] = json.loads(other.root)["certificateAuthorities"]
    assert judged(box, legacy(box), root=json.dumps(stranger).encode()) == "bundle.certificate"
    opened = json.loads(box.root)
    for one in (
        opened["tlogs"][0]["publicKey"],
        opened["ctlogs"][0]["publicKey"],
        opened["certificateAuthorities"][0],
    ):
        one["validFor"] = {"start": "2020-01-01T00:00:00Z"}
    expired = legacy(box, now=NOW - DAY)
    assert judged(box, expired, root=json.dumps(opened).encode()) == "bundle.certificate"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (
            lambda d: d["dsseEnvelope"].update(payload=flipped(d["dsseEnvelope"]["payload"])),
            "bundle.signature",
        ),
        (
            lambda d: d["dsseEnvelope"].update(signatures=d["dsseEnvelope"]["signatures"] * 2),
            "bundle.signature",
        ),
        (lambda d: entry_of(d).update(logIndex="9"), "bundle.set"),
        (lambda d: entry_of(d)["inclusionProof"].update(hashes=[]), "bundle.log-proof"),
    ],
)
def test_no_part_of_the_old_form_can_be_changed(box, change, code):
    document = legacy(box)
    change(document)
    assert judged(box, document) == code


@pytest.mark.parametrize("value", [x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), None])
def test_the_old_form_needs_a_certificate_for_code(box, value):
    def edit(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
        if value is not None:
            return replaced(builder, value, critical=False)
        usage = x509.ExtendedKeyUsage.oid
        builder._extensions[:] = [one for one in builder._extensions if one.oid != usage]
        return builder

    assert judged(box, legacy(box, edit=edit)) == "bundle.certificate"


def test_the_old_form_needs_exactly_one_sct(box):
    kind = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")

    def twice(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
        for one in builder._extensions:
            if one.oid == kind:  # an OCTET STRING of a list of sized SCTs: RFC 6962, section 3.3
                sct = one.value.value[4 + (one.value.value[1] == 0x81) :]
                listed = len(sct * 2).to_bytes(2, "big") + sct * 2
                value = x509parts._der(0x04, listed)
                return replaced(builder, x509.UnrecognizedExtension(kind, value), critical=False)
        return builder

    assert judged(box, legacy(box, edit=twice)) == "bundle.sct"


def test_the_old_form_needs_a_key_that_we_know(box):
    key = ed25519.Ed25519PrivateKey.generate()
    assert judged(box, legacy(box, key=key)) == "bundle.signature"


def test_the_old_form_needs_a_ct_log_key_that_we_know(box):
    trusted = json.loads(box.root)
    edwards = ed25519.Ed25519PrivateKey.generate()
    for raw in (b64(der(edwards)), "AA=="):
        trusted["ctlogs"][0]["publicKey"]["rawBytes"] = raw
        assert judged(box, legacy(box), root=json.dumps(trusted).encode()) == "bundle.sct"


def test_the_old_form_is_of_statements(box):
    document = legacy(box)
    del document["dsseEnvelope"]
    document["messageSignature"] = file_signature("P-256")["messageSignature"]
    assert judged(box, document) == "bundle.signature"


def test_the_old_form_about_another_signature_is_refused(box):
    document, other = legacy(box), legacy(box)
    document["verificationMaterial"]["tlogEntries"] = other["verificationMaterial"]["tlogEntries"]
    assert judged(box, document) == "bundle.log-entry"


def test_the_old_form_with_any_byte_flipped_is_refused(box):
    data = spelled(legacy(box))
    verifier = Verifier(box.root)
    for at in range(0, len(data), 37):
        damaged = bytearray(data)
        damaged[at] ^= 1
        with pytest.raises(TallystickError):
            verifier.artifact(bytes(damaged), artifact=ARTIFACT, signer=BUILDER, now=NOW)

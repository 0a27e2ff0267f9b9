"""Signatures of models by each method: model-signing reads ours, we read model-signing's; and what is no signature."""

from __future__ import annotations

import base64
import datetime as dt
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from model_signing import hashing, signing, verifying
from signing.boxes import NOW, edited, spelled
from signing.test_signing_cli import refused, tally

from tallystick.core.errors import NotGenuine, Unsupported
from tallystick.formats import oms
from tallystick.formats.oms import HashType, Method, Serialization
from tallystick.measure import model as models
from tallystick.signing import keyfile
from tallystick.signing import model as signatures

FILES = {"weights.safetensors": b"w" * 2500, "tokenizer.json": b"{}", "sub/notes.txt": b"x", "empty": b""}
CURVES = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())


@pytest.fixture
def net(tmp_path):
    folder = tmp_path / "net"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def pem(key, folder):
    """Write both halves of ``key`` and return their paths."""
    private, public = folder / "key.pem", folder / "key.pub"
    keyfile.write(private, key)
    public.write_text(keyfile.public_pem(key))
    return private, public


def statement(net, serialization=None):
    return models.read(net, serialization or Serialization()).manifest.statement()


def theirs(serialization: Serialization) -> hashing.Config:
    made = hashing.Config()
    label = serialization.hash_type.label.replace("blake2b", "blake2")  # as its options spell it
    if serialization.method is Method.SHARDS:
        return made.use_shard_serialization(hashing_algorithm=label, shard_size=serialization.shard_bytes)
    return made.use_file_serialization(hashing_algorithm=label)


def certificate(
    key, name, issuer_key, issuer, *, ca=False, usage=True, purpose=None, days=(-1, 30), path=None
):
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer)]
    begin, end = (NOW + dt.timedelta(days=n) for n in days)
    made = x509.CertificateBuilder(names[1], names[0], key.public_key(), 7, begin, end)
    made = made.add_extension(x509.BasicConstraints(ca=ca, path_length=path if ca else None), critical=True)
    if usage is not None:
        flags = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign",
             "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        flags |= {"digital_signature": usage and not ca, "key_cert_sign": ca or not usage}
        made = made.add_extension(x509.KeyUsage(**flags), critical=True)
    if purpose is not None:
        made = made.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return made.sign(issuer_key, hashes.SHA256())


KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
LEAF, MIDDLE, ROOT = KEYS


def chain(**leaf):
    return (
        certificate(LEAF, "signer", MIDDLE, "middle", **leaf),
        certificate(MIDDLE, "middle", ROOT, "root", ca=True),
        certificate(ROOT, "root", ROOT, "root", ca=True),
    )


def pem_of(*certificates):
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def certified(net, *certificates):
    """A bundle of the method `certificate` over the model."""
    document = json.loads(signatures.with_key(statement(net), LEAF))
    ders = (one.public_bytes(serialization.Encoding.DER) for one in certificates)
    listed = [{"rawBytes": base64.b64encode(der).decode()} for der in ders]
    document["verificationMaterial"] = {"x509CertificateChain": {"certificates": listed}, "tlogEntries": []}
    return spelled(document)


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_model_signing_verifies_what_a_key_of_ours_signed(net, tmp_path, curve):
    private, public = pem(ec.generate_private_key(curve), tmp_path)
    signature = tmp_path / "model.sig"
    signature.write_bytes(signatures.with_key(statement(net), keyfile.read(private)))
    config = verifying.Config().use_elliptic_key_verifier(public_key=public)
    config.verify(net, signature)
    (net / "tokenizer.json").write_bytes(b"[]")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        config.verify(net, signature)


# model-signing makes no shards with BLAKE3: it hashes whole files then, and says so in the manifest
MADE = [
    Serialization(hash_type=kind, method=method, shard_bytes=1000 if method is Method.SHARDS else 0)
    for kind in HashType
    for method in Method
    if (kind, method) != (HashType.BLAKE3, Method.SHARDS)
]


@pytest.mark.parametrize("made", MADE, ids=lambda made: f"{made.hash_type.label}-{made.method.value}")
def test_both_programs_make_the_same_manifest(net, tmp_path, made):
    """Every hash of the registry, whole files and shards; and each verifies the other's signature.

    Of shards model-signing 1.1.1 reads its own alone: it puts their size into the name of the hash, which the
    specification does not.
    """
    private, public = pem(LEAF, tmp_path)
    signature = tmp_path / "theirs.sig"
    config = signing.Config().use_elliptic_key_signer(private_key=private).set_hashing_config(theirs(made))
    config.sign(net, signature)
    found = signatures.by_key(signature.read_bytes(), public.read_bytes(), NOW, "theirs").manifest
    ours = models.read(net, made).manifest
    assert (found.resources, found.root) == (ours.resources, ours.root)
    models.check(models.read(net, found.serialization), found)
    signature.write_bytes(signatures.with_key(ours.statement(), LEAF))
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=public)
    if made.method is Method.FILES:
        verifier.set_hashing_config(theirs(made)).verify(net, signature)
    else:
        with pytest.raises(ValueError, match="-sharded-1000"):
            verifier.set_hashing_config(theirs(made)).verify(net, signature)


def test_model_signing_verifies_what_our_sigstore_signed(net, tmp_path, box):
    signature, config = tmp_path / "model.sig", tmp_path / "trust.json"
    signature.write_bytes(box.sign(statement(net), "alice"))
    config.write_bytes((box.workdir / "sigstore/client_trust_config.json").read_bytes())
    options = {"identity": "alice@example.org", "trust_config": config}
    right = verifying.Config().use_sigstore_verifier(
        oidc_issuer="https://tallystick.local/embedded-dev", **options
    )
    right.verify(net, signature)
    other = verifying.Config().use_sigstore_verifier(oidc_issuer="https://other.example", **options)
    with pytest.raises(Exception, match=r"other\.example"):
        other.verify(net, signature)


def test_a_sigstore_signature_is_of_exactly_one_identity(net, box):
    from signing.boxes import ALICE, BUILDER

    bundle = box.sign(statement(net), "alice")
    found = signatures.by_sigstore(bundle, box.root, ALICE, NOW, "model.sig")
    assert (found.method, found.signer) == ("sigstore", ALICE)
    with pytest.raises(NotGenuine) as caught:
        signatures.by_sigstore(bundle, box.root, BUILDER, NOW, "model.sig")
    assert caught.value.code == "bundle.identity"


def test_a_certificate_chain_is_verified_as_model_signing_signs_it(net, tmp_path):
    private, _ = pem(LEAF, tmp_path)
    leaf, middle, root = chain()
    (tmp_path / "leaf.pem").write_bytes(pem_of(leaf))
    (tmp_path / "chain.pem").write_bytes(pem_of(middle))
    config = signing.Config().use_certificate_signer(
        private_key=private,
        signing_certificate=tmp_path / "leaf.pem",
        certificate_chain=[tmp_path / "chain.pem"],
    )
    config.sign(net, tmp_path / "model.sig")
    found = signatures.by_certificate((tmp_path / "model.sig").read_bytes(), pem_of(root), NOW, "model.sig")
    assert (found.method, found.subject) == ("certificate", "CN=signer")
    models.check(models.read(net, found.manifest.serialization), found.manifest)


@pytest.mark.parametrize(
    ("leaf", "words"),
    [
        (
            {"days": (-30, -1)},
            "validity of CN=signer",
        ),  # model-signing 1.1.1 takes an expired one (its issue 663)
        ({"days": (1, 30)}, "validity of CN=signer"),
        ({"usage": False}, "key usage: want digitalSignature, got another use"),
        ({"usage": None}, "key usage: want digitalSignature, got none said"),
        ({"purpose": ExtendedKeyUsageOID.SERVER_AUTH}, "want codeSigning"),
    ],
)
def test_a_certificate_that_is_not_for_signing_now_is_refused(net, leaf, words):
    made = chain(**leaf)
    with pytest.raises(NotGenuine, match=words) as caught:
        signatures.by_certificate(certified(net, *made[:2]), pem_of(made[2]), NOW, "m")
    assert caught.value.code == "bundle.certificate"


def test_a_chain_ends_in_a_given_authority_through_authorities_alone(net):
    leaf, middle, root = chain(purpose=ExtendedKeyUsageOID.CODE_SIGNING)
    stranger = certificate(LEAF, "root", LEAF, "root", ca=True)
    plain = certificate(MIDDLE, "middle", ROOT, "root")  # no authority
    short = certificate(ROOT, "root", ROOT, "root", ca=True, path=0)
    ended = certificate(ROOT, "root", ROOT, "root", ca=True, days=(-9, -2))
    assert (
        signatures.by_certificate(certified(net, leaf, middle), pem_of(root), NOW, "m").subject == "CN=signer"
    )
    for given, roots, words in (
        ((leaf, middle), stranger, "want one that ends in a given authority, got CN=root"),
        ((leaf,), root, "got CN=middle"),
        ((leaf, plain), root, "certificate 1: want the issuer of the one before it"),
        ((leaf, root), root, "certificate 1: want the issuer of the one before it"),
        ((leaf, middle), short, "want one that ends in a given authority"),
        ((leaf, middle), ended, "validity of CN=root"),
        ((leaf, *[middle] * 8), root, "chain: want at most 8, got 9"),
    ):
        with pytest.raises(NotGenuine, match=words):
            signatures.by_certificate(certified(net, *given), pem_of(roots), NOW, "m")


def test_a_certificate_signs_what_it_signed(net):
    leaf, middle, root = chain()
    bundle = edited(certified(net, leaf, middle), swap_payload)
    with pytest.raises(NotGenuine) as caught:
        signatures.by_certificate(bundle, pem_of(root), NOW, "m")
    assert caught.value.code == "bundle.signature"
    with pytest.raises(NotGenuine, match="another signing method"):
        signatures.by_certificate(signatures.with_key(statement(net), LEAF), pem_of(root), NOW, "m")


def swap_payload(document):
    """Put another, well-formed manifest into the envelope."""
    other = oms.make("net", Serialization(), {"a": "0" * 64})

    document["dsseEnvelope"]["payload"] = base64.b64encode(other.statement()).decode()


def test_a_key_signs_what_it_signed_and_says_which_it_is(net):
    bundle, public = signatures.with_key(statement(net), LEAF), keyfile.public_pem(LEAF).encode()
    for change, code in (
        (swap_payload, "bundle.signature"),
        (lambda d: d["verificationMaterial"]["publicKey"].update(hint="ab" * 32), "bundle.key"),
    ):
        with pytest.raises(NotGenuine) as caught:
            signatures.by_key(edited(bundle, change), public, NOW, "m")
        assert caught.value.code == code
    with pytest.raises(NotGenuine):
        signatures.by_key(bundle, keyfile.public_pem(ROOT).encode(), NOW, "m")
    old = edited(bundle, lambda d: d["verificationMaterial"]["publicKey"].pop("hint"))
    assert signatures.by_key(old, public, NOW, "m").method == "key"


def test_other_curves_are_no_keys_of_the_format(net):
    with pytest.raises(Unsupported, match="curve: want secp256r1, secp384r1, secp521r1, got secp256k1"):
        signatures.with_key(statement(net), ec.generate_private_key(ec.SECP256K1()))


def test_the_command_signs_and_verifies(net, tmp_path):
    private, public = pem(LEAF, tmp_path)
    code, said = tally("model", "sign", net, "--key", private, "--hash", "blake3")
    assert (code, said["files"], said["hash_type"]) == (0, len(FILES), "blake3")
    code, said = tally("model", "verify", net, "--key", public)
    assert (code, said["genuine"], said["method"], said["signer"]) == (0, True, "key", None)
    assert refused("model", "sign", net, "--key", private) == (2, "sign.already")
    (net / "sub/notes.txt").write_bytes(b"y")
    code, said = tally("model", "verify", net, "--key", public)
    assert (code, [f["where"] for f in said["error"]["findings"]]) == (5, ["sub/notes.txt"])


def test_the_command_asks_who_and_reads_nothing_else(net, tmp_path):
    private, public = pem(LEAF, tmp_path)
    (tmp_path / "garbage").write_bytes(b"\xff\x00{")
    assert refused("model", "sign", net) == (2, "sign.who")
    assert refused("model", "sign", net, "--key", private, "--as", "alice") == (2, "sign.who")
    assert refused("model", "sign", tmp_path / "none", "--key", private)[0] == 2
    assert refused("model", "sign", net, "--key", private, "--hash", "md5")[0] == 4
    assert refused("model", "sign", net, "--key", tmp_path / "garbage")[0] == 2  # readable by others
    assert refused("model", "verify", net, "--key", public)[0] == 2  # no signature there
    assert refused("model", "verify", net) == (2, "verify.options")
    assert refused("model", "verify", net, "--identity", "a")[1] == "verify.options"
    assert refused("model", "verify", net, "--key", public, "--signature", tmp_path / "garbage")[0] == 3
    tally("model", "sign", net, "--key", private)
    assert refused("model", "verify", net, "--key", tmp_path / "garbage")[0] == 3
    assert refused("model", "verify", net, "--certificate-roots", tmp_path / "garbage")[0] in (3, 5)
    roots = ("--trusted-root", tmp_path / "garbage", "--identity", "a", "--issuer", "b")
    assert refused("model", "verify", net, *roots)[0] == 3


def test_one_file_is_signed_beside_itself(net, tmp_path):
    private, public = pem(LEAF, tmp_path)
    assert tally("model", "sign", net / "tokenizer.json", "--key", private)[0] == 0
    assert (net / "tokenizer.json.sig").is_file()
    assert tally("model", "verify", net / "tokenizer.json", "--key", public)[0] == 0

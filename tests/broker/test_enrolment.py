"""Enrolment: which endorsement keys are believed, which keys are attestation keys, and the proof of one TPM."""

import base64
import json
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from broker.world import NOW, World, endorser, trust
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from tallystick.broker.credential import kdf_a, make_credential
from tallystick.broker.endorsement import endorsed_key
from tallystick.broker.enrolling import Enrolments, attestation_key, spent
from tallystick.broker.enrolment_ca import AK_USAGE, authority
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine, TallystickError, Unsupported
from tallystick.formats import tpm
from tallystick.handshake.kbs import Enrolment, EnrolmentChallenge

EK_USAGE = x509.ObjectIdentifier("2.23.133.8.1")
YEAR = timedelta(days=365)
LIFE = timedelta(minutes=1)


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(
    subject, key, issuer, issuer_key, *, ca, usages=(), since=NOW - YEAR, until=NOW + YEAR, path=None
):
    made = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path if ca else None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                key_cert_sign=ca,
                crl_sign=False,
                content_commitment=False,
                key_encipherment=not ca,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if usages:
        made = made.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return made.sign(issuer_key, hashes.SHA256())


def der(found):
    return found.public_bytes(serialization.Encoding.DER)


def spki(key):
    return Digest.of(
        key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


@pytest.fixture(scope="module")
def keys():
    return {who: rsa.generate_private_key(65537, 2048) for who in ("root", "issuer", "ek", "other")}


@pytest.fixture(scope="module")
def makers(keys):
    root = certificate("root", keys["root"], "root", keys["root"], ca=True)
    issuer = certificate("issuer", keys["issuer"], "root", keys["root"], ca=True)
    return endorser(spki(keys["root"]), (der(root), der(issuer)))


def ek_certificate(keys, **changes):
    given = {"usages": [EK_USAGE], "ca": False, "by": "issuer", "key": keys["ek"], **changes}
    by = given.pop("by")
    return der(certificate("ek", given.pop("key"), by, keys[by], **given))


@pytest.mark.parametrize("padded", [b"", b"\0" * 40, b"\xff" * 7])
def test_a_chain_to_the_pinned_key_is_believed(keys, makers, padded):
    found = endorsed_key(ek_certificate(keys) + padded, [makers], now=NOW)
    assert found.key.public_numbers() == keys["ek"].public_key().public_numbers()
    assert (found.label, found.valid_until) == ("software-tpm", (NOW + YEAR))


def test_pinning_the_issuing_authority_is_enough(keys, makers):
    pinned = replace(makers, spki=spki(keys["issuer"]))
    assert endorsed_key(ek_certificate(keys), [pinned], now=NOW).label == "software-tpm"


def test_the_same_names_by_another_key_are_not_believed(keys, makers):
    """swtpm's authorities have the same names everywhere: only the key tells them apart."""
    foreign = der(certificate("ek", keys["ek"], "issuer", keys["other"], ca=False, usages=[EK_USAGE]))
    with pytest.raises(NotGenuine, match="chain to a pinned manufacturer") as caught:
        endorsed_key(foreign, [makers], now=NOW)
    assert caught.value.code == "ek.untrusted"


def test_a_whole_foreign_chain_is_not_believed(keys, makers):
    root = certificate("root", keys["other"], "root", keys["other"], ca=True)
    issuer = certificate("issuer", keys["issuer"], "root", keys["other"], ca=True)
    pinned = replace(makers, certificates=(der(root), der(issuer)))
    with pytest.raises(NotGenuine) as caught:
        endorsed_key(ek_certificate(keys), [pinned], now=NOW)
    assert caught.value.code == "ek.untrusted"


@pytest.mark.parametrize("kind", ["tpm-enrolment", "witness"])
def test_an_endorser_of_another_kind_vouches_for_no_endorsement_key(keys, makers, kind):
    with pytest.raises(NotGenuine, match=r"\(none\)"):
        endorsed_key(ek_certificate(keys), [replace(makers, kind=kind)], now=NOW)


def test_an_issuer_that_is_no_authority_vouches_for_nothing(keys, makers):
    issuer = certificate("issuer", keys["issuer"], "root", keys["root"], ca=False)
    with pytest.raises(NotGenuine, match="chain to a pinned"):
        endorsed_key(
            ek_certificate(keys),
            [replace(makers, certificates=(makers.certificates[0], der(issuer)))],
            now=NOW,
        )


def test_a_path_that_is_too_long_is_refused(keys, makers):
    root = certificate("root", keys["root"], "root", keys["root"], ca=True, path=0)
    with pytest.raises(NotGenuine, match="chain to a pinned"):
        endorsed_key(
            ek_certificate(keys), [replace(makers, certificates=(der(root), makers.certificates[1]))], now=NOW
        )


@pytest.mark.parametrize("now", [NOW - 2 * YEAR, NOW + 2 * YEAR])
def test_a_certificate_counts_while_it_is_valid(keys, makers, now):
    with pytest.raises(NotGenuine) as caught:
        endorsed_key(ek_certificate(keys), [makers], now=now)
    assert caught.value.code == ("ek.expired" if now > NOW else "ek.not-yet-valid")


@pytest.mark.parametrize("usages", [[], [x509.ObjectIdentifier("2.23.133.8.3")]])
def test_a_certificate_for_something_else_is_refused(keys, makers, usages):
    with pytest.raises(NotGenuine, match=r"2\.23\.133\.8\.1 \(EK certificate\)") as caught:
        endorsed_key(ek_certificate(keys, usages=usages), [makers], now=NOW)
    assert caught.value.code == "ek.usage"


def test_other_endorsement_keys_are_unsupported(keys, makers):
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 3072)):
        with pytest.raises(Unsupported, match="want RSA 2048"):
            endorsed_key(ek_certificate(keys, key=key), [makers], now=NOW)


@pytest.mark.parametrize("data", [b"", b"\x30\x82\xff\xff", b"\x30\x82\x00\x04abcd", b"\x02\x82\x00\x00"])
def test_other_bytes_are_no_certificate(makers, data):
    with pytest.raises(Malformed, match="EK certificate"):
        endorsed_key(data, [makers], now=NOW)


def test_something_behind_the_certificate_is_refused(keys, makers):
    with pytest.raises(Malformed, match="bytes and padding"):
        endorsed_key(ek_certificate(keys) + b"\0\1", [makers], now=NOW)


@given(at=st.integers(0, 2000), value=st.integers(0, 255))
def test_any_damaged_certificate_is_refused_by_name(at, value):
    keys = _KEYS
    data = bytearray(_CERTIFICATE)
    data[at % len(data)] = value
    try:
        found = endorsed_key(bytes(data), [_MAKERS], now=NOW)
    except TallystickError:
        return
    assert bytes(data) == _CERTIFICATE, "a changed certificate is never believed"
    assert found.key.public_numbers() == keys["ek"].public_key().public_numbers()


_KEYS = {who: rsa.generate_private_key(65537, 2048) for who in ("root", "issuer", "ek")}
_CERTIFICATE = ek_certificate(_KEYS)
_MAKERS = endorser(
    spki(_KEYS["root"]),
    (
        der(certificate("root", _KEYS["root"], "root", _KEYS["root"], ca=True)),
        der(certificate("issuer", _KEYS["issuer"], "root", _KEYS["root"], ca=True)),
    ),
)


def public_area(
    key, *, attributes=0x00050472, scheme=0x0014, hashed=0x000B, name_algorithm=0x000B, bits=2048
):
    modulus = key.public_key().public_numbers().n.to_bytes(bits // 8, "big")
    area = struct.pack(">HHI", 0x0001, name_algorithm, attributes) + struct.pack(">H", 0)
    area += struct.pack(">H", 0x0010)  # no symmetric algorithm
    area += struct.pack(">H", scheme) + (struct.pack(">H", hashed) if scheme != 0x0010 else b"")
    area += struct.pack(">HI", bits, 0) + struct.pack(">H", len(modulus)) + modulus
    return struct.pack(">H", len(area)) + area


def test_an_attestation_keys_area_is_read(keys):
    found = attestation_key(public_area(keys["other"]))
    assert found.key.public_numbers() == keys["other"].public_key().public_numbers()
    assert found.name == tpm.parse_sized_public(public_area(keys["other"])).name


@pytest.mark.parametrize(
    ("bit", "said"),
    [
        (1, "FIXED_TPM"),
        (4, "FIXED_PARENT"),
        (5, "SENSITIVE_DATA_ORIGIN"),
        (16, "RESTRICTED"),
        (18, "SIGN_ENCRYPT"),
        (17, "DECRYPT"),
        (19, "X509_SIGN"),
        (11, "ENCRYPTED_DUPLICATION"),
    ],
)
def test_each_attribute_counts(keys, bit, said):
    with pytest.raises(NotGenuine, match=said) as caught:
        attestation_key(public_area(keys["other"], attributes=0x00050472 ^ (1 << bit)))
    assert caught.value.code == "ak.attributes"


@pytest.mark.parametrize(
    "change", [{"scheme": 0x0010}, {"scheme": 0x0016}, {"hashed": 0x000C}, {"name_algorithm": 0x000C}]
)
def test_other_schemes_are_unsupported(keys, change):
    with pytest.raises(Unsupported, match="RSA with RSASSA"):
        attestation_key(public_area(keys["other"], **change))


def test_other_key_sizes_are_unsupported():
    key = rsa.generate_private_key(65537, 3072)
    with pytest.raises(Unsupported, match="keyBits: want 2048, got 3072"):
        attestation_key(public_area(key, bits=3072))


def opened(ek, name, blob, encrypted):
    """Open a credential as a TPM would: the other side of Part 1, section 24."""
    import hmac

    from cryptography.hazmat.decrepit.ciphers.modes import CFB
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=b"IDENTITY\0")
    seed = ek.decrypt(encrypted[2:], oaep)
    outer, identity = blob[4:36], blob[36:]
    mac = hmac.digest(kdf_a(seed, b"INTEGRITY", b"", b"", 256), identity + name, "sha256")
    assert hmac.compare_digest(mac, outer), "the TPM refuses: TPM_RC_INTEGRITY"
    decryptor = Cipher(algorithms.AES(kdf_a(seed, b"STORAGE", name, b"", 128)), CFB(bytes(16))).decryptor()
    plain = decryptor.update(identity) + decryptor.finalize()
    return plain[2:]


def test_a_credential_opens_for_its_ek_and_its_name_alone(keys):
    name = b"\x00\x0b" + bytes(32)
    blob, encrypted = make_credential(keys["ek"].public_key(), name, b"s" * 32)
    assert int.from_bytes(blob[:2], "big") == len(blob) - 2
    assert opened(keys["ek"], name, blob, encrypted) == b"s" * 32
    with pytest.raises(AssertionError, match="INTEGRITY"):
        opened(keys["ek"], b"\x00\x0b" + bytes(31) + b"\1", blob, encrypted)
    with pytest.raises(ValueError, match="Decryption failed"):
        opened(keys["other"], name, blob, encrypted)


def test_kdf_a_gives_as_many_bits_as_asked_for():
    assert len(kdf_a(b"k", b"STORAGE", b"u", b"v", 128)) == 16
    assert len(kdf_a(b"k", b"INTEGRITY", b"", b"", 512)) == 64


ENROLMENTS = Enrolments(b"k" * 32, life=LIFE)


def begun(keys):
    """An enrolment that waits, and the secret that the TPM opens."""
    asked = Enrolment(ek_certificate=_CERTIFICATE, ak_public_area=public_area(keys["other"]))
    made = ENROLMENTS.open(asked, [_MAKERS], now=NOW)
    name = attestation_key(asked.ak_public_area).name
    return made, opened(_KEYS["ek"], name, made.credential_blob, made.encrypted_secret)


def test_an_enrolment_is_closed_by_its_secret_in_time(keys):
    made, secret = begun(keys)
    enrolled = Enrolments(b"k" * 32, life=LIFE).close(made.session, secret, now=NOW)
    assert enrolled.key.public_numbers() == keys["other"].public_key().public_numbers()
    assert (enrolled.label, enrolled.ek_certificate) == (_MAKERS.label, Digest.of(_CERTIFICATE))
    with pytest.raises(NotGenuine) as caught:
        ENROLMENTS.close(made.session, b"wrong", now=NOW)
    assert caught.value.code == "enrolment.secret"
    for other, at in ((Enrolments(b"o" * 32, life=LIFE), NOW), (ENROLMENTS, NOW + LIFE)):
        with pytest.raises(NotGenuine, match="no such enrolment, or it has expired") as caught:
            other.close(made.session, secret, now=at)
        assert caught.value.code == "enrolment.unknown"


def test_two_enrolments_of_one_key_have_two_secrets_and_are_spent_apart(keys):
    (one, first), (two, second) = begun(keys), begun(keys)
    assert first != second
    assert spent(one.session) != spent(two.session)
    with pytest.raises(NotGenuine, match="not the one"):
        ENROLMENTS.close(one.session, second, now=NOW)


def test_the_longest_label_leaves_a_session_that_the_messages_take(keys):
    asked = Enrolment(ek_certificate=_CERTIFICATE, ak_public_area=public_area(keys["other"]))
    made = ENROLMENTS.open(asked, [replace(_MAKERS, label="l" * 63)], now=NOW)
    assert len(made.session) == 512
    assert EnrolmentChallenge.parse(json.dumps(made.document()).encode()).session == made.session


@given(st.text() | st.text("abcdefgh-_=", max_size=600))
def test_another_session_is_no_enrolment(session):
    with pytest.raises(NotGenuine, match="no such enrolment"):
        ENROLMENTS.close(session, b"s" * 32, now=NOW)


def test_an_authority_is_made_once_and_issues_short_certificates(tmp_path, keys):
    first = authority(tmp_path, "software-tpm", now=NOW)
    again = authority(tmp_path, "software-tpm", now=NOW)
    assert first.endorser() == again.endorser()
    assert (tmp_path / "software-tpm.pem").stat().st_mode & 0o077 == 0
    made = first.certify(keys["other"].public_key(), now=NOW, life=LIFE)
    made.verify_directly_issued_by(first.certificate)
    assert (made.not_valid_before_utc, made.not_valid_after_utc) == (NOW, NOW + LIFE)
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [AK_USAGE]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("label", ["", "../x", "A", "a/b"])
def test_a_label_can_not_leave_its_folder(tmp_path, label):
    with pytest.raises(Malformed, match="endorser: label"):
        authority(tmp_path, label, now=NOW)


def test_an_authoritys_certificate_must_be_of_its_key(tmp_path):
    authority(tmp_path, "a", now=NOW)
    authority(tmp_path, "b", now=NOW)
    (tmp_path / "a.crt").write_bytes((tmp_path / "b.crt").read_bytes())
    with pytest.raises(Malformed, match="of another key"):
        authority(tmp_path, "a", now=NOW)
    (tmp_path / "a.crt").write_bytes(b"nothing")
    with pytest.raises(Malformed, match="a PEM certificate"):
        authority(tmp_path, "a", now=NOW)


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    from tallystick.cli.demo.softtpm import TpmMaker

    made = TpmMaker(tmp_path_factory.mktemp("tpm-ca"))
    made.manufacture(tmp_path_factory.mktemp("tpm"))
    return made


@pytest.fixture(scope="module")
def tpm_state(maker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tpm-one")
    maker.manufacture(folder)
    return folder


@pytest.fixture
def enrolling(tmp_path, maker):
    """A running broker that believes the software TPM's maker, at the machine's own time."""
    from broker.world import Ticking, new_world

    now = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
    world = new_world(tmp_path)
    assert isinstance(world, World)
    world.clock = Ticking(at=max(now, NOW))
    root = x509.load_der_x509_certificate(maker.certificates()[0])
    pinned = Digest.of(
        root.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    world.trusted = trust(world.channel, (endorser(pinned, maker.certificates()),))
    with world.running() as found:
        yield found


def events_of(image):
    """The boot events that leave a TPM with one extended value in each measured register."""
    from tallystick.core.digests import Algorithm
    from tallystick.measure.records import Event

    return [
        Event(register=n, digest=Digest.of(f"{image} {n}".encode(), Algorithm.SHA256), what=f"EV_IPL {n}")
        for n in (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11)
    ]


def test_a_real_tpm_enrols_quotes_and_gets_its_key(enrolling, tpm_state):
    """swtpm, the guest's own client, and the broker: nothing between them is made up."""
    import hashlib

    from broker.world import CANARY, INIT_DATA, WEIGHTS, form, listed
    from broker.world import release as a_release

    from tallystick.attester.client import KbsClient, enrolled
    from tallystick.cli.demo.replay import replayed
    from tallystick.core.expect import Exactly
    from tallystick.handshake import initdata

    values = {
        f"pcr{event.register:02}": hashlib.sha256(bytes(32) + event.digest.value).hexdigest()
        for event in events_of("a")
        if event.register != 10
    }
    values |= {f"pcr{n:02}": "0" * 64 for n in (12, 13, 14, 15)}
    values["pcr08"] = initdata.pcr8(INIT_DATA.encode()).hex()
    made = a_release("swtpm")
    expect = {**dict(made.tuples[0].expect), **{name: Exactly(value) for name, value in values.items()}}
    entry = replace(made.tuples[0], expect=tuple(sorted(expect.items())))
    made = replace(made, tuples=(entry,))
    world, at = enrolling.world, enrolling.world.clock.at
    world.channel.change("alice", ["bob", "carol"], [listed(made)], role="releases", now=at)
    from broker.world import compiled

    world.channel.change("alice", ["bob", "carol"], [compiled(form(made))], now=at)
    with replayed(tpm_state, events_of("a")) as machine:
        machine.tpm.extend(initdata.PCR, initdata.digest(INIT_DATA.encode()))
        client = KbsClient(enrolling.url)
        with enrolled(client, machine.tpm, event_log=machine.event_log) as prove:
            token = client.attest(prove, init_data=INIT_DATA)
            assert token.count(".") == 2
            assert client.fetch(WEIGHTS) == CANARY
    kinds = [leaf["kind"] for leaf in world.leaves()]
    assert kinds == ["enrolment", "policy", "attestation", "release"]
    assert world.leaves()[0]["label"] == "software-tpm"


def test_a_tpm_of_another_maker_does_not_enrol(enrolling, tmp_path_factory):
    from tallystick.attester.client import KbsClient, enrolled
    from tallystick.cli.demo.replay import replayed
    from tallystick.cli.demo.softtpm import TpmMaker

    state = tmp_path_factory.mktemp("foreign")
    TpmMaker(tmp_path_factory.mktemp("foreign-ca")).manufacture(state)
    with replayed(state, events_of("a")) as machine:
        client = KbsClient(enrolling.url)

        def enrol():
            with enrolled(client, machine.tpm, event_log=machine.event_log):
                pass

        with pytest.raises(NotGenuine, match="pinned manufacturer") as caught:
            enrol()
    assert caught.value.code == "ek.untrusted"
    (leaf,) = enrolling.world.leaves()
    assert (leaf["kind"], leaf["stage"], leaf["codes"]) == ("refusal", "enrol", ["ek.untrusted"])


def test_a_wrong_secret_is_refused_and_logged(enrolling, tpm_state):
    from tallystick.attester.tpm import open_tpm
    from tallystick.cli.demo.softtpm import emulator
    from tallystick.handshake import kbs, tpmwire

    with emulator(tpm_state) as socket:
        tpm_ = open_tpm(str(socket))
        tpm_.startup()
        certificate_ = tpm_.read_nv(tpmwire.EK_CERTIFICATE_INDEX)
        ek, _ = tpm_.endorsement_key()
        with tpm_.attestation_key(ek) as ak:
            asked = kbs.Enrolment(ek_certificate=certificate_, ak_public_area=tpmwire.sized(ak.area))
            reply = enrolling.ask("POST", kbs.ENROL_PATH, asked.document())
        tpm_.shutdown()
        tpm_.close()
    session = str(reply.json["session"])
    wrong = kbs.Activation(session=session, secret=bytes(32)).document()
    answers = [enrolling.ask("POST", kbs.ACTIVATE_PATH, wrong) for _ in range(2)]
    assert [(a.status, a.code) for a in answers] == [(401, "enrolment.secret")] * 2
    key = enrolling.world.home.session_key.read_bytes()
    right = Enrolments(key, life=LIFE)._secret(
        base64.urlsafe_b64decode(session + "=" * (-len(session) % 4))[16:]
    )
    late = enrolling.ask("POST", kbs.ACTIVATE_PATH, kbs.Activation(session=session, secret=right).document())
    assert (late.status, late.code) == (401, "nonce.used"), "the one attempt is over"
    assert [leaf["stage"] for leaf in enrolling.world.leaves()] == ["activate"] * 3

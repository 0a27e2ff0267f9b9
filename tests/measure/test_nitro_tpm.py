"""PCR 4, 7 and 12 of a UKI on a disk: the rules written out again, real event logs, and what is refused."""

from __future__ import annotations

import datetime
import hashlib
import json
import struct
import uuid
from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from hypothesis import given
from hypothesis import strategies as st
from support_corpus import corpus
from support_pe import MAGIC, kernel, pe, uki

from tallystick.cli.app import _run
from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Misuse, Unsupported
from tallystick.formats import esl, eventlog
from tallystick.formats import pe as pe_format
from tallystick.formats import uki as uki_format
from tallystick.measure import nitro_tpm
from tallystick.measure.nitro_tpm import SecureBoot
from tallystick.measure.registers import replay

OWNER = uuid.UUID("77fa9abd-0359-4d32-bd60-28f4e78f784b")


def certificate() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "signer")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    return made.not_valid_after(datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)).sign(
        key, hashes.SHA256()
    ), key


SIGNER, KEY = certificate()
OTHER, _ = certificate()


def der(one: x509.Certificate) -> bytes:
    return one.public_bytes(Encoding.DER)


def signature_list(*data: bytes, kind: uuid.UUID = esl.X509, header: bytes = b"") -> bytes:
    """Return EFI_SIGNATURE_LISTs, one for each entry, as sbsiglist makes them."""
    return b"".join(
        kind.bytes_le
        + struct.pack("<III", 28 + len(header) + 16 + len(one), len(header), 16 + len(one))
        + header
        + OWNER.bytes_le
        + one
        for one in data
    )


def signed(*, kind: int = 2, data: bytes | None = None) -> bytes:
    """Return a UKI with a certificate table; its signature is over something else, which is not asked here."""
    options = [pkcs7.PKCS7Options.Binary]
    builder = pkcs7.PKCS7SignatureBuilder().set_data(b"x").add_signer(SIGNER, KEY, hashes.SHA256())
    body = builder.sign(Encoding.DER, options) if data is None else data
    table = struct.pack("<IHH", 8 + len(body), 0x200, kind) + body
    sections = [
        (".text", b"stub"),
        (".sdmagic", MAGIC % b"252.39"),
        (".cmdline", b"quiet"),
        (".linux", kernel()),
    ]
    return pe(sections, certificate=table + bytes(-len(table) % 8))


DB = signature_list(der(OTHER), der(SIGNER))
ON = SecureBoot(pk=signature_list(der(OTHER)), kek=signature_list(der(OTHER)), db=DB)


def registers(image: bytes, variables: SecureBoot, algorithm: Algorithm = Algorithm.SHA384) -> dict[int, str]:
    events = nitro_tpm.events(uki_format.parse(image), variables, algorithm)
    return {number: value.hex for number, value in replay(events, algorithm=algorithm).items()}


def chain(name: str, *data: bytes) -> str:
    value = bytes(hashlib.new(name).digest_size)
    for one in data:
        value = hashlib.new(name, value + one).digest()
    return value.hex()


def variable(vendor: str, name: str, data: bytes) -> bytes:
    """UEFI_VARIABLE_DATA, written out a second time."""
    text = name.encode("utf-16-le")
    return (
        uuid.UUID(vendor).bytes_le
        + len(name).to_bytes(8, "little")
        + len(data).to_bytes(8, "little")
        + text
        + data
    )


def pcr7(name: str, variables: SecureBoot, *authority: bytes) -> str:
    known, database = "8be4df61-93ca-11d2-aa0d-00e098032b8c", "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
    state = b"\1" if variables.pk else b"\0"
    parts = [
        variable(known, "SecureBoot", state),
        variable(known, "PK", variables.pk),
        variable(known, "KEK", variables.kek),
        variable(database, "db", variables.db),
        variable(database, "dbx", variables.dbx),
        bytes(4),
        *(variable(database, "db", one) for one in authority),
    ]
    return chain(name, *(hashlib.new(name, part).digest() for part in parts))


@pytest.mark.parametrize("algorithm", [Algorithm.SHA256, Algorithm.SHA384])
def test_without_secure_boot_both_images_are_in_pcr_4(algorithm):
    image = uki()
    found, name = registers(image, SecureBoot(), algorithm), algorithm.label
    whole = pe_format.authenticode(pe_format.parse(image), algorithm).value
    inner = pe_format.authenticode(pe_format.parse(kernel()), algorithm).value
    action = hashlib.new(name, b"Calling EFI Application from Boot Option").digest()
    assert found[4] == chain(name, action, hashlib.new(name, bytes(4)).digest(), whole, inner)
    assert found[7] == pcr7(name, SecureBoot())
    assert found[12] == "0" * 2 * algorithm.size_bytes


def test_with_secure_boot_the_inner_kernel_is_not_measured_and_the_signer_is():
    image = signed()
    found = registers(image, ON)
    whole = pe_format.authenticode(pe_format.parse(image), Algorithm.SHA384).value
    action = hashlib.sha384(b"Calling EFI Application from Boot Option").digest()
    assert found[4] == chain("sha384", action, hashlib.sha384(bytes(4)).digest(), whole)
    assert found[7] == pcr7("sha384", ON, OWNER.bytes_le + der(SIGNER))


def test_every_variable_is_in_pcr_7():
    image = signed()
    values = {registers(image, ON)[7]}
    for name in ("pk", "kek", "dbx"):
        changed = {"pk": ON.pk, "kek": ON.kek, "db": ON.db, "dbx": ON.dbx}
        changed[name] += signature_list(b"\1" * 32, kind=uuid.uuid4())
        values.add(registers(image, SecureBoot(**changed))[7])
    assert len(values) == 4


@pytest.mark.parametrize(
    ("image", "variables", "error", "message"),
    [
        (uki(), ON, Unsupported, "want a signature by a certificate of db, .* got no signature"),
        (signed(), SecureBoot(pk=ON.pk, db=signature_list(der(OTHER))), Unsupported, "got none"),
        (signed(), SecureBoot(pk=ON.pk, db=signature_list(der(SIGNER), kind=OWNER)), Unsupported, "got none"),
        (signed(kind=1), ON, Unsupported, "got none"),
        (signed(data=b"\x30\x03\x02\x01\x05"), ON, Malformed, "want PKCS #7 SignedData"),
    ],
)
def test_images_that_this_machine_would_not_start_are_refused(image, variables, error, message):
    with pytest.raises(error, match=message):
        registers(image, variables)


def test_a_certificate_table_that_lies_is_malformed():
    image = bytearray(signed())
    size = pe_format.parse(bytes(image)).certificates_size
    struct.pack_into("<I", image, len(image) - size, size + 8)
    with pytest.raises(Malformed, match="dwLength at 0"):
        registers(bytes(image), ON)


def test_other_variables_without_a_platform_key_are_misuse():
    with pytest.raises(Misuse, match="go with a PK"):
        SecureBoot(db=DB)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DB[:-1], "SignatureData"),
        (b"x", "SignatureType"),
        (DB[:16] + struct.pack("<III", 28, 0, 16) + DB[28:], "SignatureListSize"),
        (DB[:16] + struct.pack("<III", 20, 0, 40) + DB[28:], "SignatureListSize"),
        (DB[:16] + struct.pack("<III", 29, 0, 40) + DB[28:], "SignatureListSize"),
        (DB[:16] + struct.pack("<III", 29, 0, 40), "SignatureListSize"),  # one byte that is no entry
        (bytes(esl.MAX_BYTES + 1), "size: want at most"),
    ],
)
def test_signature_lists_are_read_strictly(data, message):
    with pytest.raises(Malformed, match=message):
        esl.parse(data)
    with pytest.raises(Malformed, match="variable pk"):
        SecureBoot(pk=data)


def test_a_list_may_hold_several_entries_and_a_header():
    two = (
        esl.X509.bytes_le
        + struct.pack("<III", 28 + 4 + 2 * 20, 4, 20)
        + b"head"
        + (OWNER.bytes_le + b"abcd") * 2
    )
    assert [one.data for one in esl.parse(two)] == [b"abcd", b"abcd"]
    assert esl.parse(two)[0].measured == OWNER.bytes_le + b"abcd"


@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda tail: DB[:40] + tail))
def test_bytes_are_lists_or_an_error_of_ours(data):
    with suppress(Malformed):
        esl.parse(data)


def test_the_command(tmp_path, capsys):
    (tmp_path / "uki.efi").write_bytes(signed())
    for name in ("pk", "kek", "db"):
        (tmp_path / name).write_bytes(getattr(ON, name))
    options = [part for name in ("pk", "kek", "db") for part in (f"--{name}", str(tmp_path / name))]
    command = ["measure", "nitro-tpm", str(tmp_path / "uki.efi"), *options, "--explain", "--json"]
    assert _run(command) == 0
    said = json.loads(capsys.readouterr().out)
    found = registers(signed_again(tmp_path), ON)
    assert {said[f"pcr{number}"] for number in (4, 7, 12)} == {found[number] for number in (4, 7, 12)}
    assert said["steps"][-1]["value"] == said["pcr7"]
    assert (
        _run(["measure", "nitro-tpm", str(tmp_path / "uki.efi"), "--db", str(tmp_path / "db"), "--json"]) == 2
    )
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "measure.no-pk"
    (tmp_path / "db").write_bytes(b"garbage")
    assert _run([*command]) == 3


def signed_again(folder) -> bytes:
    return (folder / "uki.efi").read_bytes()


@pytest.mark.corpus
def test_real_machines_measured_their_variables_like_this():
    """Every variable before the separator, and the authorities out of db, in logs of Google's firmware and others."""
    expected = json.loads(corpus("evidence/tpm/gce/expected_pcrs.json").read_text())
    checked = authorities = 0
    for case in expected.values():
        log = eventlog.parse(corpus(f"evidence/tpm/gce/{case['eventlog']}").read_bytes())
        if "sha256" not in log.banks:
            continue
        found: dict[str, bytes] = {}
        for event in (one for one in log.events if one.register == 7):
            if event.kind == 4:
                continue
            vendor = uuid.UUID(bytes_le=event.data[:16])
            letters, size = struct.unpack_from("<QQ", event.data, 16)
            name = event.data[32 : 32 + 2 * letters].decode("utf-16-le")
            data = event.data[32 + 2 * letters :][:size]
            if event.kind == 0x80000001 and name in ("SecureBoot", "PK", "KEK", "db", "dbx"):
                found[name] = data
                want = Digest.of(nitro_tpm.variable_data(vendor, name, data))
                assert event.digest("sha256") == want.value, case["eventlog"]
                checked += 1
            elif event.kind == 0x800000E0 and name == "db":
                assert any(one.measured == data for one in esl.parse(found["db"])), case["eventlog"]
                authorities += 1
        for name in ("PK", "KEK", "db", "dbx"):
            esl.parse(found.get(name, b""))
    assert checked >= 30
    assert authorities >= 3

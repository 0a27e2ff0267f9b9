"""Every step of a measurement, as ``tally measure … --explain`` prints it: the last one is the calculator's value."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from support_guest import AMDSEV, INTELTDX, enclave, guest

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import eif, ovmf
from tallystick.measure import cca, sgx, snp, snp_id, steps, tdx
from tallystick.measure.records import Event

ROOT = Path(__file__).resolve().parents[2]
SHAPE = snp.SnpShape(vcpus=3, vcpu_signature=snp.vcpu_signature("EPYC-v4"), guest_features=1)
LD = Digest.of(b"launch", Algorithm.SHA384)


def tally(*arguments: object) -> tuple[int, dict, str]:
    command = [sys.executable, "-m", "tallystick.cli", "measure", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "pipeline")}
    told = subprocess.run(command, capture_output=True, env=environment, check=False, text=True)
    done = subprocess.run([*command, "--json"], capture_output=True, env=environment, check=False)
    return done.returncode, json.loads(done.stdout), told.stdout


def test_snp_steps_cover_every_page_and_end_in_the_digest():
    hashes = snp.KernelHashes.of(b"kernel", b"initrd", "quiet")
    firmware = ovmf.parse(AMDSEV)
    digest, told = snp.explain(firmware, SHAPE, hashes)
    made = steps.of_snp(told)
    assert digest == snp.launch_digest(snp.launch_image(firmware), SHAPE, hashes)
    assert made[-1].value == digest.hex
    pages = len(AMDSEV) // 4096 + sum(one.size_bytes // 4096 for one in firmware.sev_ranges()) + SHAPE.vcpus
    assert sum(one.count or 0 for one in made) == pages
    assert [one.where for one in made[1:-3]] == [f"{one.gpa:#x}" for one in firmware.sev_ranges()]


def test_mrtd_steps_name_every_section_and_what_is_measured_of_it():
    firmware = ovmf.parse(INTELTDX)
    made = steps.of_mrtd(firmware)
    assert [one.where for one in made] == [f"{one.gpa:#x}" for one in firmware.tdx_sections()]
    extended = [one for one in firmware.tdx_sections() if one.extended]
    assert [bool(one.digest) for one in made] == [one.extended for one in firmware.tdx_sections()]
    want = hashlib.sha384(INTELTDX[extended[0].data_offset :][: extended[0].raw_bytes]).hexdigest()
    assert made[0].digest == want


def test_events_carry_the_register_after_each():
    events = [
        Event(register=number, digest=Digest.of(text, Algorithm.SHA384), what=text.decode())
        for number, text in ((1, b"a"), (2, b"b"), (1, b"c"))
    ]
    made = steps.of_events(events, Algorithm.SHA384, "RTMR")
    assert [one.where for one in made] == ["RTMR1", "RTMR2", "RTMR1"]
    assert made[2].value == tdx.replay([events[0].digest.value, events[2].digest.value]).hex


def test_sgx_steps_are_runs_of_blocks_and_end_in_mrenclave():
    stream = struct.pack("<8sIQ44x", b"ECREATE", 1, 0x4000)
    for page, flags in ((0, 0b11), (0x1000, 0x100), (0x2000, 0b101)):
        stream += struct.pack("<8sQQ40x", b"EADD", page, flags)
        for chunk in range(2):
            stream += struct.pack("<8sQ48x", b"EEXTEND", page + 256 * chunk) + bytes(256)
    made = list(steps.of_sgxs(stream))
    assert [one.what for one in made] == [
        "ECREATE of 0x4000 (blocks)",
        "EADD rw- REG at 0x0 (blocks)",
        "EEXTEND at 0x0 (blocks)",
        "EADD --- TCS at 0x1000 (blocks)",
        "EEXTEND at 0x1000 (blocks)",
        "EADD r-x REG at 0x2000 (blocks)",
        "EEXTEND at 0x2000 (blocks)",
    ]
    assert [one.count for one in made] == [1, 1, 2, 1, 2, 1, 2]
    assert made[-1].value == sgx.mrenclave(stream).hex


def test_enclave_steps_say_which_register_has_which_section():
    made = steps.of_eif(eif.parse(enclave(guest())))
    assert [one.what.partition(" (")[0] for one in made[:-1]] == [
        "kernel: PCR0, PCR1",
        "cmdline: PCR0, PCR1",
        "ramdisk: PCR0, PCR1",
    ]
    assert made[0].digest == hashlib.sha384(b"kernel").hexdigest()


def test_realm_steps_end_in_the_rim():
    realm = cca.RealmParams(s2sz=40, num_bps=2, num_wps=2, hash_algorithm="sha512")
    done = [
        cca.InitRipas(base=0, top=0x2000),
        *cca.populate(0x1000, b"contents"),
        cca.DataCreate(ipa=0x3000, content=bytes(4096), measured=False),
        cca.RecCreate(flags=1, pc=0x1000),
    ]
    made = list(steps.of_realm(realm, done))
    assert [one.what for one in made] == [
        "RMI_REALM_CREATE",
        "RMI_RTT_INIT_RIPAS to 0x2000",
        "RMI_DATA_CREATE",
        "RMI_DATA_CREATE, not measured",
        "RMI_REC_CREATE",
    ]
    assert made[-1].value == cca.rim(realm, done).hex()
    assert made[0].value == cca.rim(realm).hex()


@pytest.mark.parametrize(
    ("command", "value"),
    [
        (["snp", ROOT / "nix/released/ovmf-amdsev.fd", "--vcpu-type", "EPYC-v4"], "measurement"),
        (["tdx", ROOT / "nix/released/ovmf-inteltdx.fd"], "mrtd"),
        (["cca", "--ripas", "0x0:0x2000", "--rec", "1:0x80000000"], "rim"),
    ],
)
def test_the_command_prints_steps_and_keeps_its_value(command, value):
    code, plain, _ = tally(*command)
    explained_code, explained, told = tally(*command, "--explain")
    assert (code, explained_code) == (0, 0)
    assert explained[value] == plain[value]
    assert "steps" not in plain
    for step in explained["steps"]:
        assert set(step) == {"what", "where", "pages", "input", "value"}
        assert step["what"] in told
    if isinstance(plain[value], str):
        assert explained["steps"][-1]["value"] == plain[value]


def pem(key, *, private: bool = False) -> bytes:
    if private:
        return key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def test_key_digest_is_of_amds_structure():
    """The structure written out a second time: u32 curve, x and y little-endian in 72 bytes, 1028 bytes in all."""
    key = ec.generate_private_key(ec.SECP384R1())
    numbers = key.public_key().public_numbers()
    data = bytearray(1028)
    data[0] = 2
    data[4:52] = numbers.x.to_bytes(48, "big")[::-1]
    data[76:124] = numbers.y.to_bytes(48, "big")[::-1]
    want = hashlib.sha384(data).hexdigest()
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for form in (pem(key), pem(key, private=True), der):
        assert snp_id.key_digest(form).hex == want


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (pem(ec.generate_private_key(ec.SECP256R1())), Unsupported),
        (pem(rsa.generate_private_key(65537, 2048)), Unsupported),
        (b"", Malformed),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", Malformed),
    ],
)
def test_other_keys_are_refused(key, error):
    with pytest.raises(error, match="ID key: "):
        snp_id.key_digest(key, "ID key")


@given(st.binary(max_size=200))
def test_bytes_are_a_key_or_an_error_of_ours(data):
    for kind in (b"PUBLIC", b"PRIVATE"):
        form = b"-----BEGIN " + kind + b" KEY-----\n" + data
        with pytest.raises((Malformed, Unsupported)):
            snp_id.key_digest(form)
    with pytest.raises((Malformed, Unsupported)):
        snp_id.key_digest(data)


def test_the_id_block_is_amds_structure():
    block = snp_id.IdBlock(
        measurement=LD, policy=0x30000, family_id=b"f" * 16, image_id=b"i" * 16, guest_svn=7
    )
    data = block.data()
    assert len(data) == snp_id.ID_BLOCK_BYTES
    assert struct.unpack("<48s16s16sIIQ", data) == (LD.value, b"f" * 16, b"i" * 16, 1, 7, 0x30000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": 0}, "POLICY: want 64 bits with bit 17 set"),
        ({"policy": 1 << 64}, "POLICY"),
        ({"guest_svn": 1 << 32}, "GUEST_SVN: want 32 bits"),
        ({"guest_svn": -1}, "GUEST_SVN: want 32 bits"),
        ({"family_id": b"f"}, "FAMILY_ID: want 16 bytes, got 1"),
        ({"image_id": bytes(17)}, "IMAGE_ID: want 16 bytes, got 17"),
        ({"measurement": Digest.of(b"x")}, "LD: want a SHA-384"),
    ],
)
def test_id_blocks_that_can_not_be(change, message):
    with pytest.raises(Malformed, match=message):
        snp_id.IdBlock(**({"measurement": LD, "policy": 0x30000} | change))


def test_the_command_prints_what_a_report_will_carry(tmp_path):
    key = ec.generate_private_key(ec.SECP384R1())
    author = ec.generate_private_key(ec.SECP384R1())
    (tmp_path / "id.pem").write_bytes(pem(key))
    (tmp_path / "author.pem").write_bytes(pem(author, private=True))
    firmware = ROOT / "nix/released/ovmf-amdsev.fd"
    known = ["snp", firmware, "--vcpu-type", "EPYC-v4", "--id-key", tmp_path / "id.pem"]
    code, said, told = tally(*known, "--author-key", tmp_path / "author.pem")
    assert code == 0
    assert said["id_key_digest"] == snp_id.key_digest(pem(key)).hex
    assert said["author_key_digest"] == snp_id.key_digest(pem(author)).hex
    assert bytes.fromhex(said["id_block"])[:48].hex() == said["measurement"]
    assert said["id_key_digest"] in told
    code, said, _ = tally("snp", firmware, "--vcpu-type", "EPYC-v4", "--author-key", tmp_path / "author.pem")
    assert (code, said["error"]["exit"]) == (2, 2)
    (tmp_path / "id.pem").write_bytes(b"garbage")
    code, said, _ = tally(*known)
    assert (code, said["error"]["exit"]) == (3, 3)

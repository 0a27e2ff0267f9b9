"""Report data: the bytes that tie evidence to one nonce and one key, computed as the reference client does."""

from __future__ import annotations

import hashlib

import pytest

from tallystick.core.errors import Unsupported
from tallystick.handshake import binding
from tallystick.handshake.teekey import TeePublicKey

# A P-256 public key: RFC 7517, appendix A.1, with the algorithm that KBS wants.
KEY = TeePublicKey.parse(
    {
        "kty": "EC",
        "crv": "P-256",
        "alg": "ECDH-ES+A256KW",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    }
)
NONCE = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
TEXT = (
    '"nonce":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",'
    '"tee-pubkey":{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC",'
    '"x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}}'
)


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_report_data_is_the_hash_of_the_canonical_text(algorithm):
    want = hashlib.new(algorithm, ('{"additional-evidence":"",' + TEXT).encode()).digest()
    assert binding.report_data(NONCE, KEY, algorithm=algorithm) == want


def test_additional_evidence_is_bound_as_the_string_it_is():
    want = hashlib.sha256(('{"additional-evidence":"{\\"nvidia\\": 1}",' + TEXT).encode()).digest()
    made = binding.report_data(NONCE, KEY, additional_evidence='{"nvidia": 1}', algorithm="sha256")
    assert made == want


def test_a_device_is_bound_without_the_field_for_additions():
    want = hashlib.sha384(("{" + TEXT).encode()).digest()
    assert binding.device_report_data(NONCE, KEY, algorithm="sha384") == want


def test_another_nonce_or_key_is_another_binding():
    made = {
        binding.report_data(NONCE, KEY, algorithm="sha256"),
        binding.report_data(NONCE[:-4] + "HR4=", KEY, algorithm="sha256"),
        binding.report_data(NONCE, TeePublicKey(alg=KEY.alg, members=(("x", "AAAA"),)), algorithm="sha256"),
    }
    assert len(made) == 3


def test_a_hash_we_lack_is_unsupported():
    with pytest.raises(Unsupported, match="report data: hash: want sha256 or sha384 or sha512, got sha1"):
        binding.report_data(NONCE, KEY, algorithm="sha1")


def test_a_quote_carries_the_first_32_bytes_or_zeros_after_fewer():
    assert binding.tpm_extra_data(bytes(range(48))) == bytes(range(32))
    assert binding.tpm_extra_data(b"\1" * 20) == b"\1" * 20 + bytes(12)


def test_the_broker_takes_sha256_for_a_tpm_and_sha384_for_the_rest():
    assert binding.choose_hash("tpm", ("sha512", "sha256")) == "sha256"
    assert binding.choose_hash("tpm", ()) == "sha256"
    assert binding.choose_hash("snp", ("sha256", "sha384")) == "sha384"


def test_a_client_that_can_not_hash_as_needed_is_told():
    with pytest.raises(Unsupported, match="supported-hash-algorithms: want sha256, got sha512"):
        binding.choose_hash("tpm", ("sha512",))


def test_a_gpu_answers_the_first_32_bytes_of_its_digest():
    digest = binding.device_report_data(NONCE, KEY, algorithm="sha384")
    assert binding.device_nonce(digest) == digest[:32]
    assert binding.device_nonce(b"short") == b"short" + bytes(27)

"""What binds evidence to one nonce and one ephemeral key: the digest in the evidence's report data."""

from __future__ import annotations

import hashlib
from typing import Any

import rfc8785

from tallystick.core.errors import Unsupported
from tallystick.handshake.kbs import HASH_ALGORITHMS
from tallystick.handshake.teekey import TeePublicKey

# guest-components, rcar_client.rs, DEFAULT_HASH_ALGORITHM: when the broker chose none
DEFAULT_HASH = "sha384"
# guest-components, attester/src/tpm/mod.rs, TPM_REPORT_DATA_SIZE
TPM_EXTRA_DATA_BYTES = 32
# guest-components, attester/src/nvidia/nvat.rs, NVIDIA_NONCE_SIZE: the SPDM nonce
NVIDIA_NONCE_BYTES = 32


def report_data(
    nonce: str, tee_pubkey: TeePublicKey, *, additional_evidence: str = "", algorithm: str
) -> bytes:
    """Return the digest that the primary evidence must carry.

    ``H(JCS({"additional-evidence", "nonce", "tee-pubkey"}))``, with the nonce as the string it was sent as.

    Source: Trustee, kbs/src/attestation/backend.rs, ``primary_runtime_data``, hashed in
    attestation-service/src/lib.rs, ``parse_runtime_data``.

    Raises:
        Unsupported: a hash that we do not have.
    """
    document: dict[str, object] = {"additional-evidence": additional_evidence}
    return _hash({**document, **_device(nonce, tee_pubkey)}, algorithm)


def device_report_data(nonce: str, tee_pubkey: TeePublicKey, *, algorithm: str) -> bytes:
    """Return the digest that evidence of an additional device must carry: without the field for additions."""
    return _hash(_device(nonce, tee_pubkey), algorithm)


def device_nonce(digest: bytes) -> bytes:
    """Return ``digest`` of :func:`device_report_data` as an NVIDIA device's nonce: its first 32 bytes.

    Source: guest-components, attester/src/nvidia/nvat.rs; Trustee, deps/verifier/src/nvidia/mod.rs.
    """
    return digest[:NVIDIA_NONCE_BYTES].ljust(NVIDIA_NONCE_BYTES, b"\0")


def tpm_extra_data(digest: bytes) -> bytes:
    """Return ``digest`` as a quote's extraData carries it: cut or padded with zeros to 32 bytes.

    A SHA-384 digest, which Trustee uses for a TPM, loses its last 16 bytes here; ours is SHA-256 and whole.

    Source: guest-components, attester/src/tpm/mod.rs; Trustee, deps/verifier/src/tpm, ``verify_nonce``.
    """
    return digest[:TPM_EXTRA_DATA_BYTES].ljust(TPM_EXTRA_DATA_BYTES, b"\0")


def choose_hash(tee: str, offered: tuple[str, ...]) -> str:
    """Return the hash our broker picks for ``tee``: sha256 for a TPM, whose extraData has 32 bytes.

    Raises:
        Unsupported: the client does not offer it.
    """
    wanted = "sha256" if tee == "tpm" else DEFAULT_HASH
    if offered and wanted not in offered:
        raise Unsupported(
            "KBS request", at="supported-hash-algorithms", want=wanted, got=", ".join(offered) or "none"
        )
    return wanted


def _device(nonce: str, tee_pubkey: TeePublicKey) -> dict[str, object]:
    return {"nonce": nonce, "tee-pubkey": tee_pubkey.document()}


def _hash(document: Any, algorithm: str) -> bytes:
    if algorithm not in HASH_ALGORITHMS:
        raise Unsupported("report data", at="hash", want=" or ".join(HASH_ALGORITHMS), got=algorithm)
    return hashlib.new(algorithm, rfc8785.dumps(document)).digest()

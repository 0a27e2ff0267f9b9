"""Intel SGX: MRENCLAVE of a stream, MRSIGNER of a SIGSTRUCT, and whether the two belong together.

Source: Intel SDM Vol. 3D, 38.4 (measurement) and EINIT: MRENCLAVE is the SHA-256 of the stream of ECREATE, EADD and
EEXTEND blocks; MRSIGNER is the SHA-256 of the modulus as it lies in the SIGSTRUCT.
"""

from __future__ import annotations

import hashlib

from tallystick.core.digests import Digest
from tallystick.core.errors import NotGenuine
from tallystick.core.findings import Finding
from tallystick.formats.sgx import Sigstruct, measured_parts

_PKCS1_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")  # RFC 8017, 9.2, note 1


def mrenclave(stream: bytes | memoryview) -> Digest:
    """Return the MRENCLAVE of an SGXS ``stream``."""
    hasher = hashlib.sha256()
    for part in measured_parts(stream):
        hasher.update(part)
    return Digest.parse("sha256:" + hasher.hexdigest())


def mrsigner(sigstruct: Sigstruct) -> Digest:
    """Return the MRSIGNER that EINIT would record."""
    return Digest.of(sigstruct.modulus)


def check(sigstruct: Sigstruct, enclave: Digest | None) -> None:
    """Refuse a SIGSTRUCT that EINIT would refuse.

    EINIT checks RSA-3072 with exponent 3 and PKCS #1 v1.5 over SHA-256; the arithmetic is public, so it is done here
    with integers rather than through a library that no longer takes exponent 3.

    Raises:
        NotGenuine: another exponent, a signature that does not hold, or another enclave's hash.
    """
    findings: list[Finding] = []
    modulus = int.from_bytes(sigstruct.modulus, "little")
    signature = int.from_bytes(sigstruct.signature, "little")
    if sigstruct.exponent != 3:
        findings.append(Finding("sgx.sigstruct.exponent", "EXPONENT", "3", str(sigstruct.exponent)))
    digest = hashlib.sha256(sigstruct.signed).digest()
    padded = b"\0\1" + b"\xff" * (384 - 3 - len(_PKCS1_SHA256) - 32) + b"\0" + _PKCS1_SHA256 + digest
    holds = (
        modulus.bit_length() == 3072
        and signature < modulus
        and pow(signature, 3, modulus) == int.from_bytes(padded)
    )
    if not holds:
        findings.append(
            Finding("sgx.sigstruct.signature", "SIGNATURE", "a signature of these fields", "another")
        )
    if enclave is not None and sigstruct.enclave_hash != enclave.value:
        findings.append(
            Finding("sgx.sigstruct.enclave", "ENCLAVEHASH", enclave.hex, sigstruct.enclave_hash.hex())
        )
    if findings:
        raise NotGenuine("the SIGSTRUCT is not one that EINIT accepts for this enclave", findings=findings)

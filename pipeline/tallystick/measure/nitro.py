"""AWS Nitro Enclaves: PCR0, 1, 2 and 8 of an image file.

Source: aws/aws-nitro-enclaves-image-format, src/utils/mod.rs, get_pcrs: each PCR is one extend of 48 zero bytes by the
SHA-384 of concatenated sections. PCR0: kernel, command line, every ramdisk. PCR1: kernel, command line, the first
ramdisk (bootstrap). PCR2: the ramdisks after it (application); of an image with one ramdisk, of nothing. PCR8: the
signing certificate's DER, zero when the image is unsigned. Metadata and the signature itself are not measured, so equal
PCRs do not mean equal files.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed
from tallystick.formats.eif import Eif, Kind

_ZEROS = bytes(48)


@dataclass(frozen=True, slots=True, kw_only=True)
class NitroPcrs:
    """The registers that an image alone determines (PCR3 is the instance's role, PCR4 its id)."""

    pcr0: Digest
    pcr1: Digest
    pcr2: Digest
    pcr8: Digest  # all zero when the image is unsigned


def pcrs(image: Eif) -> NitroPcrs:
    """Return the PCRs of ``image``; every byte is hashed once per digest that covers it.

    Raises:
        Malformed: a signature section that holds no certificate.
    """
    bootstrap, *application = image.every(Kind.RAMDISK)

    def of_application() -> bytes:
        hasher = hashlib.sha384()
        for part in application:
            hasher.update(part)
        return hasher.digest()

    with ThreadPoolExecutor(max_workers=1) as pool:  # hashlib lets other threads run meanwhile
        second = pool.submit(of_application)
        first = hashlib.sha384()
        for part in (image.only(Kind.KERNEL), image.only(Kind.CMDLINE), bootstrap):
            first.update(part)
        whole = first.copy()  # PCR1's bytes are a prefix of PCR0's
        for part in application:
            whole.update(part)
        return NitroPcrs(
            pcr0=_extended(whole.digest()),
            pcr1=_extended(first.digest()),
            pcr2=_extended(second.result()),
            pcr8=_signer(image),
        )


def _extended(content: bytes) -> Digest:
    return Digest.of(_ZEROS + content, Algorithm.SHA384)


def _signer(image: Eif) -> Digest:
    """Return PCR8. The section is CBOR: a list of {signing_certificate: PEM, signature: COSE_Sign1}."""
    found = image.every(Kind.SIGNATURE)
    if not found:
        return Digest(Algorithm.SHA384, _ZEROS)
    import cbor2
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        signatures: Any = cbor2.loads(bytes(found[0]))
        pem = bytes(signatures[0]["signing_certificate"])  # serde writes a byte vector as a list of numbers
        certificate = x509.load_pem_x509_certificate(pem)
    except Exception as error:  # whatever CBOR or X.509 readers raise on bytes that are neither
        raise Malformed(
            "EIF", at="signature section", want="a list with a PEM certificate", got=type(error).__name__
        ) from None
    return _extended(hashlib.sha384(certificate.public_bytes(Encoding.DER)).digest())

"""The evidence of a machine with a TPM, in the form that Trustee's TPM verifier reads, with two additions.

Source: Trustee, deps/verifier/src/tpm/mod.rs, ``Evidence``; guest-components, attester/src/tpm/mod.rs.
The additions (event log, certificate of the attestation key) are written down in docs/evidence-tpm.md.
"""

from __future__ import annotations

from pathlib import Path

from tallystick.attester.tpm import Quote
from tallystick.handshake import tpmwire
from tallystick.handshake.fields import b64

# Linux, Documentation/security/tpm/tpm_event_log.rst; there once securityfs is mounted
EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")


def build(quote: Quote, ak_area: bytes, *, ak_certificate: bytes, event_log: bytes) -> dict[str, object]:
    """Return the ``primary_evidence`` of tee ``tpm``.

    Args:
        ak_area: TPMT_PUBLIC of the key that signed the quote.
        ak_certificate: DER, as enrolment gave it; empty when the broker enrols nobody.
        event_log: binary_bios_measurements; empty when the firmware left none.
    """
    given = {"ak_certificate": ak_certificate, "event_log": event_log}
    return {
        "ak_public": b64(spki(ak_area)),
        "tpm_quote": {
            "signature": b64(quote.signature),
            "message": b64(quote.message),
            "pcrs": [value.hex() for value in quote.pcrs],
        },
        **{name: b64(data) for name, data in given.items() if data},
    }


def spki(area: bytes) -> bytes:
    """Return the RSA key whose TPMT_PUBLIC is ``area`` as DER SubjectPublicKeyInfo."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    modulus, exponent = tpmwire.rsa_key(area)
    return (
        rsa.RSAPublicNumbers(exponent, modulus)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def read_event_log(path: Path = EVENT_LOG) -> bytes:
    """Return the firmware's event log, or nothing when the kernel has none to give."""
    try:
        return path.read_bytes()
    except OSError:
        return b""

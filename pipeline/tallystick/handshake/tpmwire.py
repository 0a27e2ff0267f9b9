"""TPM 2.0 structures as bytes: commands, authorizations, and the public areas of the keys we use. Pure.

Source: TCG TPM 2.0 Library, Part 1 (session handling), Part 2 (constants, structures), Part 3 (commands);
TCG EK Credential Profile 2.5, annex B (template L-1).
"""

from __future__ import annotations

import struct

from tallystick.core.errors import Malformed, Unsupported

# Part 2, TPM_ST
ST_NO_SESSIONS, ST_SESSIONS = 0x8001, 0x8002
# Part 2, TPM_CC
CC_CREATE_PRIMARY, CC_NV_READ, CC_NV_READ_PUBLIC = 0x131, 0x14E, 0x169
CC_ACTIVATE_CREDENTIAL, CC_POLICY_SECRET, CC_CREATE = 0x147, 0x151, 0x153
CC_LOAD, CC_QUOTE, CC_FLUSH_CONTEXT, CC_READ_PUBLIC = 0x157, 0x158, 0x165, 0x173
CC_START_AUTH_SESSION, CC_PCR_READ, CC_PCR_EXTEND = 0x176, 0x17E, 0x182
CC_STARTUP, CC_SHUTDOWN = 0x144, 0x145
# Part 2, TPM_RC
RC_SUCCESS, RC_INITIALIZE, RC_RETRY, RC_YIELDED, RC_TESTING = 0, 0x100, 0x922, 0x908, 0x90A
# Part 2, TPM_RH and TPM_RS
RH_NULL, RS_PW, RH_ENDORSEMENT = 0x40000007, 0x40000009, 0x4000000B
# Part 2, TPM_ALG
ALG_RSA, ALG_AES, ALG_SHA256, ALG_NULL, ALG_RSASSA, ALG_CFB = 0x01, 0x06, 0x0B, 0x10, 0x14, 0x43
SE_POLICY = 1  # Part 2, TPM_SE

EK_HANDLE = 0x81010001  # TCG Provisioning Guidance 1.0, section 7.8: the RSA-2048 endorsement key
EK_CERTIFICATE_INDEX = 0x01C00002  # EK Credential Profile, section 2.2.1.4
PCR_COUNT = 24  # PC Client Platform TPM Profile, section 3.6

# Part 2, TPMA_OBJECT: fixedTPM | fixedParent | sensitiveDataOrigin | userWithAuth | noDA | restricted | sign.
# noDA: its password is empty, and a machine that lost power too often must still be able to attest.
AK_ATTRIBUTES = 0x00050472
# EK Credential Profile, template L-1: fixedTPM | fixedParent | sensitiveDataOrigin | adminWithPolicy
# | restricted | decrypt
EK_ATTRIBUTES = 0x000300B2
# EK Credential Profile, template L-1: PolicySecret(TPM_RH_ENDORSEMENT)
EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")

_RSA_BITS = 2048
_DEFAULT_EXPONENT = 65537  # Part 2, TPMS_RSA_PARMS: an exponent of zero means 2^16 + 1
_WHAT = "TPM structure"


class Reader:
    """A position in bytes that a TPM sent. Every read is checked against what is left."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, field: str, size: int) -> bytes:
        """Return the next ``size`` bytes.

        Raises:
            Malformed: fewer are left.
        """
        part = self._data[self._at : self._at + size]
        if len(part) != size:
            raise Malformed(_WHAT, at=field, want=f"{size} bytes", got=f"{len(part)} left")
        self._at += size
        return part

    def number(self, field: str, size: int) -> int:
        """Return the next big-endian number of ``size`` bytes."""
        return int.from_bytes(self.take(field, size), "big")

    def sized(self, field: str) -> bytes:
        """Return the contents of the next TPM2B."""
        return self.take(field, self.number(f"{field} size", 2))

    def sized_byte(self, field: str) -> bytes:
        """Return the contents of the next field whose size is one byte (TPMS_PCR_SELECTION)."""
        return self.take(field, self.number(f"{field} size", 1))

    def rest(self) -> bytes:
        """Return everything that is left."""
        return self.take("rest", len(self._data) - self._at)

    def end(self) -> None:
        """Fail on trailing bytes."""
        if self._at != len(self._data):
            raise Malformed(_WHAT, at="end", want="no more bytes", got=f"{len(self._data) - self._at}")


def sized(data: bytes) -> bytes:
    """Return ``data`` as a TPM2B."""
    return struct.pack(">H", len(data)) + data


def handle(value: int) -> bytes:
    """Return a handle as bytes."""
    return struct.pack(">I", value)


def command(code: int, body: bytes, *, tag: int = ST_NO_SESSIONS) -> bytes:
    """Return a whole command: header and ``body``."""
    return struct.pack(">HII", tag, 10 + len(body), code) + body


def password() -> bytes:
    """Return the authorization of an object whose password is empty."""
    return _authorization(RS_PW)


def policy(session: int) -> bytes:
    """Return the authorization by a policy session, which the TPM then ends: continueSession is clear."""
    return _authorization(session)


def authorized(code: int, handles: bytes, authorizations: tuple[bytes, ...], parameters: bytes) -> bytes:
    """Return a command with authorizations, in the order of the handles they are for."""
    area = b"".join(authorizations)
    return command(code, handles + struct.pack(">I", len(area)) + area + parameters, tag=ST_SESSIONS)


def _authorization(session: int) -> bytes:
    """A TPMS_AUTH_COMMAND with an empty nonce, no attributes, and an empty password or HMAC."""
    return struct.pack(">IHBH", session, 0, 0, 0)


def pcr_selection(registers: frozenset[int]) -> bytes:
    """Return a TPML_PCR_SELECTION of ``registers`` in the SHA-256 bank."""
    bitmap = sum(1 << register for register in registers).to_bytes(PCR_COUNT // 8, "little")
    return struct.pack(">IHB", 1, ALG_SHA256, len(bitmap)) + bitmap


def ak_template() -> bytes:
    """Return the TPMT_PUBLIC that asks for our attestation key: RSA-2048, restricted, RSASSA with SHA-256.

    That scheme is the one Trustee's verifier takes (deps/verifier/src/tpm/mod.rs).
    """
    head = struct.pack(">HHI", ALG_RSA, ALG_SHA256, AK_ATTRIBUTES) + sized(b"")
    parameters = struct.pack(">HHHHI", ALG_NULL, ALG_RSASSA, ALG_SHA256, _RSA_BITS, 0)
    return head + parameters + sized(b"")


def ek_template() -> bytes:
    """Return the TPMT_PUBLIC that makes the endorsement key again: template L-1.

    Source: EK Credential Profile, annex B.3.3 (RSA-2048, storage, AES-128-CFB, 256 zero bytes as unique).
    """
    head = struct.pack(">HHI", ALG_RSA, ALG_SHA256, EK_ATTRIBUTES) + sized(EK_POLICY)
    parameters = struct.pack(">HHHHHI", ALG_AES, 128, ALG_CFB, ALG_NULL, _RSA_BITS, 0)
    return head + parameters + sized(bytes(_RSA_BITS // 8))


def rsa_key(area: bytes) -> tuple[int, int]:
    """Return the modulus and exponent of the RSA key whose TPMT_PUBLIC is ``area``.

    Raises:
        Malformed: not a public area, or bytes left over.
        Unsupported: not an RSA key.
    """
    reader = Reader(area)
    kind = reader.number("type", 2)
    if kind != ALG_RSA:
        raise Unsupported("public area", at="type", want=f"{ALG_RSA:#x} (RSA)", got=f"{kind:#x}")
    reader.take("nameAlg and objectAttributes", 6)
    reader.sized("authPolicy")
    if reader.number("symmetric", 2) != ALG_NULL:
        reader.take("symmetric key bits and mode", 4)
    if reader.number("scheme", 2) != ALG_NULL:
        reader.take("scheme hash", 2)
    reader.take("keyBits", 2)
    exponent = reader.number("exponent", 4)
    modulus = reader.sized("unique")
    reader.end()
    return int.from_bytes(modulus, "big"), exponent or _DEFAULT_EXPONENT

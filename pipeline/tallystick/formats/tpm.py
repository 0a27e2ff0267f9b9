"""TPM 2.0 structures that a verifier reads: public areas, quotes, signatures, names.

Source: TCG TPM 2.0 Library 1.59, Part 2 (structures; section numbers below are of that part). All integers
are big-endian.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntFlag

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats.cursor import Cursor

ALG_RSA, ALG_SHA1, ALG_SHA256, ALG_SHA384, ALG_SHA512 = 0x0001, 0x0004, 0x000B, 0x000C, 0x000D
ALG_NULL, ALG_RSASSA, ALG_RSAES, ALG_RSAPSS, ALG_OAEP = 0x0010, 0x0014, 0x0015, 0x0016, 0x0017
ALG_ECDSA, ALG_ECDH, ALG_ECDAA, ALG_ECSCHNORR, ALG_ECMQV, ALG_ECC = 0x18, 0x19, 0x1A, 0x1C, 0x1D, 0x23
ALG_AES = 0x0006
GENERATED_VALUE = 0xFF544347  # 6.2: "\xffTCG", which a TPM never signs for data from outside
ST_ATTEST_QUOTE = 0x8018  # 6.9
RH_ENDORSEMENT = 0x4000000B
MAX_PCRS = 32  # a selection of four bytes
DEFAULT_EXPONENT = 65537  # what exponent 0 stands for (12.2.3.5)

HASHES: dict[int, str] = {
    ALG_SHA1: "sha1",
    ALG_SHA256: "sha256",
    ALG_SHA384: "sha384",
    ALG_SHA512: "sha512",
}
CURVES: dict[int, tuple[str, int]] = {  # TPM_ECC_CURVE -> (name, bytes of a coordinate)
    0x0003: ("P-256", 32),
    0x0004: ("P-384", 48),
    0x0005: ("P-521", 66),
}
_ASYMMETRIC_WITH_HASH = frozenset(
    (ALG_RSASSA, ALG_RSAPSS, ALG_OAEP, ALG_ECDSA, ALG_ECDH, ALG_ECSCHNORR, ALG_ECMQV)
)


class ObjectAttributes(IntFlag):
    """TPMA_OBJECT (8.3). Bits without a name are reserved and must be zero."""

    FIXED_TPM = 1 << 1
    ST_CLEAR = 1 << 2
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    NO_DA = 1 << 10
    ENCRYPTED_DUPLICATION = 1 << 11
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN_ENCRYPT = 1 << 18
    X509_SIGN = 1 << 19


_KNOWN_ATTRIBUTES = sum(ObjectAttributes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """An asymmetric scheme: an algorithm and its hash; ``ALG_NULL`` is "chosen at each use"."""

    algorithm: int
    hash_algorithm: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RsaKey:
    """TPMS_RSA_PARMS and the modulus."""

    bits: int
    exponent: int
    modulus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EccKey:
    """TPMS_ECC_PARMS and the point. Whether the point is on the curve is not checked here."""

    curve: str
    x: int
    y: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Public:
    """TPMT_PUBLIC of an asymmetric key (12.2.4)."""

    name_algorithm: int
    attributes: ObjectAttributes
    auth_policy: bytes
    symmetric: bytes  # TPMT_SYM_DEF_OBJECT as it lies there: 0010 is none
    scheme: Scheme
    key: RsaKey | EccKey
    encoded: bytes  # the whole TPMT_PUBLIC

    @property
    def name(self) -> bytes:
        """The object's Name: ``nameAlg || H_nameAlg(TPMT_PUBLIC)`` (Part 1, 16)."""
        hashed = hashlib.new(HASHES[self.name_algorithm], self.encoded, usedforsecurity=False)
        return self.name_algorithm.to_bytes(2, "big") + hashed.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class PcrSelection:
    """TPMS_PCR_SELECTION: one bank, and its registers in rising order."""

    bank: str
    registers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """TPMS_ATTEST of a quote (10.12.8, 10.12.1)."""

    qualified_signer: bytes
    extra_data: bytes
    clock: int  # milliseconds that this TPM has been powered since its last clear
    reset_count: int
    restart_count: int
    safe: bool  # clock was not set back by a power loss
    firmware_version: int
    selections: tuple[PcrSelection, ...]
    pcr_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """TPMT_SIGNATURE: for RSA the signature's bytes, for ECDSA ``r`` and ``s``."""

    algorithm: int
    hash_algorithm: int
    rsa: bytes | None = None
    ecdsa: tuple[int, int] | None = None


def parse_public(data: bytes) -> Public:
    """Return the TPMT_PUBLIC in ``data``.

    Raises:
        Malformed: a field breaks its format, or bytes follow.
        Unsupported: a key that is not RSA or ECC, or an algorithm that is not known.
    """
    reader = Cursor(data, "TPMT_PUBLIC")
    kind = reader.big("type", 2)
    if kind not in (ALG_RSA, ALG_ECC):
        raise _unknown(reader, "type", kind)
    name_algorithm = _hash(reader, "nameAlg")
    bits = reader.big("objectAttributes", 4)
    if bits & ~_KNOWN_ATTRIBUTES:
        raise reader.bad("objectAttributes", want="reserved bits 0", got=f"{bits:08x}")
    policy = _sized(reader, "authPolicy", 64)
    symmetric = _symmetric(reader)
    scheme = _scheme(reader, "scheme")
    key = _rsa(reader) if kind == ALG_RSA else _ecc(reader)
    reader.end()
    return Public(
        name_algorithm=name_algorithm,
        attributes=ObjectAttributes(bits),
        auth_policy=policy,
        symmetric=symmetric,
        scheme=scheme,
        key=key,
        encoded=bytes(data),
    )


def parse_sized_public(data: bytes) -> Public:
    """Return the TPM2B_PUBLIC in ``data``: two bytes of size, then a TPMT_PUBLIC.

    Raises:
        Malformed: as :func:`parse_public`, or another size than it says.
        Unsupported: as :func:`parse_public`.
    """
    reader = Cursor(data, "TPM2B_PUBLIC")
    area = reader.take("publicArea", reader.big("size", 2))
    reader.end()
    return parse_public(area)


def parse_quote(data: bytes) -> Quote:
    """Return the TPMS_ATTEST of a quote in ``data``.

    Raises:
        Malformed: no TPM made it (its magic), a field breaks its format, or bytes follow.
        Unsupported: another attestation than a quote, or a bank of an unknown hash.
    """
    reader = Cursor(data, "TPMS_ATTEST")
    if (magic := reader.big("magic", 4)) != GENERATED_VALUE:
        raise reader.bad("magic", want=f"{GENERATED_VALUE:08x}", got=f"{magic:08x}")
    if (kind := reader.big("type", 2)) != ST_ATTEST_QUOTE:
        raise Unsupported("TPMS_ATTEST", at="type", want=f"{ST_ATTEST_QUOTE:04x}, a quote", got=f"{kind:04x}")
    signer = _sized(reader, "qualifiedSigner", 66)
    extra = _sized(reader, "extraData", 64)
    clock = reader.big("clockInfo.clock", 8)
    resets, restarts = reader.big("clockInfo.resetCount", 4), reader.big("clockInfo.restartCount", 4)
    if (safe := reader.big("clockInfo.safe", 1)) not in (0, 1):
        raise reader.bad("clockInfo.safe", want="0 or 1", got=f"{safe}")
    version = reader.big("firmwareVersion", 8)
    selections = _selections(reader)
    digest = _sized(reader, "attested.quote.pcrDigest", 64)
    reader.end()
    return Quote(
        qualified_signer=signer,
        extra_data=extra,
        clock=clock,
        reset_count=resets,
        restart_count=restarts,
        safe=safe == 1,
        firmware_version=version,
        selections=selections,
        pcr_digest=digest,
    )


def parse_signature(data: bytes) -> Signature:
    """Return the TPMT_SIGNATURE in ``data``.

    Raises:
        Malformed: a field breaks its format, or bytes follow.
        Unsupported: another scheme than RSASSA, RSAPSS or ECDSA, or an unknown hash.
    """
    reader = Cursor(data, "TPMT_SIGNATURE")
    algorithm = reader.big("sigAlg", 2)
    if algorithm not in (ALG_RSASSA, ALG_RSAPSS, ALG_ECDSA):
        raise _unknown(reader, "sigAlg", algorithm)
    hashed = _hash(reader, "hash")
    if algorithm == ALG_ECDSA:
        r, s = _sized(reader, "signatureR", 66), _sized(reader, "signatureS", 66)
        reader.end()
        pair = int.from_bytes(r, "big"), int.from_bytes(s, "big")
        return Signature(algorithm=algorithm, hash_algorithm=hashed, ecdsa=pair)
    value = _sized(reader, "sig", 512)
    reader.end()
    return Signature(algorithm=algorithm, hash_algorithm=hashed, rsa=value)


def qualified_name(parent: bytes, name: bytes) -> bytes:
    """Return the qualified name of the object ``name`` under ``parent``'s (Part 1, 16: ``H(QN_parent || Name)``).

    Args:
        parent: the parent's qualified name, or a hierarchy's four-byte handle.
        name: the object's Name.

    Raises:
        Malformed: ``name`` does not begin with a known hash.
    """
    hashed = HASHES.get(int.from_bytes(name[:2], "big"))
    if hashed is None:
        raise Malformed("TPM name", at="nameAlg", want="a known hash", got=name[:2].hex())
    return name[:2] + hashlib.new(hashed, parent + name, usedforsecurity=False).digest()


def _selections(reader: Cursor) -> tuple[PcrSelection, ...]:
    """Read TPML_PCR_SELECTION: each bank once."""
    count = reader.big("pcrSelect.count", 4)
    if count > len(HASHES):
        raise reader.bad("pcrSelect.count", want=f"at most {len(HASHES)}", got=f"{count}")
    found: list[PcrSelection] = []
    for _ in range(count):
        bank = HASHES[_hash(reader, "pcrSelect.hash")]
        if bank in (selection.bank for selection in found):
            raise reader.bad("pcrSelect.hash", want="each bank once", got=bank)
        size = reader.big("pcrSelect.sizeofSelect", 1)
        if size > MAX_PCRS // 8:
            raise reader.bad("pcrSelect.sizeofSelect", want=f"at most {MAX_PCRS // 8}", got=f"{size}")
        bits = int.from_bytes(reader.take("pcrSelect.pcrSelect", size), "little")
        registers = tuple(number for number in range(8 * size) if bits >> number & 1)
        found.append(PcrSelection(bank=bank, registers=registers))
    return tuple(found)


def _symmetric(reader: Cursor) -> bytes:
    """Read TPMT_SYM_DEF_OBJECT (11.1.7)."""
    algorithm = reader.take("symmetric.algorithm", 2)
    number = int.from_bytes(algorithm, "big")
    if number == ALG_NULL:
        return algorithm
    if number != ALG_AES:
        raise _unknown(reader, "symmetric.algorithm", number)
    return algorithm + reader.take("symmetric.keyBits and mode", 4)


def _scheme(reader: Cursor, field: str) -> Scheme:
    """Read TPMT_RSA_SCHEME, TPMT_ECC_SCHEME or TPMT_KDF_SCHEME."""
    algorithm = reader.big(f"{field}.scheme", 2)
    if algorithm in (ALG_NULL, ALG_RSAES):
        return Scheme(algorithm=algorithm, hash_algorithm=None)
    if algorithm not in _ASYMMETRIC_WITH_HASH:
        raise _unknown(reader, f"{field}.scheme", algorithm)
    return Scheme(algorithm=algorithm, hash_algorithm=_hash(reader, f"{field}.hashAlg"))


def _rsa(reader: Cursor) -> RsaKey:
    bits, exponent = reader.big("keyBits", 2), reader.big("exponent", 4)
    modulus = _sized(reader, "unique", 512)
    number = int.from_bytes(modulus, "big")
    if number.bit_length() != bits or len(modulus) * 8 != bits:
        raise reader.bad("unique", want=f"a modulus of keyBits ({bits}) bits", got=f"{number.bit_length()}")
    return RsaKey(bits=bits, exponent=exponent or DEFAULT_EXPONENT, modulus=number)


def _ecc(reader: Cursor) -> EccKey:
    identifier = reader.big("curveID", 2)
    if identifier not in CURVES:
        raise _unknown(reader, "curveID", identifier)
    curve, size = CURVES[identifier]
    if (kdf := reader.big("kdf.scheme", 2)) != ALG_NULL:
        raise _unknown(reader, "kdf.scheme", kdf)
    x, y = _sized(reader, "unique.x", size), _sized(reader, "unique.y", size)
    return EccKey(curve=curve, x=int.from_bytes(x, "big"), y=int.from_bytes(y, "big"))


def _hash(reader: Cursor, field: str) -> int:
    number = reader.big(field, 2)
    if number not in HASHES:
        raise _unknown(reader, field, number)
    return number


def _sized(reader: Cursor, field: str, most_bytes: int) -> bytes:
    """Read a TPM2B: two bytes of size, then that many."""
    size = reader.big(f"{field}.size", 2)
    if size > most_bytes:
        raise reader.bad(f"{field}.size", want=f"at most {most_bytes}", got=f"{size}")
    return reader.take(field, size)


def _unknown(reader: Cursor, field: str, number: int) -> Unsupported:
    return Unsupported(
        "TPM structure", at=f"{field} at offset {reader.at}", want="an algorithm we know", got=f"{number:04x}"
    )

"""Arm CCA: the Realm Initial Measurement (RIM), from a realm's parameters and what is put into it before it starts.

Source: Arm DEN0137 (Realm Management Monitor specification) 1.0, A7.1 and the descriptions of RMI_REALM_CREATE,
RMI_RTT_INIT_RIPAS, RMI_DATA_CREATE and RMI_REC_CREATE; B4.4 for RmiRealmParams and RmiRecParams.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never

from tallystick.core.errors import Malformed, Unsupported

GRANULE_BYTES = 4096
_RIM_BYTES = 64  # a SHA-256 measurement is padded with zeros
_DESCRIPTOR_BYTES = 256
_HASHES = {"sha256": 0, "sha512": 1}  # RmiHashAlgorithm
_MAX_GPRS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RealmParams:
    """The part of RmiRealmParams that is measured."""

    s2sz: int  # bits of the realm's address space
    num_bps: int  # breakpoints, 1 to 64
    num_wps: int  # watchpoints, 1 to 64
    hash_algorithm: str  # "sha256" or "sha512"
    sve_vl: int = 0
    pmu_num_ctrs: int = 0
    flags: int = 0  # bit 0 LPA2, bit 1 SVE, bit 2 PMU


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRipas:
    """RMI_RTT_INIT_RIPAS: a range becomes RAM."""

    base: int
    top: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCreate:
    """RMI_DATA_CREATE: one granule gets contents."""

    ipa: int
    content: bytes  # 4096 bytes
    measured: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RecCreate:
    """RMI_REC_CREATE: a virtual CPU with its first registers."""

    flags: int  # bit 0: runnable
    pc: int
    gprs: tuple[int, ...] = ()  # x0 to x7


Step = InitRipas | DataCreate | RecCreate


def rim(realm: RealmParams, steps: Iterable[Step] = ()) -> bytes:
    """Return the RIM after REALM_CREATE and ``steps``: 32 bytes for SHA-256, 64 for SHA-512.

    Raises:
        Malformed: parameters outside their fields.
        Unsupported: another hash.
    """
    if realm.hash_algorithm not in _HASHES:
        raise Unsupported("realm", at="hash algorithm", want="sha256 or sha512", got=realm.hash_algorithm)
    measurement = _hash(realm, _params(realm))
    for step in steps:
        measurement = extended(realm, measurement, step)
    return measurement


def extended(realm: RealmParams, measurement: bytes, step: Step) -> bytes:
    """Return the RIM after one more ``step``.

    Raises:
        Malformed: parameters outside their fields.
    """
    return _hash(realm, _descriptor(realm, measurement, step))


def populate(ipa: int, data: bytes) -> tuple[DataCreate, ...]:
    """Return the granules that put ``data`` at ``ipa``, the last one padded with zeros."""
    return tuple(
        DataCreate(ipa=ipa + at, content=data[at : at + GRANULE_BYTES].ljust(GRANULE_BYTES, b"\0"))
        for at in range(0, len(data), GRANULE_BYTES)
    )


def _hash(realm: RealmParams, data: bytes) -> bytes:
    return hashlib.new(realm.hash_algorithm, data).digest()


def _params(realm: RealmParams) -> bytes:
    """RmiRealmParams with only the measured fields set, each at a stride of 8 bytes."""
    for name, value, low, high in (
        ("s2sz", realm.s2sz, 1, 255),
        ("num_bps", realm.num_bps, 1, 64),
        ("num_wps", realm.num_wps, 1, 64),
        ("sve_vl", realm.sve_vl, 0, 255),
        ("pmu_num_ctrs", realm.pmu_num_ctrs, 0, 255),
        ("flags", realm.flags, 0, (1 << 64) - 1),
    ):
        if not low <= value <= high:
            raise Malformed("realm", at=name, want=f"{low} to {high}", got=str(value))
    fields = (
        realm.flags,
        realm.s2sz,
        realm.sve_vl,
        realm.num_bps - 1,
        realm.num_wps - 1,
        realm.pmu_num_ctrs,
        _HASHES[realm.hash_algorithm],
    )
    return struct.pack("<7Q", *fields).ljust(GRANULE_BYTES, b"\0")


def _descriptor(realm: RealmParams, measurement: bytes, step: Step) -> bytes:
    """Return RmmMeasurementDescriptor{Data,Rec,Ripas} over the measurement so far."""

    def begin(kind: int) -> bytes:
        return struct.pack("<B7xQ", kind, _DESCRIPTOR_BYTES) + measurement.ljust(_RIM_BYTES, b"\0")

    def padded(digest: bytes) -> bytes:
        return digest.ljust(_RIM_BYTES, b"\0")

    match step:
        case DataCreate(ipa=ipa, content=content, measured=measured):
            if len(content) != GRANULE_BYTES or ipa % GRANULE_BYTES or not 0 <= ipa < 1 << 64:
                raise Malformed(
                    "realm", at="data", want="one aligned granule", got=f"{len(content)} bytes at {ipa:#x}"
                )
            body = struct.pack("<QQ", ipa, int(measured)) + padded(_hash(realm, content) if measured else b"")
            return (begin(0) + body).ljust(_DESCRIPTOR_BYTES, b"\0")
        case RecCreate(flags=flags, pc=pc, gprs=gprs):
            if len(gprs) > _MAX_GPRS or any(not 0 <= value < 1 << 64 for value in (flags, pc, *gprs)):
                raise Malformed("realm", at="rec", want="8 registers of 64 bits at most", got=str(len(gprs)))
            params = bytearray(GRANULE_BYTES)
            struct.pack_into("<Q", params, 0, flags)
            struct.pack_into("<Q", params, 0x200, pc)
            struct.pack_into(f"<{len(gprs)}Q", params, 0x300, *gprs)
            return (begin(1) + padded(_hash(realm, bytes(params)))).ljust(_DESCRIPTOR_BYTES, b"\0")
        case InitRipas(base=base, top=top):
            if base % GRANULE_BYTES or top % GRANULE_BYTES or not 0 <= base < top < 1 << 64:
                raise Malformed("realm", at="ripas", want="an aligned range", got=f"{base:#x} to {top:#x}")
            return (begin(2) + struct.pack("<QQ", base, top)).ljust(_DESCRIPTOR_BYTES, b"\0")
        case _:
            assert_never(step)

"""SNP launches that are not the predicted one, in one thing each, under a firmware made here."""

from __future__ import annotations

import hashlib
import random
import struct
import uuid
from dataclasses import dataclass, replace
from functools import cache

from measure.injections import Built, command_line, kernel, stub_byte

from tallystick.core.digests import Digest
from tallystick.formats import ovmf
from tallystick.measure import snp, why_snp


def snp_firmware(seed: bytes = b"firmware", pages: int = 16) -> bytes:
    """Return a firmware with an OVMF table and SEV metadata that has a place for kernel hashes."""

    def entry(guid: str, data: bytes) -> bytes:
        return data + struct.pack("<H", len(data) + 18) + uuid.UUID(guid).bytes_le

    ranges = [(0x800000, 0x9000, 1), (0x80A000, 0x3000, 1), (0x80D000, 0x1000, 2), (0x80E000, 0x1000, 3)]
    ranges += [(0x80F000, 0x1000, 4), (0x810000, 0x1000, 0x10)]
    meta = b"ASEV" + struct.pack("<III", 16 + 12 * len(ranges), 1, len(ranges))
    meta += b"".join(struct.pack("<III", *one) for one in ranges)
    table = entry(ovmf.SEV_HASH_TABLE, struct.pack("<II", 0x810C00, 0x400))
    table += entry(ovmf.SEV_ES_RESET_BLOCK, struct.pack("<I", 0x80B004))
    table += entry(ovmf.SEV_METADATA, struct.pack("<I", 0x400))
    body = table + struct.pack("<H", len(table) + 18) + uuid.UUID(ovmf.FOOTER).bytes_le
    size = pages * 4096
    data = bytearray(hashlib.shake_128(seed).digest(size))
    data[size - 32 - len(body) : size - 32] = body
    data[size - 0x400 : size - 0x400 + len(meta)] = meta
    return bytes(data)


@dataclass(frozen=True)
class Launch:
    """An SNP launch that is not the predicted one, and what the explanation should say."""

    what: str
    seen: bytes
    right: tuple[str, ...]  # kinds of the causes; empty: nobody can know
    firmware: bytes = b""


OWN = snp.SnpShape(vcpus=2, vcpu_signature=snp.vcpu_signature("EPYC-Milan"), guest_features=1)
FIRMWARE = snp_firmware()


@cache
def _launched(firmware: bytes) -> snp.LaunchImage:
    return snp.launch_image(ovmf.parse(firmware))


def snp_expectation(built: Built, *firmware: bytes) -> why_snp.Expected:
    """Return what was predicted for the real image under the made firmware."""
    return why_snp.Expected(
        firmware=Digest.of(FIRMWARE),
        images={Digest.of(one): _launched(one) for one in (FIRMWARE, *firmware)},
        hashes=_hashes(built.image),
        shapes=(OWN,),
    )


@cache
def _hashes(image: bytes) -> snp.KernelHashes:
    return snp.KernelHashes.of(image, b"", "")


def snp_launch(built: Built, rng: random.Random) -> Launch:
    """One thing about an SNP launch that is not as predicted."""
    hashes = _hashes(built.image)

    def digest(
        shape: snp.SnpShape, firmware: bytes = FIRMWARE, kernel: snp.KernelHashes | None = hashes
    ) -> bytes:
        return snp.launch_digest(_launched(firmware), shape, kernel).value

    kind = rng.choice(
        [
            "vcpus",
            "vcpu_type",
            "guest_features",
            "vmm",
            "firmware",
            "unknown firmware",
            "direct-boot",
            "image",
        ]
    )
    match kind:
        case "vcpus":
            return Launch(kind, digest(replace(OWN, vcpus=rng.randrange(3, 400))), (kind,))
        case "vcpu_type":
            name = rng.choice(["EPYC", "EPYC-Rome", "EPYC-Genoa", "EPYC-Turin"])
            return Launch(kind, digest(replace(OWN, vcpu_signature=snp.vcpu_signature(name))), (kind,))
        case "guest_features":
            return Launch(kind, digest(replace(OWN, guest_features=1 | 1 << rng.randrange(1, 18))), (kind,))
        case "vmm":
            return Launch(kind, digest(replace(OWN, vmm=rng.choice([snp.Vmm.EC2, snp.Vmm.GCE]))), (kind,))
        case "firmware" | "unknown firmware":
            other = bytearray(FIRMWARE)
            other[rng.randrange(len(other) - 4096)] ^= 1 << rng.randrange(8)
            given = bytes(other) if kind == "firmware" else b""
            return Launch(kind, digest(OWN, bytes(other)), ("firmware",) if given else (), given)
        case "direct-boot":
            return Launch(kind, digest(OWN, FIRMWARE, None), (kind,))
    changed = rng.choice([command_line, kernel, stub_byte])(built, rng).after
    return Launch(kind, digest(OWN, FIRMWARE, snp.KernelHashes.of(changed.image, b"", "")), ())

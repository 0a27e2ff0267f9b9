"""Pairs for ``make bench``: NVIDIA's evidence beside the signature checks that it can not avoid.

``pairs()`` gives (what, ours, peer's name, peer's, limit) for :func:`run.pair`. Certificate chains and RIM files are
known already, as they are to a broker; every report is read and verified anew. Evidence is the tests' own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import support_nvidia as made
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tallystick.evidence import nvidia, roots
from tallystick.formats import spdm

Pair = tuple[str, Callable[[], object], str, Callable[[], object], str]
_MANY = 100


def pairs() -> list[Pair]:
    authority = made.Authority("NVIDIA Device Identity CA", ("NVIDIA GH100 Identity", "Provisioner"))
    devices = [made.Device(authority) for _ in range(8)]
    maker = made.RimMaker()
    rims = [maker.rim(version=made.DRIVER, active={n: [made.digest(n)] for n in range(22, 42)})]
    rims.append(maker.rim(version=made.VBIOS, active={n: [made.digest(n)] for n in range(1, 13)}))
    mine = {"NVIDIA-Device-Identity-CA": authority.root, "NVIDIA-CoRIM-Signing-Root-CA": maker.authority.root}

    def verified(count: int) -> Callable[[], Any]:
        data = made.dump(*(device.evidence() for device in devices[:count]))
        return lambda: nvidia.verify("nvidia-gpu", data, rims, nonce=made.NONCE, at=made.AT)

    def bare(count: int) -> Callable[[], None]:
        reports = [(device.key.public_key(), spdm.parse(device.report())) for device in devices[:count]]
        ready = [
            (
                key,
                encode_dss_signature(*(int.from_bytes(r.signature[n : n + 48], "big") for n in (0, 48))),
                r.signed,
            )
            for key, r in reports
        ]

        def check() -> None:
            for key, signature, signed in ready:
                key.verify(signature, signed, ec.ECDSA(hashes.SHA384()))

        return check

    def many(work: Callable[[], object], believing: bool) -> Callable[[], None]:
        def loop() -> None:
            believe = mock.patch.object(roots, "certificate", mine.__getitem__)
            with believe if believing else contextlib.nullcontext():
                for _ in range(_MANY):
                    work()

        return loop

    return [
        (
            f"{_MANY} times {count} GPU(s), chain and two RIMs known",
            many(verified(count), True),
            f"{_MANY} times {count} bare P-384 verification(s)",
            many(bare(count), False),
            "1.8",
        )
        for count in (1, 8)
    ]


if __name__ == "__main__":
    import run

    for one in pairs():
        run.pair(*one)

"""Compiling and proving for AWS KMS, Azure Key Vault and Google Cloud: 100 releases x 12 tuples x 8 keys, and more.

Run by hand: ``PYTHONPATH=pipeline:tests python tests/bench/bench_clouds.py [RELEASES …]``. A key policy of AWS and an
allow policy of Google hold fewer: those targets say how many. The issue asks for under 10 s for 100 releases over all
targets that hold them, and growth in proportion to 1,000.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from compile.clouds import CHOICES, cloud_form
from policy.policyworld import NOW

from tallystick.compile.errors import Inexpressible
from tallystick.compile.targets.registry import backend
from tallystick.policy.normal import KeyRule

TUPLES, KEYS = 12, 8


def measure(target: str, releases: int) -> float | None:
    """Return the seconds to emit and prove; None when the target has no room, and says so."""
    names = tuple(f"confidential-inference/part-{n}/v1" for n in range(KEYS))
    keys = tuple(KeyRule(key=name, artifact="weights") for name in names)
    form = replace(cloud_form(target, releases, TUPLES), keys=keys)
    choice, found = CHOICES[target], backend(target)
    stem = choice.keys[0][1][:-1]
    choice = replace(choice, keys=tuple((name, f"{stem}{n}") for n, name in enumerate(names)))
    started = time.perf_counter()
    try:
        files = found.emit(form, choice).files
    except Inexpressible as error:
        print(error.message)
        return None
    proof = found.prove(files, form, choice, NOW)
    assert proof.released == proof.accepted == releases * TUPLES
    return time.perf_counter() - started


def main(sizes: list[int]) -> None:
    """Print one line for each target and size."""
    for target in CHOICES:
        for size in sizes:
            seconds = measure(target, size)
            if seconds is not None:
                print(f"{target}: {size} releases x {TUPLES} tuples x {KEYS} keys: {seconds:.2f} s")


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [2, 100, 300, 1_000])

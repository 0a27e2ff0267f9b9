"""Compiling and proving for the targets of other brokers: 100 releases x 12 tuples x 8 keys, and up to 1,000 releases.

Run by hand: ``PYTHONPATH=pipeline:tests python tests/bench/bench_brokers.py [RELEASES …]``. Intel's ten policies of
10 KB hold fewer: that target says how many. The issue asks for under 10 s for 100 releases, and growth in proportion.
"""

from __future__ import annotations

import sys
import time

from compile.machines import ASKED, CHOICES, entry, form, release, rule, waiving

from tallystick.compile.errors import Inexpressible
from tallystick.compile.targets.registry import backend
from tallystick.policy.normal import KeyRule, NormalForm

TUPLES, KEYS = 12, 8
TARGETS = ("contrast", "corim", "intel-ita", "keylime", "vault-jwt")


def made(target: str, releases: int) -> NormalForm:
    """Return a form of one platform that ``target`` takes: so many releases, 12 tuples each, for 8 keys."""
    name, root, asked = ASKED[target][0]
    found = tuple(
        release(f"r{n}", *(entry(name, f"r{n} {shape}") for shape in range(TUPLES))) for n in range(releases)
    )
    keys = tuple(KeyRule(key=f"confidential-inference/part-{n}/v1", artifact="weights") for n in range(KEYS))
    return form((rule(name, root, *asked),), found, keys=keys)


def measure(target: str, releases: int) -> float | None:
    """Return the seconds to emit and prove; None when the target has no room, and says so."""
    from compile.machines import NOW

    found, choice = backend(target), CHOICES[target]
    whole = waiving(found, made(target, releases), choice)
    started = time.perf_counter()
    try:
        files = found.emit(whole, choice).files
    except Inexpressible as error:
        print(error.message)
        return None
    proof = found.prove(files, whole, choice, NOW)
    assert proof.released == proof.accepted == releases * TUPLES
    return time.perf_counter() - started


def main(sizes: list[int]) -> None:
    """Print one line for each target and size."""
    for target in TARGETS:
        for size in sizes:
            seconds = measure(target, size)
            if seconds is not None:
                print(f"{target}: {size} releases x {TUPLES} tuples x {KEYS} keys: {seconds:.2f} s")


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [5, 100, 300, 1_000])

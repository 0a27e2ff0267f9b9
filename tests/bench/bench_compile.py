"""Compiling and proving for the targets broker and trustee: 100 releases x 12 tuples x 8 keys, and up to 1,000.

Run by ``tests/bench/run.py``; alone: ``PYTHONPATH=pipeline:tests python tests/bench/bench_compile.py [RELEASES …]``.
The issue asks for under 10 s on 2 cores for 100 releases, and growth in proportion to 1,000.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from compile.emitted import choice, trustee_form
from policy.policyworld import NOW, release

from tallystick.compile.produce import produce
from tallystick.policy.model import Target
from tallystick.policy.normal import KeyRule, NormalForm

TUPLES, KEYS = 12, 8
BROKER = Target(name="broker", place=choice().place, waivers=())


def form(releases: int) -> NormalForm:
    """Return a form of so many releases, each with 12 launch shapes, for 8 keys."""
    shapes = tuple(256 * (n + 1) for n in range(TUPLES))
    made = [release(f"r{n}", version=f"0.{n}", days=n % 9, shapes=shapes) for n in range(releases)]
    keys = tuple(KeyRule(key=f"confidential-inference/part-{n}/v1", artifact="weights") for n in range(KEYS))
    return replace(trustee_form(*made), keys=keys)


def measure(releases: int) -> list[tuple[str, int, float]]:
    """Return (target, releases, processor seconds to emit and prove) of each target; one that has no room says so."""
    from tallystick.compile.errors import Inexpressible

    made, found = form(releases), []
    for target in (BROKER, choice()):
        started = time.process_time()
        try:
            (one,) = produce(made, [target], NOW)
        except Inexpressible as error:
            print(f"{target.name}: {error.message}")
            continue
        assert one.proof.released == one.proof.accepted == releases * TUPLES
        found.append((target.name, releases, time.process_time() - started))
    return found


def main(sizes: list[int]) -> None:
    """Print one line for each target and size."""
    for size in sizes:
        for name, releases, seconds in measure(size):
            print(f"{name}: {releases} releases x {TUPLES} tuples x {KEYS} keys: {seconds:.2f} s")


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [100, 300, 1_000])

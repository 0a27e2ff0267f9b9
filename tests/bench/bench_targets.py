"""Compiling and proving for every target: releases of 12 tuples each, for 8 keys, alone and all side by side.

Run by ``tests/bench/run.py``; alone: ``PYTHONPATH=pipeline:tests python tests/bench/bench_targets.py [RELEASES …]``.
Each target gets a form of platforms that it takes, of the same size. The issue asks for under 10 s on 2 cores for 100
releases over all targets whose limits hold them, and growth in proportion to 1,000. A key policy of AWS, an allow
policy of Google and Intel's ten policies of 10 KB hold fewer: those targets say how many.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import replace

from compile import clouds, machines
from compile.emitted import choice, trustee_form
from policy.policyworld import NOW, release

from tallystick.compile.errors import Inexpressible
from tallystick.compile.produce import Job, make, make_all
from tallystick.compile.targets.registry import backend
from tallystick.policy.model import Target
from tallystick.policy.normal import KeyRule, NormalForm

TUPLES, KEYS = 12, 8
NAMES = tuple(f"confidential-inference/part-{n}/v1" for n in range(KEYS))
RULES = tuple(KeyRule(key=name, artifact="weights") for name in NAMES)
OTHERS = ("contrast", "corim", "intel-ita", "keylime", "vault-jwt")  # "nvidia" judges GPUs and has no tuples


def jobs(releases: int) -> Mapping[str, Job]:
    """Return what each target is to make."""
    found = {name: _cloud(name, releases) for name in clouds.CHOICES}
    found |= {name: _other(name, releases) for name in OTHERS}
    found |= {
        target.name: Job(form=_quotes(releases), target=target, now=NOW) for target in (_BROKER, choice())
    }
    return dict(sorted(found.items()))


_BROKER = Target(name="broker", place=choice().place, waivers=())


def _quotes(releases: int) -> NormalForm:
    shapes = tuple(256 * (n + 1) for n in range(TUPLES))
    made = [release(f"r{n}", version=f"0.{n}", days=n % 9, shapes=shapes) for n in range(releases)]
    return replace(trustee_form(*made), keys=RULES)


def _cloud(target: str, releases: int) -> Job:
    form = replace(clouds.cloud_form(target, releases, TUPLES), keys=RULES)
    own = clouds.CHOICES[target]
    stem = own.keys[0][1][:-1]
    own = replace(own, keys=tuple((name, f"{stem}{n}") for n, name in enumerate(NAMES)))
    return Job(form=form, target=own, now=NOW)


def _other(target: str, releases: int) -> Job:
    platform, root, asked = machines.ASKED[target][0]
    found = tuple(
        machines.release(f"r{n}", *(machines.entry(platform, f"r{n} {shape}") for shape in range(TUPLES)))
        for n in range(releases)
    )
    form = machines.form((machines.rule(platform, root, *asked),), found, keys=RULES)
    own = machines.CHOICES[target]
    return Job(form=machines.waiving(backend(target), form, own), target=own, now=NOW)


def measure(releases: int) -> dict[str, float | None]:
    """Return the seconds that each target takes alone, and ``all`` together in processes; None where it has no room."""
    wanted = jobs(releases)
    found: dict[str, float | None] = {}
    for name, job in wanted.items():
        started = time.perf_counter()
        try:
            proof = make(job).proof
        except Inexpressible as error:
            print(error.message, file=sys.stderr)
            found[name] = None
            continue
        found[name] = time.perf_counter() - started
        assert proof.released == proof.accepted == releases * TUPLES
    fitting = [job for name, job in wanted.items() if found[name] is not None]
    started = time.perf_counter()
    make_all(fitting)
    found["all of them, side by side"] = time.perf_counter() - started
    return found


def main(sizes: list[int]) -> None:
    """Print one line for each target and size."""
    for size in sizes:
        for name, seconds in measure(size).items():
            if seconds is not None:
                print(f"{name}: {size} releases x {TUPLES} tuples x {KEYS} keys: {seconds:.2f} s")


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [2, 100, 300, 1_000])

"""``make bench``: ratios against a peer in one interleaved run, written to docs/benchmarks.md.

Absolute times drift by a quarter on a shared machine; a ratio inside one interleaved run holds to a tenth. Each
pair runs A B A B …, and the median of the ratios is what counts.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
_COMMAND = Path(sys.executable).with_name("tally")
TALLY = [str(_COMMAND)] if _COMMAND.is_file() else [sys.executable, "-m", "tallystick.cli"]
ROUNDS = 9
sys.path[:0] = [str(ROOT / "pipeline"), str(ROOT / "tests"), str(ROOT / "tests/bench")]


@dataclass(frozen=True)
class Row:
    what: str
    ours_ms: float
    peer: str
    peer_ms: float
    ratio: float
    limit: str


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pair(
    what: str,
    ours: Callable[[], object],
    peer: str,
    theirs: Callable[[], object],
    limit: str,
    rounds: int = ROUNDS,
) -> Row:
    """Time both, alternating, after one run of each that is not counted."""
    ours(), theirs()
    times = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    ratio = statistics.median(a / b for a, b in times)
    mine, other = (statistics.median(column) * 1000 for column in zip(*times, strict=True))
    row = Row(what, mine, peer, other, ratio, limit)
    sys.stderr.write(f"{what}: {mine:.1f} ms, {peer} {other:.1f} ms, ratio {ratio:.2f} (limit {limit})\n")
    return row


def run(*command: str | Path) -> Callable[[], object]:
    return lambda: subprocess.run(list(map(str, command)), capture_output=True, check=True)


def start_up() -> list[Row]:
    return [
        pair(
            "`tally --help`",
            run(*TALLY, "--help"),
            "`import typer`",
            run(sys.executable, "-c", "import typer"),
            "1.5",
        )
    ]


def measurements() -> list[Row]:
    import bench_artifacts
    import bench_measure

    with tempfile.TemporaryDirectory(prefix="tally-bench-") as folder:
        pairs = [*bench_measure.pairs(Path(folder), TALLY), *bench_artifacts.pairs()]
        return [pair(*one) for one in pairs]


def devices() -> list[Row]:
    from bench_nvidia import pairs

    return [pair(*one) for one in pairs()]


def evidence() -> list[Row]:
    import bench_evidence

    return [pair(*one) for one in bench_evidence.pairs(run)]


def releases() -> list[Row]:
    demo = ROOT / "demo"
    if not (demo / "release").is_dir():
        sys.stderr.write("no demo/release: `make demo` first, for the time of `tally verify`\n")
        return []
    verify = run(*TALLY, "verify", demo / "release", "--trust", demo / "trust.json")
    peer = run(sys.executable, "-c", "import sigstore.verify")
    return [pair("`tally verify` of the demo's release", verify, "`import sigstore.verify`", peer, "1 s")]


def sboms() -> tuple[list[Row], list[str]]:
    """Return the rows, and the lines that name what sbomnix misses of the demo's image."""
    import os
    import shutil

    import bench_sbom

    release = ROOT / "demo" / "release"
    peer = os.environ.get("SBOMNIX") or shutil.which("sbomnix")
    with tempfile.TemporaryDirectory(prefix="tally-bench-") as name:
        rows = [pair(*one) for one in bench_sbom.pairs(Path(name))]
        if peer is None or not release.is_dir():
            return rows, []
        missed = bench_sbom.missed(Path(name) / "demo", release, peer)
    words = f"sbomnix, asked about the same derivations, does not name {len(missed)} components of the demo's image:"
    return rows, ["", "## What sbomnix misses", "", words, "", ", ".join(missed) + "."]


def signing() -> list[Row]:
    import bench_release
    import bench_signing

    with tempfile.TemporaryDirectory(prefix="tally-bench-") as name:
        return [pair(*one) for one in (*bench_signing.pairs(Path(name)), *bench_release.pairs(Path(name)))]


SIZES = (10, 100, 300, 1_000)  # releases of 12 tuples each, for 8 keys


def compiling() -> list[tuple[str, list[float | None]]]:
    """Return, for each target, the seconds to emit and prove policies of ``SIZES``; None where they do not fit."""
    import bench_targets

    found: dict[str, list[float | None]] = {}
    for size in SIZES:
        for name, taken in bench_targets.measure(size).items():
            found.setdefault(name, []).append(taken)
        sys.stderr.write(f"compiled and proved {size} releases for {len(found)} targets\n")
    return sorted(found.items(), key=lambda row: (" " in row[0], row[0]))


def broker() -> list[str]:
    """Return the lines of the broker under load; TALLY_BENCH_RELEASES=100000 for the whole promise on memory."""
    import bench_broker

    lines = [
        "",
        "## The broker under load",
        "",
        "Whole handshakes (auth, attest with SNP evidence, one key) on keep-alive connections over loopback, client",
        "and server on two processors. `floor`: three answers of a bare endpoint of the same server, and the",
        "cryptography that no broker can leave out, in processor time of the same run.",
        "",
        "| what | value | promise |",
        "|---|---|---|",
    ]
    for what, value, promise in bench_broker.measure():
        sys.stderr.write(f"{what}: {value:.2f} (promise {promise or 'none'})\n")
        lines.append(f"| {what} | {value:.2f} | {promise} |")
    return lines


def page(rows: list[Row], compiled: list[tuple[str, list[float | None]]], missed: list[str]) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`: each row is one interleaved run on one machine, ours and the peer's in turn, and the",
        "ratio is the median of the pairs. Times are medians and drift; ratios hold. `limit` is what we promise.",
        "",
        "| what | ours | peer | its time | ratio | limit |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.what} | {r.ours_ms:.1f} ms | {r.peer} | {r.peer_ms:.1f} ms | {r.ratio:.2f} | {r.limit} |"
        for r in rows
    ]
    lines += [
        "",
        "## Compile and prove",
        "",
        "Seconds to emit a policy of so many releases, 12 tuples each, for 8 keys, and to prove it. A dash: the",
        "target's limits do not hold them, and it says how many fit. The promise: 100 releases for all targets that",
        "hold them in under 10 s on two processors (the last row), and in proportion from there.",
        "",
        "| target | " + " | ".join(f"{size} releases" for size in SIZES) + " |",
        "|---|" + "---|" * len(SIZES),
    ]
    for name, taken in compiled:
        shown = name if " " in name else f"`{name}`"
        lines.append(f"| {shown} | " + " | ".join("-" if t is None else f"{t:.1f} s" for t in taken) + " |")
    lines += missed
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    described, missed = sboms()
    rows = [*start_up(), *measurements(), *evidence(), *devices(), *described, *signing(), *releases()]
    PAGE.write_text(page(rows, compiling(), [*broker(), *missed]), encoding="utf-8")

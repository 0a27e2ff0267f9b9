"""Coverage-guided fuzzing of NVIDIA's formats (see fuzz_nvidia.py), each parser in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TARGETS = ("report", "fwid", "manifest", "signature", "forms", "response", "show")


@pytest.mark.soak
@pytest.mark.parametrize("target", TARGETS)
def test_no_input_crashes_hangs_or_fills_memory(target, tmp_path):
    pytest.importorskip("atheris")
    seconds = os.environ.get("TALLY_FUZZ_SECONDS", "60")
    root = HERE.parents[1]
    paths = os.pathsep.join(map(str, (root / "pipeline", root / "tests", HERE)))
    environment = os.environ | {"PYTHONPATH": paths}
    write = f"import fuzz_nvidia, pathlib; [pathlib.Path({str(tmp_path)!r}, f's{{n}}').write_bytes(s) for n, s in "
    write += f"enumerate(fuzz_nvidia.seeds({target!r}))]"
    subprocess.run([sys.executable, "-c", write], env=environment, check=True, capture_output=True)
    limits = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=1024", "-max_len=65536"]
    done = subprocess.run(
        [sys.executable, str(HERE / "fuzz_nvidia.py"), target, *limits, str(tmp_path)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]

"""Where other people's evidence and conformance cases lie. None of it is committed to the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


def folder(name: str) -> Path:
    """Return the corpus folder ``name`` ("conformance/merkle"); skip without it, and fail under CI.

    ``TALLY_CORPUS`` names the place that holds ``conformance`` and ``evidence``; the default is ``shared``
    beside the checkout.
    """
    root = Path(os.environ.get("TALLY_CORPUS") or _ROOT.parent / "shared")
    path = root / name
    if path.is_dir():
        return path
    reason = (
        f"the corpus folder {name} is not there; `make corpus` assembles it, TALLY_CORPUS names another place"
    )
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)

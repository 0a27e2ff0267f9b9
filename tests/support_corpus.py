"""Where other people's evidence and conformance cases lie: skipped where they are missing, never in CI."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORPUS = Path(os.environ.get("TALLY_CORPUS", ROOT.parent / "shared"))


def corpus(path: str) -> Path:
    """Return the corpus file or folder at ``path`` ("evidence/snp/…")."""
    found = CORPUS / path
    if not found.exists():
        reason = f"the corpus has no {path} (TALLY_CORPUS names another place)"
        pytest.skip(reason)
    return found

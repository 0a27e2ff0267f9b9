"""The HTTP front of a box's Sigstore, on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from signing.boxes import Box

from tallystick.signing.embedded import http
from tallystick.signing.embedded.front import Front


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@contextmanager
def serving(box: Box) -> Iterator[str]:
    """Serve the box's Sigstore on loopback and give its URL."""
    with http.serving(Front(box.instance), "127.0.0.1", 0, now) as url:
        yield url

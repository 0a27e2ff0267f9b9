"""A Rekor v1 asked for its head and for consistency proofs. What it says is verified by who asked.

Source: sigstore/rekor, openapi.yaml: getLogInfo, getLogProof.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib import error, parse, request

from tallystick.core.errors import Misuse, Unreachable
from tallystick.tlog import checkpoint as cp

_WAIT_SECONDS = 10
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RekorV1:
    """The log at a URL."""

    url: str

    def checkpoint(self) -> str:
        """Return the signed checkpoint of the log as it is.

        Raises:
            Unreachable: ``sigstore.unreachable``.
        """
        said = self._get("/api/v1/log", {}).get("signedTreeHead")
        if not isinstance(said, str):
            raise self._strange("no signedTreeHead")
        return said

    def consistency(self, older: int, newer: int) -> tuple[bytes, ...]:
        """Return the proof that the first ``older`` entries are a prefix of the first ``newer``.

        Raises:
            Unreachable: ``sigstore.unreachable``.
        """
        tree = cp.parse(cp.parse_note(self.checkpoint()).text).origin.rpartition(" ")[2]
        query = {"firstSize": str(older), "lastSize": str(newer), "treeID": tree}
        hashes = self._get("/api/v1/log/proof", query).get("hashes")
        try:
            return tuple(bytes.fromhex(step) for step in hashes or ())
        except (TypeError, ValueError):
            raise self._strange("a proof that is no list of hashes") from None

    def _get(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        if not self.url.startswith(("http://", "https://")):
            raise Misuse(
                f"a log's URL begins with http:// or https://, got {self.url[:60]}", code="sigstore.url"
            )
        full = f"{self.url.rstrip('/')}{path}" + (f"?{parse.urlencode(query)}" if query else "")
        try:
            with request.urlopen(full, timeout=_WAIT_SECONDS) as answer:  # noqa: S310 (the scheme was looked at)
                document = json.loads(answer.read(_MAX_BYTES))
        except (OSError, ValueError, error.URLError) as failed:
            raise self._strange(str(failed)) from None
        if not isinstance(document, dict):
            raise self._strange("no object")
        return document

    def _strange(self, said: str) -> Unreachable:
        return Unreachable(f"the log at {self.url} answers: {said}", code="sigstore.unreachable")

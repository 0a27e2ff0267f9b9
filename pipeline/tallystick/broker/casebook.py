"""Recorded decisions as a folder of files: what ``tally broker evidence export`` writes and ``whatif`` reads.

``decisions/ID.json`` the records, ``evidence/ID.json`` what each attestation showed, ``backings/HEX.json`` what it
was verified with, ``policies/HEX.json`` what decided. The last two are named by their sha256 and held to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tallystick.broker import evidence_record
from tallystick.broker.decisions import parse_record
from tallystick.broker.evidence_record import RecordedEvidence
from tallystick.broker.proving import Backing
from tallystick.broker.secretfiles import private_folder, write_secret
from tallystick.broker.whatif import Casebook
from tallystick.core.digests import Digest
from tallystick.core.errors import Misuse, NotGenuine, Refused, TallystickError
from tallystick.core.files import read_file
from tallystick.core.findings import Finding

_MAX_BYTES = 64 << 20
_ID = re.compile(r"[0-9A-Za-z-]{1,80}")


class FolderCasebook:
    """Recorded decisions in a folder."""

    def __init__(self, folder: Path) -> None:
        """Hold the folder.

        Raises:
            Misuse: it has no ``decisions`` (``whatif.folder``).
        """
        if not (folder / "decisions").is_dir():
            message = f"{folder} holds no decisions; `tally broker evidence export` writes such a folder"
            raise Misuse(message, code="whatif.folder")
        self._folder = folder
        self._backing = lru_cache(maxsize=64)(self._read_backing)

    def records(self) -> Iterator[Mapping[str, Any]]:
        """Yield every record, in the order of their identifiers, which begin with the time."""
        for path in sorted((self._folder / "decisions").glob("*.json")):
            yield parse_record(read_file(path, "decision", max_bytes=_MAX_BYTES))

    def evidence(self, attestation: str) -> tuple[RecordedEvidence, Backing]:
        """Return the evidence of an attestation.

        Raises:
            Refused: it is not here (``evidence.not-kept``). NotGenuine: a file is not what its name says.
        """
        path = self._folder / "evidence" / f"{attestation}.json"
        if not _ID.fullmatch(attestation) or not path.is_file():
            raise not_kept(attestation)
        kept = evidence_record.read(read_file(path, "recorded evidence", max_bytes=_MAX_BYTES))
        if kept.attestation != attestation:
            finding = Finding("evidence.other", f"evidence/{attestation}", attestation, kept.attestation)
            raise NotGenuine(finding.message, findings=[finding])
        return kept, self._backing(kept.backing)

    def policy(self, digest: Digest) -> bytes | None:
        """Return a compiled policy; None when it is not here."""
        path = self._folder / "policies" / f"{digest.hex}.json"
        return read_file(path, "compiled policy", max_bytes=_MAX_BYTES) if path.is_file() else None

    def _read_backing(self, digest: Digest) -> Backing:
        path = self._folder / "backings" / f"{digest.hex}.json"
        if not path.is_file():
            raise Refused(f"what evidence was verified with is not here: {digest}", code="evidence.not-kept")
        data = read_file(path, "evidence backing", max_bytes=_MAX_BYTES)
        if Digest.of(data) != digest:
            finding = Finding("evidence.backing", str(path), str(digest), str(Digest.of(data)))
            raise NotGenuine(finding.message, findings=[finding])
        return evidence_record.read_backing(data)


def export(casebook: Casebook, folder: Path) -> tuple[int, int]:
    """Write every decision of a key, with its evidence and policy, and return how many have evidence and not.

    Raises:
        Misuse: the folder is there already (``file.exists``).
    """
    if folder.exists():
        raise Misuse(f"{folder} is there already", code="file.exists")
    for part in ("decisions", "evidence", "backings", "policies"):
        private_folder(folder / part)
    written: dict[str, bool] = {}
    for record in casebook.records():
        if "attestation" not in record:
            continue
        write_secret(folder / "decisions" / f"{record['decision']}.json", _bytes(record))
        if "policy" in record:
            digest = Digest.parse(record["policy"])
            path = folder / "policies" / f"{digest.hex}.json"
            if not path.exists() and (data := casebook.policy(digest)) is not None:
                write_secret(path, data)
        if record["attestation"] not in written:
            written[record["attestation"]] = _evidence(casebook, record["attestation"], folder)
    return sum(written.values()), sum(not found for found in written.values())


def _evidence(casebook: Casebook, attestation: str, folder: Path) -> bool:
    try:
        kept, backing = casebook.evidence(attestation)
    except TallystickError:
        return False
    write_secret(folder / "evidence" / f"{attestation}.json", evidence_record.write(kept))
    path = folder / "backings" / f"{kept.backing.hex}.json"
    if not path.exists():
        write_secret(path, evidence_record.write_backing(backing))
    return True


def not_kept(attestation: str) -> Refused:
    """Return the error for evidence that is not kept, or not any more."""
    return Refused(
        f"the evidence of attestation {attestation} is not kept, or not any more", code="evidence.not-kept"
    )


def _bytes(record: Mapping[str, Any]) -> bytes:
    from tallystick.core.jsondoc import canonical

    return canonical(record)

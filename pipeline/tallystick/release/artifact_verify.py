"""Artifact releases, verified: who signed the manifest and the SBOM, and that they and the files agree.

An artifact release is not built, so nobody rebuilds it: its signer answers for it, as the trust file's
``artifact_signers`` say who may. What its files decrypt to is checked where they are opened.

Source: docs/decisions/0157-artifact-releases.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tallystick.core.digests import Digest
from tallystick.core.errors import Misuse, NotGenuine, Refused
from tallystick.core.files import file_digest, read_file
from tallystick.core.findings import Finding
from tallystick.formats import intoto
from tallystick.handshake import artifact, wrapping
from tallystick.handshake import manifest as manifests
from tallystick.handshake.manifest import Artifact, Manifest
from tallystick.release import artifact_seal, metadata, names
from tallystick.release.records import VerifiedArtifacts
from tallystick.sbom import models
from tallystick.signing.records import Trust, VerifiedStatement

if TYPE_CHECKING:
    from tuf.api.metadata import Targets

    from tallystick.signing.verify import Verifier

SBOM = "sbom.json"  # the in-toto statement, unsigned
PREDICATES = {"artifacts": names.RELEASE_PREDICATE, "sbom": names.PREDICATES["sbom"]}
FILES = (artifact_seal.MANIFEST, *(names.bundle_file(name) for name in PREDICATES))  # that a channel carries
PREFIX = "artifacts/"  # of a channel's targets: artifacts/<digest>/<file>
_MAX_BYTES = 16 << 20

Read = Callable[[str], bytes | None]  # a path inside the release -> bytes, None when there is no file


def statement(manifest: Manifest) -> bytes:
    """Return what the signer of an artifact release signs: that this is the manifest of that name and version."""
    about = [(artifact_seal.MANIFEST, {"sha256": manifest.digest.hex})]
    purl = f"pkg:generic/{manifest.name}@{manifest.version}"
    return intoto.make(about, names.RELEASE_PREDICATE, {"purl": purl})


def from_folder(folder: Path) -> Read:
    """Return what reads the files of the artifact release in ``folder``."""

    def read(path: str) -> bytes | None:
        try:
            return read_file(folder / path, path, max_bytes=_MAX_BYTES)
        except Misuse:
            return None

    return read


def verify(read: Read, trust: Trust, now: datetime, verifier: Verifier, where: str) -> VerifiedArtifacts:
    """Return the artifact release that ``read`` gives, once its statements were verified.

    Raises:
        Refused: the trust file lets nobody sign artifact releases (``artifact.signers``).
        NotGenuine: a part is missing (``artifact.file.missing``), not signed by one of them, or says something
            else than the manifest (``artifact.statement``, ``artifact.sbom``).
        Malformed, Unsupported: a part that breaks its own format.
    """
    if not trust.artifact_signers:
        finding = Finding("artifact.signers", "trust file: artifact_signers", "at least one identity", "none")
        raise Refused(finding.message, findings=[finding])
    manifest = manifests.parse(_part(read, artifact_seal.MANIFEST, where))
    found: dict[str, VerifiedStatement] = {}
    for name, predicate_type in PREDICATES.items():
        file = names.bundle_file(name)
        found[name] = verifier.statement(
            _part(read, file, where),
            signers=trust.artifact_signers,
            predicate_type=predicate_type,
            now=now,
            what=f"{where}{file}",
        )
    if found["artifacts"].payload != statement(manifest):
        got = ", ".join(
            f"{s.name} {dict(s.digests)}" for s in intoto.parse(found["artifacts"].payload).subjects
        )
        raise _refused("statement", f"{where}{artifact_seal.MANIFEST}", str(manifest.digest), got)
    findings = tuple(models.differences(intoto.parse(found["sbom"].payload), manifest))
    if findings:
        raise NotGenuine(f"{where}: {findings[0].message}", findings=findings)
    return VerifiedArtifacts(
        manifest=manifest, statements=tuple(sorted(found.items())), labels=(trust.label,)
    )


def digests(signed: Targets) -> tuple[Digest, ...]:
    """Return the digests of the artifact releases that the verified targets list, sorted.

    Raises:
        Malformed: a target path that names no digest.
    """
    found = {path.split("/")[1] for path in signed.targets if path.startswith(PREFIX)}
    return tuple(Digest.parse(f"sha256:{text}") for text in sorted(found))


def verify_target(
    read: Read, signed: Targets, digest: Digest, trust: Trust, now: datetime, verifier: Verifier
) -> VerifiedArtifacts:
    """Return the artifact release ``digest`` from the channel's targets.

    Raises:
        NotGenuine: its manifest is another one's (``release.target.index``), or as
            :func:`verify`.
    """
    prefix = f"{PREFIX}{digest.hex}/"

    def part(path: str) -> bytes | None:
        return metadata.target(read, signed, prefix + path) if prefix + path in signed.targets else None

    found = verify(part, trust, now, verifier, prefix)
    if found.manifest.digest != digest:
        got = str(found.manifest.digest)
        finding = Finding("release.target.index", prefix, want=str(digest), got=got)
        raise NotGenuine(finding.message, findings=[finding])
    return found


def check_files(folder: Path, manifest: Manifest) -> None:
    """Hold every encrypted file and wrapped key in ``folder`` against ``manifest``; no key is needed.

    Raises:
        NotGenuine: with a finding for each file that is missing or another one, and for each data key that is
            wrapped for something else.
    """
    findings = [finding for one in manifest.artifacts for finding in _file(folder, manifest, one)]
    if findings:
        raise NotGenuine(f"{folder}: {findings[0].message}", findings=findings)


def _file(folder: Path, manifest: Manifest, one: Artifact) -> Iterator[Finding]:
    place = folder / artifact_seal.FILES / one.file
    beside = place.with_name(one.file + wrapping.SUFFIX)
    for path in (place, beside):
        if not path.is_file():
            yield Finding("artifact.file.missing", path.name, "a file", "none")
            return
    got = file_digest(place)
    if got != one.ciphertext:
        yield Finding("artifact.ciphertext", one.file, str(one.ciphertext), str(got))
        return
    with place.open("rb") as stream:
        header = artifact.read_header(stream)
    if header.plaintext != one.plaintext:
        yield Finding("artifact.plaintext", one.file, str(one.plaintext), str(header.plaintext))
    want = wrapping.binding(manifest, one, header).document()
    data = read_file(beside, "wrapped key", max_bytes=wrapping.MAX_BYTES)
    said = wrapping.parse(data).binding.document()
    for name in want:
        if want[name] != said[name]:
            yield Finding(f"wrapping.{name}", beside.name, want[name], said[name])


def _part(read: Read, path: str, where: str) -> bytes:
    data = read(path)
    if data is None:
        raise _refused("file.missing", f"{where}{path}", "a file", "none")
    return data


def _refused(code: str, where: str, want: str, got: str) -> NotGenuine:
    finding = Finding(f"artifact.{code}", where, want, got)
    return NotGenuine(finding.message, findings=[finding])

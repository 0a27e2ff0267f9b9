"""A release verified offline, against a trust file that lies outside it. Nothing in the release is believed.

Source: DESIGN.md, invariants 4 to 6.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tallystick.build import contents as contents_lists
from tallystick.build.records import Contents
from tallystick.core.digests import Digest
from tallystick.core.errors import Misuse, NotGenuine, Unreachable
from tallystick.core.files import read_file
from tallystick.core.findings import Finding
from tallystick.formats import intoto, slsa
from tallystick.measure import statement as measurements
from tallystick.measure.records import NO_FIRMWARE, Measurement
from tallystick.release import artifact, layout, names, quorum, source, verdict
from tallystick.release import index as indexes
from tallystick.release.records import Index, Quorum, VerifiedRelease
from tallystick.signing.checks import check_builder
from tallystick.signing.records import Builder, Trust, VerifiedStatement
from tallystick.signing.verify import Verifier

_MAX_FILE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A release's files, wherever they are kept: a folder, or the targets of a channel."""

    read: Callable[[str], bytes | None]
    beside: Mapping[str, bytes]  # everything in bundles/, links/ and promotions/, by path
    where: str  # for errors: the folder or the target path


def from_folder(folder: Path) -> Parts:
    """Return the release in ``folder`` as parts.

    Raises:
        NotGenuine: something in bundles/, links/ or promotions/ is no plain file (``release.file.kind``).
    """
    beside: dict[str, bytes] = {}
    odd: list[Finding] = []
    for name in indexes.BESIDE:
        for entry in _scan(folder / name):
            path = f"{name}/{entry.name}"
            if not entry.is_file(follow_symlinks=False) or not indexes.safe_path(path):
                odd.append(Finding("release.file.kind", path, want="a plain file", got="something else"))
            else:
                beside[path] = read_file(Path(entry.path), path, max_bytes=_MAX_FILE_BYTES)
    if odd:
        raise NotGenuine(f"{folder}: a release holds plain files only", findings=odd)

    def read(path: str) -> bytes | None:
        place = folder / path
        return read_file(place, path, max_bytes=_MAX_FILE_BYTES) if place.is_file() else None

    return Parts(read=read, beside=beside, where=str(folder))


def verify_release(
    folder: Path, trust: Trust, now: datetime, verifier: Verifier | None = None
) -> VerifiedRelease:
    """Return the release in ``folder`` with every file hashed and every statement verified at ``now``.

    Whether its rebuild quorum is met is ``VerifiedRelease.quorum.met``; a rebuild that differs refuses it.

    Args:
        trust: from outside the release; what the release brings along is never a root.
        verifier: of ``trust.sigstore_root``, when there is one already.

    Raises:
        NotGenuine: with the file named, and the first check that did not hold.
        Refused: rebuilds that differ, or a layout that does not hold at ``now``.
        Malformed, Unsupported: a part that breaks its own format.
        Misuse: there is no release here.
    """
    verifier = verifier or Verifier(trust.sigstore_root)
    parts = from_folder(folder)
    opened = open_index(parts, trust, now, verifier)
    indexes.check(folder, opened[0])
    return verify_parts(parts, opened, trust, now, verifier)


def open_index(
    parts: Parts, trust: Trust, now: datetime, verifier: Verifier
) -> tuple[Index, VerifiedStatement]:
    """Return the index, which is exactly the one that a builder signed, and that builder's statement.

    Raises:
        Misuse: there is no index. NotGenuine: not signed, or another index was (``release.file.changed``).
        Malformed, Unsupported: signed, and no index.
    """
    data = parts.read(indexes.FILE)
    if data is None:
        raise Misuse(f"there is no release in {parts.where}: no {indexes.FILE}", code="file.missing")
    file = names.bundle_file("index")
    if file not in parts.beside:
        check_beside(parts, trust)
    signers = tuple(builder.identity for builder in trust.builders)
    verified = verifier.statement(
        parts.beside[file], signers=signers, predicate_type=names.RELEASE_PREDICATE, now=now, what=file
    )
    check_beside(parts, trust)  # after the signature: a forgery is told as one
    subjects = intoto.parse(verified.payload).subjects
    named = [one.name for one in subjects]
    if named not in ([indexes.FILE], [indexes.FILE, artifact.SUBJECT]):  # older releases have the index alone
        want = f"{indexes.FILE}, {artifact.SUBJECT}"
        raise _finding("release.statement.other", file, want, ", ".join(named))
    signed = [dict(one.digests).get("sha256", "none") for one in subjects]
    if signed[0] != Digest.of(data).hex:
        raise _finding("release.file.changed", indexes.FILE, f"sha256:{signed[0]}", str(Digest.of(data)))
    follows = [
        digests["sha256"] for _, digests in artifact.subjects(data)
    ]  # of an index that is the signed one
    if signed != follows[: len(signed)]:
        want = ", ".join(f"sha256:{one}" for one in follows[1:]) or "no manifest, of too many files"
        raise _finding("release.statement.manifest", artifact.SUBJECT, want, f"sha256:{signed[1]}")
    return indexes.parse(data), verified


def verify_parts(
    parts: Parts,
    opened: tuple[Index, VerifiedStatement],
    trust: Trust,
    now: datetime,
    verifier: Verifier,
) -> VerifiedRelease:
    """Return the release of an opened index, every part read from ``parts`` held to it; as :func:`verify_release`.

    The products are not read here: whoever has them compares them with the index.
    """
    index, _ = opened
    statements = verify_statements(parts, opened, trust, now, verifier)
    builder = check_builders(statements, trust)
    check_subjects(statements, index)
    release = VerifiedRelease(
        index=index,
        statements=tuple(sorted(statements.items())),
        builder=builder,
        quorum=judge_quorum(parts, index, trust, builder, now),
        measurements=read_measurements(statements, index),
        contents=read_contents(parts, index),
        vsa=None,
        labels=(trust.label,),
        source=source.verify(
            parts.beside.get(names.SOURCE_VSA), statements["provenance"], trust, now, verifier
        ),
    )
    for channel, _ in trust.channels:
        data = parts.beside.get(names.promotion_file(channel))
        if data is not None:
            verdict.verify(data, release, trust, channel, now, verifier)
    return release


def check_beside(parts: Parts, trust: Trust) -> None:
    """Check that bundles/ and promotions/ hold what they should and nothing else; links have their own check.

    Raises:
        NotGenuine: ``release.file.missing`` or ``release.file.extra``.
    """
    wanted = {names.bundle_file(statement) for statement in names.PREDICATES}
    possible = wanted | {names.SOURCE_VSA} | {names.promotion_file(channel) for channel, _ in trust.channels}
    there = {path for path in parts.beside if not path.startswith("links/")}
    findings = [
        Finding("release.file.missing", path, want="a bundle (`tally sign` writes it)", got="no file")
        for path in sorted(wanted - there)
    ]
    findings += [
        Finding("release.file.extra", path, want="no such file", got="a file")
        for path in sorted(there - possible)
    ]
    if findings:
        raise NotGenuine(f"{parts.where}: {findings[0].message}", findings=findings)


def verify_statements(
    parts: Parts,
    opened: tuple[Index, VerifiedStatement],
    trust: Trust,
    now: datetime,
    verifier: Verifier,
) -> dict[str, VerifiedStatement]:
    """Return each signed statement, each exactly the one that the index names.

    Raises:
        NotGenuine: a bundle does not hold, or is about another statement (``release.statement.other``).
    """
    index, statement = opened
    signers = tuple(builder.identity for builder in trust.builders)
    found = {"index": statement}
    for name, wanted in index.statements:
        file = names.bundle_file(name)
        verified = verifier.statement(
            parts.beside[file],
            signers=signers,
            predicate_type=names.PREDICATES[name],
            now=now,
            what=file,
        )
        if Digest.of(verified.payload) != wanted:
            raise _finding("release.statement.other", file, str(wanted), str(Digest.of(verified.payload)))
        found[name] = verified
    return found


def check_builders(statements: Mapping[str, VerifiedStatement], trust: Trust) -> Builder:
    """Return the builder that signed all of ``statements`` and is the one that the provenance names.

    Raises:
        NotGenuine: ``bundle.builder-id``, or ``release.signers`` when not all are by one signer.
    """
    provenance = slsa.parse(intoto.parse(statements["provenance"].payload))
    file = names.bundle_file("provenance")
    builder = check_builder(statements["provenance"], provenance.builder_id, trust.builders, file)
    findings = [
        Finding("release.signers", names.bundle_file(name), want=builder.identity.san, got=found.signer.san)
        for name, found in sorted(statements.items())
        if found.signer != builder.identity
    ]
    if findings:
        raise NotGenuine("not all statements are by the builder of the release", findings=findings)
    return builder


def check_subjects(statements: Mapping[str, VerifiedStatement], index: Index) -> None:
    """Check that provenance and SBOM are about exactly the products.

    Raises:
        NotGenuine: ``release.subject.provenance`` or ``release.subject.sbom``.
    """
    findings = [
        *subject_findings("provenance", statements["provenance"], index),
        *subject_findings("sbom", statements["sbom"], index),
    ]
    if findings:
        raise NotGenuine("a statement is not about this release's products", findings=findings)


def subject_findings(name: str, verified: VerifiedStatement, index: Index) -> Iterator[Finding]:
    """Yield where the subjects of a statement and the products of ``index`` are not the same files."""
    code = f"release.subject.{name}"
    products = {entry.path: entry.digest for entry in index.product_files()}
    listed = intoto.parse(verified.payload).subjects
    subjects = {subject.name: subject for subject in listed}
    if len(subjects) != len(listed):
        yield Finding(code, name, want="each subject once", got="a name twice")
    for path in sorted(products.keys() | subjects.keys()):
        if path not in products:
            yield Finding(code, f"{name} {path}", want="a product of the release", got="another subject")
        elif path not in subjects:
            yield Finding(code, f"{name} {path}", want=str(products[path]), got="no such subject")
        elif not subjects[path].has(products[path]):
            got = dict(subjects[path].digests).get("sha256", "no sha256")
            yield Finding(code, f"{name} {path}", want=str(products[path]), got=f"sha256:{got}")


def judge_quorum(parts: Parts, index: Index, trust: Trust, builder: Builder, now: datetime) -> Quorum:
    """Return who rebuilt the release, by the layout of the trust file; see :func:`quorum.judge`."""
    rules = layout.read(trust.layout, trust.layout_owners, now)
    return quorum.judge(rules, link_files(parts), index, builder_id=builder.builder_id)


def link_files(parts: Parts) -> dict[str, bytes]:
    """Return the rebuild links by file name."""
    return {
        path.removeprefix("links/"): data for path, data in parts.beside.items() if path.startswith("links/")
    }


def read_measurements(statements: Mapping[str, VerifiedStatement], index: Index) -> tuple[Measurement, ...]:
    """Return the signed measurements, every one of an image and a firmware that the index names.

    Raises:
        NotGenuine: ``release.measurement.image`` or ``release.measurement.firmware``.
    """
    if "measurements" not in statements:  # of firmware alone
        return ()
    found = measurements.from_statement(intoto.parse(statements["measurements"].payload))
    products = {entry.digest for entry in index.product_files()}
    firmwares = {NO_FIRMWARE, *(entry.digest for entry in index.under("firmware/"))}
    findings = []
    for one in found:
        for what, digest, known in (("image", one.image, products), ("firmware", one.firmware, firmwares)):
            if digest not in known:
                where = f"measurement for {one.platform}"
                want = f"a {what} of the release"
                findings.append(Finding(f"release.measurement.{what}", where, want=want, got=str(digest)))
    if findings:
        raise NotGenuine("a measurement is not of this release's files", findings=findings)
    return found


def read_contents(parts: Parts, index: Index) -> tuple[Contents, ...]:
    """Return the contents list of every product, each as the index names it.

    Raises:
        NotGenuine: a list is missing, or is not the one that the index names.
    """
    found = []
    for entry in index.under("contents/"):
        data = parts.read(entry.path)
        if data is None:
            raise _finding("release.file.missing", entry.path, str(entry.digest), "no file")
        if Digest.of(data) != entry.digest:
            raise _finding("release.file.changed", entry.path, str(entry.digest), str(Digest.of(data)))
        found.append(contents_lists.parse(data, entry.path))
    listed, products = {contents.product for contents in found}, {name for name, _ in index.products}
    if listed != products or len(listed) != len(found):
        want, got = ", ".join(sorted(products)), ", ".join(sorted(listed)) or "none"
        raise _finding("release.contents", "contents/", f"one list for each of {want}", got)
    return tuple(sorted(found, key=lambda contents: contents.product))


def _finding(code: str, where: str, want: str, got: str) -> NotGenuine:
    finding = Finding(code, where, want=want, got=got)
    return NotGenuine(finding.message, findings=[finding])


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Unreachable(f"{folder}: {error.strerror}", code="file.unreadable") from None

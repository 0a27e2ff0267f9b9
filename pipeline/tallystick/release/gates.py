"""The checks that run before a release is promoted, each with its name, shown one by one.

Source: docs/decisions/0062-promotion-gates.md. A gate that can not run because an earlier one failed says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from tallystick.build.records import Contents
from tallystick.core.digests import Digest
from tallystick.core.errors import Exit, NotGenuine, Refused, TallystickError
from tallystick.core.files import read_file
from tallystick.core.findings import Finding
from tallystick.formats import cyclonedx, intoto
from tallystick.formats.cyclonedx import Document
from tallystick.measure.records import Measurement
from tallystick.provenance import check as provenance_check
from tallystick.release import (
    custody,
    inventory,
    layout,
    names,
    quorum,
    roles,
    source,
    verify,
    vulnerabilities,
)
from tallystick.release import index as indexes
from tallystick.release.inventory import Inventory
from tallystick.release.records import Gate, Index, Person, Quorum, Rules, Settings, VerifiedRelease
from tallystick.release.verify import Parts
from tallystick.sbom import check as sbom_check
from tallystick.sbom import coverage, vendored
from tallystick.sbom import parts as sbom_parts
from tallystick.sbom.deployable import Known
from tallystick.sbom.known import gather
from tallystick.signing.records import Builder, Trust, VerifiedStatement
from tallystick.signing.verify import Verifier

NAMES = (
    "index",
    "statements",
    "provenance",
    "slsa",
    "source",
    "sbom",
    "sbom-rules",
    "contents",
    "vulnerabilities",
    "measurements",
    "quorum",
    "roots",
    "custody",
    "revocation",
)
_NOT_RUN = "release.gate.not-run"
_DEVELOPMENT = "embedded-dev"
_STORE = "/nix/store/"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a promotion is asked to do."""

    folder: Path
    settings: Settings  # of the channel
    revoked: frozenset[Digest]
    trust: Trust
    now: datetime
    people: tuple[Person, ...] = ()  # of the channel
    asked_platforms: tuple[str, ...] = ()  # by the policies that are live in the channel, beyond its own list
    advisories: tuple[Path, ...] = ()  # signed OSV and VEX files
    source_vsa: bytes | None = None  # bundle; else the one that the release has


class _Run:
    """The gates so far. A gate's value is None when it did not pass."""

    def __init__(self, show: Callable[[Gate], None]) -> None:
        self.gates: list[Gate] = []
        self._show = show

    def gate(self, name: str, call: Callable[[], tuple[T, str]], *needed: object) -> T | None:
        """Run one gate and keep what it said; it runs only when nothing of ``needed`` is None."""
        if any(value is None for value in needed):
            finding = Finding(_NOT_RUN, name, want="every gate before it", got="one that did not pass")
            self._add(Gate(name=name, detail="not run", findings=(finding,)))
            return None
        try:
            value, detail = call()
        except TallystickError as error:
            findings = error.findings or (Finding(error.code, name, want="no error", got=error.message),)
            genuine = error.exit == Exit.REFUSED
            self._add(Gate(name=name, detail=error.message, findings=findings, genuine=genuine))
            return None
        self._add(Gate(name=name, detail=detail, findings=()))
        return value

    def _add(self, gate: Gate) -> None:
        self.gates.append(gate)
        self._show(gate)


def run(
    asked: Asked, show: Callable[[Gate], None] = lambda gate: None
) -> tuple[tuple[Gate, ...], VerifiedRelease | None]:
    """Return every gate's outcome in order, and the release when all of them passed.

    Args:
        show: called with each gate as soon as it has run.
    """
    work, trust, now = _Run(show), asked.trust, asked.now
    verifier, step = Verifier(trust.sigstore_root), work.gate
    opened = step("index", lambda: _index(asked.folder, trust, now, verifier))
    signed = step("statements", lambda: _statements(_some(opened), trust, now, verifier), opened)
    step("provenance", lambda: _provenance(asked.folder, _some(opened), _some(signed)), opened, signed)
    step("slsa", lambda: _slsa(_some(signed), asked.settings.rules), signed)
    step("source", lambda: _source(_some(opened), _some(signed), asked), opened, signed)
    described = step("sbom", lambda: _sbom(asked.folder, _some(opened), _some(signed)), opened, signed)
    step("sbom-rules", lambda: _sbom_rules(_some(described), asked.settings.rules), described)
    step("contents", lambda: _contents(asked.folder, _some(opened).index, _some(described)), described)
    step("vulnerabilities", lambda: _vulnerabilities(_some(described), asked), described)
    measured = step(
        "measurements", lambda: _measurements(_some(opened), _some(signed), asked), opened, signed
    )
    agreed = step("quorum", lambda: _quorum(_some(opened), _some(signed), trust, now), opened, signed)
    step("roots", lambda: check_roots(trust, asked.settings))
    step("custody", lambda: _custody(asked))
    step("revocation", lambda: _revocation(_some(opened).index, asked.revoked), opened)
    gates = tuple(work.gates)
    if not all(gate.passed for gate in gates):
        return gates, None
    return gates, VerifiedRelease(
        index=_some(opened).index,
        statements=tuple(sorted(_some(signed).statements.items())),
        builder=_some(signed).builder,
        quorum=_some(agreed),
        measurements=_some(measured),
        contents=_some(described).contents,
        vsa=None,
        labels=(trust.label,),
        source=_source_vsa(_some(opened), _some(signed), asked),
    )


def require(gates: Iterable[Gate]) -> None:
    """Do nothing when every gate passed.

    Raises:
        NotGenuine: some signature, digest or format did not hold.
        Refused: all of it is genuine, and something that was asked for is missing.
    """
    failed = [gate for gate in gates if not gate.passed]
    if not failed:
        return
    findings = [finding for gate in failed for finding in gate.findings]
    message = "not promoted: " + "; ".join(f"{gate.name}: {gate.detail}" for gate in failed)
    if all(gate.genuine for gate in failed):
        raise Refused(message, findings=findings)
    raise NotGenuine(message, findings=findings)


def rules(settings: Settings, trust: Trust) -> Mapping[str, Any]:
    """Return what these gates asked, as the verdict's ``policy.digest`` covers it."""
    return {
        "channel": settings.name,
        "gates": list(NAMES),
        "layout": str(Digest.of(trust.layout)),
        "platforms": list(settings.platforms),
        "rules": roles.rules_document(settings.rules),
        "threshold": settings.threshold,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """A release whose index is the signed one, and whose files are as the index says."""

    index: Index
    statement: VerifiedStatement
    parts: Parts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signed:
    """Its statements, all by one builder."""

    statements: dict[str, VerifiedStatement]
    builder: Builder


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """What is in the products, as the release says it."""

    contents: tuple[Contents, ...]
    document: Document  # the SBOM
    known: Known

    @property
    def inventory(self) -> Inventory:
        """What an advisory, or a rule of the channel, can be about."""
        return inventory.of_release(self.contents, self.document)


def _index(folder: Path, trust: Trust, now: datetime, verifier: Verifier) -> tuple[_Opened, str]:
    parts = verify.from_folder(folder)
    index, statement = verify.open_index(parts, trust, now, verifier)
    indexes.check(folder, index)
    opened = _Opened(index=index, statement=statement, parts=parts)
    return opened, f"{len(index.files)} files are as the signed index says: {index.digest}"


def _statements(opened: _Opened, trust: Trust, now: datetime, verifier: Verifier) -> tuple[_Signed, str]:
    statements = verify.verify_statements(
        opened.parts, (opened.index, opened.statement), trust, now, verifier
    )
    builder = verify.check_builders(statements, trust)
    return (
        _Signed(statements=statements, builder=builder),
        f"{len(statements)} statements signed by {builder.identity.san}",
    )


def _provenance(folder: Path, opened: _Opened, signed: _Signed) -> tuple[bool, str]:
    """The signed provenance is about these products, and follows from the derivations' texts."""
    index, parts = opened.index, opened.parts
    statement = signed.statements["provenance"]
    findings = tuple(verify.subject_findings("provenance", statement, index))
    if findings:
        raise NotGenuine("provenance is not about this release's products", findings=findings)
    drvs = index.under("derivations/")
    released = provenance_check.Released(
        products={entry.path: entry.digest for entry in index.product_files()},
        recipe=parts.read("recipe.yaml") or b"",
        derivations=tuple(
            (_STORE + entry.path.removeprefix("derivations/"), parts.read(entry.path) or b"")
            for entry in drvs
        ),
        firmware={entry.path: entry.digest for entry in index.under("firmware/")},
    )
    checked = provenance_check.check(intoto.parse(statement.payload), released)
    if checked.findings:
        raise NotGenuine("provenance does not follow from the derivations", findings=checked.findings)
    return True, f"follows from {len(drvs)} derivations, claimed by {checked.provenance.builder_id}"


def _sbom(folder: Path, opened: _Opened, signed: _Signed) -> tuple[_Described, str]:
    """The signed SBOM is about these products, holds by its schema, and says what the contents lists say."""
    index, parts = opened.index, opened.parts
    statement = signed.statements["sbom"]
    findings = tuple(verify.subject_findings("sbom", statement, index))
    contents = verify.read_contents(parts, index)
    document = cyclonedx.checked(intoto.parse(statement.payload).predicate, "statements/sbom.json")
    findings = findings or sbom_check.check_document(document)
    known = gather((entry.path for entry in index.files), lambda path: parts.read(path) or b"", folder)
    if not findings:
        products = {name: entry.digest for name, path in index.products if (entry := index.file(path))}
        firmware = {sbom_parts.firmware_name(e.path): e.digest for e in index.under("firmware/")}
        findings = sbom_check.check_contents(document, products, contents, firmware, known)
    if findings:
        raise NotGenuine("the SBOM does not say what is in this release", findings=findings)
    said = f"{len(document.get('components') or [])} components, as the contents lists say"
    return _Described(contents=contents, document=document, known=known), said


def _slsa(signed: _Signed, rules: Rules) -> tuple[bool, str]:
    level = signed.builder.slsa_build_level
    if level < rules.slsa_build_level:
        want = names.build_level(replace(signed.builder, slsa_build_level=rules.slsa_build_level))
        where = signed.builder.builder_id
        finding = Finding(
            "release.slsa.level", where, want=f"{want} or more", got=names.build_level(signed.builder)
        )
        raise Refused(
            "the builder is not believed for the level that the channel asks for", findings=[finding]
        )
    return True, f"{names.build_level(signed.builder)}, asked is {rules.slsa_build_level}"


def _source(opened: _Opened, signed: _Signed, asked: Asked) -> tuple[bool, str]:
    """Somebody vouched for the commit, at the level that the channel asks for; they will not be an approver."""
    wanted, provenance = asked.settings.rules.slsa_source_level, signed.statements["provenance"]
    found = _source_vsa(opened, signed, asked)
    if found is None:
        if wanted is None:
            return True, f"{asked.settings.name} asks for no Source VSA, and there is none"
        where = source.commit_of(provenance) or "the provenance, which names no commit"
        want = f"a Source VSA of level {wanted}"
        raise Refused(
            "nobody vouches for the commit", findings=[Finding("release.source.missing", where, want, "none")]
        )
    level = source.level(found)
    if wanted is not None and level < wanted:
        finding = Finding(
            "release.source.level", names.SOURCE_VSA, want=f"level {wanted}", got=f"level {level}"
        )
        raise Refused(finding.message, findings=[finding])
    return True, f"commit {source.commit_of(provenance)[:12]} by {found.signer.san}, level {level}"


def _source_vsa(opened: _Opened, signed: _Signed, asked: Asked) -> VerifiedStatement | None:
    data = asked.source_vsa or opened.parts.beside.get(names.SOURCE_VSA)
    verifier = Verifier(asked.trust.sigstore_root)
    return source.verify(data, signed.statements["provenance"], asked.trust, asked.now, verifier)


def _sbom_rules(described: _Described, rules: Rules) -> tuple[bool, str]:
    """No component and no licence that the channel denies."""
    components = {one.ref: one for listed in described.contents for one in listed.components}
    inside = described.inventory.parts
    findings = [
        Finding("release.sbom.denied", f"{one.name} {one.version}", want=f"not {purl}", got=one.purl)
        for one in inside
        for purl in rules.denied_components
        if vulnerabilities.named(purl, one)
    ]
    findings += [
        Finding("release.sbom.licence", f"{one.name} {one.version}", want=f"not {licence}", got=one.licence)
        for one in components.values()
        for licence in rules.denied_licences
        if licence in re.split(r"[\s()]+", one.licence)
    ]
    if findings:
        raise Refused("the channel denies what is in this release", findings=findings)
    denied = len(rules.denied_components) + len(rules.denied_licences)
    return True, f"{len(inside)} components, {denied} denied by the channel, none of them here"


def _vulnerabilities(described: _Described, asked: Asked) -> tuple[bool, str]:
    days = asked.settings.rules.vulnerabilities_days
    if not asked.advisories:
        if days is None:
            return True, f"{asked.settings.name} asks for no advisories, and none were given"
        want = f"signed OSV or VEX files, at most {days} days old"
        finding = Finding("release.vulnerabilities.missing", asked.settings.name, want=want, got="none")
        raise Refused("the channel asks for advisories", findings=[finding])
    max_age = None if days is None else timedelta(days=days)
    feed = vulnerabilities.read(asked.advisories, asked.trust, asked.now, max_age)
    found = vulnerabilities.hits(feed, described.inventory)
    findings = tuple(vulnerabilities.open_findings(found))
    if findings:
        raise Refused("a component has a known vulnerability", findings=findings)
    when = feed.signed_at.isoformat() if feed.signed_at else "never"
    return (
        True,
        f"{len(feed.advisories)} advisories of {when}, {len(found)} about this release and settled by VEX",
    )


def _contents(folder: Path, index: Index, described: _Described) -> tuple[bool, str]:
    """Every product taken apart: each file in it is listed, and comes from a component; what they vendor is listed."""
    lists = described.contents
    covered = coverage.cover(
        {name: read_file(folder / path, path) for name, path in index.products},
        {contents.product: contents for contents in lists},
    )
    coverage.require(covered)
    scanned = {one.product: one.scanned.files for one in covered}
    inside = vendored.of_release(lists, scanned, described.known)
    if others := sbom_check.check_inside(described.document, inside):
        raise NotGenuine("the SBOM does not list what the files vendor", findings=others)
    findings = [
        Finding(
            "release.contents.unexplained",
            one.product,
            want="every file from a component",
            got=f"{one.unexplained_files} files, {one.unexplained_bytes} bytes",
        )
        for one in covered
        if one.unexplained_files
    ]
    if findings:
        raise Refused("some measured bytes are unexplained", findings=findings)
    return True, f"{sum(one.files for one in covered)} files in {len(covered)} products, none unexplained"


def _measurements(
    opened: _Opened,
    signed: _Signed,
    asked: Asked,
) -> tuple[tuple[Measurement, ...], str]:
    """There is a measurement for every platform that the channel, or a policy that is live in it, asks for."""
    settings = asked.settings
    found = verify.read_measurements(signed.statements, opened.index)
    platforms = {one.platform for one in found}
    findings = [
        Finding("release.measurement.missing", name, want="a measurement", got=", ".join(sorted(platforms)))
        for name in sorted({*settings.platforms, *asked.asked_platforms})
        if name not in platforms
    ]
    if findings:
        raise Refused(f"channel {settings.name} asks for other measurements", findings=findings)
    return found, f"{len(found)} release tuples for {', '.join(sorted(platforms))}"


def _quorum(
    opened: _Opened,
    signed: _Signed,
    trust: Trust,
    now: datetime,
) -> tuple[Quorum, str]:
    index, parts = opened.index, opened.parts
    agreed = verify.judge_quorum(parts, index, trust, signed.builder, now)
    findings = quorum.shortfall(agreed)
    if findings:
        raise Refused("not rebuilt by enough independent builders", findings=findings)
    quorum.second_opinion(
        layout.read(trust.layout, trust.layout_owners, now), verify.link_files(parts), agreed
    )
    who = ", ".join(functionary.name for functionary in agreed.counted)
    return agreed, f"{len(agreed.counted)} of {agreed.threshold} needed got the same bytes: {who}"


def check_roots(trust: Trust, settings: Settings) -> tuple[bool, str]:
    """Keep development roots out of production (DESIGN.md, invariant 8).

    Raises:
        Refused: ``release.roots.development``.
    """
    if settings.name == names.PRODUCTION and trust.label == _DEVELOPMENT:
        finding = Finding("release.roots.development", "trust file", want="production roots", got=trust.label)
        raise Refused("a production channel takes no development root", findings=[finding])
    return True, f"{trust.label} is good enough for {settings.name}"


def _custody(asked: Asked) -> tuple[bool, str]:
    if asked.settings.name != names.PRODUCTION:
        return True, f"{asked.settings.name} does not ask for it"
    findings = tuple(custody.findings(asked.trust, asked.people))
    if findings:
        raise Refused("CA, log, approver and witness keys are not held apart", findings=findings)
    return (
        True,
        f"{len(asked.trust.custody)} holders, each of one part; {len(asked.trust.witnesses)} witnesses",
    )


def _revocation(index: Index, revoked: frozenset[Digest]) -> tuple[bool, str]:
    if index.digest in revoked:
        finding = Finding("release.revoked", names.resource_uri("", index), want="not revoked", got="revoked")
        raise Refused(f"{index.digest} was revoked", findings=[finding])
    return True, "never revoked here"


def _some(value: T | None) -> T:
    """A value that a gate needs; :meth:`_Run.gate` has seen that it is there."""
    if value is None:
        raise AssertionError("a gate ran without what it needs")
    return value

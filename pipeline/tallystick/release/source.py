"""The Source VSA of a release's commit: who vouches for the commit is its author, and approves no release of it.

Source: SLSA 1.2, source track, "Source verification summary attestations".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from tallystick.core.errors import NotGenuine
from tallystick.core.findings import Finding
from tallystick.formats import intoto, slsa, vsa
from tallystick.formats.slsa import Resource
from tallystick.release import names
from tallystick.release.records import Person, VerifiedRelease
from tallystick.signing.records import Trust, VerifiedStatement
from tallystick.signing.verify import Verifier

_LEVEL = re.compile(r"SLSA_SOURCE_LEVEL_([0-4])")


def verify(
    data: bytes | None, provenance: VerifiedStatement, trust: Trust, now: datetime, verifier: Verifier
) -> VerifiedStatement | None:
    """Return the Source VSA in the bundle ``data``, when it vouches for the commit that ``provenance`` names.

    Raises:
        NotGenuine: not by a promoter of the trust file, of another commit, or not PASSED (``release.source.…``).
        Malformed, Unsupported: not a bundle, or no VSA.
    """
    if data is None:
        return None
    file = names.SOURCE_VSA
    found = verifier.statement(
        data, signers=trust.promoters, predicate_type=vsa.PREDICATE_TYPE, now=now, what=file
    )
    statement = intoto.parse(found.payload)
    said, commit, uri = vsa.parse(statement), commit_of(provenance), _repository(provenance)
    findings = []
    subjects = {dict(subject.digests).get("gitCommit", "") for subject in statement.subjects}
    if not commit or subjects != {commit}:
        want, got = commit or "a commit in the provenance", ", ".join(sorted(subjects)) or "none"
        findings.append(Finding("release.source.commit", file, want=want, got=got))
    if commit and said.resource_uri != uri:  # the same commit id says nothing about where it was reviewed
        findings.append(Finding("release.source.repository", file, want=uri, got=said.resource_uri))
    if said.result != vsa.PASSED:
        findings.append(Finding("release.source.result", file, want=vsa.PASSED, got=said.result))
    if findings:
        raise NotGenuine(f"{file} does not vouch for this release's source", findings=findings)
    return found


def commit_of(provenance: VerifiedStatement) -> str:
    """Return the git commit that the provenance was built from; "" when it names none."""
    stated = slsa.parse(intoto.parse(provenance.payload))
    found = [one.digest("gitCommit") for one in stated.dependencies if one.name == "source"]
    return found[0] if len(found) == 1 else ""


def _repository(provenance: VerifiedStatement) -> str:
    stated = slsa.parse(intoto.parse(provenance.payload))
    return next((one.uri for one in stated.dependencies if one.name == "source"), "")


def make(
    *,
    repository: str,
    commit: str,
    refs: Iterable[str],
    level: int,
    verifier: str,
    policy: Resource,
    now: datetime,
) -> bytes:
    """Return the statement that vouches for ``commit``: the Source VSA, which somebody then signs.

    Args:
        repository: as the provenance's ``source`` names it: "git+https://…".
        refs: branches that the commit is on: "refs/heads/main".
        level: of the source track, 1 to 4.
        verifier: URI of whoever looked.
        policy: what was asked of the source: its URI and digest.
    """
    summary = vsa.Summary(
        verifier_id=verifier,
        time_verified=now,
        resource_uri=repository,
        policy=policy,
        result=vsa.PASSED,
        levels=(f"SLSA_SOURCE_LEVEL_{level}",),
        slsa_version=vsa.SLSA_VERSION,
    )
    listed = list(refs)
    return vsa.make(
        [(repository, {"gitCommit": commit})], summary, {"sourceRefs": listed} if listed else None
    )


def level(found: VerifiedStatement) -> int:
    """Return the highest source level that the VSA says was verified."""
    levels = vsa.parse(intoto.parse(found.payload)).levels
    matches = [match for text in levels if (match := _LEVEL.fullmatch(text))]
    return max((int(match[1]) for match in matches), default=0)


def is_author(person: Person, release: VerifiedRelease) -> bool:
    """Say whether ``person`` vouched for the commit of ``release``."""
    return release.source is not None and release.source.signer == person.identity


def approvers(people: Iterable[Person], release: VerifiedRelease) -> tuple[Person, ...]:
    """Return those of ``people`` who may approve ``release``."""
    return tuple(person for person in people if not is_author(person, release))

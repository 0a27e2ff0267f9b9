"""A channel as its users see it: policies, revocations, and releases verified again from their bundles.

Source: DESIGN.md, invariants 4 to 7.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from tallystick.core.digests import Digest
from tallystick.core.errors import NotGenuine, Refused
from tallystick.core.findings import Finding
from tallystick.release import (
    approvals,
    artifact_verify,
    changes,
    metadata,
    names,
    quorum,
    revocations,
    roles,
)
from tallystick.release import index as indexes
from tallystick.release.metadata import Read, State
from tallystick.release.records import (
    HighWater,
    Index,
    Revocation,
    VerifiedChannel,
    VerifiedPolicies,
    VerifiedRelease,
)
from tallystick.release.tuf import Folder
from tallystick.signing.records import Trust

if TYPE_CHECKING:
    from tuf.api.metadata import Targets

    from tallystick.signing.verify import Verifier

NOTHING_SEEN = HighWater()


def load(
    folder: Path,
    channel: str,
    trust: Trust,
    now: datetime,
    seen: HighWater = NOTHING_SEEN,
    max_age: timedelta | None = metadata.MAX_AGE,
) -> VerifiedChannel:
    """Return the channel in ``folder`` as it stands at ``now``, every release verified from its statements.

    Offline: nothing but the folder's files and ``trust`` is read.

    Args:
        channel: its name; the trust file pins a root for it.
        seen: the high-water mark of the last load (``VerifiedChannel.state.high_water``).
        max_age: how far from ``now`` the timestamp may end; None for a replay.

    Raises:
        Misuse: there is no channel in ``folder``.
        Refused: the trust file does not know ``channel``; metadata that expired; a release without quorum.
        NotGenuine: signatures, versions or digests that do not hold, a revocation undone.
        Malformed, Unsupported: a part that breaks its own format.
    """
    from tallystick.signing.verify import Verifier

    place, root = Folder(folder), pinned_root(trust, channel)
    state = place.verify(root, channel, now, seen, max_age)
    policies = policies_of(place.read, state, seen)
    check_custody(trust, state)
    verifier = Verifier(trust.sigstore_root)
    found = []
    for digest in release_digests(state.delegated[roles.RELEASES].signed):
        if digest not in policies.revoked:
            signed = state.delegated[roles.RELEASES].signed
            release = verify_target(place.read, signed, digest, channel, trust, now, verifier)
            approvals.check(place.read, root, state, release)
            found.append(release)
    releases = sorted(found, key=lambda r: (r.index.name, r.index.version, str(r.digest)))
    listed = state.delegated[roles.RELEASES].signed
    artifacts = [
        artifact_verify.verify_target(place.read, listed, digest, trust, now, verifier)
        for digest in artifact_verify.digests(listed)
        if digest not in policies.revoked
    ]
    return VerifiedChannel(
        settings=state.settings,
        state=policies,
        releases=tuple(releases),
        people=state.people,
        changes=tuple(
            changes.describe(state, role, state.delegated[role])
            for role in roles.SHARED
            if state.delegated[role].signed.version > 1
        ),
        artifacts=tuple(
            sorted(artifacts, key=lambda one: (one.manifest.name, one.manifest.version, str(one.digest)))
        ),
    )


def load_policies(
    folder: Path, channel: str, trust: Trust, now: datetime, seen: HighWater = NOTHING_SEEN
) -> VerifiedPolicies:
    """Return the approved policies and the revocations of a channel; its releases are not looked at.

    What a broker calls at every release of a key: no Sigstore, a few milliseconds. Raises as :func:`load`.
    """
    place = Folder(folder)
    state = place.verify(pinned_root(trust, channel), channel, now, seen)
    return policies_of(place.read, state, seen)


def pinned_root(trust: Trust, channel: str) -> bytes:
    """Return the TUF root that the trust file pins for ``channel``.

    Raises:
        Refused: it pins none (``release.channel.unknown``).
    """
    root = trust.channel_root(channel)
    if root is None:
        known = ", ".join(name for name, _ in trust.channels) or "none"
        finding = Finding("release.channel.unknown", "trust file", want=f"one of {known}", got=channel)
        raise Refused(f"the trust file does not know the channel {channel}", findings=[finding])
    return root


def check_custody(trust: Trust, state: State) -> None:
    """Ask for separately held keys where a channel is for production.

    Raises:
        Refused: ``release.custody.…``.
    """
    from tallystick.release import custody

    findings = tuple(custody.findings(trust, state.people)) if state.settings.name == names.PRODUCTION else ()
    if findings:
        raise Refused("the keys behind a production channel are not held apart", findings=findings)


def policies_of(read: Read, state: State, seen: HighWater) -> VerifiedPolicies:
    """Return what a verified state says of policies and revocations."""
    signed = state.delegated[roles.POLICIES].signed
    files = {
        path.removeprefix("policies/"): metadata.target(read, signed, path) for path in sorted(signed.targets)
    }
    revoked: tuple[Revocation, ...] = revocations.of_state(read, state, seen)
    marks = {str(revocation.release) for revocation in revoked} | set(seen.revoked)
    return VerifiedPolicies(
        channel=state.settings.name,
        version=state.timestamp.signed.version,
        expires=state.expires,
        policies=MappingProxyType(files),
        revocations=revoked,
        high_water=replace(state.high_water, revoked=tuple(sorted(marks))),
    )


def release_digests(signed: Targets) -> tuple[Digest, ...]:
    """Return the digests of the releases that the verified targets list, sorted.

    Raises:
        Malformed: a target path that names no release digest.
    """
    found = {path.split("/")[1] for path in signed.targets if path.startswith("releases/")}
    return tuple(Digest.parse(f"sha256:{text}") for text in sorted(found))


def all_digests(signed: Targets) -> tuple[Digest, ...]:
    """Return the digests of everything that the verified targets list: releases, then artifact releases."""
    return (*release_digests(signed), *artifact_verify.digests(signed))


def verify_target(
    read: Read,
    signed: Targets,
    digest: Digest,
    channel: str,
    trust: Trust,
    now: datetime,
    verifier: Verifier,
) -> VerifiedRelease:
    """Return the release ``digest`` from its targets, with its verdict for ``channel`` and its quorum met.

    Raises:
        NotGenuine, Refused, Malformed, Unsupported: as :func:`load`.
    """
    from tallystick.release import verdict, verify

    prefix = f"releases/{digest.hex}/"
    files = {
        path.removeprefix(prefix): metadata.target(read, signed, path)
        for path in sorted(signed.targets)
        if path.startswith(prefix)
    }
    beside = {path: data for path, data in files.items() if path.split("/")[0] in indexes.BESIDE}
    parts = verify.Parts(read=files.get, beside=beside, where=prefix)
    opened = verify.open_index(parts, trust, now, verifier)
    if opened[0].digest != digest:
        raise NotGenuine(
            f"{prefix}{indexes.FILE} is another release's",
            findings=[Finding("release.target.index", prefix, want=str(digest), got=str(opened[0].digest))],
        )
    check_target_files(files, opened[0], channel)
    release = verify.verify_parts(parts, opened, trust, now, verifier)
    check_checkpoints(signed, prefix, beside, trust, channel)
    findings = quorum.shortfall(release.quorum)
    if findings:
        raise Refused(f"release {digest} is not rebuilt by enough", findings=findings)
    verified = verdict.verify(files[names.promotion_file(channel)], release, trust, channel, now, verifier)
    return replace(release, vsa=verified)


def check_checkpoints(
    signed: Targets, prefix: str, beside: Mapping[str, bytes], trust: Trust, channel: str
) -> None:
    """Hold the log's head that the metadata publish for a release to the release's bundles.

    Raises:
        NotGenuine, Refused: as :func:`checkpoints.check`.
    """
    from tallystick.release import checkpoints

    custom = signed.targets[f"{prefix}{indexes.FILE}"].unrecognized_fields.get("custom")
    said = custom.get(checkpoints.FIELD) if isinstance(custom, dict) else None
    bundles = {path: data for path, data in beside.items() if path.endswith(".sigstore.json")}
    checkpoints.check(said, bundles, trust, prefix, required=channel == names.PRODUCTION)


def check_target_files(files: Mapping[str, bytes], index: Index, channel: str) -> None:
    """Check that a channel carries exactly the parts of a release that it should, with the index's digests.

    Raises:
        NotGenuine: ``release.target.missing``, ``release.target.extra`` or ``release.file.changed``.
    """
    findings = []
    by_kind: dict[str, set[str]] = defaultdict(set)
    for path in files:
        by_kind[path.split("/")[0]].add(path)
    listed = {entry.path: entry.digest for entry in (*index.under("statements/"), *index.under("contents/"))}
    known = {*listed, indexes.FILE, names.promotion_file(channel)}
    known |= {names.SOURCE_VSA} & files.keys()
    known |= by_kind["bundles"] | by_kind["links"]
    for path in sorted(known - set(files)):
        findings.append(Finding("release.target.missing", path, want="a target", got="none"))
    for path in sorted(set(files) - known):
        findings.append(Finding("release.target.extra", path, want="no such target", got="one"))
    for path, digest in sorted(listed.items()):
        if path in files and Digest.of(files[path]) != digest:
            got = str(Digest.of(files[path]))
            findings.append(Finding("release.file.changed", path, want=str(digest), got=got))
    if findings:
        raise NotGenuine(f"release {index.digest}: {findings[0].message}", findings=findings)

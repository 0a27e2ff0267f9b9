"""One verified release, and what the policy asks of its supply chain: a permission, or every reason against it.

Whether the release is genuine was decided before (``release.channel``); here it is held to one policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from packageurl import PackageURL

from tallystick.compile.artifacts import INIT_DATA
from tallystick.core.expect import Exactly, Expect, Waived
from tallystick.core.findings import Finding
from tallystick.formats import cyclonedx, intoto, vsa
from tallystick.measure.records import Measurement
from tallystick.policy.conjunction import shared_platforms
from tallystick.policy.document import tuple_order
from tallystick.policy.model import Channel, Policy, SupplyChain
from tallystick.policy.normal import PermittedRelease, Tuple
from tallystick.policy.platforms import DEVELOPMENT_ROOTS, Platform, platform
from tallystick.release.records import VerifiedChannel, VerifiedRelease
from tallystick.sbom.parts import unexplained

_STATEMENTS = ("index", "measurements", "provenance", "sbom")
_LEVEL = "SLSA_BUILD_LEVEL_"


def objections(
    policy: Policy, release: VerifiedRelease, channel: VerifiedChannel, now: datetime
) -> Iterator[Finding]:
    """Yield every reason why ``release`` may not stand behind a key of ``policy``, for any of its parties.

    Args:
        channel: the one that holds it, which knows who approved its list of releases.
        now: a measurement's waiver that has ended by then is no waiver.
    """
    where = f"release {release.index.name} {release.index.version} {release.digest}"
    yield from _signed(release, where)
    yield from _promoted(policy, release, where)
    chains = [("", policy.supply_chain), *((f" for {p.name}", p.supply_chain) for p in policy.parties)]
    for party, chain in chains:
        place = f"{where}{party}"
        yield from _built(chain, release, place)
        yield from _level(chain, release, place)
        yield from _rebuilt(policy, chain, release, place)
        yield from _contents(chain, release, place)
        yield from _approved(chain, channel, place)
    yield from _measured(policy, release, where, now)
    yield from _firmware(policy, release, where)
    if policy.channel is Channel.PRODUCTION:
        for label in release.labels:
            if label in DEVELOPMENT_ROOTS:
                want = "no development root in production"
                yield Finding("release.development-root", where, want, label, DEVELOPMENT_ROOTS[label])


def permission(policy: Policy, release: VerifiedRelease) -> PermittedRelease:
    """Return the permission of a release against which there is no objection."""
    promotion = release.vsa
    if promotion is None:
        raise ValueError("a release without a verdict has an objection against it")
    return PermittedRelease(
        digest=release.digest,
        name=release.index.name,
        version=release.index.version,
        promoted_at=promotion.signed_at.astimezone(UTC).replace(microsecond=0),
        vsa=promotion.bundle,
        bundles=release.bundles,
        labels=tuple(sorted(set(release.labels))),
        tuples=tuple(sorted((_tuple(policy, one) for one in _ours(policy, release)), key=tuple_order)),
    )


def _ours(policy: Policy, release: VerifiedRelease) -> list[Measurement]:
    allowed = shared_platforms(policy)
    return [measurement for measurement in release.measurements if measurement.platform in allowed]


def _tuple(policy: Policy, measurement: Measurement) -> Tuple:
    expect: dict[str, Expect] = {name: Exactly(value) for name, value in measurement.values}
    for register in measurement.waived:
        waiver = policy.waiver(register.name)
        if waiver is None:
            raise ValueError("a register that the policy does not waive is an objection")
        until = min(waiver.until, register.until)
        expect[register.name] = Waived(waiver.decision, waiver.decided_by, until)
    return Tuple(
        platform=measurement.platform,
        evidence_kind=measurement.evidence_kind,
        image=measurement.image,
        firmware=measurement.firmware,
        shape=measurement.shape,
        expect=tuple(sorted(expect.items())),
    )


def _signed(release: VerifiedRelease, where: str) -> Iterator[Finding]:
    """Every statement is there, by the release's one builder, and is the one the index names."""
    statements = dict(release.statements)
    for name in _STATEMENTS:
        found = statements.get(name)
        if found is None:
            yield Finding("release.unsigned", f"{where}: {name}", "a signed statement", "none")
        elif found.signer != release.builder.identity:
            want = release.builder.identity.san
            yield Finding("release.signer", f"{where}: {name}", want, found.signer.san)
    products = {entry.digest for entry in release.index.product_files()}
    for name in ("provenance", "sbom"):
        found = statements.get(name)
        subjects = intoto.parse(found.payload).subjects if found else ()
        for subject in subjects:
            if not any(subject.has(digest) for digest in products):
                got = dict(subject.digests).get("sha256", "no sha256")
                place = f"{where}: {name} {subject.name}"
                yield Finding(f"release.{name}.mismatch", place, "a product of the release", got)
        if found is not None and len(subjects) < len(products):
            want, got = f"{len(products)} products", f"{len(subjects)}"
            yield Finding(f"release.{name}.mismatch", f"{where}: {name}", want, got)


def _built(chain: SupplyChain, release: VerifiedRelease, where: str) -> Iterator[Finding]:
    allowed = chain.builders
    if release.builder not in allowed:
        want = " or ".join(f"{b.identity.san} ({b.identity.issuer}) as {b.builder_id}" for b in allowed)
        one = release.builder
        got = f"{one.identity.san} ({one.identity.issuer}) as {one.builder_id}"
        yield Finding("release.builder.not-allowed", where, want, got)


def _promoted(policy: Policy, release: VerifiedRelease, where: str) -> Iterator[Finding]:
    """The verdict is there, and passed."""
    if release.vsa is None:
        yield Finding("release.not-promoted", where, f"a verdict for {policy.channel.value}", "none")
        return
    statement = intoto.parse(release.vsa.payload)
    summary = vsa.parse(statement)
    if summary.result != vsa.PASSED or not statement.names(release.digest):
        yield Finding("release.not-promoted", where, f"a passed verdict on {release.digest}", summary.result)


def _level(chain: SupplyChain, release: VerifiedRelease, where: str) -> Iterator[Finding]:
    """The verdict found at least the build level that is asked for."""
    if release.vsa is None:
        return
    summary = vsa.parse(intoto.parse(release.vsa.payload))
    levels = [int(text.removeprefix(_LEVEL)) for text in summary.levels if _is_level(text)]
    level, least = max(levels, default=0), chain.slsa_build_level
    if level < least:
        yield Finding("release.slsa-level", where, f"SLSA build level {least}", f"{level}")


def _is_level(text: str) -> bool:
    return text.startswith(_LEVEL) and text.removeprefix(_LEVEL) in {"0", "1", "2", "3"}


def _rebuilt(policy: Policy, chain: SupplyChain, release: VerifiedRelease, where: str) -> Iterator[Finding]:
    """Enough organisations got the same bytes: the layout's number and the policy's, whichever is more."""
    excluded = chain.rebuilds.not_counted
    counted = {f.organisation for f in release.quorum.counted if f.organisation not in excluded}
    least = 0 if policy.waiver("rebuilds") else chain.rebuilds.threshold
    least = max(least, release.quorum.threshold)
    if len(counted) < least:
        got = f"{len(counted)}: {', '.join(sorted(counted)) or 'nobody'}"
        yield Finding("release.rebuilds", where, f"{least} independent rebuild(s)", got)


def _approved(chain: SupplyChain, channel: VerifiedChannel, where: str) -> Iterator[Finding]:
    """Enough of the named people signed the channel's present list of releases."""
    if chain.approvals is None:
        return
    change = next((change for change in channel.changes if change.role == "releases"), None)
    signed = set(change.signed_by) if change else set()
    found = {person.identity for person in channel.people if person.name in signed}
    counted = sorted(identity.san for identity in found.intersection(chain.approvals.of))
    if len(counted) < chain.approvals.threshold:
        names = ", ".join(identity.san for identity in chain.approvals.of)
        want = f"{chain.approvals.threshold} approval(s) by {names}"
        yield Finding("release.approvals", where, want, ", ".join(counted) or "none")


def _firmware(policy: Policy, release: VerifiedRelease, where: str) -> Iterator[Finding]:
    """No tuple rests on a firmware that the policy denies."""
    for denial in policy.denied_firmware:
        for one in sorted(
            {m.firmware for m in _ours(policy, release)}.intersection(denial.firmware), key=str
        ):
            note = f"{denial.name}, since {denial.since.isoformat()}: {denial.reason}"
            yield Finding("release.firmware.denied", where, "another firmware", str(one), note)


def _contents(chain: SupplyChain, release: VerifiedRelease, where: str) -> Iterator[Finding]:
    rules = chain.sbom
    denied = [PackageURL.from_string(text) for text in rules.denied]
    for purl in sorted(_purls(release)):
        for rule in denied:
            if _covers(rule, purl):
                yield Finding("release.component.denied", where, f"no {rule.to_string()}", purl)
    by_name = dict(release.index.products)
    entries = {entry.path: entry.digest for entry in release.index.files}
    products = {name: entries[path] for name, path in by_name.items()}
    listed = {contents.product for contents in release.contents}
    for name in sorted(set(products) - listed):
        yield Finding("release.contents.missing", f"{where}: {name}", "a contents list", "none")
    for contents in release.contents:
        lost = unexplained(contents, products)
        if len(lost) > rules.unexplained_files:
            want = f"at most {rules.unexplained_files} unexplained file(s)"
            got = f"{len(lost)}: {', '.join(file.path for file in lost[:3])}"
            yield Finding("release.contents.unexplained", f"{where}: {contents.product}", want, got)


def _purls(release: VerifiedRelease) -> set[str]:
    """Every package URL in the signed SBOM and in the contents lists behind it."""
    found = {c.purl for contents in release.contents for c in contents.components if c.purl}
    statement = dict(release.statements).get("sbom")
    if statement is not None:
        bom = cyclonedx.checked(intoto.parse(statement.payload).predicate)
        purls = (part.get("purl") for part in cyclonedx.components(bom))
        found |= {purl for purl in purls if isinstance(purl, str) and purl}
    return found


def _covers(rule: PackageURL, text: str) -> bool:
    """Say whether ``rule`` denies the package ``text``. What is no package URL is denied by none, and none."""
    try:
        purl = PackageURL.from_string(text)
    except ValueError:
        return False
    same = (rule.type, rule.namespace, rule.name) == (purl.type, purl.namespace, purl.name)
    return same and rule.version in {None, purl.version}


def _measured(policy: Policy, release: VerifiedRelease, where: str, now: datetime) -> Iterator[Finding]:
    ours = _ours(policy, release)
    for name in sorted(shared_platforms(policy)):
        if not any(measurement.platform == name for measurement in ours):
            want = f"a measurement for {name}"
            yield Finding("release.platform.missing", where, want, "none")
    for measurement in ours:
        known = platform(measurement.platform)
        shape = ", ".join(f"{name} {value}" for name, value in measurement.shape)
        place = f"{where}: {measurement.platform} ({shape})"
        if measurement.evidence_kind != known.evidence_kind:
            yield Finding("release.evidence-kind", place, known.evidence_kind, measurement.evidence_kind)
        yield from _registers(policy, known, measurement, place, now)


def _registers(
    policy: Policy, known: Platform, measurement: Measurement, place: str, now: datetime
) -> Iterator[Finding]:
    """Every register is pinned to a value, or waived by the measurement and by the policy, by name."""
    values = dict(measurement.values)
    waived = {register.name: register for register in measurement.waived}
    for name in sorted({*values, *waived} - set(known.registers)):
        yield Finding("release.register.unknown", f"{place}: {name}", "a register of the platform", name)
    for name in known.registers:
        at = f"{place}: {name}"
        kind = known.claim_type(name)
        if name in waived:
            if policy.waiver(name) is None:
                yield Finding("release.register.not-waived", at, f"a waiver of {name} in the policy", "none")
            if waived[name].until <= now:
                got = waived[name].until.isoformat()
                yield Finding("release.register.waiver-expired", at, "a waiver that still holds", got)
        elif name not in values:
            yield Finding("release.register.missing", at, "a value, or a waiver by name", "nothing")
        elif kind is None or not kind.holds(values[name]):
            want = kind.want if kind else "nothing"
            yield Finding("release.register.malformed", at, want, values[name][:80])
        elif policy.artifacts is not None and name in INIT_DATA:
            continue  # what is pinned is the init-data of each artifact release
        elif name in known.never_zero and not values[name].rpartition(":")[2].strip("0"):
            yield Finding("release.register.zero", at, "what a measured launch extends", "all zero")

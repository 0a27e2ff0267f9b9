"""Known vulnerabilities of a release, by files that somebody we know signed, and that are not old. Offline.

An advisory (OSV) that names a component stops a promotion, unless a signed VEX statement says for that component
that it is not affected or fixed. Absence says nothing:
a channel that asks for advisories takes no release without them.

Source: docs/decisions/0065-channel-rules.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from tallystick.build.records import Component, Contents
from tallystick.core.digests import Digest
from tallystick.core.errors import NotGenuine, Refused
from tallystick.core.files import read_file
from tallystick.core.findings import Finding
from tallystick.formats import advisories
from tallystick.formats.advisories import Advisory, Document, Verdict
from tallystick.signing.artifact import Artifact
from tallystick.signing.records import Identity, Trust
from tallystick.signing.verify import Verifier

BUNDLE_SUFFIX = ".sigstore.json"  # beside the file, as `cosign sign-blob` and `tally sign FILE` write it
_OK = ("not_affected", "fixed")
_MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What the signed files say, and since when."""

    advisories: tuple[Advisory, ...]
    verdicts: tuple[Verdict, ...]
    signed_at: datetime | None  # the oldest of them; None when there is no file
    signers: tuple[Identity, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A component that a vulnerability is known for."""

    vulnerability: str
    component: Component
    products: tuple[str, ...]
    status: str  # "affected", or what a VEX statement says


def read(files: Iterable[Path], trust: Trust, now: datetime, max_age: timedelta | None) -> Feed:
    """Return what ``files`` say, each signed by a promoter of the trust file and not older than ``max_age``.

    Raises:
        NotGenuine: not signed, or by somebody else.
        Refused: too old (``release.vulnerabilities.age``).
        Malformed, Unsupported: neither OSV nor OpenVEX.
    """
    verifier, documents, times, signers = Verifier(trust.sigstore_root), [], [], set()
    for path in files:
        data = read_file(path, path.name, max_bytes=_MAX_BYTES)
        signed_at, signer = _verify(path, data, trust, now, verifier)
        if max_age is not None and now - signed_at > max_age:
            want, got = (
                f"signed within {max_age.days} days",
                f"{signed_at.isoformat()}, {(now - signed_at).days} days ago",
            )
            finding = Finding("release.vulnerabilities.age", path.name, want=want, got=got)
            raise Refused(finding.message, findings=[finding])
        documents.append(advisories.parse(data, path.name))
        times.append(signed_at)
        signers.add(signer)
    return _feed(documents, times, signers)


def hits(feed: Feed, contents: Sequence[Contents], only: str | None = None) -> tuple[Hit, ...]:
    """Return every component of the products that is affected, sorted.

    Args:
        only: the one vulnerability that is asked about, by id or alias.
    """
    where: dict[str, tuple[Component, set[str]]] = {}
    for listed in contents:
        for component in listed.components:
            where.setdefault(component.ref, (component, set()))[1].add(listed.product)
    found: dict[tuple[str, str], Hit] = {}
    for component, products in where.values():
        for name, status in _known(feed, component, only):
            found[name, component.ref] = Hit(
                vulnerability=name, component=component, products=tuple(sorted(products)), status=status
            )
    return tuple(found[key] for key in sorted(found))


def open_findings(found: Iterable[Hit]) -> Iterator[Finding]:
    """Yield a finding for each hit that no VEX statement settles."""
    for hit in found:
        if hit.status not in _OK:
            where = f"{hit.component.name} {hit.component.version} in {', '.join(hit.products)}"
            want = "no known vulnerability, or a signed VEX statement that it does not matter here"
            yield Finding(
                "release.vulnerabilities.known", where, want=want, got=f"{hit.vulnerability}: {hit.status}"
            )


def named(purl: str, component: Component) -> bool:
    """Say whether ``purl`` names ``component``: with a version that version, else every one."""
    if purl == component.purl:
        return True
    if advisories.plain_purl(purl) != advisories.plain_purl(component.purl):
        return False
    version = purl.split("@", 1)[1].split("?")[0] if "@" in purl.removeprefix("pkg:npm/@") else ""
    return version in ("", component.version)


def _known(feed: Feed, component: Component, only: str | None) -> Iterator[tuple[str, str]]:
    """Give (vulnerability, status) of a component; what VEX says last counts, whatever advisory named it."""
    for advisory in feed.advisories:
        if (only is None or advisory.called(only)) and any(
            _is_of(one, component) and advisories.holds(one, component.version) for one in advisory.affected
        ):
            names = (advisory.id, *advisory.aliases)
            said = [v.status for v in feed.verdicts if set(names) & set(v.names) and _about(v, component)]
            yield advisory.id, said[-1] if said else "affected"
    for verdict in feed.verdicts:
        if (
            (only is None or only in verdict.names)
            and verdict.status not in _OK
            and _about(verdict, component)
        ):
            yield verdict.names[0], verdict.status


def _is_of(one: advisories.Affected, component: Component) -> bool:
    if one.purl:
        return one.purl == advisories.plain_purl(component.purl)
    kind = {"Debian": "pkg:deb/debian/", "PyPI": "pkg:pypi/"}.get(one.ecosystem.split(":")[0], "")
    return bool(kind) and component.purl.startswith(kind) and component.name.lower() == one.name.lower()


def _about(verdict: Verdict, component: Component) -> bool:
    return any(named(product, component) for product in verdict.products)


def _verify(
    path: Path, data: bytes, trust: Trust, now: datetime, verifier: Verifier
) -> tuple[datetime, Identity]:
    place = path.with_name(path.name + BUNDLE_SUFFIX)
    if not place.is_file():
        finding = Finding(
            "release.vulnerabilities.unsigned", path.name, want=f"its bundle {place.name}", got="no file"
        )
        raise NotGenuine(finding.message, findings=[finding])
    bundle, refused = read_file(place, place.name, max_bytes=_MAX_BYTES), None
    for signer in trust.promoters:
        try:
            held = verifier.artifact(
                bundle, artifact=Artifact(sha256=Digest.of(data)), signer=signer, now=now, what=place.name
            )
        except NotGenuine as error:
            refused = error
            if error.code != "bundle.identity":
                break
            continue
        if held.signed_at is not None:
            return held.signed_at, signer
    raise refused or NotGenuine(
        f"{place.name}: nobody's word is taken for it", code="release.vulnerabilities.unsigned"
    )


def _feed(documents: Sequence[Document], times: Sequence[datetime], signers: Iterable[Identity]) -> Feed:
    return Feed(
        advisories=tuple(one for document in documents for one in document.advisories),
        verdicts=tuple(one for document in documents for one in document.verdicts),
        signed_at=min(times, default=None),
        signers=tuple(sorted(signers)),
    )

"""Known vulnerabilities of a release, by files that somebody we know signed, and that are not old. Offline.

An advisory (OSV) that names a component stops a promotion, unless a signed VEX statement says for that component
that it is not affected or fixed. Absence says nothing:
a channel that asks for advisories takes no release without them.

Source: docs/decisions/0065-channel-rules.md, 0151-which-vulnerabilities-count.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from tallystick.core.digests import Digest
from tallystick.core.errors import NotGenuine, Refused
from tallystick.core.files import read_file
from tallystick.core.findings import Finding
from tallystick.formats import advisories
from tallystick.formats.advisories import Advisory, Document, Verdict
from tallystick.release.inventory import Inventory, Part
from tallystick.signing.artifact import Artifact
from tallystick.signing.records import Identity, Trust
from tallystick.signing.verify import Verifier

BUNDLE_SUFFIX = ".sigstore.json"  # beside the file, as `cosign sign-blob` and `tally sign FILE` write it
OK = ("not_affected", "fixed")
_MAX_BYTES = 256 << 20
_PURLS = {  # OSV ecosystem -> how purls of its packages begin
    "Debian": "pkg:deb/debian/",
    "PyPI": "pkg:pypi/",
    "Go": "pkg:golang/",
    "crates.io": "pkg:cargo/",
    "npm": "pkg:npm/",
}
_SUITES = {"11": "bullseye", "12": "bookworm", "13": "trixie", "14": "forky"}  # debian.org/releases


class Named(Protocol):
    """What a purl can name."""

    @property
    def purl(self) -> str: ...

    @property
    def version(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What the signed files say, and since when."""

    advisories: tuple[Advisory, ...]
    verdicts: tuple[Verdict, ...]
    signed_at: datetime | None  # the oldest of them; None when there is no file
    signers: tuple[Identity, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A part of a release that a vulnerability is known for."""

    vulnerability: str
    part: Part
    status: str  # "affected", or what a VEX statement says


def read(files: Iterable[Path], trust: Trust, now: datetime, max_age: timedelta | None) -> Feed:
    """Return what ``files`` say, each signed by a promoter of the trust file and not older than ``max_age``.

    Raises:
        NotGenuine: not signed, or by somebody else.
        Refused: too old (``release.vulnerabilities.age``).
        Malformed, Unsupported: neither OSV nor VEX.
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


def hits(feed: Feed, inventory: Inventory, only: str | None = None) -> tuple[Hit, ...]:
    """Return every part of a release that is affected, sorted.

    Args:
        only: the one vulnerability that is asked about, by id or alias.
    """
    found: dict[tuple[str, str], Hit] = {}
    for part in inventory.parts:
        for name, status in _known(feed, part, inventory.names, only):
            found[name, part.ref] = Hit(vulnerability=name, part=part, status=status)
    return tuple(found[key] for key in sorted(found))


def open_findings(found: Iterable[Hit]) -> Iterator[Finding]:
    """Yield a finding for each hit that no VEX statement settles."""
    for hit in found:
        if hit.status not in OK:
            where = f"{hit.part.name} {hit.part.version} in {', '.join(hit.part.products)}"
            want = "no known vulnerability, or a signed VEX statement that it does not matter here"
            yield Finding(
                "release.vulnerabilities.known", where, want=want, got=f"{hit.vulnerability}: {hit.status}"
            )


def named(purl: str, part: Named) -> bool:
    """Say whether ``purl`` names ``part``: with a version that version, else every one."""
    if purl == part.purl:
        return True
    if not part.purl or advisories.plain_purl(purl) != advisories.plain_purl(part.purl):
        return False
    rest = purl.removeprefix("pkg:npm/@")
    version = unquote(re.split(r"[?#]", rest.split("@", 1)[1])[0]) if "@" in rest else ""
    return version in ("", part.version)


def _known(feed: Feed, part: Part, whole: tuple[str, ...], only: str | None) -> Iterator[tuple[str, str]]:
    """Give (vulnerability, status) of a part; what VEX says last counts, whatever advisory named it."""
    for advisory in feed.advisories:
        if (only is None or advisory.called(only)) and any(_is_of(one, part) for one in advisory.affected):
            names = {advisory.id, *advisory.aliases}
            said = [v for v in feed.verdicts if names & set(v.names) and _about(v, part, whole)]
            yield advisory.id, max(said, key=lambda v: v.at).status if said else "affected"
    for verdict in feed.verdicts:
        if only is None or only in verdict.names:
            later = [v for v in feed.verdicts if set(v.names) & set(verdict.names) and _about(v, part, whole)]
            if later and max(later, key=lambda v: v.at) is verdict and verdict.status not in OK:
                yield verdict.names[0], verdict.status


def _is_of(one: advisories.Affected, part: Part) -> bool:
    """Say whether the record is about ``part`` in its version, or about a source package that it was built from."""
    ecosystem, _, suite = one.ecosystem.partition(":")
    kind = _PURLS.get(ecosystem, "")
    if not kind or not part.purl.startswith(kind):
        return bool(one.purl) and one.purl == advisories.plain_purl(part.purl) and _in(one, part.version)
    if ecosystem == "Debian" and not _of_suite(part.purl, suite):
        return False
    own = one.purl == advisories.plain_purl(part.purl) if one.purl else _same(ecosystem, one.name, part)
    name = one.purl.removeprefix(kind) if one.purl else one.name
    versions = [version for source, version in part.sources if source == name]
    if own and not any(source == part.name for source, _ in part.sources):
        versions.append(part.version)
    return any(_in(one, version) for version in versions)


def _in(one: advisories.Affected, version: str) -> bool:
    return advisories.holds(one, version)


def _same(ecosystem: str, name: str, part: Part) -> bool:
    if ecosystem == "PyPI":  # PEP 503
        return re.sub(r"[-_.]+", "-", name).lower() == re.sub(r"[-_.]+", "-", part.name).lower()
    return name.lower() == part.name.lower()


def _of_suite(purl: str, suite: str) -> bool:
    """A Debian advisory is about one release of Debian; a package that does not say which is of any."""
    match = re.search(r"[?&]distro=([^&]+)", purl)
    number = suite.split(":")[0]
    return match is None or number not in _SUITES or match[1] in (_SUITES[number], f"debian-{number}")


def _about(verdict: Verdict, part: Part, whole: tuple[str, ...]) -> bool:
    """A statement is about a part by purl or BOM-Link, or about the release and so about all of it."""
    if verdict.within and not any(product in whole for product in verdict.within):
        return False
    return any(
        named(product, part)
        or unquote(product) == unquote(part.link)
        or (product in whole and not verdict.within)
        for product in verdict.products
    )


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

"""The promotion's verdict: a VSA that says which statements of a release were looked at, and for which channel.

Source: SLSA 1.2, "Verification Summary Attestation", section "How to verify".
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tallystick import __version__
from tallystick.core.digests import Digest
from tallystick.core.errors import NotGenuine
from tallystick.core.findings import Finding
from tallystick.formats import intoto, vsa
from tallystick.formats.slsa import Resource
from tallystick.formats.vsa import Summary
from tallystick.release import links, names
from tallystick.release.records import Index, VerifiedRelease
from tallystick.signing.records import Identity, Trust, VerifiedStatement
from tallystick.signing.verify import Verifier


def make(
    release: VerifiedRelease, channel: str, promoter: Identity, rules: Mapping[str, Any], now: datetime
) -> bytes:
    """Return the statement that ``release`` passed for ``channel``, to be signed by ``promoter``.

    Args:
        rules: what was checked (names of gates, the layout's digest, the channel's settings); its digest
            is the VSA's ``policy.digest``.
    """
    import rfc8785

    summary = Summary(
        verifier_id=names.verifier_id(promoter),
        verifier_version=(("tallystick", __version__),),
        time_verified=now,
        resource_uri=names.resource_uri(channel, release.index),
        policy=Resource(
            uri=names.gates_uri(), digests=(("sha256", Digest.of(rfc8785.dumps(dict(rules))).hex),)
        ),
        inputs=tuple(
            Resource(uri=path, digests=(("sha256", digest.hex),)) for path, digest in inputs_of(release)
        ),
        result=vsa.PASSED,
        levels=(names.build_level(release.builder), names.reproduced_level(len(release.quorum.counted))),
        slsa_version=vsa.SLSA_VERSION,
    )
    return vsa.make(_subjects(release.index), summary)


def inputs_of(release: VerifiedRelease) -> tuple[tuple[str, Digest], ...]:
    """Return every attestation that a release rests on: its bundles and its rebuild links, by file."""
    bundles = [(names.bundle_file(name), found.bundle) for name, found in release.statements]
    rebuilds = [(f"{links.FOLDER}/{file}", digest) for file, digest in release.quorum.links]
    source = [(names.SOURCE_VSA, release.source.bundle)] if release.source is not None else []
    return tuple(sorted((*bundles, *rebuilds, *source)))


def verify(
    data: bytes, release: VerifiedRelease, trust: Trust, channel: str, now: datetime, verifier: Verifier
) -> VerifiedStatement:
    """Return the verdict in the bundle ``data``, when it admits exactly ``release`` into ``channel``.

    Raises:
        NotGenuine: not by a promoter of the trust file, by the release's own builder, for another release
            or channel, over other attestations, or not PASSED (``release.vsa.…``).
        Malformed, Unsupported: not a bundle, or no VSA.
    """
    file = names.promotion_file(channel)
    verified = verifier.statement(
        data, signers=trust.promoters, predicate_type=vsa.PREDICATE_TYPE, now=now, what=file
    )
    statement = intoto.parse(verified.payload)
    summary = vsa.parse(statement)
    findings = [
        Finding(f"release.vsa.{code}", file, want=want, got=got)
        for code, want, got in _compared(summary, statement, verified.signer, release, channel)
        if want != got
    ]
    if verified.signer == release.builder.identity:
        got = verified.signer.san
        findings.append(Finding("release.vsa.builder", file, want="not the release's builder", got=got))
    if findings:
        raise NotGenuine(f"{file} does not admit this release into {channel}", findings=findings)
    return verified


def _compared(
    summary: Summary, statement: intoto.Statement, signer: Identity, release: VerifiedRelease, channel: str
) -> list[tuple[str, str, str]]:
    """The fields that have one right value. Links may be fewer than there are now: rebuilds go on."""
    said = tuple((item.uri, item.digest("sha256")) for item in summary.inputs)
    named = {uri for uri, _ in said}
    inputs = tuple(
        (path, digest.hex)
        for path, digest in inputs_of(release)
        if path in named or not path.startswith(f"{links.FOLDER}/")
    )
    subjects = tuple((subject.name, dict(subject.digests)) for subject in statement.subjects)
    counted = [f for f in release.quorum.counted if f"{links.FOLDER}/{links.file_name(f.keyid)}" in named]
    reproduced = [names.reproduced_level(n) for n in range(1, len(counted) + 1)]
    level = summary.levels[-1] if summary.levels and summary.levels[-1] in reproduced else ""
    return [
        ("result", vsa.PASSED, summary.result),
        ("resource", names.resource_uri(channel, release.index), summary.resource_uri),
        ("verifier", names.verifier_id(signer), summary.verifier_id),
        ("subject", repr(tuple(_subjects(release.index))), repr(subjects)),
        ("inputs", repr(inputs), repr(said)),
        (
            "levels",
            repr((names.build_level(release.builder), level or "TALLYSTICK_REPRODUCED_n")),
            repr(summary.levels),
        ),
    ]


def _subjects(index: Index) -> list[tuple[str, dict[str, str]]]:
    return [
        ("index.json", {"sha256": index.digest.hex}),
        *((entry.path, {"sha256": entry.digest.hex}) for entry in index.product_files()),
    ]

"""From a release directory, a verified release, a channel and a broker's answers to what the page shows.

What is not given is not made up: a release that was not verified has no signatures here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tallystick.broker.decisions import Kind
from tallystick.broker.explaining import Explanation
from tallystick.core.digests import Digest
from tallystick.formats import cyclonedx
from tallystick.measure.records import Measurement
from tallystick.policy import document as policy_document
from tallystick.policy.normal import NormalForm
from tallystick.provenance import check as provenance_check
from tallystick.provenance import make as provenance_make
from tallystick.release.records import Change, Gate, Quorum, VerifiedChannel, VerifiedRelease
from tallystick.report import registers
from tallystick.report.folder import ReleaseFolder
from tallystick.report.records import (
    BuildView,
    ComponentView,
    DecisionView,
    GateView,
    InputView,
    LogView,
    MeasurementView,
    PolicyView,
    ProductView,
    PromotionView,
    RebuildView,
    RegisterView,
    ReleaseView,
    SbomView,
    SignatureView,
)
from tallystick.sbom.coverage import Coverage, cover
from tallystick.tlog import checkpoint

MEASURED = "uki"  # the product that the demo's machines boot; it is shown first


def release(folder: ReleaseFolder, verified: VerifiedRelease | None = None) -> ReleaseView:
    """Return the release in ``folder``: provenance re-derived, products taken apart, every file hashed.

    Args:
        verified: the same release, verified against a trust file; without it nothing is said of signatures.

    Raises:
        ValueError: ``verified`` is another release. A caller's bug, so not a TallystickError.
        NotGenuine: a file that is not what the index says. Malformed, Unsupported: a part that can not be read.
    """
    if verified is not None and verified.digest != folder.index.digest:
        raise ValueError(f"{verified.digest} is not the release in {folder.path}")
    covered = {one.product: one for one in cover(folder.products(), folder.contents())}
    return ReleaseView(
        name=folder.index.name,
        version=folder.index.version,
        digest=folder.index.digest,
        build=_build(folder),
        products=_products(folder, covered),
        sbom=_sbom(folder, covered.values()),
        measurements=tuple(measurement(one) for one in folder.measurements()),
        measurements_statement=folder.digest("statements/measurements.json"),
        signatures=signatures(verified),
        rebuilds=rebuilds(verified.quorum) if verified is not None else (),
        rebuilds_needed=verified.quorum.threshold if verified is not None else 0,
        links=verified.quorum.links if verified is not None else (),
        labels=verified.labels if verified is not None else (),
    )


def promotion(
    channel: VerifiedChannel, digest: Digest, change: Change | None = None, gates: Iterable[Gate] = ()
) -> PromotionView:
    """Return how the release ``digest`` came into ``channel``.

    Args:
        change: the change that brought it there; without it only the verdict's signer is named.
        gates: what the promotion checked.

    Raises:
        ValueError: the channel has no such release.
    """
    found = next((one for one in channel.releases if one.digest == digest), None)
    if found is None or found.vsa is None:
        raise ValueError(f"{digest} is not in {channel.name}")
    author = change.author if change is not None else _person(channel, found.vsa.signer.san)
    signed = change.signed_by if change is not None else ()
    return PromotionView(
        release=digest,
        channel=channel.name,
        version=channel.version,
        author=author,
        approvers=tuple(name for name in signed if name != author),
        threshold=channel.settings.threshold,
        verdict=found.vsa.bundle,
        gates=tuple(GateView(name=gate.name, detail=gate.detail, passed=gate.passed) for gate in gates),
        expires=channel.expires,
    )


def policy(
    target: str,
    data: bytes,
    *,
    compiled: bytes,
    released: int | None = None,
    accepted: int | None = None,
    evaluated: int = 0,
) -> PolicyView:
    """Return one compiled policy.

    Args:
        target: "broker", "trustee".
        data: the target's own policy file.
        compiled: the normal form it came from, which is the ``broker`` target's file.
        released, accepted, evaluated: as its proof counted (``compile.targets.base.Proof``); left out when it was
            not proved for this page.
    """
    form = policy_document.read(compiled)
    return PolicyView(
        name=form.policy,
        target=target,
        channel=form.channel,
        digest=Digest.of(data),
        releases=tuple(one.digest for one in form.releases),
        released=released,
        accepted=accepted,
        evaluated=evaluated,
        keys=tuple(rule.key for rule in form.keys),
        waivers=waivers(form, target),
        not_after=form.not_after,
    )


def waivers(form: NormalForm, target: str) -> tuple[str, ...]:
    """Return what a policy waives for everybody and for ``target``: what, by whom, until when."""
    everywhere = tuple(f"{name}: {_waived(expect)}" for name, expect in form.waivers)
    here = tuple(
        f"{one.requirement}, not enforced here: {_waived(one.waived)}"
        for one in form.residuals
        if one.target == target
    )
    return everywhere + here


def decision(found: Explanation, title: str = "", changed: Iterable[str] = ()) -> DecisionView:
    """Return one of the broker's answers, explained by its own evaluator.

    Args:
        changed: components in which the machine's image differs from the nearest release, where that is known.
    """
    allowed = found.kind is Kind.RELEASE
    said = found.said
    named = found.release or found.nearest
    words = f"{found.kind.value} {said.get('key') or said.get('stage') or ''}".strip()
    return DecisionView(
        title=title or words[:1].upper() + words[1:],
        allowed=allowed,
        at=found.at,
        key=str(said.get("key", "")),
        release=named.digest if named is not None else None,
        policy=Digest.parse(str(said["policy"])) if "policy" in said else None,
        findings=found.findings,
        changed=tuple(changed),
        log_index=found.leaf,
        decision=found.decision,
    )


def log(name: str, note: str, verifier: str = "") -> LogView:
    """Return the head that the signed checkpoint ``note`` states. Whoever gives it has verified it.

    Raises:
        Malformed: no checkpoint.
    """
    head = checkpoint.parse(checkpoint.parse_note(note).text)
    return LogView(
        name=name,
        origin=head.origin,
        size=head.size,
        root=head.root.hex(),
        checkpoint=note,
        verifier=verifier,
    )


def _build(folder: ReleaseFolder) -> BuildView:
    checked = provenance_check.check(folder.statement("provenance"), folder.released())
    provenance, graph = checked.provenance, checked.graph
    nix: Mapping[str, Any] = provenance.internal.get("nix") or {}
    return BuildView(
        builder_id=provenance.builder_id,
        build_type=provenance.build_type,
        facts=(
            ("Nix", f"{nix.get('version')} on {nix.get('system')}"),
            ("Sandbox", _on(nix.get("sandbox"))),
            ("Fallback to no sandbox", _on(nix.get("sandboxFallback"))),
            ("Build users that do not own the store", _on(nix.get("buildUsers"))),
        ),
        recipe=folder.digest("recipe.yaml"),
        derivations=len(graph.derivations),
        outputs=sum(len(made.outputs) for made in graph.derivations.values()),
        fixed_outputs=sum(1 for _ in graph.fixed()),
        inputs=tuple(
            InputView(
                name=one.name,
                kind=_kind(dict(one.digests), has_drv=bool(one.annotation("nix:drv"))),
                uri=one.uri,
                digests=one.digests,
            )
            for one in provenance.dependencies
        ),
        statement=folder.digest("statements/provenance.json"),
        roots=tuple(
            (one.name, folder.digest(one.name))
            for one in provenance.byproducts
            if one.name.startswith(provenance_make.DERIVATIONS)
        ),
        findings=checked.findings,
    )


def _kind(digests: Mapping[str, str], *, has_drv: bool) -> str:
    if "gitCommit" in digests:
        return "commit"
    if not has_drv:
        return "source"
    return "tree" if any(name.startswith(provenance_make.NAR_HASH) for name in digests) else "file"


def _on(value: object) -> str:
    return {"True": "on", "False": "off"}.get(str(value), str(value))


def _products(folder: ReleaseFolder, covered: Mapping[str, Coverage]) -> tuple[ProductView, ...]:
    stated = {part.get("bom-ref"): part for part in _bom(folder).get("components") or []}
    found = []
    for name, path in sorted(folder.index.products, key=lambda item: (item[0] != MEASURED, item[0])):
        entry, one = folder.index.file(path), covered[name]
        drv = cyclonedx.property_of(stated.get(f"product:{name}") or {}, "nix:drv") or ""
        found.append(
            ProductView(
                name=name,
                path=path,
                digest=folder.digest(path),
                size_bytes=entry.size_bytes if entry is not None else 0,
                drv=drv,
                files=one.files,
                unexplained_files=one.unexplained_files,
                unexplained_bytes=one.unexplained_bytes,
            )
        )
    return tuple(found)


def _bom(folder: ReleaseFolder) -> cyclonedx.Document:
    return cyclonedx.checked(folder.statement("sbom").predicate, "statements/sbom.json")


def _sbom(folder: ReleaseFolder, covered: Iterable[Coverage]) -> SbomView:
    document, totals = _bom(folder), tuple(covered)
    return SbomView(
        spec_version=document["specVersion"],
        components=components(document),
        statement=folder.digest("statements/sbom.json"),
        unexplained_files=sum(one.unexplained_files for one in totals),
        unexplained_bytes=sum(one.unexplained_bytes for one in totals),
    )


def components(document: cyclonedx.Document) -> tuple[ComponentView, ...]:
    """Return the components of an SBOM that was checked, without the products they are in."""
    return tuple(
        _component(part)
        for part in document.get("components") or []
        if not str(part.get("bom-ref")).startswith("product:")
    )


def _component(part: cyclonedx.Document) -> ComponentView:
    places = [str(one.get("location")) for one in (part.get("evidence") or {}).get("occurrences") or []]
    licences = [
        str(
            item.get("expression")
            or (item.get("license") or {}).get("name")
            or (item.get("license") or {}).get("id")
        )
        for item in part.get("licenses") or []
    ]
    hashes = [str(one.get("content")) for one in part.get("hashes") or [] if one.get("alg") == "SHA-256"]
    nar = cyclonedx.property_of(part, "nix:narHash")
    return ComponentView(
        name=str(part.get("name")),
        version=str(part.get("version") or ""),
        kind=cyclonedx.property_of(part, "tallystick:kind") or str(part.get("type")),
        licence=", ".join(licences),
        digest=hashes[0] if hashes else f"narHash {nar}",
        files=len(places),
        products=tuple(sorted({place.partition(":")[0] for place in places})),
    )


def measurement(one: Measurement) -> MeasurementView:
    """Return one release tuple with what each register stands for."""
    values = [
        RegisterView(name=registers.label(name), meaning=registers.meaning(name), value=value)
        for name, value in one.values
    ]
    waived = [
        RegisterView(
            name=registers.label(item.name),
            meaning=registers.meaning(item.name),
            value="",
            waived=f"{item.decision}, decided by {item.decided_by}, until {item.until:%Y-%m-%d}",
        )
        for item in one.waived
    ]
    names = [name for name, _ in one.values] + [item.name for item in one.waived]
    ordered = sorted(zip(names, [*values, *waived], strict=True), key=lambda pair: pair[0])
    return MeasurementView(
        platform=one.platform,
        evidence_kind=one.evidence_kind,
        image=one.image,
        firmware=one.firmware,
        shape=tuple((name, str(value)) for name, value in one.shape),
        registers=tuple(view for _, view in ordered),
    )


def signatures(verified: VerifiedRelease | None) -> tuple[SignatureView, ...]:
    """Return who signed which statement; nothing of a release that was not verified."""
    if verified is None:
        return ()
    return tuple(
        SignatureView(
            statement=name,
            signer=one.signer.san,
            issuer=one.signer.issuer,
            signed_at=one.signed_at,
            bundle=one.bundle,
        )
        for name, one in verified.statements
    )


def rebuilds(quorum: Quorum) -> tuple[RebuildView, ...]:
    """Return the rebuilds of a release, and why some do not count."""
    counted = [
        RebuildView(builder_id=one.builder_id, organisation=one.organisation, counts=True, note="")
        for one in quorum.counted
    ]
    others = [
        RebuildView(builder_id=one.builder_id, organisation=one.organisation, counts=False, note=why)
        for one, why in quorum.not_counted
    ]
    return (*counted, *others)


def _person(channel: VerifiedChannel, san: str) -> str:
    return next((one.name for one in channel.people if one.identity.san == san), san)


def _waived(expect: object) -> str:
    from tallystick.core.expect import Waived

    if not isinstance(expect, Waived):
        return str(expect)
    return f"{expect.decision}, decided by {expect.decided_by}, until {expect.until:%Y-%m-%d}"

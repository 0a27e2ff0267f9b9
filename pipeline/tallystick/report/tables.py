"""Tables that several pages show: components, release tuples, signatures, rebuilds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tallystick.report import widgets as w
from tallystick.report.html import Element, el
from tallystick.report.records import ComponentView, MeasurementView, RebuildView, SignatureView


def components(found: Sequence[ComponentView]) -> Element:
    """Return the components of an SBOM."""
    rows = [
        (
            one.name,
            one.version,
            one.kind,
            one.licence or "not stated",
            f"{one.files:,}" if one.files else "",
            ", ".join(one.products),
            w.code(one.digest),
        )
        for one in found
    ]
    return w.table(
        f"{w.count(len(rows), 'component')}; the hash is the SHA-256 of the package or file, "
        "or of the Nix archive of a source tree",
        ("Component", "Version", "Kind", "Licence", "Files", "In", "Hash"),
        rows,
        numbers="Files",
    )


def release_tuple(measurement: MeasurementView) -> Iterator[Element]:
    """Yield one release tuple: what a machine must report."""
    shape = ", ".join(f"{name} {value}" for name, value in measurement.shape)
    rows = [
        (
            one.name,
            one.meaning,
            w.code(one.value) if one.value else el("span", f"waived: {one.waived}", class_="plain"),
        )
        for one in measurement.registers
    ]
    yield el("h3", f"{measurement.platform}: {shape}")
    yield w.facts(
        (
            ("Evidence", w.code(measurement.evidence_kind)),
            ("Image", w.digest(measurement.image)),
            ("Firmware", w.digest(measurement.firmware)),
        )
    )
    yield w.table("Registers of this release tuple", ("Register", "What it stands for", "Value"), rows)


def signatures(found: Sequence[SignatureView]) -> Element:
    """Return who signed which statement."""
    rows = [
        (one.statement, w.code(one.signer), w.code(one.issuer), w.when(one.signed_at), w.digest(one.bundle))
        for one in found
    ]
    return w.table(
        "Signed statements", ("Statement", "Signer", "Vouched for by", "Signed at", "Bundle"), rows
    )


def rebuilds(found: Sequence[RebuildView], needed: int) -> Iterator[Element]:
    """Yield whether enough others got the same bytes, and who did."""
    counted = sum(one.counts for one in found)
    met = needed > 0 and counted >= needed
    said = f"{counted} of {w.count(needed, 'independent rebuild')} needed"
    yield el("p", w.badge(said, "good" if met else "bad"))
    rows = [
        (
            w.code(one.builder_id),
            one.organisation,
            w.badge("same bytes, counts", "good")
            if one.counts
            else w.badge(one.note or "does not count", "plain"),
        )
        for one in found
    ]
    yield w.table("Rebuilders", ("Builder", "Organisation", "Outcome"), rows)

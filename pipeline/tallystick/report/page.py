"""The chain page: one static file from source to key release. It loads nothing and runs no script."""

from __future__ import annotations

from collections.abc import Iterator

from tallystick.report import cards, shell
from tallystick.report import widgets as w
from tallystick.report.html import Element, el
from tallystick.report.records import ChainReport, PolicyView, PromotionView, ReleaseView
from tallystick.report.sections import NOT_GIVEN, STAGES, empty, release_sections, section


def render(report: ChainReport) -> bytes:
    """Return the page of ``report``, UTF-8. The same report gives the same bytes.

    Raises:
        ValueError: a report without a release.
    """
    if not report.releases:
        raise ValueError("a chain page is about at least one release")
    first = report.releases[0]
    body = el(
        "body",
        el("a", "Skip to the chain", href="#chain", class_="skip"),
        _header(report, first),
        el("main", _chain(report, first), _releases(report), *_beyond(report)),
        _footer(report),
    )
    return shell.page(f"{first.name} {first.version}: the chain", body)


def _header(report: ChainReport, first: ReleaseView) -> Element:
    released = sum(one.allowed for one in report.decisions)
    refused = len(report.decisions) - released
    registers = sum(1 for m in first.measurements for one in m.registers if one.value)
    figures = [
        ("components", f"{len(first.sbom.components)}"),
        ("build steps recomputed", f"{first.build.derivations:,}"),
        ("unexplained bytes", f"{first.sbom.unexplained_bytes:,}"),
        ("registers pinned", f"{registers}"),
        ("key released" if released == 1 else "keys released", f"{released}"),
        ("request refused" if refused == 1 else "requests refused", f"{refused}"),
    ]
    return el(
        "header",
        shell.stick(),
        el("p", "Tallystick · from source to key release", class_="eyebrow"),
        el("h1", f"{first.name} {first.version}"),
        el(
            "p",
            "The build kept one half of the tally: a signed measurement. The machine brought the other: "
            "signed evidence. ",
            el("strong", "A key left only where the two halves matched."),
            class_="lead",
        ),
        [el("p", note, class_="note") for note in report.notes],
        el("dl", [el("div", el("dt", name), el("dd", value)) for name, value in figures], class_="figures"),
    )


def _chain(report: ChainReport, first: ReleaseView) -> Element:
    said = _said(report, first)
    items = [
        el("li", el("a", el("b", name), el("span", said[anchor][0]), said[anchor][1], href=f"#{anchor}"))
        for anchor, name in STAGES
    ]
    return el(
        "nav",
        el("h2", "The chain", class_="hidden"),
        el("ol", items, class_="chain"),
        id="chain",
        aria_label="The chain",
    )


def _said(report: ChainReport, first: ReleaseView) -> dict[str, tuple[str, Element]]:
    """Return one line and one digest for every stage."""
    image = (
        next((p for p in first.products if p.name == "uki"), first.products[0]) if first.products else None
    )
    promotion = _promotion_of(report, first)
    released = [one for one in report.decisions if one.allowed]
    log = report.logs[0] if report.logs else None
    counted = sum(one.counts for one in first.rebuilds)
    signers = sorted({one.signer for one in first.signatures})
    none = el("code", "")
    return {
        "source": (f"{w.count(len(first.build.inputs), 'input')}, all by hash", w.short(first.build.recipe)),
        "derivations": (f"{w.count(first.build.derivations, 'build step')}, all recomputed", _derivation(first)),
        "image": (f"{image.name}, {w.size(image.size_bytes)}", w.short(image.digest)) if image else ("none", none),
        "sbom": (f"{w.count(len(first.sbom.components), 'component')}", w.short(first.sbom.statement)),
        "provenance": (f"by {first.build.builder_id}", w.short(first.build.statement)),
        "measurements": (w.count(len(first.measurements), "release tuple"), w.short(first.measurements_statement)),
        "signatures": (", ".join(signers) or "not verified for this page", w.short(first.digest)),
        "rebuild": (
            f"{counted} of {first.rebuilds_needed} needed" if first.rebuilds else NOT_GIVEN,
            w.short(first.links[0][1]) if first.links else none,
        ),
        "promotion": (
            (f"{promotion.channel}: {', '.join((promotion.author, *promotion.approvers))}", w.short(promotion.verdict))
            if promotion
            else (NOT_GIVEN, none)
        ),
        "policies": _policies_said(report.policies),
        "decisions": (
            f"{len(released)} released, {len(report.decisions) - len(released)} refused"
            if report.decisions
            else NOT_GIVEN,
            w.short(released[0].release) if released else none,
        ),
        "log": (w.count(log.size, "entry", "entries"), el("code", f"{log.root[:12]}…")) if log else (NOT_GIVEN, none),
    }  # fmt: skip


def _derivation(release: ReleaseView) -> Element:
    """Return the digest of the derivation that made the first product."""
    made = release.products[0].drv.rpartition("/")[2] if release.products else ""
    return w.short(next((digest for name, digest in release.build.roots if name.endswith(f"/{made}")), None))


def _policies_said(policies: tuple[PolicyView, ...]) -> tuple[str, Element]:
    said = "; ".join(f"{one.target}: {cards.proved(one)}" for one in policies)
    return said or NOT_GIVEN, w.short(policies[0].digest if policies else None)


def _promotion_of(report: ChainReport, release: ReleaseView) -> PromotionView | None:
    return next((one for one in report.promotions if one.release == release.digest), None)


def _releases(report: ChainReport) -> Iterator[Element]:
    for index, release in enumerate(report.releases):
        if len(report.releases) > 1:
            yield el(
                "p", f"Release {release.name} {release.version} ", w.digest(release.digest), class_="release"
            )
        yield from release_sections(release, f"-{index + 1}" if index else "")


def _beyond(report: ChainReport) -> Iterator[Element]:
    yield section(
        "promotion",
        "",
        "Promotion",
        "People put a release into a channel; no person alone can.",
        [part for one in report.promotions for part in cards.promotion(one)] or empty(NOT_GIVEN),
    )
    yield section(
        "policies",
        "",
        "Compiled policies",
        "What the key brokers enforce: the released tuples and nothing else, as evaluating them shows.",
        [part for one in report.policies for part in cards.policy(one)] or empty(NOT_GIVEN),
    )
    yield section(
        "decisions",
        "",
        "Key release",
        "Every request that was made of the broker, and every attempt to get around it.",
        [cards.decision(one) for one in report.decisions] or empty(NOT_GIVEN),
    )
    yield section(
        "log",
        "",
        "Transparency log",
        "A record is durable in the log before a key leaves.",
        [part for one in report.logs for part in cards.log(one)] or empty(NOT_GIVEN),
    )


def _footer(report: ChainReport) -> Element:
    return el(
        "footer",
        el(
            "p",
            f"Made by {report.made_by} at ",
            w.when(report.made_at),
            ". One static file: it loads nothing and runs no script.",
        ),
    )

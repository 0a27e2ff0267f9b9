"""The chain page: one static file from source to key release. It loads nothing and runs no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources

from tallystick.report import widgets as w
from tallystick.report.html import Element, document, el
from tallystick.report.records import (
    ChainReport,
    DecisionView,
    LogView,
    PolicyView,
    PromotionView,
    ReleaseView,
)
from tallystick.report.sections import NOT_GIVEN, STAGES, empty, release_sections, section

_NOTCHES = (70, 130, 150, 170, 290, 380, 400, 520, 600, 620, 640, 760, 850)


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
    return document(el("html", _head(f"{first.name} {first.version}: the chain"), body, lang="en"))


@cache
def _style() -> str:
    return resources.files("tallystick.report").joinpath("page.css").read_text("utf-8")


def _head(title: str) -> Element:
    style = _style()
    hashed = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; style-src 'sha256-{hashed}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", title),
        el("link", rel="icon", href="data:,"),
        el("style", style),
    )


def _stick() -> Element:
    """A split tally stick: the same notches in both halves."""
    above = "".join(f"L{x + 6} 27 L{x} 17 L{x - 6} 27 " for x in reversed(_NOTCHES))
    below = "".join(f"L{x - 6} 33 L{x} 43 L{x + 6} 33 " for x in _NOTCHES)
    stock = f"M4 0 H996 Q1000 0 1000 6 V27 {above}L0 27 V6 Q0 0 4 0 Z"
    foil = f"M0 33 {below}L1000 33 V54 Q1000 60 996 60 H4 Q0 60 0 54 Z"
    return el(
        "svg",
        el("path", d=stock, class_="stock"),
        el("path", d=foil, class_="foil"),
        viewBox="0 0 1000 60",
        preserveAspectRatio="none",
        aria_hidden="true",
        focusable="false",
        class_="stick",
    )


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
        _stick(),
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


def _proved(policy: PolicyView) -> str:
    if policy.released is None:
        return "not proved for this page"
    return f"released {policy.released} · accepted {policy.accepted}"


def _derivation(release: ReleaseView) -> Element:
    """Return the digest of the derivation that made the first product."""
    made = release.products[0].drv.rpartition("/")[2] if release.products else ""
    return w.short(next((digest for name, digest in release.build.roots if name.endswith(f"/{made}")), None))


def _policies_said(policies: tuple[PolicyView, ...]) -> tuple[str, Element]:
    said = "; ".join(f"{one.target}: {_proved(one)}" for one in policies)
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
        [part for one in report.promotions for part in _promotion(one)] or empty(NOT_GIVEN),
    )
    yield section(
        "policies",
        "",
        "Compiled policies",
        "What the key brokers enforce: the released tuples and nothing else, as evaluating them shows.",
        [part for one in report.policies for part in _policy(one)] or empty(NOT_GIVEN),
    )
    yield section(
        "decisions",
        "",
        "Key release",
        "Every request that was made of the broker, and every attempt to get around it.",
        [_decision(one) for one in report.decisions] or empty(NOT_GIVEN),
    )
    yield section(
        "log",
        "",
        "Transparency log",
        "A record is durable in the log before a key leaves.",
        [part for one in report.logs for part in _log(one)] or empty(NOT_GIVEN),
    )


def _promotion(promotion: PromotionView) -> Iterator[Element]:
    people = len({promotion.author, *promotion.approvers})
    yield el("h3", f"Channel {promotion.channel}, version {promotion.version}")
    yield w.facts(
        (
            ("Release", w.digest(promotion.release)),
            ("Proposed by", promotion.author),
            ("Approved by", ", ".join(promotion.approvers) or "nobody"),
            (
                "Needed",
                f"{w.count(promotion.threshold, 'approval')} besides the author; {people} people in all",
            ),
            ("Verdict (VSA)", w.digest(promotion.verdict)),
            *((("Valid until", w.when(promotion.expires)),) if promotion.expires else ()),
        )
    )
    if promotion.gates:
        rows = [
            (gate.name, w.badge("passed", "good") if gate.passed else w.badge("failed", "bad"), gate.detail)
            for gate in promotion.gates
        ]
        yield w.table("Gates of the promotion", ("Gate", "Outcome", "What it found"), rows)


def _policy(policy: PolicyView) -> Iterator[Element]:
    kind = "plain" if policy.released is None else "good" if policy.released == policy.accepted else "bad"
    yield el("h3", f"{policy.name}, for {policy.target}")
    yield el(
        "p",
        w.badge(_proved(policy), kind),
        f" {w.count(policy.evaluated, 'piece')} of evidence evaluated" if policy.evaluated else None,
    )
    yield w.facts(
        (
            ("Policy file", w.digest(policy.digest)),
            ("Channel", policy.channel),
            *(("Release", w.digest(release)) for release in policy.releases),
            *((("Keys", _lines([w.code(key) for key in policy.keys])),) if policy.keys else ()),
            *((("Waivers", _lines(policy.waivers)),) if policy.waivers else ()),
            *((("Permits nothing after", w.when(policy.not_after)),) if policy.not_after else ()),
        )
    )


def _lines(items: Iterable[Element | str]) -> Element:
    return el("ul", [el("li", item) for item in items])


def _decision(decision: DecisionView) -> Element:
    outcome = w.badge("Key released", "good") if decision.allowed else w.badge("Refused", "bad")
    matched = "Matched release" if decision.allowed else "Nearest release"
    pairs = [
        ("Key", w.code(decision.key) if decision.key else None),
        (matched, w.digest(decision.release) if decision.release else None),
        ("Policy", w.digest(decision.policy) if decision.policy else None),
        ("When", w.when(decision.at)),
        ("In the log", f"leaf {decision.log_index}" if decision.log_index is not None else None),
        ("Decision", w.code(decision.decision) if decision.decision else None),
    ]
    return el(
        "div",
        el("h3", outcome, decision.title[:1].upper() + decision.title[1:]),
        w.findings("Which check failed", decision.findings) if decision.findings else None,
        *_changed(decision),
        w.facts((name, value) for name, value in pairs if value is not None),
        class_=f"decision {'yes' if decision.allowed else 'no'}",
    )


def _changed(decision: DecisionView) -> Iterator[Element]:
    if decision.changed:
        yield el("p", el("b", "What changed in the image"))
        yield _lines(decision.changed)


def _log(log: LogView) -> Iterator[Element]:
    yield el("h3", log.name[:1].upper() + log.name[1:])
    pairs: list[tuple[str, Element | str]] = [
        ("Origin", w.code(log.origin)),
        ("Entries", f"{log.size:,}"),
        ("Root", w.code(log.root)),
    ]
    if log.verifier:
        pairs.append(("Verifier", w.code(log.verifier)))
    yield w.facts(pairs)
    if log.checkpoint:
        yield w.more("The signed checkpoint", el("pre", log.checkpoint))


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

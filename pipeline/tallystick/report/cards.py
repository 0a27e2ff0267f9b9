"""What several pages show alike: a promotion, a compiled policy, a decision, a log's head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tallystick.report import widgets as w
from tallystick.report.html import Element, el
from tallystick.report.records import DecisionView, LogView, PolicyView, PromotionView


def proved(policy: PolicyView) -> str:
    """Return what the proof of a compiled policy counted."""
    if policy.released is None:
        return "not proved for this page"
    return f"released {policy.released} · accepted {policy.accepted}"


def promotion(view: PromotionView) -> Iterator[Element]:
    """Yield how a release came into a channel, and what was checked for it."""
    people = len({view.author, *view.approvers})
    yield el("h3", f"Channel {view.channel}, version {view.version}")
    yield w.facts(
        (
            ("Release", w.digest(view.release)),
            ("Proposed by", view.author),
            ("Approved by", ", ".join(view.approvers) or "nobody"),
            (
                "Needed",
                f"{w.count(view.threshold, 'approval')} besides the author; {people} people in all",
            ),
            ("Verdict (VSA)", w.digest(view.verdict)),
            *((("Valid until", w.when(view.expires)),) if view.expires else ()),
        )
    )
    if view.gates:
        rows = [
            (gate.name, w.badge("passed", "good") if gate.passed else w.badge("failed", "bad"), gate.detail)
            for gate in view.gates
        ]
        yield w.table("Gates of the promotion", ("Gate", "Outcome", "What it found"), rows)


def policy(view: PolicyView) -> Iterator[Element]:
    """Yield a compiled policy and what was proved of it."""
    kind = "plain" if view.released is None else "good" if view.released == view.accepted else "bad"
    yield el("h3", f"{view.name}, for {view.target}")
    yield el(
        "p",
        w.badge(proved(view), kind),
        f" {w.count(view.evaluated, 'piece')} of evidence evaluated" if view.evaluated else None,
    )
    yield w.facts(
        (
            ("Policy file", w.digest(view.digest)),
            ("Channel", view.channel),
            *(("Release", w.digest(release)) for release in view.releases),
            *((("Keys", lines([w.code(key) for key in view.keys])),) if view.keys else ()),
            *((("Waivers", lines(view.waivers)),) if view.waivers else ()),
            *((("Permits nothing after", w.when(view.not_after)),) if view.not_after else ()),
        )
    )


def lines(items: Iterable[Element | str]) -> Element:
    """Return a list of lines."""
    return el("ul", [el("li", item) for item in items])


def decision(view: DecisionView) -> Element:
    """Return one answer of the broker, with every reason."""
    outcome = w.badge("Key released", "good") if view.allowed else w.badge("Refused", "bad")
    matched = "Matched release" if view.allowed else "Nearest release"
    pairs = [
        ("Key", w.code(view.key) if view.key else None),
        (matched, w.digest(view.release) if view.release else None),
        ("Policy", w.digest(view.policy) if view.policy else None),
        ("When", w.when(view.at)),
        ("In the log", f"leaf {view.log_index}" if view.log_index is not None else None),
        ("Decision", w.code(view.decision) if view.decision else None),
    ]
    return el(
        "div",
        el("h3", outcome, view.title[:1].upper() + view.title[1:]),
        w.findings("Which check failed", view.findings) if view.findings else None,
        *_changed(view),
        w.facts((name, value) for name, value in pairs if value is not None),
        w.more("Proof that the log holds it", el("pre", view.proof)) if view.proof else None,
        class_=f"decision {'yes' if view.allowed else 'no'}",
    )


def _changed(decision: DecisionView) -> Iterator[Element]:
    said = (
        ("What changed", decision.changed),
        ("What would have made it a yes, all of it together", decision.flips),
        ("What to do next", decision.steps),
    )
    for title, found in said:
        if found:
            yield el("p", el("b", title))
            yield lines(found)


def log(view: LogView) -> Iterator[Element]:
    """Yield the head of a view."""
    yield el("h3", view.name[:1].upper() + view.name[1:])
    pairs: list[tuple[str, Element | str]] = [
        ("Origin", w.code(view.origin)),
        ("Entries", f"{view.size:,}"),
        ("Root", w.code(view.root)),
    ]
    if view.verifier:
        pairs.append(("Verifier", w.code(view.verifier)))
    yield w.facts(pairs)
    if view.checkpoint:
        yield w.more("The signed checkpoint", el("pre", view.checkpoint))

"""The release managers' page: what may run in a channel now and why, what waits, who holds keys, what ends next.

Drawn on the server into one file that loads nothing and runs no script.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from tallystick.report import cards, shell, tables
from tallystick.report import widgets as w
from tallystick.report.board_records import Board, ChangeView, ChannelView, KeyView, ReleaseCard, Trouble
from tallystick.report.html import Element, el

_PARTS = (  # anchor, name in the navigation
    ("now", "May run now"),
    ("channel", "Approvals"),
    ("releases", "Releases"),
    ("leases", "Leases"),
    ("refusals", "Refusals"),
    ("log", "Log"),
    ("ends", "What ends next"),
)
_NUMBER = {anchor: number for number, (anchor, _) in enumerate(_PARTS, 1)}
_NO_BROKER = "no broker was given for this page"
_SOON = timedelta(days=14)
_STATES = {"live": "good", "draining": "plain"}


def render(board: Board) -> bytes:
    """Return the page of ``board``, UTF-8. The same board gives the same bytes."""
    body = el(
        "body",
        el("a", "Skip to what may run now", href="#now", class_="skip"),
        _header(board),
        _nav(board),
        el(
            "main",
            _now(board),
            _channel(board),
            _releases(board),
            _leases(board),
            _refusals(board),
            _log(board),
            _ends(board),
        ),
        el(
            "footer",
            el(
                "p",
                f"Made by {board.made_by} at ",
                w.when(board.made_at),
                ". It loads nothing and runs no script.",
            ),
        ),
    )
    return shell.page(f"Channel {board.channel}: what may run now", body)


def _header(board: Board) -> Element:
    return el(
        "header",
        shell.stick(),
        el("p", f"Tallystick · channel {board.channel}", class_="eyebrow"),
        el("h1", "What may run now"),
        el("p", *_lead(board), class_="lead"),
        [_trouble(one) for one in board.troubles],
        [el("p", note, class_="note") for note in board.notes],
        el(
            "dl",
            [el("div", el("dt", name), el("dd", value)) for name, value in _figures(board)],
            class_="figures",
        ),
    )


def _lead(board: Board) -> Iterator[Element | str]:
    given = [one for one in board.keys if one.runs]
    running = {run.digest for one in given for run in one.runs}
    if not given:
        yield el("strong", "Nobody gets a key now.")
        return
    keys, releases = w.count(len(given), "key"), w.count(len(running), "release")
    yield f"{keys} {'goes' if len(given) == 1 else 'go'} to {releases}, and to "
    yield el("strong", "nothing else.")


def _figures(board: Board) -> Iterator[tuple[str, str]]:
    held = len(board.leases) + board.more_leases
    waiting = len(board.state.waiting) if board.state else 0
    yield ("key in force" if len(board.keys) == 1 else "keys in force", f"{len(board.keys)}")
    yield ("lease is live" if held == 1 else "leases are live", f"{held:,}")
    yield ("change waits" if waiting == 1 else "changes wait", f"{waiting}")
    yield ("key released" if board.released == 1 else "keys released", f"{board.released:,}")
    yield ("request refused" if board.refused == 1 else "requests refused", f"{board.refused:,}")
    coming = next((one.at for one in board.ends if one.at > board.made_at), None)
    if coming is not None:
        yield ("until something ends", _left(coming - board.made_at))


def _nav(board: Board) -> Element:
    counts = {
        "now": len(board.keys),
        "channel": len(board.state.waiting) if board.state else 0,
        "releases": len(board.releases),
        "leases": len(board.leases) + board.more_leases,
        "refusals": board.refused,
        "log": board.log.size if board.log else 0,
        "ends": len(board.ends),
    }
    links = [
        el("li", el("a", name, " ", el("span", f"{counts[anchor]:,}", class_="count"), href=f"#{anchor}"))
        for anchor, name in _PARTS
    ]
    return el("nav", el("ul", links), class_="parts", aria_label="Parts of this page")


def _section(anchor: str, title: str, why: str, *children: Element | Iterable[Element] | None) -> Element:
    return w.section(anchor, _NUMBER[anchor], title, why, *children)


def _none(what: str) -> Element:
    return el("p", w.badge(what, "plain"))


def _nothing(board: Board, what: str) -> Element:
    """Say that there is nothing; but of a broker that was not looked at, nothing can be said."""
    return _none(what if board.log else _NO_BROKER)


def _trouble(one: Trouble) -> Element:
    return el(
        "div",
        el(
            "p",
            w.badge("Not verified", "bad"),
            " ",
            el("b", f"{one.part[:1].upper()}{one.part[1:]}: "),
            one.message,
        ),
        w.findings("What does not hold", one.findings) if one.findings else None,
        class_="trouble",
        role="alert",
    )


def _now(board: Board) -> Element:
    unusable = (
        w.findings("Policies of the channel that permit nothing", board.unusable) if board.unusable else None
    )
    return _section(
        "now",
        "What may run now, and why",
        "Each key, the releases that get it, and what that rests on. Everything else is refused.",
        [_key(one) for one in board.keys] or _none("no policy in force names a key"),
        unusable,
    )


def _key(one: KeyView) -> Element:
    rows = [
        (
            f"{run.name} {run.version}",
            ", ".join(f"{name} ({w.count(shapes, 'shape')})" for name, shapes in run.platforms),
            w.when(run.promoted_at),
            w.short(run.digest),
            w.short(run.verdict),
        )
        for run in one.runs
    ]
    columns = ("Release", "On", "Promoted", "Release digest", "Because of verdict")
    said = w.count(len(rows), "release") if rows else "nobody"
    return el(
        "div",
        el("h3", w.badge(f"Given to {said}", "good" if rows else "bad"), w.code(one.key)),
        w.table(f"Who gets {one.key}", columns, rows) if rows else None,
        w.facts(
            (
                ("Policy in force", [one.policy, " ", w.digest(one.digest)]),
                (
                    "Evidence",
                    f"at most {one.max_age_seconds:,} s old; attested again within {one.reattest_seconds:,} s",
                ),
                ("Permits nothing after", w.when(one.not_after)),
                ("Waived", cards.lines(one.waivers) if one.waivers else "nothing"),
            )
        ),
        class_=f"decision {'yes' if rows else 'no'}",
    )


def _channel(board: Board) -> Element:
    state = board.state
    return _section(
        "channel",
        "Channel and approvals",
        "What people put in force, what waits for them, and what they took back. Nobody approves their own change.",
        _none("the channel could not be verified") if state is None else list(_approvals(state)),
    )


def _approvals(state: ChannelView) -> Iterator[Element]:
    yield el("h3", "Waiting for approval")
    waiting = [_waiting(one, state.threshold) for one in state.waiting]
    yield el("div", waiting) if waiting else _none("nothing waits")
    yield w.facts(
        (
            ("Channel", f"{state.name}, version {state.version}"),
            ("Metadata hold until", w.when(state.expires)),
            ("Needed", f"{w.count(state.threshold, 'approval')} besides the author's"),
            ("People with keys", ", ".join(state.people)),
            ("Platforms", ", ".join(state.platforms)),
        )
    )
    if state.last:
        rows = [
            (
                f"{one.kind} {one.summary}",
                one.author,
                ", ".join(one.approvers),
                w.when(one.at),
                f"{one.version}",
            )
            for one in state.last
        ]
        yield w.table(
            "The last change of each kind", ("Change", "Author", "Approved by", "When", "Version"), rows
        )
    if state.revoked:
        gone = [(w.digest(one.release), one.by, one.reason, w.when(one.at)) for one in state.revoked]
        yield w.table("Revoked: none of these gets a key again", ("Release", "By", "Reason", "When"), gone)


def _waiting(one: ChangeView, threshold: int) -> Element:
    approved = ", ".join(one.approvers) or "nobody yet"
    have = max(threshold - one.missing, 0)
    return el(
        "div",
        el("h3", w.badge(f"{have} of {threshold} approvals", "plain"), f"{one.kind} {one.summary}"),
        w.facts(
            (
                ("Proposed by", [one.author, ", ", w.when(one.at)]),
                ("Approved by", approved),
                ("Becomes", f"version {one.version} of {one.role}"),
            )
        ),
        class_="decision wait",
    )


def _releases(board: Board) -> Element:
    return _section(
        "releases",
        "Releases",
        "From source to measurement, every link by its digest, every signature verified; and what is new in each.",
        [_release(one) for one in board.releases]
        or _none("the channel lists no release that could be verified"),
    )


def _release(one: ReleaseCard) -> Element:
    links = [
        el("li", el("div", el("b", stage.name), el("span", stage.said), w.short(stage.digest)))
        for stage in one.chain
    ]
    news = (
        [el("p", el("b", f"Since {one.before}")), cards.lines(one.changes)]
        if one.before
        else [el("p", "The first release of its name in this channel.", class_="plain")]
    )
    return el(
        "article",
        el(
            "h3", f"{one.name} {one.version}", [w.badge(label, "plain") for label in one.labels], class_="row"
        ),
        el("p", w.digest(one.digest)),
        el("ol", links, class_="chain still"),
        news,
        list(cards.promotion(one.promotion))[1:],
        w.more(f"SBOM: {w.count(len(one.components), 'component')}", tables.components(one.components)),
        w.more(
            f"Measurements: {w.count(len(one.measurements), 'release tuple')}",
            [part for entry in one.measurements for part in tables.release_tuple(entry)],
        ),
        w.more(
            "Signatures and rebuilds",
            [tables.signatures(one.signatures), *tables.rebuilds(one.rebuilds, one.rebuilds_needed)],
        ),
        class_="release-card",
    )


def _leases(board: Board) -> Element:
    rows = [
        (
            w.code(one.key),
            one.release if " " in one.release else w.code(one.release),
            w.badge(one.state, _STATES.get(one.state, "bad")),
            w.when(one.renewed_at),
            el("span", w.when(one.expires_at), f", in {_left(one.expires_at - board.made_at)}"),
            el("code", f"{one.holder[:12]}…", title=one.holder),
        )
        for one in board.leases
    ]
    columns = ("Key", "Release", "State", "Attested", "Ends unless renewed", "Holder")
    return _section(
        "leases",
        "Live leases",
        "Machines that hold a key on the strength of their last attestation.",
        w.table(w.count(len(rows), "lease"), columns, rows) if rows else _nothing(board, "no key is held"),
        el("p", f"{board.more_leases:,} more hold; ", w.code("tally broker leases"), " lists them.")
        if board.more_leases
        else None,
    )


def _refusals(board: Board) -> Element:
    rest = board.refused - len(board.refusals)
    return _section(
        "refusals",
        "Refusals",
        "Every reason the evaluator gave, what changed, and what would have made it a yes. For operators alone.",
        [cards.decision(one) for one in board.refusals] or _nothing(board, "nothing was refused"),
        el("p", f"{rest:,} earlier ones are in the log.") if rest > 0 else None,
    )


def _log(board: Board) -> Element:
    return _section(
        "log",
        "Transparency log",
        "Every decision is a leaf before its answer leaves. Keep this head: a later one has to begin with it.",
        list(cards.log(board.log)) if board.log else _none(_NO_BROKER),
        el(
            "p",
            "Check it with ",
            w.code("tally broker log verify --checkpoint FILE"),
            ", one decision with ",
            w.code("tally broker log prove DECISION"),
            ".",
        ),
    )


def _ends(board: Board) -> Element:
    rows = [
        (
            w.when(one.at),
            _urgency(one.at, board.made_at),
            one.kind,
            one.what,
            one.then,
            ", ".join(one.stops) or "nothing that runs",
        )
        for one in board.ends
    ]
    columns = ("At", "In", "Kind", "What ends", "Then", "Stops")
    return _section(
        "ends",
        "What ends next",
        "The first second at which each does not hold any more, and what stops with it.",
        w.table(w.count(len(rows), "end"), columns, rows) if rows else _none("nothing ends"),
    )


def _urgency(at: datetime, now: datetime) -> Element:
    if at <= now:
        return w.badge("ended", "bad")
    return w.badge(_left(at - now), "soon" if at - now < _SOON else "plain")


def _left(span: timedelta) -> str:
    """Return a length of time in its two largest units."""
    seconds = max(int(span.total_seconds()), 0)
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, seconds = divmod(rest, 60)
    if days >= 14:
        return f"{days} days"
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s"

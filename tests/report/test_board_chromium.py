"""The release managers' page in a real Chromium: wide and narrow, dark, on paper, by keyboard, by screen reader."""

from __future__ import annotations

from itertools import pairwise

import pytest
import support_chromium
from report import boards, releases

from tallystick.report import board, dossier_page

pytestmark = pytest.mark.skipif(support_chromium.PROGRAM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    made = folder / "board.html"
    made.write_bytes(board.render(boards.full(releases.write(folder / "release"))))
    return made.as_uri()


@pytest.fixture(scope="module")
def browser():
    with support_chromium.browser() as found:
        yield found


@pytest.fixture
def seen(browser, page):
    browser.media()
    browser.size(1280, 900)
    browser.open(page)
    return browser


@pytest.fixture(scope="module")
def dossier(tmp_path_factory):
    from report.test_dossier import EVERYTHING, made

    place = tmp_path_factory.mktemp("dossier") / "dossier.html"
    place.write_bytes(dossier_page.render(made(EVERYTHING[2:])))
    return place.as_uri()


@pytest.mark.parametrize("width", [320, 390, 768, 1010, 1280])
@pytest.mark.parametrize("which", ["page", "dossier"])
def test_nothing_runs_over_the_edge(seen, width, which, request):
    """WCAG 1.4.10: at 320 CSS pixels a page scrolls one way only."""
    seen.open(request.getfixturevalue(which))
    seen.size(width, 800)
    wide = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.hidden, .skip, thead')
        && e.getBoundingClientRect().right > WIDTH + 1).map(e => e.tagName + '.' + e.className)"""
    assert seen.ask(wide.replace("WIDTH", str(width))) == []
    assert seen.ask("document.documentElement.scrollWidth") <= width
    out = """[...document.querySelectorAll('section *')].filter(e => !e.closest('thead')
        && e.getBoundingClientRect().right > e.closest('section').getBoundingClientRect().right + 1)
        .map(e => e.tagName + '.' + e.className)"""
    assert seen.ask(out) == []


def test_it_asks_nobody_for_anything_and_breaks_no_rule(seen, page):
    asked = [one["request"]["url"] for one in seen.named("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith("data:")] == [page]
    assert seen.named("Log.entryAdded") == []
    assert seen.named("Runtime.exceptionThrown") == []


def test_the_policy_lets_no_script_run(seen):
    """Even one that got into the page: the content security policy holds it."""
    seen.ask(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.x = 1'}))"
    )
    assert seen.ask("window.x") is None
    assert "Content Security Policy" in seen.named("Log.entryAdded")[0]["entry"]["text"]


def test_by_keyboard_the_skip_link_comes_first_and_focus_is_seen(seen):
    seen.press("Tab", 9)
    assert seen.ask("document.activeElement.className") == "skip"
    assert seen.ask("document.activeElement.getBoundingClientRect().left") >= 0
    stops = []
    for _ in range(8):
        seen.press("Tab", 9)
        stops.append(
            seen.ask("document.activeElement.getAttribute('href') || document.activeElement.tagName")
        )
        assert seen.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert stops[:7] == ["#now", "#channel", "#releases", "#leases", "#refusals", "#log", "#ends"]
    assert stops[7] == "SUMMARY"
    seen.press(" ", 32)
    assert seen.ask("document.activeElement.parentElement.open") is True


def test_a_screen_reader_gets_landmarks_headings_and_named_tables(seen):
    nodes = seen.accessible()
    named = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes}
    roles = {role for role, _ in named}
    assert {"banner", "main", "contentinfo", "navigation", "table", "columnheader", "rowheader"} <= roles
    assert ("navigation", "Parts of this page") in named
    assert ("region", "1 What may run now, and why") in {(r, " ".join(n.split())) for r, n in named}
    assert not any(role in ("table", "link", "region") and not name for role, name in named)
    levels = seen.ask("[...document.querySelectorAll('h1,h2,h3')].map(e => +e.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


_CONTRAST = """(() => {
  const lum = c => { const v = c.map(x => { x /= 255; return x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4 });
                     return .2126 * v[0] + .7152 * v[1] + .0722 * v[2] };
  const rgb = s => { const m = s.match(/[\\d.]+/g).map(Number);
                     return m.length > 3 && m[3] === 0 ? null : m.slice(0, 3) };
  const back = e => { for (; e; e = e.parentElement) {
                        const c = rgb(getComputedStyle(e).backgroundColor); if (c) return c }
                      return [255, 255, 255] };
  const bad = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const a = lum(rgb(getComputedStyle(e).color)), b = lum(back(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) bad.push(e.className + ' ' + e.textContent.slice(0, 30) + ' ' + ratio.toFixed(2));
  }
  return bad })()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_has_contrast(seen, scheme):
    """WCAG 1.4.3, level AA: 4.5 to 1."""
    seen.media(prefers_color_scheme=scheme)
    assert seen.ask(_CONTRAST) == []
    ground = seen.ask("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(246, 242, 232)") == (scheme == "light")


def test_on_paper_what_is_folded_away_is_there_and_the_navigation_is_not(seen):
    seen.media(kind="print")
    assert seen.ask("getComputedStyle(document.querySelector('.parts')).display") == "none"
    assert seen.ask("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    hidden = """[...document.querySelectorAll('details')]
        .filter(d => d.lastElementChild.getBoundingClientRect().height < 1).length"""
    assert seen.ask(hidden) == 0
    assert seen.paper().startswith(b"%PDF-")


def test_it_is_drawn(seen, tmp_path):
    for name, width in (("desktop", 1280), ("phone", 390)):
        seen.size(width, 900)
        picture = seen.picture()
        assert picture.startswith(b"\x89PNG")
        (tmp_path / f"{name}.png").write_bytes(picture)
        assert len(picture) > 50_000

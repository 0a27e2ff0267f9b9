"""The chain page: everything is on it, nothing can be injected into it, and it needs nothing but itself."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from report import releases, reports

from tallystick.core.digests import Digest
from tallystick.core.findings import Finding
from tallystick.report import html, page, widgets
from tallystick.report.html import el

VOID = {"meta", "link", "br", "hr"}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return reports.full(releases.write(tmp_path_factory.mktemp("release")))


@pytest.fixture(scope="module")
def made(report):
    return page.render(report).decode()


class Reader(HTMLParser):
    """A reading of the page by the standard library: tags balanced, attributes and texts collected."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def test_everything_of_the_chain_is_on_it(report, made):
    text = Reader(made).text
    (release,) = report.releases
    for said in (
        "demo 1.2.3",
        str(release.digest),
        *(str(product.digest) for product in release.products),
        "busybox-static",
        "GPL-2.0-only WITH Linux-syscall-note",
        release.build.builder_id,
        "PCR 4",
        "The image itself, as the firmware loaded it",
        "https://ci.example/builder",
        "same organisation as another rebuilder",
        "bob, carol",
        "released 1 · accepted 1",
        "Key released",
        "tpm.pcr12.mismatch",
        "rfc8785: 0.1.4 -> 0.1.3 (4 files)",
        report.logs[0].root,
        "Development roots only",
    ):
        assert said in text, said


def test_it_loads_nothing_and_runs_nothing(made):
    elements = Reader(made).elements
    tags = {tag for tag, _ in elements}
    assert not tags & {"script", "iframe", "object", "embed", "img", "form", "base", "video", "audio"}
    for tag, attributes in elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src")], tag
        for name in ("href", "action"):
            value = attributes.get(name, "#")
            assert value.startswith("#") or value == "data:,", value
    assert "url(" not in made
    assert "@import" not in made


def test_its_policy_allows_its_own_style_and_nothing_else(made):
    (policy,) = [
        attributes["content"]
        for tag, attributes in Reader(made).elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    style = re.search(r"<style>(.*)</style>", made, re.DOTALL)[1]
    wanted = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{wanted}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert made.index("Content-Security-Policy") < made.index("<style>")


def test_whatever_comes_from_outside_stays_text(report):
    evil = "\"'><script>alert(1)</script><b onclick=x>&amp;\u202e"
    release = report.releases[0]
    component = replace(release.sbom.components[0], name=evil, version=evil, licence=evil)
    product = replace(release.products[0], name=evil, path=evil, drv=evil)
    decision = replace(
        report.decisions[1],
        title=evil,
        key=evil,
        findings=(Finding(evil, evil, evil, evil),),
        changed=(evil,),
    )
    worse = replace(
        report,
        made_by=evil,
        notes=(evil,),
        releases=(
            replace(
                release,
                name=evil,
                version=evil,
                sbom=replace(release.sbom, components=(component,)),
                products=(product,),
            ),
        ),
        promotions=(replace(report.promotions[0], author=evil, channel=evil),),
        policies=(replace(report.policies[0], name=evil, target=evil, waivers=(evil,)),),
        decisions=(decision,),
        logs=(replace(report.logs[0], name=evil, checkpoint=evil),),
    )
    text = page.render(worse).decode()
    read = Reader(text)
    assert "<script" not in text
    assert "<b onclick" not in text
    assert "\u202e" not in text
    assert "\\u202e" in text
    assert "<script>alert(1)</script>" in read.text
    assert not [a for _, a in read.elements if "onclick" in a]


def test_anchors_and_labels_lead_somewhere_and_only_once(made):
    elements = Reader(made).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [a["href"][1:] for tag, a in elements if tag == "a"]
    targets += [a["aria-labelledby"] for _, a in elements if "aria-labelledby" in a]
    assert set(targets) <= set(ids)
    assert len([a for tag, a in elements if tag == "a" and a["href"] != "#chain"]) == 12


def test_it_is_one_document_with_landmarks_and_headings_in_order(made):
    elements = Reader(made).elements
    tags = [tag for tag, _ in elements]
    assert made.startswith('<!DOCTYPE html>\n<html lang="en">')
    for landmark in ("header", "main", "footer", "nav", "h1", "title"):
        assert tags.count(landmark) == 1, landmark
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for tag, attributes in elements:
        if tag == "svg":
            assert attributes["aria-hidden"] == "true"
        if tag in ("table", "tr", "td"):
            assert attributes["role"] in ("table", "row", "cell")
    assert tags.count("caption") == tags.count("table")


def test_a_release_twice_has_its_own_anchors(report):
    second = replace(report.releases[0], version="2", digest=Digest.of(b"two"))
    text = page.render(replace(report, releases=(*report.releases, second))).decode()
    ids = [a["id"] for _, a in Reader(text).elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert "sbom-2" in ids
    assert str(second.digest) in text


def test_what_was_not_given_is_said_and_not_left_out(report):
    release = replace(report.releases[0], signatures=(), rebuilds=(), links=(), measurements=(), products=())
    bare = replace(report, releases=(release,), promotions=(), policies=(), decisions=(), logs=(), notes=())
    text = Reader(page.render(bare).decode()).text
    assert "not verified for this page" in text
    assert text.count("none was given for this page") == 10  # five stages, in the overview and in place
    with pytest.raises(ValueError, match="at least one release"):
        page.render(replace(report, releases=()))


def test_an_unproved_policy_and_a_bare_log_head_are_shown_as_that(report):
    plain = replace(report.policies[0], released=None, accepted=None)
    log = replace(report.logs[0], verifier="", checkpoint="")
    text = Reader(page.render(replace(report, policies=(plain,), logs=(log,))).decode()).text
    assert "not proved for this page" in text
    assert "Verifier" not in text


def test_bad_news_looks_bad(report):
    release = report.releases[0]
    bad = replace(
        report,
        releases=(
            replace(
                release,
                build=replace(release.build, findings=(Finding("provenance.drv.path", "x.drv", "a", "b"),)),
                sbom=replace(release.sbom, unexplained_files=2),
                rebuilds_needed=2,
            ),
        ),
        policies=(replace(report.policies[0], accepted=2),),
        promotions=(
            replace(report.promotions[0], gates=(replace(report.promotions[0].gates[0], passed=False),)),
        ),
    )
    text = Reader(page.render(bad).decode()).text
    for said in (
        "provenance.drv.path",
        "✗ 2 unexplained files",
        "✗ 1 of 2 independent rebuilds needed",
        "✗ released 1 · accepted 2",
        "✗ failed",
    ):
        assert said in text, said


def test_the_same_report_gives_the_same_bytes(report, made):
    assert page.render(report).decode() == made
    assert len(made) < 200_000


def palette(text):
    """Return the two sets of colours: light, and dark over it."""
    light = dict(
        re.findall(r"--([\w-]+): (#[0-9a-f]{6})", text[: text.index("@media (prefers-color-scheme")])
    )
    start = text.index("@media (prefers-color-scheme")
    dark = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", text[start : text.index("*, *::before")]))
    assert set(dark) == set(light)
    return light, dark


def luminance(colour):
    """Source: WCAG 2.2, relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_text_colour_has_enough_contrast_in_light_and_dark(made):
    for colours in palette(made):
        for ink, ground in (
            ("ink", "bg"), ("ink", "card"), ("muted", "bg"), ("muted", "card"),
            ("accent", "bg"), ("accent", "card"), ("good", "good-bg"), ("bad", "bad-bg"),
        ):  # fmt: skip
            one, two = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
            assert (one + 0.05) / (two + 0.05) >= 4.5, (ink, ground, colours)


def test_elements_escape_and_leave_out():
    assert html.render(el("p", "<&>", class_='a"b', title=None)) == '<p class="a&quot;b">&lt;&amp;&gt;</p>'
    assert html.render(el("p", None, ["a", el("br")], "b")) == "<p>a<br>b</p>"
    assert html.render(el("p", "a\x00b\ud800\ufeff")) == "<p>a\\u0000b\\ud800\\ufeff</p>"


def test_sizes_and_counts_read_well():
    assert [widgets.size(n) for n in (0, 1023, 1536, 20 << 20, 3 << 30)] == [
        "0 bytes",
        "1,023 bytes",
        "1.5 KiB",
        "20.0 MiB",
        "3.0 GiB",
    ]
    assert (widgets.count(1, "entry", "entries"), widgets.count(2, "entry", "entries")) == (
        "1 entry",
        "2 entries",
    )

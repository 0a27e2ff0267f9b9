"""The operators' page over HTTP: nothing for a stranger, the page for an operator, and never in the clear."""

from __future__ import annotations

import base64
from contextlib import contextmanager

import pytest
import support_chromium
from broker.world import Running, trust
from hypothesis import given
from hypothesis import strategies as st

from tallystick.broker import operator_page, server
from tallystick.broker.operator_page import OperatorPage
from tallystick.cli import board
from tallystick.core.errors import Misuse

TOKEN = "correct-horse-battery-staple"
SECRET = b"what only operators see"


def _drawn():
    return SECRET, "default-src 'none'"


@contextmanager
def _serving(world, page):
    broker = world.open()
    with server.running(broker, server.listen("127.0.0.1", 0), page=page) as url:
        yield Running(broker=broker, url=url, world=world)


@pytest.fixture
def served(world):
    with _serving(world, OperatorPage(draw=_drawn, token=TOKEN)) as running:
        yield running


def _basic(password, user="anybody"):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize("headers", [_basic(TOKEN), _basic(TOKEN, ""), {"Authorization": f"Bearer {TOKEN}"}])
def test_the_operator_sees_it_and_no_cache_keeps_it(served, headers):
    reply = served.ask("GET", operator_page.PATH, headers=headers)
    assert (reply.status, reply.body) == (200, SECRET)
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        _basic(""),
        _basic(TOKEN[:-1]),
        _basic(TOKEN + "x"),
        _basic("x", TOKEN),
        {"Authorization": TOKEN},
        {"Authorization": "Bearer"},
        {"Authorization": f"Digest {TOKEN}"},
        {"Authorization": "Basic " + TOKEN},
        {"Cookie": f"kbs-session-id={TOKEN}"},
    ],
)
def test_a_stranger_gets_one_answer_whatever_they_try(served, headers):
    reply = served.ask("GET", operator_page.PATH, headers=headers)
    assert (reply.status, reply.body) == (401, b"operators alone\n")
    assert reply.headers["www-authenticate"].startswith("Basic ")


@given(st.text())
def test_no_header_but_the_right_one_is_the_right_one(header):
    page = OperatorPage(draw=_drawn, token=TOKEN)
    assert page._may(header) == (header in (f"Bearer {TOKEN}", f"bearer {TOKEN}"))


def test_it_is_read_only_and_not_there_unless_asked_for(served, running):
    for method in ("POST", "PUT", "DELETE"):
        assert served.ask(method, operator_page.PATH, {}, headers=_basic(TOKEN)).status == 405
    assert running.ask("GET", operator_page.PATH, headers=_basic(TOKEN)).status == 404


def test_the_token_is_in_no_message(capfd):
    assert TOKEN not in repr(OperatorPage(draw=_drawn, token=TOKEN))


def _file(tmp_path, text=TOKEN):
    place = tmp_path / "token"
    place.touch(mode=0o600)
    place.write_text(text + "\n")
    return place


@pytest.mark.parametrize(
    ("host", "secure", "good"),
    [
        ("127.0.0.1", False, True),
        ("::1", False, True),
        ("localhost", False, True),
        ("192.0.2.1", False, False),
        ("::", False, False),
        ("broker.example", False, False),
        ("192.0.2.1", True, True),
    ],
)
def test_its_password_crosses_no_network_in_the_clear(tmp_path, host, secure, good):
    def made():
        return operator_page.of_file(_file(tmp_path), _drawn, host=host, secure=secure)

    if good:
        assert made().token == TOKEN
    else:
        with pytest.raises(Misuse, match="needs --tls-certificate") as caught:
            made()
        assert caught.value.code == "page.plain"


def test_a_token_that_could_be_guessed_is_refused(tmp_path):
    with pytest.raises(Misuse, match="20 characters"):
        operator_page.of_file(_file(tmp_path, "short"), _drawn, host="127.0.0.1", secure=False)


@pytest.mark.skipif(support_chromium.PROGRAM is None, reason="Chromium is not installed")
def test_the_real_page_in_a_real_browser(world):
    sources = board.Sources(
        channel="staging", folder=world.channel.folder.path, trust=trust(world.channel), home=world.home
    )
    page = OperatorPage(draw=board.pages(sources, world.clock), token=TOKEN)
    with _serving(world, page) as running, support_chromium.browser() as browser:
        browser.open(running.url + operator_page.PATH, headers=_basic(TOKEN))
        assert browser.ask("document.title") == "Channel staging: what may run now"
        assert "2 keys go to 1 release" in browser.ask("document.querySelector('.lead').textContent")
        assert browser.named("Log.entryAdded") == []
        asked = {one["request"]["url"] for one in browser.named("Network.requestWillBeSent")}
        assert {url for url in asked if not url.startswith("data:")} == {running.url + operator_page.PATH}

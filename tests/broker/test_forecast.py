"""The predicted second is the second at which the decision flips: one before it the answer is yes, at it no."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
import support_dcap
import support_snp
from broker.records import NOW, WEIGHTS, Book, form, load, machine
from broker.world import compiled, listed, release, trust
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from policy import policyworld
from release.channels import made

from tallystick.appraisal import horizon
from tallystick.appraisal.appraise import appraise
from tallystick.broker import casebook, forecast, opening
from tallystick.broker.forecast import Workload
from tallystick.broker.policies import state_of
from tallystick.broker.sessions import Attested
from tallystick.cli.app import _run
from tallystick.core.errors import Exit, NotGenuine, Refused
from tallystick.core.expect import Waived
from tallystick.evidence import bundle, kinds
from tallystick.handshake.jwe import TeeKeyPair
from tallystick.policy import document
from tallystick.policy.normal import Residual
from tallystick.release import changes
from tallystick.release.records import HighWater
from tallystick.signing import trust as trust_file

SECOND = timedelta(seconds=1)
LATER = st.integers(1_000_000, 100_000_000_000_000).map(lambda micros: NOW + timedelta(microseconds=micros))
PAIR = TeeKeyPair.make()


def waived(until: datetime) -> Waived:
    return Waived("docs/decisions/0001.md", "alice@example.org", until)


@st.composite
def decisions(draw):
    """Claims that a policy allows now, where everything that can end has an end of its own."""
    entry = release("a").tuples[0]
    expect = tuple((path, waived(draw(LATER)) if path == "pcr10" else value) for path, value in entry.expect)
    found = replace(release("a"), tuples=(replace(entry, expect=expect),))
    rule = replace(form().platforms[0], require=(("safe", waived(draw(LATER))),))
    policy = form(
        found,
        platforms=(rule,),
        not_after=draw(LATER),
        waivers=(("pcr10", waived(draw(LATER))),),
        residuals=(Residual(target="broker", requirement="zone", waived=waived(draw(LATER))),),
    )
    claims = policyworld.claims("a", pcr08=dict(found.tuples[0].expect)["pcr08"].value)
    return policy, replace(claims, valid_until=draw(LATER))


@settings(max_examples=150, deadline=None)
@given(decisions(), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_the_horizon_is_exact_and_no_second_before_it_is_a_no(made_up, places):
    policy, claims = made_up
    attested = Attested(
        attestation="x", claims=claims, challenge=policyworld.challenge(), public_key=PAIR.public
    )
    found = load(policy)
    workload = Workload(name="w", key=WEIGHTS, attested=attested)
    ends = horizon.horizon(
        lambda at: forecast.decide(workload, found, at), horizon.bounds_of(policy, claims), NOW
    )
    assert ends is not None
    assert ends.at.microsecond == 0
    assert forecast.decide(workload, found, ends.at - SECOND).allowed
    now = forecast.decide(workload, found, ends.at)
    assert (now.allowed, now.findings) == (False, ends.findings)
    for place in places:
        assert forecast.decide(workload, found, NOW + (ends.at - SECOND - NOW) * place).allowed


def test_what_is_refused_already_ends_now_and_what_has_no_end_has_none():
    policy = form(release("a"))
    claims = policyworld.claims("b")
    refused = lambda at: appraise(claims, policy, WEIGHTS, policyworld.challenge(), at)  # noqa: E731
    ends = horizon.horizon(refused, horizon.bounds_of(policy, claims), NOW)
    assert (ends.at, ends.findings) == (NOW, refused(NOW).findings)
    fine = policyworld.claims("a", pcr08=dict(release("a").tuples[0].expect)["pcr08"].value)
    allowed = lambda at: appraise(fine, policy, WEIGHTS, policyworld.challenge(), NOW)  # noqa: E731
    assert horizon.horizon(allowed, horizon.bounds_of(policy, fine), NOW) is None


# The channel: each of its metadata is the first to end once


ROLES = ("root", "timestamp", "snapshot", "targets", "releases", "policies")
FIELDS = {"timestamp": "timestamp", "snapshot": "snapshot", "releases": "shared", "policies": "shared"}


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "shared", "top"])
def test_a_channel_stops_at_the_predicted_second(tmp_path, role):
    lifetimes = changes.Lifetimes(
        timestamp=timedelta(days=7),
        snapshot=timedelta(days=7),
        shared=timedelta(days=7),
        top=timedelta(days=7),
    )
    lifetimes = replace(lifetimes, **{role: timedelta(hours=5, seconds=17)})
    channel = made(tmp_path / "staging", now=NOW, lifetimes=lifetimes)
    state = channel.state(NOW)
    endings = sorted(forecast.of_channel(state), key=lambda one: one.at)
    first = endings[0]
    assert {"shared": "policies", "top": "root"}.get(role, role) in " ".join(
        one.what for one in endings if one.at == first.at
    )
    assert channel.state(first.at - SECOND).settings.name == "staging"
    with pytest.raises(Refused, match="want an end after"):
        channel.state(first.at)


# Endorsements: real verification at both seconds


def flips(kind: str, data: bytes, files: list[bytes], at: datetime) -> None:
    """Hold the forecast of the files, and the window of the claims, to what verification says."""
    parts = [bundle.Part(name=f"{n}", kinds=(kind,), data=one) for n, one in enumerate(files)]
    predicted = min(one.at for one in forecast.of_endorsements(parts) if one.at > at)
    claims = kinds.verify(kind, data, files, nonce=None, at=predicted - SECOND)
    assert horizon.after(claims.valid_until) == predicted
    with pytest.raises(NotGenuine):
        kinds.verify(kind, data, files, nonce=None, at=predicted)


@pytest.fixture
def milan(monkeypatch):
    maker = support_snp.Maker()
    support_snp.believe(monkeypatch, maker)
    return maker


def test_snp_certificates_and_revocation_lists(milan):
    flips("snp-report", milan.report(), milan.endorsements(), support_snp.AT)
    flips("snp-report", milan.report(), [*milan.endorsements(), milan.crl], support_snp.AT)


@pytest.mark.parametrize("seconds", [1, 59, 86400 * 3 + 7])
def test_tdx_collateral(monkeypatch, seconds):
    start = support_dcap.AT - timedelta(days=1)
    maker = support_dcap.Maker((start, support_dcap.AT + timedelta(seconds=seconds)))
    support_dcap.believe(monkeypatch, maker)
    quote = maker.quote(support_dcap.td(b"n" * 64))
    flips("tdx-quote", quote, [maker.collateral()], support_dcap.AT)


# A workload under a channel's policies


@pytest.fixture(scope="module")
def channel(tmp_path_factory):
    found = made(tmp_path_factory.mktemp("channel") / "staging", now=NOW)
    found.change("alice", ["bob", "carol"], [listed(release("a"))], role="releases", now=NOW)
    policy = form(release("a"), not_after=NOW + timedelta(days=3, seconds=5))
    found.change("alice", ["bob", "carol"], [compiled(policy)], now=NOW)
    return found


def policies(channel, at):
    verified = opening.channel_loader(trust(channel), "staging")(channel.folder.read, at, HighWater())
    return state_of(verified, "staging", document.read)


def workload(valid_until: datetime) -> Workload:
    claims = policyworld.claims("a", pcr08=dict(release("a").tuples[0].expect)["pcr08"].value)
    return Workload(
        name="lease 1",
        key=WEIGHTS,
        attested=Attested(
            attestation="x",
            claims=replace(claims, valid_until=valid_until),
            challenge=policyworld.challenge(),
            public_key=PAIR.public,
        ),
    )


@pytest.mark.parametrize(
    ("hours", "code"),
    [(1, "evidence.expired"), (24 * 100, "policy.expired"), (24 * 100, "release.channel.expired")],
)
def test_a_workload_stops_at_the_first_of_its_ends(channel, hours, code):
    state = policies(channel, NOW)
    if code == "release.channel.expired":
        state = replace(state, expires=NOW + timedelta(hours=2))
    stop = forecast.stop_of(workload(NOW + timedelta(hours=hours)), state, NOW)
    assert [finding.code for finding in stop.findings] == [code]
    endings = [*forecast.of_channel(channel.state(NOW)), *forecast.of_policies(state.policies)]
    if code == "policy.expired":
        (named,) = (one for one in forecast.with_stops(endings, [stop]) if one.stops)
        assert (named.kind, named.stops) == ("policy", ("lease 1",))


def test_a_key_that_no_policy_names_has_stopped(channel):
    other = replace(workload(NOW), key="a/b/c")
    stop = forecast.stop_of(other, policies(channel, NOW), NOW)
    assert (stop.at, stop.findings[0].code) == (NOW, "key.unnamed")


# The command


@pytest.fixture(scope="module")
def home(channel, tmp_path_factory):
    place = tmp_path_factory.mktemp("home")
    assert _run(["init", "--workdir", str(place)]) == Exit.OK
    pinned = replace(trust_file.load(place / "trust.json"), channels=(("staging", channel.root),))
    (place / "trust.json").write_bytes(trust_file.dump(pinned))
    book = Book()
    policy = form(release("a"), not_after=NOW + timedelta(days=3, seconds=5))
    book.decide(book.attest(machine(NOW), NOW, "attestation-1"), policy)
    casebook.export(book, place / "export")
    maker = support_snp.Maker()
    (place / "vcek.pem").write_bytes(maker.vcek.public_bytes(Encoding.PEM))
    return place


def run(capsys, home, channel, *more: object) -> tuple[int, str, str]:
    code = _run(
        [
            "forecast",
            *("--channel", "staging", "--channel-dir", str(channel.folder.path)),
            *("--workdir", str(home), "--at", f"{NOW:%Y-%m-%dT%H:%M:%SZ}"),
            *map(str, more),
        ]
    )
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_lists_what_ends_and_what_stops(home, channel, capsys):
    more = ("--endorsements", home / "vcek.pem", "--evidence", home / "export")
    code, out, _ = run(capsys, home, channel, *more, "--json")
    said = json.loads(out)
    assert code == Exit.OK
    times = [one["at"] for one in said["endings"]]
    assert times == sorted(times)
    assert {"channel", "approval", "policy", "waiver", "endorsement"} <= {
        one["kind"] for one in said["endings"]
    }
    (one,) = said["workloads"]
    assert (one["at"], one["findings"][0]["code"]) == ("2026-11-22T13:00:01Z", "evidence.expired")
    code, out, _ = run(capsys, home, channel, *more, "--within", "4d")
    assert (code, "policy confidential-inference" in out, "workload evidence attestation-1" in out) == (
        0,
        True,
        True,
    )
    assert "root of channel" not in out


def test_garbage_is_answered_with_a_reason(home, channel, tmp_path, capsys):
    (tmp_path / "garbage").write_bytes(b"\xff\x00")
    assert run(capsys, home, channel, "--within", "soon")[0] == Exit.MISUSE
    assert run(capsys, home, channel, "--endorsements", tmp_path / "garbage")[0] == Exit.MISUSE
    assert run(capsys, home, channel, "--evidence", tmp_path)[0] == Exit.MISUSE
    assert run(capsys, home, channel, "--trust", tmp_path / "garbage")[0] == Exit.MALFORMED
    assert _run(["forecast", "--channel", "../x", "--workdir", str(home)]) == Exit.MISUSE
    assert _run(["forecast", "--channel", "staging", "--workdir", str(tmp_path)]) == Exit.MISUSE
    later = ("--at", "2040-01-01T00:00:00Z")
    code, _, err = run(capsys, home, channel, *later)
    assert (code, "[release.channel.expired]" in err) == (Exit.REFUSED, True)

"""Leases: granted with a key, renewed by the same attested key, ended with their reason when posture drifts."""

from __future__ import annotations

import json
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from broker.records import load
from broker.world import (
    CANARY,
    LABEL,
    NOW,
    TOKENIZER,
    WEIGHTS,
    Machine,
    endorser,
    form,
    new_world,
    release,
    trust,
)

from tallystick.broker import apitokens, archive, casebook, lease_table, leases, leasing, whatif
from tallystick.broker.app import KEYS_PATH, RENEW_PATH, RETURN_PATH, TOKEN_PATH
from tallystick.broker.archive import Archive, StoredCasebook
from tallystick.broker.config import Lifetimes
from tallystick.broker.leases import State
from tallystick.broker.store import Store
from tallystick.cli import clock as cli_clock
from tallystick.cli.app import _run
from tallystick.core.digests import Digest
from tallystick.core.errors import Exit, NotGenuine, Refused
from tallystick.core.expect import AtLeast, Waived
from tallystick.handshake.dpop import ProofKey
from tallystick.handshake.jwe import TeeKeyPair
from tallystick.policy.normal import Denial

LONG = Lifetimes(sweep=timedelta(hours=9))  # the tests sweep by hand


@pytest.fixture
def world(tmp_path):
    made = new_world(tmp_path, lifetimes=LONG)
    made.trusted = trust(made.channel, (endorser(Digest.of(LABEL.encode()), ()),))
    return made


@pytest.fixture
def running(world):
    with world.running() as found:
        yield found


def held(running) -> tuple[leases.Lease, ...]:
    with running.broker.store.reading() as connection:
        return lease_table.find(connection)


def fetched(running, machine=None, pair=None, key=WEIGHTS) -> str:
    cookie, reply = running.attest(machine or Machine(), pair or TeeKeyPair.make())
    assert reply.status == 200, reply.body
    reply = running.fetch(cookie, key)
    assert reply.status == 200, reply.body
    return cookie


def renew(running, pair, machine=None):
    cookie, reply = running.attest(machine or Machine(), pair)
    assert reply.status == 200, reply.body
    reply = running.ask("POST", RENEW_PATH, b"", cookie=cookie)
    assert reply.status == 200, reply.body
    return reply.json["leases"]


# Granted, renewed, over


def test_a_released_key_is_a_lease_for_the_policys_interval(running, pair):
    fetched(running, pair=pair)
    (lease,) = held(running)
    assert (lease.key, lease.release, lease.holder) == (
        WEIGHTS,
        str(release().digest),
        pair.public.thumbprint(),
    )
    assert lease.expires_at == NOW + timedelta(seconds=form().reattest_seconds)
    assert lease.id == next(leaf["decision"] for leaf in running.world.leaves() if leaf["kind"] == "release")
    assert CANARY.decode() not in json.dumps(lease.document(NOW))


def test_attesting_again_with_the_same_key_renews_and_another_key_does_not(running, pair):
    fetched(running, pair=pair)
    running.world.clock.forward(seconds=200)
    assert renew(running, TeeKeyPair.make()) == []
    (said,) = renew(running, pair)
    assert (said["state"], said["issued_at"], said["expires_at"]) == (
        "live",
        "2026-11-22T12:00:00Z",
        "2026-11-22T12:08:20Z",
    )
    (lease,) = held(running)
    assert (lease.renewed_at, lease.expires_at) == (
        NOW + timedelta(seconds=200),
        NOW + timedelta(seconds=500),
    )
    leaf = [leaf for leaf in running.world.leaves() if leaf["kind"] == "lease"][-1]
    assert (leaf["event"], leaf["lease"], leaf["until"]) == ("renewed", lease.id, "2026-11-22T12:08:20Z")


def test_a_holder_that_runs_another_release_by_now_is_another_workload(running, pair):
    running.world.publish(release(), release("b"))
    fetched(running, pair=pair)
    (said,) = renew(running, pair, Machine(image="b"))
    assert (said["state"], said["reasons"]) == ("ended", ["lease.release"])
    cookie, _ = running.attest(Machine(image="b"), pair)
    assert running.fetch(cookie).status == 200


def test_a_holder_that_the_policy_refuses_by_now_loses_the_lease(running, pair):
    fetched(running, pair=pair)
    (said,) = renew(running, pair, Machine(changed={"pcr04": "ab" * 32}))
    assert (said["state"], said["reasons"]) == ("ended", ["tpm.pcr04.mismatch"])


def test_collateral_that_ends_sooner_ends_the_lease(tmp_path, pair):
    made = new_world(tmp_path, lifetimes=replace(LONG, ak_certificate=timedelta(seconds=59)))
    with made.running() as running:
        fetched(running, pair=pair)
        (lease,) = held(running)
        assert (lease.expires_at, lease.because) == (NOW + timedelta(seconds=60), "evidence.expired")


def test_the_forecast_knows_the_leases(running, pair):
    from tallystick.broker import forecast
    from tallystick.cli.forecast import _leases

    fetched(running, pair=pair)
    (workload,) = _leases(running.world.folder, "staging", NOW)
    stop = forecast.stop_of(workload, running.broker.policies.current(NOW), NOW)
    assert (stop.at, stop.findings[0].code) == (NOW + timedelta(hours=1, seconds=1), "evidence.expired")
    assert _leases(running.world.folder, "production", NOW) == []


def test_metrics_count_the_leases_that_hold(tmp_path):
    made = new_world(tmp_path, lifetimes=LONG)
    configured = replace(made.config, metrics=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(made), "config", property(lambda _: configured))
        with made.running() as running:
            fetched(running)
            assert b"\ntally_broker_leases 1.0\n" in running.ask("GET", "/metrics").body
            made.clock.forward(seconds=300)
            assert b"\ntally_broker_leases 0.0\n" in running.ask("GET", "/metrics").body


def test_a_lease_does_not_outlast_the_channels_word(world, pair):
    world.clock.at = NOW + timedelta(days=7) - timedelta(seconds=120)  # the timestamp ends in two minutes
    with world.running() as running:
        fetched(running, pair=pair)
        (lease,) = held(running)
        assert (lease.expires_at, lease.because) == (NOW + timedelta(days=7), "release.channel.expired")


def test_an_ended_lease_is_not_brought_back_by_a_renewal_that_was_under_way(running, pair):
    fetched(running, pair=pair)
    (lease,) = held(running)
    over = leases.ended(lease, (leases.Finding("release.revoked", "r", "a", "b"),), now=NOW)
    with running.broker.store.batch() as batch:
        assert lease_table.change(batch.connection, over)
        assert not lease_table.change(batch.connection, replace(lease, expires_at=NOW + timedelta(days=1)))
    assert held(running)[0].reasons == ("release.revoked",)


def test_who_comes_too_late_has_lost_the_lease(running, pair):
    fetched(running, pair=pair)
    running.world.clock.forward(seconds=299)
    assert held(running)[0].state(running.world.clock.at) is State.LIVE
    running.world.clock.forward(seconds=1)
    (said,) = renew(running, pair)
    assert (said["state"], said["reasons"]) == ("expired", ["lease.expired"])
    assert [leaf["event"] for leaf in running.world.leaves() if leaf["kind"] == "lease"] == []


def test_a_lease_ends_no_later_than_what_it_rests_on(world, pair):
    """The waiver of PCR 10 ends in a minute: the predicted second is the one at which renewal is refused."""
    until = NOW + timedelta(seconds=59)
    entry = release().tuples[0]
    waived = Waived("docs/decisions/0010-pcr-10.md", "alice@example.org", until)
    tuple_ = replace(entry, expect=tuple((p, waived if p == "pcr10" else e) for p, e in entry.expect))
    world.publish(replace(release(), tuples=(tuple_,)), waivers=(("pcr10", waived),))
    with world.running() as running:
        fetched(running, pair=pair)
        (lease,) = held(running)
        assert (lease.expires_at, lease.because) == (
            NOW + timedelta(seconds=60),
            "policy.pcr10.waiver-expired",
        )
        world.clock.forward(seconds=59)
        (said,) = renew(running, pair)
        assert said["state"] == "live"
        world.clock.forward(seconds=1)
        (said,) = renew(running, pair)
        assert (said["state"], said["reasons"]) == (
            "expired",
            ["lease.expired", "policy.pcr10.waiver-expired"],
        )
        cookie, _ = running.attest(Machine(), pair)
        reply = running.fetch(cookie)
        assert (reply.status, reply.code) == (403, "policy.pcr10.waiver-expired")


def test_a_holder_that_gives_its_keys_back_has_none(running, pair):
    cookie = fetched(running, pair=pair)
    reply = running.ask("POST", RETURN_PATH, b"", cookie=cookie)
    (said,) = reply.json["leases"]
    assert (said["state"], said["reasons"]) == ("ended", ["lease.returned"])
    assert renew(running, pair)[0]["state"] == "ended"


def test_a_guest_that_attests_again_renews_and_learns_when_it_is_over(running):
    from tallystick.attester.client import KbsClient

    machine, client, mine = running.certify(Machine()), KbsClient(running.url), TeeKeyPair.make()
    client.attest(machine.quote, init_data=machine.init_data, pair=mine)
    assert client.fetch(WEIGHTS) == CANARY
    running.world.clock.forward(seconds=100)
    client.attest(machine.quote, init_data=machine.init_data, pair=mine)
    assert client.renew(WEIGHTS)
    assert not client.renew(TOKENIZER)  # never fetched
    assert held(running)[0].renewed_at == running.world.clock.at
    running.world.revoke(release())
    client.attest(machine.quote, init_data=machine.init_data, pair=mine)
    with pytest.raises(Refused, match=r"is over: release\.revoked") as refused:
        client.renew(WEIGHTS)
    assert refused.value.code == "lease.over"


def test_without_an_attested_session_there_is_nothing_to_renew(running):
    for path in (RENEW_PATH, RETURN_PATH, TOKEN_PATH):
        body = b'{"key": "a/b/c", "audience": "x", "jwk": %s}' % json.dumps(ProofKey.make().jwk).encode()
        reply = running.ask("POST", path, body)
        assert (reply.status, reply.code) == (401, "session.not-attested"), path
        cookie, _ = running.challenge()
        assert running.ask("POST", path, body, cookie=cookie).code == "session.not-attested"


# Posture drift


def drifted(running, pair):
    running.broker.sweep()
    (lease,) = held(running)
    return lease


def test_a_revocation_ends_the_lease_with_its_reason(running, pair):
    fetched(running, pair=pair)
    assert running.broker.sweep() == 0
    running.world.revoke(release())
    lease = drifted(running, pair)
    assert (lease.state(NOW), lease.reasons) == (State.ENDED, ("release.revoked",))
    leaf = [leaf for leaf in running.world.leaves() if leaf["kind"] == "lease"][-1]
    assert (leaf["event"], leaf["codes"], leaf["lease"]) == ("ended", ["release.revoked"], lease.id)
    assert running.broker.sweep() == 0  # once
    assert renew(running, pair)[0]["state"] == "ended"


def stricter(**changes):
    rule = form().platforms[0]
    return {"platforms": (replace(rule, **changes),)}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (stricter(require=(("reset_count", AtLeast(99)),)), "tpm.reset_count.low"),
        (
            stricter(
                deny=(
                    Denial(
                        name="bad", claim="restart_count", values=(0,), reason="CVE-2026-1", since=NOW.date()
                    ),
                )
            ),
            "tpm.restart_count.denied",
        ),
        (stricter(roots=("another",)), "evidence.root.not-allowed"),
    ],
    ids=["firmware fell behind", "deny-list grew", "root no longer accepted"],
)
def test_a_stricter_policy_ends_the_lease_with_its_reason(running, pair, changes, reason):
    fetched(running, pair=pair)
    running.world.publish(release(), **changes)
    lease = drifted(running, pair)
    assert (lease.state(NOW), lease.reasons) == (State.ENDED, (reason,))


def test_a_policy_that_still_permits_it_leaves_the_lease_alone(running, pair):
    fetched(running, pair=pair)
    running.world.publish(release(), release("b"))
    assert drifted(running, pair).state(NOW) is State.LIVE


def test_between_two_attestations_the_age_of_the_evidence_ends_no_lease(world, pair):
    world.publish(release(), max_age_seconds=60)
    with world.running() as running:
        fetched(running, pair=pair)
        world.clock.forward(seconds=200)
        world.publish(release(), release("b"), max_age_seconds=60)
        assert drifted(running, pair).state(world.clock.at) is State.LIVE


def test_a_sweep_that_is_killed_goes_on_where_it_was(running, monkeypatch):
    for _ in range(3):
        fetched(running)
    running.world.revoke(release())
    monkeypatch.setattr(leasing, "_CHUNK", 1)
    real, calls = Store.batch, []

    def batch(self):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(Store, "batch", batch)
    with pytest.raises(KeyboardInterrupt):
        running.broker.sweep()
    monkeypatch.setattr(Store, "batch", real)
    ended = [one for one in held(running) if one.ended_at is not None]
    assert len(ended) < 3
    running.broker.sweep()
    assert [one.reasons for one in held(running)] == [("release.revoked",)] * 3
    leaves = [leaf["lease"] for leaf in running.world.leaves() if leaf["kind"] == "lease"]
    assert sorted(leaves) == sorted(one.id for one in held(running))


def test_two_replicas_that_judge_at_once_log_one_end(running, pair):
    fetched(running, pair=pair)
    running.world.revoke(release())
    state = running.broker.policies.current(NOW)
    found = [running.broker.leasing._drifted(held(running)[0], state, NOW) for _ in range(2)]
    for one in found:
        running.broker.leasing._end([one], NOW)
    assert [leaf["event"] for leaf in running.world.leaves() if leaf["kind"] == "lease"] == ["ended"]


# Drains


def test_what_is_drained_is_neither_released_nor_renewed_until_it_is_lifted(
    running, pair, capsys, monkeypatch
):
    monkeypatch.setattr(leasing, "_DRAINS_SECONDS", 0)
    monkeypatch.setattr(cli_clock, "now", lambda: running.world.clock.at)
    fetched(running, pair=pair)
    work = ["--workdir", str(running.world.folder)]
    ordered = ["broker", "drain", "--key", WEIGHTS, "--reason", "rotation", *work, "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tallystick.broker.clock.system_time", lambda: NOW)
        patch.setattr("tallystick.broker.clock.Clock.now", lambda _: running.world.clock.at)
        assert _run(ordered) == Exit.OK
        drain = json.loads(capsys.readouterr().out)
        assert (drain["covered"], drain["left"], drain["last_ends_at"]) == (1, 1, "2026-11-22T12:05:00Z")
        assert _run(ordered) == Exit.OK  # again: it stands already
        assert json.loads(capsys.readouterr().out)["drain"] == drain["drain"]
        cookie, _ = running.attest(Machine(), pair)
        assert running.fetch(cookie).code == "lease.draining"
        assert running.fetch(cookie, TOKENIZER).status == 200
        said = [one for one in renew(running, pair) if one["key"] == WEIGHTS]
        assert [(one["state"], one["expires_at"]) for one in said] == [("draining", "2026-11-22T12:05:00Z")]
        assert _run(["broker", "drain", "--lift", drain["drain"], *work]) == Exit.OK
        assert _run(["broker", "drain", "--lift", drain["drain"], *work]) == Exit.REFUSED
    assert running.fetch(cookie).status == 200
    events = [leaf["event"] for leaf in running.world.leaves() if leaf["kind"] == "lease"]
    assert events == ["drain", "renewed", "drain-lifted"]


def test_waiting_for_a_drain_says_when_something_is_still_held(running, capsys, monkeypatch):
    monkeypatch.setattr(cli_clock, "now", lambda: running.world.clock.at)
    monkeypatch.setattr("tallystick.broker.clock.Clock.now", lambda _: running.world.clock.at)
    fetched(running)
    order = [
        "broker",
        "drain",
        "--all",
        "--reason",
        "x",
        "--workdir",
        str(running.world.folder),
        "--wait",
        "0.1",
    ]
    assert _run(order) == Exit.UNREACHABLE
    assert "[drain.not-over]" in capsys.readouterr().err
    running.world.clock.forward(seconds=300)
    assert _run(order) == Exit.OK


# The list, and the plan


def test_the_list_says_honestly_who_had_a_key_and_what_to_do(running, capsys, monkeypatch):
    monkeypatch.setattr(cli_clock, "now", lambda: running.world.clock.at)
    fetched(running)
    fetched(running)
    running.world.revoke(release())
    running.broker.sweep()
    work = ["--workdir", str(running.world.folder)]
    command = ["broker", "leases", "--release", str(release().digest), "--plan", *work]
    assert _run([*command, "--json"]) == Exit.OK
    said = json.loads(capsys.readouterr().out)
    assert [one["state"] for one in said["leases"]] == ["ended", "ended"]
    (plan,) = said["plan"]
    assert (plan["handed_out"], plan["holders"], plan["still_held"]) == (2, 2, 0)
    assert _run(command) == Exit.OK
    out = capsys.readouterr().out
    assert "none of these copies can be called back" in out
    assert f"tally broker key rotate {WEIGHTS}" in out
    assert _run(["broker", "leases", "--state", "live", *work]) == Exit.OK
    assert capsys.readouterr().out == "no leases\n"


def test_garbage_is_answered_with_a_reason(running, tmp_path, capsys):
    work = ["--workdir", str(running.world.folder)]
    assert _run(["broker", "leases", "--state", "odd", *work]) == Exit.MISUSE
    assert _run(["broker", "leases", "--release", "odd", *work]) == Exit.MALFORMED
    assert _run(["broker", "leases", "--workdir", str(tmp_path / "none")]) == Exit.MISUSE
    for wrong in ([], ["--reason", "x"], ["--all"], ["--all", "--key", "k", "--reason", "x"]):
        assert _run(["broker", "drain", *wrong, *work]) == Exit.MISUSE
    assert _run(["broker", "evidence", "export", str(tmp_path), *work]) == Exit.MISUSE
    capsys.readouterr()


# API tokens


def test_an_api_token_is_opened_by_the_attested_key_alone_and_verifies_with_the_published_keys(running, pair):
    cookie = fetched(running, pair=pair)
    mine = ProofKey.make()
    asked = {"key": WEIGHTS, "audience": "store", "jwk": mine.jwk}
    reply = running.ask("POST", TOKEN_PATH, asked, cookie=cookie)
    assert reply.status == 200, reply.body
    with pytest.raises(NotGenuine):
        TeeKeyPair.make().decrypt(reply.body)
    token = pair.decrypt(reply.body).decode()
    keys = running.ask("GET", KEYS_PATH).json["keys"]
    url, now = "https://store.internal/x", running.world.clock.at
    granted = apitokens.verify(
        token,
        mine.proof("GET", url, token, now=now),
        keys,
        issuer="tallystick-broker",
        audience="store",
        method="GET",
        url=url,
        now=now,
        unseen=lambda _: True,
    )
    assert granted.release == str(release().digest)
    assert granted.subject.endswith(pair.public.thumbprint())
    leaf = running.world.leaves()[-1]
    assert (leaf["event"], leaf["audience"]) == ("token", "store")
    assert token not in json.dumps(running.world.leaves())


def test_a_machine_that_the_policy_refuses_gets_no_token(running, pair):
    cookie, _ = running.attest(Machine(image="b"), pair)
    asked = {"key": WEIGHTS, "audience": "store", "jwk": ProofKey.make().jwk}
    reply = running.ask("POST", TOKEN_PATH, asked, cookie=cookie)
    assert (reply.status, reply.code.startswith("tpm.")) == (403, True)
    assert running.world.leaves()[-1]["kind"] == "refusal"
    assert running.ask("POST", TOKEN_PATH, b"[]", cookie=cookie).status == 400


# The gate, on a real broker's word


@pytest.mark.parametrize(("image", "code"), [("a", Exit.OK), ("b", Exit.REFUSED)])
def test_the_gate_passes_when_the_broker_affirms_the_machine(running, monkeypatch, capsys, image, code):
    machine = running.certify(Machine(image=image))

    @contextmanager
    def prover(client, tee, devices):
        yield machine.quote

    monkeypatch.setattr("tallystick.attester.collectors.prover", prover)
    (running.world.folder / "init.toml").write_text(machine.init_data)
    init = ["--init-data", str(running.world.folder / "init.toml")]
    assert _run(["attest", "gate", "--broker", running.url, "--tee", "tpm", "--once", *init]) == code
    said = capsys.readouterr()
    assert ("the appraisal passes" in said.out, "[attest.not-affirming]" in said.err) == (
        not code,
        bool(code),
    )


# Recorded evidence


def book(running, keep=timedelta(days=90)) -> StoredCasebook:
    store = running.broker.store
    return StoredCasebook(store, Archive(store, running.broker.vault.sealer, keep=keep))


def test_evidence_is_kept_sealed_and_replays(running, world):
    fetched(running)
    cookie, _ = running.attest(Machine(image="b"), TeeKeyPair.make())
    assert running.fetch(cookie).status == 403
    policy = form(release("b"))
    report = whatif.replay(book(running), load(policy).data, policy)
    assert [one.change.value for one in report.replayed] == ["newly denied", "newly allowed"]
    assert casebook.export(book(running), world.folder / "out") == (2, 0)
    kept, _ = book(running).evidence(_attestation(running))
    quote = json.loads(kept.message)["tee-evidence"]["primary_evidence"]["tpm_quote"]["message"]
    stored = b"".join(path.read_bytes() for path in world.home.folder.glob("store.sqlite*"))
    assert quote.encode() not in stored
    assert kept.nonce.encode() not in stored


def _attestation(running) -> str:
    return next(leaf["decision"] for leaf in running.world.leaves() if leaf["kind"] == "attestation")


def test_evidence_that_was_altered_or_moved_opens_for_nobody(running):
    fetched(running)
    fetched(running)
    one, two = (leaf["decision"] for leaf in running.world.leaves() if leaf["kind"] == "attestation")
    from sqlalchemy import select, update

    from tallystick.broker.tables import evidence

    with running.broker.store.batch() as batch:
        sealed = batch.connection.execute(
            select(evidence.c.sealed).where(evidence.c.attestation == one)
        ).scalar()
        batch.connection.execute(update(evidence).where(evidence.c.attestation == two).values(sealed=sealed))
    book(running).evidence(one)
    with pytest.raises(NotGenuine) as refused:
        book(running).evidence(two)
    assert refused.value.code == "evidence.altered"


def test_what_is_past_its_time_is_gone_with_its_key(running, world):
    fetched(running)
    name = _attestation(running)
    world.clock.forward(days=7 * 12)  # the channel's metadata have ended by then; the evidence has not
    with running.broker.store.batch() as batch:
        running.broker.archive.forget(batch.connection, world.clock.at)
    book(running).evidence(name)
    world.clock.forward(days=7)
    with running.broker.store.batch() as batch:
        running.broker.archive.forget(batch.connection, world.clock.at)
        tables = (archive.evidence, archive.evidence_keys, archive.backings)
        assert [len(batch.connection.execute(table.select()).all()) for table in tables] == [0, 0, 0]
    with pytest.raises(Refused) as refused:
        book(running).evidence(name)
    assert refused.value.code == "evidence.not-kept"
    policy = form(release("a"))
    report = whatif.replay(book(running), load(policy).data, policy)
    assert [one.findings[0].code for one in report.replayed] == ["evidence.not-kept"]


def test_a_broker_that_keeps_no_evidence_keeps_none(tmp_path):
    made = new_world(tmp_path, lifetimes=replace(LONG, evidence=timedelta(0)))
    with made.running() as running:
        fetched(running)
        with pytest.raises(Refused), closing(Store.open(made.home.store)) as store:
            Archive(store, running.broker.vault.sealer, keep=timedelta(1)).evidence(_attestation(running))


def test_the_command_replays_the_brokers_own_records(running, world, capsys):
    from tallystick.policy import document

    fetched(running)
    (world.folder / "new.json").write_bytes(document.write(form(release("b"))))
    assert (
        _run(["whatif", str(world.folder / "new.json"), "--workdir", str(world.folder), "--json"]) == Exit.OK
    )
    assert len(json.loads(capsys.readouterr().out)["newly_denied"]) == 1

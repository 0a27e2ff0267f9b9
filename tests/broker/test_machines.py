"""Evidence of hardware makers at the broker: reports in the form of KBS clients, bound to nonce, key and init-data."""

from __future__ import annotations

from datetime import timedelta

import pytest
import support_snp as snp
from broker.world import INIT_DATA, NOW

from tallystick.evidence import roots, snp_report
from tallystick.handshake import binding, initdata, kbs, snpwire


@pytest.fixture(scope="module")
def maker():
    """A processor maker whose certificates hold when the broker's clock says it is now."""
    before, snp.AT = snp.AT, NOW
    yield snp.Maker()
    snp.AT = before


@pytest.fixture
def believed(maker, monkeypatch):
    snp_report._endorsed.cache_clear()
    real = roots.certificate
    monkeypatch.setattr(
        roots, "certificate", lambda name: maker.ark if name.startswith("ARK-") else real(name)
    )
    yield maker
    snp_report._endorsed.cache_clear()


def _attest(running, maker, pair, *, init_data=INIT_DATA, measured=INIT_DATA, bound=None, chip=None):
    reply = running.ask("POST", kbs.AUTH_PATH, kbs.Request(tee="snp").document())
    assert reply.json["extra-params"] == {"selected-hash-algorithm": "sha384"}
    nonce = str(reply.json["nonce"])
    digest = binding.report_data(bound or nonce, pair.public, algorithm="sha384")
    report = maker.report(report_data=digest.ljust(64, b"\0"), host_data=initdata.digest(measured.encode()))
    certificates = dict(zip(("VCEK", "ASK"), maker.endorsements(), strict=True))
    message = kbs.Attestation(
        nonce=nonce,
        tee_pubkey=pair.public,
        primary_evidence=snpwire.document(report, certificates),
        init_data=init_data,
    )
    return running.ask("POST", kbs.ATTEST_PATH, message.document(), cookie=reply.cookie), reply.cookie


def test_a_genuine_report_is_attested_and_no_policy_for_tpms_takes_it(running, believed, pair):
    reply, cookie = _attest(running, believed, pair)
    assert reply.status == 200, reply.body
    denied = running.fetch(cookie)
    assert denied.status == 403
    assert "evidence.kind.not-allowed" in str(running.world.leaves()[-1]["codes"])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"bound": "another nonce"}, "snp.report-data.mismatch"),
        ({"measured": INIT_DATA + "\n"}, "composite.init-data.mismatch"),
    ],
)
def test_a_report_that_is_bound_to_something_else_is_refused(running, believed, pair, change, code):
    reply, _ = _attest(running, believed, pair, **change)
    assert (reply.status, reply.code) == (401, code)
    assert running.world.leaves()[-1]["codes"] == [code]


def test_a_report_of_another_maker_is_refused(running, maker, pair):
    reply, _ = _attest(running, maker, pair)
    assert reply.status == 401


def test_collateral_that_the_broker_was_given_is_used(world, believed, pair, tmp_path, monkeypatch):
    """The client sends no certificates here; the operator's files stand in."""
    files = []
    for number, data in enumerate(believed.endorsements()):
        files.append(tmp_path / f"{number}.crt")
        files[-1].write_bytes(data)
    real = type(world).config.fget
    from dataclasses import replace

    monkeypatch.setattr(
        type(world), "config", property(lambda self: replace(real(self), endorsements=tuple(files)))
    )
    monkeypatch.setattr(snpwire, "document", lambda report, _: _without(report))
    with world.running() as running:
        assert _attest(running, believed, pair)[0].status == 200


_DOCUMENT = snpwire.document


def _without(report):
    return _DOCUMENT(report)


def test_a_certificate_that_has_ended_is_not_genuine(running, believed, pair):
    running.world.clock.forward(days=31)
    reply, _ = _attest(running, believed, pair)
    assert reply.status == 401
    assert running.world.clock.at == NOW + timedelta(days=31)

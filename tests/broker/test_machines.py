"""Evidence of hardware makers at the broker: reports in the form of KBS clients, bound to nonce, key and init-data."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
import support_nvidia as nvidia
import support_snp as snp
from broker.world import CANARY, INIT_DATA, NOW, release
from policy import policyworld

from tallystick.broker.explaining import explain
from tallystick.core.expect import Exactly
from tallystick.evidence import nvidia_device, rim, roots, snp_report
from tallystick.formats import ear
from tallystick.handshake import binding, initdata, kbs, snpwire
from tallystick.policy.normal import DeviceRule, PlatformRule, Tuple
from tallystick.policy.platforms import platform


@pytest.fixture(scope="module")
def maker():
    """A processor maker whose certificates hold when the broker's clock says it is now."""
    before, snp.AT = snp.AT, NOW
    yield snp.Maker()
    snp.AT = before


@pytest.fixture(scope="module")
def authority():
    return nvidia.Authority("NVIDIA Device Identity CA", ("NVIDIA GH100 Identity",))


@pytest.fixture(scope="module")
def gpus(authority):
    return [nvidia.Device(authority), nvidia.Device(authority)]


@pytest.fixture(scope="module")
def rims():
    return nvidia.RimMaker(begins=-390, ends=390)


@pytest.fixture
def believed(maker, authority, rims, monkeypatch):
    def forget():
        snp_report._endorsed.cache_clear()
        nvidia_device._endorsed.cache_clear()
        rim.verify.cache_clear()

    forget()
    believed = {
        "NVIDIA-Device-Identity-CA": authority.root,
        "NVIDIA-CoRIM-Signing-Root-CA": rims.authority.root,
    }
    real = roots.certificate
    monkeypatch.setattr(
        roots,
        "certificate",
        lambda name: maker.ark if name.startswith("ARK-") else believed.get(name) or real(name),
    )
    yield maker
    forget()


def _attest(
    running, maker, pair, *, init_data=INIT_DATA, measured=INIT_DATA, bound=None, gpus=(), policy=0x20000
):
    reply = running.ask("POST", kbs.AUTH_PATH, kbs.Request(tee="snp").document())
    assert reply.json["extra-params"] == {"selected-hash-algorithm": "sha384"}
    nonce = str(reply.json["nonce"])
    shown = binding.device_nonce(binding.device_report_data(nonce, pair.public, algorithm="sha384"))
    listed = [device.evidence(nonce=shown) for device in gpus]
    devices = json.dumps({"nvidia": {"device_evidence_list": listed}}) if listed else ""
    digest = binding.report_data(bound or nonce, pair.public, additional_evidence=devices, algorithm="sha384")
    report = maker.report(
        report_data=digest.ljust(64, b"\0"), host_data=initdata.digest(measured.encode()), policy=policy
    )
    certificates = dict(zip(("VCEK", "ASK"), maker.endorsements(), strict=True))
    message = kbs.Attestation(
        nonce=nonce,
        tee_pubkey=pair.public,
        primary_evidence=snpwire.document(report, certificates),
        additional_evidence=devices,
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


# A policy for processors and their GPUs


def _require(known, values):
    """What a policy must state of a platform, from what genuine evidence said."""
    asked = {**dict(known.strict), **dict(known.debug_off)}
    asked |= {path: Exactly(values[path]) for path in known.stated}
    return tuple(sorted(asked.items()))


def _permit(running, claims, *, gpus=0):
    """Put a policy in force that gives both keys to machines with these claims, with that many GPUs."""
    known = platform("amd-sev-snp")
    entry = Tuple(
        platform=known.name,
        evidence_kind=known.evidence_kind,
        image=policyworld.digest("image"),
        firmware=policyworld.digest("firmware"),
        shape=(("vcpus", 1),),
        expect=tuple((path, Exactly(claims["values"][path])) for path in sorted(known.registers)),
    )
    devices = ()
    if gpus:
        gpu, values = platform("nvidia-gpu"), claims["devices"][0]["values"]
        devices = (
            DeviceRule(
                platform=gpu.name,
                evidence_kind=gpu.evidence_kind,
                roots=tuple(claims["devices"][0]["roots"]),
                least=gpus,
                require=_require(gpu, values),
            ),
        )
    rule = PlatformRule(
        platform=known.name,
        evidence_kind=known.evidence_kind,
        roots=tuple(claims["roots"]),
        require=_require(known, claims["values"]),
        devices=devices,
    )
    permitted = replace(release("b"), tuples=(entry,))
    running.world.publish(permitted, platforms=(rule,), releases=(permitted,))


def _claims(running):
    leaf = next(leaf for leaf in reversed(running.world.leaves()) if leaf["kind"] == "attestation")
    return running.world.decision(leaf["decision"])["details"]["claims"]


@pytest.fixture
def with_manifests(world, rims, tmp_path, monkeypatch):
    """A broker that has the driver's and the firmware's reference values."""
    files = []
    for version, active in ((nvidia.DRIVER, (8, 22)), (nvidia.VBIOS, (1, 2))):
        files.append(tmp_path / f"{version}.swidtag")
        files[-1].write_bytes(
            rims.rim(version=version, active={number: [nvidia.digest(number)] for number in active})
        )
    real = type(world).config.fget
    monkeypatch.setattr(
        type(world), "config", property(lambda self: replace(real(self), endorsements=tuple(files)))
    )
    with world.running() as running:
        yield running


def test_a_processor_that_its_policy_names_gets_the_key(running, believed, pair):
    _attest(running, believed, pair)
    _permit(running, _claims(running))
    _, cookie = _attest(running, believed, pair)
    assert pair.decrypt(running.fetch(cookie).body) == CANARY
    _, cookie = _attest(running, believed, pair, policy=0xA0000)  # debugging is allowed
    assert "snp.policy_debug_allowed.mismatch" in running.fetch(cookie).body.decode()


def test_a_machine_gets_the_key_with_its_gpus_and_not_without(with_manifests, believed, gpus, pair):
    running = with_manifests
    first, _ = _attest(running, believed, pair, gpus=gpus)
    assert first.status == 200, first.body
    _permit(running, _claims(running), gpus=2)
    reply, cookie = _attest(running, believed, pair, gpus=gpus)
    fetched = running.fetch(cookie)
    assert pair.decrypt(fetched.body) == CANARY
    token = ear.parse(reply.json["token"]).ear
    assert [name for name, _ in token.submods] == ["cpu0", "gpu0", "gpu1"]
    assert {submod.status for _, submod in token.submods} == {ear.Tier.AFFIRMING}
    for shown, code in ((gpus[:1], "evidence.device.absent"), ((), "evidence.device.absent")):
        _, cookie = _attest(running, believed, pair, gpus=shown)
        assert code in running.fetch(cookie).body.decode()


def test_a_decision_on_devices_is_made_again_from_its_record(with_manifests, believed, gpus, pair):
    running = with_manifests
    _attest(running, believed, pair, gpus=gpus)
    _permit(running, _claims(running), gpus=2)
    for shown in (gpus, gpus[:1]):
        _, cookie = _attest(running, believed, pair, gpus=shown)
        running.fetch(cookie)
        last = running.world.leaves()[-1]
        found = explain(running.world.home, last["decision"])
        assert found.kind.value == ("release" if shown is gpus else "refusal")
        assert found.again is True


def test_gpus_at_a_policy_that_asks_for_none_are_refused(with_manifests, believed, gpus, pair):
    running = with_manifests
    _attest(running, believed, pair)
    _permit(running, _claims(running))
    _, cookie = _attest(running, believed, pair, gpus=gpus[:1])
    assert "evidence.device.not-allowed" in running.fetch(cookie).body.decode()

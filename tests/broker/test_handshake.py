"""The KBS handshake over HTTP: what is released, what is refused, and that every answer is in the log first."""

import base64
import json

import pytest
from broker.world import CANARY, INIT_DATA, NOW, TOKENIZER, WEIGHTS, Machine, compiled, form, release

from tallystick.formats import ear
from tallystick.handshake import initdata, kbs
from tallystick.handshake.jwe import TeeKeyPair
from tallystick.policy.normal import KeyRule

ERRORS = "https://github.com/confidential-containers/kbs/errors/"


def verify_token(token, jwk):
    """Check a token as a relying party would, with nothing of ours but the parser."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    parsed = ear.parse(token)
    x, y = (int.from_bytes(base64.urlsafe_b64decode(jwk[name] + "=="), "big") for name in ("x", "y"))
    key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    r, s = (int.from_bytes(half, "big") for half in (parsed.signature[:32], parsed.signature[32:]))
    key.verify(encode_dss_signature(r, s), parsed.signed, ec.ECDSA(hashes.SHA256()))
    return parsed.ear


def test_an_honest_machine_gets_each_key_wrapped_to_its_own_key(running, pair):
    cookie, reply = running.attest(Machine(), pair)
    assert reply.status == 200
    first, second = running.fetch(cookie), running.fetch(cookie, TOKENIZER)
    assert (first.status, second.status) == (200, 200)
    assert CANARY not in first.body
    assert pair.decrypt(first.body) == CANARY
    assert len(pair.decrypt(second.body)) == 32
    kinds = [leaf["kind"] for leaf in running.world.leaves()]
    assert kinds == ["policy", "attestation", "release", "release"]
    assert [leaf["key"] for leaf in running.world.leaves()[2:]] == [WEIGHTS, TOKENIZER]


def test_the_challenge_is_the_protocols(steady):
    reply = steady.ask("POST", kbs.AUTH_PATH, {"version": "0.4.0", "tee": "tpm", "extra-params": ""})
    assert reply.status == 200
    assert len(base64.b64decode(reply.json["nonce"])) == 32
    assert reply.json["extra-params"] == {"selected-hash-algorithm": "sha256"}
    said = reply.headers["set-cookie"]
    assert said.startswith("kbs-session-id=")
    assert "HttpOnly" in said
    assert "Path=/" in said


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"version": "0.4.1"}, 400, "version: want 0.4.0, got 0.4.1"),
        ({"version": "0.1.1"}, 400, "version: want 0.4.0, got 0.1.1"),
        ({"tee": "sample"}, 400, "snp, tdx, tpm, got sample"),
        ({"tee": "nvidia"}, 400, "snp, tdx, tpm, got nvidia"),
        ({"tee": 3}, 400, "tee: want a string"),
        ({"extra-params": {"supported-hash-algorithms": ["sha384"]}}, 400, "want sha256, got sha384"),
    ],
)
def test_a_request_that_is_not_ours_is_refused(steady, change, status, said):
    request = {**kbs.Request(tee="tpm").document(), **change}
    reply = steady.ask("POST", kbs.AUTH_PATH, request)
    assert reply.status == status
    assert reply.json["type"].startswith(ERRORS)
    assert said in reply.json["detail"]


def test_the_token_is_an_ear_that_others_can_check(steady, pair):
    machine = Machine()
    cookie, nonce = steady.challenge()
    message = steady.message(steady.certify(machine), nonce, pair)
    token = steady.ask("POST", kbs.ATTEST_PATH, message, cookie=cookie).json["token"]
    (jwk,) = steady.ask("GET", "/tally/v0/token-keys").json["keys"]
    found = verify_token(token, jwk)
    assert (found.profile, found.issued_at) == (ear.PROFILE, int(NOW.timestamp()))
    cpu0 = dict(found.submods)["cpu0"]
    assert dict(cpu0.vector)["executables"] == 3
    assert dict(cpu0.vector)["hardware"] == 32, "a software TPM is no genuine hardware"
    assert cpu0.status is ear.Tier.WARNING
    assert cpu0.annotated["tpm"]["pcr04"] == machine.registers[4].hex()
    assert cpu0.annotated["init_data"] == initdata.pcr8(INIT_DATA.encode()).hex()
    assert cpu0.annotated["init_data_claims"]["data"] == {"artifacts.json": "{}"}
    assert cpu0.annotated["runtime_data_claims"]["nonce"] == nonce
    assert "report_data" not in cpu0.annotated["tpm"]


def test_the_token_of_another_image_approves_nothing(steady, pair):
    _, reply = steady.attest(Machine(image="b"), pair)
    cpu0 = dict(ear.parse(reply.json["token"]).ear.submods)["cpu0"]
    assert dict(cpu0.vector)["executables"] == 33
    assert cpu0.policy == ""


def test_another_image_is_refused_with_the_registers_that_differ(steady, pair):
    cookie, reply = steady.attest(Machine(image="b"), pair)
    assert reply.status == 200, "the evidence is genuine"
    refused = steady.fetch(cookie)
    assert refused.status == 403
    assert refused.json["type"] == f"{ERRORS}PolicyDeny"
    found = {finding["where"]: finding for finding in refused.json["findings"]}
    assert sorted(found) == ["pcr04", "pcr09", "pcr11"]
    machine = Machine(image="b")
    assert found["pcr04"]["got"] == machine.registers[4].hex()
    assert refused.json["decision"] in refused.json["detail"]


def test_a_refused_workload_is_never_told_what_the_policy_wants(steady, pair):
    cookie, _ = steady.attest(Machine(image="b"), pair)
    refused = steady.fetch(cookie)
    wanted = {value.hex() for n, value in enumerate(Machine().registers) if n in (4, 9, 11)}
    assert not any(value in refused.body.decode() for value in wanted)
    leaf = steady.world.leaves()[-1]
    assert not any(value in json.dumps(leaf) for value in wanted)
    record = steady.world.decision(refused.json["decision"])
    assert {finding["want"] for finding in record["details"]["findings"]} == wanted


@pytest.mark.parametrize("register", ["pcr00", "pcr02", "pcr12"])
def test_one_changed_register_is_named(steady, pair, register):
    changed = Machine(changed={register: "11" * 32})
    cookie, _ = steady.attest(changed, pair)
    refused = steady.fetch(cookie)
    assert refused.status == 403
    assert [(f["code"], f["got"]) for f in refused.json["findings"]] == [
        (f"tpm.{register}.mismatch", "11" * 32)
    ]


def test_a_nonce_attests_once(running, pair):
    machine = running.certify(Machine())
    cookie, nonce = running.challenge()
    message = running.message(machine, nonce, pair)
    assert running.ask("POST", kbs.ATTEST_PATH, message, cookie=cookie).status == 200
    again = running.ask("POST", kbs.ATTEST_PATH, message, cookie=cookie)
    assert (again.status, again.code) == (401, "nonce.used")
    assert running.fetch(cookie).status == 200, "the session keeps what it proved"
    assert running.world.leaves()[-2]["codes"] == ["nonce.used"]


def test_evidence_of_another_session_is_a_replay(steady, pair):
    machine = steady.certify(Machine())
    _, old = steady.challenge()
    stale = steady.message(machine, old, pair)
    cookie, _ = steady.challenge()
    reply = steady.ask("POST", kbs.ATTEST_PATH, stale, cookie=cookie)
    assert (reply.status, reply.code) == (401, "attestation.nonce")
    assert steady.fetch(cookie).status == 401


def test_a_quote_over_an_old_nonce_is_a_replay(steady, pair):
    _, old = steady.challenge()
    cookie, reply = steady.attest(Machine(), pair, bound_nonce=old)
    assert (reply.status, reply.code) == (401, "tpm.nonce.mismatch")
    assert steady.fetch(cookie).status == 401


def test_evidence_bound_to_another_public_key_is_refused(running, pair):
    cookie, reply = running.attest(Machine(), pair, bound_key=TeeKeyPair.make().public)
    assert (reply.status, reply.code) == (401, "tpm.nonce.mismatch")
    assert reply.json["type"] == f"{ERRORS}AttestationError"
    assert running.fetch(cookie).status == 401
    leaf = running.world.leaves()[-1]
    assert (leaf["kind"], leaf["stage"], leaf["codes"]) == ("refusal", "attest", ["tpm.nonce.mismatch"])


def test_a_failed_attempt_uses_the_nonce_up(steady, pair):
    machine = steady.certify(Machine())
    cookie, nonce = steady.challenge()
    wrong = steady.message(machine, nonce, pair, bound_key=TeeKeyPair.make().public)
    assert steady.ask("POST", kbs.ATTEST_PATH, wrong, cookie=cookie).status == 401
    right = steady.message(machine, nonce, pair)
    reply = steady.ask("POST", kbs.ATTEST_PATH, right, cookie=cookie)
    assert (reply.status, reply.code) == (401, "nonce.used")


def test_a_message_that_is_not_one_does_not_use_the_nonce_up(steady, pair):
    machine = steady.certify(Machine())
    cookie, nonce = steady.challenge()
    assert steady.ask("POST", kbs.ATTEST_PATH, b"{", cookie=cookie).status == 400
    message = steady.message(machine, nonce, pair)
    assert steady.ask("POST", kbs.ATTEST_PATH, message, cookie=cookie).status == 200


def test_other_init_data_than_was_measured_is_refused(steady, pair):
    other = initdata.make({"artifacts.json": "{ }"}).decode()
    _, reply = steady.attest(Machine(), pair, init_data=other)
    assert (reply.status, reply.code) == (401, "tpm.init-data.mismatch")


def test_measured_init_data_that_the_policy_does_not_want_is_refused(steady, pair):
    other = initdata.make({"artifacts.json": "{ }"}).decode()
    cookie, reply = steady.attest(Machine(init_data=other), pair)
    assert reply.status == 200
    refused = steady.fetch(cookie)
    assert [f["code"] for f in refused.json["findings"]] == ["tpm.pcr08.mismatch"]


def test_init_data_need_not_be_sent_to_be_held_against_the_policy(steady, pair):
    cookie, reply = steady.attest(Machine(), pair, init_data=None)
    assert reply.status == 200
    assert steady.fetch(cookie).status == 200


def test_evidence_of_more_devices_is_not_ignored(steady, pair):
    machine = steady.certify(Machine())
    cookie, nonce = steady.challenge()
    message = steady.message(machine, nonce, pair)
    message["tee-evidence"]["additional_evidence"] = '{"nvidia":{}}'
    reply = steady.ask("POST", kbs.ATTEST_PATH, message, cookie=cookie)
    assert reply.status == 400
    assert "additional_evidence: want none" in reply.json["detail"]


def test_a_bearer_token_alone_does_not_release(steady, pair):
    cookie, reply = steady.attest(Machine(), pair)
    bearer = {"Authorization": f"Bearer {reply.json['token']}"}
    for more in ({"headers": bearer}, {"headers": {}}):
        answer = steady.fetch("", **more)
        assert (answer.status, answer.code) == (401, "session.not-attested")
        assert answer.json["type"] == f"{ERRORS}TokenNotFound"
    fresh, _ = steady.challenge()
    assert steady.fetch(fresh, headers=bearer).status == 401
    assert steady.fetch("0" * 32, headers=bearer).code == "session.unknown"
    assert steady.fetch(cookie).status == 200


def test_a_key_that_no_policy_names_is_refused_whether_it_exists_or_not(running, pair):
    from tallystick.broker.vault import key_id

    running.broker.vault.generate(key_id("other/there/v1"), channel="staging", now=NOW)
    cookie, _ = running.attest(Machine(), pair)
    answers = [running.fetch(cookie, key) for key in ("other/there/v1", "other/nowhere/v1")]
    assert [(a.status, a.code) for a in answers] == [(403, "key.unnamed")] * 2


def test_a_key_of_another_channel_is_never_released(world, pair):
    from tallystick.broker.vault import Vault, key_id

    vault = Vault.open(world.home.vault)
    vault.generate(key_id("acme/debug/v1"), channel="debug", now=NOW)
    rules = (KeyRule(key="acme/debug/v1", artifact="weights"),)
    world.channel.change(
        "bob", ["alice", "carol"], [compiled(form(release(), keys=rules))], now=world.clock.at
    )
    with world.running() as running:
        cookie, _ = running.attest(Machine(), pair)
        refused = running.fetch(cookie, "acme/debug/v1")
        assert (refused.status, refused.code) == (403, "key.channel")
        assert "debug" not in json.dumps(refused.json["findings"][0]["got"])


def test_a_destroyed_key_is_refused_at_once(running, pair):
    from tallystick.broker.vault import key_id

    cookie, _ = running.attest(Machine(), pair)
    assert running.fetch(cookie).status == 200
    running.broker.vault.destroy(key_id(WEIGHTS), now=NOW)
    refused = running.fetch(cookie)
    assert (refused.status, refused.code) == (403, "key.destroyed")


@pytest.mark.parametrize("path", ["a/b", "a/b/c/d", "..%2fa/b/c", "a/b/c%0a", "a//c", "%ff/b/c"])
def test_a_path_that_names_no_resource_is_not_found(steady, pair, path):
    cookie, _ = steady.attest(Machine(), pair)
    reply = steady.fetch(cookie, path)
    assert reply.status == 404
    assert reply.json["type"] == f"{ERRORS}InvalidRequestPath"


def test_a_session_ends(running, pair):
    cookie, _ = running.attest(Machine(), pair)
    running.world.clock.forward(minutes=5)
    assert (running.fetch(cookie).status, running.fetch(cookie).code) == (401, "session.unknown")


def test_an_ak_certificate_that_ran_out_since_ends_the_release(world, pair):
    from dataclasses import replace
    from datetime import timedelta

    world.lifetimes = replace(world.lifetimes, ak_certificate=timedelta(minutes=2))
    with world.running() as running:
        cookie, _ = running.attest(Machine(), pair)
        assert running.fetch(cookie).status == 200
        world.clock.forward(minutes=3)
        assert running.fetch(cookie).code == "evidence.expired"


def test_evidence_older_than_the_policy_takes_is_refused(world, pair):
    world.channel.change(
        "bob", ["alice", "carol"], [compiled(form(release(), max_age_seconds=60))], now=world.clock.at
    )
    with world.running() as running:
        cookie, _ = running.attest(Machine(), pair)
        world.clock.forward(seconds=60)
        assert running.fetch(cookie).status == 200
        world.clock.forward(seconds=1)
        assert running.fetch(cookie).code == "evidence.stale"


def test_responses_are_not_to_be_stored(steady, pair):
    cookie, reply = steady.attest(Machine(), pair)
    for answer in (reply, steady.fetch(cookie), steady.ask("GET", "/healthz")):
        assert answer.headers["cache-control"] == "no-store"


def test_the_checkpoint_is_signed_and_covers_every_leaf(running, pair):
    from tallystick.tlog import checkpoint

    running.attest(Machine(), pair)
    note = checkpoint.parse_note(running.ask("GET", "/tally/v0/log/checkpoint").body.decode())
    checkpoint.verify(note, running.broker.log_key.note_key)
    assert checkpoint.parse(note.text).size == len(running.world.leaves()) == 2


def test_explanations_come_from_the_evaluator_and_the_log(steady, pair):
    from tallystick.broker.explaining import explain

    cookie, _ = steady.attest(Machine(image="b"), pair)
    refused = steady.fetch(cookie)
    found = explain(steady.world.home, refused.json["decision"])
    assert found.again is True
    assert found.nearest is not None
    assert found.nearest.digest == release().digest
    assert {f.where: f.want for f in found.findings}["pcr04"] == Machine().registers[4].hex()
    cookie, _ = steady.attest(Machine(), pair)
    assert steady.fetch(cookie).status == 200
    allowed = explain(steady.world.home, str(steady.world.leaves()[-1]["decision"]))
    assert (allowed.again, allowed.findings) == (True, ())
    assert allowed.release is not None
    assert allowed.release.digest == release().digest

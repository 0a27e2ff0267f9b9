"""The client half of the handshake, against a small broker that checks every binding."""

from __future__ import annotations

import pytest
from attester.little_broker import NONCE, LittleBroker, serving
from support_tls import certificate

from tallystick.attester import client as kbs_client
from tallystick.attester.client import KbsClient, bound, enrolled
from tallystick.attester.tpm import open_tpm
from tallystick.broker import tls
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Refused, Unreachable, Unsupported
from tallystick.core.findings import Finding
from tallystick.handshake import binding, kbs, tpmwire
from tallystick.handshake.jwe import TeeKeyPair

KEY = "confidential-inference/weights/v1"
SECRET = bytes(range(32))


@pytest.fixture
def broker():
    with serving(LittleBroker({KEY: SECRET})) as running:
        yield running


@pytest.fixture
def tpm(socket):
    opened = open_tpm(str(socket))
    yield opened
    opened.shutdown()
    opened.close()


def quietly(broker: LittleBroker) -> tuple[KbsClient, list[float]]:
    pauses: list[float] = []
    return KbsClient(broker.url, timeout_seconds=10, pause=pauses.append), pauses


def test_a_machine_that_proves_itself_gets_the_key(broker, tpm):
    client, _ = quietly(broker)
    with enrolled(client, tpm, event_log=b"log") as prove:
        assert client.attest(prove, init_data=None) == "an.ear.token"
    assert client.fetch(KEY) == SECRET
    evidence = broker.attestation.primary_evidence
    assert sorted(evidence) == ["ak_certificate", "ak_public", "event_log", "tpm_quote"]
    assert sorted(evidence["tpm_quote"]) == ["message", "pcrs", "signature"]
    assert evidence["event_log"] == "bG9n"


def test_an_endorsement_key_that_was_made_for_this_leaves_the_tpm_again(broker, tpm, monkeypatch):
    monkeypatch.setattr(tpmwire, "EK_HANDLE", 0x81010077)  # nothing is kept there
    for _ in range(4):  # a TPM holds three
        with enrolled(quietly(broker)[0], tpm, event_log=b"") as prove:
            assert prove(bytes(32))


def test_the_session_is_kept_in_the_cookie(broker, tpm):
    client, _ = quietly(broker)
    with enrolled(client, tpm, event_log=b"") as prove:
        client.attest(prove, init_data=None)
    client.fetch(KEY)
    cookies = dict(broker.seen)
    assert cookies[kbs.ENROL_PATH] == cookies[kbs.AUTH_PATH] == ""
    assert cookies[kbs.ATTEST_PATH] == cookies[kbs.RESOURCE_PATH + KEY] != ""


def test_each_attestation_is_a_new_session_with_a_new_key_pair(broker, tpm):
    client, _ = quietly(broker)
    seen = []
    with enrolled(client, tpm, event_log=b"") as prove:
        for _ in range(2):
            client.attest(prove, init_data=None)
            seen.append((broker.seen[-1], broker.attestation.tee_pubkey))
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] != seen[1][1]


@pytest.mark.parametrize("chosen", ["sha384", "sha512", None])
def test_the_brokers_hash_is_used_and_sha384_when_it_names_none(broker, tpm, chosen):
    """The broker checks the quote's extraData; Trustee names none and hashes with SHA-384."""
    broker.hash_algorithm = chosen
    client, _ = quietly(broker)
    with enrolled(client, tpm, event_log=b"") as prove:
        client.attest(prove, init_data=None)
    assert len(broker.quote.extra_data) == 32


def test_evidence_bound_to_another_key_is_refused(broker, tpm):
    client, _ = quietly(broker)
    mine, other = TeeKeyPair.make(), TeeKeyPair.make()
    with enrolled(client, tpm, event_log=b"") as prove:
        honest = bound(client.challenge(), other.public, prove, init_data=None)
        forged = kbs.Attestation(
            nonce=honest.nonce, tee_pubkey=mine.public, primary_evidence=honest.primary_evidence
        )
        with pytest.raises(NotGenuine, match="AttestationError: not fresh"):
            client.present(forged, mine)
    with pytest.raises(Misuse, match="only after attesting"):
        client.fetch(KEY)


def test_a_key_is_not_fetched_before_attesting(broker):
    client, _ = quietly(broker)
    with pytest.raises(Misuse, match="only after attesting") as caught:
        client.fetch(KEY)
    assert caught.value.code == "attest.first"
    assert broker.seen == []


def test_a_broker_that_can_not_answer_now_is_asked_again_and_again_later(broker):
    client, pauses = quietly(broker)
    broker.broken = 3
    assert client.challenge().nonce == NONCE
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, (0.2, 0.4, 0.8), strict=True))


def test_a_broker_that_never_answers_is_unreachable(broker):
    client, pauses = quietly(broker)
    broker.broken = 100
    with pytest.raises(Unreachable, match=r"/kbs/v0/auth: HTTP 503: try again") as caught:
        client.challenge()
    assert caught.value.code == "broker.unreachable"
    assert (len(broker.seen), len(pauses)) == (5, 4)


def test_nobody_at_the_port_is_unreachable():
    pauses: list[float] = []
    client = KbsClient("http://127.0.0.1:9", pause=pauses.append)
    with pytest.raises(Unreachable, match=r"/kbs/v0/auth: ConnectionRefusedError"):
        client.challenge()
    assert len(pauses) == 4


def test_what_can_be_said_only_once_is_not_said_twice(broker, tpm):
    client, pauses = quietly(broker)
    with enrolled(client, tpm, event_log=b"") as prove:
        pair = TeeKeyPair.make()
        message = bound(client.challenge(), pair.public, prove, init_data=None)
        broker.broken = 1
        with pytest.raises(Unreachable, match="/kbs/v0/attest: HTTP 503"):
            client.present(message, pair)
    assert pauses == []


def test_a_refusal_shows_the_brokers_reasons(broker, tpm):
    finding = Finding("tpm.pcr04.mismatch", "PCR 4", "a released value", "ff" * 32)
    broker.denied[KEY] = kbs.ErrorDocument(
        kind="PolicyDeny", detail="refused", code=finding.code, decision="d-1", findings=(finding,)
    )
    client, _ = quietly(broker)
    with enrolled(client, tpm, event_log=b"") as prove:
        client.attest(prove, init_data=None)
    with pytest.raises(Refused, match=r"HTTP 403 PolicyDeny: refused \(decision d-1\)") as caught:
        client.fetch(KEY)
    assert caught.value.findings == (finding,)
    assert caught.value.code == "tpm.pcr04.mismatch"


def error(kind: str, detail: str = "why") -> bytes:
    return kbs.encode(kbs.ErrorDocument(kind=kind, detail=detail).document())


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (401, error("AttestationError"), NotGenuine, "HTTP 401 AttestationError: why"),
        (401, error("PolicyDeny"), Refused, "HTTP 401 PolicyDeny: why"),  # as Trustee answers
        (403, error("PolicyDeny"), Refused, "HTTP 403 PolicyDeny: why"),
        (404, error("PluginNotFound"), Refused, "HTTP 404 PluginNotFound"),
        (400, error("SerdeError"), Malformed, "want a message it takes, got HTTP 400: why"),
        (302, b"", Unreachable, "HTTP 302 : no words"),
        (403, b"<html>\x1b[31m no\n", Refused, r"HTTP 403 : <html> \[31m no"),
    ],
)
def test_each_answer_becomes_the_error_that_it_means(status, body, kind, words):
    with pytest.raises(kind, match=words):
        raise kbs_client.refusal(status, body, "/kbs/v0/attest")


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8080", "ftp://x", "http://", "http://x:99999999", "http://x/?a=1", "http://x/#a"]
)
def test_an_address_of_no_broker_is_misuse(url):
    with pytest.raises(Misuse, match="broker: want") as caught:
        KbsClient(url)
    assert caught.value.code == "broker.url"


def test_a_broker_may_live_below_a_path(broker):
    client = KbsClient(broker.url + "/below/")
    with pytest.raises(Misuse):
        client.fetch(KEY)
    broker.denied["/below/kbs/v0/auth"] = kbs.ErrorDocument(kind="PolicyDeny", detail="seen")
    with pytest.raises(Refused, match="seen"):
        client.challenge()


def test_tls_is_unsupported_where_python_has_none(monkeypatch):
    import http.client

    monkeypatch.delattr(http.client, "HTTPSConnection")
    with pytest.raises(Unsupported, match=r"scheme: want http \(keys travel wrapped\), got https"):
        KbsClient("https://127.0.0.1:9", pause=lambda seconds: None).challenge()


def test_tls_is_used_where_python_has_it():
    pauses: list[float] = []
    with pytest.raises(Unreachable, match="ConnectionRefusedError"):
        KbsClient("https://127.0.0.1:9", pause=pauses.append).challenge()


def test_an_answer_without_end_is_cut(broker, monkeypatch):
    monkeypatch.setattr(kbs_client, "_MAX_ANSWER_BYTES", 10)
    with pytest.raises(Malformed, match="want at most 10 bytes, got more"):
        KbsClient(broker.url).challenge()


def test_a_broker_that_enrols_nobody_gets_evidence_without_a_certificate(broker, tpm, monkeypatch):
    """As Trustee: it knows no such path. What the evidence is worth then, it says itself."""
    real = broker.answer
    monkeypatch.setattr(
        broker,
        "answer",
        lambda method, path, *rest: (404, "", {}) if path == kbs.ENROL_PATH else real(method, path, *rest),
    )
    client, _ = quietly(broker)
    with enrolled(client, tpm, event_log=b"") as prove:
        assert sorted(prove(bytes(32))) == ["ak_public", "tpm_quote"]


def test_the_devices_are_asked_first_and_covered_by_the_machine(broker):
    asked, proved = [], []
    pair = TeeKeyPair.make()

    def show(nonce):
        asked.append(nonce)
        return '{"nvidia":{}}'

    challenge = kbs.Challenge(nonce=NONCE, hash_algorithm="sha384")
    made = bound(
        challenge, pair.public, lambda digest: proved.append(digest) or {}, init_data=None, show=show
    )
    alone = binding.device_report_data(NONCE, pair.public, algorithm="sha384")
    assert asked == [alone[:32]]
    assert made.additional_evidence == '{"nvidia":{}}'
    assert proved == [
        binding.report_data(NONCE, pair.public, additional_evidence='{"nvidia":{}}', algorithm="sha384")
    ]


def test_an_https_broker_is_believed_by_its_own_authority_alone(tmp_path):
    ours, other = tmp_path / "ours", tmp_path / "other"
    for folder in (ours, other):
        folder.mkdir()
        certificate(folder)
    context = tls.context(tls.TlsFiles(chain=ours / "chain.pem", key=ours / "key.pem"))
    with serving(LittleBroker({KEY: SECRET}), context=context) as running:
        good = KbsClient(running.url, ca=ours / "chain.pem", pause=lambda seconds: None)
        assert good.challenge().nonce == NONCE
        for ca in (other / "chain.pem", None):
            with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
                KbsClient(running.url, ca=ca, pause=lambda seconds: None).challenge()
    (tmp_path / "none").write_text("no certificate")
    with pytest.raises(Misuse, match="no authority's certificate"):
        KbsClient(running.url, ca=tmp_path / "none").challenge()

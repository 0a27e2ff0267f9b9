"""What operators rely on: TLS, readiness, metrics without secrets, limits per client, and the OpenAPI document."""

from __future__ import annotations

import http.client
import ssl
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
import requests
import schemathesis
from broker.test_admin_api import enrol
from broker.world import CANARY, TOKENIZER, WEIGHTS, Limits, Machine, new_world
from hypothesis import HealthCheck, Phase, settings
from prometheus_client.parser import text_string_to_metric_families
from support_tls import certificate

from tallystick.broker import openapi, tls
from tallystick.broker.throttle import Throttle
from tallystick.core.errors import Misuse, NotGenuine


def _configured(world, monkeypatch, **changes):
    real = type(world).config.fget
    monkeypatch.setattr(type(world), "config", property(lambda self: replace(real(self), **changes)))


# TLS


def test_with_a_certificate_the_service_speaks_tls_alone(world, monkeypatch, tmp_path):
    files = certificate(tmp_path)
    _configured(world, monkeypatch, tls=files)
    with world.running() as running:
        assert running.url.startswith("https://")
        place = urlsplit(running.url).netloc
        trusting = ssl.create_default_context(cafile=str(files.chain))
        connection = http.client.HTTPSConnection(place, context=trusting, timeout=20)
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b"ok\n"
        assert connection.sock.version() in ("TLSv1.3", "TLSv1.2")
        connection.close()
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError):
            http.client.HTTPSConnection(place, context=old, timeout=20).connect()
        plain = http.client.HTTPConnection(place, timeout=20)
        plain.request("GET", "/healthz")
        with pytest.raises((OSError, http.client.HTTPException)):
            plain.getresponse()


def test_a_key_that_others_can_read_or_that_is_another_is_refused(tmp_path):
    files = certificate(tmp_path)
    assert tls.context(files)
    files.key.chmod(0o640)
    with pytest.raises(NotGenuine) as caught:
        tls.context(files)
    assert caught.value.code == "file.not-private"
    (tmp_path / "other").mkdir()
    other = certificate(tmp_path / "other")
    for wrong in (
        tls.TlsFiles(chain=files.chain, key=other.key),
        tls.TlsFiles(chain=other.key, key=other.key),
        tls.TlsFiles(chain=tmp_path / "none", key=other.key),
    ):
        with pytest.raises(Misuse):
            tls.context(wrong)


def test_an_encrypted_key_is_refused_and_nobody_is_asked(tmp_path):
    with pytest.raises(Misuse) as caught:
        tls.context(certificate(tmp_path, passphrase=b"secret"))
    assert caught.value.code == "tls.certificate"


# Readiness and metrics


def test_ready_only_while_the_channel_holds(running):
    assert running.ask("GET", "/readyz").status == 200
    running.world.clock.forward(days=4000)
    reply = running.ask("GET", "/readyz")
    assert reply.status == 503
    assert running.ask("GET", "/healthz").status == 200


def test_metrics_count_what_was_decided_and_name_no_key(world, monkeypatch, pair):
    _configured(world, monkeypatch, metrics=True)
    with world.running() as running:
        cookie, _ = running.attest(Machine(), pair)
        assert running.fetch(cookie).status == 200
        assert running.fetch(cookie, TOKENIZER).status == 200
        running.attest(Machine(image="b"), pair)
        running.ask("GET", "/elsewhere/" + "x" * 50)
        reply = running.ask("GET", "/metrics")
    text = reply.body.decode()
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["tally_broker_decisions_total", "release"] == 2
    assert found["tally_broker_decisions_total", "attestation"] == 2
    assert found["tally_broker_requests_total", "/kbs/v0/resource/", "200"] == 2
    assert found["tally_broker_requests_total", "(other)", "404"] == 1
    assert found["tally_broker_ready",] == 1
    assert found["tally_broker_log_size",] >= 5
    assert found["tally_broker_channel_expires_seconds",] > 0
    for secret in (WEIGHTS, TOKENIZER, cookie, "127.0.0.1", CANARY.decode()):
        assert secret not in text


def test_metrics_are_not_served_unless_asked_for(steady):
    assert steady.ask("GET", "/metrics").status == 404


# Limits per client


def test_a_client_that_asks_too_often_waits_and_leaves_nothing_in_the_log(tmp_path):
    world = new_world(tmp_path, limits=Limits(client_rate=0.01, client_burst=3))
    with world.running() as running:
        replies = [running.ask("POST", "/kbs/v0/auth", b"{}") for _ in range(5)]
        assert [reply.status for reply in replies] == [400, 400, 400, 429, 429]
        assert replies[-1].code == "client.rate"
        assert int(replies[-1].headers["retry-after"]) > 1
        assert running.ask("GET", "/healthz").status == 200


def test_a_bucket_fills_again_and_each_client_has_its_own():
    throttle = Throttle(rate=2, burst=2)
    assert [throttle.wait("192.0.2.1", 10.0) for _ in range(3)] == [0, 0, 1]
    assert throttle.wait("192.0.2.2", 10.0) == 0
    assert throttle.wait("192.0.2.1", 10.5) == 0
    assert throttle.wait("192.0.2.1", 10.5) == 1
    assert [throttle.wait("192.0.2.1", 1000.0) for _ in range(3)] == [0, 0, 1]  # never more than the burst


def test_one_subscribers_ipv6_addresses_are_one_client():
    throttle = Throttle(rate=0.1, burst=1)
    assert throttle.wait("2001:db8::1", 0.0) == 0
    assert throttle.wait("2001:db8::2", 0.0) == 10
    assert throttle.wait("2001:db8:0:1::1", 0.0) == 0


def test_the_table_of_clients_is_bounded():
    throttle = Throttle(rate=1, burst=1, most_clients=10)
    for number in range(1000):
        throttle.wait(f"client {number}", 0.0)
    assert len(throttle._buckets) == 10


# The OpenAPI document


def test_the_document_names_every_route(steady):
    from tallystick.broker import app

    documented = {path.partition("{")[0] for path in openapi.document()["paths"]}
    assert documented >= app._OURS - {app.METRICS_PATH}
    names = [
        operation["operationId"]
        for path in openapi.document()["paths"].values()
        for operation in path.values()
    ]
    assert len(set(names)) == len(names)


def test_generated_requests_get_documented_answers(tmp_path):
    """schemathesis sends what the document allows and what it forbids; every answer must be one that it names."""
    world = new_world(tmp_path, limits=Limits(client_rate=1e6, client_burst=1_000_000))
    with world.running() as running:
        schema = schemathesis.openapi.from_dict(openapi.document())
        session, counted = signing(running), 0
        for result in schema.get_all_operations():
            operation = result.ok()

            @settings(
                max_examples=25,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @schemathesis_given(operation)
            def ask(case):
                nonlocal counted
                counted += 1
                answer = case.call(base_url=running.url, timeout=20, session=session)
                case.validate_response(
                    answer,
                    checks=[
                        schemathesis.checks.not_a_server_error,
                        schemathesis.checks.CHECKS.get_one("status_code_conformance"),
                        schemathesis.checks.CHECKS.get_one("content_type_conformance"),
                        schemathesis.checks.CHECKS.get_one("response_schema_conformance"),
                    ],
                )

            ask()
        assert counted > 100
        assert running.ask("GET", "/healthz").status == 200


def signing(running):
    """A client whose requests an administrator has signed, as they are sent."""
    key, at = enrol(running), running.world.clock.at

    def sign(request):
        body = request.body or b""
        body = body.encode() if isinstance(body, str) else body
        path = urlsplit(request.url).path
        request.headers["Authorization"] = f"Bearer {key.sign(request.method, path, body, now=at)}"
        return request

    session = requests.Session()
    session.auth = sign
    return session


def schemathesis_given(operation):
    from hypothesis import given

    return given(case=operation.as_strategy())

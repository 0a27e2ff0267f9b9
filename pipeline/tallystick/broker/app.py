"""The HTTP face of the broker: Starlette routes, bounded bodies, error documents, one log line a request.

Source: Trustee, kbs/docs/kbs_attestation_protocol.md, "HTTP Integration", and kbs/src/api_server.rs (paths).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tallystick.broker import adminapi, holding, operator_page, wire
from tallystick.broker.metrics import Metrics
from tallystick.broker.service import Broker
from tallystick.broker.throttle import Throttle
from tallystick.broker.wire import Answer
from tallystick.core.errors import TallystickError
from tallystick.handshake.kbs import (
    ACTIVATE_PATH,
    ATTEST_PATH,
    AUTH_PATH,
    ENROL_PATH,
    RENEW_PATH,
    RESOURCE_PATH,
    RETURN_PATH,
    SESSION_COOKIE,
    TOKEN_PATH,
    encode,
)

CHECKPOINT_PATH = "/tally/v0/log/checkpoint"
KEYS_PATH = "/tally/v0/token-keys"
POLICIES_PATH = "/tally/v0/policies"
HEALTH_PATH = "/healthz"
READY_PATH = "/readyz"
METRICS_PATH = "/metrics"
_OURS = {AUTH_PATH, ATTEST_PATH, ENROL_PATH, ACTIVATE_PATH, CHECKPOINT_PATH, KEYS_PATH, POLICIES_PATH}
_OURS |= {RENEW_PATH, RETURN_PATH, TOKEN_PATH}
_OURS |= {HEALTH_PATH, READY_PATH, METRICS_PATH, adminapi.KEYS_PATH, adminapi.CHANNEL_PATH}
_ACCESS = logging.getLogger("tallystick.broker.access")
_FAULTS = logging.getLogger("tallystick.broker.faults")

Handler = Callable[[Request], Awaitable[Response]]


def create_app(
    broker: Broker,
    *,
    beside: Callable[[], Any] | None = None,
    page: operator_page.OperatorPage | None = None,
) -> ASGIApp:
    """Return the ASGI application of an open broker; closing it, at the end of its lifespan, closes the broker.

    Args:
        beside: an asynchronous context to hold for as long as the application runs.
        page: what operators see; None: there is no such path.
    """
    limits = broker.config.limits
    metrics = Metrics(broker) if broker.config.metrics else None

    async def auth(request: Request) -> Response:
        body = await _body(request, limits.auth_bytes, limits.body_seconds)
        cookie, challenge = broker.auth(body)
        return _json(challenge.document(), cookie=_cookie(cookie, broker.sessions.life.seconds))

    async def attest(request: Request) -> Response:
        body = await _body(request, limits.attest_bytes, limits.body_seconds)
        token = await broker.attest(_session(request), body)
        return _json(token.document())

    async def resource(request: Request) -> Response:
        path = request.path_params
        name = f"{path['repository']}/{path['type']}/{path['tag']}"
        return _plain_json(await broker.fetch(_session(request), name))

    async def enrol(request: Request) -> Response:
        body = await _body(request, limits.enrol_bytes, limits.body_seconds)
        return _json((await broker.enrol(body)).document())

    async def activate(request: Request) -> Response:
        body = await _body(request, limits.auth_bytes, limits.body_seconds)
        return _json((await broker.activate(body)).document())

    async def checkpoint(request: Request) -> Response:
        return PlainTextResponse(await asyncio.to_thread(broker.checkpoint), headers=_HEADERS)

    async def keys(request: Request) -> Response:
        return _json({"keys": [{**broker.tokens.jwk, "kid": broker.tokens.key_id, "use": "sig"}]})

    async def renew(request: Request) -> Response:
        return _json(await holding.renew(broker, _session(request)))

    async def give_back(request: Request) -> Response:
        return _json(await holding.give_back(broker, _session(request)))

    async def api_token(request: Request) -> Response:
        body = await _body(request, limits.auth_bytes, limits.body_seconds)
        return _plain_json(await holding.api_token(broker, _session(request), body))

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok\n", headers=_HEADERS)

    async def ready(request: Request) -> Response:
        try:
            await asyncio.to_thread(lambda: broker.policies.current(broker.clock.now()))
            await asyncio.to_thread(broker.ledger.head)
            broker.witnessing.check()
        except TallystickError as error:
            raise Answer(503, wire.INTERNAL, "no key can be released now", code=error.code) from None
        return PlainTextResponse("ready\n", headers=_HEADERS)

    async def policies(request: Request) -> Response:
        state = await asyncio.to_thread(lambda: broker.policies.current(broker.clock.now()))
        return _json(state.public())

    async def counted(request: Request) -> Response:
        if metrics is None:
            raise wire.no_such_path()
        text = await asyncio.to_thread(metrics.text)
        return Response(text, headers=_HEADERS, media_type="text/plain; version=0.0.4; charset=utf-8")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(work(broker)) for work in (_sweeping, _witnessing)]
        try:
            if beside is None:
                yield
            else:
                async with beside():
                    yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(broker.close)

    app = Starlette(
        routes=[
            Route(AUTH_PATH, auth, methods=["POST"]),
            Route(ATTEST_PATH, attest, methods=["POST"]),
            Route(RESOURCE_PATH + "{repository}/{type}/{tag}", resource, methods=["GET"]),
            Route(ENROL_PATH, enrol, methods=["POST"]),
            Route(ACTIVATE_PATH, activate, methods=["POST"]),
            Route(CHECKPOINT_PATH, checkpoint, methods=["GET"]),
            Route(KEYS_PATH, keys, methods=["GET"]),
            Route(POLICIES_PATH, policies, methods=["GET"]),
            Route(RENEW_PATH, renew, methods=["POST"]),
            Route(RETURN_PATH, give_back, methods=["POST"]),
            Route(TOKEN_PATH, api_token, methods=["POST"]),
            Route(HEALTH_PATH, health, methods=["GET"]),
            Route(READY_PATH, ready, methods=["GET"]),
            Route(METRICS_PATH, counted, methods=["GET"]),
            *([] if page is None else [Route(operator_page.PATH, page.answer, methods=["GET"])]),
            *adminapi.routes(broker, read_body=_body, respond=_json),
        ],
        exception_handlers={
            Answer: _answered,
            TallystickError: _failed,
            HTTPException: _no_route,
            Exception: _broken,
        },
        lifespan=lifespan,
    )
    throttle = Throttle(rate=limits.client_rate, burst=limits.client_burst)
    return _AccessLog(_Throttled(app, throttle), metrics)


async def _sweeping(broker: Broker) -> None:
    """Look at the leases now and then. What can not be done now is done next time, and said."""
    while True:
        await asyncio.sleep(broker.config.lifetimes.sweep.total_seconds())
        try:
            ended = await asyncio.to_thread(broker.sweep)
        except TallystickError as error:
            _FAULTS.warning(json.dumps({"fault": "sweep", "code": error.code}))
        else:
            if ended:
                _FAULTS.info(json.dumps({"leases_ended": ended}))


async def _witnessing(broker: Broker) -> None:
    """Show the log to its witnesses now and then. What they do not sign makes the broker not ready, and is said."""
    while True:
        await asyncio.sleep(broker.config.lifetimes.witness.total_seconds())
        try:
            await asyncio.to_thread(broker.witnessing.show)
        except TallystickError as error:
            _FAULTS.error(json.dumps({"fault": "witness", "code": error.code, "message": error.message}))


_HEADERS = {"cache-control": "no-store"}


def _json(document: object, *, cookie: str = "") -> Response:
    response = _plain_json(encode(document))
    if cookie:
        response.headers["set-cookie"] = cookie
    return response


def _plain_json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, headers=_HEADERS, media_type="application/json")


def _cookie(value: str, seconds: int) -> str:
    return f"{SESSION_COOKIE}={value}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict"


def _session(request: Request) -> str:
    """Return the session's cookie. An ``Authorization`` header is no substitute, whatever it carries."""
    cookie = request.cookies.get(SESSION_COOKIE)
    if not cookie:
        raise wire.not_attested()
    return cookie


async def _body(request: Request, most_bytes: int, seconds: float) -> bytes:
    """Return the request's body, read no further than ``most_bytes`` and no longer than ``seconds``."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Answer(415, wire.SERIALIZATION, "a body is sent as it is, not encoded", code="body.encoded")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and len(declared) < 20 and int(declared) > most_bytes:
        raise _too_large(most_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                body += part
                if len(body) > most_bytes:
                    raise _too_large(most_bytes)
    except TimeoutError:
        raise Answer(
            408, wire.SERIALIZATION, f"the body took more than {seconds:g} s", code="body.slow"
        ) from None
    except ClientDisconnect:
        raise Answer(400, wire.SERIALIZATION, "the body ended early", code="body.short") from None
    return bytes(body)


def _too_large(most_bytes: int) -> Answer:
    return Answer(413, wire.SERIALIZATION, f"a body here has at most {most_bytes} bytes", code="body.large")


async def _answered(request: Request, error: Exception) -> Response:
    assert isinstance(error, Answer)  # noqa: S101 - what this handler is registered for
    _note(request, code=error.code, decision=error.decision)
    return _plain_json(encode(error.document), error.status)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, TallystickError)  # noqa: S101 - what this handler is registered for
    told = wire.answer(error, findings=error.findings)
    if told.status >= 500:
        _FAULTS.error(json.dumps({"code": error.code, "message": error.message}))
    return await _answered(request, told)


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    code = "method.not-allowed" if status == 405 else "path.unknown"
    return await _answered(request, wire.no_such_path(status, code))


async def _broken(request: Request, error: Exception) -> Response:
    """Answer what is our bug. It is raised once more for the log, which says where it is and no value."""
    return await _answered(request, Answer(500, wire.INTERNAL, "the broker failed", code="bug"))


def _note(request: Request, **facts: str) -> None:
    request.scope.setdefault("tallystick.facts", {}).update({k: v for k, v in facts.items() if v})


class _Throttled:
    """Answers 429 to a client that asks too often, before anything is read or logged for it."""

    def __init__(self, app: ASGIApp, throttle: Throttle) -> None:
        self._app = app
        self._throttle = throttle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in (HEALTH_PATH, READY_PATH):
            client = scope.get("client")
            seconds = self._throttle.wait(client[0] if client else "", time.monotonic())
            if seconds:
                told = Answer(429, wire.INTERNAL, "too many requests from this address", code="client.rate")
                scope["tallystick.facts"]["code"] = told.code
                response = _plain_json(encode(told.document), told.status)
                response.headers["retry-after"] = str(seconds)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _AccessLog:
    """One line of JSON for each request: no header, no query, no body, and no path that is not ours."""

    def __init__(self, app: ASGIApp, metrics: Metrics | None) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        facts: dict[str, str] = {}
        scope["tallystick.facts"] = facts

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            # The traceback's values may be secret; the place is not.
            at = error.__traceback__
            while at is not None and at.tb_next is not None:
                at = at.tb_next
            where = f"{at.tb_frame.f_globals.get('__name__')}:{at.tb_lineno}" if at is not None else "unknown"
            _FAULTS.error(json.dumps({"code": "bug", "kind": type(error).__name__, "where": where}))
        finally:
            taken = time.perf_counter() - began
            if self._metrics is not None:
                self._metrics.answered(_route(scope["path"]), status, taken)
            if _ACCESS.isEnabledFor(logging.INFO):
                _ACCESS.info(json.dumps(_line(scope, status, round(taken * 1000, 2), facts)))


def _line(scope: Scope, status: int, taken_ms: float, facts: dict[str, str]) -> dict[str, Any]:
    client = scope.get("client")
    return {
        "client": client[0] if client else "",
        "method": scope["method"][:16],
        "path": _shown_path(scope["path"]),
        "status": status,
        "ms": taken_ms,
        **facts,
    }


def _shown_path(path: str) -> str:
    """Return a path of ours; of any other one only that it is not."""
    if path in _OURS:
        return path
    return path[:300] if path.startswith(RESOURCE_PATH) else "(other)"


def _route(path: str) -> str:
    """Return the route that ``path`` belongs to, without the key's name."""
    shown = _shown_path(path)
    return RESOURCE_PATH if shown.startswith(RESOURCE_PATH) else shown

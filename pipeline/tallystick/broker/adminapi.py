"""Key operations over the network, for enrolled administrators, each request signed and each one a leaf.

They are served over TLS, or to this machine alone: an imported key travels in the body. There is no way to read a key,
and none to send a policy; "channel" makes the broker read the signed channel now.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tallystick.broker import adminauth, admins, wire
from tallystick.broker.admins import Admin
from tallystick.broker.config import BrokerConfig
from tallystick.broker.decisions import Kind, entry
from tallystick.broker.keyops import KeyOperation, channel_of, parse_operation, perform, shown
from tallystick.broker.service import Broker
from tallystick.broker.vault import MAX_KEY_BYTES
from tallystick.broker.wire import Answer
from tallystick.core.errors import Misuse, Refused, TallystickError

KEYS_PATH = "/tally/v0/admin/keys"
CHANNEL_PATH = "/tally/v0/admin/channel"
_MOST_BYTES = 2 * MAX_KEY_BYTES

ReadBody = Callable[[Request, int, float], Awaitable[bytes]]
Respond = Callable[[object], Response]
Handle = Callable[[Admin, bytes], Awaitable[dict[str, Any]]]


def served(config: BrokerConfig) -> bool:
    """Whether this broker takes administrators' requests: over TLS, or at an address that only this machine reaches."""
    try:
        loopback = ipaddress.ip_address(config.host).is_loopback
    except ValueError:
        loopback = config.host == "localhost"
    return config.tls is not None or loopback


def routes(broker: Broker, *, read_body: ReadBody, respond: Respond) -> list[Route]:
    """Return the routes; none where :func:`served` says no.

    Args:
        read_body: reads at most so many bytes in so many seconds.
    """
    if not served(broker.config):
        return []

    async def operate(admin: Admin, body: bytes) -> dict[str, Any]:
        operation = parse_operation(body, by=admin.name)
        return await asyncio.to_thread(_operate, broker, admin, operation)

    async def listed(admin: Admin, body: bytes) -> dict[str, Any]:
        records = await asyncio.to_thread(broker.vault.records)
        return {"keys": [shown(one) for one in records if one.channel in admin.channels]}

    async def channel(admin: Admin, body: bytes) -> dict[str, Any]:
        state = await asyncio.to_thread(lambda: broker.policies.current(broker.clock.now()))
        return state.public()

    def guarded(handle: Handle) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            body = await read_body(request, _MOST_BYTES, broker.config.limits.body_seconds)
            admin = await _authorised(broker, request, body)
            try:
                return respond(await handle(admin, body))
            except (Refused, Misuse) as error:
                raise Answer(403, wire.POLICY_DENY, error.message, code=error.code) from None

        return answer

    return [
        Route(KEYS_PATH, guarded(listed), methods=["GET"]),
        Route(KEYS_PATH, guarded(operate), methods=["POST"]),
        Route(CHANNEL_PATH, guarded(channel), methods=["POST"]),
    ]


async def _authorised(broker: Broker, request: Request, body: bytes) -> Admin:
    """Return who signed the request, once its use is in the log and its nonce is used up.

    Raises:
        Answer: nobody enrolled did (401). A stranger leaves nothing in the log.
        NotGenuine: the same request was sent before (``nonce.used``).
    """
    now = broker.clock.now()
    call = adminauth.Call(
        audience=broker.log_key.verifier_line(), method=request.method, path=request.url.path, body=body
    )
    enrolled = await asyncio.to_thread(admins.load, broker.config.home.admins)
    try:
        admin, nonce = adminauth.verify(request.headers.get("authorization", ""), enrolled, call, now=now)
    except TallystickError as error:
        raise wire.answer(error, findings=error.findings) from None
    said = {"by": admin.name, "method": call.method, "path": call.path, "body": call.claims()["digest"]}
    await broker.ledger.record([entry(Kind.ADMIN, now=now, public=said, details={})], now=now, nonce=nonce)
    return admin


def _operate(broker: Broker, admin: Admin, operation: KeyOperation) -> dict[str, Any]:
    channel = channel_of(operation, broker.vault)
    if channel not in admin.channels:
        # The same words whether or not there is such a key in another channel.
        raise Refused(f"{admin.name} does not administer that key's channel", code="admin.channel")
    done, record = perform(operation, broker.vault, broker.ledger, now=broker.clock.now())
    return {"decision": done, **shown(record)}

"""What a machine that holds keys asks for: its leases renewed or given back, tokens for the services it calls."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tallystick.broker import apitokens, leases, leasing, releasing, wire
from tallystick.broker.decisions import Kind, codes, entry, instant, new_id
from tallystick.broker.ledger import Under
from tallystick.broker.vault import KeyId, key_id
from tallystick.handshake import jwe

if TYPE_CHECKING:
    from tallystick.broker.leasing import Renewal
    from tallystick.broker.service import Broker
    from tallystick.broker.sessions import Attested


async def renew(broker: Broker, cookie: str) -> dict[str, Any]:
    """Return the leases of the session's holder, renewed on what this session attested, or ended.

    Raises:
        Answer: the session has not attested.
        NotGenuine, Refused, Unreachable: there is no such session; no policies can be verified.
    """
    now = broker.clock.now()
    attested = await broker.attested_session(cookie, now)

    async def renewed() -> dict[str, Any]:
        state = await broker.in_thread(lambda: broker.policies.current(now))
        found = await broker.in_thread(lambda: broker.leasing.renewal(attested, state, now=now))
        return await _written(broker, found, now, Under(channel=state.channel, epoch=state.epoch))

    return await broker.under_one_policy(renewed)


async def give_back(broker: Broker, cookie: str) -> dict[str, Any]:
    """End the leases of the session's holder, which is done with its keys, and return them; errors as :func:`renew`."""
    now = broker.clock.now()
    attested = await broker.attested_session(cookie, now)
    found = await broker.in_thread(lambda: broker.leasing.returning(attested, now=now))
    return await _written(broker, found, now)


async def api_token(broker: Broker, cookie: str, body: bytes) -> bytes:
    """Return an API token for this session's machine, wrapped to the attested key.

    The claims are judged again under the policy of the key that the request names; no key leaves.

    Raises:
        Answer: the session has not attested, or the policy refuses; the refusal is in the log by then.
        Malformed, Unsupported, NotGenuine, Unreachable: as they say.
    """
    now = broker.clock.now()
    request = apitokens.Request.parse(body)
    attested = await broker.attested_session(cookie, now)
    return await broker.under_one_policy(lambda: _token(broker, request, attested, now))


async def _written(
    broker: Broker, found: Renewal, now: datetime, under: Under | None = None
) -> dict[str, Any]:
    if found.entries:
        await broker.ledger.record(found.entries, now=now, under=under, also=found.also)
    return found.document(now)


async def _token(broker: Broker, request: apitokens.Request, attested: Attested, now: datetime) -> bytes:
    key = key_id(request.key)
    verdict, under = await broker.in_thread(lambda: _judged(broker, key, attested, now))
    name, public = new_id(now), {**verdict.public(), "attestation": attested.attestation}
    public |= {"stage": "token", "audience": request.audience}
    if not verdict.allowed or verdict.state is None:
        public["codes"] = codes(verdict.findings)
        made = entry(Kind.REFUSAL, now=now, public=public, details=verdict.details(), decision=name)
        await broker.ledger.record([made], now=now, under=under)
        raise wire.denied(verdict.findings, own=verdict.own, decision=name)
    until = leases.granted(name, verdict, attested, verdict.state, now=now).expires_at
    public |= {"event": "token", "jkt": request.proof_key.thumbprint(), "until": instant(until)}
    made = entry(Kind.LEASE, now=now, public=public, details=verdict.details(), decision=name)
    await broker.ledger.record([made], now=now, under=under)
    holder = attested.public_key.thumbprint()
    said = {"release": public["release"], "policy": public["policy"], "attestation": attested.attestation}
    text = broker.tokens.api_token(request, holder=holder, said=said, until=until, now=now)
    return jwe.encrypt(text.encode(), attested.public_key)


def _judged(broker: Broker, key: KeyId, attested: Attested, now: datetime) -> tuple[releasing.Verdict, Under]:
    """Return the verdict on the claims without touching the key, drains included."""
    state = broker.policies.current(now)
    verdict = releasing.judge(key, attested, state, now=now)
    if verdict.allowed:
        verdict = replace(verdict, findings=leasing.held_back(verdict, broker.leasing.drains()))
    return verdict, Under(channel=state.channel, epoch=state.epoch)

"""Making a broker's folder, and opening a broker from it: nothing is served before everything in it has held."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

from tallystick.broker import logkey, tokens
from tallystick.broker.clock import Clock, system_time
from tallystick.broker.config import BrokerConfig, Home
from tallystick.broker.decisions import Kind, entry
from tallystick.broker.endorsement import MANUFACTURER
from tallystick.broker.enrolling import Enrolments
from tallystick.broker.enrolment_ca import EnrolmentAuthority, authority
from tallystick.broker.ledger import Ledger, Under
from tallystick.broker.policies import (
    Loader,
    PolicySource,
    PolicyState,
    Read,
    Seen,
    Verified,
    dump_high_water,
    load_high_water,
)
from tallystick.broker.proving import Backing
from tallystick.broker.secretfiles import private_folder, read_secret, write_secret
from tallystick.broker.service import Broker
from tallystick.broker.sessions import KEY_BYTES, Sessions
from tallystick.broker.store import Batch, ChannelMark, Store
from tallystick.broker.tokens import TokenIssuer
from tallystick.broker.vault import Vault
from tallystick.broker.witnessing import Witnessing
from tallystick.core.errors import Misuse
from tallystick.core.files import read_file, write_file
from tallystick.evidence.endorsements import Endorsements
from tallystick.policy import document
from tallystick.release import metadata, roles
from tallystick.release.channel import all_digests, pinned_root, policies_of
from tallystick.release.records import HighWater
from tallystick.signing.records import Trust

_MAX_ENDORSEMENT_BYTES = 16 << 20
_NONCE_MARGIN = timedelta(minutes=5)  # a used nonce is remembered for this much longer than a session lasts


def create(
    home: Home,
    *,
    passphrase: str | None = None,
    master: Mapping[str, str] | None = None,
    kv: Mapping[str, str] | None = None,
    store: str | None = None,
) -> str:
    """Make a broker's folder and return the line that its log's checkpoints are verified with.

    Args:
        passphrase, master, kv: of the vault, as :meth:`Vault.create` takes them.
        store: URL of a PostgreSQL database for the store and the sealed keys; the folder then holds only secrets, which
            never change, and every replica has a copy of it.

    Raises:
        Misuse: there is a broker already (``broker.exists``, ``store.exists``).
        Unreachable: the folder can not be written, or the database does not answer.
    """
    if home.made:
        raise Misuse(f"there is a broker in {home.folder} already", code="broker.exists")
    private_folder(home.folder)
    place: Path | str = home.store if store is None else store
    Store.check_vacant(place)
    database = store if kv is None else None
    Vault.create(home.vault, passphrase=passphrase, master=master, kv=kv, database=database)
    tokens.create_key(home.token_key)
    write_secret(home.session_key, secrets.token_bytes(KEY_BYTES))
    key = logkey.create(home.log_key)
    private_folder(home.enrolment)
    Store.create(place)  # last: its presence says that the folder is complete
    if store is not None:
        write_file(home.store_url, f"{store}\n".encode(), mode=0o600)
    return key.verifier_line()


def open_ledger(store: Store, clock: Clock, *, nonce_life: timedelta = _NONCE_MARGIN) -> Ledger:
    """Begin to write to the log in ``store``; nonces are remembered for ``nonce_life``."""
    return Ledger(store, clock, nonce_life=nonce_life)


def open_broker(
    config: BrokerConfig,
    *,
    trust: Trust,
    read_clock: Callable[[], datetime] = system_time,
) -> Broker:
    """Return a broker that is ready to serve.

    Raises:
        Refused: the clock stands behind the time the broker has acted on (``clock.behind``), or the trust file
            does not pin the channel (``release.channel.unknown``).
        NotGenuine: the log was altered, or is behind what a witness has seen (``log.behind-witness``,
            ``log.forked``); or a secret's file is readable by others.
        Misuse: there is no broker in the folder, or its store has to be migrated first.
        Unreachable: the store does not answer.
    """
    home = config.home
    load = channel_loader(trust, config.channel)
    store = Store.open(home.store)
    try:
        clock = Clock(store.time_mark(), read=read_clock)
        now = clock.now()
        vault = Vault.open(home.vault, passphrase=config.passphrase)
        ledger = open_ledger(store, clock, nonce_life=config.lifetimes.session + _NONCE_MARGIN)
    except BaseException:
        store.close()
        raise
    log_key = logkey.load(home.log_key)
    witnessing = Witnessing(store, log_key, urls=config.witnesses, trusted=trust.witnesses)
    try:
        witnessing.show()
    except BaseException:
        ledger.close()
        store.close()
        raise
    manufacturers = tuple(one for one in trust.endorsers if one.kind == MANUFACTURER)
    if isinstance(home.store, str):
        _check_authorities(home, {one.label for one in manufacturers})
    authorities = _authorities(home, {one.label for one in manufacturers}, now)
    token_key = tokens.load_key(home.token_key, "token key")
    session_key = read_secret(home.session_key, "session key", max_bytes=KEY_BYTES)
    return Broker(
        config=config,
        clock=clock,
        store=store,
        ledger=ledger,
        vault=vault,
        policies=_policies(config, store, ledger, load),
        tokens=TokenIssuer(token_key, issuer=config.issuer, life=config.lifetimes.token),
        log_key=log_key,
        witnessing=witnessing,
        manufacturers=manufacturers,
        authorities=authorities,
        backing=Backing(
            authorities=Endorsements(endorsers=tuple(one.endorser() for one in authorities)),
            collateral=tuple(
                read_file(path, "endorsement", max_bytes=_MAX_ENDORSEMENT_BYTES)
                for path in config.endorsements
            ),
        ),
        sessions=Sessions(session_key, store, limit=config.limits.sessions, life=config.lifetimes.session),
        enrolments=Enrolments(session_key, life=config.lifetimes.enrolment),
        threads=ThreadPoolExecutor(config.threads, thread_name_prefix="broker"),
    )


def channel_loader(trust: Trust, channel: str) -> Loader:
    """Return what verifies ``channel`` under the root that ``trust`` pins for it.

    Raises:
        Refused: it pins none (``release.channel.unknown``).
    """
    root = pinned_root(trust, channel)

    def load(read: Read, now: datetime, seen: HighWater) -> Verified:
        state = metadata.verify(read, root, channel, now, seen)
        listed = all_digests(state.delegated[roles.RELEASES].signed)
        policies = policies_of(read, state, seen)
        return Verified(policies=policies, releases=frozenset(listed), made_at=state.made_at)

    return load


def open_configured(config: BrokerConfig) -> Broker:
    """Return a broker that trusts what its trust file says; errors as :func:`open_broker`, and the file's own."""
    from tallystick.signing.trust import load

    return open_broker(config, trust=load(config.trust))


def _policies(config: BrokerConfig, store: Store, ledger: Ledger, load: Loader) -> PolicySource:
    def seen() -> Seen:
        mark = store.channel(config.channel)
        return Seen() if mark is None else Seen(epoch=mark.epoch, high_water=load_high_water(mark.high_water))

    def announce(state: PolicyState, high_water: HighWater, before: Seen, now: datetime) -> None:
        def also(batch: Batch) -> None:
            mark = ChannelMark(epoch=state.epoch, high_water=dump_high_water(high_water))
            batch.see_channel(config.channel, mark)
            for policy in state.policies:
                batch.keep_policy(policy.digest.value, policy.data)

        details = {"unusable": [finding.document() for finding in state.unusable]}
        made = entry(Kind.POLICY, now=now, public=state.public(), details=details)
        under = Under(channel=config.channel, epoch=before.epoch)
        ledger.submit([made], now=now, under=under, also=also).result()

    return PolicySource(
        config.channel_dir,
        config.channel,
        load=load,
        read=document.read,
        seen=seen,
        within=config.revocations_within,
        announce=announce,
    )


def _authorities(home: Home, labels: Iterable[str], now: datetime) -> tuple[EnrolmentAuthority, ...]:
    return tuple(authority(home.enrolment, label, now=now) for label in sorted(labels))


def _check_authorities(home: Home, labels: Iterable[str]) -> None:
    """Check that a replica has every authority already: one that it made would be believed by itself alone.

    Raises:
        Misuse: ``enrolment.missing``.
    """
    for label in sorted(labels):
        if not (home.enrolment / f"{label}.crt").exists():
            raise Misuse(
                f"there is no authority for {label} in {home.enrolment}: make it with"
                f" `tally broker authority {label}`, and copy the folder to every replica",
                code="enrolment.missing",
            )

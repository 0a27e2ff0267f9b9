"""A broker with a real channel, and machines whose TPM quotes are made here: real structures, throwaway keys."""

from __future__ import annotations

import hashlib
import http.client
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from policy import policyworld
from release.channels import Made, made

from tallystick.broker import enrolment_ca, opening, server
from tallystick.broker.config import BrokerConfig, Home, Lifetimes, Limits
from tallystick.broker.service import Broker
from tallystick.broker.store import Store
from tallystick.broker.vault import Vault, key_id
from tallystick.core.digests import Digest
from tallystick.core.expect import Exactly
from tallystick.handshake import binding, initdata, kbs
from tallystick.handshake.fields import b64
from tallystick.handshake.jwe import TeeKeyPair
from tallystick.policy import document
from tallystick.policy.normal import NormalForm, PermittedRelease
from tallystick.release import changes, revocations
from tallystick.release.changes import Added
from tallystick.release.records import Revocation
from tallystick.signing.records import Endorser, Trust

NOW = policyworld.NOW
WEIGHTS, TOKENIZER = policyworld.WEIGHTS, policyworld.TOKENIZER
INIT_DATA = initdata.make({"artifacts.json": "{}"}).decode()
CANARY = b"CANARY-d41d8cd98f00b204e9800998ecf8427e"
LABEL = "software-tpm"


@dataclass
class Ticking:
    """The time as the broker reads it."""

    at: datetime = NOW

    def __call__(self) -> datetime:
        return self.at

    def forward(self, **delta: float) -> datetime:
        self.at += timedelta(**delta)
        return self.at


@dataclass
class Machine:
    """A machine that booted ``image`` and measured its init-data, with an attestation key of its own."""

    image: str = "a"
    init_data: str = INIT_DATA
    changed: dict[str, str] = field(default_factory=dict)
    ak: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    certificate: bytes = b""

    @property
    def registers(self) -> list[bytes]:
        values = {**registers(self.image, self.init_data), **self.changed}
        return [bytes.fromhex(values.get(f"pcr{n:02}", "0" * 64)) for n in range(24)]

    def quote(self, extra_data: bytes) -> dict[str, object]:
        """Return Trustee's TPM evidence over ``extra_data``."""
        pcrs = self.registers
        chosen = hashlib.sha256(b"".join(pcrs)).digest()
        signer = b"\x00\x0b" + bytes(32)
        message = struct.pack(">IH", 0xFF544347, 0x8018)
        message += struct.pack(">H", len(signer)) + signer
        message += struct.pack(">H", len(extra_data)) + extra_data
        message += struct.pack(">QIIB", 12345, 1, 0, 1) + struct.pack(">Q", 0x2019102300163636)
        message += struct.pack(">IHB", 1, 0x000B, 3) + b"\xff\xff\xff"
        message += struct.pack(">H", len(chosen)) + chosen
        signature = self.ak.sign(message, padding.PKCS1v15(), hashes.SHA256())
        spki = self.ak.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return {
            "ak_public": b64(spki),
            "tpm_quote": {
                "signature": b64(struct.pack(">HHH", 0x0014, 0x000B, len(signature)) + signature),
                "message": b64(message),
                "pcrs": [value.hex() for value in pcrs],
            },
            "ak_certificate": b64(self.certificate),
        }


def registers(image: str, init_data: str = INIT_DATA) -> dict[str, str]:
    return {
        **policyworld.registers(image),
        "pcr08": initdata.pcr8(init_data.encode()).hex(),
        "pcr10": policyworld.digest(f"ima {image}").hex,
    }


def release(image: str = "a", **changes: object) -> PermittedRelease:
    """A release of policyworld whose tuples pin this world's init-data."""
    found = policyworld.release(image, **changes)
    pinned = Exactly(registers(image)["pcr08"])

    def with_init_data(entry):
        expect = {**dict(entry.expect), "pcr08": pinned}
        return replace(entry, expect=tuple(sorted(expect.items())))

    return replace(found, tuples=tuple(map(with_init_data, found.tuples)))


def form(*releases: PermittedRelease, **changes: object) -> NormalForm:
    return policyworld.form(*(releases or (release(),)), **changes)


def compiled(found: NormalForm, *, path: str = "broker/policy.json") -> Added:
    return Added(path=f"policies/{found.policy}/{path}", data=document.write(found))


def listed(found: PermittedRelease) -> Added:
    """A target that lists a release in the channel; what is in it is the release package's matter."""
    return Added(path=f"releases/{found.digest.hex}/index.json", data=found.name.encode())


def endorser(spki: Digest, certificates: tuple[bytes, ...]) -> Endorser:
    return Endorser(kind="tpm-manufacturer", label=LABEL, spki=spki, certificates=certificates)


def trust(channel: Made, endorsers: tuple[Endorser, ...] | None = None) -> Trust:
    unused = endorser(Digest.of(b"no key"), ())
    return Trust(
        label="embedded-dev",
        sigstore_root=b"{}",
        builders=(),
        promoters=(),
        layout=b"",
        layout_owners=(),
        channels=((channel.name, channel.root),),
        endorsers=(unused,) if endorsers is None else endorsers,
    )


@dataclass
class World:
    """A work directory with a broker, and a channel with one policy."""

    folder: Path
    channel: Made
    clock: Ticking = field(default_factory=Ticking)
    trusted: Trust | None = None
    limits: Limits = field(default_factory=Limits)
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    witnesses: tuple[str, ...] = ()

    @property
    def home(self) -> Home:
        return Home(self.folder / "broker")

    @property
    def config(self) -> BrokerConfig:
        return BrokerConfig(
            workdir=self.folder,
            channel_dir=self.channel.folder.path,
            channel=self.channel.name,
            trust=self.folder / "trust.json",
            port=0,
            limits=self.limits,
            lifetimes=self.lifetimes,
            witnesses=self.witnesses,
        )

    def open(self) -> Broker:
        return opening.open_broker(
            self.config, trust=self.trusted or trust(self.channel), read_clock=self.clock
        )

    @contextmanager
    def running(self) -> Iterator[Running]:
        broker = self.open()
        with server.running(broker, server.listen("127.0.0.1", 0)) as url:
            yield Running(broker=broker, url=url, world=self)

    def publish(self, *releases: PermittedRelease, **form_changes: object) -> None:
        """List ``releases`` in the channel and put a policy for them in force."""
        at = self.clock.at
        self.channel.change("alice", ["bob", "carol"], [*map(listed, releases)], role="releases", now=at)
        self.channel.change("alice", ["bob", "carol"], [compiled(form(*releases, **form_changes))], now=at)

    def revoke(self, found: PermittedRelease, by: str = "bob") -> None:
        word = Revocation(release=found.digest, by=by, reason="a test", at=self.clock.at)
        added = Added(path=revocations.path_of(word), data=revocations.write(word))
        self.channel.folder.add_targets({added.path: added.data})
        state, who = self.channel.state(self.clock.at), self.channel.people[by]
        role, document_ = changes.revoke(state, who, [added], now=word.at, lifetimes=changes.Lifetimes())
        self.channel.publish(role, document_, self.clock.at)

    def decision(self, name: str) -> dict[str, object]:
        store = Store.open(self.home.store)
        try:
            return json.loads(store.decision(name).record)
        finally:
            store.close()

    def leaves(self) -> list[dict[str, object]]:
        from tallystick.broker import audit

        return [json.loads(leaf) for leaf in audit.export(self.home)]


def new_world(folder: Path, *, store: str | None = None, **changes: object) -> World:
    """A broker with two keys, one of them the canary, and a policy that gives both to release "a"."""
    world = World(folder=folder, channel=made(folder / "staging"), **changes)
    opening.create(world.home, store=store)
    if store is not None:
        enrolment_ca.authority(world.home.enrolment, LABEL, now=NOW)
    vault = Vault.open(world.home.vault)
    vault.bring(key_id(WEIGHTS), CANARY, channel="staging", now=NOW)
    vault.generate(key_id(TOKENIZER), channel="staging", now=NOW)
    world.publish(release())
    return world


@dataclass
class Reply:
    status: int
    body: bytes
    cookie: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> dict[str, object]:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json.get("code", ""))


@dataclass
class Running:
    """A broker that answers over HTTP, and a client that can do wrong."""

    broker: Broker
    url: str
    world: World

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | dict[str, object] | None = None,
        *,
        cookie: str = "",
        headers: dict[str, str] | None = None,
    ) -> Reply:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=20)
        sent = dict(headers or {})
        if cookie:
            sent["Cookie"] = f"kbs-session-id={cookie}"
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        try:
            connection.request(method, path, body=data, headers=sent)
            answer = connection.getresponse()
            given = answer.headers.get("set-cookie", "")
            value = given.partition("=")[2].partition(";")[0]
            return Reply(
                answer.status, answer.read(), value, {k.lower(): v for k, v in answer.headers.items()}
            )
        finally:
            connection.close()

    def challenge(self) -> tuple[str, str]:
        """Return a new session's cookie and nonce."""
        reply = self.ask("POST", kbs.AUTH_PATH, kbs.Request(tee="tpm").document())
        assert reply.status == 200, reply.body
        return reply.cookie, str(reply.json["nonce"])

    def certify(self, machine: Machine) -> Machine:
        """Give ``machine`` what enrolment would give it."""
        (authority,) = self.broker.authorities
        certificate = authority.certify(
            machine.ak.public_key(), now=self.world.clock.at, life=self.broker.config.lifetimes.ak_certificate
        )
        machine.certificate = certificate.public_bytes(serialization.Encoding.DER)
        return machine

    def message(self, machine: Machine, nonce: str, pair: TeeKeyPair, **changes: object) -> dict[str, object]:
        """Return an honest attestation message; ``changes`` replaces what the evidence is bound to."""
        bound_nonce, bound_key = changes.get("bound_nonce", nonce), changes.get("bound_key", pair.public)
        digest = binding.report_data(bound_nonce, bound_key, algorithm="sha256")
        return kbs.Attestation(
            nonce=nonce,
            tee_pubkey=pair.public,
            primary_evidence=machine.quote(digest),
            init_data=changes.get("init_data", machine.init_data),
        ).document()

    def attest(self, machine: Machine, pair: TeeKeyPair, **changes: object) -> tuple[str, Reply]:
        """Attest ``machine`` in a new session; return its cookie and the answer."""
        if not machine.certificate:
            self.certify(machine)
        cookie, nonce = self.challenge()
        message = self.message(machine, nonce, pair, **changes)
        return cookie, self.ask("POST", kbs.ATTEST_PATH, message, cookie=cookie)

    def fetch(self, cookie: str, key: str = WEIGHTS, **more: object) -> Reply:
        return self.ask("GET", kbs.RESOURCE_PATH + key, cookie=cookie, **more)


__all__ = ["CANARY", "INIT_DATA", "NOW", "TOKENIZER", "WEIGHTS", "Machine", "World", "new_world"]

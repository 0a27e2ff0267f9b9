"""Recorded decisions without a broker: real quotes, proven and judged by the broker's own functions."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache

from broker.world import LABEL, NOW, TOKENIZER, WEIGHTS, Machine, form
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tallystick.broker import again, enrolment_ca, evidence_record
from tallystick.broker.decisions import Kind, codes, entry, parse_record
from tallystick.broker.enrolment_ca import EnrolmentAuthority
from tallystick.broker.evidence_record import RecordedEvidence
from tallystick.broker.policies import LoadedPolicy, loaded
from tallystick.broker.proving import Backing
from tallystick.broker.releasing import judge
from tallystick.core.digests import Digest
from tallystick.core.errors import Refused
from tallystick.evidence.endorsements import Endorsements
from tallystick.handshake import binding, kbs
from tallystick.handshake.jwe import TeeKeyPair
from tallystick.policy import document
from tallystick.policy.normal import NormalForm


@cache
def authority() -> EnrolmentAuthority:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = enrolment_ca._root(key, LABEL, NOW - timedelta(days=300))
    return EnrolmentAuthority(label=LABEL, certificate=certificate, key=key)


@cache
def _ak() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def _pair() -> TeeKeyPair:
    return TeeKeyPair.make()


def machine(at: datetime, image: str = "a", **changed: str) -> Machine:
    """A machine whose attestation key was certified at ``at``."""
    found = Machine(image=image, changed=changed, ak=_ak())
    certificate = authority().certify(found.ak.public_key(), now=at, life=timedelta(hours=1))
    found.certificate = certificate.public_bytes(serialization.Encoding.DER)
    return found


BACKING = "backing"


@dataclass
class Book:
    """A casebook in memory."""

    kept: list[dict[str, object]] = field(default_factory=list)
    evidences: dict[str, RecordedEvidence] = field(default_factory=dict)
    policies: dict[Digest, bytes] = field(default_factory=dict)
    backings: dict[Digest, Backing] = field(default_factory=dict)

    def records(self) -> Iterator[Mapping[str, object]]:
        yield from self.kept

    def evidence(self, attestation: str) -> tuple[RecordedEvidence, Backing]:
        if attestation not in self.evidences:
            raise Refused("gone", code="evidence.not-kept")
        kept = self.evidences[attestation]
        return kept, self.backings[kept.backing]

    def policy(self, digest: Digest) -> bytes | None:
        return self.policies.get(digest)

    def attest(self, found: Machine, at: datetime, name: str) -> RecordedEvidence:
        backing = Backing(authorities=Endorsements(endorsers=(authority().endorser(),)), collateral=())
        document_ = evidence_record.write_backing(backing)
        self.backings[Digest.of(document_)] = evidence_record.read_backing(document_)
        nonce = base64.b64encode(hashlib.sha256(name.encode()).digest()).decode()
        message = kbs.Attestation(
            nonce=nonce,
            tee_pubkey=_pair().public,
            primary_evidence=found.quote(binding.report_data(nonce, _pair().public, algorithm="sha256")),
            init_data=found.init_data,
        )
        kept = RecordedEvidence(
            attestation=name,
            at=at,
            tee="tpm",
            nonce=nonce,
            issued_at=at - timedelta(seconds=2),
            message=json.dumps(message.document()).encode(),
            backing=Digest.of(document_),
        )
        self.evidences[name] = evidence_record.read(evidence_record.write(kept))
        return kept

    def decide(self, kept: RecordedEvidence, policy: NormalForm, key: str = WEIGHTS) -> dict[str, object]:
        """Record what the policy says of a fetch of ``key``."""
        found = load(policy)
        self.policies[found.digest] = found.data
        attested = evidence_record.prove_again(kept, self.backings[kept.backing])
        place = {"at": kept.at.isoformat(), "channel": policy.channel, "channel_version": 1}
        verdict = judge(key, attested, again.state_with(place, [found], revoked=()), now=kept.at)
        public = {**verdict.public(), "attestation": kept.attestation}
        if not verdict.allowed:
            public |= {"stage": "resource", "codes": codes(verdict.findings)}
        kind = Kind.RELEASE if verdict.allowed else Kind.REFUSAL
        made = entry(kind, now=kept.at, public=public, details=verdict.details())
        record = parse_record(made.record)
        self.kept.append(record)
        return record


def load(policy: NormalForm) -> LoadedPolicy:
    return loaded(document.write(policy), policy, frozenset())


__all__ = ["NOW", "TOKENIZER", "WEIGHTS", "Book", "authority", "form", "load", "machine", "replace"]

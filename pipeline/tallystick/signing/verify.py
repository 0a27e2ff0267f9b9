"""Is this bundle genuine, and who signed it: unmodified sigstore-python, and what it does not check.

The library checks the certificate chain, the SCT, the log's proof and promise, and the signature. Added here:
the ``validFor`` windows of CA, log, CT log and TSA; that the log that is named is the one whose key signed; that
every timestamp holds; that no byte of the file is unread; payload and predicate type; exact identities.
Whatever the library raises becomes :class:`NotGenuine` with a stable code.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from tallystick.core.digests import Digest
from tallystick.formats import dsse, intoto, sigstore_bundle
from tallystick.formats.sigstore_bundle import Bundle
from tallystick.signing import library
from tallystick.signing import root as roots
from tallystick.signing.artifact import Artifact
from tallystick.signing.checks import (
    Verified,
    check_canonical,
    check_signer,
    check_subject,
    within,
)
from tallystick.signing.records import Identity, VerifiedStatement
from tallystick.signing.refusals import refusal
from tallystick.signing.root import Authority, LogKey

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from sigstore.verify.verifier import Verifier as SigstoreVerifier


_LEAVES = 256  # certificates that are remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What was read from a bundle before the library is asked."""

    bundle: Bundle
    certificate: Certificate
    signer: Identity
    times: tuple[datetime, ...]
    verifier: SigstoreVerifier


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leaf:
    """What a certificate says of itself; nothing of it is believed yet."""

    certificate: Certificate
    sct: tuple[bytes, datetime]
    identity: Identity


class Verifier:
    """One trusted root, parsed once, for as many bundles as there are."""

    def __init__(self, trusted_root: bytes) -> None:
        """Parse ``trusted_root``.

        Raises:
            Malformed, Unsupported: as :func:`tallystick.signing.root.parse`.
        """
        self.root = roots.parse(trusted_root)
        self._libraries: dict[tuple[int, ...], SigstoreVerifier] = {}
        self._leaves: dict[bytes, _Leaf] = {}
        self._named: dict[bytes, tuple[Authority, ...]] = {}

    def statement(
        self,
        data: bytes,
        *,
        signers: Collection[Identity],
        predicate_type: str,
        now: datetime,
        what: str = "bundle",
    ) -> VerifiedStatement:
        """Return the in-toto statement of a release's bundle, once everything about it has held.

        Args:
            data: the bundle file: RFC 8785 bytes, so that there is no byte which means nothing.
            signers: who may have signed it, compared exactly.
            predicate_type: what it has to be about.
            now: a bundle signed after this instant (and a little skew) is refused.
            what: names the bundle in errors.

        Raises:
            NotGenuine: with a finding ``bundle.…``.
            Malformed, Unsupported: not a bundle, not in its one spelling, or the payload is no statement.
        """
        bundle = sigstore_bundle.parse(data, what)
        check_canonical(bundle, data, what)
        facts = self._facts(bundle, signers, now, what)
        payload = self._payload(facts, data, what)
        statement = intoto.parse(payload, what)
        if statement.predicate_type != predicate_type:
            raise refusal(
                what, "bundle.predicate-type", "predicateType", predicate_type, statement.predicate_type
            )
        return VerifiedStatement(
            statement=statement.document,
            payload=payload,
            predicate_type=statement.predicate_type,
            signer=facts.signer,
            signed_at=min(facts.times),
            bundle=Digest.of(data),
        )

    def artifact(
        self, data: bytes, *, artifact: Artifact, signer: Identity, now: datetime, what: str = "bundle"
    ) -> Verified:
        """Return what holds of any Sigstore bundle over ``artifact``.

        A message signature has to be over that digest; a statement has to name it as a subject.

        Raises:
            NotGenuine: with a finding ``bundle.…``.
            Malformed, Unsupported: not a bundle, or its payload is no statement.
        """
        bundle = sigstore_bundle.parse(data, what)
        if bundle.key_hint is not None:
            raise refusal(
                what, "bundle.key", "signer", "a certificate", "the hint of a key, which has to be given"
            )
        if [(entry.kind, entry.version) for entry in bundle.entries] == [("intoto", "0.0.2")]:
            from tallystick.signing import legacy

            return legacy.verify(self.root, bundle, artifact=artifact, signer=signer, now=now, what=what)
        facts = self._facts(bundle, (signer,), now, what)
        predicate_type = None
        if isinstance(bundle.content, dsse.Envelope):
            statement = intoto.parse(self._payload(facts, data, what), what)
            check_subject(statement, artifact, what)
            predicate_type = statement.predicate_type
        else:
            library.ask(
                lambda: library.verify_artifact(
                    facts.verifier, data, facts.certificate, artifact.sha256.value
                ),
                what,
            )
        return Verified(
            signer=facts.signer, signed_at=min(facts.times), predicate_type=predicate_type, log_checked=True
        )

    def _payload(self, facts: _Facts, data: bytes, what: str) -> bytes:
        """Return the payload of the envelope after the library verified it."""
        if not isinstance(facts.bundle.content, dsse.Envelope):
            raise refusal(what, "bundle.payload-type", "content", "a DSSE envelope", "a message signature")
        kind, payload = library.ask(
            lambda: library.verify_dsse(facts.verifier, data, facts.certificate), what
        )
        if kind != intoto.PAYLOAD_TYPE:
            raise refusal(what, "bundle.payload-type", "payloadType", intoto.PAYLOAD_TYPE, kind)
        if payload != facts.bundle.content.payload:
            raise refusal(what, "bundle.signature", "payload", "the one that was read", "another")
        return payload

    def _facts(self, bundle: Bundle, signers: Collection[Identity], now: datetime, what: str) -> _Facts:
        """Check all that the library does not, and prepare it for exactly what this bundle rests on."""
        from tallystick.signing import entry as entries
        from tallystick.signing import timestamps

        if bundle.key_hint is not None:
            raise refusal(what, "bundle.key", "signer", "a certificate", "the hint of a key")
        leaf = self._leaf(bundle.certificates[0], what)
        certificate = leaf.certificate
        entry = entries.sole_entry(bundle, what)
        times, stampers = timestamps.when(bundle, entry, self.root, now, what)
        ct_id, ct_time = leaf.sct
        logs = entries.log_of(entry, self.root, what)
        ct_logs = tuple(log for log in self.root.ct_logs if log.log_id == ct_id)
        if not ct_logs:
            raise refusal(
                what, "bundle.ct-unknown", "SCT log ID", "a CT log of the trusted root", ct_id.hex()[:16]
            )
        authorities = self._issuers(certificate, bundle.certificates[0], what)
        logs = within(logs, times, what, "bundle.log-window", "transparency log")
        ct_logs = within(ct_logs, (*times, ct_time), what, "bundle.ct-window", "CT log")
        authorities = within(authorities, times, what, "bundle.ca-window", "certificate authority")
        entries.check_shape(entry, what)
        return _Facts(
            bundle=bundle,
            certificate=certificate,
            signer=check_signer(leaf.identity, signers, what),
            times=times,
            verifier=self._library(logs[0], authorities, ct_logs[0], stampers),
        )

    def _leaf(self, der: bytes, what: str) -> _Leaf:
        """Return what a certificate says, read once: the bundles of a release share one."""
        from tallystick.signing import certificate as certificates

        if der not in self._leaves:
            certificate = certificates.load(der, what)
            leaf = _Leaf(
                certificate=certificate,
                sct=certificates.sct(certificate, what),
                identity=certificates.identity(certificate, what),
            )
            if len(self._leaves) >= _LEAVES:
                self._leaves.clear()
            self._leaves[der] = leaf
        return self._leaves[der]

    def _issuers(self, certificate: Certificate, der: bytes, what: str) -> tuple[Authority, ...]:
        """Return the authorities that a certificate names as its issuer, looked up once."""
        from tallystick.signing import certificate as certificates

        if der not in self._named:
            found = certificates.issuing(certificate, self.root.authorities, what)
            if len(self._named) >= _LEAVES:
                self._named.clear()
            self._named[der] = found
        return self._named[der]

    def _library(
        self,
        log: LogKey,
        authorities: tuple[Authority, ...],
        ct_log: LogKey,
        stampers: tuple[Authority, ...],
    ) -> SigstoreVerifier:
        """Return sigstore-python's verifier for the root of exactly these parts, made once for each choice."""
        parts = (log, *authorities, ct_log, *stampers)
        choice = tuple(id(part) for part in parts)  # of self.root's own objects, which live as long
        if choice not in self._libraries:
            narrowed = roots.narrowed((log,), authorities, (ct_log,), stampers)
            self._libraries[choice] = library.make(narrowed)
        return self._libraries[choice]

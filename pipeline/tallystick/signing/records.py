"""Who may say what, and a statement that has been verified."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tallystick.core.digests import Digest


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Identity:
    """A signer as its certificate names it. Compared exactly, never by pattern."""

    san: str  # the Subject Alternative Name: an e-mail address or a URI
    issuer: str  # the OIDC issuer that vouched for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """A signer together with the only ``builder.id`` it may claim (SLSA v1.2, verifying artifacts)."""

    identity: Identity
    builder_id: str
    slsa_build_level: int = (
        1  # the highest that it is believed for (SLSA v1.2, verifying artifacts, roots of trust)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorser:
    """A key outside Sigstore whose word is taken: a TPM manufacturer's CA, by its public key's digest."""

    kind: str  # "tpm-manufacturer"
    label: str  # "software-tpm" for swtpm's private CA: development only
    spki: Digest  # sha256 of the DER SubjectPublicKeyInfo
    certificates: tuple[bytes, ...]  # DER, root first


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """Somebody who looks at a log from outside and signs that it only grew (C2SP tlog-cosignature)."""

    name: str  # on its signature lines
    holder: str  # who has its key; several witnesses of one holder count once
    public_key: bytes  # raw Ed25519, 32 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Custody:
    """Who holds which private keys: a reviewed statement, which no signature can make for them."""

    holder: str  # a person, or a duty of an organisation
    keys: tuple[Digest, ...]  # sha256 of each DER SubjectPublicKeyInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The pinned trust file: everything that is believed, and nothing from the thing being judged."""

    label: str  # "embedded-dev" or "production": which kind of Sigstore the root is
    sigstore_root: bytes  # trusted_root.json
    builders: tuple[Builder, ...]  # may sign a release's statements
    promoters: tuple[Identity, ...]  # may sign VSAs
    layout: bytes  # the in-toto root layout (DSSE), whose functionaries are the rebuilders
    layout_owners: tuple[str, ...]  # PEM public keys, all of which signed the layout
    channels: tuple[tuple[str, bytes], ...]  # channel name -> TUF root.json
    endorsers: tuple[Endorser, ...]
    witnesses: tuple[Witness, ...] = ()  # of transparency logs
    witness_threshold: int = 0  # holders of witnesses that production asks for; never fewer than one there
    custody: tuple[Custody, ...] = ()
    artifact_signers: tuple[Identity, ...] = ()  # may sign artifact releases: weights, tokenizers, indexes

    def holder(self, key: Digest) -> str | None:
        """Return who holds the key with that SubjectPublicKeyInfo digest, or None when nobody is written down."""
        return next((one.holder for one in self.custody if key in one.keys), None)

    def channel_root(self, name: str) -> bytes | None:
        """Return the pinned TUF root of channel ``name``, or None when this file does not know it."""
        return dict(self.channels).get(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedStatement:
    """An in-toto statement whose bundle held. Made by ``signing.verify`` alone."""

    statement: dict[str, Any]  # parsed in-toto Statement v1
    payload: bytes  # the exact signed bytes
    predicate_type: str
    signer: Identity
    signed_at: datetime
    bundle: Digest  # sha256 of the bundle file

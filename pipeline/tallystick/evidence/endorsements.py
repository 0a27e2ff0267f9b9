"""What stands behind a TPM's evidence: whom we believe, and what they signed."""

from __future__ import annotations

from dataclasses import dataclass

from tallystick.signing.records import Endorser


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """An attestation key that is believed as it is, without a certificate."""

    label: str  # goes into Claims.roots
    spki: bytes  # DER SubjectPublicKeyInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorsements:
    """Everything from outside that verification may rest on.

    ``endorsers`` and ``keys`` are believed; they come from the trust file, or from whoever runs the command.
    ``collateral`` is not: intermediate certificates, which count only for what a believed key signed.
    """

    endorsers: tuple[Endorser, ...] = ()
    keys: tuple[TrustedKey, ...] = ()
    collateral: tuple[bytes, ...] = ()  # DER

    def plus(self, other: Endorsements) -> Endorsements:
        """Return these endorsements and ``other``."""
        return Endorsements(
            endorsers=self.endorsers + other.endorsers,
            keys=self.keys + other.keys,
            collateral=self.collateral + other.collateral,
        )

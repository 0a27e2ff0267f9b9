"""Attester bytes, endorsements and a time, to verified claims: one module per attester."""

from tallystick.evidence.kinds import show, supported, verify

__all__ = ["show", "supported", "verify"]

"""Attester bytes, endorsements and a time, to verified claims: one module per attester."""

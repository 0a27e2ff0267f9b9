"""Sigstore bundles: sign, verify against the trust file; the embedded Sigstore."""

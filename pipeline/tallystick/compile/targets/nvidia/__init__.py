"""The target ``nvidia``: relying-party policies of NVIDIA's attestation SDK."""

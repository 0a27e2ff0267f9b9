"""The target ``keylime``: TPM and runtime policies of Keylime agents."""

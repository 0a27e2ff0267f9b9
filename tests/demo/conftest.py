"""The attester's software TPM serves the demo's machines too."""

from attester.conftest import maker, socket, tpm_state

__all__ = ["maker", "socket", "tpm_state"]

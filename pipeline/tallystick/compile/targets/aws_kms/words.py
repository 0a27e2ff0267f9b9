"""How AWS KMS calls what a Nitro attestation document says.

Source: AWS KMS Developer Guide, "Condition keys for Nitro Enclaves" and "Condition keys for NitroTPM"; EC2 User Guide,
"Where to get an enclave's measurements" (PCR 0, 1, 2, 3, 4 and 8).
"""

from __future__ import annotations

from tallystick.compile.targets.claims import Vocabulary
from tallystick.core.expect import Exactly

NAME = "aws-kms"
_ENCLAVE = {"pcr0": "ImageSha384"} | {f"pcr{number}": f"PCR{number}" for number in (1, 2, 3, 4, 8)}
_TPM = {f"nitrotpm_pcr{number}": f"NitroTPMPCR{number}" for number in range(24)}
# In a policy condition keys know no case; AWS writes them so, and here they are looked up in lower case.
SPELLING = {
    f"kms:recipientattestation:{key.lower()}": f"kms:RecipientAttestation:{key}"
    for key in (*_ENCLAVE.values(), *_TPM.values())
}


def _names(claims: dict[str, str]) -> dict[str, str]:
    return {path: f"kms:recipientattestation:{key.lower()}" for path, key in claims.items()}


WORDS = {
    "aws-nitro": Vocabulary(
        platform="aws-nitro",
        roots=("aws-nitro",),
        names=_names(_ENCLAVE),
        implied={"debug": Exactly(value=False)},  # a debug enclave's PCRs are zero, and no tuple pins zeros
    ),
    "nitro-tpm": Vocabulary(platform="nitro-tpm", roots=("aws-nitro",), names=_names(_TPM)),
}
DOCUMENT_SECONDS = 300  # KMS takes an attestation document that is at most five minutes old

"""Certificates of hardware makers that are believed without being told to: each by its digest and source.

A file that does not hash to what stands here is refused, so that the table is the review, and not the files.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from tallystick.core.digests import Digest
from tallystick.core.errors import NotGenuine
from tallystick.core.findings import Finding

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

# AMD: key distribution service, /vcek/v1/<product>/cert_chain and /vlek/v1/<product>/cert_chain; also in
# google/go-sev-guest af1c107a verify/trust. ARK: root; SEV-<product>: ASK of VCEKs; SEV-VLEK-<product>: ASVK of VLEKs.
# AWS: Nitro Enclaves user guide, "Verifying the root of trust", which publishes this digest.
# Google: confidentialcomputing.googleapis.com/.well-known/confidential_space_root.crt, the root of PKI tokens.
# Intel: certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.cer.
# NVIDIA: NVIDIA/nvtrust 028173093d43, local_gpu_verifier/src/verifier/certs: verifier_device_root.pem (GPU and switch)
# and verifier_RIM_root.pem; NVIDIA/attestation-sdk 73c032ebff68 src/internal/certs.h embeds the same two.
_SHA256 = {
    "ARK-Genoa": "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    "ARK-Milan": "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "ARK-Turin": "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
    "AWS-Nitro-Enclaves-Root-G1": "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b",
    "Google-Confidential-Space-Root": "148b293821bb0c6a317f413c8ba475814091cb22d49b9e3c94198db8e8f86c39",
    "Intel-SGX-Root-CA": "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3",
    "NVIDIA-CoRIM-Signing-Root-CA": "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1",
    "NVIDIA-Device-Identity-CA": "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48",
    "SEV-Genoa": "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521",
    "SEV-Milan": "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",
    "SEV-Turin": "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185",
    "SEV-VLEK-Genoa": "197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372",
    "SEV-VLEK-Milan": "c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5",
    "SEV-VLEK-Turin": "104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c",
}


@cache
def certificate(name: str) -> Certificate:
    """Return the embedded certificate called ``name``.

    Raises:
        KeyError: no such certificate; a caller's bug.
        NotGenuine: the installed file is not the one that was reviewed.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    want = _SHA256[name]
    found = x509.load_pem_x509_certificate(files(__package__).joinpath(f"{name}.pem").read_bytes())
    got = Digest.of(found.public_bytes(Encoding.DER)).hex
    if got != want:
        raise NotGenuine(
            f"the embedded certificate {name} was changed",
            findings=[Finding("root.changed", name, want, got)],
        )
    return found


def names() -> tuple[str, ...]:
    """Return the names of all embedded certificates."""
    return tuple(sorted(_SHA256))

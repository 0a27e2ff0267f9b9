"""For which kinds of evidence an endorsement file is, told by its content. Nothing is verified."""

from __future__ import annotations

from cryptography import x509

from tallystick.core.errors import Malformed
from tallystick.evidence import dcap_collateral
from tallystick.evidence.bundle import INTEL, NVIDIA, SNP, TOKENS
from tallystick.evidence.chain import load_certificates, load_crl
from tallystick.formats import snp_report

_MAKERS = (  # in a subject's or issuer's name -> the kinds its certificates are for
    ("SEV-", SNP),
    ("ARK-", SNP),
    ("Intel SGX", INTEL),
    ("NVIDIA", NVIDIA),
    ("aws.nitro-enclaves", ("nitro",)),
    ("Confidential Space", ("gcp-token",)),
)
_CA_OF_AK = ("tpm-quote",)


def of(data: bytes) -> tuple[str, ...]:
    """Return the kinds that the file ``data`` is for; none when its content does not say it."""
    start = data.lstrip()
    if dcap_collateral.is_collateral(data) or start.startswith((b'{"tcbInfo"', b'{"enclaveIdentity"')):
        return INTEL
    if start[:1] == b"{":
        if b'"vcekCert"' in data:
            return SNP
        return TOKENS if b'"keys"' in data else ()
    if start[:1] == b"<":
        return NVIDIA
    crl = load_crl(data)
    if crl is not None:
        return _by_name(crl.issuer)
    try:
        certificates = load_certificates(data, "endorsement")
    except Malformed:
        return _table(data)
    for one in certificates:
        if found := _by_name(one.subject) or _by_name(one.issuer):
            return found
    authorities = all(_is_authority(one) for one in certificates)
    return _CA_OF_AK if certificates and authorities else ()


def _table(data: bytes) -> tuple[str, ...]:
    try:
        return SNP if snp_report.certificate_table(data) else ()
    except Malformed:
        return ()


def _by_name(name: x509.Name) -> tuple[str, ...]:
    text = name.rfc4514_string()
    return next((kinds for word, kinds in _MAKERS if word in text), ())


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False

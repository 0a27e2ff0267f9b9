"""The key that signed an NVIDIA device's report: its certificate, what that says, and the chain to NVIDIA's root.

Source: NVIDIA/attestation-sdk, src/nv_x509.cpp (hwmodel is the common name of the certificate above the leaf, ueid the
leaf's serial number in decimal, the FWID extension by architecture) and src/gpu/evidence.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import NameOID

from tallystick.core.errors import NotGenuine, Unsupported
from tallystick.core.findings import Finding
from tallystick.evidence import roots
from tallystick.evidence.chain import Chain, build_chain, common_name, load_certificates, quiet
from tallystick.formats import dice
from tallystick.formats.spdm import Report

_ROOT = "NVIDIA-Device-Identity-CA"
GPU, SWITCH = "gpu", "switch"
_FWID_EXTENSION = {  # which of the two a family's boot ROM writes
    "Hopper": dice.COMPOSITE_DEVICE_ID,
    "Blackwell": dice.TCB_INFO,
    "LS10": dice.COMPOSITE_DEVICE_ID,
}
_CHIPS = (  # how a leaf's common name begins -> chip, architecture as Trustee prints it, class
    (re.compile(r"(GH1\d\d) "), "Hopper", GPU),
    (re.compile(r"(GB[12]\d\d) "), "Blackwell", GPU),
    (re.compile(r"(LS_10) "), "LS10", SWITCH),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKey:
    """A device's attestation key whose chain holds. Valid only inside the chain's window."""

    chain: Chain
    names: tuple[str, ...]  # of the chain's certificates
    key: ec.EllipticCurvePublicKey
    chip: str  # "GH100", "GB100", "LS10"
    arch: str  # "Hopper", "Blackwell", "LS10"
    device_class: str  # "gpu" or "switch"
    fwid: bytes
    hwmodel: str
    ueid: str
    pdi: str | None  # the physical device identifier that the boot ROM's certificate names


def from_chain(pem: bytes) -> DeviceKey:
    """Return the key of the leaf that begins ``pem``.

    Raises:
        Malformed, Unsupported: no certificates, or of a device this program does not know.
        NotGenuine: no chain to NVIDIA's root.
    """
    return _endorsed(pem)


@lru_cache(maxsize=256)
def _endorsed(pem: bytes) -> DeviceKey:
    """Verify once; the window that comes back is judged at each use."""
    with quiet():
        certificates = load_certificates(pem, "NVIDIA certificate chain")
        leaf = certificates[0]
        chain = build_chain(leaf, certificates[1:], [roots.certificate(_ROOT)])
    if chain is None or len(chain.certificates) < 3:
        raise _refused(
            "nvidia.certificate.chain", common_name(leaf), "a chain to NVIDIA's device root", "none"
        )
    chip, arch, device_class = _chip(common_name(leaf))
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _refused("nvidia.certificate.profile", "leaf's key", "P-384", type(key).__name__)
    _check_usage(leaf)
    above = chain.certificates[1]
    return DeviceKey(
        chain=chain,
        names=tuple(map(common_name, chain.certificates)),
        key=key,
        chip=chip,
        arch=arch,
        device_class=device_class,
        fwid=_fwid(leaf, _FWID_EXTENSION[arch]),
        hwmodel=common_name(above),
        ueid=str(leaf.serial_number),
        pdi=_pdi(above),
    )


def _chip(name: str) -> tuple[str, str, str]:
    for pattern, arch, device_class in _CHIPS:
        match = pattern.match(name)
        if match:
            return match[1].replace("_", ""), arch, device_class
    raise Unsupported(
        "NVIDIA evidence", at="device certificate", want="GH1xx, GB1xx, GB2xx or LS_10", got=name
    )


def _check_usage(leaf: x509.Certificate) -> None:
    """Refuse a certificate authority in the leaf's place: its key signs certificates and no reports."""
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        signs = usage.digital_signature and not usage.key_cert_sign
    except x509.ExtensionNotFound:
        signs = False
    if not signs:
        raise _refused("nvidia.certificate.profile", "leaf's KeyUsage", "digitalSignature alone", "another")


def _fwid(leaf: x509.Certificate, oid: str) -> bytes:
    for extension in leaf.extensions:
        if extension.oid.dotted_string == oid:
            return dice.fwid(oid, getattr(extension.value, "value", b""))
    raise _refused("nvidia.certificate.profile", f"leaf's extension {oid}", "a firmware identity", "none")


def _pdi(certificate: x509.Certificate) -> str | None:
    """Return the last 16 digits of the boot ROM certificate's subject serialNumber, which a byte precedes."""
    values = certificate.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
    text = str(values[0].value).lower() if len(values) == 1 else ""
    return text[2:] if re.fullmatch(r"[0-9a-f]{18}", text) else None


def signed_by(report: Report, key: ec.EllipticCurvePublicKey) -> bool:
    """Return whether ``key`` signed the report: ECDSA on P-384 with SHA-384 over request and response."""
    half = len(report.signature) // 2
    r, s = (int.from_bytes(part, "big") for part in (report.signature[:half], report.signature[half:]))
    try:
        key.verify(encode_dss_signature(r, s), report.signed, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):
        return False
    return True


def choose(report: Report, chains: Sequence[bytes]) -> bytes | None:
    """Return the chain whose leaf signed ``report``; the first when none did, None when there is none.

    A chain that does not hold is passed over as long as another one is left.
    """
    first: bytes | None = None
    for pem in chains:
        first = pem if first is None else first
        if len(chains) == 1:
            break
        try:
            if signed_by(report, from_chain(pem).key):
                return pem
        except (NotGenuine, Unsupported):
            continue
    return first


def _refused(code: str, where: str, want: str, got: str) -> NotGenuine:
    return NotGenuine("the device is not one of NVIDIA's", findings=[Finding(code, where, want, got)])

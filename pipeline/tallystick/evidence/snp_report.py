"""AMD SEV-SNP: is this report signed by a genuine AMD processor, and what does it claim?

Source: AMD 56860 (SEV-SNP Firmware ABI), ATTESTATION_REPORT; AMD 57230 (VCEK certificate and KDS interface), section 3
for the certificate extensions; AMD 58369 (VLEK) for keys that a cloud provider holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, NotGenuine, TallystickError
from tallystick.core.findings import Finding
from tallystick.evidence import dump, roots
from tallystick.evidence.chain import (
    Standing,
    build_chain,
    common_name,
    load_certificates,
    load_crl,
    quiet,
    standing,
)
from tallystick.evidence.claims import Claims
from tallystick.formats import dstack, snp_report
from tallystick.formats.snp_report import REPORT_BYTES, Report, Tcb

KIND = "snp-report"
_ENDORSEMENT = "SNP endorsement"
_THIM_FIELDS = ("vcekCert", "certificateChain")
_ROOTS = ("ARK-Milan", "ARK-Genoa", "ARK-Turin")
_INTERMEDIATES = tuple(
    f"SEV-{key}{product}" for product in ("Milan", "Genoa", "Turin") for key in ("", "VLEK-")
)
_AMD = "1.3.6.1.4.1.3704.1."
_TCB_EXTENSIONS = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
_ECDSA = ec.ECDSA(hashes.SHA384())
_PLATFORM_BITS = {  # PLATFORM_INFO, Table 24
    "platform_smt_enabled": 0,
    "platform_tsme_enabled": 1,
    "platform_ecc_enabled": 2,
    "platform_rapl_disabled": 3,
    "platform_ciphertext_hiding_enabled": 4,
    "platform_alias_check_complete": 5,
    "platform_tio_enabled": 7,
}
_POLICY_BITS = {  # GUEST_POLICY, Table 10
    "policy_smt_allowed": 16,
    "policy_migrate_ma": 18,
    "policy_debug_allowed": 19,
    "policy_single_socket": 20,
    "policy_cxl_allowed": 21,
    "policy_mem_aes_256_xts": 22,
    "policy_rapl_disabled": 23,
    "policy_ciphertext_hiding": 24,
    "policy_page_swap_disabled": 25,
}


@dataclass(frozen=True, slots=True)
class _Endorsed:
    """A VCEK or VLEK whose chain holds, with what its extensions say. It says itself when it is valid."""

    standing: Standing
    key: ec.EllipticCurvePublicKey
    signing_key: str
    product: str
    tcb: tuple[tuple[str, int], ...]
    chip_id: bytes | None  # VLEKs have none
    provider: str | None  # CSP_ID of a VLEK


def verify(data: bytes, endorsements: Sequence[bytes], *, nonce: bytes | None, at: datetime) -> Claims:
    """Return the claims of an SNP report that is genuine at ``at``.

    Args:
        data: the report (1,184 bytes), alone or followed by a GHCB certificate table.
        endorsements: VCEK or VLEK, and ASK and ARK when not AMD's own embedded ones, as PEM, DER or a GHCB table;
            revocation lists.
        nonce: the 64 bytes that REPORT_DATA must be; None when the caller compares it.

    Raises:
        Malformed, Unsupported: bytes that are no report.
        NotGenuine: a signature, chain, date or binding that does not hold, each named.
    """
    data = dstack.unwrapped(data)
    report = snp_report.parse(data[:REPORT_BYTES])
    files = (*endorsements, *([data[REPORT_BYTES:]] if len(data) > REPORT_BYTES else []))
    endorsed = _endorsed(report.signing_key, files, report.chip_id, report.reported_tcb)
    findings = [*endorsed.standing.findings(at), *_mismatches(report, endorsed)]
    if nonce is not None and nonce != report.report_data:
        findings.append(
            Finding("snp.report-data.mismatch", "REPORT_DATA", nonce.hex(), report.report_data.hex())
        )
    if not _signed_by(report, endorsed.key):
        findings.append(
            Finding(
                "snp.signature", "SIGNATURE", f"a signature by this {report.signing_key.upper()}", "another"
            )
        )
    if findings:
        raise NotGenuine("the SNP report is not genuine", findings=findings)
    return Claims(
        kind=KIND,
        values=_claims(report, endorsed),
        roots=("amd",),
        report_data=report.report_data,
        valid_from=endorsed.standing.valid_from,
        valid_until=endorsed.standing.valid_until,
        notes=endorsed.standing.notes,
    )


def show(data: bytes) -> dict[str, Any]:
    """Return every field of the report, and the certificates that follow it. Nothing of it is verified."""
    data = dstack.unwrapped(data)
    report = snp_report.parse(data[:REPORT_BYTES])
    shown: dict[str, Any] = dump.plain(report, without=("signed",))
    shown |= {"policy": f"{report.policy:#x}", "platform_info": f"{report.platform_info:#x}"}
    shown |= {"key_info": f"{report.key_info:#x}", "signing_key": report.signing_key}
    shown["signature"] = {name: f"{value:096x}" for name, value in zip("rs", report.signature, strict=True)}
    shown |= {name: bool(report.policy >> bit & 1) for name, bit in _POLICY_BITS.items()}
    shown |= {name: bool(report.platform_info >> bit & 1) for name, bit in _PLATFORM_BITS.items()}
    product = report.product
    if product is not None:
        shown["product"] = product
        for name in ("reported", "current", "committed", "launch"):
            shown |= _tcb_claims(name, snp_report.tcb(getattr(report, f"{name}_tcb"), product))
    if len(data) > REPORT_BYTES:
        table = snp_report.certificate_table(data[REPORT_BYTES:])
        shown["certificate_table"] = {
            name: dump.certificates(value, name) if name != "crl" else {"bytes": len(value)}
            for name, value in table.items()
        }
    return shown


def _sort(files: Sequence[bytes]) -> tuple[list[x509.Certificate], list[x509.CertificateRevocationList]]:
    """Return (certificates, revocation lists) out of files of any of the accepted forms."""
    certificates: list[x509.Certificate] = []
    lists: list[x509.CertificateRevocationList] = []
    for data in files:
        crl = load_crl(data)
        if crl is not None:
            lists.append(crl)
            continue
        found, table_lists = _certificates(data)
        certificates += found
        lists += table_lists
    return certificates, lists


def _certificates(
    data: bytes,
) -> tuple[tuple[x509.Certificate, ...], list[x509.CertificateRevocationList]]:
    """Return the certificates in PEM, DER, Azure's THIM document or a GHCB table, which may also hold lists."""
    if data.lstrip()[:1] == b"{":
        return load_certificates(_thim(data), _ENDORSEMENT), []
    try:
        return load_certificates(data, _ENDORSEMENT), []
    except Malformed:
        if b"-----BEGIN" in data:
            raise
        table = snp_report.certificate_table(data)
        names = [name for name in ("vcek", "vlek", "ask", "ark") if name in table]
        found = tuple(c for name in names for c in load_certificates(table[name], _ENDORSEMENT))
        crl = load_crl(table["crl"]) if "crl" in table else None
        return found, [crl] if crl is not None else []


def _thim(data: bytes) -> bytes:
    """Return the certificates of Azure's host information document, as PEM.

    Source: Microsoft, "Trusted Hardware Identity Management", the answer of ``/metadata/THIM/amd/certification``.
    """
    document = jsondoc.loads(data, _ENDORSEMENT)
    parts = [document.get(name) for name in _THIM_FIELDS] if isinstance(document, dict) else [None]
    if not all(isinstance(part, str) for part in parts):
        raise Malformed(
            _ENDORSEMENT, at="JSON", want="THIM's " + " and ".join(_THIM_FIELDS), got="other fields"
        )
    return "\n".join(map(str, parts)).encode()


@lru_cache(maxsize=256)
def _endorsed(signing_key: str, files: tuple[bytes, ...], chip_id: bytes, tcb: bytes) -> _Endorsed:
    """Return the verified endorsement of the key that signed, as it stands with its issuers' lists.

    Cached by the files' bytes, since it says itself when it is valid. Of several certificates the one for this chip
    and TCB is taken.
    """
    wanted = f"SEV-{signing_key.upper()}"
    with quiet():
        given, lists = _sort(files)
        leaves = [c for c in given if common_name(c) == wanted]
        if not leaves:
            raise NotGenuine(
                f"the report is signed by a {signing_key.upper()}, and none was given",
                findings=[
                    Finding("snp.endorsement.missing", "endorsements", f"a {wanted} certificate", "none")
                ],
            )
        leaf = max(leaves, key=lambda c: _fit(c, chip_id, tcb))
        others = [*given, *(roots.certificate(name) for name in _INTERMEDIATES)]
        chain = build_chain(leaf, others, [roots.certificate(name) for name in _ROOTS])
        if chain is None:
            raise NotGenuine(
                f"the {signing_key.upper()} does not chain to AMD",
                findings=[
                    Finding("snp.certificate.chain", wanted, "a chain to an embedded ARK", "none that holds")
                ],
            )
        return _read(signing_key, leaf, standing(chain, lists, "snp.certificate"))


def _fit(leaf: x509.Certificate, chip_id: bytes, tcb: bytes) -> int:
    """Return how well a certificate fits a report: its chip, then its TCB. What does not fit is refused later."""
    said = _extensions(leaf)
    chip = _octets(said.get(_AMD + "4", b""))
    levels = {name: _integer(said.get(_AMD + oid)) for name, oid in _TCB_EXTENSIONS.items()}
    product = _text(said.get(_AMD + "2", b"")).split("-")[0]
    have = snp_report.tcb(tcb, product)
    same = [name for name, value in levels.items() if getattr(have, name) == value]
    return (100 if chip and chip_id.startswith(chip) else 0) + len(same)


def _extensions(certificate: x509.Certificate) -> dict[str, bytes]:
    return {e.oid.dotted_string: getattr(e.value, "value", b"") for e in certificate.extensions}


def _read(signing_key: str, leaf: x509.Certificate, stands: Standing) -> _Endorsed:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _not_amd("public key", "P-384", type(key).__name__)
    extensions = _extensions(leaf)
    product = common_name(stands.chain.certificates[-1]).removeprefix("ARK-")
    said = _text(extensions.get(_AMD + "2", b""))
    if said.split("-")[0] != product:
        raise _not_amd("productName", product, said)
    tcb = {name: _integer(extensions.get(_AMD + oid)) for name, oid in _TCB_EXTENSIONS.items()}
    if any(tcb[name] is None for name in ("bootloader", "tee", "snp", "microcode")):
        raise _not_amd(
            "TCB extensions", "all four", str(sorted(name for name, v in tcb.items() if v is not None))
        )
    chip = extensions.get(_AMD + "4")
    provider = extensions.get(_AMD + "5")
    return _Endorsed(
        standing=stands,
        key=key,
        signing_key=signing_key,
        product=product,
        tcb=tuple((name, value) for name, value in tcb.items() if value is not None),
        chip_id=_octets(chip) if chip is not None else None,
        provider=_text(provider) if provider is not None else None,
    )


def _not_amd(where: str, want: str, got: str) -> TallystickError:
    return NotGenuine(
        "the certificate is not one of AMD's profile",
        findings=[Finding("snp.certificate.profile", where, want, got)],
    )


def _integer(der: bytes | None) -> int | None:
    """Read a DER INTEGER of at most two bytes, as AMD's extensions hold them."""
    if der is None or len(der) < 3 or der[0] != 2 or der[1] != len(der) - 2 or der[1] > 2:
        return None
    return int.from_bytes(der[2:], "big")


def _text(der: bytes) -> str:
    return (
        der[2:].decode("ascii", "replace")
        if len(der) >= 2 and der[0] == 0x16 and der[1] == len(der) - 2
        else ""
    )


def _octets(value: bytes) -> bytes:
    """HWID is raw bytes in most certificates and a DER OCTET STRING in some."""
    return (
        value[2:] if len(value) in (66, 10) and value[:1] == b"\x04" and value[1] == len(value) - 2 else value
    )


def _signed_by(report: Report, key: ec.EllipticCurvePublicKey) -> bool:
    try:
        key.verify(encode_dss_signature(*report.signature), report.signed, _ECDSA)
    except (InvalidSignature, ValueError):
        return False
    return True


def _mismatches(report: Report, endorsed: _Endorsed) -> list[Finding]:
    """Compare the report with the certificate of the key that signed it."""
    findings: list[Finding] = []
    if report.product is not None and report.product != endorsed.product:
        findings.append(Finding("snp.product.mismatch", "CPUID", endorsed.product, report.product))
    reported = snp_report.tcb(report.reported_tcb, endorsed.product)
    for name, want in endorsed.tcb:
        got = getattr(reported, name)
        if got != want and not (name == "fmc" and got is None):
            findings.append(
                Finding("snp.tcb.mismatch", f"REPORTED_TCB {name}", str(want), str(got), "VEK extension")
            )
    if endorsed.chip_id is not None and any(report.chip_id):
        got_chip = report.chip_id[: len(endorsed.chip_id)]
        if got_chip != endorsed.chip_id or any(report.chip_id[len(endorsed.chip_id) :]):
            findings.append(
                Finding(
                    "snp.chip-id.mismatch", "CHIP_ID", endorsed.chip_id.hex(), report.chip_id.hex(), "HWID"
                )
            )
    return findings


def _claims(report: Report, endorsed: _Endorsed) -> dict[str, Any]:
    values: dict[str, Any] = {
        "version": report.version,
        "measurement": report.measurement.hex(),
        "report_data": report.report_data.hex(),
        "init_data": report.host_data.hex(),
        "host_data": report.host_data.hex(),
        "vmpl": report.vmpl,
        "guest_svn": report.guest_svn,
        "family_id": report.family_id.hex(),
        "image_id": report.image_id.hex(),
        "id_key_digest": report.id_key_digest.hex(),
        "author_key_digest": report.author_key_digest.hex(),
        "author_key_enabled": bool(report.key_info & 1),
        "report_id": report.report_id.hex(),
        "report_id_ma": report.report_id_ma.hex(),
        "chip_id": report.chip_id.hex(),
        "policy_abi_major": report.policy >> 8 & 0xFF,
        "policy_abi_minor": report.policy & 0xFF,
        "signing_key": report.signing_key,
        "product": endorsed.product,
        "current_version": ".".join(map(str, report.current_version)),
        "committed_version": ".".join(map(str, report.committed_version)),
    }
    values |= {name: bool(report.policy >> bit & 1) for name, bit in _POLICY_BITS.items()}
    values |= {name: bool(report.platform_info >> bit & 1) for name, bit in _PLATFORM_BITS.items()}
    values["debug"] = values["policy_debug_allowed"]
    for name in ("reported", "current", "committed", "launch"):
        values |= _tcb_claims(name, snp_report.tcb(getattr(report, f"{name}_tcb"), endorsed.product))
    if report.cpuid is not None:
        values |= dict(zip(("cpuid_family", "cpuid_model", "cpuid_stepping"), report.cpuid, strict=True))
    if report.mitigations is not None:
        values |= dict(zip(("launch_mit_vector", "current_mit_vector"), report.mitigations, strict=True))
    if endorsed.provider is not None:
        values["csp_id"] = endorsed.provider
    return values


def _tcb_claims(name: str, tcb: Tcb) -> dict[str, int]:
    parts = {part: getattr(tcb, part) for part in ("bootloader", "tee", "snp", "microcode", "fmc")}
    return {f"{name}_tcb_{part}": value for part, value in parts.items() if value is not None}

"""Intel's collateral: TCB info, QE identity and revocation lists, read and checked up to Intel's root.

Source: "Intel SGX and Intel TDX PCS API v4"; the JSON that holds it all is dcap-qvl's and dstack's QuoteCollateralV3.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, NotGenuine
from tallystick.core.findings import Finding
from tallystick.evidence import dcap_parts, roots
from tallystick.evidence.chain import Chain, Standing, build_chain, load_certificates, load_crl, standing

ROOT = "Intel-SGX-Root-CA"
_TCB_SIGNER = "Intel SGX TCB Signing"
_SHA256 = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A JSON document of Intel's, as text, with its signature and the chain of who signed it."""

    name: str
    document: dict[str, Any]
    text: bytes
    signature: bytes
    chain: bytes  # PEM


@dataclass(frozen=True, slots=True, kw_only=True)
class Collateral:
    """What Intel's PCS says of one platform family. Not verified."""

    tcb_info: Signed
    qe_identity: Signed
    lists: tuple[bytes, ...]  # root CA and PCK CA revocation lists, DER
    pck_chain: bytes | None

    @property
    def family(self) -> tuple[str, str, str]:
        """For which TEE, FMSPC and PCE-ID it is."""
        info = self.tcb_info.document
        return (
            str(info.get("id", "SGX")),
            str(info.get("fmspc", "")).lower(),
            str(info.get("pceId", "")).lower(),
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """Collateral whose signatures hold. What it says counts inside its windows alone."""

    collateral: Collateral
    lists: tuple[x509.CertificateRevocationList, ...]
    signers: tuple[Standing, ...]  # of the TCB info's and the QE identity's signers
    valid_from: datetime
    valid_until: datetime

    def findings(self, at: datetime) -> tuple[Finding, ...]:
        """Return what does not hold at ``at``: the window, or a signer that is revoked by then."""
        if self.valid_from <= at <= self.valid_until and all(one.valid_at(at) for one in self.signers):
            return ()
        found: list[Finding] = []
        if not self.valid_from <= at <= self.valid_until:
            code = "dcap.collateral.expired" if at > self.valid_until else "dcap.collateral.not-yet-valid"
            got = f"valid from {self.valid_from.isoformat()} to {self.valid_until.isoformat()}"
            found.append(Finding(code, "collateral", f"valid at {at.isoformat()}", got))
        for one in self.signers:
            found += [finding for finding in one.findings(at) if finding not in found]
        return tuple(found)


def is_collateral(data: bytes) -> bool:
    """Return whether ``data`` looks like collateral, so that other endorsements can stand beside it."""
    return data.lstrip()[:1] == b"{" and b'"tcb_info"' in data


@lru_cache(maxsize=64)
def gathered(files: tuple[bytes, ...]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Return (collateral, the files that are something else) out of endorsement files.

    Collateral comes whole, or in the parts that the PCS serves: TCB info and QE identity as JSON with their signature,
    revocation lists in DER or PEM, the certificate of who signed. Parts are put together into the whole form.
    """
    parts = dcap_parts.Parts.of([one for one in files if not is_collateral(one)])
    whole = [one for one in files if is_collateral(one)]
    return (*whole, *parts.collaterals()), parts.others


@lru_cache(maxsize=64)
def parse(data: bytes) -> Collateral:
    """Return the collateral in ``data``: JSON with the names that dcap-qvl and PCCS mirrors use.

    Raises:
        Malformed: a field missing or of another type.
    """
    document = jsondoc.loads(data, "collateral")
    if not isinstance(document, dict):
        raise Malformed("collateral", at="document", want="a JSON object", got=type(document).__name__)
    chain = document.get("pck_certificate_chain")
    return Collateral(
        tcb_info=_signed(document, "tcb_info", "TCB info"),
        qe_identity=_signed(document, "qe_identity", "QE identity"),
        lists=(_binary(document, "root_ca_crl"), _binary(document, "pck_crl")),
        pck_chain=chain.encode() if isinstance(chain, str) and chain else None,
    )


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str):
        raise Malformed("collateral", at=name, want="text", got=type(value).__name__)
    return value


def _binary(document: dict[str, Any], name: str) -> bytes:
    try:
        return bytes.fromhex(_text(document, name))
    except ValueError:
        raise Malformed("collateral", at=name, want="hex", got=_text(document, name)) from None


def _signed(document: dict[str, Any], field: str, name: str) -> Signed:
    text = _text(document, field).encode()
    value = jsondoc.loads(text, f"collateral {field}")
    if not isinstance(value, dict):
        raise Malformed("collateral", at=field, want="a JSON object", got=type(value).__name__)
    return Signed(
        name=name,
        document=value,
        text=text,
        signature=_binary(document, f"{field}_signature"),
        chain=_text(document, f"{field}_issuer_chain").encode(),
    )


@lru_cache(maxsize=64)
def checked(data: bytes) -> Checked:
    """Return the collateral in ``data`` with its own signatures checked. Kept by its bytes; time is asked later.

    Raises:
        Malformed: as :func:`parse`, or a list or time that can not be read.
        NotGenuine: a signature or chain that does not hold.
    """
    collateral = parse(data)
    lists = tuple(crl for crl in map(load_crl, collateral.lists) if crl is not None)
    if len(lists) != len(collateral.lists):
        raise Malformed("collateral", at="revocation lists", want="X.509 in DER", got="something else")
    signers: dict[bytes, Standing] = {}
    starts, ends = [crl.last_update_utc for crl in lists], [_end(crl) for crl in lists]
    for one in (collateral.tcb_info, collateral.qe_identity):
        if one.chain not in signers:
            chain = intel_chain(one.chain, f"{one.name} issuer")
            signers[one.chain] = standing(chain, lists, "dcap.collateral")
        leaf = signers[one.chain].chain.certificates[0]
        subject = leaf.subject.rfc4514_string()
        if _TCB_SIGNER not in subject:
            raise bad("collateral.signer", f"{one.name} issuer", _TCB_SIGNER, subject)
        if not signed_by(leaf.public_key(), one.signature, one.text):
            raise bad("collateral.signature", one.name, "a signature by its issuer", "another")
        starts += [signers[one.chain].chain.not_before, _time(one, "issueDate")]
        ends += [signers[one.chain].chain.not_after, _time(one, "nextUpdate")]
    return Checked(collateral, lists, tuple(signers.values()), max(starts), min(ends))


def _end(crl: x509.CertificateRevocationList) -> datetime:
    return crl.next_update_utc or crl.last_update_utc


def _time(one: Signed, field: str) -> datetime:
    value = one.document.get(field)
    try:
        moment = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
        if moment.tzinfo is None:
            raise ValueError
    except ValueError:
        raise Malformed(one.name, at=field, want="an RFC 3339 time", got=str(value)) from None
    return moment


def intel_chain(pem: bytes, what: str) -> Chain:
    """Return the chain in ``pem`` to Intel's root. A certificate that the chain does not need is refused.

    Raises:
        Malformed: no certificates.
        NotGenuine: no chain that holds.
    """
    certificates = load_certificates(pem, what)
    again = b"".join(c.public_bytes(Encoding.PEM) for c in certificates)
    if again.split() != pem.split():  # text between certificates, or an armour that hides one
        raise Malformed(what, at="PEM", want="certificates and nothing else", got="other text")
    chain = build_chain(certificates[0], certificates[1:], [roots.certificate(ROOT)])
    if chain is None:
        raise bad("certificate.chain", what, f"a chain to {ROOT}", "none that holds")
    unused = [c for c in certificates if c not in chain.certificates]
    if unused:  # a copy of the root with a flipped byte would otherwise pass unread
        raise bad(
            "certificate.unused", what, "only certificates of its chain", unused[0].subject.rfc4514_string()
        )
    return chain


def signed_by(key: object, signature: bytes, data: bytes) -> bool:
    """Return whether ``signature`` (r and s, 32 bytes each) over ``data`` is by the P-256 ``key``, with SHA-256."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or len(signature) != 64:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), data, _SHA256)
    except (InvalidSignature, ValueError):
        return False
    return True


def bad(code: str, where: str, want: str, got: str) -> NotGenuine:
    """Return the error for one thing that does not hold; the caller raises it."""
    finding = Finding(f"dcap.{code}", where, want, got)
    return NotGenuine(finding.message, findings=[finding])

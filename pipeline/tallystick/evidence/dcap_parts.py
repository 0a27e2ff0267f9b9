"""Intel's collateral in the parts that the PCS and a PCCS serve, put together into one document. Nothing is verified.

Source: "Intel SGX and Intel TDX PCS API v4": Get TCB Info, Get (TD) QE Identity, Get PCK CRL, Get Root CA CRL.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed
from tallystick.evidence.chain import common_name, load_certificates, load_crl

_SIGNER = "Intel SGX TCB Signing"
_ROOT = "Intel SGX Root CA"
_IDENTITY_OF = {"TDX": "TD_QE", "SGX": "QE"}


@dataclass(frozen=True, slots=True)
class Document:
    """A document of Intel's with the text that is signed."""

    document: dict[str, Any]
    text: str  # exactly what is signed
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Endorsement files by what they are."""

    infos: tuple[Document, ...]
    identities: tuple[Document, ...]
    lists: tuple[x509.CertificateRevocationList, ...]
    certificates: tuple[x509.Certificate, ...]
    others: tuple[bytes, ...]

    @classmethod
    def of(cls, files: Sequence[bytes]) -> Parts:
        """Return ``files`` sorted.

        Raises:
            Malformed: a file that begins as one of Intel's documents and breaks off.
        """
        infos: list[Document] = []
        identities: list[Document] = []
        lists: list[x509.CertificateRevocationList] = []
        certificates: list[x509.Certificate] = []
        others: list[bytes] = []
        for data in files:
            start = data.lstrip()
            if start.startswith(b'{"tcbInfo"'):
                infos.append(signed(start, "tcbInfo"))
            elif start.startswith(b'{"enclaveIdentity"'):
                identities.append(signed(start, "enclaveIdentity"))
            elif (crl := load_crl(_der_of_hex(start))) is not None:
                lists.append(crl)
            elif start[:1] == b"\x30" or start.startswith(b"-----BEGIN CERTIFICATE"):
                certificates += load_certificates(data, "Intel endorsement")
            else:
                others.append(data)
        return cls(
            infos=tuple(infos),
            identities=tuple(identities),
            lists=tuple(lists),
            certificates=tuple(certificates),
            others=tuple(others),
        )

    def collaterals(self) -> Iterator[bytes]:
        """Give a whole document for each TCB info and each QE identity that goes with it."""
        chain = "".join(self._pem(name) for name in (_SIGNER, _ROOT))
        root, pck = self._list("Root"), self._list("PCK")
        for info in self.infos:
            wanted = _IDENTITY_OF.get(str(info.document.get("id", "SGX")))
            for identity in self.identities:
                if identity.document.get("id") != wanted or root is None or pck is None:
                    continue
                yield json.dumps(
                    {
                        "root_ca_crl": root,
                        "pck_crl": pck,
                        "tcb_info_issuer_chain": chain,
                        "tcb_info": info.text,
                        "tcb_info_signature": info.signature,
                        "qe_identity_issuer_chain": chain,
                        "qe_identity": identity.text,
                        "qe_identity_signature": identity.signature,
                    }
                ).encode()

    def _pem(self, name: str) -> str:
        found = [one for one in self.certificates if common_name(one) == name]
        return found[0].public_bytes(Encoding.PEM).decode("ascii") if found else ""

    def _list(self, issuer: str) -> str | None:
        """Return the newest list of an issuer with this word in its name, in hex."""
        found = [crl for crl in self.lists if issuer in crl.issuer.rfc4514_string()]
        newest = max(found, key=lambda crl: crl.last_update_utc, default=None)
        return newest.public_bytes(Encoding.DER).hex() if newest is not None else None


def pck_issuer(pem: bytes) -> str:
    """Return which authority issued the PCK certificate in ``pem``, in the PCS's words: "platform" or "processor".

    Raises:
        Malformed: no certificates, or another issuer.
    """
    issuer = load_certificates(pem, "PCK certificate")[0].issuer.rfc4514_string()
    for word in ("Platform", "Processor"):
        if f"PCK {word} CA" in issuer:
            return word.lower()
    raise Malformed("PCK certificate", at="issuer", want="Intel's platform or processor CA", got=issuer)


def list_der(data: bytes) -> bytes:
    """Return a revocation list in DER, whichever way a service wrote it: DER, hex of it, or PEM.

    Raises:
        Malformed: none of these.
    """
    crl = load_crl(_der_of_hex(data.strip() if data[:1] != b"\x30" else data))
    if crl is None:
        raise Malformed("revocation list", at="answer", want="DER, hex or PEM", got=data[:16].hex())
    return crl.public_bytes(Encoding.DER)


def _der_of_hex(data: bytes) -> bytes:
    """Return the bytes of a PCCS's answer for a list, which is DER in hex."""
    if data[:2] != b"30":
        return data
    try:
        return bytes.fromhex(data.decode("ascii"))
    except ValueError:
        return data


def signed(data: bytes, name: str) -> Document:
    """Return one document with the very text that its signature covers.

    Raises:
        Malformed: another form.
    """
    value = jsondoc.loads(data, name)
    if not isinstance(value, dict):
        raise Malformed(name, at="document", want="a JSON object", got=type(value).__name__)
    signature, document = value.get("signature"), value.get(name)
    if not isinstance(signature, str) or not isinstance(document, dict) or len(value) != 2:
        raise Malformed(name, at="document", want=f'{{"{name}": {{…}}, "signature": hex}}', got="another")
    text = data.decode("utf-8")
    start = text.index("{", text.index(f'"{name}"'))
    _, end = json.JSONDecoder().raw_decode(text, start)
    return Document(document, text[start:end], signature)

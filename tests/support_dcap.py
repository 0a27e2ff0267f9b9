"""A maker of Intel quotes of this suite's own: root, PCK and TCB signing certificates, collateral, quotes."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
FMSPC, PCE_ID = bytes.fromhex("10a06d070000"), bytes(2)
MR_SIGNER = bytes(range(32))
_SGX = "1.2.840.113741.1.13.1"


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


def _pair(oid: str, value: bytes) -> bytes:
    arcs = [int(arc) for arc in oid.split(".")]
    out = bytes([40 * arcs[0] + arcs[1]])
    for arc in arcs[2:]:
        part = bytes([arc & 0x7F])
        while arc := arc >> 7:
            part = bytes([arc & 0x7F | 0x80]) + part
        out += part
    return der(0x30, der(0x06, out) + value)


def sgx_extension(cpu_svn: tuple[int, ...] = (3,) * 16, pce_svn: int = 11, fmspc: bytes = FMSPC) -> bytes:
    integers = [*(der(2, bytes([svn])) for svn in cpu_svn), der(2, bytes([pce_svn]))]
    tcb = [_pair(f"{_SGX}.2.{i}", value) for i, value in enumerate(integers, 1)]
    tcb.append(_pair(f"{_SGX}.2.18", der(4, bytes(cpu_svn))))
    parts = (
        _pair(f"{_SGX}.1", der(4, bytes(16))),
        _pair(f"{_SGX}.2", der(0x30, b"".join(tcb))),
        _pair(f"{_SGX}.3", der(4, PCE_ID)),
        _pair(f"{_SGX}.4", der(4, fmspc)),
        _pair(f"{_SGX}.5", der(10, b"\0")),
    )
    return der(0x30, b"".join(parts))


def raw(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """Sign as DCAP does: r and s, 32 bytes each."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def enclave(report_data: bytes, *, debug: bool = False, isv_svn: int = 8, signer: bytes = MR_SIGNER) -> bytes:
    body = bytearray(384)
    body[48:56] = (5 | 2 * debug).to_bytes(8, "little")
    body[64:96], body[128:160] = b"e" * 32, signer
    struct.pack_into("<HH", body, 256, 1, isv_svn)
    body[320:384] = report_data.ljust(64, b"\0")
    return bytes(body)


def td(
    report_data: bytes, *, attributes: int = 1 << 28, rtmr: tuple[bytes, ...] = (), v15: bool = False
) -> bytes:
    registers = [*rtmr, *(bytes(48) for _ in range(4 - len(rtmr)))]
    body = (
        bytes([5, 1]) + bytes([3] * 14) + b"S" * 48 + bytes(48) + bytes(8) + attributes.to_bytes(8, "little")
    )
    body += b"\xe7\0\6\0\0\0\0\0" + b"T" * 48 + bytes(48) * 3 + b"".join(registers)
    body += report_data.ljust(64, b"\0")
    return body + (bytes([5, 1]) + bytes([3] * 14) + bytes(48) if v15 else b"")


def _usage(*, authority: bool) -> x509.KeyUsage:
    rest = dict.fromkeys(
        ("key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        **rest,
    )


@dataclass
class Certificate:
    key: ec.EllipticCurvePrivateKey
    made: x509.Certificate

    @property
    def pem(self) -> str:
        return self.made.public_bytes(Encoding.PEM).decode()


class Maker:
    """Intel, as this suite plays it. ``window`` is the validity of everything it issues."""

    def __init__(
        self, window: tuple[datetime, datetime] = (AT - timedelta(days=10), AT + timedelta(days=20))
    ):
        self.window = window
        self.root = self._issue("Intel SGX Root CA", None, authority=True)
        self.platform_ca = self._issue("Intel SGX PCK Platform CA", self.root, authority=True)
        self.tcb_signer = self._issue("Intel SGX TCB Signing", self.root)
        self.pck = self._issue("Intel SGX PCK Certificate", self.platform_ca, extension=sgx_extension())

    def _issue(
        self,
        name: str,
        issuer: Certificate | None,
        *,
        authority: bool = False,
        extension: bytes | None = None,
    ) -> Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.made.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.window[0] - timedelta(days=300))
            .not_valid_after(self.window[1] + timedelta(days=3000))
            .add_extension(x509.BasicConstraints(authority, None), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(_usage(authority=authority), True)
        )
        if extension is not None:
            oid = x509.ObjectIdentifier(_SGX)
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, extension), False)
        return Certificate(key, builder.sign(issuer.key if issuer else key, hashes.SHA256()))

    def crl(self, issuer: Certificate, revoked: tuple[Certificate, ...] = ()) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer.made.subject)
            .last_update(self.window[0])
            .next_update(self.window[1])
        )
        for one in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(one.made.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(self.window[0]).build())
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
        builder = builder.add_extension(identifier, False).add_extension(x509.CRLNumber(1), False)
        return builder.sign(issuer.key, hashes.SHA256()).public_bytes(Encoding.DER)

    def tcb_info(self, tee: str, status: str = "UpToDate", **changes: Any) -> dict[str, Any]:
        tcb: dict[str, Any] = {"sgxtcbcomponents": [{"svn": 3}] * 16, "pcesvn": 11}
        info: dict[str, Any] = {
            "id": tee,
            "version": 3,
            "issueDate": stamp(self.window[0]),
            "nextUpdate": stamp(self.window[1]),
            "fmspc": FMSPC.hex().upper(),
            "pceId": PCE_ID.hex(),
            "tcbType": 0,
            "tcbEvaluationDataNumber": 18,
        }
        if tee == "TDX":
            tcb["tdxtcbcomponents"] = [{"svn": 3}] * 16
            module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
            info["tdxModule"] = module
            level = {"tcb": {"isvsvn": 5}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"}
            info["tdxModuleIdentities"] = [{"id": "TDX_01", **module, "tcbLevels": [level]}]
        info["tcbLevels"] = [{"tcb": tcb, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status}]
        return info | changes

    def qe_identity(self, tee: str, **changes: Any) -> dict[str, Any]:
        return {
            "id": "TD_QE" if tee == "TDX" else "QE",
            "version": 2,
            "issueDate": stamp(self.window[0]),
            "nextUpdate": stamp(self.window[1]),
            "tcbEvaluationDataNumber": 18,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "05000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": MR_SIGNER.hex().upper(),
            "isvprodid": 1,
            "tcbLevels": [
                {"tcb": {"isvsvn": 8}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"},
                {"tcb": {"isvsvn": 1}, "tcbDate": "2020-01-01T00:00:00Z", "tcbStatus": "OutOfDate"},
            ],
        } | changes

    def signed(self, name: str, document: dict[str, Any]) -> bytes:
        """Return what the PCS serves: {"<name>": document, "signature": hex}."""
        text = json.dumps(document, separators=(",", ":"))
        return f'{{"{name}":{text},"signature":"{raw(self.tcb_signer.key, text.encode()).hex()}"}}'.encode()

    def collateral(
        self,
        tee: str = "TDX",
        *,
        info: dict[str, Any] | None = None,
        identity: dict[str, Any] | None = None,
        revoked: tuple[Certificate, ...] = (),
    ) -> bytes:
        texts = [
            json.dumps(one, separators=(",", ":"))
            for one in (info or self.tcb_info(tee), identity or self.qe_identity(tee))
        ]
        signatures = [raw(self.tcb_signer.key, text.encode()).hex() for text in texts]
        chain = self.tcb_signer.pem + self.root.pem
        return json.dumps(
            {
                "pck_crl_issuer_chain": self.platform_ca.pem + self.root.pem,
                "root_ca_crl": self.crl(self.root, revoked).hex(),
                "pck_crl": self.crl(self.platform_ca, revoked).hex(),
                "tcb_info_issuer_chain": chain,
                "tcb_info": texts[0],
                "tcb_info_signature": signatures[0],
                "qe_identity_issuer_chain": chain,
                "qe_identity": texts[1],
                "qe_identity_signature": signatures[1],
            }
        ).encode()

    @property
    def pck_chain(self) -> str:
        return self.pck.pem + self.platform_ca.pem + self.root.pem

    def quote(self, body: bytes, version: int = 4, *, qe_svn: int = 8) -> bytes:
        """Return a quote of ``body`` (:func:`td` or :func:`enclave`)."""
        is_td = len(body) != 384
        header = struct.pack("<HHI", version, 2, (0x81 if is_td else 0) if version > 3 else 0) + bytes(4)
        header += bytes.fromhex("939a7233f79c4ca9940a0db3957f0607") + bytes(20)
        kind = {384: 1, 584: 2, 648: 3}[len(body)]
        signed = header + (struct.pack("<HI", kind, len(body)) if version == 5 else b"") + body
        key, auth = ec.generate_private_key(ec.SECP256R1()), b"a" * 32
        qe = enclave(hashlib.sha256(point(key) + auth).digest(), isv_svn=qe_svn)
        chain = self.pck_chain.encode() + b"\0"
        inner = qe + raw(self.pck.key, qe) + struct.pack("<H", len(auth)) + auth
        inner += struct.pack("<HI", 5, len(chain)) + chain
        if version > 3:
            inner = struct.pack("<HI", 6, len(inner)) + inner
        signature = raw(key, signed) + point(key) + inner
        return signed + struct.pack("<I", len(signature)) + signature


def believe(monkeypatch: Any, maker: Maker) -> None:
    """Believe ``maker``'s root in place of Intel's."""
    from tallystick.evidence import dcap, roots

    real = roots.certificate
    monkeypatch.setattr(
        roots, "certificate", lambda name: maker.root.made if name.startswith("Intel") else real(name)
    )
    dcap.forget()

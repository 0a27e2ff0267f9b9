"""A maker of GPUs and switches of the tests' own: NVIDIA's profile, throwaway keys, SPDM reports, signed RIMs."""

from __future__ import annotations

import base64
import json
import struct
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AT = datetime(2026, 6, 1, tzinfo=UTC)
NONCE = bytes(range(32))
DRIVER, VBIOS = "590.12", "96.00.A5.00.01"
_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_RIM = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/"
_SHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"
ENABLED, DISABLED = b"\xaa", b"\x55"


def digest(number: int) -> bytes:
    """The measurement at SPDM's index ``number``, unless a test says otherwise."""
    return bytes([number]) * 48


def der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body)
    length = (
        bytes([size])
        if size < 0x80
        else bytes([0x81, size])
        if size < 0x100
        else b"\x82" + size.to_bytes(2, "big")
    )
    return bytes([tag]) + length + body


SHA384_OID = der(6, bytes.fromhex("608648016503040202"))


def composite_device_id(key, fwid: bytes) -> tuple[str, bytes]:
    """The extension of GH100 and LS10."""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "2.23.133.5.4.1", der(0x30, b"\x02\x01\x01", spki, der(0x30, SHA384_OID, der(4, fwid)))


def tcb_info(fwid: bytes, *more: bytes) -> tuple[str, bytes]:
    """The extension of GB100."""
    layers = [der(0x30, SHA384_OID, der(4, layer)) for layer in (fwid, *more)]
    return "2.23.133.5.4.1.1", der(0x30, der(0x80, b"NVIDIA"), der(0xA6, *layers))


def name(common: str, serial: str | None = None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if serial is not None:
        parts.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, serial))
    return x509.Name(parts)


def new_key():
    return ec.generate_private_key(ec.SECP384R1())


def issue(
    subject, public, issuer, issuer_key, *, ca, extensions=(), begins=-400, ends=400, usage=True, serial=None
):
    """Return a certificate of NVIDIA's profile; ``begins`` and ``ends`` are days from ``AT``."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(AT + timedelta(days=begins))
        .not_valid_after(AT + timedelta(days=ends))
    )
    if usage:
        bits = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
             "decipher_only"), False,
        )  # fmt: skip
        builder = builder.add_extension(
            x509.KeyUsage(digital_signature=not ca or usage == "both", key_cert_sign=ca, crl_sign=ca, **bits),
            True,
        )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(True, None), True)
    for oid, value in extensions:
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), False)
    return builder.sign(issuer_key, hashes.SHA384())


class Authority:
    """A root and what hangs below it, made once for a test module."""

    def __init__(self, root_name: str, names: tuple[str, ...]):
        self.keys = [new_key() for _ in range(len(names) + 1)]
        self.certificates = []
        above, above_key = name(root_name), self.keys[0]
        for common, key in zip((root_name, *names), self.keys, strict=True):
            self.certificates.append(issue(name(common), key.public_key(), above, above_key, ca=True))
            above, above_key = name(common), key

    @property
    def root(self):
        return self.certificates[0]

    def below(self):
        """The intermediates, from the leaf's issuer up to the root's first."""
        return self.certificates[:0:-1]

    @property
    def issuer(self):
        return self.certificates[-1], self.keys[-1]


class Device:
    """One device: a boot ROM certificate, a key of its firmware, and the reports that this signs."""

    def __init__(self, authority, chip="GH100", *, fwid=b"f" * 48, pdi="1122334455667788", begins=-400, ends=400,
                 extension=None, usage=True, leaf_ca=False):  # fmt: skip
        self.authority, self.fwid = authority, fwid
        rom_key, self.key = new_key(), new_key()
        issuer, issuer_key = authority.issuer
        rom_name = name(f"{chip} A01 GSP BROM", "41" + pdi.upper())
        self.rom = issue(rom_name, rom_key.public_key(), issuer.subject, issuer_key, ca=True)
        extra = extension or (
            tcb_info(fwid) if chip.startswith("GB") else composite_device_id(rom_key.public_key(), fwid)
        )
        self.leaf = issue(
            name(f"{chip} A01 GSP FMC LF"), self.key.public_key(), rom_name, rom_key,
            ca=leaf_ca, extensions=[extra], begins=begins, ends=ends, usage=usage,
        )  # fmt: skip

    def chain(self) -> bytes:
        return pem(self.leaf, self.rom, *self.authority.below(), self.authority.root)

    def report(self, **fields) -> bytes:
        return report(self.key, **({"fwid": self.fwid} | fields))

    def evidence(self, arch="HOPPER", nonce=NONCE, **fields) -> dict:
        """One entry of the SDK's evidence JSON."""
        return {
            "arch": arch,
            "nonce": nonce.hex(),
            "evidence": base64.b64encode(self.report(nonce=nonce, **fields)).decode(),
            "certificate": base64.b64encode(self.chain()).decode(),
        }


def pem(*certificates) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def opaque(fields) -> bytes:
    return b"".join(struct.pack("<HH", kind, len(data)) + data for kind, data in fields)


def gpu_opaque(
    *, fwid=b"f" * 48, driver=DRIVER, vbios=VBIOS, nvdec0=DISABLED, ppcie=DISABLED, mode=0, more=()
) -> list:
    *first, last = (int(part, 16) for part in vbios.split("."))
    fields = [
        (6, bytes(reversed(first)) + bytes([last, 0, 0, 0])),
        (15, b"885\0"),
        (17, b"G520\0"),
        (18, b"0200\0"),
        (3, driver.encode() + b"\0"),
        (12, struct.pack("<2I", 1, 0)),
        (11, nvdec0),
        (21, ppcie),
        (22, bytes(range(8)) * 2),
        (34, struct.pack("<H", 1)),
        (36, struct.pack("<H", mode)),
    ]
    return [*fields, *([(20, fwid)] if fwid is not None else []), *more]


def switch_opaque(*, version="96.10.55.00.01", pdi=bytes(range(8)), **_) -> list:
    return [(6, version.encode()), (22, pdi), (26, bytes(range(64)) + b"\0\1"), (23, b"\xec\0")]


def unsigned(*, nonce=NONCE, measurements=None, fields=None, version=0x11, request=0xE0, response=0x60, param1=1,
             specification=1, blocks=None, **gpu) -> bytes:  # fmt: skip
    """Return request and response without the signature."""
    values = {number: digest(number) for number in range(1, 65)} if measurements is None else measurements
    record = b"".join(
        struct.pack("<BBHBH", number, specification, len(value) + 3, 1, len(value)) + value
        for number, value in values.items()
    )
    data = opaque(gpu_opaque(**gpu) if fields is None else fields)
    head = bytes([version, request, param1, 0xFF]) + nonce + b"\0"
    count = len(values) if blocks is None else blocks
    body = bytes([version, response, 0, 0, count]) + len(record).to_bytes(3, "little") + record
    return head + body + b"r" * 32 + struct.pack("<H", len(data)) + data


def sign(key, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA384())))
    return data + r.to_bytes(48, "big") + s.to_bytes(48, "big")


def report(key, **fields) -> bytes:
    return sign(key, unsigned(**fields))


@lru_cache(maxsize=1)
def rim_signer_names() -> tuple[str, ...]:
    return ("NVIDIA Reference Value GH100 CA",)


def rim_xml(*, version=DRIVER, product="GH100", edition="GPU", active=None, inactive=(1,), extra="") -> str:
    """Return an unsigned manifest; ``active`` is SPDM's index -> allowed values."""
    values = {number: [digest(number)] for number in (8, 22)} if active is None else active
    rows = [(number, "True", allowed) for number, allowed in values.items()]
    rows += [(number, "False", [bytes(48)]) for number in inactive if number not in values]
    resources = "".join(
        f'<ns0:Resource type="Measurement" index="{number - 1}" active="{flag}" alternatives="{len(allowed)}" '
        + " ".join(f'ns2:Hash{at}="{value.hex()}"' for at, value in enumerate(allowed))
        + f' name="Measurement_{number - 1}" size="{len(allowed[0])}"/>\n'
        for number, flag, allowed in rows
    )
    return (
        f'<SoftwareIdentity xmlns="{_SWID}" xmlns:ns0="{_SWID}" xmlns:ns2="{_SHA384}" corpus="false" '
        f'name="{product}" tagId="aa" version="1.0" tagVersion="0">\n'
        '<ns0:Entity name="NVIDIA Corporation" role="softwareCreator tagCreator"/>\n'
        f'<ns0:Meta xmlns:ns1="{_RIM}" colloquialVersion="{version}" edition="{edition}" product="{product}" '
        'ns1:FirmwareManufacturerId="5703"/>\n'
        f'<ns0:Payload xmlns:SHA384="{_SHA384}">\n{resources}</ns0:Payload>\n{extra}</SoftwareIdentity>\n'
    )


class RimMaker:
    """Who signs manifests: a root, a CA below it, and a signer."""

    def __init__(self, *, begins=-10, ends=10, usage=True, curve=ec.SECP384R1):
        self.authority = Authority("NVIDIA CoRIM signing Root CA", ("NVIDIA Reference Value GH100 CA",))
        self.key = ec.generate_private_key(curve())
        issuer, issuer_key = self.authority.issuer
        self.signer = issue(
            name("HCC RIM L4 Signer"), self.key.public_key(), issuer.subject, issuer_key,
            ca=False, begins=begins, ends=ends, usage=usage,
        )  # fmt: skip

    def chain(self):
        return [self.signer, *self.authority.below(), self.authority.root]

    def rim(self, *, certificates=None, c14n="http://www.w3.org/2006/12/xml-c14n11", **fields) -> bytes:
        """Return a signed manifest."""
        return self.sign(rim_xml(**fields), certificates=certificates, c14n=c14n)

    def sign(
        self, text: str, *, certificates=None, c14n="http://www.w3.org/2006/12/xml-c14n11", method=None
    ) -> bytes:
        from lxml import etree
        from signxml.algorithms import DigestAlgorithm, SignatureConstructionMethod, SignatureMethod
        from signxml.signer import XMLSigner

        signer = XMLSigner(
            method=SignatureConstructionMethod.enveloped,
            signature_algorithm=method or SignatureMethod.ECDSA_SHA384,
            digest_algorithm=DigestAlgorithm.SHA384,
            c14n_algorithm=c14n,
        )
        signed = signer.sign(
            etree.fromstring(text.encode()),
            key=self.key,
            cert=certificates or self.chain(),
            always_add_key_value=False,
        )
        return etree.tostring(signed)


def make_crl(issuer, issuer_key, revoked=(), *, begins=-1, ends=1) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(AT + timedelta(days=begins))
        .next_update(AT + timedelta(days=ends))
    )
    for certificate in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
        builder = builder.add_revoked_certificate(entry.revocation_date(AT + timedelta(days=begins)).build())
    return builder.sign(issuer_key, hashes.SHA384()).public_bytes(Encoding.DER)


def make_ocsp(certificate, issuer, key, *, status=ocsp.OCSPCertStatus.GOOD, responder=None, begins=-1, ends=1,
              reason=None, embed=(), encoding=ocsp.OCSPResponderEncoding.HASH,
              hashed=None) -> bytes:  # fmt: skip
    """Return an OCSP response about ``certificate``, signed by ``key`` of ``responder`` (the issuer by default)."""
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=certificate,
            issuer=issuer,
            algorithm=hashes.SHA256(),
            cert_status=status,
            this_update=AT + timedelta(days=begins),
            next_update=None if ends is None else AT + timedelta(days=ends),
            revocation_time=AT + timedelta(days=begins) if status is ocsp.OCSPCertStatus.REVOKED else None,
            revocation_reason=reason,
        )
        .responder_id(encoding, responder or issuer)
    )
    if embed:
        builder = builder.certificates(list(embed))
    return builder.sign(key, hashed or hashes.SHA384()).public_bytes(Encoding.DER)


def make_responder(issuer, issuer_key, *, ocsp_signing=True, begins=-5, ends=5, key=None):
    """Return (certificate, key) of a responder that ``issuer`` certified."""
    key = key or new_key()
    usages = [ExtendedKeyUsageOID.OCSP_SIGNING if ocsp_signing else ExtendedKeyUsageOID.CODE_SIGNING]
    made = (
        x509.CertificateBuilder()
        .subject_name(name("responder"))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(AT + timedelta(days=begins))
        .not_valid_after(AT + timedelta(days=ends))
        .add_extension(x509.ExtendedKeyUsage(usages), False)
        .sign(issuer_key, hashes.SHA384())
    )
    return made, key


def dump(*entries) -> bytes:
    return json.dumps(list(entries)).encode()

"""What a Fulcio certificate says: who signed, who vouched for them, which CA and which CT log.

Source: sigstore/fulcio, docs/oid-info.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

from tallystick.signing.records import Identity
from tallystick.signing.refusals import refusal
from tallystick.signing.root import Authority

ISSUER_V1 = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")  # the issuer as raw text
ISSUER_V2 = ObjectIdentifier("1.3.6.1.4.1.57264.1.8")  # the issuer as a DER UTF8String
OTHER_NAME = ObjectIdentifier("1.3.6.1.4.1.57264.1.7")  # a SAN that is neither e-mail address nor URI
_UTF8_STRING = 0x0C


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turn what the parser raises into a refusal: it reads most fields only when they are asked for.

    Raises:
        NotGenuine: ``bundle.certificate``.
    """
    try:
        yield
    except Exception as error:
        want = "one that can be read"
        raise refusal(what, "bundle.certificate", "certificate", want, str(error)) from None


def load(der: bytes, what: str) -> x509.Certificate:
    """Return the certificate ``der``.

    Raises:
        NotGenuine: ``bundle.certificate``: it can not be read.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        list(certificate.extensions)
    except Exception as error:
        raise refusal(what, "bundle.certificate", "certificate", "one that can be read", str(error)) from None
    return certificate


def identity(certificate: x509.Certificate, what: str) -> Identity:
    """Return whom the certificate names: its one SAN, and the one issuer it gives.

    Raises:
        NotGenuine: ``bundle.identity``: no SAN or several, no issuer, or two that differ.
    """
    with _reading(what):
        names = _listed(certificate, x509.SubjectAlternativeName)
        issuers = {_issuer_v1(certificate), _issuer_v2(certificate)} - {None}
        san = _name(names[0]) if len(names) == 1 else None
    if len(names) != 1:
        raise refusal(what, "bundle.identity", "SAN", "exactly one name", f"{len(names)}")
    issuer = issuers.pop() if len(issuers) == 1 else None
    if not san or not issuer:
        got = f"{names[0]!r}, {len(issuers)} issuers"
        raise refusal(what, "bundle.identity", "SAN and issuer", "one of each", got)
    return Identity(san=san, issuer=issuer)


def issuing(
    certificate: x509.Certificate, authorities: tuple[Authority, ...], what: str
) -> tuple[Authority, ...]:
    """Return the authorities that the certificate names as its issuer. That their key signed it is not checked.

    Raises:
        NotGenuine: ``bundle.certificate``: it names none of them.
    """
    with _reading(what):
        name, shown = certificate.issuer, certificate.issuer.rfc4514_string()
        key_id = _key_id(certificate, x509.AuthorityKeyIdentifier)
    found = tuple(
        authority
        for authority in authorities
        if any(
            subject == name and own in (None, key_id) for subject, own in _subjects(authority.certificates)
        )
    )
    if not found:
        raise refusal(what, "bundle.certificate", "issuer", "an authority of the trusted root", shown)
    return found


def sct(certificate: x509.Certificate, what: str) -> tuple[bytes, datetime]:
    """Return the CT log and the time of the certificate's one signed certificate timestamp.

    Raises:
        NotGenuine: ``bundle.sct``: there is none, or more than one.
    """
    with _reading(what):
        listed = _listed(certificate, x509.PrecertificateSignedCertificateTimestamps)
        found = [(one.log_id, one.timestamp.replace(tzinfo=UTC)) for one in listed]
    if len(found) != 1:
        raise refusal(what, "bundle.sct", "signed certificate timestamps", "exactly one", f"{len(found)}")
    return found[0]


def _listed(
    certificate: x509.Certificate,
    kind: type[x509.SubjectAlternativeName] | type[x509.PrecertificateSignedCertificateTimestamps],
) -> list[Any]:
    """Return the members of an extension that is a list; none when it is not there."""
    try:
        return list(certificate.extensions.get_extension_for_class(kind).value)
    except x509.ExtensionNotFound:
        return []


@lru_cache(maxsize=64)
def _subjects(certificates: tuple[bytes, ...]) -> tuple[tuple[x509.Name, bytes | None], ...]:
    """Return the name and key identifier of each certificate that can be read."""
    found = []
    for der in certificates:
        with suppress(Exception):
            one = x509.load_der_x509_certificate(der)
            found.append((one.subject, _key_id(one, x509.SubjectKeyIdentifier)))
    return tuple(found)


def _key_id(
    certificate: x509.Certificate, kind: type[x509.AuthorityKeyIdentifier] | type[x509.SubjectKeyIdentifier]
) -> bytes | None:
    try:
        value = certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    return value.key_identifier


def _name(name: x509.GeneralName) -> str | None:
    match name:
        case x509.RFC822Name() | x509.UniformResourceIdentifier():
            return name.value
        case x509.OtherName() if name.type_id == OTHER_NAME:
            return _utf8_string(name.value)
        case _:
            return None


def _issuer_v1(certificate: x509.Certificate) -> str | None:
    value = _extension(certificate, ISSUER_V1)
    return None if value is None else _text(value)


def _issuer_v2(certificate: x509.Certificate) -> str | None:
    value = _extension(certificate, ISSUER_V2)
    return None if value is None else _utf8_string(value)


def _extension(certificate: x509.Certificate, oid: ObjectIdentifier) -> bytes | None:
    try:
        value = certificate.extensions.get_extension_for_oid(oid).value
    except x509.ExtensionNotFound:
        return None
    return value.value if isinstance(value, x509.UnrecognizedExtension) else b""


def _utf8_string(der: bytes) -> str:
    """Return the text of a DER UTF8String that is all of ``der``, else the empty text, which names nobody."""
    size = der[1] if len(der) > 1 else 0
    header = 2
    if size & 0x80:
        header += size & 0x7F
        size = int.from_bytes(der[2:header], "big")
    if not der or der[0] != _UTF8_STRING or len(der) != header + size:
        return ""
    return _text(der[header:])


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return ""

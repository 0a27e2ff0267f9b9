"""X.509 chains of attestation keys: from a leaf to a root that is already believed, judged at a given time.

Makers' profiles differ from the Web's (no names, odd serials, RSA-PSS), so ``x509.verification`` does not take
them; the signatures themselves are checked by ``cryptography``.

Source: RFC 5280, 6.1, without name constraints and policies, which none of these makers uses.
"""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from tallystick.core.errors import Malformed
from tallystick.core.findings import Finding

_MAX_DEPTH = 8
_FILTERS = threading.RLock()
_PEM = b"-----BEGIN "
_UNREADABLE = (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, UnsupportedAlgorithm)


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain whose signatures hold, leaf first and root last, and the time in which all of it is valid."""

    certificates: tuple[x509.Certificate, ...]
    not_before: datetime
    not_after: datetime

    def expiry(self, code: str, at: datetime) -> tuple[Finding, ...]:
        """Return a finding for each certificate that is not valid at ``at``."""
        return tuple(
            Finding(
                f"{code}.expired" if at > c.not_valid_after_utc else f"{code}.not-yet-valid",
                f"certificate {common_name(c)}",
                f"valid at {at.isoformat()}",
                f"valid from {c.not_valid_before_utc.isoformat()} to {c.not_valid_after_utc.isoformat()}",
            )
            for c in self.certificates
            if not c.not_valid_before_utc <= at <= c.not_valid_after_utc
        )


def load_certificates(data: bytes, what: str) -> tuple[x509.Certificate, ...]:
    """Return the certificates in ``data``: PEM, one after the other, or a single DER.

    Raises:
        Malformed: neither.
    """
    with quiet():
        try:
            if _PEM in data:
                return tuple(_whole(c) for c in x509.load_pem_x509_certificates(data))
            return (_whole(x509.load_der_x509_certificate(data)),)
        except _UNREADABLE as error:
            raise Malformed(what, at="certificate", want="X.509 in PEM or DER", got=str(error)) from None


def load_certificate(der: bytes, what: str) -> x509.Certificate:
    """Return the one certificate in ``der``; Malformed when it is something else."""
    return load_certificates(der, what)[0]


def _whole(certificate: x509.Certificate) -> x509.Certificate:
    """Read what the library reads late, so that a broken certificate breaks here and nowhere else."""
    certificate.public_key()
    _ = (certificate.extensions, certificate.subject, certificate.issuer)
    _ = (
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        certificate.signature_algorithm_oid,
    )
    return certificate


def build_chain(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]
) -> Chain | None:
    """Return the chain from ``leaf`` to one of ``roots`` through ``others``; None when there is none.

    A root is believed because it is in ``roots``, byte for byte. Every other issuer must be a CA that may issue here.
    """
    chain = _search((leaf,), tuple(others), tuple(roots), {leaf})
    if chain is None:
        return None
    return Chain(
        chain,
        max(c.not_valid_before_utc for c in chain),
        min(c.not_valid_after_utc for c in chain),
    )


def _search(
    path: tuple[x509.Certificate, ...],
    others: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    tried: set[x509.Certificate],
) -> tuple[x509.Certificate, ...] | None:
    """Look for a way up, trying each certificate once: evidence may bring many that sign each other."""
    subject = path[-1]
    if subject in roots:
        return path
    if len(path) >= _MAX_DEPTH:
        return None
    for issuer in roots:
        if _issued(subject, issuer) and _may_issue(issuer, len(path) - 1):
            return (*path, issuer)
    for issuer in others:
        if issuer not in tried and _issued(subject, issuer) and _may_issue(issuer, len(path) - 1):
            tried.add(issuer)
            found = _search((*path, issuer), others, roots, tried)
            if found is not None:
                return found
    return None


def _issued(subject: x509.Certificate, issuer: x509.Certificate) -> bool:
    if subject.issuer != issuer.subject:
        return False
    try:
        subject.verify_directly_issued_by(issuer)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def _may_issue(issuer: x509.Certificate, below: int) -> bool:
    """Whether ``issuer`` is a CA that allows ``below`` further CAs under it."""
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False
    if not constraints.ca or (constraints.path_length is not None and below > constraints.path_length):
        return False
    try:
        return issuer.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True


def common_name(certificate: x509.Certificate) -> str:
    """Return the certificate's common name, or its whole subject."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()


@contextmanager
def quiet() -> Iterator[None]:
    """Read certificates whose serial number is zero (AMD's are) without a warning for each.

    One thread at a time: Python's warning filters belong to the whole process.
    """
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield


def load_crl(data: bytes) -> x509.CertificateRevocationList | None:
    """Return the revocation list in ``data`` (PEM or DER), or None when it is something else."""
    try:
        load = x509.load_pem_x509_crl if b"-----BEGIN X509 CRL" in data else x509.load_der_x509_crl
        crl = load(data)
        _ = (crl.issuer, crl.extensions, crl.last_update_utc, crl.next_update_utc)  # read late by the library
    except _UNREADABLE:
        return None
    return crl


@dataclass(frozen=True, slots=True)
class Standing:
    """A chain and what its issuers' revocation lists say of it, with every signature checked once.

    Nothing here depends on the time it is judged at, so it may be kept; :meth:`findings` is what must be asked anew.
    """

    chain: Chain
    code: str  # what finding codes begin with
    wrong: tuple[Finding, ...]  # lists that are not their issuer's, or not to be read as a whole
    revoked: tuple[tuple[datetime, Finding], ...]  # since when, and which certificate
    lists: tuple[tuple[str, tuple[tuple[datetime, datetime], ...]], ...]  # issuer -> windows of its lists
    notes: tuple[Finding, ...]  # certificates that no list speaks about

    def findings(self, at: datetime) -> tuple[Finding, ...]:
        """Return everything that does not hold at ``at``: dates, revocations, lists that are not current."""
        if self.valid_at(at):
            return ()
        return (*self.chain.expiry(self.code, at), *self.revocations(at))

    def revocations(self, at: datetime) -> tuple[Finding, ...]:
        """Return the findings of the lists alone."""
        found = [*self.wrong, *(finding for since, finding in self.revoked if since <= at)]
        for issuer, windows in self.lists:
            if not any(start <= at <= end for start, end in windows):
                got = ", ".join(f"{start.isoformat()} to {end.isoformat()}" for start, end in windows)
                where = f"revocation list of {issuer}"
                found.append(Finding(f"{self.code}.crl.expired", where, f"current at {at.isoformat()}", got))
        return tuple(found)

    def valid_at(self, at: datetime) -> bool:
        """Return whether nothing is wrong at ``at``."""
        return (
            not self.wrong
            and self.chain.not_before <= at <= self.chain.not_after
            and all(at < since for since, _ in self.revoked)
            and all(any(start <= at <= end for start, end in windows) for _, windows in self.lists)
        )

    @property
    def valid_from(self) -> datetime:
        """The beginning of the time in which the chain, and a list of each issuer that has one, is valid."""
        return max([self.chain.not_before, *(min(start for start, _ in w) for _, w in self.lists)])

    @property
    def valid_until(self) -> datetime:
        """The end of that time."""
        return min([self.chain.not_after, *(max(end for _, end in w) for _, w in self.lists)])


def standing(chain: Chain, lists: Sequence[x509.CertificateRevocationList], code: str) -> Standing:
    """Return ``chain`` with what ``lists`` say of it. A list of somebody who is not in the chain is left aside."""
    wrong: list[Finding] = []
    revoked: list[tuple[datetime, Finding]] = []
    windows: list[tuple[str, tuple[tuple[datetime, datetime], ...]]] = []
    notes: list[Finding] = []
    issuers = [crl.issuer for crl in lists]
    for certificate, issuer in itertools.pairwise(chain.certificates):
        name, where = issuer.subject, f"certificate {common_name(certificate)}"
        its_own = [crl for crl, said in zip(lists, issuers, strict=True) if said == name]
        if not its_own:
            want = "a revocation list of its issuer"
            notes.append(Finding(f"{code}.crl.missing", where, want, "none was given"))
        current: list[tuple[datetime, datetime]] = []
        for crl in its_own:
            if bad := tuple(_bad_list(crl, issuer, code)):
                wrong += bad
                continue
            current.append((crl.last_update_utc, crl.next_update_utc or crl.last_update_utc))
            entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
            if entry is not None:
                since = entry.revocation_date_utc
                revoked.append((since, Finding(f"{code}.revoked", where, "not revoked", since.isoformat())))
        if current:
            windows.append((common_name(issuer), tuple(current)))
    return Standing(chain, code, tuple(wrong), tuple(revoked), tuple(windows), tuple(notes))


def check_revocation(
    chain: Chain, lists: Sequence[x509.CertificateRevocationList], code: str, at: datetime
) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Return (findings, notes): revoked certificates and bad lists; and certificates that no list speaks about."""
    found = standing(chain, lists, code)
    return found.revocations(at), found.notes


def _bad_list(crl: x509.CertificateRevocationList, issuer: x509.Certificate, code: str) -> Iterator[Finding]:
    where = f"revocation list of {common_name(issuer)}"
    if not _list_holds(crl.public_bytes(Encoding.DER), issuer):
        yield Finding(f"{code}.crl.signature", where, "a signature by its issuer", "another")
    for extension in crl.extensions:
        if extension.critical:  # a delta, or a list of some certificates alone (RFC 5280, 5.2)
            got = extension.oid.dotted_string
            yield Finding(f"{code}.crl.extension", where, "a whole list, without critical extensions", got)


@lru_cache(maxsize=256)
def _list_holds(der: bytes, issuer: x509.Certificate) -> bool:
    """Return whether the list is signed by ``issuer``. Kept: several chains meet in the same authority."""
    crl = x509.load_der_x509_crl(der)
    try:
        holds = crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, UnsupportedAlgorithm):
        holds = False
    return holds or _pss_holds(crl, issuer)


def _pss_holds(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """AMD signs its lists with RSASSA-PSS over SHA-384, which ``is_signature_valid`` does not read."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    key = issuer.public_key()
    if (
        not isinstance(key, rsa.RSAPublicKey)
        or crl.signature_algorithm_oid != x509.SignatureAlgorithmOID.RSASSA_PSS
    ):
        return False
    try:
        key.verify(
            crl.signature,
            crl.tbs_certlist_bytes,
            padding.PSS(padding.MGF1(hashes.SHA384()), 48),
            hashes.SHA384(),
        )
    except InvalidSignature:
        return False
    return True

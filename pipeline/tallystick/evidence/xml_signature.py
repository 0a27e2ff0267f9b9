"""Enveloped XML signatures over a whole document, in the one form that makers of manifests use.

What is accepted is closed: one ``ds:Signature``, a child of the root; one reference, to the whole document, with the
enveloped-signature transform and one canonicalization; ECDSA with SHA-384 on P-384; the signer's chain in ``X509Data``
and nothing else in it. The signature itself is checked by signxml, whose own view of what was signed is what comes
back: a caller never reads the document that came in.

Source: W3C XML Signature Syntax and Processing 1.1; W3C XML Signature Best Practices, "see what is signed".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.core.findings import Finding
from tallystick.evidence.chain import Chain, build_chain, load_certificate, quiet
from tallystick.formats import canonical_base64

if TYPE_CHECKING:
    from lxml.etree import _Element

_DS = "{http://www.w3.org/2000/09/xmldsig#}"
_ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_CANONICAL = (  # all of them without comments
    "http://www.w3.org/TR/2001/REC-xml-c14n-20010315",
    "http://www.w3.org/2006/12/xml-c14n11",
    "http://www.w3.org/2001/10/xml-exc-c14n#",
)
_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#sha384"
_ECDSA_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
_SPACE = re.compile(r"[ \t\r\n]+")
_MAX_CERTIFICATES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A document whose signature holds: what was signed, and by whom."""

    root: _Element
    chain: Chain  # holds up to one of the given roots; dates are for the caller to judge


def verify(root: _Element, roots: Sequence[x509.Certificate], what: str, code: str) -> Signed:
    """Return the part of the document ``root`` that its signature covers: all of it but the signature.

    Args:
        roots: certificates the signer's chain must lead to.
        what: names the document in errors.
        code: begins the codes of findings.

    Raises:
        Malformed: no signature of the accepted form.
        Unsupported: other algorithms.
        NotGenuine: the chain or the signature does not hold. Dates are not judged here.
    """
    chain = signers(root, roots, what, code)
    _check_signer(chain.certificates[0], code, what)
    return Signed(root=_signed_part(root, chain.certificates[0], code, what), chain=chain)


def signers(root: _Element, roots: Sequence[x509.Certificate], what: str, code: str) -> Chain:
    """Return the chain of whoever is named as the signer. That they signed is not asked here.

    Raises:
        Malformed, Unsupported, NotGenuine: as :func:`verify`.
    """
    certificates = _certificates(_signature(root, what), what)
    with quiet():
        chain = build_chain(certificates[0], certificates[1:], roots)
    if chain is None:
        raise _refused(f"{code}.chain", "KeyInfo", "a chain to an embedded root", "none that holds", what)
    if len(chain.certificates) != len({*certificates, chain.certificates[-1]}):
        raise Malformed(what, at="X509Data", want="the signer's chain", got="further certificates")
    return chain


def _signature(root: _Element, what: str) -> _Element:
    """Return the signature when it has exactly the accepted form."""
    found = root.findall(f".//{_DS}Signature")
    if len(found) != 1 or found[0].getparent() is not root:
        raise Malformed(what, at="Signature", want="one, below the root", got=str(len(found)))
    signature = found[0]
    info, value, keys = _children(signature, ("SignedInfo", "SignatureValue", "KeyInfo"), what)
    canonical, method, reference = _children(
        info, ("CanonicalizationMethod", "SignatureMethod", "Reference"), what
    )
    transforms, digest, _ = _children(reference, ("Transforms", "DigestMethod", "DigestValue"), what)
    enveloped, second = _children(transforms, ("Transform", "Transform"), what)
    if reference.get("URI") != "":
        raise Malformed(what, at="Reference", want="the whole document", got=str(reference.get("URI")))
    for element, accepted in (
        (canonical, _CANONICAL),
        (method, (_ECDSA_SHA384,)),
        (enveloped, (_ENVELOPED,)),
        (second, _CANONICAL),
        (digest, (_SHA384,)),
    ):
        if element.get("Algorithm") not in accepted or len(element):
            raise Unsupported(
                what,
                at=str(element.tag).removeprefix(_DS),
                want=" or ".join(accepted),
                got=str(element.get("Algorithm")),
            )
    _children(keys, ("X509Data",), what)
    _base64(value, what)
    return signature


def _children(element: _Element, names: tuple[str, ...], what: str) -> list[_Element]:
    """Return the children when they are exactly ``names``: no comments between them, nothing beside them."""
    tags = [str(child.tag) for child in element]
    if tags != [_DS + name for name in names]:
        where = str(element.tag).removeprefix(_DS)
        raise Malformed(what, at=where, want=", ".join(names), got=", ".join(tags).replace(_DS, "") or "none")
    return list(element)


def _certificates(signature: _Element, what: str) -> list[x509.Certificate]:
    data = signature.find(f"{_DS}KeyInfo/{_DS}X509Data")
    assert data is not None  # noqa: S101 - _signature looked
    if not 1 <= len(data) <= _MAX_CERTIFICATES:
        raise Malformed(
            what, at="X509Data", want=f"1 to {_MAX_CERTIFICATES} certificates", got=str(len(data))
        )
    _children(data, ("X509Certificate",) * len(data), what)
    return [load_certificate(_base64(element, what), what) for element in data]


def _base64(element: _Element, what: str) -> bytes:
    """Return what the element's text spells; spaces and line ends are its writer's, anything else is refused."""
    where = str(element.tag).removeprefix(_DS)
    if len(element):
        raise Malformed(what, at=where, want="text only", got=f"{len(element)} elements")
    return canonical_base64.decode(_SPACE.sub("", element.text or ""), what, where)


def _check_signer(signer: x509.Certificate, code: str, what: str) -> None:
    key = signer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _refused(f"{code}.profile", "signer's key", "P-384", type(key).__name__, what)
    try:
        usage = signer.extensions.get_extension_for_class(x509.KeyUsage).value
        may_sign = usage.digital_signature
    except x509.ExtensionNotFound:
        may_sign = False
    if not may_sign:
        raise _refused(f"{code}.profile", "signer's KeyUsage", "digitalSignature", "none", what)


def _signed_part(root: _Element, signer: x509.Certificate, code: str, what: str) -> _Element:
    from lxml import etree
    from signxml.algorithms import DigestAlgorithm, SignatureMethod
    from signxml.exceptions import SignXMLException
    from signxml.verifier import SignatureConfiguration, XMLVerifier

    expected = SignatureConfiguration(
        location="./",
        signature_methods=frozenset({SignatureMethod.ECDSA_SHA384}),
        digest_algorithms=frozenset({DigestAlgorithm.SHA384}),
        expect_references=1,
        verification_time=signer.not_valid_before_utc,  # dates are judged by the caller, at its time
    )
    try:
        result = XMLVerifier().verify(root, x509_cert=signer, expect_config=expected)
    except (SignXMLException, etree.LxmlError, ValueError) as error:
        raise _refused(
            f"{code}.signature", "SignatureValue", "a signature by its signer", str(error), what
        ) from None
    signed = None if isinstance(result, list) else result.signed_xml
    if signed is None:
        raise _refused(f"{code}.signature", "Reference", "one document", "none", what)
    return signed


def _refused(code: str, where: str, want: str, got: str, what: str) -> NotGenuine:
    return NotGenuine(f"the {what} is not genuine", findings=[Finding(code, where, want, got)])

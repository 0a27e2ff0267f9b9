"""What a certificate says, in every spelling that Fulcio has used, and in those that it has not."""

from __future__ import annotations

import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from signing.boxes import ALICE, BUILDER, NOW, b64, replaced, spelled

from tallystick.core.errors import NotGenuine
from tallystick.signing import certificate as certificates
from tallystick.signing import root
from tallystick.signing.certificate import ISSUER_V1, ISSUER_V2, OTHER_NAME
from tallystick.signing.records import Identity

KEY = ec.generate_private_key(ec.SECP256R1())
LONG = "https://issuer.example/" + "x" * 200  # its DER length takes more than one byte


def text(value: bytes) -> bytes:
    """A DER UTF8String."""
    size = bytes([len(value)]) if len(value) < 128 else bytes([0x81, len(value)])
    return b"\x0c" + size + value


def made(
    box, *values: x509.ExtensionType, without: tuple[x509.ObjectIdentifier, ...] = ()
) -> x509.Certificate:
    """A leaf with these extensions in the place of its own."""

    def edit(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
        for value in values:
            builder = replaced(builder, value)
        builder._extensions[:] = [one for one in builder._extensions if one.oid not in without]
        return builder

    return box.leaf(KEY, edit=edit)


def named(*names: x509.GeneralName) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(names)


def refusal(certificate: x509.Certificate) -> str:
    with pytest.raises(NotGenuine) as caught:
        certificates.identity(certificate, "leaf")
    return caught.value.code


def issuer(oid: x509.ObjectIdentifier, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(oid, value)


def test_a_uri_an_address_and_a_name_of_fulcios_own(box):
    for name, san in (
        (x509.UniformResourceIdentifier(BUILDER.san), BUILDER.san),
        (x509.RFC822Name(ALICE.san), ALICE.san),
        (x509.OtherName(OTHER_NAME, text(b"foo!oidc.local")), "foo!oidc.local"),
    ):
        assert certificates.identity(made(box, named(name)), "leaf").san == san


@pytest.mark.parametrize(
    "names",
    [
        (),
        (x509.DNSName("ci.example"),),
        (x509.OtherName(x509.ObjectIdentifier("1.2.3"), text(b"x")),),
        (x509.OtherName(OTHER_NAME, b"\x16\x01x"),),
        (x509.OtherName(OTHER_NAME, text(b"\xff")),),
        (x509.RFC822Name(ALICE.san), x509.RFC822Name("bob@example.org")),
        (x509.UniformResourceIdentifier(""),),
    ],
)
def test_what_names_nobody_or_several(box, names):
    assert refusal(made(box, named(*names))) == "bundle.identity"


def test_a_certificate_without_a_name(box):
    assert refusal(made(box, without=(x509.SubjectAlternativeName.oid,))) == "bundle.identity"


def test_one_form_of_the_issuer_is_enough_and_both_have_to_agree(box):
    old = made(box, without=(ISSUER_V2,))  # certificates of before 2022-12 have no other
    new = made(box, without=(ISSUER_V1,))
    assert certificates.identity(old, "leaf") == certificates.identity(new, "leaf") == BUILDER
    long = made(box, issuer(ISSUER_V1, LONG.encode()), issuer(ISSUER_V2, text(LONG.encode())))
    assert certificates.identity(long, "leaf") == Identity(san=BUILDER.san, issuer=LONG)
    assert refusal(made(box, without=(ISSUER_V1, ISSUER_V2))) == "bundle.identity"
    assert refusal(made(box, issuer(ISSUER_V1, b"https://other.example"))) == "bundle.identity"


@pytest.mark.parametrize(
    "value", [b"", b"\x0c", b"\x0c\x05abc", b"\x0c\x84", b"\x16\x01x", b"\x0c\x01\xff", b"\x0c\x00"]
)
def test_an_issuer_that_is_no_utf8_string(box, value):
    assert refusal(made(box, issuer(ISSUER_V2, value), without=(ISSUER_V1,))) == "bundle.identity"


@given(st.binary(max_size=40))
def test_any_bytes_as_utf8_string(value):
    found = certificates._utf8_string(value)
    assert found == "" or text(found.encode()) == value


@pytest.mark.parametrize("der", [b"", b"\x30\x00", b"junk"])
def test_what_is_no_certificate(der):
    with pytest.raises(NotGenuine) as caught:
        certificates.load(der, "leaf")
    assert caught.value.code == "bundle.certificate"


def test_a_certificate_that_breaks_where_it_is_read_is_refused(box):
    """The parser reads most fields when they are asked for, and raises then."""
    der = bytearray(box.leaf(KEY).public_bytes(Encoding.DER))
    at = der.index(b"tallystick embedded-dev")
    der[at] = 0xFF  # the issuer's UTF8String is no UTF-8 now
    certificate = certificates.load(bytes(der), "leaf")
    with pytest.raises(NotGenuine) as caught:
        certificates.issuing(certificate, root.parse(box.root).authorities, "leaf")
    assert caught.value.code == "bundle.certificate"


def test_a_leaf_may_leave_out_whose_key_signed_it(box):
    leaf = made(box, without=(x509.AuthorityKeyIdentifier.oid,))
    authorities = root.parse(box.root).authorities
    with pytest.raises(NotGenuine):  # the CA says which key it has, so the leaf has to
        certificates.issuing(leaf, authorities, "leaf")


def test_a_ca_certificate_that_can_not_be_read_is_left_aside(box, bundle):
    document = json.loads(box.root)
    broken = json.loads(box.root)["certificateAuthorities"][0]
    broken["certChain"]["certificates"] = [{"rawBytes": b64(b"junk")}]
    document["certificateAuthorities"].insert(0, broken)
    box.verify(bundle, root=json.dumps(document).encode())


def test_the_authority_key_of_another_ca_is_another_ca(box):
    other = x509.AuthorityKeyIdentifier(b"\0" * 20, None, None)
    leaf = made(box, other)
    with pytest.raises(NotGenuine) as caught:
        box.verify(spelled(box.forge(key=KEY, certificate=leaf)), now=NOW)
    assert caught.value.code == "bundle.certificate"

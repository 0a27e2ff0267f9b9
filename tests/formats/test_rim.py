"""NVIDIA's manifests as XML: what they say, and XML that wants more than a manifest needs."""

from __future__ import annotations

from contextlib import suppress

import pytest
import support_nvidia as made
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.core.errors import Malformed
from tallystick.formats import rim, safexml


def read(text: str | bytes):
    return rim.read(safexml.parse(text if isinstance(text, bytes) else text.encode(), "RIM"))


def test_what_a_manifest_says():
    found = read(made.rim_xml(active={8: [b"a" * 48, b"b" * 48], 3: [b"c" * 48]}, inactive=(1, 2)))
    assert (found.edition, found.product, found.version) == ("GPU", "GH100", "590.12")
    assert (found.tag_id, found.manufacturer_id, found.source) == ("aa", "5703", "driver")
    assert [m.index for m in found.active] == [3, 8]
    assert found.active[1].values == (b"a" * 48, b"b" * 48)
    assert found.inactive == (1, 2)


def test_a_version_says_whose_manifest_it_is():
    assert read(made.rim_xml(version="96.00.A5.00.01")).source == "vbios"


TEXT = made.rim_xml()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("SoftwareIdentity", "Software", "root: want a SoftwareIdentity"),
        ('colloquialVersion="590.12"', "", "colloquialVersion: want a value"),
        ("590.12", "590", "want a driver's or a VBIOS's version"),
        ("590.12", "96.00.a5.00.01", "want a driver's or a VBIOS's version"),
        ("ns1:FirmwareManufacturerId", "ns1:Other", "FirmwareManufacturerId: want a value"),
        ('type="Measurement"', 'type="File"', "Payload: want measurements only"),
        ('active="False"', 'active="false"', "active: want True or False"),
        ('index="7"', 'index="21"', "want each index once, got 21"),
        ('index="0"', 'index="21"', "want each index once, got 21"),
        ('index="7"', 'index="254"', "want a number up to 253"),
        ('index="7"', 'index="07"', "want a number up to 253"),
        ('index="7"', 'index="٧"', "want a number up to 253"),
        ('alternatives="1"', 'alternatives="2"', "want 2 alternatives, got 1"),
        ('alternatives="1"', 'alternatives="0"', "want 0 alternatives, got 1"),
        ("ns2:Hash0", "ns2:Hash1", "Hash0: want a value"),
        ('size="48"', 'size="47"', "want 47 bytes in hex"),
        ('Hash0="08', 'Hash0="0g', "want 48 bytes in hex"),
        ('active="True"', 'active="False"', "want at least one active measurement"),
        ("<ns0:Payload", "<ns0:Payload/><ns0:Payload", "Payload: want exactly one, got 2"),
        ("</SoftwareIdentity>", "<ns0:Meta/></SoftwareIdentity>", "Meta: want exactly one, got 2"),
    ],
)
def test_what_is_no_manifest(old, new, message):
    assert old in TEXT
    with pytest.raises(Malformed, match=message):
        read(TEXT.replace(old, new))


def test_comments_say_nothing():
    assert read(TEXT.replace("<ns0:Resource", "<!-- 1 --><ns0:Resource", 1)) == read(TEXT)


LAUGHS = "<!DOCTYPE x [<!ENTITY a 'ha'><!ENTITY b '&a;&a;'><!ENTITY c '&b;&b;'>]><x>&c;</x>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS.encode(), "want no DTD"),
        (b"<!DOCTYPE x SYSTEM 'file:///etc/passwd'><x/>", "want no DTD"),
        (b"<x><?target data?></x>", "no processing instruction"),
        (LAUGHS.encode("utf-16"), "want UTF-8"),
        (b"<?xml version='1.0' encoding='utf-16'?><x/>", "encoding: want UTF-8"),
        (b"<?xml version='1.0' encoding='UTF-7'?><x/>", "encoding: want UTF-8"),
        (b"<x>&unknown;</x>", "want a well-formed document"),
        (b"<x", "want a well-formed document"),
        (b"", "want a well-formed document"),
        (b"<x>" + b" " * safexml.MAX_BYTES + b"</x>", "size: want at most"),
        (b"<x>" + b"<y/>" * (2 * safexml.MAX_ELEMENTS) + b"</x>", "at most 4096 elements"),
        (b"<x>" + b"<y/>" * safexml.MAX_ELEMENTS + b"</x>", "at most 4096 elements, got 4097"),
        (b"<x>" * 17 + b"</x>" * 17, "at most 16 levels"),
        (b"<x " + b" ".join(b"a%d='1'" % n for n in range(129)) + b"/>", "at most 128 attributes"),
        (b"<x " + b" ".join(b"xmlns:a%d='u'" % n for n in range(33)) + b"/>", "at most 32 namespaces"),
        (b"<x a='1' a='2'/>", "want a well-formed document"),
    ],
)
def test_xml_that_wants_too_much(text, message):
    with pytest.raises(Malformed, match=message):
        safexml.parse(text, "RIM")


def test_a_declaration_may_say_utf_8():
    assert safexml.parse(b"<?xml version='1.0' encoding='UTF-8'?>\n<x/>", "RIM").tag == "x"


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: f"<x>{text}</x>".encode()))
def test_any_xml_is_read_or_refused_by_name(data):
    with suppress(Malformed):
        rim.read(safexml.parse(data, "RIM"))


@settings(max_examples=150)
@given(st.integers(0, len(TEXT) - 1), st.text(max_size=12))
def test_nearly_a_manifest_is_read_or_refused_by_name(at, text):
    with suppress(Malformed):
        read((TEXT[:at] + text + TEXT[at + len(text) :]).encode("utf-8", "surrogatepass"))

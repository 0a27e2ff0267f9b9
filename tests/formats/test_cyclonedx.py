"""CycloneDX documents as plain JSON: what is read, what is refused, how references are walked."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import cyclonedx

IDS = frozenset({"MIT", "GPL-2.0-only", "GPL-2.0", "Linux-syscall-note", "Apache-2.0"})
MINIMAL = b'{"bomFormat":"CycloneDX","specVersion":"1.6"}'


def test_a_bom_says_what_it_is():
    assert cyclonedx.parse(MINIMAL)["specVersion"] == "1.6"
    with pytest.raises(Malformed, match="bomFormat: want CycloneDX"):
        cyclonedx.parse(b'{"spdxVersion":"SPDX-2.3"}')
    with pytest.raises(Malformed, match="bomFormat: want CycloneDX"):
        cyclonedx.parse(b"[]")
    with pytest.raises(Unsupported, match=r"specVersion: want 1\.6 or 1\.7, got '1\.4'"):
        cyclonedx.parse(MINIMAL.replace(b"1.6", b"1.4"))
    with pytest.raises(Malformed, match="a duplicate key"):
        cyclonedx.parse(b'{"bomFormat":"CycloneDX","bomFormat":"CycloneDX","specVersion":"1.6"}')


@given(
    st.binary() | st.recursive(st.none() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c))
)
def test_arbitrary_documents_never_crash_the_walkers(value):
    if isinstance(value, bytes):
        with suppress(Malformed, Unsupported):
            cyclonedx.parse(value)
        return
    document = {"components": value if isinstance(value, list) else [value], "dependencies": value}
    assert len(list(cyclonedx.components(document))) >= 0
    defined, used = cyclonedx.references(document)
    assert isinstance(defined, list)
    assert isinstance(used, list)


@pytest.mark.parametrize(
    "text",
    [
        "MIT",
        "GPL-2.0+",
        "MIT OR Apache-2.0",
        "(MIT AND Apache-2.0) OR GPL-2.0-only WITH Linux-syscall-note",
        "LicenseRef-ours",
        "DocumentRef-spdx-tool:LicenseRef-ours",
        "((MIT))",
    ],
)
def test_what_spdx_takes_is_an_expression(text):
    assert cyclonedx.is_expression(text, IDS)
    assert cyclonedx.licences(text, IDS, "declared") == [{"expression": text, "acknowledgement": "declared"}]


@pytest.mark.parametrize(
    "text",
    [
        "GPL-2+",
        "MIT or Apache-2.0",
        "MIT Apache-2.0",
        "AND MIT",
        "MIT AND",
        "(MIT",
        "MIT)",
        "MIT ()",
        "()",
        "(MIT) WITH Linux-syscall-note",
        "MIT WITH (Linux-syscall-note)",
        "public domain, mostly",
        "MIT\n\x00",
    ],
)
def test_what_spdx_does_not_take_stays_a_name(text):
    assert not cyclonedx.is_expression(text, IDS)
    assert cyclonedx.licences(text, IDS, "declared") == [
        {"license": {"name": text, "acknowledgement": "declared"}}
    ]


@pytest.mark.parametrize("text", ["", "NOASSERTION", "NONE"])
def test_no_licence_is_no_licence(text):
    assert cyclonedx.licences(text, IDS, "declared") == []


def test_nested_components_and_all_references_are_walked():
    document = {
        "metadata": {"component": {"bom-ref": "root"}},
        "components": [{"bom-ref": "a", "components": [{"bom-ref": "b"}]}, {"name": "no ref"}],
        "services": [{"bom-ref": "s"}],
        "dependencies": [{"ref": "a", "dependsOn": ["b"], "provides": ["c"]}],
        "compositions": [{"assemblies": ["root"], "dependencies": ["s"]}],
    }
    assert [part.get("bom-ref") for part in cyclonedx.components(document)] == ["root", "a", "b", None]
    defined, used = cyclonedx.references(document)
    assert sorted(defined) == ["a", "b", "root", "s"]
    assert sorted(used) == [
        ("compositions[0].assemblies[0]", "root"),
        ("compositions[0].dependencies[0]", "s"),
        ("dependencies[0].dependsOn[0]", "b"),
        ("dependencies[0].provides[0]", "c"),
        ("dependencies[0].ref", "a"),
    ]


def test_hashes_are_named_as_cyclonedx_names_them():
    for algorithm, name in ((Algorithm.SHA256, "SHA-256"), (Algorithm.SHA512, "SHA-512")):
        digest = Digest.of(b"x", algorithm)
        assert cyclonedx.hash_of(digest) == {"alg": name, "content": digest.hex}

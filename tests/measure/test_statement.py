"""Measurements as an SCAI statement: what is written is read back, and nothing else is."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import intoto
from tallystick.measure.records import NO_FIRMWARE, Event, Measurement, WaivedRegister
from tallystick.measure.statement import PREDICATE_TYPE, conditions_digest, from_statement, to_statement

PATH = "products/uki.efi"
ONE = Measurement(
    platform="qemu-vtpm",
    evidence_kind="tpm-quote",
    image=Digest.of(b"image"),
    firmware=Digest.of(b"firmware"),
    shape=(("ram_mib", 512), ("vcpus", 1), ("vmm", "qemu")),
    values=(("pcr00", "00" * 32), ("pcr04", "ab" * 32)),
    waived=(
        WaivedRegister(
            name="pcr10",
            decision="docs/decisions/0010-pcr-10.md",
            decided_by="somebody",
            until=datetime(2028, 1, 1, tzinfo=UTC),
        ),
    ),
    events=(),
    calculator="tallystick 1.2.3",
)
TWO = replace(ONE, shape=(("ram_mib", 1024), ("vcpus", 1), ("vmm", "qemu")))


def read(data: bytes) -> tuple[Measurement, ...]:
    return from_statement(intoto.parse(data))


def test_what_is_written_is_read_back_without_its_events():
    told = replace(ONE, events=(Event(register=0, digest=Digest.of(b"x"), what="x"),))
    assert read(to_statement([told, TWO], PATH)) == (ONE, TWO)


def test_the_statement_has_the_shape_others_rely_on():
    document = json.loads(to_statement([ONE], PATH))
    assert document["predicateType"] == "https://in-toto.io/attestation/scai/v0.3"
    assert document["subject"] == [{"name": PATH, "digest": {"sha256": ONE.image.hex}}]
    (attribute,) = document["predicate"]["attributes"]
    assert attribute["attribute"] == "tallystick.measurement"
    assert attribute["target"] == document["subject"][0]
    assert attribute["conditions"] == {
        "platform": "qemu-vtpm",
        "evidence_kind": "tpm-quote",
        "firmware": str(ONE.firmware),
        "shape": {"ram_mib": 512, "vcpus": 1, "vmm": "qemu"},
        "values": {"pcr00": "00" * 32, "pcr04": "ab" * 32},
        "waived": [
            {
                "name": "pcr10",
                "decision": "docs/decisions/0010-pcr-10.md",
                "decided_by": "somebody",
                "until": "2028-01-01T00:00:00Z",
            }
        ],
    }
    assert attribute["evidence"]["name"] == "tallystick 1.2.3"
    assert attribute["evidence"]["digest"]["sha256"] == conditions_digest(attribute["conditions"]).hex


@pytest.mark.parametrize(
    "measurements", [[], [ONE, replace(TWO, image=Digest.of(b"other"))], [ONE, replace(TWO, calculator="x")]]
)
def test_a_statement_has_a_path_for_each_image_and_one_calculator(measurements):
    with pytest.raises(ValueError, match="one path for each image, and one calculator"):
        to_statement(measurements, PATH)
    with pytest.raises(ValueError, match=r"one calculator|no path for sha256:"):
        to_statement(measurements, {ONE.image: PATH})


def test_tuples_of_several_images_name_the_one_that_each_is_of():
    enclave = replace(ONE, platform="aws-nitro", image=Digest.of(b"enclave"), firmware=NO_FIRMWARE)
    data = to_statement([ONE, enclave], {ONE.image: PATH, enclave.image: "products/image.eif"})
    assert read(data) == (ONE, enclave)
    document = json.loads(data)
    assert [subject["name"] for subject in document["subject"]] == ["products/image.eif", PATH]
    targets = [attribute["target"]["name"] for attribute in document["predicate"]["attributes"]]
    assert targets == [PATH, "products/image.eif"]


def edited(*path: str | int, value: object = None, resign: bool = True) -> bytes:
    """Return a statement with one field changed, or taken out when ``value`` is None."""
    document = json.loads(to_statement([ONE, TWO], PATH))
    place = document
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    if resign:
        for attribute in document["predicate"].get("attributes") or []:
            with suppress(Exception):
                attribute["evidence"]["digest"]["sha256"] = conditions_digest(attribute["conditions"]).hex
    return json.dumps(document).encode()


FIRST = ("predicate", "attributes", 0)
IN = (*FIRST, "conditions")
BROKEN = [
    (edited("predicate", "producer"), "predicate: want attributes, producer, got attributes"),
    (edited("predicate", "more", value=1), "predicate: want attributes, producer, got"),
    (edited("predicate", "producer", "name", value=""), "predicate.producer.name: want a text"),
    (edited("predicate", "attributes", value=[]), "predicate.attributes: want at least one"),
    (edited("predicate", "attributes", value=[1]), "predicate.attributes[0]: want an object"),
    (
        edited(*FIRST, "target", "name", value="products/other"),
        "attributes[0].target: want a subject of the statement",
    ),
    (edited(*FIRST, "target", "digest", "sha256", value="00" * 32), "attributes[0].target: want a subject"),
    (edited(*FIRST, "target", "digest", "sha256", value="00"), "sha256: want 64 hex digits"),
    (edited(*FIRST, "evidence", "name", value="other"), "evidence.name: want tallystick 1.2.3, got other"),
    (edited(*IN, "values", "pcr04", value="cd" * 32, resign=False), "evidence.digest: want sha256:"),
    (edited(*IN, "values", "pcr04", value="AB" * 32), "conditions.values.pcr04: want lower-case hex"),
    (edited(*IN, "values", "pcr04", value="abc"), "conditions.values.pcr04: want lower-case hex"),
    (edited(*IN, "values", "pcr04", value=4), "conditions.values.pcr04: want lower-case hex"),
    (edited(*IN, "values", value={}), "conditions.values: want an object of registers"),
    (edited(*IN, "values", "pcr10", value="ab"), "conditions.waived: want registers without a value"),
    (edited(*IN, "shape", value={}), "conditions.shape: want an object"),
    (edited(*IN, "shape", "ram_mib", value=True), "conditions.shape.ram_mib: want a whole number or a text"),
    (edited(*IN, "shape", "ram_mib", value=1.5), "conditions.shape.ram_mib: want a whole number or a text"),
    (edited(*IN, "shape", "ram_mib", value=1 << 60), "conditions: want values of RFC 8785"),
    (edited(*IN, "shape", value=dict(TWO.shape)), "want each platform and shape once"),
    (edited(*IN, "firmware", value="abc"), "want <algorithm>:<lower-case hex>"),
    (edited(*IN, "waived", value={}), "conditions.waived: want a list"),
    (edited(*IN, "waived", 0, "until", value="2028-01-01"), "waived[0].until: want a time"),
    (edited(*IN, "waived", 0, "until", value="2028-13-01T00:00:00Z"), "waived[0].until: want a time"),
    (edited(*IN, "waived", 0, "decided_by", value=""), "waived[0].decided_by: want a text"),
    (edited(*IN, "waived", 0, "decided_by"), "waived[0]: want decided_by, decision, name, until"),
    (edited(*IN, "waived"), "conditions: want evidence_kind, firmware, platform"),
]


@pytest.mark.parametrize(("data", "said"), BROKEN)
def test_a_changed_statement_is_malformed_by_place(data, said):
    with pytest.raises(Malformed) as caught:
        read(data)
    assert said in str(caught.value)


def test_another_predicate_or_attribute_is_unsupported():
    with pytest.raises(Unsupported, match=f"predicateType: want {PREDICATE_TYPE}"):
        read(edited("predicateType", value="https://in-toto.io/attestation/scai/v0.2"))
    with pytest.raises(Unsupported, match=r"attribute: want tallystick\.measurement, got DEBUG"):
        read(edited(*FIRST, "attribute", value="DEBUG"))


def leaves(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(leaf for key, item in items for leaf in leaves(item, (*path, key)))]


DOCUMENT = json.loads(to_statement([ONE, TWO], PATH))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@given(st.sampled_from(leaves(DOCUMENT)[1:]), JSON)
def test_any_value_in_any_place_is_read_or_refused(path, value):
    document = copy.deepcopy(DOCUMENT)
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with suppress(Malformed, Unsupported, UnicodeEncodeError):
        read(json.dumps(document, ensure_ascii=False).encode())

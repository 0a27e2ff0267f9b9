"""The trust file: what is written is read back, what is not exactly a trust file is refused by name."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from pathlib import Path

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signing.boxes import ALICE, BUILDER

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Misuse, TallystickError, Unsupported
from tallystick.signing import trust as trust_file
from tallystick.signing.records import Builder, Custody, Endorser, Trust, Witness

ROOT = Path(__file__).resolve().parents[2]
PEM = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n"
SCHEMA = json.loads((ROOT / "docs/schemas/trust.schema.json").read_text())


@pytest.fixture(scope="module")
def trust(box) -> Trust:
    return Trust(
        label="embedded-dev",
        sigstore_root=box.root,
        builders=(Builder(identity=BUILDER, builder_id="https://b.example/ci"),),
        promoters=(ALICE,),
        layout=b'{"payload":"","payloadType":"x","signatures":[]}',
        layout_owners=(PEM,),
        channels=(("staging", b'{"signed":{"version":1},"signatures":[]}'),),
        endorsers=(
            Endorser(
                kind="tpm-manufacturer", label="software-tpm", spki=Digest.of(b"k"), certificates=(b"der",)
            ),
        ),
    )


@pytest.fixture(scope="module")
def text(trust) -> bytes:
    return trust_file.dump(trust)


def test_what_is_written_is_read_back(trust, text):
    read = trust_file.parse(text)
    for name in ("label", "builders", "promoters", "layout_owners", "endorsers"):
        assert getattr(read, name) == getattr(trust, name)
    assert json.loads(read.sigstore_root) == json.loads(trust.sigstore_root)
    assert read.channel_root("staging") == b'{"signatures":[],"signed":{"version":1}}'
    assert read.channel_root("production") is None
    assert trust_file.dump(read) == text
    assert trust_file.parse(trust_file.dump(read)) == read


def test_a_file_of_it(trust, tmp_path):
    trust_file.save(tmp_path / "trust.json", trust)
    assert trust_file.load(tmp_path / "trust.json") == trust_file.parse(trust_file.dump(trust))
    with pytest.raises(Misuse):
        trust_file.load(tmp_path / "none.json")


def test_nobody_is_believed_when_nobody_is_listed(trust):
    bare = dataclasses.replace(trust, builders=(), promoters=(), layout_owners=(), channels=(), endorsers=())
    assert trust_file.parse(trust_file.dump(bare)).builders == ()


def test_the_schema_says_the_same(text):
    jsonschema_rs.validate(SCHEMA, json.loads(text))


def set_(path: str, value: object):
    """A change of the document: the value at ``path``, or its removal with ``...``."""

    def change(document: dict) -> None:
        *way, last = path.split(".")
        for step in way:
            document = document[int(step) if step.isdigit() else step]
        key = int(last) if isinstance(document, list) else last
        if value is ...:
            del document[key]
        else:
            document[key] = value

    return change


WRONG = {
    "no label": set_("label", ...),
    "another label": set_("label", "debug"),
    "unknown field": set_("more", 1),
    "no builders": set_("builders", ...),
    "builders by name": set_("builders", {}),
    "builders that are texts": set_("builders", ["ci"]),
    "builder without id": set_("builders.0.builder_id", ...),
    "builder with a pattern": set_("builders.0.identity_regex", ".*"),
    "an identity in two words": set_("promoters.0.san", "alice @example.org"),
    "an empty identity": set_("promoters.0.san", ""),
    "an identity that is a list": set_("promoters.0.san", ["alice@example.org"]),
    "an identity without issuer": set_("promoters.0.issuer", ...),
    "a layout that is a text": set_("layout.envelope", "x"),
    "an empty layout": set_("layout.envelope", {}),
    "an owner that is no key": set_("layout.owners.0", "x"),
    "a private key as owner": set_("layout.owners.0", PEM.replace("PUBLIC", "PRIVATE")),
    "a channel of another name": set_("channels.0.name", "../staging"),
    "a channel without root": set_("channels.0.root", ...),
    "an endorser without label": set_("endorsers.0.label", ...),
    "an endorser's key in hex": set_("endorsers.0.spki", "ab" * 32),
    "certificates that are no base64": set_("endorsers.0.certificates.0", "Z=Z"),
    "a root that is a text": set_("sigstore_root", "{}"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused_by_file_and_schema(text, name):
    document = json.loads(text)
    WRONG[name](document)
    with pytest.raises(Malformed, match=r"trust file|digest"):
        trust_file.parse(json.dumps(document).encode())
    assert not jsonschema_rs.is_valid(SCHEMA, document)


@pytest.mark.parametrize("field", ["builders", "promoters", "channels", "endorsers"])
def test_nothing_is_listed_twice(text, field):
    document = json.loads(text)
    document[field] *= 2
    with pytest.raises(Malformed, match=f"{field}: want each once"):
        trust_file.parse(json.dumps(document).encode())


def test_an_embedded_root_is_never_production(text):
    document = json.loads(text)
    document["label"] = "production"
    with pytest.raises(Malformed, match="label: want the label of the root"):
        trust_file.parse(json.dumps(document).encode())


def test_another_root_is_never_embedded(text):
    document = json.loads(text)
    document["sigstore_root"]["certificateAuthorities"] = []
    with pytest.raises(Malformed, match="label"):
        trust_file.parse(json.dumps(document).encode())
    document["label"] = "production"
    assert trust_file.parse(json.dumps(document).encode()).label == "production"


def test_a_digest_by_another_algorithm_is_refused(text):
    document = json.loads(text)
    document["endorsers"][0]["spki"] = "sha512:" + "ab" * 64
    with pytest.raises(Malformed, match="want a sha256"):
        trust_file.parse(json.dumps(document).encode())


def test_another_schema_is_unsupported(text):
    for schema in ("tallystick/trust/v2", None):
        with pytest.raises(Unsupported, match="schema"):
            trust_file.parse(json.dumps(json.loads(text) | {"schema": schema}).encode())
    with pytest.raises(Malformed, match="want an object"):
        trust_file.parse(b"[]")


def test_a_number_that_json_readers_would_change_is_refused(text):
    document = json.loads(text)
    document["channels"][0]["root"]["version"] = 2**60 + 1
    with pytest.raises(Malformed, match="RFC 8785"):
        trust_file.parse(json.dumps(document).encode())


def test_what_would_be_refused_is_not_written(trust):
    with pytest.raises(Malformed):
        trust_file.dump(dataclasses.replace(trust, label="debug"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(0), st.sampled_from(["cut", "flip", "bytes", "drop"]))
def test_bytes_are_refused_by_our_errors_alone(text, noise, at, how):
    at %= len(text)
    damaged = {
        "cut": text[:at],
        "flip": text[:at] + bytes([text[at] ^ 0x11]) + text[at + 1 :],
        "bytes": noise,
        "drop": text[:at] + text[at + 1 + len(noise) :],
    }[how]
    with suppress(TallystickError):
        trust_file.parse(damaged)


def test_witnesses_and_custody_read_back_and_are_held_to_rules(trust):
    replace, plain = dataclasses.replace, trust
    one = Witness(name="w.example/1", holder="Wanda Witness", public_key=b"\x01" * 32)
    two = Witness(name="w.example/2", holder="Wanda Witness", public_key=b"\x02" * 32)
    held = (Custody(holder="Cecil (CA)", keys=(Digest.of(b"a"), Digest.of(b"b"))),)
    full = replace(plain, witnesses=(one, two), witness_threshold=1, custody=held)
    data = trust_file.dump(full)
    read = trust_file.parse(data)
    assert (read.witnesses, read.witness_threshold, read.custody) == ((one, two), 1, held)
    assert jsonschema_rs.is_valid(SCHEMA, json.loads(data))
    assert (full.holder(Digest.of(b"b")), full.holder(Digest.of(b"c"))) == ("Cecil (CA)", None)
    for wrong in (
        replace(full, witness_threshold=2),  # two witnesses, one holder
        replace(full, witnesses=(one, replace(two, name=one.name))),
        replace(full, witnesses=(one, replace(two, public_key=one.public_key))),
        replace(full, witnesses=(replace(one, public_key=b"short"),)),
        replace(full, custody=(*held, Custody(holder="Lena", keys=(Digest.of(b"b"),)))),
        replace(full, custody=(*held, Custody(holder="Cecil (CA)", keys=()))),
    ):
        with pytest.raises(Malformed):
            trust_file.dump(wrong)

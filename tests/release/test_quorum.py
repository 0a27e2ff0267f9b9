"""The rebuild quorum: independent builders agree, or the release is not to be had."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from release.made import (
    CI,
    NOW,
    YEAR,
    functionary,
    link_files,
    owned_layout,
    plain_release,
    signatory,
)

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine, Refused, TallystickError, Unsupported
from tallystick.release import keys, layout, links, quorum
from tallystick.release.envelope import seal, unseal


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return plain_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return plain_release(tmp_path_factory.mktemp("other"), seed="two")


def codes(error):
    return [finding.code for finding in error.value.findings]


def test_key_ids_are_securesystemslibs():
    who = signatory()
    assert who.keyid == who.signer.public_key.keyid


def test_a_key_is_kept_private_and_read_back(tmp_path):
    made = keys.make(tmp_path / "alice", "alice")
    assert (tmp_path / "alice").stat().st_mode & 0o777 == 0o700
    path = tmp_path / "alice" / keys.KEY_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.load(tmp_path / "alice", "alice").keyid == made.keyid
    assert keys.from_pem(keys.public_pem(made.public_key), "key") == made.public_key
    with pytest.raises(TallystickError, match="there is a key already"):
        keys.make(tmp_path / "alice", "alice")
    path.chmod(0o640)
    with pytest.raises(TallystickError, match="can be read by others"):
        keys.load(tmp_path / "alice", "alice")
    path.chmod(0o600)
    path.write_text("no key")
    with pytest.raises(Malformed, match="want a PEM private key"):
        keys.load(tmp_path / "alice", "alice")
    with pytest.raises(TallystickError, match="bob has no key"):
        keys.load(tmp_path / "bob", "bob")


# The layout


def sealed(change, *, signer=None):
    """A layout of three builders after ``change``, signed by an owner; and the owner's PEM."""
    owner = signer or signatory("owner")
    data = layout.make([owner], [functionary(signatory(n)) for n in "abc"], threshold=2, expires=NOW + YEAR)
    _, document = unseal(data, "layout", "layout")
    change(document)
    return seal(document, [owner]), [keys.public_pem(owner.public_key)]


def step(document):
    return document["steps"][0]


def twice(document):
    """One key value under two key ids, as verifylib's own TODO warns."""
    first = next(iter(document["keys"].values()))
    fake = {**first, "keyid": "ab" * 32, "x-tallystick": {**first["x-tallystick"], "name": "twin"}}
    document["keys"]["ab" * 32] = fake
    step(document)["pubkeys"] = sorted(document["keys"])


INSPECTION = {"_type": "inspection", "name": "x", "run": ["true"]}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (twice, "release.layout.duplicate-key"),
        (twice, "release.layout.keyid"),
        (twice, "release.layout.duplicate-builder"),
        (lambda d: d.update(inspect=[INSPECTION]), "release.layout.inspection"),
        (lambda d: d.update(expires="2026-11-22T12:00:00Z"), "release.layout.expired"),
        (lambda d: step(d).update(threshold=0), "release.layout.threshold"),
        (lambda d: step(d).update(threshold=-1), "release.layout.threshold"),
        (lambda d: step(d).update(threshold=4), "release.layout.threshold"),
        (lambda d: step(d).update(pubkeys=[]), "release.layout.pubkeys"),
        (lambda d: d.update(steps=[]), "release.layout.step"),
        (lambda d: step(d).update(name="package"), "release.layout.step"),
        (lambda d: d["steps"].append({**step(d), "name": "also"}), "release.layout.step"),
        (lambda d: step(d)["expected_products"].insert(0, ["ALLOW", "*"]), "release.layout.wildcard"),
        (lambda d: step(d)["expected_materials"].insert(0, ["ALLOW", "ni?"]), "release.layout.wildcard"),
        (lambda d: step(d)["expected_products"].insert(0, ["ALLOW", "[p]"]), "release.layout.wildcard"),
        (lambda d: step(d)["expected_products"].insert(0, ["CREATE", "x"]), "release.layout.rule"),
        (lambda d: step(d)["expected_products"].insert(0, ["DISALLOW", "x"]), "release.layout.rule"),
        (lambda d: step(d)["expected_products"].pop(), "release.layout.open"),
        (lambda d: step(d).update(expected_products=[]), "release.layout.open"),
        (
            lambda d: step(d)["expected_products"].remove(["REQUIRE", layout.MEASUREMENTS]),
            "release.layout.rule",
        ),
        (lambda d: step(d)["expected_materials"].remove(["REQUIRE", "nix"]), "release.layout.rule"),
    ],
)
def test_an_unfit_layout_is_refused_by_name(change, code):
    data, owners = sealed(change)
    with pytest.raises(Refused, match="the in-toto layout is refused") as error:
        layout.read(data, owners, NOW)
    assert code in codes(error)


def test_a_fit_layout_is_read_and_in_toto_reads_it_too(tmp_path):
    from in_toto.models.metadata import Metadata

    data, owners = sealed(lambda document: None)
    read = layout.read(data, owners, NOW)
    assert [f.name for f in read.functionaries] == ["a", "b", "c"]
    assert (read.threshold, read.expires) == (2, NOW + YEAR)
    (tmp_path / "root.layout").write_bytes(data)
    theirs = Metadata.load(str(tmp_path / "root.layout")).get_payload()
    assert theirs.steps[0].threshold == 2


def test_a_layout_that_would_be_refused_is_not_made():
    with pytest.raises(Refused, match="would be refused") as error:
        layout.make([signatory()], [functionary(signatory())], threshold=2, expires=NOW + YEAR)
    assert codes(error) == ["release.layout.threshold"]


def test_only_the_owners_make_a_layout():
    one, two, stranger = signatory("one"), signatory("two"), signatory("stranger")
    pems = [keys.public_pem(o.public_key) for o in (one, two)]
    builders = [functionary(signatory("a"))]
    both = layout.make([one, two], builders, threshold=1, expires=NOW + YEAR)
    assert layout.read(both, pems, NOW).threshold == 1
    for signers in ([one], [stranger, two], [stranger]):
        data = layout.make(signers, builders, threshold=1, expires=NOW + YEAR)
        with pytest.raises(NotGenuine, match="not signed by its owners") as error:
            layout.read(data, pems, NOW)
        assert set(codes(error)) == {"release.layout.signature"}
    with pytest.raises(NotGenuine, match="not signed by its owners"):
        layout.read(both, [], NOW)
    lied = json.loads(both)
    lied["signatures"][0]["sig"] = base64.b64encode(b"0" * 64).decode()
    with pytest.raises(NotGenuine, match="not signed by its owners") as error:
        layout.read(rfc8785.dumps(lied), pems, NOW)
    assert error.value.findings[0].got == "a wrong one"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(more=1), "fields: want _type"),
        (lambda d: d.update(keys=[]), "keys: want an object of keys"),
        (lambda d: d.update(steps={}), "steps: want a list of steps"),
        (lambda d: d.update(expires="soon"), "expires: want YYYY"),
        (lambda d: step(d).update(threshold="2"), "threshold: want a number"),
        (lambda d: step(d).update(threshold=True), "threshold: want a number"),
        (lambda d: step(d).update(more=1), "step: want _type"),
        (lambda d: step(d).update(expected_products="*"), "expected_products: want a list of rules"),
        (lambda d: step(d).update(expected_products=[[]]), "expected_products: want a list of rules"),
        (lambda d: d.update(_type="link"), "_type: want layout"),
        (lambda d: next(iter(d["keys"].values())).update(keytype="rsa"), "key: want ed25519"),
        (lambda d: next(iter(d["keys"].values())).update(keyval={"public": "AA"}), "want 64 lower-case"),
        (lambda d: next(iter(d["keys"].values())).pop("x-tallystick"), "want an ed25519 key with"),
        (lambda d: next(iter(d["keys"].values())).update({"x-tallystick": {}}), "want builder_id, name"),
        (lambda d: next(iter(d["keys"].values())).update(subkeys={}), "want an ed25519 key with"),
    ],
)
def test_a_malformed_layout_says_where(change, said):
    data, owners = sealed(change)
    with pytest.raises(Malformed, match=said):
        layout.read(data, owners, NOW)


# Links and the quorum


def test_enough_equal_rebuilds_meet_the_quorum_and_in_toto_agrees(release):
    a, b, c = (signatory(name) for name in "abc")
    rules = owned_layout([functionary(w) for w in (a, b, c)], threshold=2)
    files = link_files(release, [a, c])
    judged = quorum.judge(rules, files, release, builder_id=CI)
    assert judged.met
    assert [f.name for f in judged.counted] == ["a", "c"]
    assert quorum.shortfall(judged) == ()
    quorum.second_opinion(rules, files, judged)
    assert [name for name, _ in judged.links] == sorted(files)


def test_in_toto_agrees_long_after_the_layout_expired(release):
    """A decision is replayed as of its time; in-toto would read today's clock."""
    a, owner = signatory("a"), signatory("owner")
    then = NOW - 10 * YEAR
    data = layout.make([owner], [functionary(a)], threshold=1, expires=then + timedelta(days=1))
    rules = layout.read(data, [keys.public_pem(owner.public_key)], then)
    files = link_files(release, [a])
    judged = quorum.judge(rules, files, release, builder_id=CI)
    quorum.second_opinion(rules, files, judged)
    with pytest.raises(NotGenuine, match="in-toto refuses") as error:
        quorum.second_opinion(
            rules, link_files(release, [replace(a, keyid=a.keyid, signer=signatory().signer)]), judged
        )
    assert codes(error) == ["release.quorum.in-toto"]


def test_too_few_are_not_enough_and_say_how_many(release):
    a, b = signatory("a"), signatory("b")
    rules = owned_layout([functionary(a), functionary(b)], threshold=2)
    for whos, got in (([], "0: nobody"), ([a], "1: a")):
        judged = quorum.judge(rules, link_files(release, whos), release, builder_id=CI)
        assert not judged.met
        (finding,) = quorum.shortfall(judged)
        assert (finding.code, finding.got) == ("release.quorum.missing", got)


def test_the_builder_that_made_the_release_does_not_count(release):
    ci, twin, other_org = signatory("ci"), signatory("twin"), signatory("other")
    rules = owned_layout(
        [
            functionary(ci, builder_id=CI, organisation="ci.example"),
            functionary(twin, organisation="ci.example"),
            functionary(other_org),
        ],
        threshold=1,
    )
    judged = quorum.judge(rules, link_files(release, [ci, twin]), release, builder_id=CI)
    assert judged.counted == ()
    assert [(f.name, why) for f, why in judged.not_counted] == [
        ("ci", "it made the release"),
        ("twin", "ci.example made the release"),
    ]
    assert "it made the release" in quorum.shortfall(judged)[0].got
    assert quorum.judge(rules, link_files(release, [ci, other_org]), release, builder_id=CI).met


def test_two_aliases_of_one_organisation_count_once(release):
    a, b, c = (signatory(name) for name in "abc")
    rules = owned_layout(
        [functionary(a, organisation="one"), functionary(b, organisation="one"), functionary(c)], threshold=2
    )
    judged = quorum.judge(rules, link_files(release, [a, b]), release, builder_id=CI)
    assert not judged.met
    assert judged.not_counted[0][1] == "one counts already"
    assert quorum.judge(rules, link_files(release, [a, b, c]), release, builder_id=CI).met


def test_dissent_is_named_and_not_outvoted(release):
    a, b, c = (signatory(name) for name in "abc")
    rules = owned_layout([functionary(w) for w in (a, b, c)], threshold=1)
    other = Digest.of(b"other bytes")
    files = link_files(release, [a, b]) | link_files(release, [c], changed={"products/uki.efi": other})
    with pytest.raises(Refused, match="do not agree") as error:
        quorum.judge(rules, files, release, builder_id=CI)
    (finding,) = error.value.findings
    assert (finding.code, finding.where) == ("release.quorum.dissent", "c: product products/uki.efi")
    assert finding.got == str(other)


def test_dissent_over_measurements_materials_and_extra_products_is_named(release):
    a = signatory("a")
    rules = owned_layout([functionary(a)])
    true = links.expected(release)
    one = Digest.of(b"1")
    for materials, products, where in (
        (true.materials, (*true.products, ("products/zzz", one)), "product products/zzz"),
        (true.materials, true.products[:-1], "product statements/measurements.json"),
        ((("nix", one), *true.materials[1:]), true.products, "material nix"),
    ):
        made = links.make(
            release.digest, links.Artifacts(materials=tuple(materials), products=tuple(products)), a
        )
        with pytest.raises(Refused, match="do not agree") as error:
            quorum.judge(rules, {links.file_name(a.keyid): made}, release, builder_id=CI)
        assert [f.where for f in error.value.findings] == [f"a: {where}"]


def test_a_link_for_another_release_is_refused_by_name(release, other):
    a = signatory("a")
    rules = owned_layout([functionary(a)])
    with pytest.raises(Refused, match="do not agree") as error:
        quorum.judge(rules, link_files(other, [a]), release, builder_id=CI)
    assert codes(error) == ["release.link.other-release"]
    assert error.value.findings[0].want == str(release.digest)


def test_a_product_that_the_layout_does_not_name_is_refused(tmp_path):
    a, owner = signatory("a"), signatory("owner")
    made = plain_release(tmp_path)
    data = layout.make(
        [owner], [functionary(a)], threshold=1, expires=NOW + YEAR, products=("products/uki.efi",)
    )
    rules = layout.read(data, [keys.public_pem(owner.public_key)], NOW)
    with pytest.raises(Refused, match="do not agree") as error:
        quorum.judge(rules, link_files(made, [a]), made, builder_id=CI)
    assert [(f.code, f.where) for f in error.value.findings] == [
        ("release.quorum.product", "products/initramfs.cpio.xz")
    ]


def test_links_that_are_not_genuine_are_named(release):
    a, stranger = signatory("a"), signatory("stranger")
    rules = owned_layout([functionary(a)])
    forged = links.make(release.digest, links.expected(release), replace(a, signer=stranger.signer))
    true = link_files(release, [a])[links.file_name(a.keyid)]
    for files, code in (
        (link_files(release, [stranger]), "release.link.unauthorised"),
        ({links.file_name(a.keyid): forged}, "release.link.signature"),
        ({links.file_name(a.keyid): b"{}"}, "release.link.malformed"),
        ({"build.00000000.link": true}, "release.link.malformed"),
        ({"notes.txt": true}, "release.link.malformed"),
        ({links.file_name(a.keyid): b" " + true}, "release.link.malformed"),
    ):
        with pytest.raises(NotGenuine, match="not genuine") as error:
            quorum.judge(rules, files, release, builder_id=CI)
        assert codes(error) == [code]
        assert error.value.findings[0].where == f"links/{next(iter(files))}"


def test_every_flipped_bit_of_a_link_is_noticed(release):
    a = signatory("a")
    rules = owned_layout([functionary(a)])
    ((file, data),) = link_files(release, [a]).items()
    for at in range(len(data)):
        for bit in (1, 0x20):
            damaged = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
            with pytest.raises(NotGenuine, match="not genuine"):
                quorum.judge(rules, {file: damaged}, release, builder_id=CI)


def test_empty_lists_of_artifacts_are_refused(release):
    """in-toto's recorder writes them, without an error, when it found nothing."""
    a = signatory("a")
    true = links.expected(release)
    for artifacts in (replace(true, products=()), replace(true, materials=())):
        with pytest.raises(Malformed, match="want at least one artifact"):
            links.parse(links.file_name(a.keyid), links.make(release.digest, artifacts, a))


NEARLY = st.sampled_from(["payload", "signatures", "payloadType"]).flatmap(
    lambda name: st.tuples(st.just(name), st.none() | st.text() | st.integers() | st.lists(st.text()))
)


@given(st.binary() | NEARLY)
def test_whatever_is_read_as_a_link_or_layout_is_read_or_refused(data):
    if isinstance(data, tuple):
        base = {
            "payload": "e30=",
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": "AA=="}],
        }
        data = json.dumps(base | {data[0]: data[1]}).encode()
    with suppress(Malformed, Unsupported):
        links.parse("build.00000000.link", data)
    with suppress(Malformed, Unsupported, NotGenuine, Refused):
        layout.read(data, ["no key"], NOW)


DOCUMENT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELD = st.sampled_from(
    ["expires", "inspect", "keys", "readme", "steps", "materials", "products", "byproducts"]
)


@settings(max_examples=150)
@given(FIELD, DOCUMENT)
def test_signed_nonsense_is_refused_and_never_crashes(field, value):
    owner = signatory()
    try:
        data, owners = sealed(lambda d: d.update({field: value}), signer=owner)
    except rfc8785.CanonicalizationError:
        return
    with suppress(Malformed, Refused, Unsupported):
        layout.read(data, owners, NOW)
    document = {
        "_type": "link", "byproducts": {"release": f"sha256:{'0' * 64}"}, "command": [], "environment": {},
        "materials": {}, "name": "build", "products": {}, field: value,
    }  # fmt: skip
    with suppress(Malformed, Unsupported):
        links.parse(links.file_name(owner.keyid), seal(document, [owner]))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda n: st.tuples(
            st.integers(1, n),
            st.lists(st.sampled_from(["silent", "honest", "liar", "forger"]), min_size=n, max_size=n),
        )
    )
)
def test_no_k_minus_1_dishonest_builders_release_bytes_that_honest_ones_did_not_get(release, plan):
    """``release`` is what a dishonest CI made: honest rebuilders get other bytes, liars vouch for it."""
    threshold, roles = plan
    whos = [signatory(f"b{i}") for i in range(len(roles))]
    rules = owned_layout([functionary(who) for who in whos], threshold=threshold)
    honest = {"products/uki.efi": Digest.of(b"what the source really gives")}
    files: dict[str, bytes] = {}
    for who, role in zip(whos, roles, strict=True):
        if role == "honest":
            files |= link_files(release, [who], changed=honest)
        elif role == "liar":
            files |= link_files(release, [who])
        elif role == "forger":  # another key in this builder's name
            files |= link_files(release, [replace(who, signer=signatory().signer)])
    try:
        releasable = quorum.judge(rules, files, release, builder_id=CI).met
    except (Refused, NotGenuine):
        releasable = False
    liars = roles.count("liar")
    assert releasable == (liars >= threshold and not {"honest", "forger"} & set(roles))
    assert not (releasable and liars <= threshold - 1)


def test_links_are_in_totos_own(release, tmp_path):
    """Our files are read by in-toto's reader, signature and all."""
    from in_toto.models.metadata import Metadata

    a = signatory("a")
    ((file, data),) = link_files(release, [a]).items()
    (tmp_path / file).write_bytes(data)
    theirs = Metadata.load(str(tmp_path / file))
    theirs.verify_signature({**a.signer.public_key.to_dict(), "keyid": a.keyid})
    assert (
        theirs.get_payload().products["products/uki.efi"]["sha256"]
        == dict(links.expected(release).products)["products/uki.efi"].hex
    )
    assert Path(file).name == f"build.{a.keyid[:8]}.link"

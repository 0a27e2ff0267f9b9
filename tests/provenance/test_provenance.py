"""Provenance: made from derivation texts, and re-derived from the released files alone."""

import json
from dataclasses import replace

import pytest
from sbom import builds

from tallystick.build.records import NixFacts
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import drv, intoto, nixstore, slsa
from tallystick.provenance import check, make

MADE = builds.make()
BUILD = replace(MADE.build, sources=((builds.SOURCE, builds.SOURCE_NAR),))
BUILDER = "https://tallystick.local/builders/ci"
DATA = make.statement(BUILD, builder_id=BUILDER)


def released(build=BUILD):
    return check.Released(
        products={product.path: product.digest for product in build.products},
        recipe=build.recipe,
        derivations=build.derivations,
        firmware={item.path: item.digest for item in build.firmware},
    )


def codes(change=None, released=released()):  # noqa: B008
    """Return the codes of all findings after ``change`` had its way with a good statement."""
    document = json.loads(DATA)
    if change is not None:
        change(document)
    data = json.dumps(document).encode()
    return [finding.code for finding in check.check(intoto.parse(data), released).findings]


def definition(document):
    return document["predicate"]["buildDefinition"]


def dependency(document, name):
    return next(d for d in definition(document)["resolvedDependencies"] if d["name"] == name)


def test_a_good_statement_is_re_derived_without_findings():
    checked = check.check(intoto.parse(DATA), released())
    assert checked.findings == ()
    assert checked.provenance.builder_id == BUILDER
    assert len(checked.graph.derivations) == len(BUILD.derivations)


def test_the_same_build_gives_the_same_bytes_and_another_builder_others():
    assert make.statement(BUILD, builder_id=BUILDER) == DATA
    assert make.statement(BUILD, builder_id=BUILDER + "2") != DATA


def test_subjects_are_the_products_by_the_digest_of_the_file():
    statement = intoto.parse(DATA)
    assert [(s.name, dict(s.digests)) for s in statement.subjects] == [
        (product.path, {"sha256": product.digest.hex}) for product in BUILD.products
    ]


def test_every_fixed_output_is_a_dependency_and_a_nar_hash_is_never_called_sha256():
    provenance = slsa.parse(intoto.parse(DATA))
    found = {item.name: item for item in provenance.dependencies}
    assert len(found) == 9  # six packages, the compiler, the seed tree, the project's source
    libc = found[builds.LIBC.seed]
    assert libc.digests == (("sha256", builds.LIBC.digest.hex),)
    assert libc.uri == builds.LIBC.purl
    seed = found["busybox-seed"]
    assert [name for name, _ in seed.digests] == ["narHash"]
    assert seed.uri == "seed:busybox-seed"
    source = found["attester"]
    assert source.digests == (("narHash", builds.SOURCE_NAR.hex),)
    assert source.annotation("nix:output") == builds.SOURCE
    assert found["gcc.deb"].uri.startswith("nix-store:/nix/store/")


def test_other_hashes_and_texts_that_are_not_utf_8_are_carried():
    maker = builds.Maker()
    path = maker.fixed("old", "0" * 128, "r:sha512", url="seed:\udcff")
    item = make.fixed_output(path, drv.parse(maker.texts[path]))
    assert item.digests == (("narHash-sha512", "0" * 128),)
    assert item.uri == "seed:\\xff"


def test_the_recipe_and_how_nix_ran_are_in_it():
    provenance = slsa.parse(intoto.parse(DATA))
    assert slsa.resource(provenance.external["recipe"], "recipe").content == builds.RECIPE
    assert provenance.internal["nix"]["config"] == dict(builds.NIX.config)
    assert provenance.internal["products"]["uki"]["drv"] == BUILD.product("uki").drv
    texts = dict(BUILD.derivations)
    texts_of = [item for item in provenance.byproducts if item.name.startswith("derivations/")]
    assert {item.annotation("nix:drv"): item.digest("sha256") for item in texts_of} == {
        made.drv: Digest.of(texts[made.drv]).hex for made in (*BUILD.products, *BUILD.firmware)
    }
    assert [item.name for item in provenance.byproducts if item not in texts_of] == ["firmware/ovmf.fd"]


def test_the_commit_is_named_and_the_times_are_only_there_when_given():
    source = make.Source(uri="git+https://example.org/tallystick", commit="1" * 40)
    data = make.statement(BUILD, builder_id=BUILDER, source=source, started_on="2026-11-22T10:00:00Z")
    provenance = slsa.parse(intoto.parse(data))
    assert provenance.started_on == "2026-11-22T10:00:00Z"
    assert provenance.dependencies[0].digest("gitCommit") == "1" * 40
    (tree,) = [item for item in provenance.dependencies if item.digest("narHash") == builds.SOURCE_NAR.hex]
    assert tree.annotation("source:gitCommit") == "1" * 40
    assert check.check(intoto.parse(data), released()).findings == ()
    assert "metadata" not in json.loads(DATA)["predicate"]["runDetails"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda d: d["subject"].pop(), "provenance.subject.missing"),
        (
            lambda d: d["subject"].append({"name": "products/x", "digest": {"sha256": "0" * 64}}),
            "provenance.subject.extra",
        ),
        (lambda d: d["subject"].append(d["subject"][0]), "provenance.subject.duplicate"),
        (lambda d: d["subject"][0]["digest"].update(sha256="0" * 64), "provenance.subject.digest"),
        (lambda d: definition(d)["externalParameters"].update(also=1), "provenance.external.unknown"),
        (
            lambda d: definition(d)["externalParameters"]["recipe"].update(content="eA=="),
            "provenance.recipe",
        ),
        (lambda d: definition(d)["internalParameters"]["nix"].update(sandbox=False), "provenance.nix"),
        (lambda d: definition(d)["internalParameters"]["nix"].update(sandbox="true"), "provenance.nix"),
        (lambda d: definition(d)["internalParameters"]["nix"].pop("buildUsers"), "provenance.nix"),
        (
            lambda d: definition(d)["internalParameters"]["products"].pop("uki"),
            "provenance.product.missing",
        ),
        (
            lambda d: definition(d)["internalParameters"]["products"]["uki"].update(path="products/x"),
            "provenance.product.extra",
        ),
        (
            lambda d: definition(d)["internalParameters"]["products"]["uki"].update(drv="/nix/store/x"),
            "provenance.product.drv",
        ),
        (
            lambda d: definition(d)["internalParameters"]["products"]["uki"].update(output=builds.SOURCE),
            "provenance.product.output",
        ),
        (lambda d: definition(d)["resolvedDependencies"].pop(), "provenance.dependency.missing"),
        (
            lambda d: definition(d)["resolvedDependencies"].append(
                {"name": "planted", "uri": "x", "annotations": {"nix:drv": "/nix/store/x.drv"}}
            ),
            "provenance.dependency.extra",
        ),
        (
            lambda d: definition(d)["resolvedDependencies"].append(dependency(d, "gcc.deb")),
            "provenance.dependency.duplicate",
        ),
        (
            lambda d: dependency(d, "gcc.deb")["digest"].update(sha256="0" * 64),
            "provenance.dependency.digest",
        ),
        (
            lambda d: dependency(d, "busybox-seed").update(
                digest={"sha256": dependency(d, "busybox-seed")["digest"]["narHash"]}
            ),
            "provenance.dependency.digest",
        ),
        (lambda d: dependency(d, "attester").pop("digest"), "provenance.source.digest"),
        (
            lambda d: dependency(d, "attester")["digest"].update(sha256=builds.SOURCE_NAR.hex),
            "provenance.source.digest",
        ),
        (lambda d: definition(d)["internalParameters"]["nix"].update(sandbox=1), "provenance.nix"),
        (
            lambda d: definition(d)["internalParameters"]["nix"]["config"].update(sandbox="relaxed"),
            "provenance.nix",
        ),
        (
            lambda d: definition(d)["internalParameters"]["nix"]["config"].update(
                substituters="https://cache.example"
            ),
            "provenance.nix",
        ),
        (
            lambda d: dependency(d, "attester")["annotations"].update({"source:gitCommit": "1" * 40}),
            "provenance.source.commit",
        ),
        (
            lambda d: dependency(d, "attester")["digest"].update(narHash="0" * 64),
            "provenance.source.path",
        ),
        (
            lambda d: d["predicate"]["runDetails"]["byproducts"][1]["digest"].update(sha256="0" * 64),
            "provenance.root.digest",
        ),
        (
            lambda d: d["predicate"]["runDetails"]["byproducts"][1]["annotations"].update(
                {"nix:drv": "/nix/store/x.drv"}
            ),
            "provenance.root.missing",
        ),
        (lambda d: d["predicate"]["runDetails"].pop("byproducts"), "provenance.root.stray"),
        (lambda d: d["predicate"]["runDetails"]["byproducts"].pop(0), "provenance.firmware"),
        (
            lambda d: d["predicate"]["runDetails"]["byproducts"][0]["digest"].update(sha256="0" * 64),
            "provenance.firmware",
        ),
        (
            lambda d: d["predicate"]["runDetails"]["byproducts"][0]["annotations"].pop("nix:output"),
            "provenance.firmware.drv",
        ),
    ],
)
def test_one_thing_wrong_is_found_by_name(change, code):
    assert code in codes(change)


def test_a_product_file_that_changed_is_found():
    other = replace(released(), products={**released().products, "products/uki.efi": Digest.of(b"x")})
    assert codes(released=other) == ["provenance.subject.digest"]
    more = replace(released(), products={**released().products, "products/new": Digest.of(b"x")})
    assert codes(released=more) == ["provenance.subject.missing", "provenance.product.missing"]


def test_a_recipe_that_changed_is_found_twice_by_digest_and_by_content():
    assert codes(released=replace(released(), recipe=b"other")) == ["provenance.recipe"] * 2


def test_a_changed_derivation_is_named_itself_and_what_is_built_on_it_is_not_blamed():
    def changed(path, text):
        return text.replace(b"made", b"Made") if path.endswith("-tools.drv") else text

    other = replace(
        released(), derivations=tuple((path, changed(path, text)) for path, text in BUILD.derivations)
    )
    findings = check.check(intoto.parse(DATA), other).findings
    assert [finding.code for finding in findings] == ["provenance.drv.path"]
    assert findings[0].where.endswith("-tools.drv")


def test_a_derivation_that_claims_another_output_is_found():
    """Renamed to the path that its text leads to, as a careful forger would, the output still does not follow."""
    uki = BUILD.product("uki")
    texts = dict(BUILD.derivations)
    forged = texts.pop(uki.drv).replace(uki.output.encode(), uki.output.replace("uki", "oki").encode())
    made = drv.parse(forged)
    path = nixstore.text_path(nixstore.name_of(uki.drv), forged, [needed for needed, _ in made.inputs])
    build = replace(
        BUILD,
        derivations=tuple(sorted({**texts, path: forged}.items())),
        products=(
            BUILD.products[0],
            replace(uki, drv=path, output=uki.output.replace("uki", "oki")),
        ),
    )
    data = make.statement(build, builder_id=BUILDER)
    found = [finding.code for finding in check.check(intoto.parse(data), released(build)).findings]
    assert found == ["provenance.output.path"]


def test_an_output_variable_that_says_something_else_is_found():
    """The masked text does not cover the variable, so this is checked by itself."""
    uki = BUILD.product("uki")
    texts = dict(BUILD.derivations)
    elsewhere = f'("out","{builds.SOURCE}")'
    forged = texts.pop(uki.drv).replace(f'("out","{uki.output}")'.encode(), elsewhere.encode())
    made = drv.parse(forged)
    path = nixstore.text_path(nixstore.name_of(uki.drv), forged, [needed for needed, _ in made.inputs])
    build = replace(
        BUILD,
        derivations=tuple(sorted({**texts, path: forged}.items())),
        products=(BUILD.products[0], replace(uki, drv=path)),
    )
    data = make.statement(build, builder_id=BUILDER)
    found = [finding.code for finding in check.check(intoto.parse(data), released(build)).findings]
    assert found == ["provenance.output.variable"]


def test_an_unsandboxed_build_is_said_and_found():
    nix = NixFacts(
        version="2.8.0",
        system="x86_64-linux",
        sandbox=False,
        sandbox_fallback=True,
        build_users=False,
        config=(),
    )
    data = make.statement(replace(BUILD, nix=nix), builder_id=BUILDER)
    findings = check.check(intoto.parse(data), released()).findings
    assert [finding.where for finding in findings] == [
        "internalParameters.nix.sandbox",
        "internalParameters.nix.sandboxFallback",
        "internalParameters.nix.buildUsers",
    ]


def test_other_predicates_and_build_types_are_not_judged():
    document = json.loads(DATA)
    definition(document)["buildType"] = (
        "https://slsa-framework.github.io/github-actions-buildtypes/workflow/v1"
    )
    with pytest.raises(Unsupported, match="buildType: want https://tallystick"):
        check.check(intoto.parse(json.dumps(document).encode()), released())
    document["predicateType"] = "https://cyclonedx.org/bom"
    with pytest.raises(Unsupported, match="predicateType"):
        check.check(intoto.parse(json.dumps(document).encode()), released())


def test_a_product_without_its_derivation_is_no_build():
    broken = replace(
        BUILD, derivations=tuple(d for d in BUILD.derivations if d[0] != BUILD.product("uki").drv)
    )
    with pytest.raises(Malformed, match=r"products/uki\.efi: want its derivation"):
        make.statement(broken, builder_id=BUILDER)


def test_internal_parameters_of_another_shape_are_malformed():
    with pytest.raises(Malformed, match=r"internalParameters\.nix: want an object"):
        codes(lambda d: definition(d)["internalParameters"].pop("nix"))
    with pytest.raises(Malformed, match=r"internalParameters\.products: want an object"):
        codes(lambda d: definition(d)["internalParameters"].update(products=[]))


def test_an_in_toto_library_accepts_statement_and_predicate():
    """in-toto-attestation's own validators: code we did not write."""
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    Statement.copy_from_pb(json_format.Parse(DATA, statement_pb2.Statement())).validate()
    predicate = json.dumps(json.loads(DATA)["predicate"])
    message = json_format.Parse(predicate, provenance_pb2.Provenance())
    assert message.run_details.builder.id == BUILDER

"""The SBOM of a build: everything that is in it, nothing else, and the same bytes every time."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sbom import builds

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed
from tallystick.formats import cyclonedx, intoto
from tallystick.sbom import check, make, parts, schema

MADE = builds.make()
BUILD = MADE.build
CREATED = make.created_of(BUILD)


def bom(build=BUILD, **options):
    return make.make(build, created=CREATED, **options)


def component(document, ref):
    (found,) = [part for part in document["components"] if part["bom-ref"] == ref]
    return found


def edges(document):
    return {edge["ref"]: edge["dependsOn"] for edge in document["dependencies"]}


@pytest.mark.parametrize("version", cyclonedx.SPEC_VERSIONS)
def test_it_is_valid_by_the_schema_and_by_its_own_references(version):
    document = bom(spec_version=version)
    assert document["specVersion"] == version
    assert check.check_document(document) == ()
    firmware = {item.name: item.digest for item in BUILD.firmware}
    assert check.check_contents(document, parts.digests(BUILD), BUILD.contents, firmware) == ()


def test_every_package_is_in_it_with_hash_purl_licence_and_derivation():
    document = bom()
    expected = [builds.BUSYBOX, builds.LIBC, builds.CBOR, builds.KERNEL, builds.STUB]
    for package in expected:
        part = component(document, package.ref)
        assert part["hashes"] == [{"alg": "SHA-256", "content": package.digest.hex}]
        assert part["purl"] == package.purl
        assert part["licenses"]
        drv = cyclonedx.property_of(part, "nix:drv")
        assert drv is not None
        assert MADE.maker.output(drv) == cyclonedx.property_of(part, "nix:output")
        assert cyclonedx.property_of(part, "tallystick:seed") == package.seed
    assert component(document, builds.STUB.ref)["licenses"] == [
        {"license": {"name": "a licence SPDX does not know", "acknowledgement": "concluded"}}
    ]
    assert component(document, builds.KERNEL.ref)["type"] == "operating-system"


def test_the_firmware_is_in_it_with_the_package_that_it_came_out_of():
    document = bom()
    assert component(document, "firmware:ovmf")["type"] == "firmware"
    assert component(document, "firmware:ovmf")["hashes"] == [
        {"alg": "SHA-256", "content": Digest.of(builds.FIRMWARE).hex}
    ]
    package = component(document, builds.OVMF.ref)
    assert package["hashes"] == [{"alg": "SHA-256", "content": builds.OVMF.digest.hex}]
    licences = [{"expression": "BSD-2-Clause-Patent", "acknowledgement": "concluded"}]
    assert package["licenses"] == component(document, "firmware:ovmf")["licenses"] == licences
    assert component(document, "firmware:ovmf")["version"] == builds.OVMF.version
    assert edges(document)["firmware:ovmf"] == [builds.OVMF.ref]


def test_the_project_s_source_is_found_by_its_nar_hash_and_never_called_a_file_hash():
    part = component(bom(), builds.OWN.ref)
    assert "hashes" not in part
    assert cyclonedx.property_of(part, "nix:narHash") == str(builds.SOURCE_NAR)
    assert cyclonedx.property_of(part, "nix:output") == builds.SOURCE
    assert cyclonedx.property_of(part, "nix:drv") is None


def test_every_file_is_evidence_of_its_component():
    document = bom()
    places = {
        one["location"]: one["additionalContext"]
        for part in document["components"]
        for one in part.get("evidence", {}).get("occurrences", ())
    }
    assert set(places) == {f"initramfs:{path}" for path, *_ in builds.FILES} | {
        "uki:(headers)",
        "uki:.linux",
        "uki:.text",
    }
    assert places["initramfs:bin/sh"] == f"{Digest.of(b'busybox')} 7 bytes mode 0120777"


def test_products_nest_and_depend_on_what_is_in_them():
    found = edges(bom())
    assert found["release"] == ["firmware:ovmf", "product:initramfs", "product:uki"]
    assert found["product:uki"] == sorted([builds.KERNEL.ref, builds.STUB.ref, "product:initramfs"])
    assert builds.LIBC.ref in found["product:initramfs"]
    unknown = [one for one in bom()["compositions"] if one["aggregate"] == "unknown"]
    assert found[builds.LIBC.ref] == []  # empty, and said to be unknown: it has not been looked at
    assert builds.LIBC.ref in unknown[0]["dependencies"]


def test_what_was_used_to_build_and_is_not_inside_is_named_apart():
    (formula,) = bom()["formulation"]
    assert sorted(part["name"] for part in formula["components"]) == ["busybox-seed", "gcc"]
    tree = next(part for part in formula["components"] if part["name"] == "busybox-seed")
    assert "hashes" not in tree
    assert cyclonedx.property_of(tree, "nix:hash").startswith("r:sha256:")


def test_completeness_is_stated_and_lost_with_one_unexplained_file():
    def aggregate(document):
        return {
            ref: item["aggregate"] for item in document["compositions"] for ref in item.get("assemblies", ())
        }

    assert aggregate(bom())["product:uki"] == "complete"
    assert aggregate(bom())[builds.CBOR.ref] == "unknown"
    uki, initramfs = BUILD.contents[1], BUILD.contents[0]
    lost = replace(initramfs.files[0], component="", size_bytes=12)
    worse = replace(BUILD, contents=(replace(initramfs, files=(lost, *initramfs.files[1:])), uki))
    document = bom(worse)
    assert aggregate(document)["product:uki"] == "incomplete"
    metadata = document["metadata"]
    assert cyclonedx.property_of(metadata, "tallystick:unexplained-files") == "1"
    assert cyclonedx.property_of(metadata, "tallystick:unexplained-bytes") == "12"
    firmware = {item.name: item.digest for item in worse.firmware}
    assert check.check_contents(document, parts.digests(worse), worse.contents, firmware) == ()
    without = replace(BUILD, contents=(initramfs,))
    assert aggregate(bom(without))["product:uki"] == "unknown"


def test_a_nested_product_that_is_another_file_is_unexplained():
    uki = BUILD.contents[1]
    files = tuple(replace(f, digest=Digest.of(b"other")) if f.nested else f for f in uki.files)
    worse = replace(BUILD, contents=(BUILD.contents[0], replace(uki, files=files)))
    assert cyclonedx.property_of(bom(worse)["metadata"], "tallystick:unexplained-files") == "1"


def test_the_same_build_gives_the_same_bytes_in_any_order_and_another_build_another_serial():
    shuffled = replace(
        BUILD,
        contents=tuple(reversed(BUILD.contents)),
        products=tuple(reversed(BUILD.products)),
        derivations=tuple(reversed(BUILD.derivations)),
    )
    assert cyclonedx.canonical(bom(shuffled)) == cyclonedx.canonical(bom())
    other = replace(BUILD, products=(BUILD.products[0], replace(BUILD.products[1], digest=Digest.of(b"x"))))
    assert bom(other)["serialNumber"] != bom()["serialNumber"]


def test_the_time_is_the_build_s_own():
    assert datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC) == CREATED
    assert bom()["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    plain = builds.Maker()
    step = plain.step("uki.efi", {}, SOURCE_DATE_EPOCH="9" * 40)
    build = replace(BUILD, products=(replace(BUILD.products[0], drv=step),), derivations=plain.items())
    assert make.created_of(build) == datetime(1970, 1, 1, tzinfo=UTC)


def test_links_become_edges_and_are_called_incomplete():
    document = bom(links={builds.CBOR.ref: {builds.LIBC.ref}})
    assert edges(document)[builds.CBOR.ref] == [builds.LIBC.ref]
    kinds = {
        ref: item["aggregate"]
        for item in document["compositions"]
        for ref in item.get("dependencies", ())
        if "assemblies" not in item
    }
    assert kinds[builds.CBOR.ref] == "incomplete"
    assert kinds[builds.LIBC.ref] == "unknown"
    assert check.check_document(document) == ()


def test_a_component_without_purl_seed_or_known_hash_is_still_in_it():
    from tallystick.core.digests import Algorithm

    odd = replace(
        builds.OWN, ref="odd", purl="", licence="NOASSERTION", digest=Digest.of(b"x", Algorithm.SHA384)
    )
    tree = replace(
        builds.OWN, ref="tree", digest=Digest.of(b"tree")
    )  # the recursive fixed output of the graph
    files = (builds.contents_file("a", b"", 0o100644, odd), builds.contents_file("b", b"", 0o100644, tree))
    only = replace(BUILD.contents[0], files=files, components=(odd, tree))
    document = bom(replace(BUILD, contents=(only,)))
    part = component(document, "odd")
    assert {"purl", "licenses", "hashes"}.isdisjoint(part)
    assert cyclonedx.property_of(part, "nix:output") is None
    assert cyclonedx.property_of(component(document, "tree"), "nix:drv").endswith("-busybox-seed.drv")
    assert check.check_document(document) == ()


def test_a_build_of_nothing_but_products_has_nothing_more_to_say():
    bare = replace(BUILD, contents=(), firmware=(), derivations=BUILD.derivations)
    document = bom(bare)
    assert [part["bom-ref"] for part in document["components"]] == ["product:initramfs", "product:uki"]
    assert [item["aggregate"] for item in document["compositions"]] == ["unknown"]


def test_firmware_that_no_derivation_made_has_no_package():
    odd = replace(BUILD.firmware[0], drv="/nix/store/none.drv")
    assert edges(bom(replace(BUILD, firmware=(odd,))))["firmware:ovmf"] == []


def test_inputs_without_a_name_of_their_own_go_by_what_nix_calls_them():
    maker = builds.Maker()
    maker.fixed("plain", "0" * 40, "sha1")
    step = maker.step("uki.efi", {})
    build = replace(
        BUILD,
        contents=(),
        firmware=(),
        products=(replace(BUILD.products[0], drv=step),),
        derivations=maker.items(),
    )
    ((part,),) = [formula["components"] for formula in bom(build)["formulation"]]
    assert (part["name"], "version" in part, "purl" in part) == ("plain", False, False)


def test_two_lists_that_describe_one_component_differently_are_refused():
    other = replace(BUILD.contents[1], components=(replace(builds.BUSYBOX, version="9"),))
    with pytest.raises(Malformed, match="the same ref for another one"):
        bom(replace(BUILD, contents=(BUILD.contents[0], other)))
    with pytest.raises(Malformed, match="product: want one of initramfs, uki, got disk"):
        bom(replace(BUILD, contents=(replace(BUILD.contents[0], product="disk"),)))


def test_the_statement_is_about_every_product_file():
    statement = intoto.parse(make.statement(BUILD, bom()))
    assert statement.predicate_type == "https://cyclonedx.org/bom"
    assert [(s.name, dict(s.digests)) for s in statement.subjects] == [
        (product.path, {"sha256": product.digest.hex}) for product in BUILD.products
    ]
    assert cyclonedx.checked(statement.predicate) == bom()
    subjects = [(product.path, {"sha256": product.digest.hex}) for product in BUILD.products]
    assert make.statement(BUILD, bom()) == intoto.make(subjects, "https://cyclonedx.org/bom", bom())


def test_canonical_bytes_are_those_of_rfc_8785():
    import rfc8785

    assert cyclonedx.canonical(bom()) == rfc8785.dumps(bom())


def test_another_library_reads_and_validates_it_strictly():
    """cyclonedx-python-lib's own strict validator, where its extra is installed: code we did not write."""
    pytest.importorskip("jsonschema")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    for version in (SchemaVersion.V1_6, SchemaVersion.V1_7):
        text = json.dumps(bom(spec_version=version.to_version()))
        assert JsonStrictValidator(version).validate_str(text) is None


def test_another_library_s_model_reads_the_components():
    from cyclonedx.model.bom import Bom

    read = Bom.from_json(bom())
    assert {part.bom_ref.value for part in read.components} == {
        part["bom-ref"] for part in bom()["components"]
    }
    assert str(read.serial_number) == bom()["serialNumber"].removeprefix("urn:uuid:")


def test_an_in_toto_library_accepts_the_statement():
    from google.protobuf import json_format
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    message = json_format.Parse(make.statement(BUILD, bom()), statement_pb2.Statement())
    Statement.copy_from_pb(message).validate()


def test_the_licence_list_is_spdx_s():
    assert {"MIT", "GPL-2.0-only", "Linux-syscall-note"} <= schema.spdx_ids()

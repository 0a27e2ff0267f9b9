"""What an advisory is about: packages, their sources, vendored parts, firmware; and what VEX settles."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from formats import test_embedded_lists as lists
from sbom import builds, test_vendored

from tallystick.build.seedfacts import SeedFacts
from tallystick.core.digests import Algorithm, Digest
from tallystick.formats import advisories
from tallystick.release import inventory, vulnerabilities
from tallystick.release.vulnerabilities import Feed
from tallystick.sbom import deployable, make
from tallystick.sbom.deployable import Known

FILES = (*builds.FILES, ("usr/bin/go-tool", lists.GO, 0o100755, builds.OWN))
MADE = builds.make(FILES)


def facts(*sources):
    said = SeedFacts(sha512=Digest.of(b"", Algorithm.SHA512), maker=None, homepage="", sources=sources)
    return said, deployable.of_file(b"!<arch>\n")


KNOWN = Known(
    seeds={
        builds.LIBC.seed: facts(("glibc", "2.36-9")),
        builds.BUSYBOX.seed: facts(("busybox", "1.35-4"), ("glibc", "2.36-7")),
        builds.OVMF.seed: facts(("edk2", "2022.11-6")),
    }
)
BOM = make.make(
    MADE.build, created=make.created_of(MADE.build), known=KNOWN, inside=test_vendored.found(MADE, KNOWN)
)
INVENTORY = inventory.of_release(MADE.build.contents, BOM)
LINK = f"urn:cdx:{BOM['serialNumber'].removeprefix('urn:uuid:')}/1#"


def osv(ecosystem, name, *, fixed=None, purl="", versions=()):
    package = {"ecosystem": ecosystem, "name": name} | ({"purl": purl} if purl else {})
    affected = {"package": package, "versions": list(versions)}
    if fixed:
        affected["ranges"] = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": fixed}]}]
    return {"id": "CVE-1", "affected": [affected]}


def openvex(status, product, at="2026-11-01T00:00:00Z", **more):
    said = {"vulnerability": {"name": "CVE-1"}, "products": [product], "status": status} | more
    return {"@context": "https://openvex.dev/ns/v0.2.0", "timestamp": at, "statements": [said]}


def cyclonedx(state, ref):
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "vulnerabilities": [{"id": "CVE-1", "analysis": {"state": state}, "affects": [{"ref": ref}]}],
    }


def found(*documents, only=None, bom=None):
    read = [advisories.parse(json.dumps(one).encode()) for one in documents]
    feed = Feed(
        advisories=tuple(one for document in read for one in document.advisories),
        verdicts=tuple(one for document in read for one in document.verdicts),
        signed_at=None,
        signers=(),
    )
    hits = vulnerabilities.hits(feed, bom or INVENTORY, only)
    return {hit.part.name: hit.status for hit in hits}


@pytest.mark.parametrize(
    ("record", "hit"),
    [
        (osv("Debian:12", "glibc", fixed="2.36-10"), {"libc6", "busybox-static"}),
        (osv("Debian:12", "glibc", fixed="2.36-8"), {"busybox-static"}),  # linked into it from an older one
        (osv("Debian:12", "glibc", fixed="2.36-7"), set()),
        (osv("Debian", "glibc", purl="pkg:deb/debian/glibc?arch=source"), {"libc6", "busybox-static"}),
        (osv("Debian:12", "edk2", fixed="2023"), {"ovmf"}),
        (osv("Ubuntu:22.04", "glibc"), set()),
        (osv("PyPI", "CBOR2", versions=["6.3.0"]), {"cbor2"}),
        (osv("PyPI", "cbor2", versions=["6.3.1"]), set()),
        (osv("npm", "cbor2"), set()),
        (osv("Go", "golang.org/x/text", fixed="0.39.0"), {"golang.org/x/text"}),
        (osv("Go", "golang.org/x/text", fixed="0.38.0"), set()),
        (osv("Go", "stdlib", fixed="1.26.9"), {"stdlib"}),
        (
            osv("Go", "example.org/tool", fixed="1.0.0"),
            {"example.org/tool"},
        ),  # "(devel)" can not be told apart
        (osv("Go", "golang.org/x/text", purl="pkg:golang/golang.org/x/text"), {"golang.org/x/text"}),
        (osv("OSS-Fuzz", "x", purl="pkg:deb/debian/libc6"), {"libc6"}),
    ],
)
def test_an_advisory_is_about(record, hit):
    assert set(found(record)) == hit


def test_an_advisory_for_one_release_of_debian_says_nothing_about_another():
    bookworm = replace(builds.LIBC, purl=f"{builds.LIBC.purl}&distro=bookworm")
    (initramfs, uki) = MADE.build.contents
    components = tuple(bookworm if one == builds.LIBC else one for one in initramfs.components)
    bom = inventory.of_release((replace(initramfs, components=components), uki), BOM)
    assert "libc6" in found(osv("Debian:12", "glibc"), bom=bom)
    assert "libc6" not in found(osv("Debian:13", "glibc"), bom=bom)
    assert "libc6" in found(osv("Debian", "glibc"), bom=bom)


def test_a_part_is_in_every_product_that_nests_its_own():
    parts = {one.name: one for one in INVENTORY.parts}
    assert parts["libc6"].products == ("initramfs", "uki")
    assert parts["linux-image-amd64"].products == ("uki",)
    assert parts["ovmf"].products == ("firmware:ovmf",)
    assert (parts["golang.org/x/text"].products, parts["golang.org/x/text"].owner) == (
        ("initramfs", "uki"),
        builds.OWN.ref,
    )


TEXT = osv("Go", "golang.org/x/text")
REF = f"{builds.OWN.ref}#pkg:golang/golang.org/x/text@v0.38.0"
PURL = "pkg:golang/golang.org/x/text@v0.38.0"
PRODUCT = BOM["metadata"]["component"]["purl"]


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (openvex("not_affected", {"@id": PURL}), "not_affected"),
        (openvex("fixed", {"identifiers": {"purl": "pkg:golang/golang.org/x/text"}}), "fixed"),
        (openvex("not_affected", {"@id": PURL.replace("38", "39")}), "affected"),
        (openvex("not_affected", {"@id": PRODUCT}), "not_affected"),
        (openvex("not_affected", {"@id": PRODUCT, "subcomponents": [{"@id": PURL}]}), "not_affected"),
        (openvex("not_affected", {"@id": PRODUCT, "subcomponents": [{"@id": "pkg:x/y"}]}), "affected"),
        (openvex("not_affected", {"@id": "pkg:oci/other", "subcomponents": [{"@id": PURL}]}), "affected"),
        (cyclonedx("not_affected", LINK + REF), "not_affected"),
        (cyclonedx("false_positive", LINK + REF.replace("#", "%23")), "not_affected"),
        (cyclonedx("resolved", PURL), "fixed"),
        (cyclonedx("in_triage", PURL), "under_investigation"),
        (cyclonedx("not_affected", "urn:cdx:00000000-0000-0000-0000-000000000000/1#" + REF), "affected"),
    ],
)
def test_a_statement_settles_what_it_is_about(said, status):
    assert found(TEXT, said) == {"golang.org/x/text": status}


def test_the_later_statement_counts_whatever_the_order_of_the_files():
    early = openvex("not_affected", {"@id": PURL}, at="2026-11-01T00:00:00Z")
    late = openvex("affected", {"@id": PURL}, at="2026-11-02T00:00:00+02:00")
    for documents in ((TEXT, early, late), (TEXT, late, early), (early, late), (late, early)):
        assert found(*documents) == {"golang.org/x/text": "affected"}
    assert found(early) == {}


def test_a_bom_s_own_components_may_be_named_by_their_ref():
    said = cyclonedx("resolved", "a")
    said["components"] = [{"type": "library", "bom-ref": "a", "name": "text", "purl": PURL}]
    assert found(TEXT, said) == {"golang.org/x/text": "fixed"}


def test_one_vulnerability_can_be_asked_about():
    assert found(TEXT, only="CVE-2") == {}
    assert found(TEXT, only="CVE-1") == {"golang.org/x/text": "affected"}

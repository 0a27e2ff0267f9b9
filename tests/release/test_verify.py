"""A release is believed only as far as a trust file outside it reaches, and no byte of it is left out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta

import pytest
from release import world as worlds
from sbom import builds

from tallystick.core.errors import Misuse, NotGenuine, Refused, TallystickError
from tallystick.release import index, names, promote, verify
from tallystick.signing.records import Builder


def verified(world, folder):
    return verify.verify_release(folder, world.trust, worlds.now())


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_whole_release_is_verified_with_all_its_parts(world):
    w, folder = world
    release = verified(w, folder)
    assert release.digest == index.read(folder).digest
    assert [name for name, _ in release.statements] == ["index", "measurements", "provenance", "sbom"]
    assert release.builder.builder_id == worlds.CI
    assert release.quorum.met
    assert [m.platform for m in release.measurements] == ["qemu-vtpm"]
    assert [c.product for c in release.contents] == ["initramfs", "uki"]
    assert release.labels == ("embedded-dev",)
    assert len(release.bundles) == 4
    assert release.vsa is None


def test_one_flipped_byte_in_any_file_fails_and_names_that_file(world):
    """Every file, and in the small ones every byte of their first and last part and many between."""
    w, folder = world
    promote.propose_release(w.desk(), folder, w.signatories["alice"], w.sign_one("alice"))
    assert names.promotion_file("staging") in files(folder)
    verified(w, folder)
    for path in files(folder):
        place = folder / path
        good = place.read_bytes()
        for at in {0, len(good) // 3, len(good) // 2, len(good) - 2, len(good) - 1}:
            place.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(TallystickError) as error:
                verified(w, folder)
            said = [error.value.message, *(finding.message for finding in error.value.findings)]
            assert any(path in text for text in said), (path, at, said)
            assert error.value.exit in (3, 4, 5)
        place.write_bytes(good)
    verified(w, folder)


@pytest.mark.parametrize("name", ["bundles/sbom.sigstore.json", "bundles/index.sigstore.json"])
def test_no_byte_of_a_bundle_is_free(world, name):
    w, folder = world
    place = folder / name
    good = place.read_bytes()
    for at in range(0, len(good), 97):
        for bit in (1, 0x20):
            place.write_bytes(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
            with pytest.raises(TallystickError) as error:
                verified(w, folder)
            said = [error.value.message, *(finding.message for finding in error.value.findings)]
            assert any(name in text for text in said)


def test_missing_and_extra_files_are_named(world):
    w, folder = world
    for path in files(folder):
        if path.startswith("links/"):
            continue  # fewer links are fewer rebuilders, and no damage
        place = folder / path
        good = place.read_bytes()
        place.unlink()
        with pytest.raises(TallystickError, match="file") as error:
            verified(w, folder)
        said = [error.value.message, *(finding.message for finding in error.value.findings)]
        assert any(path in text for text in said)
        place.write_bytes(good)
    for path in ("extra", "bundles/extra", "promotions/extra", "links/extra", "products/extra"):
        worlds.write(folder / path, b"x")
        with pytest.raises(NotGenuine) as error:
            verified(w, folder)
        assert any(path in finding.where for finding in error.value.findings)
        (folder / path).unlink()
    (folder / "links/more").symlink_to("/etc/hostname")
    with pytest.raises(NotGenuine, match="plain files only"):
        verified(w, folder)
    (folder / "links/more").unlink()
    verified(w, folder)


def test_a_forged_release_with_its_own_trust_roots_inside_is_refused(world, tmp_path):
    """A whole second world, people and Sigstore alike, whose release brings its own roots along."""
    w, _ = world
    forger = worlds.make(tmp_path / "forger/work")
    folder = tmp_path / "forger/release"

    def bring_roots(where):
        shutil.copytree(forger.workdir / "sigstore", where / "sigstore", ignore=lambda *_: ["log"])
        worlds.write(where / "trust.json", b"{}")

    forger.release(folder, change=bring_roots)
    assert verified(forger, folder).quorum.met
    with pytest.raises(NotGenuine, match=r"bundles/index\.sigstore\.json"):
        verified(w, folder)


def test_only_the_paired_builder_signs(world, tmp_path):
    w, folder = world
    stranger = tmp_path / "stranger"
    w.release(stranger, signer="rebuilder")
    with pytest.raises(NotGenuine, match="bundles/index") as error:
        verified(w, stranger)
    assert error.value.code == "bundle.identity"
    claimed = tmp_path / "claimed"
    w.release(claimed, builder_id="https://tallystick.local/builders/other")
    with pytest.raises(NotGenuine, match="bundles/provenance") as error:
        verified(w, claimed)
    assert error.value.code == "bundle.builder-id"
    second = Builder(identity=w.identity("rebuilder"), builder_id=worlds.REBUILD)
    both = replace(w, trust=replace(w.trust, builders=(*w.trust.builders, second)))
    (bundle,) = w.sign("rebuilder", [(folder / "statements/sbom.json").read_bytes()])
    worlds.write(folder / names.bundle_file("sbom"), bundle)
    with pytest.raises(NotGenuine, match="not all statements are by the builder") as error:
        verified(both, folder)
    assert [f.where for f in error.value.findings] == ["bundles/sbom.sigstore.json"]


def test_statements_of_another_release_do_not_count(world, tmp_path):
    w, folder = world
    other = tmp_path / "other"
    changed = tuple((p, d + b"!" if p == "init" else d, m, c) for p, d, m, c in builds.FILES)
    w.release(other, files=changed)
    for name in ("sbom", "provenance", "measurements"):
        shutil.copy(other / names.bundle_file(name), folder / names.bundle_file(name))
        with pytest.raises(NotGenuine, match=f"bundles/{name}") as error:
            verified(w, folder)
        assert error.value.code == "release.statement.other"
        w.sign_release(folder, "ci-builder")
    shutil.copy(other / names.bundle_file("index"), folder / names.bundle_file("index"))
    with pytest.raises(NotGenuine, match=r"index\.json: want sha256") as error:
        verified(w, folder)
    assert error.value.code == "release.file.changed"
    shutil.copy(folder / names.bundle_file("sbom"), folder / names.bundle_file("index"))
    with pytest.raises(NotGenuine) as error:
        verified(w, folder)
    assert error.value.code == "bundle.predicate-type"


def test_statements_about_other_products_are_named(world, tmp_path):
    w, _ = world
    folder = tmp_path / "swapped"
    changed = tuple((p, d + b"!" if p == "init" else d, m, c) for p, d, m, c in builds.FILES)
    other = builds.make(changed)

    def swap(where):  # an honest provenance and SBOM, and another image under their names
        worlds.write(where / "products/uki.efi", other.products["uki"])

    w.release(folder, change=swap)
    with pytest.raises(NotGenuine, match="not about this release's products") as error:
        verified(w, folder)
    assert [(f.code, f.where) for f in error.value.findings] == [
        ("release.subject.provenance", "provenance products/uki.efi"),
        ("release.subject.sbom", "sbom products/uki.efi"),
    ]


def test_measurements_are_of_the_released_image_and_firmware(world, tmp_path):
    w, _ = world
    folder = tmp_path / "firmware"
    w.release(folder, change=lambda where: worlds.write(where / "firmware/ovmf.fd", b"other"))
    with pytest.raises(NotGenuine, match="a measurement is not of this release's files") as error:
        verified(w, folder)
    assert [f.code for f in error.value.findings] == ["release.measurement.firmware"]


def test_every_product_has_its_contents_list(world, tmp_path):
    w, _ = world
    folder = tmp_path / "unlisted"
    w.release(folder, change=lambda where: (where / "contents/uki.json").unlink())
    with pytest.raises(NotGenuine, match="one list for each of initramfs, uki, got initramfs"):
        verified(w, folder)


def test_without_rebuilds_the_quorum_is_not_met_and_dissent_refuses(world, tmp_path):
    w, folder = world
    shutil.rmtree(folder / "links")
    assert not verified(w, folder).quorum.met
    other = w.release(tmp_path / "other", files=builds.FILES[1:])
    w.link(folder, other, "rebuilder")
    with pytest.raises(Refused, match="do not agree") as error:
        verified(w, folder)
    assert [f.code for f in error.value.findings] == ["release.link.other-release"]


def test_no_release_and_an_unsigned_one_say_so(world, tmp_path):
    w, folder = world
    with pytest.raises(Misuse, match="there is no release in"):
        verified(w, tmp_path / "nothing")
    shutil.rmtree(folder / "bundles")
    with pytest.raises(NotGenuine, match="want a bundle") as error:
        verified(w, folder)
    assert {f.code for f in error.value.findings} == {"release.file.missing"}


def test_a_bundle_signed_after_now_is_refused(world):
    w, folder = world
    with pytest.raises(NotGenuine) as error:
        verify.verify_release(folder, w.trust, worlds.now() - timedelta(hours=2))
    assert error.value.code == "bundle.future"

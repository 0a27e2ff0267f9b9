"""The report about a rebuild that differs: each file, and the derivation that it comes from."""

from __future__ import annotations

from dataclasses import replace

from sbom import builds

from tallystick.build import compare
from tallystick.core.digests import Digest


def test_each_differing_file_names_its_component_and_a_derivation():
    build = builds.make().build
    before = next(one for one in build.contents if one.product == "initramfs")
    product = next(one for one in build.products if one.name == "initramfs")
    changed = tuple(replace(file, digest=Digest.of(b"other")) for file in before.files)
    after = replace(before, files=changed)
    found = list(compare.files(before, after, build, product.drv))
    assert [f.where for f in found] == [
        f"initramfs: {file.path}" for file in sorted(before.files, key=lambda f: f.path.encode())
    ]
    drvs = {path for path, _ in build.derivations}
    for finding in found:
        assert finding.code == "build.file.differs"
        assert finding.note.rpartition("from ")[2] in drvs
        assert finding.want != finding.got
    assert list(compare.files(before, before, build, product.drv)) == []
    gone = list(compare.files(before, replace(before, files=before.files[1:]), build, product.drv))
    assert [f.got for f in gone] == ["no such file"]


def test_many_files_are_counted_and_not_listed(monkeypatch):
    build = builds.make().build
    before = next(one for one in build.contents if one.product == "initramfs")
    monkeypatch.setattr(compare, "_MOST_FILES", 1)
    after = replace(before, files=tuple(replace(f, digest=Digest.of(b"x")) for f in before.files))
    found = list(compare.files(before, after, build, "x.drv"))
    assert (len(found), found[-1].got) == (2, f"{len(before.files)} files differ")

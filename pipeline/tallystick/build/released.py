"""The lock of a firmware release: its files by digest, and what they were made from."""

from __future__ import annotations

from collections.abc import Mapping

from tallystick.build import contents
from tallystick.build.lock import Lock, Material, Seed, Source
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed
from tallystick.formats import intoto, slsa

ROLE = "released"
_SOURCE_ARCHIVE = "arch=source"


def lock_of(
    *,
    recipe: str,
    release: Digest,
    version: str,
    products: Mapping[str, bytes],
    lists: Mapping[str, bytes],
    provenance: bytes,
) -> Lock:
    """Return the lock that pins the files of one firmware release.

    Args:
        recipe: the recipe's path in the project: ``build/firmware.yaml``.
        release: the release digest.
        products: product name -> bytes of its file.
        lists: product name -> contents list.
        provenance: the release's statement; the source archives it names are the materials.

    Raises:
        Malformed: a contents list, or a provenance, that breaks its format or names no source.
    """
    materials = _materials(provenance)
    seeds = []
    for name in sorted(products):
        data = products[name]
        listed = contents.parse(lists[name], f"contents of {name}")
        seeds.append(
            Seed(
                package=name,
                version=version,
                architecture="amd64",
                path=f"released/{name}.fd",
                file=f"{name}.fd",
                size_bytes=len(data),
                digest=Digest.of(data),
                purl=_purl(name, version),
                licence=" AND ".join(sorted({component.licence for component in listed.components})),
                materials=materials,
            )
        )
    source = Source(
        kind="release",
        suite="",
        component="",
        python="",
        packages=tuple(sorted(products)),
        through=(),
        recipe=recipe,
        release=str(release),
    )
    return Lock(role=ROLE, source=source, seeds=tuple(seeds))


def _purl(name: str, version: str) -> str:
    from packageurl import PackageURL

    return PackageURL("generic", "tallystick", name, version).to_string()


def _materials(provenance: bytes) -> tuple[Material, ...]:
    """Return the source archives among the resolved dependencies; compilers are tools and not materials."""
    found = {
        Material(purl=one.uri, digest=Digest.parse(f"sha256:{dict(one.digests)['sha256']}"))
        for one in slsa.parse(intoto.parse(provenance)).dependencies
        if _SOURCE_ARCHIVE in one.uri and "sha256" in dict(one.digests)
    }
    if not found:
        raise Malformed("provenance", at="resolvedDependencies", want="a source package", got="none")
    return tuple(sorted(found, key=lambda one: one.digest.hex))

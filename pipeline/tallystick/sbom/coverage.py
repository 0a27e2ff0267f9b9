"""Whether the contents lists are true: every product taken apart and compared with its list, file by file.

The lists come from the steps that assembled the products; this looks at what came out. A planted file, a
swapped one and a missing one each have a name here, and bytes that nobody accounts for are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tallystick.build.records import Contents, ContentsFile
from tallystick.core.digests import Digest
from tallystick.core.errors import NotGenuine
from tallystick.core.findings import Finding
from tallystick.sbom import parts
from tallystick.sbom.scan import Found, Scan, scan


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How much of one product is explained by a component."""

    product: str
    files: int  # that are in the product
    size_bytes: int  # of these files together
    unexplained_files: int  # planted, or listed without a component
    unexplained_bytes: int
    findings: tuple[Finding, ...]
    scanned: Scan


def cover(products: Mapping[str, bytes | memoryview], lists: Mapping[str, Contents]) -> tuple[Coverage, ...]:
    """Return the coverage of every product, and of every product nested in one, by name.

    Args:
        products: product name -> bytes of its file. A nested product may be left out: it is taken from the
            product that holds it.
        lists: product name -> contents list.

    Raises:
        Malformed, NotGenuine, Unsupported: a product that can not be taken apart.
    """
    digests = {name: Digest.of(data) for name, data in products.items()}  # type: ignore[arg-type]
    waiting = dict(sorted(products.items()))
    done: dict[str, Coverage] = {}
    while waiting:
        name = next(iter(waiting))
        scanned = scan(waiting.pop(name), f"product {name}")
        listed = lists.get(name)
        inside = {file.path: file for file in scanned.files}
        for file in listed.files if listed is not None else ():
            if file.nested and file.nested not in digests and file.path in inside:
                waiting[file.nested] = inside[file.path].data
                digests[file.nested] = inside[file.path].digest
        done[name] = _compare(name, scanned, listed, digests)
    return tuple(done[name] for name in sorted(done))


def require(covered: tuple[Coverage, ...]) -> None:
    """Do nothing when nothing was found.

    Raises:
        NotGenuine: with every finding, when what is in a product is not what its list says.
    """
    findings = tuple(finding for one in covered for finding in one.findings)
    if findings:
        raise NotGenuine(
            f"{len(findings)} difference(s) between products and contents lists", findings=findings
        )


def _compare(name: str, scanned: Scan, contents: Contents | None, digests: Mapping[str, Digest]) -> Coverage:
    listed = {file.path: file for file in contents.files} if contents is not None else {}
    lost = {file.path for file in parts.unexplained(contents, digests)} if contents is not None else set()
    unexplained = [file for file in scanned.files if file.path not in listed or file.path in lost]
    return Coverage(
        product=name,
        files=len(scanned.files),
        size_bytes=sum(len(file.data) for file in scanned.files),
        unexplained_files=len(unexplained),
        unexplained_bytes=sum(len(file.data) for file in unexplained),
        findings=(
            *_unlisted(name, contents),
            *(Finding("coverage.odd", f"{name}:{path}", want, got) for path, want, got in scanned.odd),
            *_differences(name, scanned.files, listed, digests),
        ),
        scanned=scanned,
    )


def _unlisted(name: str, contents: Contents | None) -> Iterator[Finding]:
    if contents is None:
        yield Finding("coverage.unlisted", name, "a contents list", "none")


def _differences(
    name: str, found: tuple[Found, ...], listed: Mapping[str, ContentsFile], digests: Mapping[str, Digest]
) -> Iterator[Finding]:
    seen: set[str] = set()
    for file in found:
        where = f"{name}:{file.path}"
        if file.path in seen:
            yield Finding("coverage.duplicate", where, "each path once", "it again, over the first")
        seen.add(file.path)
        want, digest = listed.get(file.path), file.digest
        got = f"{digest}, {len(file.data)} bytes"
        if want is None:
            yield Finding("coverage.planted", where, "no such file", got)
            continue
        if digest != want.digest or len(file.data) != want.size_bytes:
            yield Finding(
                "coverage.swapped", where, f"{want.digest}, {want.size_bytes} bytes", got, want.component
            )
        if file.mode != want.mode:
            yield Finding("coverage.mode", where, want.mode, file.mode)
        if want.nested and digests.get(want.nested) != digest:
            stated = digests.get(want.nested)
            yield Finding("coverage.nested", where, f"{want.nested} {stated}", str(digest))
    for path in sorted(listed.keys() - seen):
        yield Finding("coverage.missing", f"{name}:{path}", str(listed[path].digest), "no such file")

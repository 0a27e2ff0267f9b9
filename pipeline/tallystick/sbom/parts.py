"""The parts of an SBOM: products, the packages in them, and what they were built with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import PurePosixPath
from urllib.parse import quote

from tallystick.build.recipe import FIRMWARE_PRODUCTS
from tallystick.build.records import Build, Component, Contents, ContentsFile, Product
from tallystick.build.seedfacts import Party
from tallystick.core.digests import Digest
from tallystick.formats import cyclonedx
from tallystick.formats.cyclonedx import Document
from tallystick.formats.drvgraph import Graph
from tallystick.sbom.deployable import FILENAME, Kind, Known, distribution, party
from tallystick.sbom.origins import Origin
from tallystick.sbom.schema import spdx_ids
from tallystick.sbom.vendored import Inside

# CycloneDX component types (schema, definitions.component.type) of what our images hold.
_PRODUCT_TYPES = {"uki": "operating-system", "oci": "container", "eif": "operating-system"}
_PRODUCT_TYPES |= dict.fromkeys(FIRMWARE_PRODUCTS, "firmware")
_KIND_TYPES = {"wheel": "library", "project": "application", "firmware": "firmware"}


@cache
def _concluded(licence: str) -> tuple[Document, ...]:
    """Return the licences of a component, whose texts are few and long to read."""
    return tuple(cyclonedx.licences(licence, spdx_ids(), "concluded"))


def product_ref(name: str) -> str:
    """Return the bom-ref of the product called ``name``."""
    return f"product:{name}"


def firmware_ref(name: str) -> str:
    """Return the bom-ref of the firmware called ``name``."""
    return f"firmware:{name}"


def firmware_name(path: str) -> str:
    """Return the name of the firmware at ``path`` in a release: ``ovmf`` of ``firmware/ovmf.fd``."""
    return PurePosixPath(path).stem


def location(product: str, path: str) -> str:
    """Return where a file lies, as an occurrence of its component says it."""
    return f"{product}:{path}"


def digests(build: Build) -> dict[str, Digest]:
    """Return the digest of every product's file, by the product's name."""
    return {product.name: product.digest for product in build.products}


def unexplained(contents: Contents, products: Mapping[str, Digest]) -> tuple[ContentsFile, ...]:
    """Return the files of ``contents`` that neither a component nor another product accounts for."""
    refs = {component.ref for component in contents.components}
    return tuple(
        file
        for file in contents.files
        if not (products.get(file.nested) == file.digest if file.nested else file.component in refs)
    )


def product(made: Product, build: Build, known: Known, licence: str) -> Document:
    """Return the component of a product: the file that is measured, shipped or nested in another.

    Args:
        licence: of everything inside it.
    """
    lists = [contents for contents in build.contents if contents.product == made.name]
    facts = {
        "tallystick:files": str(sum(len(contents.files) for contents in lists)),
        "tallystick:unexplained-files": str(sum(len(unexplained(c, digests(build))) for c in lists)),
    }
    return {
        "bom-ref": product_ref(made.name),
        "type": _PRODUCT_TYPES.get(made.name, "file"),
        "name": made.name,
        "version": build.version,
        "purl": _generic(f"{build.name}-{made.name}", build.version, made),
    } | _file(made, known, facts, known.manufacturer, licence)


def firmware(made: Product, sources: Iterable[Component], known: Known) -> Document:
    """Return the component of a firmware file: measured before the products, and in none of them.

    Its version, licence and maker are those of the package that it was taken out of, where that is one.
    """
    component: Document = {"bom-ref": firmware_ref(made.name), "type": "firmware", "name": made.name}
    maker, licence, packages = None, "", tuple(sources)
    if len(packages) == 1:
        (package,) = packages
        licence = package.licence
        component |= {"version": package.version, "purl": _generic(made.name, package.version, made)}
        maker = known.seeds[package.seed][0].maker if package.seed in known.seeds else None
    return component | _file(made, known, {}, maker or known.manufacturer, licence)


def _generic(name: str, version: str, made: Product) -> str:
    """Return a package URL that no other file has (purl-spec: the qualifier ``checksum``)."""
    from packageurl import PackageURL

    qualifiers = {"checksum": str(made.digest), "file_name": PurePosixPath(made.path).name}
    return PackageURL("generic", None, name, version, qualifiers).to_string()


def _file(
    made: Product, known: Known, facts: Mapping[str, str], maker: Party | None, licence: str
) -> Document:
    """Return the fields of a component that is one file of the release."""
    read = known.files.get(made.path)
    own = {
        "nix:drv": made.drv,
        "nix:output": made.output,
        "tallystick:path": made.path,
        "tallystick:size": str(made.size_bytes),
        FILENAME: PurePosixPath(made.path).name,
    }
    own |= read.kind.properties() if read is not None and read.kind is not None else {}
    component: Document = {
        "hashes": [cyclonedx.hash_of(made.digest)],
        "properties": properties({**own, **facts}),
    }
    if read is not None:
        component["externalReferences"] = [distribution(quote(made.path), made.digest, read.sha512)]
    if maker is not None:
        component["manufacturer"] = party(maker)
    if said := cyclonedx.licences(licence, spdx_ids(), "concluded"):
        component["licenses"] = said
    return component


def all_licences(components: Iterable[Component]) -> str:
    """Return the licence of what is put together of ``components``: all of theirs; "" where one is not known."""
    texts = sorted({component.licence for component in components})
    if not texts or not all(cyclonedx.is_expression(text, spdx_ids()) for text in texts):
        return ""
    return " AND ".join(f"({text})" if " " in text and len(texts) > 1 else text for text in texts)


def ancestor(purl: str, digest: Digest) -> Document:
    """Return the component of a source archive that something in the BOM was made from."""
    from packageurl import PackageURL

    parsed = PackageURL.from_string(purl)
    return {
        "type": "file",
        "name": parsed.name,
        "version": parsed.version or "",
        "purl": purl,
        "hashes": [cyclonedx.hash_of(digest)],
    }


def package(
    component: Component,
    origin: Origin | None,
    files: Iterable[tuple[str, ContentsFile]],
    known: Known,
    inside: Inside | None = None,
) -> Document:
    """Return the component of a package: where it came from, and every (product, file) that it left."""
    made: Document = {
        "bom-ref": component.ref,
        "type": _type_of(component),
        "name": component.name,
        "version": component.version,
    }
    if component.purl:
        made["purl"] = component.purl
    if licences := _concluded(component.licence):
        made["licenses"] = list(licences)
    facts = {"tallystick:kind": component.kind}
    if component.seed:
        made |= _of_seed(component, known, facts)
    else:  # a tree of sources has no bytes to hash: Nix hashes its archive form
        made |= _of_tree(component, known, facts)
    if origin is not None:
        facts |= {"nix:drv": origin.drv} if origin.drv else {}
        facts["nix:output"] = origin.path
    if inside is not None and inside.components:
        made["components"] = list(inside.components)
    if inside is not None and inside.unreadable:
        facts["tallystick:vendored-unreadable"] = " ".join(inside.unreadable)
    made["properties"] = properties(facts)
    made["evidence"] = _evidence(component, files)
    return made


def _of_seed(component: Component, known: Known, facts: dict[str, str]) -> Document:
    """Return the fields of a package that was unpacked from one pinned file, and add to its ``facts``."""
    url, facts["tallystick:seed"] = quote(f"seeds/{component.seed}"), component.seed
    made: Document = {"hashes": [cyclonedx.hash_of(component.digest)]}
    if component.seed not in known.seeds:
        return made | {"externalReferences": [distribution(url, component.digest)]}
    said, file = known.seeds[component.seed]
    facts[FILENAME] = component.seed
    facts |= file.kind.properties() if file.kind is not None else {}
    made["externalReferences"] = [distribution(url, component.digest, file.sha512)]
    if said.homepage:
        made["externalReferences"].append({"type": "website", "url": said.homepage})
    for path, data in said.sboms:
        place = {"type": "bom", "url": f"{url}#{quote(path)}", "hashes": [cyclonedx.hash_of(Digest.of(data))]}
        made["externalReferences"].append(place)
    if said.maker is not None:
        made["manufacturer"] = party(said.maker)
    elif component.kind == "firmware" and known.manufacturer is not None:  # this project's own release
        made["manufacturer"] = party(known.manufacturer)
    if component.purl.startswith("pkg:deb/debian/"):
        made["supplier"] = {"name": "Debian", "url": ["https://www.debian.org/"]}
    if said.sources:
        made["pedigree"] = {"ancestors": [_source_package(name, version) for name, version in said.sources]}
    return made


def _of_tree(component: Component, known: Known, facts: dict[str, str]) -> Document:
    facts["nix:narHash"] = str(component.digest)
    made: Document = {}
    if (sha512 := known.trees.get(component.digest)) is not None:
        archive = distribution("nix/source", component.digest, sha512)
        made["externalReferences"] = [archive | {"comment": "hashes of the Nix archive (NAR) of the folder"}]
        facts |= Kind.ARCHIVE.properties() | {FILENAME: "source"}
    if component.kind == "project" and known.manufacturer is not None:
        made["manufacturer"] = party(known.manufacturer)
    return made


def _source_package(name: str, version: str) -> Document:
    from packageurl import PackageURL

    purl = PackageURL("deb", "debian", name, version, {"arch": "source"}).to_string()
    return {"type": "library", "name": name, "version": version, "purl": purl}


def _evidence(component: Component, files: Iterable[tuple[str, ContentsFile]]) -> Document:
    occurrences = [
        {
            "location": location(product, file.path),
            "additionalContext": f"{file.digest} {file.size_bytes} bytes mode {file.mode}",
        }
        for product, file in files
    ]
    identity = {
        "field": "hash",
        "confidence": 1,
        "methods": [{"technique": "hash-comparison", "confidence": 1, "value": str(component.digest)}],
    }
    return {"identity": [identity], **({"occurrences": occurrences} if occurrences else {})}


def _type_of(component: Component) -> str:
    if component.kind in _KIND_TYPES:
        return _KIND_TYPES[component.kind]
    if component.name.startswith("linux-image"):
        return "operating-system"
    if component.name.startswith("ovmf"):
        return "firmware"
    return "library" if component.name.startswith("lib") else "application"


def build_inputs(graph: Graph, used: Iterable[Origin]) -> list[Document]:
    """What came from outside to build with, and is not itself in a product."""
    inside = {origin.path for origin in used}
    made = []
    for path, step in graph.fixed():
        (out,) = step.outputs
        if out.path in inside:
            continue
        facts = {"nix:drv": path, "nix:output": out.path}
        component: Document = {
            "bom-ref": path,
            "type": "file",
            "name": step.variable("pname") or step.variable("name") or path,
        }
        if version := step.variable("version"):
            component["version"] = version
        if purl := step.variable("purl"):
            component["purl"] = purl
        if out.algorithm == "sha256":
            component["hashes"] = [{"alg": "SHA-256", "content": out.hash}]
        else:
            facts["nix:hash"] = f"{out.algorithm}:{out.hash}"
        component["properties"] = properties(facts)
        made.append(component)
    return [{"bom-ref": "build-inputs", "components": made}] if made else []


def properties(facts: Mapping[str, str]) -> list[Document]:
    """Return ``facts`` as CycloneDX properties, sorted by name."""
    return [{"name": name, "value": facts[name]} for name in sorted(facts)]

"""The parts of an SBOM: products, the packages in them, and what they were built with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from urllib.parse import quote

from tallystick.build.recipe import FIRMWARE_PRODUCTS
from tallystick.build.records import Build, Component, Contents, ContentsFile, Product
from tallystick.core.digests import Digest
from tallystick.formats import cyclonedx
from tallystick.formats.cyclonedx import Document
from tallystick.formats.drvgraph import Graph
from tallystick.sbom.origins import Origin
from tallystick.sbom.schema import spdx_ids

# CycloneDX component types (schema, definitions.component.type) of what our images hold.
_PRODUCT_TYPES = {"uki": "operating-system", "oci": "container", "eif": "operating-system"}
_PRODUCT_TYPES |= dict.fromkeys(FIRMWARE_PRODUCTS, "firmware")
_KIND_TYPES = {"wheel": "library", "project": "application", "firmware": "firmware"}


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


def product(made: Product, build: Build) -> Document:
    """Return the component of a product: the file that is measured, shipped or nested in another."""
    lists = [contents for contents in build.contents if contents.product == made.name]
    return {
        "bom-ref": product_ref(made.name),
        "type": _PRODUCT_TYPES.get(made.name, "file"),
        "name": made.name,
        "version": build.version,
        "hashes": [cyclonedx.hash_of(made.digest)],
        "properties": properties(
            {
                "nix:drv": made.drv,
                "nix:output": made.output,
                "tallystick:path": made.path,
                "tallystick:size": str(made.size_bytes),
                "tallystick:files": str(sum(len(contents.files) for contents in lists)),
                "tallystick:unexplained-files": str(sum(len(unexplained(c, digests(build))) for c in lists)),
            }
        ),
    }


def firmware(made: Product) -> Document:
    """Return the component of a firmware file: measured before the products, and in none of them."""
    return {
        "bom-ref": firmware_ref(made.name),
        "type": "firmware",
        "name": made.name,
        "hashes": [cyclonedx.hash_of(made.digest)],
        "properties": properties(
            {
                "nix:drv": made.drv,
                "nix:output": made.output,
                "tallystick:path": made.path,
                "tallystick:size": str(made.size_bytes),
            }
        ),
    }


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
    component: Component, origin: Origin | None, files: Iterable[tuple[str, ContentsFile]]
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
    if licences := cyclonedx.licences(component.licence, spdx_ids()):
        made["licenses"] = licences
    facts = {"tallystick:kind": component.kind}
    if component.seed:
        made["hashes"] = [cyclonedx.hash_of(component.digest)]
        made["externalReferences"] = [
            {
                "type": "distribution",
                "url": quote(f"seeds/{component.seed}"),
                "hashes": [cyclonedx.hash_of(component.digest)],
            }
        ]
        facts["tallystick:seed"] = component.seed
    else:  # a tree of sources has no bytes to hash: Nix hashes its archive form
        facts["nix:narHash"] = str(component.digest)
    if origin is not None:
        facts |= {"nix:drv": origin.drv} if origin.drv else {}
        facts["nix:output"] = origin.path
    made["properties"] = properties(facts)
    made["evidence"] = _evidence(component, files)
    return made


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

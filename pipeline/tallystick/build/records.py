"""What a build is, after Nix has run: products, what is in them, and the derivations that made them."""

from __future__ import annotations

from dataclasses import dataclass

from tallystick.core.digests import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One thing that came from somewhere: a Debian package, a wheel, or this project's own source."""

    ref: str  # unique inside one contents list; the purl where one exists
    kind: str  # "deb" | "wheel" | "project" | "nixpkgs"
    name: str
    version: str
    purl: str
    licence: str  # SPDX expression, or "NOASSERTION"
    seed: str  # file name of the seed it was unpacked from; "" for project source
    digest: Digest  # of the seed file, or of the NAR of the project source


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentsFile:
    """One measured file (or PE section) of a product and the component that it came from."""

    path: str  # inside the product: "usr/bin/python3.11", or a section name such as ".linux"
    digest: Digest  # of the bytes in the product; a symbolic link's digest is of its target text
    size_bytes: int
    mode: str  # octal, as the archive has it: "0100755"
    component: str  # Component.ref; "" is an unexplained file, and those are counted
    nested: str = ""  # name of the product that these bytes are ("initramfs" for ".initrd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The contents list of one product, written at assembly time in a sibling output."""

    product: str  # "initramfs", "uki", "oci", "eif"
    files: tuple[ContentsFile, ...]
    components: tuple[Component, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One file that the build made."""

    name: str  # "uki"
    path: str  # inside the release directory: "products/uki.efi"
    digest: Digest  # sha256 of the file's bytes
    size_bytes: int
    drv: str  # store path of the derivation that made it
    output: str  # store path of the output


@dataclass(frozen=True, slots=True, kw_only=True)
class NixFacts:
    """How Nix really ran, as observed and not as configured."""

    version: str
    system: str
    sandbox: bool  # proven by a probe derivation, not read from a file
    sandbox_fallback: bool
    build_users: bool
    config: tuple[tuple[str, str], ...]  # the effective configuration, sorted by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One reproducible build: what was asked, what came out, and from what."""

    name: str
    version: str
    recipe: bytes  # the recipe file as it was read
    products: tuple[Product, ...]
    contents: tuple[Contents, ...]
    derivations: tuple[tuple[str, bytes], ...]  # (store path, ATerm text) of the whole graph, sorted by path
    nix: NixFacts
    sources: tuple[tuple[str, Digest], ...] = ()  # (store path, SHA-256 of the NAR) of local sources
    firmware: tuple[Product, ...] = ()  # what launches are measured with: "firmware/ovmf.fd"; in no product

    def product(self, name: str) -> Product:
        """Return the product called ``name``; KeyError when there is none."""
        for product in self.products:
            if product.name == name:
                return product
        raise KeyError(name)

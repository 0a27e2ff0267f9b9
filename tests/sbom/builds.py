"""Builds made up at test time: real derivation graphs, real archives, right digests everywhere."""

from __future__ import annotations

import hashlib
import lzma
from dataclasses import dataclass

import support_pe
from formats.cpios import archive
from formats.drvs import Maker

from tallystick.build.records import (
    Build,
    Component,
    Contents,
    ContentsFile,
    NixFacts,
    Product,
)
from tallystick.core.digests import Digest
from tallystick.formats import nixstore, pe

RECIPE = b"schema: tallystick/recipe/v1\nname: demo\nversion: 1.2.3\n"
SOURCE_NAR = Digest.of(b"the project's own source tree")
SOURCE = nixstore.source_path(SOURCE_NAR.hex, "attester")
NIX = NixFacts(
    version="2.8.0",
    system="x86_64-linux",
    sandbox=True,
    sandbox_fallback=False,
    build_users=True,
    config=(("cores", "1"), ("sandbox", "true"), ("sandbox-fallback", "false")),
)


def package(name: str, version: str, licence: str, *, kind: str = "deb") -> Component:
    """Return a component that came in a seed file."""
    purls = {
        "deb": f"pkg:deb/debian/{name}@{version}?arch=amd64",
        "wheel": f"pkg:pypi/{name}@{version}",
    }
    return Component(
        ref=purls[kind],
        kind=kind,
        name=name,
        version=version,
        purl=purls[kind],
        licence=licence,
        seed=f"{name}_{version}.{kind}",
        digest=Digest.of(f"seed of {name} {version}".encode()),
    )


BUSYBOX = package("busybox-static", "1.35", "GPL-2.0-only")
LIBC = package("libc6", "2.36", "LGPL-2.1-or-later AND GPL-2.0-only")
CBOR = package("cbor2", "6.3.0", "MIT", kind="wheel")
KERNEL = package("linux-image-amd64", "6.1.0", "GPL-2.0-only WITH Linux-syscall-note")
STUB = package("systemd-boot-efi", "252", "a licence SPDX does not know")
OVMF = package("ovmf", "2022.11", "BSD-2-Clause-Patent")
FIRMWARE = b"firmware"
OWN = Component(
    ref="pkg:generic/tallystick-attester@1.2.3",
    kind="project",
    name="tallystick-attester",
    version="1.2.3",
    purl="pkg:generic/tallystick-attester@1.2.3",
    licence="Apache-2.0",
    seed="",
    digest=SOURCE_NAR,
)
FILES: tuple[tuple[str, bytes, int, Component], ...] = (
    ("bin/busybox", b"\x7fELF busybox", 0o100755, BUSYBOX),
    ("bin/sh", b"busybox", 0o120777, BUSYBOX),
    ("init", b"#!/bin/sh\n", 0o100755, OWN),
    ("lib/libc.so.6", b"\x7fELF libc", 0o100755, LIBC),
    ("lib/python/cbor2.py", b"import struct\n", 0o100644, CBOR),
)


@dataclass(frozen=True)
class Made:
    """A build and the bytes of its products, by name."""

    build: Build
    products: dict[str, bytes]
    maker: Maker


def contents_file(path: str, data: bytes, mode: int, component: Component) -> ContentsFile:
    """Return the line of a contents list for one file."""
    return ContentsFile(
        path=path,
        digest=Digest.of(data),
        size_bytes=len(data),
        mode=f"{mode:07o}",
        component=component.ref,
    )


def graph(
    packages: tuple[Component, ...] = (BUSYBOX, LIBC, CBOR, KERNEL, STUB, OVMF),
) -> tuple[Maker, dict[str, str]]:
    """Return the derivations of the demo build and the paths of those that made the products."""
    maker = Maker()
    seeds = {
        p.name: maker.fixed(
            p.seed,
            p.digest.hex,
            pname=p.name,
            version=p.version,
            purl=p.purl,
            licence=p.licence,
            url=f"seed:pool/{p.seed}",
        )
        for p in packages
    }
    seed = maker.fixed(
        "busybox-seed", hashlib.sha256(b"tree").hexdigest(), "r:sha256", url="seed:busybox-seed"
    )
    compiler = maker.fixed("gcc.deb", hashlib.sha256(b"gcc").hexdigest(), pname="gcc", version="12.2")
    tools = maker.step("tools", {seed: ("out",), compiler: ("out",)})
    rootfs = maker.step(
        "initramfs.cpio.xz",
        {tools: ("out",), **dict.fromkeys(seeds.values(), ("out",))},
        sources=(SOURCE,),
        outputs=("out", "contents"),
        SOURCE_DATE_EPOCH="1700000000",
    )
    uki = maker.step("uki.efi", {rootfs: ("contents", "out")}, SOURCE_DATE_EPOCH="1700000000")
    ovmf = maker.step("ovmf-tree", {tools: ("out",), seeds["ovmf"]: ("out",), seed: ("out",)})
    return maker, {"initramfs": rootfs, "uki": uki, "ovmf": ovmf}


def make(files: tuple[tuple[str, bytes, int, Component], ...] = FILES) -> Made:
    """Return a small build: an initramfs, and an image that is the kernel, the stub and that initramfs."""
    maker, drvs = graph()
    initramfs = lzma.compress(
        archive((path, data, mode) for path, data, mode, _ in files), check=lzma.CHECK_CRC32
    )
    sections = [(".linux", b"kernel", KERNEL), (".text", b"stub", STUB)]
    uki = support_pe.pe([*((name, data) for name, data, _ in sections), (".initrd", initramfs)])
    headers = uki[: pe.parse(uki).headers_size]
    products = {"initramfs": initramfs, "uki": uki}
    inside = tuple(sorted((contents_file(*file) for file in files), key=lambda f: f.path))
    parts = (
        contents_file("(headers)", headers, 0o100644, STUB),
        *(contents_file(path, data, 0o100644, component) for path, data, component in sections),
        ContentsFile(
            path=".initrd",
            digest=Digest.of(initramfs),
            size_bytes=len(initramfs),
            mode="0100644",
            component=OWN.ref,
            nested="initramfs",
        ),
    )
    used = tuple(sorted({component for *_, component in files}, key=lambda c: c.ref))
    build = Build(
        name="demo",
        version="1.2.3",
        recipe=RECIPE,
        products=tuple(
            Product(
                name=name,
                path=path,
                digest=Digest.of(products[name]),
                size_bytes=len(products[name]),
                drv=drvs[name],
                output=maker.output(drvs[name]),
            )
            for name, path in (("initramfs", "products/initramfs.cpio.xz"), ("uki", "products/uki.efi"))
        ),
        contents=(
            Contents(product="initramfs", files=inside, components=used),
            Contents(
                product="uki",
                files=tuple(sorted(parts, key=lambda f: f.path)),
                components=(KERNEL, OWN, STUB),
            ),
        ),
        derivations=maker.items(),
        nix=NIX,
        firmware=(
            Product(
                name="ovmf",
                path="firmware/ovmf.fd",
                digest=Digest.of(FIRMWARE),
                size_bytes=len(FIRMWARE),
                drv=drvs["ovmf"],
                output=maker.output(drvs["ovmf"]),
            ),
        ),
    )
    return Made(build, products, maker)

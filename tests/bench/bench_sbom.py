"""Pairs for ``make bench``: SBOM and provenance beside sbomnix, validation beside the stock validator, a large graph.

``pairs(folder)`` gives (what, ours, peer's name, peer's, limit, rounds) for :func:`run.pair`. sbomnix is looked for as
``$SBOMNIX`` or on PATH, in a virtual environment of its own; it asks a stand-in ``nix`` that prints what Nix would,
from the same derivations. ``python bench_sbom.py make FOLDER`` is our side as a process: it reads derivations and
contents lists, and writes the statements of SBOM and provenance after validating the SBOM.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "pipeline"), str(ROOT / "tests"), str(ROOT / "tests/bench")]

Pair = tuple[str, Callable[[], object], str, Callable[[], object], str, int]
_SIZES = ((5_000, 3), (50_000, 1))
_VALIDATED = 500
_GRAPH, _GRAPH_SECONDS = 1_500, 4.0
_JSON_FORMAT = 4  # of `nix derivation show`


def pairs(folder: Path) -> list[Pair]:
    made = [_graph(folder), _validation()]
    peer = os.environ.get("SBOMNIX") or shutil.which("sbomnix")
    if peer is None:
        sys.stderr.write("no sbomnix ($SBOMNIX): its rows are left out\n")
        return made
    return [*made, *(_sbomnix(folder, peer, size, rounds) for size, rounds in _SIZES)]


def write_build(folder: Path, size: int) -> str:
    """Write derivations and a contents list with ``size`` packages below one product; return its derivation."""
    from formats.drvs import Maker

    maker, seeds = Maker(), []
    for number in range(size):
        name, digest = f"package-{number}", hashlib.sha256(b"%d" % number).hexdigest()
        purl = f"pkg:deb/debian/{name}@1.{number}-1?arch=amd64"
        seeds.append(
            (
                name,
                digest,
                purl,
                maker.fixed(f"{name}.deb", digest, pname=name, version=f"1.{number}", purl=purl),
            )
        )
    product = maker.step(
        "initramfs.cpio.xz", dict.fromkeys((drv for *_, drv in seeds), ("out",)), SOURCE_DATE_EPOCH="1"
    )
    (folder / "derivations").mkdir(parents=True, exist_ok=True)
    (folder / "texts.json").write_text(json.dumps({path: text.decode() for path, text in maker.items()}))
    for path, text in maker.items():
        (folder / "derivations" / Path(path).name).write_bytes(text)
    files = [
        {"path": f"usr/{name}", "sha256": digest, "size": 1, "mode": "0100644", "component": purl}
        for name, digest, purl, _ in seeds
    ]
    components = [
        {"ref": purl, "kind": "deb", "name": name, "version": purl.split("@")[1].split("?")[0], "purl": purl,
         "licence": "MIT", "seed": f"{name}.deb", "sha256": digest}
        for name, digest, purl, _ in seeds
    ]  # fmt: skip
    listed = {
        "schema": "tallystick/contents/v1",
        "product": "initramfs",
        "files": sorted(files, key=lambda one: str(one["path"]).encode()),
        "components": sorted(components, key=lambda one: one["ref"].encode()),
    }
    (folder / "contents.json").write_text(json.dumps(listed))
    (folder / "product").write_text(product)
    return product


def make(folder: Path) -> None:
    """Read what :func:`write_build` wrote, and write both statements; the SBOM is validated."""
    from sbom import builds

    from tallystick.build import contents
    from tallystick.build.records import Build, Product
    from tallystick.core.digests import Digest
    from tallystick.formats import drv
    from tallystick.provenance import make as provenance
    from tallystick.sbom import check
    from tallystick.sbom import make as sbom

    product = (folder / "product").read_text()
    listed = json.loads((folder / "texts.json").read_bytes())  # one file, as the peer's Nix gives it one
    texts = tuple((path, text.encode()) for path, text in sorted(listed.items()))
    output = drv.parse(dict(texts)[product]).outputs[0].path
    made = Product(
        name="initramfs", path="products/i", digest=Digest.of(b""), size_bytes=0, drv=product, output=output
    )
    build = Build(
        name="bench",
        version="1",
        recipe=b"",
        products=(made,),
        contents=(contents.parse((folder / "contents.json").read_bytes()),),
        derivations=texts,
        nix=builds.NIX,
    )
    document = sbom.make(build, created=sbom.created_of(build))
    findings = check.check_document(document)
    if findings:
        raise SystemExit(findings[0].message)
    (folder / "sbom.json").write_bytes(sbom.statement(build, document))
    (folder / "provenance.json").write_bytes(provenance.statement(build, builder_id="https://example.org"))


def _sbomnix(folder: Path, peer: str, size: int, rounds: int) -> Pair:
    place = folder / f"sbomnix-{size}"
    product = write_build(place, size)
    command = [sys.executable, str(Path(__file__)), "make", str(place)]

    def ours() -> None:
        subprocess.run(command, check=True, capture_output=True)

    theirs = stand_in(place, peer, product, place / "derivations")
    ours(), theirs()
    listed = json.loads((place / "sbom.json").read_bytes())["predicate"]["components"]
    names = {part["name"] for part in json.loads((place / "peer.json").read_bytes())["components"]}
    if missing := {part["name"] for part in listed if part["name"].startswith("package-")} - names:
        raise AssertionError(f"sbomnix misses {len(missing)} packages that it should see")
    return (
        f"SBOM, validated, and provenance of {size:,} components",
        ours,
        "`sbomnix --buildtime`, SBOM alone",
        theirs,
        "0.25, not met",
        rounds,
    )


def stand_in(place: Path, peer: str, product: str, derivations: Path) -> Callable[[], object]:
    """Return a run of sbomnix over ``product``, with a ``nix`` that prints these derivations as JSON."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "derivations.json").write_text(json.dumps(_as_nix_shows(derivations)))
    (place / "bin").mkdir(exist_ok=True)
    nix = place / "bin" / "nix"
    answers = (
        f'*"derivation show"*) exec cat "{place}/derivations.json";; *path-info*) echo {{}};; *) exit 1;;'
    )
    nix.write_text(f'#!/bin/sh\ncase "$*" in {answers} esac\n')
    nix.chmod(0o755)
    arguments = ["--buildtime", "--exclude-meta", "--exclude-cpe-matching"]
    outputs = [
        "--cdx",
        str(place / "peer.json"),
        "--spdx",
        str(place / "peer.spdx"),
        "--csv",
        str(place / "peer.csv"),
    ]
    environment = {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}"}
    command = [peer, *arguments, *outputs, product]
    return lambda: subprocess.run(command, check=True, capture_output=True, env=environment, cwd=place)


def _as_nix_shows(derivations: Path) -> dict[str, object]:
    """Return the derivations as `nix derivation show --recursive` prints them since Nix 2.30."""
    from tallystick.formats import drv

    found = {}
    for path in sorted(derivations.iterdir()):
        made = drv.parse(path.read_bytes())
        environment = dict(made.environment)
        found[path.name] = {
            "version": _JSON_FORMAT,
            "name": environment.get("name", path.name[33:].removesuffix(".drv")),
            "system": made.system,
            "builder": made.builder,
            "args": list(made.arguments),
            "env": environment,
            "outputs": {output.name: {"path": output.path} for output in made.outputs},
            "inputs": {
                "srcs": list(made.sources),
                "drvs": {
                    needed: {"outputs": list(names), "dynamicOutputs": {}} for needed, names in made.inputs
                },
            },
        }
    return {
        "version": _JSON_FORMAT,
        "derivations": {f"/nix/store/{name}": one for name, one in found.items()},
    }


def missed(folder: Path, release: Path, peer: str) -> list[str]:
    """Return the components of the release's SBOM that sbomnix does not name, from the same derivations."""
    from tallystick.formats import cyclonedx

    provenance = json.loads((release / "statements/provenance.json").read_bytes())["predicate"]
    product = provenance["buildDefinition"]["internalParameters"]["products"]["uki"]["drv"]
    stand_in(folder, peer, product, release / "derivations")()
    theirs = {part["name"] for part in json.loads((folder / "peer.json").read_bytes())["components"]}
    document = json.loads((release / "statements/sbom.json").read_bytes())["predicate"]
    return sorted(
        {
            f"{part['name']} {part.get('version', '')}".strip()
            for part in cyclonedx.components(document)
            if part["name"] not in theirs
        }
    )


def _validation() -> Pair:
    """The document of so many components, by both validators: they agree, and one of them is quadratic."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    from tallystick.sbom import schema

    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "components": [
            {
                "type": "library",
                "bom-ref": f"pkg:deb/debian/p{number}@1",
                "name": f"p{number}",
                "version": "1",
                "purl": f"pkg:deb/debian/p{number}@1",
                "externalReferences": [{"type": "distribution", "url": f"seeds/p{number}.deb"}],
            }
            for number in range(_VALIDATED)
        ],
        "dependencies": [{"ref": f"pkg:deb/debian/p{number}@1"} for number in range(_VALIDATED)],
    }
    text = json.dumps(document)
    stock = JsonStrictValidator(SchemaVersion.V1_6)

    def ours() -> None:
        assert list(schema.findings(json.loads(text))) == []

    def theirs() -> None:
        assert stock.validate_str(text) is None

    return (f"validation of {_VALIDATED} components", ours, "`JsonStrictValidator`", theirs, "0.01", 1)


def _graph(folder: Path) -> Pair:
    """Provenance of a deep graph, made and re-derived: every path recomputed from the texts."""
    from formats.drvs import chain
    from sbom import builds

    from tallystick.build.records import Build, Product
    from tallystick.core.digests import Digest
    from tallystick.formats import drv, intoto
    from tallystick.provenance import check, make

    maker = chain(_GRAPH)
    last = list(maker.texts)[-1]
    output = drv.parse(maker.texts[last]).outputs[0].path
    digest = Digest.of(b"")
    product = Product(name="x", path="products/x", digest=digest, size_bytes=0, drv=last, output=output)
    build = Build(name="b", version="1", recipe=b"", products=(product,), contents=(), derivations=maker.items(),
                  nix=builds.NIX)  # fmt: skip

    def ours() -> None:
        data = make.statement(build, builder_id="https://example.org")
        released = check.Released(
            products={"products/x": digest}, recipe=b"", derivations=build.derivations, firmware={}
        )
        assert check.check(intoto.parse(data), released).findings == ()

    what = f"provenance of {_GRAPH:,} derivations, made and re-derived"
    return (what, ours, "4 s", lambda: time.sleep(_GRAPH_SECONDS), "1.0", 3)


if __name__ == "__main__":
    from tallystick.core.bulk import uncollected

    with uncollected():  # as `tally build` does
        make(Path(sys.argv[2]))

"""The links of the chain as nodes: what each is, its digest, and what it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.broker import decisions
from tallystick.core.digests import Digest
from tallystick.core.errors import NotGenuine
from tallystick.core.findings import Finding
from tallystick.formats import cyclonedx, drvgraph, slsa
from tallystick.measure.records import NO_FIRMWARE, Measurement
from tallystick.provenance import check as provenance_check
from tallystick.provenance import make as provenance_make
from tallystick.release import index as release_index
from tallystick.release.records import Index, VerifiedChannel
from tallystick.report.folder import ReleaseFolder
from tallystick.sbom import check as sbom_check
from tallystick.sbom import coverage
from tallystick.sbom.origins import origins
from tallystick.sbom.parts import firmware_name

# From source to key; the same digest in two stages (a file, and the product it is) means the later one last.
ORDER = (
    "source", "derivation", "component", "firmware", "product", "file", "sbom", "provenance", "measurement",
    "release", "signature", "rebuild", "promotion", "policy", "decision",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One link of the chain."""

    id: str  # unique in one graph: "product:uki"
    stage: str  # one of ORDER
    name: str  # for people
    digest: str  # "sha256:…", or "narHash:…" of a tree
    where: str  # file of the release, target of the channel, or leaf of the log
    rests_on: tuple[str, ...]  # ids
    aliases: tuple[str, ...] = ()  # other names and digests that mean this

    def document(self) -> dict[str, object]:
        """Return the node as ``--json`` prints it."""
        return {
            "id": self.id,
            "stage": self.stage,
            "name": self.name,
            "digest": self.digest,
            "where": self.where,
            "rests_on": list(self.rests_on),
        }


def check(folder: ReleaseFolder) -> None:
    """Compare every file with the index, and every statement with what it is about.

    Raises:
        NotGenuine: with every finding. Malformed, Unsupported: a part that can not be read.
    """
    release_index.check(folder.path, folder.index)
    document = cyclonedx.checked(folder.statement("sbom").predicate, "statements/sbom.json")
    lists = folder.contents()
    firmware = {firmware_name(path): digest for path, digest in folder.firmware_digests().items()}
    findings = [
        *provenance_check.check(folder.statement("provenance"), folder.released()).findings,
        *sbom_check.check_document(document),
        *sbom_check.check_contents(document, folder.product_digests(), tuple(lists.values()), firmware),
        *(finding for one in coverage.cover(folder.products(), lists) for finding in one.findings),
        *_measured(folder),
    ]
    if findings:
        raise NotGenuine(f"{folder.path}: the chain breaks in {len(findings)} place(s)", findings=findings)


def of_release(folder: ReleaseFolder) -> Iterator[Node]:
    """Every node of the release itself, from its sources to its rebuild links."""
    yield Node(
        id="recipe",
        stage="source",
        name="recipe.yaml",
        digest=str(folder.digest("recipe.yaml")),
        where="recipe.yaml",
        rests_on=(),
    )
    graph = drvgraph.read(folder.derivations())
    yield from _derivations(folder, graph)
    yield from _contents(folder, graph)
    yield from _made(folder, graph)
    yield from _statements(folder)


def of_channel(index: Index, channel: VerifiedChannel) -> Iterator[Node]:
    """The promotion of the release in ``channel``, and the policy files that name it."""
    promoted = next((one for one in channel.releases if one.digest == index.digest), None)
    if promoted is None or promoted.vsa is None:
        return
    promotion = f"promotion:{channel.name}"
    yield Node(
        id=promotion,
        stage="promotion",
        name=f"promoted to {channel.name} by {promoted.vsa.signer.san}",
        digest=str(promoted.vsa.bundle),
        where=f"channel {channel.name}, version {channel.version}",
        rests_on=("release",),
        aliases=(str(Digest.of(promoted.vsa.payload)),),
    )
    for path, data in sorted(channel.policies.items()):
        if index.digest.hex.encode() in data:  # every target's file carries the digests of what it permits
            yield Node(
                id=f"policy:{channel.name}:{path}",
                stage="policy",
                name=path,
                digest=str(Digest.of(data)),
                where=f"channel {channel.name}, policies/{path}",
                rests_on=(promotion, "release"),
            )


def of_log(index: Index, channel: VerifiedChannel | None, leaves: Iterable[bytes]) -> Iterator[Node]:
    """The broker's decisions that name the release, or a policy that names it."""
    promoted = of_channel(index, channel) if channel is not None else ()
    policies = {node.digest: node.id for node in promoted if node.stage == "policy"}
    for place, data in enumerate(leaves):
        leaf = decisions.parse_leaf(data)
        named = [policies[str(leaf["policy"])]] if str(leaf.get("policy")) in policies else []
        if leaf.get("release") == str(index.digest):
            named.append("release")
        if named:
            said = " ".join(str(leaf[name]) for name in ("kind", "key") if name in leaf)
            yield Node(
                id=f"decision:{leaf['decision']}",
                stage="decision",
                name=f"{said} at {leaf['at']}",
                digest=str(Digest.of(data)),
                where=f"leaf {place} of the broker's log",
                rests_on=tuple(named),
                aliases=(str(leaf["decision"]), str(leaf.get("commitment", ""))),
            )


def _derivations(folder: ReleaseFolder, graph: drvgraph.Graph) -> Iterator[Node]:
    texts = dict(folder.derivations())
    seeds = {entry.digest.hex: entry.path for entry in folder.index.under("seeds/")}
    for item in slsa.parse(folder.statement("provenance")).dependencies:
        path = str(item.annotation("nix:output") or item.uri)
        if not item.annotation("nix:drv"):
            label, value = item.digests[0]
            yield Node(
                id=path, stage="source", name=item.name, digest=f"{label}:{value}", where=path, rests_on=(),
                aliases=(value,),
            )  # fmt: skip
    for path in graph.order:
        step = graph[path]
        file = provenance_make.DERIVATIONS + path.rpartition("/")[2]
        outputs = tuple(output.path for output in step.outputs)
        if step.is_fixed:
            item = provenance_make.fixed_output(path, step)
            label, value = item.digests[0]
            yield Node(
                id=path,
                stage="source",
                name=item.name,
                digest=f"{label}:{value}",
                where=seeds.get(value, item.uri),
                rests_on=(),
                aliases=(value, item.uri, file, str(Digest.of(texts[path])), *outputs),
            )
            continue
        yield Node(
            id=path,
            stage="derivation",
            name=path.rpartition("/")[2],
            digest=str(Digest.of(texts[path])),
            where=file,
            rests_on=(*(needed for needed, _ in step.inputs), *step.sources),
            aliases=(file, *outputs),
        )


def _contents(folder: ReleaseFolder, graph: drvgraph.Graph) -> Iterator[Node]:
    """Components on what they came from, and every file of a product on its component."""
    components = {part.ref: part for contents in folder.contents().values() for part in contents.components}
    known = origins(graph, components.values())
    for ref, component in sorted(components.items()):
        origin = known.get(ref)
        yield Node(
            id=f"component:{ref}",
            stage="component",
            name=f"{component.name} {component.version}",
            digest=str(component.digest) if component.seed else f"narHash:{component.digest.hex}",
            where=f"seeds/{component.seed}" if component.seed else "the project's own source",
            rests_on=((origin.drv or origin.path),) if origin is not None else (),
            aliases=(ref,),
        )
    for name, contents in sorted(folder.contents().items()):
        for file in contents.files:
            below = f"product:{file.nested}" if file.nested else f"component:{file.component}"
            yield Node(
                id=f"file:{name}:{file.path}",
                stage="file",
                name=file.path,
                digest=str(file.digest),
                where=f"in {name}",
                rests_on=(below,),
            )


def _made(folder: ReleaseFolder, graph: drvgraph.Graph) -> Iterator[Node]:
    """Products on their derivations and on what is in them; firmware on its derivation."""
    provenance = slsa.parse(folder.statement("provenance"))
    stated = provenance.internal.get("products") or {}
    lists = folder.contents()
    for name, path in folder.index.products:
        fields: Mapping[str, Any] = stated.get(name) or {}
        drv = str(fields.get("drv", ""))
        inside = lists[name].files if name in lists else ()
        yield Node(
            id=f"product:{name}",
            stage="product",
            name=name,
            digest=str(folder.digest(path)),
            where=path,
            rests_on=(
                *((drv,) if drv in graph else ()),
                *(f"file:{name}:{file.path}" for file in inside),
                "recipe",
            ),
            aliases=(path, str(fields.get("output", ""))),
        )
    byproducts = {item.name: item for item in provenance.byproducts}
    for path, digest in folder.firmware_digests().items():
        drv = str(byproducts[path].annotation("nix:drv"))
        yield Node(
            id=f"firmware:{path}", stage="firmware", name=firmware_name(path), digest=str(digest), where=path,
            rests_on=(drv,), aliases=(path,),
        )  # fmt: skip


def _statements(folder: ReleaseFolder) -> Iterator[Node]:
    """Measurements on image and firmware, statements on products, the release on all, signatures on these."""
    products = {str(folder.digest(path)): f"product:{name}" for name, path in folder.index.products}
    firmware = {str(digest): f"firmware:{path}" for path, digest in folder.firmware_digests().items()}
    tuples = []
    for one in folder.measurements():
        shape = ", ".join(f"{name} {value}" for name, value in one.shape)
        node = Node(
            id=f"measurement:{one.platform}:{shape}",
            stage="measurement",
            name=f"{one.platform}: {shape}",
            digest=str(folder.digest("statements/measurements.json")),
            where="statements/measurements.json",
            rests_on=(products[str(one.image)], *_started_by(one, firmware)),
            aliases=tuple(value for _, value in one.values if value.strip("0")),
        )
        tuples.append(node.id)
        yield node
    everything = tuple(sorted(products.values()))
    rests_on = {"sbom": everything, "provenance": everything, "measurements": tuple(tuples)}
    stated = [name for name, _ in folder.index.statements]
    for name in stated:
        below = rests_on[name]
        path = f"statements/{name}.json"
        stage = "measurement" if name == "measurements" else name
        yield Node(
            id=f"statement:{name}", stage=stage, name=f"{name} statement", digest=str(folder.digest(path)),
            where=path, rests_on=below, aliases=(path,),
        )  # fmt: skip
    yield Node(
        id="release",
        stage="release",
        name=f"{folder.index.name} {folder.index.version}",
        digest=str(folder.index.digest),
        where=release_index.FILE,
        rests_on=tuple(f"statement:{name}" for name in stated),
        aliases=(release_index.FILE,),
    )
    yield from _beside(folder)


def _started_by(one: Measurement, firmware: Mapping[str, str]) -> tuple[str, ...]:
    """Return the node of the firmware; an enclave starts without one."""
    return () if one.firmware == NO_FIRMWARE else (firmware[str(one.firmware)],)


def _beside(folder: ReleaseFolder) -> Iterator[Node]:
    for kind, stage in (("bundles", "signature"), ("links", "rebuild"), ("promotions", "signature")):
        for path in folder.beside(kind):
            name = path.partition("/")[2].partition(".")[0]
            is_statement = kind == "bundles" and name in release_index.STATEMENTS
            yield Node(
                id=path,
                stage=stage,
                name=path,
                digest=str(Digest.of((folder.path / path).read_bytes())),
                where=path,
                rests_on=(f"statement:{name}",) if is_statement else ("release",),
            )


def _measured(folder: ReleaseFolder) -> Iterator[Finding]:
    """Each release tuple is of a product and a firmware of this release."""
    products = set(folder.product_digests().values())
    firmware = set(folder.firmware_digests().values())
    for one in folder.measurements():
        if one.image not in products:
            yield Finding(
                "trace.measurement.image", one.platform, "a product of this release", str(one.image)
            )
        if one.firmware not in {*firmware, NO_FIRMWARE}:
            yield Finding(
                "trace.measurement.firmware", one.platform, "a firmware of this release", str(one.firmware)
            )

"""From any digest of a release back to its source, and forward to measurement, promotion, policy and key.

The graph is made from files whose every hash was compared on the way: one flipped byte anywhere, and there is
no graph but an error that names the file (DESIGN.md, invariant 6). Who signed is ``release.verify``'s question.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tallystick.core.errors import Misuse
from tallystick.release.records import VerifiedChannel
from tallystick.report import nodes
from tallystick.report.folder import ReleaseFolder
from tallystick.report.nodes import Node

_MIN_PREFIX = 8  # hex digits: enough that two digests of one release do not share them by chance


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainGraph:
    """Everything of one release and what became of it, each with what it rests on."""

    nodes: Mapping[str, Node]

    def back(self, *starts: str) -> tuple[Node, ...]:
        """Return all that ``starts`` rest on, nearest first."""
        return self._walk(starts, {name: node.rests_on for name, node in self.nodes.items()})

    def forward(self, *starts: str) -> tuple[Node, ...]:
        """Return all that rests on ``starts``, nearest first."""
        users: dict[str, list[str]] = {}
        for name, node in self.nodes.items():
            for below in node.rests_on:
                users.setdefault(below, []).append(name)
        return self._walk(starts, users)

    def _walk(self, starts: Iterable[str], edges: Mapping[str, Iterable[str]]) -> tuple[Node, ...]:
        level = sorted(starts)
        seen, found = set(level), []
        while level:
            level = sorted({name for one in level for name in edges.get(one, ()) if name not in seen})
            seen.update(level)
            found += [self.nodes[name] for name in level if name in self.nodes]
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One thing, all that it rests on, and all that rests on it."""

    asked: str
    found: tuple[Node, ...]  # several where the same bytes lie in several places
    back: tuple[Node, ...]
    forward: tuple[Node, ...]

    @property
    def source(self) -> tuple[Node, ...]:
        """The ends of the way back: what came from outside."""
        return tuple(node for node in (*self.found, *self.back) if not node.rests_on)

    def document(self) -> dict[str, object]:
        """Return the trace as ``--json`` prints it."""
        return {
            "asked": self.asked,
            "found": [node.document() for node in self.found],
            "back": [node.document() for node in self.back],
            "forward": [node.document() for node in self.forward],
        }


def graph(
    folder: ReleaseFolder, *, channel: VerifiedChannel | None = None, leaves: Iterable[bytes] = ()
) -> ChainGraph:
    """Return the chain of the release in ``folder``, with every hash checked on the way.

    Args:
        channel: one that may have promoted it, and whose policies may name it.
        leaves: of a broker's log that was verified (``broker.audit``), in their order.

    Raises:
        NotGenuine: a file is not what the index says, the provenance does not follow from the derivations, or
            SBOM, contents lists and products differ; each finding names its place.
        Malformed, Unsupported: a part that can not be read.
    """
    nodes.check(folder)
    found = [*nodes.of_release(folder)]
    if channel is not None:
        found += nodes.of_channel(folder.index, channel)
    found += nodes.of_log(folder.index, channel, leaves)
    return ChainGraph(nodes=MappingProxyType({node.id: node for node in found}))


def trace(chain: ChainGraph, asked: str) -> Trace:
    """Return what ``asked`` names and its way back and forward.

    Args:
        asked: a digest (``sha256:…`` or bare hex, or its first eight digits or more), a path in the release, a
            store path, a component's purl, or a decision's identifier.

    Raises:
        Misuse: nothing here is called that (``trace.unknown``), or several things are (``trace.ambiguous``).
    """
    found = _find(chain, asked)
    if not found:
        raise Misuse(f"nothing in this release has the digest or name {asked}", code="trace.unknown")
    if len({node.digest for node in found}) > 1:
        several = ", ".join(f"{node.name} {node.digest}" for node in found[:5])
        raise Misuse(f"{asked} can mean {len(found)} things: {several}", code="trace.ambiguous")
    starts = [node.id for node in found]
    ordered = sorted(found, key=lambda node: (nodes.ORDER.index(node.stage), node.id))
    return Trace(asked=asked, found=tuple(ordered), back=chain.back(*starts), forward=chain.forward(*starts))


def _find(chain: ChainGraph, asked: str) -> list[Node]:
    """Exact names first; a beginning of a digest only where nothing is called exactly that."""
    exact = [
        node
        for node in chain.nodes.values()
        if asked in (node.id, node.name, node.digest, node.digest.partition(":")[2], *node.aliases)
    ]
    prefix = asked.removeprefix("sha256:")
    if exact or not re.fullmatch(f"[0-9a-f]{{{_MIN_PREFIX},}}", prefix):
        return exact
    return [
        node
        for node in chain.nodes.values()
        if any(name.partition(":")[2].startswith(prefix) for name in (node.digest, *_digests(node)))
    ]


def _digests(node: Node) -> list[str]:
    return [alias for alias in node.aliases if alias.startswith("sha256:")]

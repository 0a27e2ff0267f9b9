"""The graph of a build's derivations, walked without recursion, and every path in it recomputed from text.

Whoever holds the texts can prove, without Nix, that a store path can only be the output of exactly these
build steps over these fixed inputs.

Source: Nix 2.8.0, src/libstore/derivations.cc, hashDerivationModulo.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from tallystick.core.errors import Malformed
from tallystick.formats import drv, nixstore
from tallystick.formats.drv import Derivation

_WHAT = "derivation graph"


@dataclass(frozen=True, slots=True)
class Graph:
    """Derivations by store path; every input is present and nothing depends on itself."""

    derivations: dict[str, Derivation]
    order: tuple[str, ...]  # inputs before those that use them

    def __getitem__(self, path: str) -> Derivation:
        return self.derivations[path]

    def __contains__(self, path: str) -> bool:
        return path in self.derivations

    def closure(self, roots: Iterable[str]) -> frozenset[str]:
        """Return ``roots`` and every derivation that they need."""
        seen: set[str] = set()
        waiting = list(roots)
        while waiting:
            path = waiting.pop()
            if path not in seen:
                seen.add(path)
                waiting.extend(needed for needed, _ in self.derivations[path].inputs)
        return frozenset(seen)

    def fixed(self) -> Iterator[tuple[str, Derivation]]:
        """Every fixed-output derivation with its path, in path order: what came from outside."""
        for path in sorted(self.derivations):
            if self.derivations[path].is_fixed:
                yield path, self.derivations[path]

    def sources(self) -> tuple[str, ...]:
        """Every store path that is an input and that no derivation made, sorted."""
        return tuple(sorted({path for made in self.derivations.values() for path in made.sources}))


@dataclass(frozen=True, slots=True)
class Recomputed:
    """The store paths that a derivation's text leads to, whatever it is called and claims."""

    drv: str
    outputs: tuple[tuple[str, str], ...]  # (output name, path)


def read(texts: Iterable[tuple[str, bytes]]) -> Graph:
    """Return the graph of ``texts``: pairs of a ``.drv`` store path and its ATerm text.

    Raises:
        Malformed: a text that does not parse, a path given twice, a missing input, or a cycle.
        Unsupported: a derivation of a kind whose paths are not in its text.
    """
    return _read(tuple(texts))


@lru_cache(maxsize=1)  # SBOM and provenance of one build read the same texts in turn
def _read(texts: tuple[tuple[str, bytes], ...]) -> Graph:
    derivations: dict[str, Derivation] = {}
    for path, text in texts:
        if not nixstore.split(path, _WHAT)[1].endswith(".drv"):
            raise Malformed(_WHAT, at="path", want="a path that ends in .drv", got=path)
        if path in derivations:
            raise Malformed(_WHAT, at=path, want="each derivation once", got="it twice")
        derivations[path] = drv.parse(text, path)
    for path, made in derivations.items():
        for needed, names in made.inputs:
            _check_input(path, needed, names, derivations)
    return Graph(derivations, _order(derivations))


def recompute(graph: Graph) -> dict[str, Recomputed]:
    """Return, for every derivation, the paths that its text and its inputs' texts lead to.

    A ``.drv`` path follows from its own text alone, so a changed text shows there and nowhere else; output
    paths follow from the whole graph below, so they differ from the change upwards.
    """
    modulo: dict[str, str] = {}
    found: dict[str, Recomputed] = {}
    for path in graph.order:
        made = graph[path]
        name = nixstore.name_of(path).removesuffix(".drv")
        if made.is_fixed:
            (out,) = made.outputs
            outputs: tuple[tuple[str, str], ...] = (
                ("out", nixstore.fixed_path(out.algorithm, out.hash, name)),
            )
            fixed = f"fixed:out:{out.algorithm}:{out.hash}:{out.path}"
            modulo[path] = hashlib.sha256(fixed.encode()).hexdigest()
        else:
            inputs: dict[str, set[str]] = {}
            for needed, names in made.inputs:  # two inputs that differ only in their fetching become one
                inputs.setdefault(modulo[needed], set()).update(names)
            masked = hashlib.sha256(drv.unparse_masked(made, inputs)).hexdigest()
            outputs = tuple(
                (output.name, nixstore.output_path(output.name, masked, name)) for output in made.outputs
            )
            modulo[path] = hashlib.sha256(drv.unparse_modulo(made, inputs)).hexdigest()
        references = [*(needed for needed, _ in made.inputs), *made.sources]
        found[path] = Recomputed(nixstore.text_path(f"{name}.drv", drv.unparse(made), references), outputs)
    return found


def _check_input(path: str, needed: str, names: tuple[str, ...], derivations: dict[str, Derivation]) -> None:
    if needed not in derivations:
        raise Malformed(_WHAT, at=path, want=f"its input {needed}", got="no such derivation")
    has = {output.name for output in derivations[needed].outputs}
    for name in names:
        if name not in has:
            raise Malformed(_WHAT, at=path, want=f"output {name} of {needed}", got=", ".join(sorted(has)))


def _order(derivations: dict[str, Derivation]) -> tuple[str, ...]:
    """Inputs first. Kahn's algorithm: no recursion, and what is left over is the cycle."""
    users: dict[str, list[str]] = {path: [] for path in derivations}
    missing = {path: len(made.inputs) for path, made in derivations.items()}
    for path, made in derivations.items():
        for needed, _ in made.inputs:
            users[needed].append(path)
    ready = sorted((path for path, count in missing.items() if not count), reverse=True)
    order: list[str] = []
    while ready:
        path = ready.pop()
        order.append(path)
        for user in users[path]:
            missing[user] -= 1
            if not missing[user]:
                ready.append(user)
    if len(order) != len(derivations):
        stuck = min(path for path, count in missing.items() if count)
        raise Malformed(_WHAT, at=stuck, want="no cycles", got="a derivation that needs itself")
    return tuple(order)

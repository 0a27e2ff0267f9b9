"""Derivation graphs made up at test time, with paths that Nix would have given them."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from tallystick.formats import drv, drvgraph, nixstore
from tallystick.formats.drv import Derivation, Output


def path_of(made: Derivation, name: str) -> str:
    """Return the path of a derivation called ``name``."""
    references = [*(path for path, _ in made.inputs), *made.sources]
    return nixstore.text_path(f"{name}.drv", drv.unparse(made), references)


class Maker:
    """Collects derivations whose paths are right, inputs before users."""

    def __init__(self) -> None:
        self.texts: dict[str, bytes] = {}

    def fixed(self, name: str, digest_hex: str, algorithm: str = "sha256", **variables: str) -> str:
        """Add a fixed output and return the path of its derivation."""
        path = nixstore.fixed_path(algorithm, digest_hex, name)
        return self._add(
            name,
            Derivation(
                (Output("out", path, algorithm, digest_hex),),
                (),
                (),
                "builtin",
                "builtin:fetchurl",
                (),
                tuple(sorted({"name": name, "out": path, **variables}.items())),
            ),
        )

    def step(
        self,
        name: str,
        inputs: dict[str, tuple[str, ...]],
        *,
        sources: tuple[str, ...] = (),
        outputs: tuple[str, ...] = ("out",),
        **variables: str,
    ) -> str:
        """Add a build step and return the path of its derivation."""
        blank = Derivation(
            tuple(Output(output, "", "", "") for output in sorted(outputs)),
            tuple(sorted((path, tuple(sorted(used))) for path, used in inputs.items())),
            tuple(sorted(sources)),
            "x86_64-linux",
            "/bin/sh",
            ("-c", 'echo "made" > $out\n'),
            tuple(sorted({"name": name, **dict.fromkeys(outputs, ""), **variables}.items())),
        )
        modulo: dict[str, set[str]] = {}
        for path, used in inputs.items():
            modulo.setdefault(self._modulo(path), set()).update(used)
        masked = hashlib.sha256(drv.unparse_masked(blank, modulo)).hexdigest()
        paths = {output: nixstore.output_path(output, masked, name) for output in outputs}
        made = replace(
            blank,
            outputs=tuple(Output(output, paths[output], "", "") for output in sorted(outputs)),
            environment=tuple((key, paths.get(key, value)) for key, value in blank.environment),
        )
        return self._add(name, made)

    def output(self, path: str, name: str = "out") -> str:
        """Return the path of an output of the derivation at ``path``."""
        (found,) = [o.path for o in drv.parse(self.texts[path]).outputs if o.name == name]
        return found

    def items(self) -> tuple[tuple[str, bytes], ...]:
        """Return the graph as a Build record holds it."""
        return tuple(sorted(self.texts.items()))

    def _modulo(self, path: str) -> str:
        made = drv.parse(self.texts[path])
        if made.is_fixed:
            (out,) = made.outputs
            return hashlib.sha256(f"fixed:out:{out.algorithm}:{out.hash}:{out.path}".encode()).hexdigest()
        inputs: dict[str, set[str]] = {}
        for needed, names in made.inputs:
            inputs.setdefault(self._modulo(needed), set()).update(names)
        return hashlib.sha256(drv.unparse_modulo(made, inputs)).hexdigest()

    def _add(self, name: str, made: Derivation) -> str:
        path = path_of(made, name)
        self.texts[path] = drv.unparse(made)
        return path


def chain(length: int) -> Maker:
    """Return ``length`` build steps, each on the one before, over one seed."""
    maker = Maker()
    before = maker.fixed("seed", hashlib.sha256(b"seed").hexdigest())
    for number in range(length - 1):
        before = _quick_step(maker, f"step-{number}", before)
    return maker


_MODULO: dict[str, str] = {}


def _quick_step(maker: Maker, name: str, before: str) -> str:
    """As ``Maker.step`` for one input, remembering hashes, so that long chains are made in linear time."""
    if before not in _MODULO:
        _MODULO[before] = maker._modulo(before)
    maker._modulo = lambda path: _MODULO[path]  # type: ignore[method-assign]
    path = maker.step(name, {before: ("out",)})
    inputs = {_MODULO[before]: {"out"}}
    _MODULO[path] = hashlib.sha256(drv.unparse_modulo(drv.parse(maker.texts[path]), inputs)).hexdigest()
    return path


def recompute(maker: Maker) -> dict[str, drvgraph.Recomputed]:
    """Return what the texts of ``maker`` lead to."""
    return drvgraph.recompute(drvgraph.read(maker.items()))

"""Nix derivations: the ATerm text of a ``.drv`` file, to a value and back to the same bytes.

The text has been the same in every Nix version since 2.0, which the JSON of ``nix derivation show`` has
not. Only what Nix itself writes is read: canonical escapes, sorted lists, every byte accounted for, so
``unparse(parse(text)) == text`` always.

Source: Nix 2.8.0, src/libstore/derivations.cc (parseDerivation, Derivation::unparse).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import nixstore

MAX_BYTES = 16 << 20  # of one .drv; the largest in nixpkgs are a few hundred kilobytes

# A string as Nix writes it: five characters are always escaped, and nothing else ever is. The loops are
# possessive, so hostile text can not make the match backtrack.
_S = r'"[^"\\\n\r\t]*+(?:\\[\\"nrt][^"\\\n\r\t]*+)*+"'
_STRING = re.compile(_S)
_STRINGS = re.compile(rf"\[(?:{_S}(?:,{_S})*+)?\]")
_PAIRS = re.compile(rf"\[(?:\({_S},{_S}\)(?:,\({_S},{_S}\))*+)?\]")
_FOUR = rf"\({_S},{_S},{_S},{_S}\)"
_OUTPUTS = re.compile(rf"\[{_FOUR}(?:,{_FOUR})*+\]")
_INPUT = rf"\({_S},\[{_S}(?:,{_S})*+\]\)"
_INPUTS = re.compile(rf"\[(?:{_INPUT}(?:,{_INPUT})*+)?\]")
_ONE_INPUT = re.compile(_INPUT)

_ESCAPE = re.compile(r"\\(.)")
_UNESCAPED = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"'}
_SPECIAL = re.compile(r'[\\"\n\r\t]')
_ESCAPED = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", '"': '\\"'}


@dataclass(frozen=True, slots=True)
class Output:
    """One output. ``algorithm`` and ``hash`` are empty unless the output is fixed."""

    name: str
    path: str
    algorithm: str  # "sha256" of the file, "r:sha256" of the NAR
    hash: str  # lower-case hex

    @property
    def is_recursive(self) -> bool:
        """Whether ``hash`` is of the NAR and not of the file's bytes."""
        return self.algorithm.startswith("r:")


@dataclass(frozen=True, slots=True)
class Derivation:
    """One build step as Nix hashes it. Text that is not UTF-8 is kept as surrogate escapes."""

    outputs: tuple[Output, ...]
    inputs: tuple[tuple[str, tuple[str, ...]], ...]  # (.drv path, names of the outputs used)
    sources: tuple[str, ...]  # store paths that no derivation made
    system: str
    builder: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]

    @property
    def is_fixed(self) -> bool:
        """Whether the output is known by its hash alone, so that its making may use the network."""
        return bool(self.outputs[0].hash)

    def variable(self, name: str) -> str:
        """Return the environment variable ``name``, or an empty string."""
        for key, value in self.environment:
            if key == name:
                return value
        return ""


def parse(data: bytes, what: str = "derivation") -> Derivation:
    """Return the derivation that ``data`` is the text of.

    Args:
        what: names the derivation in errors; its store path is a good name.

    Raises:
        Malformed: not exactly what Nix would have written, to the last byte.
        Unsupported: a derivation whose output paths are not in its text (floating, impure, dynamic).
    """
    if len(data) > MAX_BYTES:
        raise Malformed(what, at="size", want=f"at most {MAX_BYTES} bytes", got=f"{len(data)}")
    text = data.decode("utf-8", "surrogateescape")
    if text.startswith("DrvWithVersion("):
        raise Unsupported(what, at="format", want="Derive(…)", got=text[:40])
    scan = _Scan(text, what)
    scan.literal("Derive(")
    outputs = tuple(Output(*four) for four in _by(4, scan.strings(_OUTPUTS, "outputs")))
    scan.literal(",")
    inputs = scan.inputs()
    scan.literal(",")
    sources = tuple(scan.strings(_STRINGS, "inputSrcs"))
    scan.literal(",")
    (system,) = scan.strings(_STRING, "system")
    scan.literal(",")
    (builder,) = scan.strings(_STRING, "builder")
    scan.literal(",")
    arguments = tuple(scan.strings(_STRINGS, "args"))
    scan.literal(",")
    environment = tuple((key, value) for key, value in _by(2, scan.strings(_PAIRS, "env")))
    scan.literal(")")
    scan.end()
    made = Derivation(outputs, inputs, sources, system, builder, arguments, environment)
    _check(made, what)
    return made


def unparse(derivation: Derivation) -> bytes:
    """Return the text of ``derivation``: what Nix writes to the store, byte for byte."""
    return _text(derivation, derivation.inputs, blank=frozenset())


def unparse_modulo(derivation: Derivation, inputs: Mapping[str, Iterable[str]]) -> bytes:
    """Return the text with every input named by ``inputs``: hash modulo fixed outputs -> outputs used."""
    return _text(derivation, _sorted(inputs), blank=frozenset())


def unparse_masked(derivation: Derivation, inputs: Mapping[str, Iterable[str]]) -> bytes:
    """Return :func:`unparse_modulo` with the output paths blank: what the output paths are hashed from."""
    names = frozenset(output.name for output in derivation.outputs)
    return _text(derivation, _sorted(inputs), blank=names)


class _Scan:
    """A position in the text of one derivation."""

    __slots__ = ("_at", "_text", "_what")

    def __init__(self, text: str, what: str) -> None:
        self._text, self._what, self._at = text, what, 0

    def literal(self, want: str) -> None:
        if not self._text.startswith(want, self._at):
            raise self._bad("punctuation", want)
        self._at += len(want)

    def strings(self, pattern: re.Pattern[str], field: str) -> list[str]:
        """Return all strings of the section that ``pattern`` is the grammar of."""
        return _unquoted(self._section(pattern, field))

    def inputs(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        section = self._section(_INPUTS, "inputDrvs")
        groups = (_unquoted(group) for group in _ONE_INPUT.findall(section))
        return tuple((path, tuple(names)) for path, *names in groups)

    def end(self) -> None:
        if self._at != len(self._text):
            raise self._bad("end", "no more text")

    def _section(self, pattern: re.Pattern[str], field: str) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise self._bad(field, f"the {field} of a derivation as Nix writes them")
        self._at = match.end()
        return match[0]

    def _bad(self, field: str, want: str) -> Malformed:
        got = self._text[self._at : self._at + 40].encode("utf-8", "backslashreplace").decode()
        return Malformed(
            self._what, at=f"{field} at character {self._at}", want=want, got=repr(got) if got else "the end"
        )


def _unquoted(section: str) -> list[str]:
    found = [quoted[1:-1] for quoted in _STRING.findall(section)]
    if "\\" not in section:
        return found
    return [_ESCAPE.sub(lambda m: _UNESCAPED[m[1]], s) if "\\" in s else s for s in found]


def _by(size: int, flat: Sequence[str]) -> Iterable[Sequence[str]]:
    return (flat[at : at + size] for at in range(0, len(flat), size))


def _check(made: Derivation, what: str) -> None:
    """Refuse what Nix would not have written: wrong order, odd paths, half-fixed outputs."""
    _check_sorted([output.name for output in made.outputs], "outputs", what)
    _check_sorted([path for path, _ in made.inputs], "inputDrvs", what)
    _check_sorted(made.sources, "inputSrcs", what)
    _check_sorted([key for key, _ in made.environment], "env", what)
    for output in made.outputs:
        _check_output(output, len(made.outputs), what)
    for path, names in made.inputs:
        _check_sorted(names, f"outputs of {path}", what)
        if not nixstore.split(path, what)[1].endswith(".drv"):
            raise Malformed(what, at="inputDrvs", want="paths that end in .drv", got=path)
    for path in made.sources:
        nixstore.split(path, what)


def _check_output(output: Output, count: int, what: str) -> None:
    at = f"output {output.name}"
    if not output.path or output.hash == "impure":
        raise Unsupported(
            what, at=at, want="an output whose path is in the text", got="a floating or impure output"
        )
    nixstore.split(output.path, what)
    if bool(output.algorithm) != bool(output.hash):
        raise Malformed(what, at=at, want="hashAlgo and hash together", got=f"{output.algorithm!r} alone")
    if not output.hash:
        return
    size = nixstore.HASH_BYTES.get(output.algorithm.removeprefix("r:"))
    if size is None:
        raise Unsupported(
            what, at=f"{at} hashAlgo", want="one of " + ", ".join(nixstore.HASH_BYTES), got=output.algorithm
        )
    if count != 1 or output.name != "out":
        raise Malformed(what, at=at, want="a fixed output alone and called out", got=f"{count} outputs")
    if not re.fullmatch(f"[0-9a-f]{{{2 * size}}}", output.hash):
        raise Malformed(what, at=f"{at} hash", want=f"{2 * size} hex digits", got=output.hash)


def _check_sorted(names: Sequence[str], field: str, what: str) -> None:
    """Nix keeps sets and maps ordered by bytes; an equal neighbour is a duplicate."""
    for before, after in pairwise(names):
        if _order(before) >= _order(after):
            raise Malformed(what, at=field, want="sorted and without duplicates", got=after)


def _order(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _sorted(inputs: Mapping[str, Iterable[str]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((key, tuple(sorted(inputs[key]))) for key in sorted(inputs))


def _quoted(text: str) -> str:
    if _SPECIAL.search(text) is None:
        return f'"{text}"'
    return '"' + _SPECIAL.sub(lambda match: _ESCAPED[match[0]], text) + '"'


def _text(
    derivation: Derivation, inputs: Sequence[tuple[str, Sequence[str]]], *, blank: frozenset[str]
) -> bytes:
    outputs = ",".join(
        f"({_quoted(o.name)},{_quoted('' if o.name in blank else o.path)},"
        f"{_quoted(o.algorithm)},{_quoted(o.hash)})"
        for o in derivation.outputs
    )
    used = ",".join(f"({_quoted(path)},[{','.join(map(_quoted, names))}])" for path, names in inputs)
    environment = ",".join(
        f"({_quoted(key)},{_quoted('' if key in blank else value)})" for key, value in derivation.environment
    )
    return (
        f"Derive([{outputs}],[{used}],[{','.join(map(_quoted, derivation.sources))}],"
        f"{_quoted(derivation.system)},{_quoted(derivation.builder)},"
        f"[{','.join(map(_quoted, derivation.arguments))}],[{environment}])"
    ).encode("utf-8", "surrogateescape")

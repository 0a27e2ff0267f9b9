"""``tally measure diff``: which inputs changed between two releases, or between a release and evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.output import JsonFlag, emit
from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from tallystick.core.digests import Digest
    from tallystick.measure.causes import Change
    from tallystick.measure.records import Measurement
    from tallystick.release.causes import Inputs, Releases

Shape = tuple[tuple[str, int | str], ...]
_MAX_PRODUCT_BYTES = 1 << 30
_SHOWN_FILES = 8


def register(app: typer.Typer) -> None:
    """Add the command to ``tally measure``."""
    app.command()(diff)


def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A release directory.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another one, or an evidence file.")],
    kind: Annotated[
        str,
        typer.Option(help="What the evidence is: tpm-quote, snp-report, …; tried in turn when not given."),
    ] = "",
    eventlog: Annotated[
        Path | None, typer.Option(help="The machine's event log, where the evidence does not carry it.")
    ] = None,
    firmware: Annotated[
        list[Path] | None, typer.Option(help="Another firmware that may have been launched; repeatable.")
    ] = None,
    initdata: Annotated[
        list[Path] | None, typer.Option(help="Init-data that the guest may have been given; repeatable.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Say why measurements differ: the inputs that changed, the image's apart from the host's, or "unexplained".

    Releases are held to their own index, and evidence is taken as it is: whether they are genuine is what
    `tally verify` and `tally evidence verify` say.
    """
    from tallystick.measure.causes import merged

    if after.is_dir():
        if kind or eventlog or firmware or initdata:
            raise Misuse("--kind, --eventlog, --firmware and --initdata go with an evidence file")
        found = _releases(before, after)
    else:
        from tallystick.cli.measure_evidence import Candidates, explain

        candidates = Candidates.read(firmware or [], initdata or [], eventlog)
        found = (explain(before, after, kind, candidates),)
    changed = tuple(change for change in found if change.values)
    causes = merged(cause for change in changed for cause in change.causes)
    document = {
        "same": not changed,
        "causes": [cause.document() for cause in causes],
        "launches": [change.document() for change in changed],
    }
    emit(document, _words(changed), as_json=as_json)


def _releases(before: Path, after: Path) -> tuple[Change, ...]:
    from tallystick.release.causes import explain

    both = _both(before, after)
    known = (*both.before.measurements, *both.after.measurements)
    return explain(both, Predictor((before, after), known))


def _both(before: Path, after: Path) -> Releases:
    from tallystick.build.compare import changed_inputs
    from tallystick.cli.diff import side
    from tallystick.formats import drvgraph
    from tallystick.release.causes import Releases

    sides = side(before), side(after)
    graphs = [
        drvgraph.read(
            (f"/nix/store/{path.name}", path.read_bytes()) for path in (folder / "derivations").iterdir()
        )
        for folder in (before, after)
        if (folder / "derivations").is_dir()
    ]
    return Releases(
        before=sides[0],
        after=sides[1],
        inputs=changed_inputs(*graphs) if len(graphs) == 2 else (),
        init_data=(init_data_of(before), init_data_of(after)),
        command_lines=(_command_line(before), _command_line(after)),
    )


def init_data_of(folder: Path) -> Digest | None:
    """Return the digest of the init-data that the release in ``folder`` is measured with."""
    from tallystick.core.files import file_digest

    path = folder / "init-data.toml"
    return file_digest(path) if path.is_file() else None


class Predictor:
    """Predicts launches from the products and firmware of release directories.

    Each file is read and measured once for all the shapes of its platform, as a build does it.
    """

    def __init__(self, folders: tuple[Path, ...], known: Iterable[Measurement] = ()) -> None:
        self._folders = folders
        self._paths: dict[Digest, Path] = {}
        self._shapes: dict[str, set[Shape]] = {}
        for one in known:
            self._shapes.setdefault(one.platform, set()).add(one.shape)
        self._found: dict[Inputs, Mapping[str, str] | None] = {}

    def __call__(self, inputs: Inputs) -> Mapping[str, str] | None:
        """Return the values of a launch; None where a file is not at hand or the launch can not be predicted."""
        if inputs not in self._found:
            shapes = {inputs.shape, *self._shapes.get(inputs.platform, ())}
            values = self._predict(inputs, sorted(shapes)) or self._predict(inputs, [inputs.shape])
            for shape, one in (values or {inputs.shape: None}).items():
                self._found[replace(inputs, shape=shape)] = one
        return self._found[inputs]

    def _predict(self, inputs: Inputs, shapes: Sequence[Shape]) -> dict[Shape, Mapping[str, str] | None]:
        """Return the values of each of ``shapes``; nothing when one of them can not be predicted."""
        from tallystick import __version__
        from tallystick.core.errors import Malformed, Unsupported
        from tallystick.measure.predict import measure_release
        from tallystick.measure.shapes import LaunchShape

        image, firmware = self.file(inputs.image), self.file(inputs.firmware)
        if image is None or firmware is None:
            return {}
        launches = [LaunchShape.of(inputs.platform, dict(shape)) for shape in shapes]
        try:
            found = measure_release(image, firmware, launches, inputs.init_data, f"tallystick {__version__}")
        except (Malformed, Unsupported, Misuse):
            return {}
        return {one.shape: dict(one.values) for one in found}

    def file(self, digest: Digest) -> bytes | None:
        """Return the product or firmware with this digest; None when no release directory has it."""
        from tallystick.core.digests import Digest
        from tallystick.core.files import file_digest, read_file

        if digest == Digest.of(b""):
            return b""
        if not self._paths:
            found = (
                path
                for f in self._folders
                for part in ("products", "firmware")
                for path in (f / part).glob("*")
            )
            self._paths = {file_digest(path): path for path in found if path.is_file()}
        path = self._paths.get(digest)
        return None if path is None else read_file(path, "product", max_bytes=_MAX_PRODUCT_BYTES)


def _command_line(folder: Path) -> str:
    """Return the command line that the recipe gives the unified kernel image; "" where there is no saying."""
    from tallystick.core.errors import TallystickError
    from tallystick.core.files import read_file
    from tallystick.formats import uki

    path = folder / "products/uki.efi"
    try:
        parsed = uki.parse(read_file(path, "UKI", max_bytes=_MAX_PRODUCT_BYTES))
    except TallystickError:
        return ""
    return bytes(parsed.sections.get(".cmdline", b"")).decode("utf-8", "replace").strip()


def _words(changes: tuple[Change, ...]) -> str:
    if not changes:
        return "the same measurements"
    lines: list[str] = []
    groups: dict[tuple[object, ...], list[Change]] = {}
    for change in changes:
        names = tuple(name for name, _, _ in change.values)
        same = (change.platform, names, change.causes, change.unexplained, change.besides)
        groups.setdefault(same, []).append(change)
    for alike in groups.values():
        change, more = alike[0], len(alike) - 1
        shape = ", ".join(f"{name} {value}" for name, value in change.before)
        others = f" and {more} more shape{'s' if more > 1 else ''}" if more else ""
        lines.append(
            f"{change.platform} ({shape}){others}: {', '.join(name for name, _, _ in change.values)} differ"
        )
        for cause in change.causes:
            lines.append(f"  {cause.words}")
            lines.append(f"    moves {', '.join(cause.moves)}; known from {cause.how.value}")
            lines += [f"    {file}" for file in cause.files[:_SHOWN_FILES]]
            if len(cause.files) > _SHOWN_FILES:
                lines.append(f"    and {len(cause.files) - _SHOWN_FILES} more")
            lines += [f"    built from another {one}" for one in cause.inputs]
        lines += [f"  also differs: {words}" for words in change.besides]
        lines += [f"  unexplained: {', '.join(one.values)}: {one.reason}" for one in change.unexplained]
    return "\n".join(lines)

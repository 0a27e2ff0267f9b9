"""Why the measurements of two releases differ: each input replaced in turn, and the image's side taken from its lists.

Pure; whoever calls gives the predictions. Nothing is verified here: both releases are held to their own index only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tallystick.build.compare import InputChange
from tallystick.build.contents import HEADERS, ComponentChange, causes, component_changes
from tallystick.build.contents import Change as FileChange
from tallystick.build.records import Contents
from tallystick.core.digests import Digest
from tallystick.measure.causes import Cause, Change, How, Unexplained, Where, differing, left_over, merged
from tallystick.measure.records import Measurement
from tallystick.release.diff import Side

_COMMAND_LINES = (".cmdline", "cmdline")  # of a UKI and of an EIF, as their contents lists call it
_NO_LIST = "the image differs, and the contents lists do not say in what"
_NOT_PREDICTED = "the {} release's values are not what its own files lead to"
_NOT_HERE = "several inputs differ, and these launches can not be predicted from the files at hand"
_SEVERAL = "no single input moves them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything that a launch's values depend on."""

    platform: str
    image: Digest
    firmware: Digest
    shape: tuple[tuple[str, int | str], ...]
    init_data: Digest | None

    @classmethod
    def of(cls, measurement: Measurement, init_data: Digest | None) -> Inputs:
        """Return the inputs that ``measurement`` names."""
        return cls(
            platform=measurement.platform,
            image=measurement.image,
            firmware=measurement.firmware,
            shape=measurement.shape,
            init_data=init_data,
        )


# Returns the values of a launch; None when they can not be predicted from what is there.
Predict = Callable[[Inputs], Mapping[str, str] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Releases:
    """Two releases, and what their builds and deployments differ in."""

    before: Side
    after: Side
    inputs: tuple[InputChange, ...]  # of the builds' derivation graphs
    init_data: tuple[Digest | None, Digest | None]
    command_lines: tuple[str, str] = ("", "")  # of the measured images, where they are at hand


def explain(releases: Releases, predict: Predict) -> tuple[Change, ...]:
    """Return every launch whose values differ, with its causes.

    Launches are compared where platform and shape are the same; what is left over on both sides is paired by
    platform and the fewest differences in shape. A launch that one side alone has is not compared.
    """
    found = []
    for old, new in _pairs(releases.before.measurements, releases.after.measurements):
        change = _change(releases, old, new, predict)
        if change.values:
            found.append(change)
    return tuple(found)


def image_causes(
    releases: Releases, image: tuple[Digest, Digest]
) -> tuple[tuple[Cause, ...], tuple[str, ...]]:
    """Return what two measured images differ in: components, or files, or how the same files are packed.

    Beside components whose source differs there may be files of others that differ, and inputs of the build that
    no component is unpacked from: consequences, or a second change. They come second, in words. ``moves`` is empty
    in all causes: what a change of the image moves is for a prediction to say.
    """
    names = _measured(releases.before, image[0]) | _measured(releases.after, image[1])
    old, new = ({c.product: c for c in side.contents} for side in (releases.before, releases.after))
    found: dict[str, ComponentChange] = {}
    repacked: list[tuple[str, str, str]] = []
    for name in sorted(names):
        nothing = Contents(product=name, files=(), components=())
        first, second = old.get(name, nothing), new.get(name, nothing)
        for change in component_changes(_own(first), _own(second)):
            known = found.get(change.name, change)
            files = change.files if known is change else (*known.files, *change.files)
            before, after = known.before or change.before, known.after or change.after
            found[change.name] = replace(change, before=before, after=after, files=files)
        repacked += _repacked(first, second, old, new)
    named = _as_causes(tuple(found.values()), repacked, releases)
    return named, _besides(tuple(found.values()), named, releases)


def _change(releases: Releases, old: Measurement, new: Measurement, predict: Predict) -> Change:
    values = differing(dict(old.values), dict(new.values))
    names = tuple(name for name, _, _ in values)
    first = Inputs.of(old, releases.init_data[0])
    second = Inputs.of(new, releases.init_data[1])

    def made(
        found: Sequence[Cause], unexplained: tuple[Unexplained, ...], besides: tuple[str, ...] = ()
    ) -> Change:
        return Change(
            platform=old.platform,
            before=old.shape,
            after=new.shape,
            values=values,
            causes=tuple(found),
            unexplained=unexplained,
            besides=besides,
        )

    if not values:
        return made((), ())
    start, end = predict(first), predict(second)
    for which, said, predicted in (("first", old, start), ("second", new, end)):
        if predicted is not None and differing(dict(said.values), predicted):
            return made((), (Unexplained(values=names, reason=_NOT_PREDICTED.format(which)),))
    substitutions = _substitutions(first, second)
    if None in (start, end) and len(substitutions) > 1:
        return made((), (Unexplained(values=names, reason=_NOT_HERE),))
    found: list[Cause] = []
    reason = _SEVERAL
    besides: tuple[str, ...] = ()
    for field, replaced in substitutions:
        moves = names if len(substitutions) == 1 else _moved(start, predict(replaced), names)
        if moves and field == "image":
            named, besides = image_causes(releases, (old.image, new.image))
            found += [replace(cause, moves=moves) for cause in named]
            reason = reason if named else _NO_LIST
        elif moves:
            found.append(_host_cause(field, first, second, moves))
    ordered = merged(found)
    return made(ordered, left_over(names, ordered, reason), besides)


def _moved(
    start: Mapping[str, str] | None, moved: Mapping[str, str] | None, names: Sequence[str]
) -> tuple[str, ...]:
    """Return which of ``names`` one replaced input moves; none where that launch can not be predicted."""
    if start is None or moved is None:
        return ()
    return tuple(name for name, _, _ in differing(start, moved) if name in names)


def _substitutions(first: Inputs, second: Inputs) -> list[tuple[str, Inputs]]:
    """Return the first launch with one input of the second, for each that differs."""
    found = []
    if first.image != second.image:
        found.append(("image", replace(first, image=second.image)))
    if first.firmware != second.firmware:
        found.append(("firmware", replace(first, firmware=second.firmware)))
    if first.init_data != second.init_data:
        found.append(("init-data", replace(first, init_data=second.init_data)))
    old, new = dict(first.shape), dict(second.shape)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            shape = {k: v for k, v in (old | {name: new.get(name, "")}).items() if v != ""}
            found.append((name, replace(first, shape=tuple(sorted(shape.items())))))
    return found


def _host_cause(field: str, first: Inputs, second: Inputs, moves: tuple[str, ...]) -> Cause:
    if field in ("firmware", "init-data"):
        name = field.replace("-", "_")
        pair = [getattr(one, name) for one in (first, second)]
        before, after = ("" if one is None else str(one) for one in pair)
    else:
        before, after = (str(dict(one.shape).get(field, "")) for one in (first, second))
    return Cause(
        where=Where.HOST, kind=field, name=field, before=before, after=after, moves=moves, how=How.INPUTS
    )


def _pairs(
    before: Sequence[Measurement], after: Sequence[Measurement]
) -> list[tuple[Measurement, Measurement]]:
    """Return which launch of one release is held against which of the other."""
    pairs, left = [], list(after)
    alone = []
    for one in before:
        same = next((n for n in left if (n.platform, n.shape) == (one.platform, one.shape)), None)
        if same is None:
            alone.append(one)
        else:
            left.remove(same)
            pairs.append((one, same))
    for one in alone:
        near = [n for n in left if n.platform == one.platform]
        if near:
            nearest = min(near, key=lambda n: (len(set(n.shape) ^ set(one.shape)), n.shape))
            left.remove(nearest)
            pairs.append((one, nearest))
    return pairs


def _measured(side: Side, image: Digest) -> set[str]:
    """Return the product whose file ``image`` is, and every product inside it."""
    lists = {one.product: one for one in side.contents}
    names = {name for name, path in side.index.products if (e := side.index.file(path)) and e.digest == image}
    waiting = list(names)
    while waiting:
        inside = lists.get(waiting.pop())
        for file in inside.files if inside else ():
            if file.nested and file.nested not in names:
                names.add(file.nested)
                waiting.append(file.nested)
    return names


def _own(contents: Contents) -> Contents:
    """A product without the products in it: what changed in those is said where they are."""
    return replace(contents, files=tuple(file for file in contents.files if not file.nested))


def _repacked(
    first: Contents, second: Contents, old: Mapping[str, Contents], new: Mapping[str, Contents]
) -> list[tuple[str, str, str]]:
    """Return (product, before, after) of nested products whose bytes differ although every file in them is the same."""
    digests = {file.nested: file.digest for file in first.files if file.nested}
    found = []
    for file in second.files:
        was = digests.get(file.nested)
        if file.nested and was is not None and was != file.digest:
            one, other = old.get(file.nested), new.get(file.nested)
            if one is not None and other is not None and not component_changes(one, other):
                found.append((file.nested, str(was), str(file.digest)))
    return found


def _as_causes(
    found: Sequence[ComponentChange], repacked: Sequence[tuple[str, str, str]], releases: Releases
) -> tuple[Cause, ...]:
    """Turn changes into causes: components whose source differs, or else files, or else what was packed differently."""
    chosen = causes(found)
    command_lines = [
        one for change in found for file in change.files if (one := _command_line(file, releases)) is not None
    ]
    components = [_component(change, releases) for change in chosen if _has_moved(change)]
    if components:
        return (*components, *command_lines)
    packed = [_image_cause("packing", *one) for one in repacked]
    container = (HEADERS,) if packed or command_lines else ()  # follows from what it holds
    left_out = (*_COMMAND_LINES, *container)
    files = [_file(file) for change in chosen for file in change.files if file.path not in left_out]
    plain = [*command_lines, *files] or packed
    names = tuple(f"{one.kind} {one.name}" for one in releases.inputs)
    if plain and len(releases.inputs) == 1 and releases.inputs[0].kind == "source":
        source = releases.inputs[0]
        cause = _image_cause("source", source.name, source.before, source.after)
        return (replace(cause, files=tuple(one.name for one in plain)),)
    return tuple(replace(one, inputs=names) for one in plain)


def _besides(found: Sequence[ComponentChange], named: Sequence[Cause], releases: Releases) -> tuple[str, ...]:
    """Return what differs beside named components, where anything of the image does."""
    if not any(cause.kind == "component" for cause in named):
        return ()
    said = {cause.name for cause in named}
    files = [
        replace(change, files=left)
        for change in found
        if change.name not in said
        and (left := tuple(f for f in change.files if f.path not in (*_COMMAND_LINES, HEADERS)))
    ]
    if not files:
        return ()
    claimed = {name for cause in named for name in cause.inputs}
    inputs = [f"{one.kind} {one.name}" for one in releases.inputs]
    return (*(change.words for change in files), *(one for one in inputs if one not in claimed))


def _component(change: ComponentChange, releases: Releases) -> Cause:
    versions = ["" if one is None else one.version for one in (change.before, change.after)]
    if versions[0] == versions[1]:
        parts = (change.before, change.after)
        versions = ["" if one is None else f"{one.version} {one.digest}" for one in parts]
    return replace(
        _image_cause("component", change.name, *versions),
        files=tuple(
            f"{file.product}: {file.path}" for file in change.files if file.path not in _COMMAND_LINES
        ),
        inputs=tuple(f"{one.kind} {one.name}" for one in releases.inputs if _belongs(change, one)),
    )


def _command_line(file: FileChange, releases: Releases) -> Cause | None:
    if file.path not in _COMMAND_LINES:
        return None
    texts = releases.command_lines
    before, after = texts if texts[0] != texts[1] else _digests(file)
    return _image_cause("command-line", file.product, before, after)


def _file(file: FileChange) -> Cause:
    before, after = _digests(file)
    if before == after and file.before is not None and file.after is not None:  # the mode alone
        before, after = file.before.mode, file.after.mode
    return _image_cause("file", f"{file.product}: {file.path}", before, after)


def _digests(file: FileChange) -> tuple[str, str]:
    before, after = ("" if one is None else str(one.digest) for one in (file.before, file.after))
    return before, after


def _has_moved(change: ComponentChange) -> bool:
    return change.before is None or change.after is None or change.before.digest != change.after.digest


def _belongs(change: ComponentChange, made: InputChange) -> bool:
    """Whether a build's input is what a component is unpacked from."""
    parts = [one for one in (change.before, change.after) if one is not None]
    if made.kind == "source":
        return any(one.kind == "project" for one in parts) and made.name == "tallystick-source"
    return any(one.seed == made.name or one.name == made.name for one in parts)


def _image_cause(kind: str, name: str, before: str, after: str) -> Cause:
    return Cause(
        where=Where.IMAGE, kind=kind, name=name, before=before, after=after, moves=(), how=How.INPUTS
    )

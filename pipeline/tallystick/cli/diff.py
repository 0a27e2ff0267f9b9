"""``tally diff``: how two releases differ."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.output import JsonFlag, command_app, emit

if TYPE_CHECKING:
    from tallystick.build.contents import ComponentChange
    from tallystick.release.diff import Difference, ProductChange, Side
    from tallystick.release.records import Index

app = command_app()


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A release directory, or a compiled policy's.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another of the same kind.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a comment for a pull request.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Say how release B differs from A: inputs, components of each product, and measurements.

    Both are held to their own index; whether they are genuine is what `tally verify` says. Of two compiled policies:
    which releases, keys and constraints changed, and which tuples are newly allowed and denied.
    """
    if any((folder / "compiled.json").is_file() for folder in (before, after)):
        from tallystick.cli.policy import say_difference
        from tallystick.core.errors import Misuse

        if markdown:
            raise Misuse("--markdown is for releases", code="diff.markdown")
        say_difference(before, after, as_json=as_json)
        return
    from tallystick.release.diff import compare

    old, new = side(before), side(after)
    found = compare(old, new)
    words = _markdown(old.index, new.index, found) if markdown else "\n".join(found.words)
    emit(_document(found), words, as_json=as_json)


def side(folder: Path) -> Side:
    """Return what is compared of the release in ``folder``, after checking every file against its index."""
    from tallystick.build import contents
    from tallystick.core.files import read_file
    from tallystick.formats import intoto
    from tallystick.measure.statement import from_statement
    from tallystick.release import index as indexes
    from tallystick.release.diff import Side
    from tallystick.release.layout_lint import MEASUREMENTS

    index = indexes.read(folder)
    indexes.check(folder, index)
    return Side(
        index=index,
        contents=tuple(
            contents.parse(read_file(folder / entry.path, entry.path), entry.path)
            for entry in index.under("contents/")
        ),
        measurements=from_statement(intoto.parse(read_file(folder / MEASUREMENTS, MEASUREMENTS))),
    )


def _document(found: Difference) -> dict[str, Any]:
    return {
        "same": not (found.inputs or found.products or found.measurements),
        "inputs": list(found.inputs),
        "products": [_product(product) for product in found.products],
        "measurements": [
            {
                "platform": one.platform,
                "shape": dict(one.shape),
                "values": {name: {"before": a, "after": b} for name, a, b in one.values},
            }
            for one in found.measurements
        ],
    }


def _product(product: ProductChange) -> dict[str, Any]:
    return {
        "name": product.name,
        "before": str(product.before) if product.before else None,
        "after": str(product.after) if product.after else None,
        "components": [_component(change) for change in product.components],
    }


def _component(change: ComponentChange) -> dict[str, Any]:
    def said(side: Any) -> dict[str, str] | None:
        return None if side is None else {"version": side.version, "sha256": side.digest.hex}

    kind = "added" if change.before is None else "removed" if change.after is None else "changed"
    return {
        "name": change.name,
        "change": kind,
        "before": said(change.before),
        "after": said(change.after),
        "files": [file.path for file in change.files],
        "words": change.words,
    }


def _markdown(before: Index, after: Index, found: Difference) -> str:
    """Return the difference as GitHub and GitLab show it. What the releases say stands in a code block alone."""
    heading = (
        "No measurement changed"
        if not found.measurements
        else (
            f"{len(found.measurements)} measurement(s) changed: policies that name the old ones refuse the new image"
        )
    )
    said = "\n".join(found.words)
    fence = "`" * (3 + max((len(run) for run in re.findall("`+", said)), default=0))
    return (
        f"### {heading}\n\n| release | digest |\n|---|---|\n"
        f"| before | `{before.digest}` |\n| after | `{after.digest}` |\n\n{fence}text\n{said}\n{fence}"
    )

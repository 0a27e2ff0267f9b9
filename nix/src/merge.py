"""merge.py PRODUCT OUT LISTING...: one contents list of several; no path may be in two."""

from __future__ import annotations

import sys
from pathlib import Path

import contents


def main(product: str, out: Path, listings: list[Path]) -> None:
    """Write the merged list."""
    files, components = [], []
    for listing in listings:
        more_files, more_components = contents.read(listing)
        files += more_files
        components += more_components
    paths = [record["path"] for record in files]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise SystemExit(f"{product}: in two trees: {', '.join(twice)}")
    contents.write(out, product, files, components)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [Path(argument) for argument in sys.argv[3:]])

"""listing.py NAME FIRMWARE COMPONENT OUT: the contents list of a firmware: one file, from one source package."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import contents

WHOLE = "(firmware)"


def main(name: str, firmware: Path, component: dict[str, str], out: Path) -> None:
    """Write the list."""
    record = contents.file_record(WHOLE, firmware.read_bytes(), stat.S_IFREG | 0o644, component["ref"])
    contents.write(out, name, [record], [component])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), Path(sys.argv[4]))

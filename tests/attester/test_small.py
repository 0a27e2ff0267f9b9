"""What the attester brings into the measured image: little, and nothing that the image's Python lacks."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("core", "handshake", "attester")  # nix/default.nix takes these and no others
WHEELS = {"cryptography", "rfc8785"}
BUILT_IN = {*sys.builtin_module_names, "binascii"}  # the interpreter of the image has that one built in
MOST_BYTES = 220 << 10  # of source; the image has the byte code of it
KEPT = set((ROOT / "nix/images/guest/stdlib.txt").read_text().split())


def _files():
    return [file for name in PACKAGES for file in sorted((ROOT / "pipeline/tallystick" / name).rglob("*.py"))]


def _at_import(tree):
    """The modules that importing this one imports: not those inside functions, and not those for types."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_what_it_imports_is_in_the_image():
    lacking = {
        (file.name, module)
        for file in _files()
        for module in _at_import(ast.parse(file.read_text()))
        if module.partition(".")[0] not in {"tallystick", *WHEELS, *BUILT_IN} and module not in KEPT
    }
    assert lacking == set()


def test_it_is_small():
    assert sum(file.stat().st_size for file in _files()) < MOST_BYTES

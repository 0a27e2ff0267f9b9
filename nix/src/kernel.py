"""kernel.py SEED OUT MODULE...: vmlinuz, its release, and modules with everything they depend on, in load order."""

from __future__ import annotations

import fnmatch
import lzma
import sys
from pathlib import Path

import deb
import elf


def main(seed: Path, out: Path, wanted: list[str]) -> None:
    """Write vmlinuz, release, modules/NAME.ko (not compressed: the image's compressor does better) and modules/load."""
    images: dict[str, bytes] = {}
    packed: dict[str, bytes] = {}
    built_in: set[str] = set()
    for name, _, data in deb.members(seed):
        if fnmatch.fnmatchcase(name, "boot/vmlinuz-*"):
            images[name.removeprefix("boot/vmlinuz-")] = data
        elif fnmatch.fnmatchcase(name, "*/modules/*/kernel/*.ko*"):
            packed[module_name(Path(name).name.partition(".ko")[0])] = data
        elif fnmatch.fnmatchcase(name, "*/modules/*/modules.builtin"):
            built_in = {module_name(Path(line).stem) for line in data.decode().splitlines()}
    if len(images) != 1:
        raise SystemExit(f"{seed.name}: want one boot/vmlinuz-*, got {sorted(images)}")
    ((release, image),) = images.items()
    modules: dict[str, bytes] = {}
    for name in wanted:
        if module_name(name) not in built_in:
            _add(module_name(name), packed, modules)
    (out / "modules").mkdir(parents=True)
    (out / "vmlinuz").write_bytes(image)
    (out / "release").write_text(release)
    for name, data in modules.items():
        (out / "modules" / f"{name}.ko").write_bytes(data)
    (out / "modules" / "load").write_text("".join(f"{name}\n" for name in modules))


def module_name(text: str) -> str:
    """Return a module's name as the kernel knows it: files may be called with dashes."""
    return text.replace("-", "_")


def _add(name: str, packed: dict[str, bytes], modules: dict[str, bytes]) -> None:
    """Add ``name`` after what it depends on; ``modules`` keeps that order."""
    if name in modules:
        return
    if name not in packed:
        raise SystemExit(f"the kernel package has no module {name}")
    data = packed[name] if elf.is_elf(packed[name]) else lzma.decompress(packed[name])
    for dependency in elf.modinfo(data).get("depends", "").split(","):
        if dependency:
            _add(module_name(dependency), packed, modules)
    modules[name] = data


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])

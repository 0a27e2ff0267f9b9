"""The recipe: what to build, from which locks, and for which launch shapes. Schema tallystick/recipe/v1.

Every field is required and every unknown one is refused. A platform that the image is not measured for is listed
with the reason, so that nothing is left out by silence.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import yamldoc
from tallystick.formats.yamldoc import Fields, Node

SCHEMA = "tallystick/recipe/v1"
PRODUCTS = {  # product -> its file in a release
    "uki": "products/uki.efi",
    "initramfs": "products/initramfs.cpio.xz",
    "oci": "products/oci.tar",
    "eif": "products/image.eif",
}
ROLES = ("busybox", "python", "wheels", "kernel", "stub", "firmware")
PLATFORMS = ("qemu-vtpm", "snp", "tdx", "sgx", "nitro", "cca")
COMMAND_LINES = ("uki", "eif")  # the products that carry one
VMMS = ("qemu",)
_NAME = r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?"  # also a Nix store name and a part of file names
_NAME_WORDS = "lower-case letters, digits and inner dashes, at most 64"
_VERSION = r"[0-9A-Za-z](?:[0-9A-Za-z.+-]{0,63})"
_LOCK = r"[a-z0-9](?:[a-z0-9.-]{0,62}[a-z0-9])?"  # a file name without its .json
_COMMAND_LINE = (
    r"[ -~]{1,2000}"  # Linux takes 2048 bytes on x86 (COMMAND_LINE_SIZE); non-ASCII is never meant
)
_MEMBER = r"(?!/)(?!.*(?:^|/)\.\.?(?:/|$))[A-Za-z0-9._+/-]{1,200}"
_MAX_RAM_MIB, _MAX_VCPUS = 1 << 20, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """One platform that the image is measured for, and the host-side inputs it is measured with."""

    platform: str
    firmware: str  # a name in Recipe.firmware
    vmm: str
    ram_mib: int
    vcpus: tuple[int, ...]

    def shapes(self) -> tuple[tuple[tuple[str, int | str], ...], ...]:
        """Return one launch shape for each number of vCPUs, names sorted."""
        return tuple((("ram_mib", self.ram_mib), ("vcpus", count), ("vmm", self.vmm)) for count in self.vcpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A platform that the image is not measured for, and why."""

    platform: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe as it was read; ``text`` is its bytes, which provenance names."""

    name: str
    version: str
    products: tuple[str, ...]
    command_lines: tuple[tuple[str, str], ...]
    locks: tuple[tuple[str, str], ...]  # role -> name of a file in nix/lock, sorted by role
    firmware: tuple[tuple[str, str], ...]  # name -> file inside the firmware package, sorted
    platforms: tuple[Platform, ...]
    left_out: tuple[LeftOut, ...]
    text: bytes

    def for_nix(self) -> str:
        """Return what nix/default.nix takes, as JSON text that depends on nothing but the values."""
        return json.dumps(
            {
                "name": self.name,
                "version": self.version,
                "products": list(self.products),
                "command_lines": dict(self.command_lines),
                "locks": dict(self.locks),
                "firmware": dict(self.firmware),
            },
            sort_keys=True,
        )


def parse(text: bytes, what: str = "recipe") -> Recipe:
    """Return the recipe that the YAML ``text`` is.

    Raises:
        Malformed: not YAML, a field missing, unknown or of another form; the error says line and column.
        Unsupported: another schema, or a product, platform or VMM that is not known.
    """
    fields = Fields(yamldoc.read(text, what), what)
    schema = fields.text("schema")
    if schema != SCHEMA:
        raise Unsupported(what, at="schema", want=SCHEMA, got=schema)
    name = fields.text("name", _NAME, _NAME_WORDS)
    version = fields.text("version", _VERSION, "a version such as 1.2.0", most=64)
    products = tuple(_known(fields, "products", tuple(PRODUCTS), what))
    recipe = Recipe(
        name=name,
        version=version,
        products=products,
        command_lines=_map(fields, "command_lines", _carriers(products), _COMMAND_LINE, "printable ASCII"),
        locks=_map(fields, "locks", ROLES, _LOCK, "the name of a lock file"),
        firmware=_firmware(fields),
        platforms=_platforms(fields, what),
        left_out=_left_out(fields, what),
        text=text,
    )
    fields.end()
    _check(recipe, what)
    return recipe


def _carriers(products: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(product for product in COMMAND_LINES if product in products)


def _known(fields: Fields, name: str, known: tuple[str, ...], what: str) -> list[str]:
    node = fields.peek(name)
    values = fields.texts(name)
    if not values:
        raise fields.bad(name, node, want=f"at least one of {', '.join(known)}")
    for value in values:
        if value not in known:
            raise Unsupported(what, at=f"{name} ({node.place})", want=f"one of {', '.join(known)}", got=value)
    return values


def _map(
    fields: Fields, name: str, keys: tuple[str, ...], pattern: str, want: str
) -> tuple[tuple[str, str], ...]:
    """Return a mapping with exactly ``keys``, sorted."""
    table = fields.table(name)
    found = [(key, table.text(key, pattern, want, most=2000)) for key in sorted(keys)]
    table.end()
    return tuple(found)


def _firmware(fields: Fields) -> tuple[tuple[str, str], ...]:
    node = fields.peek("firmware")
    table = fields.table("firmware")
    names = sorted(node.value)
    if not names:
        raise fields.bad("firmware", node, want="at least one name and the file inside its package")
    found = []
    for name in names:
        _check_text(fields, "firmware", Node(name, node.keys[name]), _LOCK)
        found.append((name, table.text(name, _MEMBER, "the path of a file inside the package")))
    return tuple(found)


def _check_text(fields: Fields, name: str, node: Node, pattern: str) -> None:
    import re

    if not re.fullmatch(pattern, node.value):
        raise fields.bad(name, node, want="a name of lower-case letters, digits, dots and dashes")


def _platforms(fields: Fields, what: str) -> tuple[Platform, ...]:
    return tuple(_platform(entry, what) for entry in fields.tables("platforms"))


def _platform(entry: Fields, what: str) -> Platform:
    platform = _one_of(entry, "platform", PLATFORMS, what)
    vmm = _one_of(entry, "vmm", VMMS, what)
    vcpus_node = entry.take("vcpus")
    numbers = vcpus_node.value
    if not isinstance(numbers, list) or not numbers:
        raise entry.bad("vcpus", vcpus_node, want="a list of numbers")
    counts = []
    for node in numbers:
        value = node.value
        if type(value) is not int or not 1 <= value <= _MAX_VCPUS or value in counts:
            raise entry.bad("vcpus", node, want=f"different whole numbers from 1 to {_MAX_VCPUS}")
        counts.append(value)
    made = Platform(
        platform=platform,
        vmm=vmm,
        vcpus=tuple(counts),
        firmware=entry.text("firmware", _LOCK, "a name from the recipe's firmware"),
        ram_mib=entry.integer("ram_mib", 64, _MAX_RAM_MIB),
    )
    entry.end()
    return made


def _left_out(fields: Fields, what: str) -> tuple[LeftOut, ...]:
    found = []
    for entry in fields.tables("left_out"):
        platform = _one_of(entry, "platform", PLATFORMS, what)
        found.append(LeftOut(platform=platform, reason=entry.text("reason", most=500)))
        entry.end()
    return tuple(found)


def _one_of(fields: Fields, name: str, known: tuple[str, ...], what: str) -> str:
    node = fields.peek(name)
    value = fields.text(name)
    if value not in known:
        raise Unsupported(what, at=f"{name} ({node.place})", want=f"one of {', '.join(known)}", got=value)
    return value


def _check(recipe: Recipe, what: str) -> None:
    """Check what holds between fields: products that need others, known firmware, every platform spoken of once."""
    for product in ("uki", "eif"):
        if product in recipe.products and "initramfs" not in recipe.products:
            raise Malformed(what, at="products", want=f"initramfs, which {product} contains", got="none")
    for platform in recipe.platforms:
        if platform.firmware not in dict(recipe.firmware):
            at = f"platforms {platform.platform} firmware"
            raise Malformed(what, at=at, want="a name from the recipe's firmware", got=platform.firmware)
    spoken = [one.platform for one in recipe.platforms] + [one.platform for one in recipe.left_out]
    for platform_name in PLATFORMS:
        count = spoken.count(platform_name)
        if count != 1:
            want = f"{platform_name} once: measured for, or left out with a reason"
            raise Malformed(
                what,
                at="platforms and left_out",
                want=want,
                got="nothing" if not count else f"it {count} times",
            )

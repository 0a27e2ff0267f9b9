"""The recipe: what to build, from which locks, and for which launch shapes. Schema tallystick/recipe/v1.

Every field but ``manufacturer`` is required and every unknown one is refused. A platform that the image is not measured
for is listed with the reason, so that nothing is left out by silence.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass

from tallystick.build.seedfacts import Party
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import yamldoc
from tallystick.formats.yamldoc import Fields

SCHEMA = "tallystick/recipe/v1"
PRODUCTS = {  # product -> its file in a release
    "uki": "products/uki.efi",
    "initramfs": "products/initramfs.cpio.xz",
    "oci": "products/oci.tar",
    "eif": "products/image.eif",
    "ovmf-amdsev": "products/ovmf-amdsev.fd",
    "ovmf-inteltdx": "products/ovmf-inteltdx.fd",
}
FIRMWARE_PRODUCTS = ("ovmf-amdsev", "ovmf-inteltdx")  # released on their own, never beside an image
ROLES = ("busybox", "python", "wheels", "kernel", "stub", "firmware")
RELEASED = "released"  # role of the lock that pins released firmware, where a recipe names any
FIRMWARE_ROLES = ("busybox", "python", "toolchain", "edk2")
PLATFORMS = ("qemu-vtpm", "amd-sev-snp", "intel-tdx", "aws-nitro", "intel-sgx", "arm-cca")
IMAGES = {  # platform -> the product that is launched there; the others are left out by every recipe
    "qemu-vtpm": "uki",
    "amd-sev-snp": "uki",
    "intel-tdx": "uki",
    "aws-nitro": "eif",
}
COMMAND_LINES = ("uki", "eif")  # the products that carry one
_NAME = r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?"  # also a Nix store name and a part of file names
_NAME_WORDS = "lower-case letters, digits and inner dashes, at most 64"
_VERSION = r"[0-9A-Za-z](?:[0-9A-Za-z.+-]{0,63})"
_LOCK = r"[a-z0-9](?:[a-z0-9.-]{0,62}[a-z0-9])?"  # a file name without its .json
_COMMAND_LINE = (
    r"[ -~]{1,2000}"  # Linux takes 2048 bytes on x86 (COMMAND_LINE_SIZE); non-ASCII is never meant
)
_MEMBER = r"(?!/)(?!.*(?:^|/)\.\.?(?:/|$))[A-Za-z0-9._+/-]{1,200}"
_EMAIL = r"[^@\s]+@[^@\s]+"
_URL = r"https://[!-~]+"
_DIGEST = r"sha256:[0-9a-f]{64}"
_MAX_RAM_MIB, _MAX_VCPUS, _MAX_FEATURES = 1 << 20, 512, (1 << 63) - 1
Values = tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """One platform that the image is measured for, and the host-side inputs it is measured with."""

    platform: str
    firmware: str  # a name in Recipe.firmware; "" where the platform starts the image without one
    choices: tuple[tuple[str, Values], ...]  # name of a shape's field -> its values, sorted by name

    def shapes(self) -> tuple[tuple[tuple[str, int | str], ...], ...]:
        """Return every combination of the choices as a launch shape, names sorted."""
        names = [name for name, _ in self.choices]
        return tuple(
            tuple(zip(names, values, strict=True))
            for values in itertools.product(*(values for _, values in self.choices))
        )


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
    manufacturer: Party | None = None  # who answers for the image and its SBOM

    @property
    def is_image(self) -> bool:
        """Whether this makes an image; a firmware is measured with the image that it starts."""
        return not set(self.products) & set(FIRMWARE_PRODUCTS)

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
    firmware = _firmware(fields)
    recipe = Recipe(
        name=name,
        version=version,
        products=products,
        command_lines=_map(fields, "command_lines", _carriers(products), _COMMAND_LINE, "printable ASCII"),
        locks=_map(fields, "locks", _roles(products, firmware), _LOCK, "the name of a lock file"),
        firmware=firmware,
        platforms=_platforms(fields, what),
        left_out=_left_out(fields, what),
        text=text,
        manufacturer=_manufacturer(fields) if fields.has("manufacturer") else None,
    )
    fields.end()
    _check(recipe, what)
    return recipe


def _manufacturer(fields: Fields) -> Party:
    """Return who answers for the image, with a way to reach them (BSI TR-03183-2 asks for either)."""
    node = fields.peek("manufacturer")
    table = fields.table("manufacturer")
    name = table.text("name", most=200)
    email = table.text("email", _EMAIL, "an e-mail address", most=200) if table.has("email") else ""
    url = table.text("url", _URL, "a URL that begins with https://", most=500) if table.has("url") else ""
    table.end()
    if not email and not url:
        raise fields.bad("manufacturer", node, want="an email or a url beside the name")
    return Party(name=name, email=email, url=url)


def _roles(products: tuple[str, ...], firmware: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    if set(products) & set(FIRMWARE_PRODUCTS):
        return FIRMWARE_ROLES
    return (*ROLES, RELEASED) if any(_is_digest(file) for _, file in firmware) else ROLES


def _is_digest(file: str) -> bool:
    return re.fullmatch(_DIGEST, file) is not None


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
    table = fields.table("firmware")
    left = table.rest()
    found = []
    for name in sorted(left):
        node = left[name]
        if not re.fullmatch(_LOCK, name):
            raise fields.bad("firmware", node, want="names of lower-case letters, digits, dots and dashes")
        value = node.value
        if not isinstance(value, str) or not (re.fullmatch(_MEMBER, value) or _is_digest(value)):
            want = "the path of a file inside the package, or the digest (sha256:…) of a released firmware"
            raise fields.bad(f"firmware.{name}", node, want=want)
        found.append((name, value))
    return tuple(found)


def _platforms(fields: Fields, what: str) -> tuple[Platform, ...]:
    return tuple(_platform(entry, what) for entry in fields.tables("platforms"))


def _platform(entry: Fields, what: str) -> Platform:
    platform = _one_of(entry, "platform", tuple(IMAGES), what)
    firmware = ""
    if platform != "aws-nitro":
        firmware = entry.text("firmware", _LOCK, "a name from the recipe's firmware")
    choices = dict(_choices(entry, platform, what))
    entry.end()
    return Platform(platform=platform, firmware=firmware, choices=tuple(sorted(choices.items())))


def _choices(entry: Fields, platform: str, what: str) -> list[tuple[str, Values]]:
    """Return the fields of a launch shape on ``platform``, each with every value that is to be measured."""
    vmm = "nitro" if platform == "aws-nitro" else "qemu"
    found: list[tuple[str, Values]] = [("vmm", (_one_of(entry, "vmm", (vmm,), what),))]
    match platform:
        case "qemu-vtpm":
            found.append(("ram_mib", (entry.integer("ram_mib", 64, _MAX_RAM_MIB),)))
            found.append(("vcpus", _numbers(entry, "vcpus", _MAX_VCPUS)))
        case "amd-sev-snp":
            found.append(("guest_features", _numbers(entry, "guest_features", _MAX_FEATURES)))
            found.append(
                ("vcpu_type", tuple(entry.texts("vcpu_types", r"[A-Za-z0-9-]{1,64}", "a vCPU type")))
            )
            found.append(("vcpus", _numbers(entry, "vcpus", _MAX_VCPUS)))
        case "intel-tdx":
            orders = entry.texts("page_orders", "one-pass|two-pass", "one-pass or two-pass")
            found.append(("page_order", tuple(orders)))
        case _:
            pass
    for name, values in found:
        if not values:
            raise Malformed(what, at=f"platforms {platform} {name}", want="at least one", got="an empty list")
    return found


def _numbers(entry: Fields, name: str, most: int) -> Values:
    node = entry.take(name)
    numbers = node.value
    if not isinstance(numbers, list) or not numbers:
        raise entry.bad(name, node, want="a list of numbers")
    found: list[int | str] = []
    for item in numbers:
        value = item.value
        if type(value) is not int or not 1 <= value <= most or value in found:
            raise entry.bad(name, item, want=f"different whole numbers from 1 to {most}")
        found.append(value)
    return tuple(found)


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
    if not recipe.is_image:
        _check_firmware_recipe(recipe, what)
        return
    for product in ("uki", "eif"):
        if product in recipe.products and "initramfs" not in recipe.products:
            raise Malformed(what, at="products", want=f"initramfs, which {product} contains", got="none")
    if not recipe.firmware:
        raise Malformed(what, at="firmware", want="at least one name and its file", got="none")
    for platform in recipe.platforms:
        if platform.firmware and platform.firmware not in dict(recipe.firmware):
            at = f"platforms {platform.platform} firmware"
            raise Malformed(what, at=at, want="a name from the recipe's firmware", got=platform.firmware)
        if IMAGES[platform.platform] not in recipe.products:
            at = f"platforms {platform.platform}"
            raise Malformed(
                what, at=at, want=f"the product {IMAGES[platform.platform]}, which starts there", got="none"
            )
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


def _check_firmware_recipe(recipe: Recipe, what: str) -> None:
    """A firmware is released on its own: it is measured with the image that it starts, by that image's recipe."""
    if not set(recipe.products) <= set(FIRMWARE_PRODUCTS):
        raise Malformed(
            what, at="products", want="firmware alone, or an image alone", got=", ".join(recipe.products)
        )
    for name, given in (
        ("firmware", recipe.firmware),
        ("platforms", recipe.platforms),
        ("left_out", recipe.left_out),
    ):
        if given:
            raise Malformed(what, at=name, want="nothing: firmware is no image", got=f"{len(given)} entries")

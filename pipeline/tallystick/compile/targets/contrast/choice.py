"""What a policy's author says of a Contrast deployment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.formats.yamldoc import Fields
from tallystick.policy.model import Target, Waiver

PRODUCTS = ("Genoa", "Milan")
_HASH = (r"[0-9a-f]{64}", "64 lower-case hex digits")
_SAN = (r"[!-~]{1,253}", "a DNS name, an IP address or a URI")
_KEY = (r"[0-9a-f]{2,8192}", "lower-case hex digits")


def _texts(pattern: str, least: int) -> dict[str, Any]:
    items = {"type": "string", "pattern": f"^{pattern}$"}
    return {"type": "array", "items": items, "minItems": least, "uniqueItems": True}


SCHEMA: Mapping[str, Any] = {
    "properties": {
        "coordinator": {"type": "string", "pattern": f"^{_HASH[0]}$"},
        "products": {
            "type": "array",
            "items": {"enum": list(PRODUCTS)},
            "minItems": 1,
            "uniqueItems": True,
        },
        "sans": _texts(_SAN[0], 1),
        "workload_owners": _texts(_HASH[0], 0),
        "seedshare_owners": _texts(_KEY[0], 0),
    },
    "required": ["coordinator", "products", "sans", "seedshare_owners", "workload_owners"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast(Target):
    """A Contrast Coordinator, and who may change its manifest."""

    coordinator: str  # policy hash of the Coordinator itself, hex
    products: tuple[str, ...]  # processors that it may run on, sorted: ("Milan",)
    sans: tuple[str, ...]  # names in the certificates of workloads, sorted
    workload_owners: tuple[str, ...]  # sha256 of the keys that may set another manifest; empty: nobody
    seedshare_owners: tuple[str, ...]  # RSA keys that can recover the secret seed; empty: nobody

    @property
    def words(self) -> str:
        """What its owner says of it, in one line."""
        owners = (
            f"{len(self.workload_owners)} workload owner(s), {len(self.seedshare_owners)} seed share owner(s)"
        )
        return f"coordinator {self.coordinator}, {', '.join(self.products)}, {', '.join(self.sans)}, {owners}"


def read(fields: Fields, waivers: tuple[Waiver, ...]) -> Contrast:
    """Return the entry of a policy; Malformed when a field is not of its form."""
    node = fields.peek("products")
    products = fields.texts("products", "|".join(PRODUCTS), "one of " + ", ".join(PRODUCTS))
    if not products:
        raise fields.bad("products", node, want="at least one")
    names = fields.peek("sans")
    sans = fields.texts("sans", *_SAN)
    if not sans:
        raise fields.bad("sans", names, want="at least one")
    return Contrast(
        name="contrast",
        place=fields.place,
        waivers=waivers,
        coordinator=fields.text("coordinator", *_HASH),
        products=tuple(sorted(products)),
        sans=tuple(sorted(sans)),
        workload_owners=tuple(sorted(fields.texts("workload_owners", *_HASH))),
        seedshare_owners=tuple(sorted(fields.texts("seedshare_owners", *_KEY))),
    )

"""The owner's in-toto layout: which independent builders must agree, on what, before a release counts.

Source: in-toto specification 1.0, section 4.3 (layout).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tallystick.core.errors import Malformed, NotGenuine, Refused
from tallystick.core.findings import Finding
from tallystick.formats.dsse import Envelope
from tallystick.release import keys
from tallystick.release.envelope import seal, unseal
from tallystick.release.keys import Signatory
from tallystick.release.layout_lint import (
    MATERIALS,
    MEASUREMENTS,
    STEP,
    WHAT,
    functionaries_of,
    key_document,
    lint,
)
from tallystick.release.records import Functionary

DEFAULT_PRODUCTS = (
    "products/image.eif",
    "products/initramfs.cpio.xz",
    "products/oci.tar",
    "products/uki.efi",
)
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A verified layout. Made by :func:`read` alone."""

    functionaries: tuple[Functionary, ...]  # sorted by name
    threshold: int
    allowed: tuple[str, ...]  # products that a link may name, sorted
    expires: datetime
    document: bytes  # the signed envelope, for verifylib
    owners: tuple[str, ...]  # PEM public keys that signed it

    def functionary(self, keyid: str) -> Functionary | None:
        """Return the functionary whose key ``keyid`` is, or None."""
        for functionary in self.functionaries:
            if functionary.keyid == keyid:
                return functionary
        return None


def make(
    owners: Sequence[Signatory],
    functionaries: Sequence[Functionary],
    *,
    threshold: int,
    expires: datetime,
    products: Sequence[str] = DEFAULT_PRODUCTS,
) -> bytes:
    """Return a layout, signed by every owner.

    Args:
        threshold: how many functionaries, apart from the one who made the release, must agree.
        products: the product files that a release may have; the measurements are always required.

    Raises:
        Refused: the layout would be refused by :func:`read`.
    """
    document = {
        "_type": "layout",
        "expires": expires.astimezone(UTC).strftime(_TIME),
        "inspect": [],
        "keys": {f.keyid: key_document(f) for f in functionaries},
        "readme": "Independent rebuilds agree on every product and on the measurements.",
        "steps": [
            {
                "_type": "step",
                "expected_command": [],
                "expected_materials": _rules(require=MATERIALS, allow=MATERIALS),
                "expected_products": _rules(require=(MEASUREMENTS,), allow=sorted((MEASUREMENTS, *products))),
                "name": STEP,
                "pubkeys": sorted(f.keyid for f in functionaries),
                "threshold": threshold,
            }
        ],
    }
    findings = tuple(lint(document))
    if findings:
        raise Refused("this in-toto layout would be refused", findings=findings)
    return seal(document, owners)


def read(data: bytes, owners: Sequence[str], now: datetime) -> Layout:
    """Return the layout that ``data`` is, when every owner signed it and it holds at ``now``.

    Args:
        owners: PEM public keys, from the trust file. All of them must have signed.

    Raises:
        Malformed: not a layout in its one spelling.
        NotGenuine: an owner's signature is missing or wrong (``release.layout.signature``).
        Refused: expired (``release.layout.expired``), or unfit as ``layout_lint.lint`` says.
    """
    envelope, document = unseal(data, WHAT, "layout")
    findings = tuple(_unsigned(envelope, owners))
    if findings:
        raise NotGenuine("the in-toto layout is not signed by its owners", findings=findings)
    findings = tuple(lint(document))
    expires = _expires(document)
    if expires <= now:
        got, want = expires.strftime(_TIME), f"after {now.isoformat()}"
        findings += (Finding("release.layout.expired", "expires", want=want, got=got),)
    if findings:
        raise Refused("the in-toto layout is refused", findings=findings)
    step = document["steps"][0]
    return Layout(
        functionaries=tuple(sorted(functionaries_of(document), key=lambda f: f.name)),
        threshold=step["threshold"],
        allowed=tuple(sorted(path for rule, path in step["expected_products"] if rule == "ALLOW")),
        expires=expires,
        document=data,
        owners=tuple(owners),
    )


def _expires(document: dict[str, Any]) -> datetime:
    text = document["expires"]
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except (TypeError, ValueError):
        raise Malformed(WHAT, at="expires", want="YYYY-MM-DDTHH:MM:SSZ", got=repr(text)) from None


def _unsigned(envelope: Envelope, owners: Sequence[str]) -> Iterator[Finding]:
    """Yield a finding for each owner whose signature is missing or wrong."""
    if not owners:
        yield Finding("release.layout.signature", "trust file", want="an owner's key", got="none")
    given = {signature.keyid: signature.sig for signature in envelope.signatures}
    for pem in owners:
        public_key = keys.from_pem(pem, "layout owner")
        keyid = keys.keyid_of(public_key)
        where, signature = f"owner {keyid[:8]}", given.get(keyid)
        if signature is None:
            yield Finding("release.layout.signature", where, want="a signature", got="none")
        elif not keys.holds(public_key, signature, envelope.signed_bytes):
            yield Finding("release.layout.signature", where, want="one that holds", got="a wrong one")


def _rules(*, require: Sequence[str], allow: Sequence[str]) -> list[list[str]]:
    return [*(["REQUIRE", path] for path in require), *(["ALLOW", path] for path in allow), ["DISALLOW", "*"]]

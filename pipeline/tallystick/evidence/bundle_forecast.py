"""What of an endorsement bundle ends when, and what can not be verified from then on."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, TallystickError
from tallystick.evidence import dcap_collateral, dcap_parts
from tallystick.evidence.bundle import Part
from tallystick.evidence.chain import common_name, load_certificates, load_crl, quiet
from tallystick.formats import snp_report

_ALWAYS = "no end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that ends."""

    part: str  # the file
    what: str  # the thing in it
    valid_from: datetime | None
    valid_until: datetime | None  # None: it has no end
    stops: str  # what can not be verified outside the window
    kinds: tuple[str, ...]

    @property
    def window(self) -> str:
        """The window in words."""
        start = self.valid_from.isoformat() if self.valid_from else "any time"
        return f"valid from {start} to {self.valid_until.isoformat() if self.valid_until else _ALWAYS}"

    def holds(self, at: datetime) -> bool:
        """Return whether it is valid at ``at``."""
        early = self.valid_from is not None and at < self.valid_from
        return not early and (self.valid_until is None or at <= self.valid_until)

    def document(self, at: datetime | None = None) -> dict[str, Any]:
        """The entry as JSON; with ``at`` also how it stands at that time."""
        document: dict[str, Any] = {
            "part": self.part,
            "what": self.what,
            "valid_from": self.valid_from.isoformat() if self.valid_from else None,
            "valid_until": self.valid_until.isoformat() if self.valid_until else None,
            "stops": self.stops,
            "kinds": list(self.kinds),
        }
        return document if at is None else document | {"valid": self.holds(at)}


def forecast(parts: Sequence[Part]) -> tuple[Entry, ...]:
    """Return what ends, soonest first; what has no end last."""
    with quiet():
        found = [entry for part in parts for entry in _entries(part)]
    return tuple(sorted(found, key=_end))


def _end(entry: Entry) -> tuple[bool, float, str]:
    until = entry.valid_until
    return (until is None, until.timestamp() if until else 0.0, entry.part)


def _entries(part: Part) -> Iterator[Entry]:
    kinds = ", ".join(part.kinds)
    found = list(_windows(part.data, kinds))
    for what, start, end, stops in found:
        yield Entry(
            part=part.name, what=what, valid_from=start, valid_until=end, stops=stops, kinds=part.kinds
        )
    if not found:
        stops = f"{kinds}: whatever rests on this file alone"
        yield Entry(
            part=part.name,
            what="a file without dates",
            valid_from=None,
            valid_until=None,
            stops=stops,
            kinds=part.kinds,
        )


_Window = tuple[str, datetime | None, datetime | None, str]


def _windows(data: bytes, kinds: str) -> Iterator[_Window]:
    """Give (what, from, until, what stops then) of each dated thing in a file."""
    start = data.lstrip()
    if dcap_collateral.is_collateral(data):
        yield from _collateral(data, kinds)
    elif start.startswith((b'{"tcbInfo"', b'{"enclaveIdentity"')):
        parts = dcap_parts.Parts.of([data])
        for name, documents in (("TCB info", parts.infos), ("QE identity", parts.identities)):
            for one in documents:
                yield _intel(name, one.document, kinds)
    elif start[:1] == b"{":
        yield from _keys(data, kinds)
    elif (crl := load_crl(data)) is not None:
        yield _list(crl, kinds)
    else:
        yield from _certificates(data, kinds)


def _collateral(data: bytes, kinds: str) -> Iterator[_Window]:
    collateral = dcap_collateral.parse(data)
    for one in (collateral.tcb_info, collateral.qe_identity):
        yield _intel(one.name, one.document, kinds)
        yield from _certificates(one.chain, kinds)
    for der in collateral.lists:
        if (crl := load_crl(der)) is not None:
            yield _list(crl, kinds)


def _intel(name: str, document: dict[str, Any], kinds: str) -> _Window:
    times = []
    for field in ("issueDate", "nextUpdate"):
        try:
            times.append(datetime.fromisoformat(str(document.get(field)).replace("Z", "+00:00")))
        except ValueError:
            raise Malformed(name, at=field, want="an RFC 3339 time", got=str(document.get(field))) from None
    family = str(document.get("fmspc") or document.get("id"))
    stops = f"{kinds}: every quote of platform family {family}"
    if "fmspc" not in document:
        stops = f"{kinds}: every quote by the quoting enclave {family}"
    return f"{name} {family}", times[0], times[1], stops


def _list(crl: x509.CertificateRevocationList, kinds: str) -> _Window:
    issuer = crl.issuer.rfc4514_string()
    stops = f"{kinds}: revocation is not known for what {issuer} issued"
    return f"revocation list of {issuer}", crl.last_update_utc, crl.next_update_utc, stops


def _certificates(data: bytes, kinds: str) -> Iterator[_Window]:
    try:
        certificates = load_certificates(data, "endorsement")
    except Malformed:
        try:
            table = snp_report.certificate_table(data)
        except TallystickError:
            return
        for entry in table.values():
            yield from _certificates(entry, kinds)
        return
    for one in certificates:
        stops = f"{kinds}: whatever chains through it"
        yield f"certificate {common_name(one)}", one.not_valid_before_utc, one.not_valid_after_utc, stops


def _keys(data: bytes, kinds: str) -> Iterator[_Window]:
    """Give the chains in a key set, or in THIM's document; a bare key has no dates."""
    document = jsondoc.loads(data, "endorsement")
    if not isinstance(document, dict):
        return
    for name in ("vcekCert", "certificateChain"):
        if isinstance(document.get(name), str):
            yield from _certificates(document[name].encode(), kinds)
    listed = document.get("keys", [])
    for key in listed if isinstance(listed, list) else []:
        chain = key.get("x5c", []) if isinstance(key, dict) else []
        for item in chain if isinstance(chain, list) else []:
            try:
                yield from _certificates(base64.b64decode(str(item)), kinds)
            except ValueError:
                continue

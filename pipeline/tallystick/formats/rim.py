"""NVIDIA's Reference Integrity Manifests (RIM): a TCG RIM as a SWID tag, with the digests a device must report.

Source: ISO/IEC 19770-2:2015 (SoftwareIdentity, Meta, Payload); TCG Reference Integrity Manifest Information Model 1.01;
NVIDIA/attestation-sdk, src/rim.cpp, for NVIDIA's ``Resource type="Measurement"``: ``active``, ``alternatives`` and
``Hash0`` to ``HashN``; ``index`` counts from 0 where SPDM counts from 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tallystick.core.errors import Malformed

if TYPE_CHECKING:
    from lxml.etree import _Element

SWID = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_RIM = "{https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/}"
_SHA384 = "{http://www.w3.org/2001/04/xmlenc#sha384}"
_WHAT = "RIM"
_HEX = re.compile(r"[0-9a-f]+")
_VBIOS_VERSION = re.compile(r"[0-9A-F]{2}(\.[0-9A-F]{2}){4}")
_DRIVER_VERSION = re.compile(r"[0-9]{3,4}(\.[0-9]{1,3}){1,3}")
_FLAGS = {"True": True, "False": False}
_MAX_INDEX = 253  # SPDM's highest index is 254
_MAX_ALTERNATIVES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RimMeasurement:
    """What one measurement may be."""

    index: int  # as SPDM counts, from 1
    name: str
    values: tuple[bytes, ...]  # any one of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Rim:
    """The fields of a manifest. Whether NVIDIA signed it is not asked here."""

    tag_id: str
    edition: str  # "GPU" or "SWITCH"
    product: str  # "GH100", "GB100", "LS10"
    version: str  # of a driver ("550.144.03") or of a VBIOS ("96.00.5E.00.01")
    manufacturer_id: str  # FirmwareManufacturerId, an IANA enterprise number: "5703"
    active: tuple[RimMeasurement, ...]  # by index; those that must be compared
    inactive: tuple[int, ...]  # indices that this manifest says nothing about

    @property
    def source(self) -> str:
        """Which of a device's two manifests this is: "driver" or "vbios"."""
        return "vbios" if _VBIOS_VERSION.fullmatch(self.version) else "driver"


def read(root: _Element) -> Rim:
    """Return the manifest whose (signed) root element is ``root``.

    Raises:
        Malformed: not a manifest of NVIDIA's form.
    """
    if root.tag != SWID + "SoftwareIdentity":
        raise Malformed(_WHAT, at="root", want="a SoftwareIdentity of ISO 19770-2:2015", got=str(root.tag))
    meta, payload = (_only(root, name) for name in ("Meta", "Payload"))
    version = _attribute(meta, "colloquialVersion", "Meta")
    if not _VBIOS_VERSION.fullmatch(version) and not _DRIVER_VERSION.fullmatch(version):
        raise Malformed(_WHAT, at="colloquialVersion", want="a driver's or a VBIOS's version", got=version)
    active: dict[int, RimMeasurement] = {}
    inactive: set[int] = set()
    for resource in payload:
        if not isinstance(resource.tag, str):
            continue  # a comment, which no signature covers
        if resource.tag != SWID + "Resource" or resource.get("type") != "Measurement":
            raise Malformed(_WHAT, at="Payload", want="measurements only", got=str(resource.tag))
        measurement, counts = _measurement(resource)
        if measurement.index in active or measurement.index in inactive:
            raise Malformed(_WHAT, at="Resource", want="each index once", got=str(measurement.index - 1))
        if counts:
            active[measurement.index] = measurement
        else:
            inactive.add(measurement.index)
    if not active:
        raise Malformed(_WHAT, at="Payload", want="at least one active measurement", got="none")
    return Rim(
        tag_id=_attribute(root, "tagId", "SoftwareIdentity"),
        edition=_attribute(meta, "edition", "Meta"),
        product=_attribute(meta, "product", "Meta"),
        version=version,
        manufacturer_id=_attribute(meta, _RIM + "FirmwareManufacturerId", "Meta"),
        active=tuple(active[index] for index in sorted(active)),
        inactive=tuple(sorted(inactive)),
    )


def _measurement(resource: _Element) -> tuple[RimMeasurement, bool]:
    """Return the measurement and whether it is active."""
    number = _number(resource, "index", _MAX_INDEX)
    where = f"Resource {number}"
    active = _attribute(resource, "active", where)
    if active not in _FLAGS:
        raise Malformed(_WHAT, at=f"{where} active", want="True or False", got=active)
    size = _number(resource, "size", 64)
    alternatives = _number(resource, "alternatives", _MAX_ALTERNATIVES)
    hashes = [name for name in resource.attrib if str(name).startswith(_SHA384)]
    if alternatives < 1 or len(hashes) != alternatives:
        raise Malformed(_WHAT, at=where, want=f"{alternatives} alternatives", got=f"{len(hashes)}")
    values = []
    for at in range(alternatives):
        text = _attribute(resource, f"{_SHA384}Hash{at}", where)
        if not _HEX.fullmatch(text) or len(text) != 2 * size:
            raise Malformed(_WHAT, at=f"{where} Hash{at}", want=f"{size} bytes in hex", got=text)
        values.append(bytes.fromhex(text))
    name = _attribute(resource, "name", where)
    return RimMeasurement(index=number + 1, name=name, values=tuple(values)), _FLAGS[active]


def _only(root: _Element, name: str) -> _Element:
    found = root.findall(SWID + name)
    if len(found) != 1:
        raise Malformed(_WHAT, at=name, want="exactly one", got=str(len(found)))
    return found[0]


def _attribute(element: _Element, name: str, where: str) -> str:
    value = element.get(name)
    if not value:
        raise Malformed(_WHAT, at=f"{where} {name.rpartition('}')[2]}", want="a value", got="none")
    return str(value)


def _number(resource: _Element, name: str, most: int) -> int:
    text = _attribute(resource, name, "Resource")
    if not re.fullmatch(r"0|[1-9][0-9]{0,3}", text) or int(text) > most:
        raise Malformed(_WHAT, at=f"Resource {name}", want=f"a number up to {most}", got=text)
    return int(text)

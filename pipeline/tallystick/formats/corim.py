"""CoRIM: signed Reference Values. What a manifest says, without any decision about it.

Source: draft-ietf-rats-corim-10, 4.1 (corim-map, tag 501), 4.2 (signed-corim, COSE_Sign1 with content type
application/rim+cbor), 5.1 (concise-mid-tag, tag 506; reference triples); RFC 9052. The older outer tags 500 and 502
are taken off, as veraison/corim does. Other kinds of tags and triples are counted, and what a measurement holds
beside what is read here is kept as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import cbor2

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import cose

CORIM_TAG, COMID_TAG = 501, 506
SVN, MIN_SVN, RAW_BYTES, MASKED, RANGE = 552, 553, 560, 563, 564
CONTENT_TYPE = "application/rim+cbor"
META_HEADER = 8
HASHES = {1: ("sha256", 32), 7: ("sha384", 48), 8: ("sha512", 64)}  # IANA Named Information Hash Algorithms
MAX_BYTES = 16 << 20
_WHAT = "CoRIM"
_LEGACY = b"\xd9\x01\xf4\xd9\x01\xf6"
_TAGS = (1, 18, 32, 37, 111, *range(500, 508), *range(550, 565))
_OTHER_TAGS = (505, 507, 508)  # CoSWID, CoTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measurement of an environment: its key, and its values by their number in measurement-values-map."""

    key: Any  # text, whole number, or a tagged value; None when there is none
    values: Mapping[int, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Triple:
    """One reference triple: an environment, and measurements that are all expected of it."""

    environment: Any  # the environment-map, as decoded
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comid:
    """One module identifier: Reference Values of one tag."""

    tag_id: Any
    triples: tuple[Triple, ...]
    other_triples: tuple[int, ...]  # kinds of triples that are not reference triples, by number, sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class Corim:
    """A manifest, unsigned."""

    corim_id: Any
    profile: Any
    not_before: datetime | None
    not_after: datetime | None
    comids: tuple[Comid, ...]
    other_tags: int  # tags that are no module identifiers


def parse(data: bytes) -> Corim:
    """Return the unsigned manifest in ``data``.

    Raises:
        Malformed: not a corim-map of the draft. Unsupported: a tag that no CoRIM has.
    """
    value = cose.loads(data, _WHAT, tags=_TAGS, max_bytes=MAX_BYTES)
    if not isinstance(value, cbor2.CBORTag) or value.tag != CORIM_TAG:
        raise _bad("top", f"tag {CORIM_TAG}", value)
    found = _map("corim-map", value.value)
    tags = found.get(1)
    if not isinstance(tags, list | tuple) or not tags:
        raise _bad("corim-map 1 (tags)", "at least one tag", tags)
    comids: list[Comid] = []
    others = 0
    for number, tag in enumerate(tags):
        if isinstance(tag, cbor2.CBORTag) and tag.tag == COMID_TAG and isinstance(tag.value, bytes):
            comids.append(_comid(tag.value, f"tags[{number}]"))
        elif isinstance(tag, cbor2.CBORTag) and tag.tag in _OTHER_TAGS:
            others += 1
        else:
            raise _bad(f"tags[{number}]", "CoMID, CoSWID or CoTS", tag)
    validity = _map("corim-map 4 (rim-validity)", found.get(4, {}))
    return Corim(
        corim_id=found.get(0),
        profile=found.get(3),
        not_before=_time("not-before", validity.get(0)),
        not_after=_time("not-after", validity.get(1)),
        comids=tuple(comids),
        other_tags=others,
    )


def parse_signed(data: bytes) -> cose.Sign1:
    """Return the COSE_Sign1 around a manifest. Nothing here decides whether the signature holds.

    Raises:
        Malformed: not one, or of another content type, or without corim-meta. Unsupported: its algorithm.
    """
    value = cose.loads(data.removeprefix(_LEGACY), _WHAT, tags=_TAGS, max_bytes=MAX_BYTES)
    if isinstance(value, cbor2.CBORTag) and value.tag == cose.SIGN1_TAG:
        value = value.value
    message = cose.sign1_of(value, _WHAT)
    header = cose.cbor_map(message.protected, f"{_WHAT} protected header")
    if header.get(3) != CONTENT_TYPE:
        raise _bad("content type", CONTENT_TYPE, header.get(3))
    if not isinstance(header.get(META_HEADER), bytes):
        raise _bad("corim-meta", "bytes", header.get(META_HEADER))
    return message


def unwrapped(data: bytes) -> bytes:
    """Return the unsigned manifest of a file that may be signed; errors as :func:`parse_signed`."""
    value = cose.loads(data.removeprefix(_LEGACY), _WHAT, tags=_TAGS, max_bytes=MAX_BYTES)
    if isinstance(value, cbor2.CBORTag) and value.tag == cose.SIGN1_TAG:
        return parse_signed(data).payload
    return data


def digests(values: Mapping[int, Any]) -> Iterator[tuple[str, str]]:
    """Yield (algorithm, hex) of each digest of a measurement whose algorithm is known.

    Raises:
        Malformed: a digest of another size than its algorithm's. Unsupported: another algorithm.
    """
    for entry in values.get(2, ()):
        if not isinstance(entry, list | tuple) or len(entry) != 2 or not isinstance(entry[1], bytes):
            raise _bad("digests", "[algorithm, bytes]", entry)
        number, value = entry
        if not isinstance(number, int) or number not in HASHES:
            raise Unsupported(_WHAT, at="digest algorithm", want=", ".join(map(str, HASHES)), got=str(number))
        name, size = HASHES[number]
        if len(value) != size:
            raise _bad(f"{name} digest", f"{size} bytes", value)
        yield name, value.hex()


def _comid(data: bytes, at: str) -> Comid:
    found = _map(at, cose.loads(data, _WHAT, tags=_TAGS, max_bytes=MAX_BYTES))
    identity = _map(f"{at} tag-identity", found.get(1))
    triples = _map(f"{at} triples", found.get(4))
    rows = triples.get(0, ())
    if not isinstance(rows, list | tuple):
        raise _bad(f"{at} reference triples", "a list", rows)
    others = tuple(sorted(number for number in triples if isinstance(number, int) and number != 0))
    read = tuple(_triple(row, f"{at} reference triple {number}") for number, row in enumerate(rows))
    return Comid(tag_id=identity.get(0), triples=read, other_triples=others)


def _triple(row: Any, at: str) -> Triple:
    if not isinstance(row, list | tuple) or len(row) != 2:
        raise _bad(at, "[environment, measurements]", row)
    environment, measurements = row
    _map(f"{at} environment", environment)
    if not isinstance(measurements, list | tuple) or not measurements:
        raise _bad(at, "at least one measurement", measurements)
    return Triple(environment=environment, measurements=tuple(_measurement(one, at) for one in measurements))


def _measurement(value: Any, at: str) -> Measurement:
    found = _map(f"{at} measurement", value)
    values = _map(f"{at} measurement values", found.get(1))
    if not values:
        raise _bad(at, "at least one value", values)
    return Measurement(key=found.get(0), values=dict(values))


def _map(at: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise _bad(at, "a map", value)
    return value


def _time(at: str, value: Any) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise _bad(at, "a tagged time", value)
    return value.astimezone(UTC)


def _bad(at: str, want: str, got: object) -> Malformed:
    return Malformed(_WHAT, at=at, want=want, got=repr(got)[:80])

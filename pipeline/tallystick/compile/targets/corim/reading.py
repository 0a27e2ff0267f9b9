"""A CoRIM read back by its own meaning, without anything that wrote it.

Source: draft-ietf-rats-corim-10, 8 (a Verifier adds Reference Values whose environment matches and whose
measurements all match evidence), 5.1.4.1.4 (comparison of svn, min-svn, digests, flags and raw values).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import cbor2

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats.corim import MIN_SVN, RAW_BYTES, SVN, Corim, Triple, digests

Evidence = Mapping[str, Mapping[int, Any]]  # measurement key -> measured values


class Values:
    """The Reference Values of a manifest, found by environment and by their first digest."""

    def __init__(self, corim: Corim) -> None:
        if corim.other_tags or any(comid.other_triples for comid in corim.comids if comid.triples):
            raise Malformed("CoRIM", at="tags", want="reference triples alone", got="others")
        self._not_after = corim.not_after
        self.triples = [triple for comid in corim.comids for triple in comid.triples]
        self._found: dict[tuple[Any, Any], list[Triple]] = {}
        for triple in self.triples:
            keys = [one.key for one in triple.measurements]
            if len(set(keys)) != len(keys) or not all(isinstance(key, str) for key in keys):
                raise Malformed("CoRIM", at="measurement keys", want="each text once", got=repr(keys)[:80])
            for one in triple.measurements:
                _check(one.values)
            pivot = next(iter(_pivots(triple)), None)
            self._found.setdefault((_frozen(triple.environment), pivot), []).append(triple)

    def matches(self, environment: Any, evidence: Evidence, now: datetime) -> bool:
        """Say whether evidence of an environment matches one whole triple at ``now``."""
        if self._not_after is None or now > self._not_after:
            return False
        place = _frozen(environment)
        near = [
            (place, None),
            *((place, (key, one)) for key, values in evidence.items() for one in _listed(values)),
        ]
        return any(_holds(triple, evidence) for key in near for triple in self._found.get(key, ()))


def _holds(triple: Triple, evidence: Evidence) -> bool:
    return all(
        isinstance(one.key, str) and one.key in evidence and _match(one.values, evidence[one.key])
        for one in triple.measurements
    )


def _match(wanted: Mapping[int, Any], got: Mapping[int, Any]) -> bool:
    """Every value that is asked for is there, and compares."""
    return all(number in got and _compare(number, value, got[number]) for number, value in wanted.items())


def _compare(number: int, wanted: Any, got: Any) -> bool:
    if number == 1 and wanted.tag == MIN_SVN:
        return isinstance(got, cbor2.CBORTag) and got.tag == SVN and got.value >= wanted.value
    if number == 2:
        common = set(digests({2: wanted})) & set(digests({2: got}))
        return bool(common)
    if number == 3:
        return all(flag in got and got[flag] is value for flag, value in wanted.items())
    return bool(_frozen(wanted) == _frozen(got))


def _check(values: Mapping[int, Any]) -> None:
    """Refuse a value whose comparison is not known here: it could mean anything."""
    for number, value in values.items():
        tag = value.tag if isinstance(value, cbor2.CBORTag) else None
        inner = value.value if isinstance(value, cbor2.CBORTag) else None
        known = (
            (number == 1 and tag in (SVN, MIN_SVN) and isinstance(inner, int) and not isinstance(inner, bool))
            or (number == 2 and len(list(digests(values))) == 1)
            or (
                number == 3
                and isinstance(value, Mapping)
                and all(isinstance(v, bool) for v in value.values())
            )
            or (number == 4 and tag == RAW_BYTES and isinstance(inner, bytes))
        )
        if not known:
            raise Unsupported(
                "CoRIM",
                at=f"measurement value {number}",
                want="svn, digest, flags, raw",
                got=repr(value)[:80],
            )


def _pivots(triple: Triple) -> Iterator[tuple[Any, tuple[str, str]]]:
    for one in triple.measurements:
        for digest in _listed(one.values):
            yield one.key, digest


def _listed(values: Mapping[int, Any]) -> list[tuple[str, str]]:
    return list(digests(values)) if 2 in values else []


def _frozen(value: Any) -> Any:
    """Return a value that compares and hashes by what it is: True is not 1, and a tag is its number too."""
    if isinstance(value, cbor2.CBORTag):
        return ("tag", value.tag, _frozen(value.value))
    if isinstance(value, Mapping):
        return ("map", tuple(sorted(((_frozen(k), _frozen(v)) for k, v in value.items()), key=repr)))
    if isinstance(value, list | tuple):
        return ("list", tuple(map(_frozen, value)))
    return (type(value).__name__, value)

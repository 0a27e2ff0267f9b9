"""The platform rules of a policy: strict defaults filled in, and the requirements of all parties at once.

Each party's requirements are completed with the strict defaults before they are joined: what one of them leaves
out, nobody else can loosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tallystick.core.errors import Refused
from tallystick.core.expect import (
    AtLeast,
    AtLeastVersion,
    Exactly,
    Excludes,
    Expect,
    Includes,
    NoneOf,
    OneOf,
    Only,
    Scalar,
    version_of,
)
from tallystick.core.findings import Finding
from tallystick.policy.model import DeviceChoice, PlacementChoice, PlatformChoice, Policy
from tallystick.policy.normal import Denial, DeviceRule, Placement, PlatformRule
from tallystick.policy.platforms import Strength, platform

_Pairs = tuple[tuple[str, Expect], ...]


def rules(policy: Policy) -> tuple[PlatformRule, ...]:
    """Return what is asked of each platform that every party allows, sorted by platform.

    Raises:
        Refused: the parties allow no platform together, or what they ask of one can not be met at once
            (``policy.parties.contradict``).
    """
    debug_off = policy.waiver("debug-off") is None
    completed = [{c.platform: _rule(c, debug_off=debug_off) for c in side.platforms} for side in policy.sides]
    shared = sorted(shared_platforms(policy))
    if not shared:
        raise _contradiction("platforms", "a platform that every party allows", "none")
    return tuple(_joined([side[name] for side in completed]) for name in shared)


def shared_platforms(policy: Policy) -> set[str]:
    """Return the names of the platforms that every party allows."""
    return set.intersection(*({choice.platform for choice in side.platforms} for side in policy.sides))


def _rule(choice: PlatformChoice, *, debug_off: bool) -> PlatformRule:
    known = platform(choice.platform)
    return PlatformRule(
        platform=known.name,
        evidence_kind=known.evidence_kind,
        roots=choice.roots,
        require=_completed(choice, debug_off=debug_off),
        deny=choice.deny,
        placement=tuple(_placement(choice.platform, one) for one in choice.placement),
        devices=tuple(_device(one, debug_off=debug_off) for one in choice.devices),
    )


def _completed(choice: PlatformChoice | DeviceChoice, *, debug_off: bool) -> _Pairs:
    known = platform(choice.platform)
    require: dict[str, Expect] = {**dict(known.strict), **dict(choice.require)}
    if debug_off:
        require |= dict(known.debug_off)
    return tuple(sorted(require.items()))


def _placement(name: str, choice: PlacementChoice) -> Placement:
    claim = platform(name).place(choice.name)
    path = claim.path if claim is not None and claim.strength.covers(choice.strength) else ""
    return Placement(name=choice.name, values=choice.values, strength=choice.strength.value, claim=path)


def _device(choice: DeviceChoice, *, debug_off: bool) -> DeviceRule:
    known = platform(choice.platform)
    return DeviceRule(
        platform=known.name,
        evidence_kind=known.evidence_kind,
        roots=choice.roots,
        least=choice.least,
        require=_completed(choice, debug_off=debug_off),
        deny=choice.deny,
    )


def _joined(sides: Sequence[PlatformRule]) -> PlatformRule:
    first = sides[0]
    if len(sides) == 1:
        return first
    where = f"platforms.{first.platform}"
    names = sorted({device.platform for side in sides for device in side.devices})
    return replace(
        first,
        roots=_shared(f"{where}.roots", [side.roots for side in sides]),
        require=_all(where, [side.require for side in sides]),
        deny=_denials(where, [side.deny for side in sides]),
        placement=_places(where, [side.placement for side in sides]),
        devices=tuple(
            _joined_devices(where, [d for side in sides for d in side.devices if d.platform == name])
            for name in names
        ),
    )


def _joined_devices(where: str, sides: Sequence[DeviceRule]) -> DeviceRule:
    where = f"{where}.devices.{sides[0].platform}"
    return replace(
        sides[0],
        roots=_shared(f"{where}.roots", [side.roots for side in sides]),
        least=max(side.least for side in sides),
        require=_all(where, [side.require for side in sides]),
        deny=_denials(where, [side.deny for side in sides]),
    )


def _shared(where: str, lists: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    found = tuple(sorted(set.intersection(*map(set, lists))))
    if not found:
        raise _contradiction(where, "a value that every party takes", "none")
    return found


def _all(where: str, sides: Iterable[_Pairs]) -> _Pairs:
    found: dict[str, Expect] = {}
    for side in sides:
        for path, expect in side:
            found[path] = both(found[path], expect, f"{where}.{path}") if path in found else expect
    return tuple(sorted(found.items()))


def _denials(where: str, sides: Iterable[tuple[Denial, ...]]) -> tuple[Denial, ...]:
    found: dict[str, Denial] = {}
    for side in sides:
        for denial in side:
            if found.setdefault(denial.name, denial) != denial:
                want = "one meaning for one name"
                raise _contradiction(f"{where}.deny.{denial.name}", want, "two parties that mean two things")
    return tuple(found[name] for name in sorted(found))


def _places(where: str, sides: Iterable[tuple[Placement, ...]]) -> tuple[Placement, ...]:
    found: dict[str, Placement] = {}
    for side in sides:
        for one in side:
            other = found.get(one.name, one)
            strong = one if Strength(one.strength).covers(Strength(other.strength)) else other
            values = _shared(f"{where}.placement.{one.name}", [one.values, other.values])
            found[one.name] = replace(strong, values=values)
    return tuple(found[name] for name in sorted(found))


def both(one: Expect, two: Expect, where: str) -> Expect:
    """Return the expectation that is met by what meets both.

    Raises:
        Refused: nothing meets both, or no single expectation says it.
    """
    if one == two:
        return one
    for finite, other in ((one, two), (two, one)):
        if isinstance(finite, Exactly | OneOf):
            values = finite.values if isinstance(finite, OneOf) else (finite.value,)
            kept = tuple(value for value in values if _met(other, value))
            if not kept:
                raise _contradiction(where, str(one), str(two))
            return Exactly(kept[0]) if len(kept) == 1 else OneOf(kept)
    found = _same_kind(one, two)
    if found is None:
        raise _contradiction(where, f"a form that says both: {one}", str(two))
    return found


def _same_kind(one: Expect, two: Expect) -> Expect | None:
    if isinstance(one, AtLeast) and isinstance(two, AtLeast):
        return AtLeast(max(one.minimum, two.minimum))
    if isinstance(one, AtLeastVersion) and isinstance(two, AtLeastVersion):
        return max(one, two, key=lambda expect: version_of(expect.minimum) or ())
    if isinstance(one, NoneOf) and isinstance(two, NoneOf):
        if type(one.values[0]) is not type(two.values[0]):
            return None  # no value is of both types
        return NoneOf(tuple(sorted({*one.values, *two.values}, key=str)))
    if isinstance(one, Only) and isinstance(two, Only):
        return Only(tuple(sorted(set(one.values) & set(two.values))))
    for kind in (Includes, Excludes):
        if isinstance(one, kind) and isinstance(two, kind):
            return kind(tuple(sorted({*one.values, *two.values})))
    return None


def _met(expect: Expect, value: Scalar) -> bool:
    """Say whether one value of a finite set meets ``expect``."""
    if isinstance(expect, Exactly | OneOf):
        values = expect.values if isinstance(expect, OneOf) else (expect.value,)
        return any(type(other) is type(value) and other == value for other in values)
    if isinstance(expect, NoneOf):
        return type(value) is type(expect.values[0]) and value not in expect.values
    if isinstance(expect, AtLeast):
        return isinstance(value, int) and not isinstance(value, bool) and value >= expect.minimum
    if isinstance(expect, AtLeastVersion):
        least, got = version_of(expect.minimum), version_of(value)
        return least is not None and got is not None and got >= least
    return False


def _contradiction(where: str, want: str, got: str) -> Refused:
    finding = Finding("policy.parties.contradict", where, want=want, got=got)
    return Refused(f"the parties can not all be satisfied: {where}", findings=[finding])

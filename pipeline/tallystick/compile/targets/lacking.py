"""What targets that judge claims can not express, named as waivers name it (:mod:`tallystick.policy.constraints`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from tallystick.compile.targets.base import Lack
from tallystick.compile.targets.claims import Vocabulary
from tallystick.core.expect import Exactly, Expect
from tallystick.policy.constraints import constraints, unplaced
from tallystick.policy.normal import NormalForm, Placement, PlatformRule

Says = Callable[[str, str, Expect], bool]  # platform, claim path, expectation


def lacking(
    form: NormalForm,
    target: str,
    words: Mapping[str, Vocabulary],
    bound_seconds: int,
    says: Says,
    placed: Callable[[Placement], bool] = lambda _: False,
) -> Iterator[Lack]:
    """Yield every requirement of ``form`` that ``target`` has no words for, each once, sorted by name.

    Args:
        bound_seconds: the oldest evidence that the target takes.
        says: whether the target can compare a claim as is expected.
        placed: whether the target itself sees to a placement that no claim carries.
    """
    found: dict[str, str] = {}
    for rule in form.platforms:
        vocabulary = words.get(rule.platform)
        if vocabulary is None:
            found[f"platform-{rule.platform}"] = f"{target} does not judge evidence of {rule.platform}"
            continue
        found |= dict(_claims(rule, target, says))
        found |= dict(_registers(form, rule, target, vocabulary))
        for placement in rule.placement:
            name = f"placement-{placement.name}"
            if name in unplaced(rule) and not placed(placement):
                found[name] = f"nothing that {target} sees says where the machine is: {placement.name}"
        for device in rule.devices:
            found[f"device-{device.platform}"] = f"{target} does not see the devices of a machine"
        if not set(vocabulary.roots) <= set(rule.roots):
            believed = ", ".join(vocabulary.roots)
            found["roots"] = f"{target} verifies evidence itself, and believes {believed}"
    if bound_seconds > form.max_age_seconds:
        found["freshness"] = (
            f"{target} takes evidence that is up to {bound_seconds} s old, and the policy's maximum is "
            f"{form.max_age_seconds} s. Freshness is never waived: set freshness.max_age_seconds to {bound_seconds} "
            "where the channel allows it, or give these keys through a target that asks for younger evidence"
        )
    for name in sorted(found):
        yield Lack(requirement=name, why=found[name])


def _claims(rule: PlatformRule, target: str, says: Says) -> Iterator[tuple[str, str]]:
    for one in constraints(rule):
        if not says(rule.platform, one.path, one.expect):
            kind = type(one.expect).__name__
            yield one.requirement, f"{target} does not tell {one.path}, or has no comparison for {kind}"


def _registers(
    form: NormalForm, rule: PlatformRule, target: str, vocabulary: Vocabulary
) -> Iterator[tuple[str, str]]:
    for release in form.releases:
        for entry in release.tuples:
            if entry.platform != rule.platform:
                continue
            for path, expect in entry.expect:
                if isinstance(expect, Exactly) and path not in vocabulary.names:
                    yield f"register-{path}", f"{target} does not tell {path}"

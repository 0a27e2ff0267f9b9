"""How two policies, or two compiled ones, differ: in words, and as the tuples that it lets in and keeps out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tallystick.policy import document
from tallystick.policy.model import DeviceChoice, PlatformChoice, Policy, SupplyChain, Target
from tallystick.policy.normal import NormalForm, PermittedRelease, Tuple


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that is not as it was."""

    what: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Everything that is not as it was."""

    changes: tuple[Change, ...]
    allowed: tuple[str, ...]  # tuples that got no key before
    denied: tuple[str, ...]  # tuples that get none any more

    @property
    def words(self) -> str:
        """The difference, one line for each thing."""
        lines = [f"{change.what}: {change.old} -> {change.new}" for change in self.changes]
        lines += [f"newly allowed: {entry}" for entry in self.allowed]
        lines += [f"newly denied: {entry}" for entry in self.denied]
        return "\n".join(lines) or "no difference"


def of_policies(old: Policy, new: Policy) -> Difference:
    """Return how the policy that a person wrote changed."""
    changes = tuple(_changes(_policy_lines(old), _policy_lines(new)))
    return Difference(changes=changes, allowed=(), denied=())


def of_forms(old: NormalForm, new: NormalForm) -> Difference:
    """Return how a compiled policy changed.

    A tuple is newly allowed when some key of the new policy is given to it that the old one did not give.
    """
    before, after = _permitted(old), _permitted(new)
    return Difference(
        changes=tuple(_changes(_form_lines(old), _form_lines(new))),
        allowed=tuple(text for key, text in after.items() if key not in before),
        denied=tuple(text for key, text in before.items() if key not in after),
    )


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Change]:
    for what in [*old, *(name for name in new if name not in old)]:
        one, two = old.get(what, "nothing"), new.get(what, "nothing")
        if one != two:
            yield Change(what=what, old=one, new=two)


def _policy_lines(policy: Policy) -> dict[str, str]:
    chain = policy.supply_chain
    lines = {
        "name": policy.name,
        "channel": policy.channel.value,
        "until": _time(policy.until),
        "releases": ", ".join(policy.releases),
        "maximum age": f"{policy.max_age_seconds} s",
        "attests again within": f"{policy.reattest_seconds} s",
    }
    lines |= {f"key {rule.key}": f"opens {rule.artifact}" for rule in policy.keys}
    lines |= _chain_lines(chain)
    lines |= _choice_lines(policy.platforms)
    for denial in policy.denied_firmware:
        denied = ", ".join(map(str, denial.firmware))
        lines[f"firmware denied as {denial.name}"] = f"{denied} since {denial.since}: {denial.reason}"
    for party in policy.parties:
        own = {**_chain_lines(party.supply_chain), **_choice_lines(party.platforms)}
        own["maximum age"] = f"{party.max_age_seconds} s"
        lines |= {f"{what} for {party.name}": said for what, said in own.items()}
    for waiver in policy.waivers:
        lines[f"waiver of {waiver.requirement}"] = f"{waiver.decision} until {_time(waiver.until)}"
    for target in policy.targets:
        lines |= _target_lines(target)
    return lines


def _chain_lines(chain: SupplyChain) -> dict[str, str]:
    lines = {
        "SLSA build level": str(chain.slsa_build_level),
        "rebuilds": str(chain.rebuilds.threshold),
        "rebuilds by these do not count": ", ".join(chain.rebuilds.not_counted) or "nobody",
        "denied components": ", ".join(chain.sbom.denied) or "none",
        "unexplained files": str(chain.sbom.unexplained_files),
    }
    if chain.approvals is not None:
        names = ", ".join(f"{identity.san} ({identity.issuer})" for identity in chain.approvals.of)
        lines["approvals"] = f"{chain.approvals.threshold} of {names}"
    for one in chain.builders:
        lines[f"builder {one.builder_id}"] = f"{one.identity.san} ({one.identity.issuer})"
    return lines


def _choice_lines(choices: Sequence[PlatformChoice | DeviceChoice]) -> dict[str, str]:
    lines: dict[str, str] = {}
    for choice in choices:
        require = json.dumps({path: document.expectation_document(e) for path, e in choice.require})
        lines[f"platform {choice.platform}"] = f"roots {', '.join(choice.roots)}, requires {require}"
        for denial in choice.deny:
            values = ", ".join(map(str, denial.values))
            said = f"{denial.claim} {values} since {denial.since}: {denial.reason}"
            lines[f"{choice.platform} denies {denial.name}"] = said
        if isinstance(choice, PlatformChoice):
            for one in choice.placement:
                said = f"{', '.join(one.values)} ({one.strength.value})"
                lines[f"{one.name} of {choice.platform}"] = said
            for device in choice.devices:
                lines[f"{device.platform} in {choice.platform}"] = f"at least {device.least}"
            lines |= {
                f"{what} in {choice.platform}": said for what, said in _choice_lines(choice.devices).items()
            }
    return lines


def _target_lines(target: Target) -> dict[str, str]:
    lines = {f"target {target.name}": target.words}
    for waiver in target.waivers:
        place = f"waiver of {waiver.requirement} for {target.name}"
        lines[place] = f"{waiver.decision} until {_time(waiver.until)}"
    return lines


def _form_lines(form: NormalForm) -> dict[str, str]:
    found = document.to_document(form)
    lines = {
        "policy": form.policy,
        "policy file": str(form.policy_digest),
        "channel": form.channel,
        "until": _time(form.not_after),
        "maximum age": f"{form.max_age_seconds} s",
        "attests again within": f"{form.reattest_seconds} s",
        "parties": ", ".join(form.parties) or "the author alone",
    }
    lines |= {f"key {rule.key}": f"opens {rule.artifact}" for rule in form.keys}
    lines |= {f"release {r.digest}": f"{r.name} {r.version}, verdict {r.vsa}" for r in form.releases}
    for rule in found["platforms"]:
        roots, require = ", ".join(rule["roots"]), json.dumps(rule["require"], sort_keys=True)
        lines[f"platform {rule['platform']}"] = f"roots {roots}, requires {require}"
        for part in ("deny", "placement", "devices"):
            for row in rule[part]:
                said = json.dumps(row, sort_keys=True)
                lines[f"{part} {row.get('name', row.get('platform'))} of {rule['platform']}"] = said
    for name, waiver in found["waivers"].items():
        lines[f"waiver of {name}"] = _waiver(waiver)
    for residual in found["residuals"]:
        place = f"waiver of {residual['requirement']} for {residual['target']}"
        lines[place] = _waiver(residual)
    return lines


def _waiver(waiver: Mapping[str, Any]) -> str:
    return f"{waiver['waived']['decision']} until {waiver['waived']['until']}"


def _permitted(form: NormalForm) -> dict[str, str]:
    """Return every pair of key and tuple that is permitted: what identifies it, and how it is said."""
    return {
        json.dumps([rule.key, _values(entry)], sort_keys=True): f"{rule.key} for {_said(release, entry)}"
        for release in form.releases
        for entry in release.tuples
        for rule in form.keys
    }


def _values(entry: Tuple) -> dict[str, Any]:
    found = {path: document.expectation_document(expect) for path, expect in entry.expect}
    pinned = {path: value for path, value in found.items() if "waived" not in value}
    return {"platform": entry.platform, "kind": entry.evidence_kind, "expect": pinned}


def _said(release: PermittedRelease, entry: Tuple) -> str:
    shape = ", ".join(f"{name} {value}" for name, value in entry.shape)
    return f"{release.name} {release.version} on {entry.platform} ({shape}), release {release.digest}"


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")

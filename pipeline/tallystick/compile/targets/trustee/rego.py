"""The two Rego policies. Whole tuples come from the RVPS; which releases count stands in the policy itself.

Every condition is there for a reason that docs/targets.md ("Pitfalls") lists; a proof drops them one by one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tallystick.policy.normal import KeyRule, PermittedRelease

EXTENSION_NAME = "ear.tallystick.permits"
EXTENSION_KEY = -70_600  # of our own; EAR's private claims are negative, Trustee's identifiers have -18
DEVICE_VECTOR = {"configuration": 2, "executables": 3}
_SECOND = 1_000_000_000  # in nanoseconds, the unit of time.now_ns
# Everything that Trustee's transform_claims puts beside a machine's claims, and nothing else.
SURROUNDING = ("init_data", "init_data_claims", "report_data", "runtime_data_claims")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What every emitted file says of itself, in comments. Nothing is ever decided by them."""

    policy: str
    policy_digest: str
    channel: str
    normal_form: str
    not_after: datetime
    releases: tuple[PermittedRelease, ...]
    residuals: tuple[str, ...]  # "attestation-key-root: why (decision)"

    def lines(self) -> Iterator[str]:
        """Yield the comment lines."""
        yield f"# policy      {self.policy} {self.policy_digest}"
        yield f"# channel     {self.channel}"
        yield f"# normal form {self.normal_form}"
        yield f"# until       {_time(self.not_after)}"
        for release in self.releases:
            yield f"# release     {release.digest} {release.name} {release.version}"
            for bundle in release.bundles:
                yield f"#   bundle    {bundle}"
        for residual in self.residuals:
            yield f"# NOT CHECKED {residual}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Tuples of one platform that pin the same claims: where the RVPS keeps them, and how they are compared."""

    platform: str
    ids: tuple[str, ...]  # Reference Value names
    pairs: tuple[tuple[str, str], ...]  # (member of the Reference Value, Rego reference of the claim), sorted
    require: tuple[str, ...]  # conditions on every tuple of the platform, as lines of Rego


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """What the devices of one platform must show."""

    platform: str  # of the machine
    tee: str  # "nvidia"
    least: int
    require: tuple[str, ...]  # lines of Rego


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraisal:
    """What the policies are made from: one human policy's part of them."""

    head: Head
    rows: tuple[Rows, ...]
    tees: tuple[tuple[str, str], ...]  # platform -> name of its TEE, sorted
    devices: tuple[Devices, ...]  # sorted by platform
    attestation_keys: tuple[str, ...]  # asked of evidence of a TPM
    identity: (
        bool  # whether every platform is a TPM whose keys are listed: then the identity is affirmed, too
    )
    permits: tuple[str, ...]  # "policy platform release", sorted
    keys: tuple[KeyRule, ...]
    token_seconds: int


def vector(parts: Sequence[Appraisal]) -> dict[str, int]:
    """Return the trustworthiness vector of evidence that is accepted, and of no other.

    Nothing is said of the hardware: Trustee's TPM verifier does not look where the attestation key is from.
    """
    found = {"configuration": 2, "executables": 3}
    return found | {"instance-identity": 2} if all(part.identity for part in parts) else found


def evidence_policy(parts: Sequence[Appraisal]) -> str:
    """Return the appraisal policy for evidence, which Trustee's attestation service keeps as ``default_cpu``."""
    return "\n".join(_evidence_lines(parts)) + "\n"


def device_policy(parts: Sequence[Appraisal]) -> str:
    """Return the appraisal policy for evidence of GPUs, kept as ``default_gpu``."""
    return "\n".join(_device_lines(parts)) + "\n"


def resource_policy(parts: Sequence[Appraisal]) -> str:
    """Return the appraisal policy for attestation results, of which a KBS has one for all resources."""
    return "\n".join(_resource_lines(parts)) + "\n"


def _head(parts: Sequence[Appraisal], what: str) -> Iterator[str]:
    yield f"# {what}"
    yield "# Made by `tally compile` and proved; a changed byte is another policy. Do not edit."
    for part in parts:
        yield from part.head.lines()
    yield from ("", "package policy", "", "import rego.v1", "")


def _evidence_lines(parts: Sequence[Appraisal]) -> Iterator[str]:
    yield from _head(parts, "Trustee, appraisal policy for evidence, policy id: default_cpu")
    yield from _trust_claims(vector(parts))
    yield "# The RVPS may hold more than this policy permits: it keeps values until they are overwritten."
    yield from _set("permitted", [permit for part in parts for permit in part.permits])
    if parts[0].attestation_keys:
        yield from (
            "known_key if {",
            "\tsome key in attestation_keys",
            "\tinput.tpm.ak_public == key",
            "}",
            "",
        )
        yield from _set("attestation_keys", parts[0].attestation_keys)
    for part in parts:
        for rows in part.rows:
            yield from _rows(part, rows)
    if not any(part.rows for part in parts):
        yield from ("matched := []", "")


def _device_lines(parts: Sequence[Appraisal]) -> Iterator[str]:
    yield from _head(parts, "Trustee, appraisal policy for evidence of GPUs, policy id: default_gpu")
    yield from _trust_claims(DEVICE_VECTOR)
    for part in parts:
        for device in part.devices:
            yield f"matched contains {json.dumps(_device(part, device.platform))} if {{"
            yield f"\tnow_ns <= {_nanoseconds(part.head.not_after)}"
            yield from (f"\t{condition}" for condition in device.require)
            yield from ("}", "")


def _trust_claims(proved: dict[str, int]) -> Iterator[str]:
    unproved = {"configuration": 96, "executables": 96, "instance-identity": 97}
    yield "# What is not proved below is contraindicated."
    for name in proved:
        yield f"default {_rule(name)} := {unproved[name]}"
        yield ""
    yield "trust_claims := {"
    yield from (f'\t"{name}": {_rule(name)},' for name in proved)
    yield from ("}", "")
    for name, value in proved.items():
        condition = "known_key" if name == "instance-identity" else "count(matched) > 0"
        yield f"{_rule(name)} := {value} if {condition}"
        yield ""
    yield f'extensions := [{{"name": "{EXTENSION_NAME}", "key": {EXTENSION_KEY}, "value": [permit |'
    yield from ("\tsome permit in matched", "]}]", "", "now_ns := time.now_ns()", "")


def _rows(appraisal: Appraisal, rows: Rows) -> Iterator[str]:
    """One rule for tuples of one shape. A claim that is absent, null or no text matches nothing."""
    yield "matched contains permit if {"
    yield f"\tnow_ns <= {_nanoseconds(appraisal.head.not_after)}"
    if appraisal.attestation_keys and dict(appraisal.tees)[rows.platform] == "tpm":
        yield "\tknown_key"
    yield "\tsome id in ["
    yield from (f"\t\t{json.dumps(name)}," for name in rows.ids)
    yield "\t]"
    yield "\ttuples := query_reference_value(id)"
    yield "\tis_array(tuples)"
    yield "\tsome tuple in tuples"
    yield f'\tpermit := concat(" ", ["{appraisal.head.policy}", "{rows.platform}", tuple.release])'
    yield "\tpermit in permitted"
    for member, claim in rows.pairs:
        held = f"tuple.{member}" if member.isidentifier() else f"tuple[{json.dumps(member)}]"
        yield f"\tis_string({held})"
        yield f"\t{claim} == {held}"
    yield from (f"\t{condition}" for condition in rows.require)
    yield from ("}", "")


def _resource_lines(parts: Sequence[Appraisal]) -> Iterator[str]:
    """One document for every key: without devices one rule for each policy, so that nothing is there to go wrong."""
    yield from _head(parts, "Trustee, resource policy of the KBS: one document for every resource")
    yield from ("default allow := false", "")
    yield from ("now_ns := time.now_ns()", "", "resources := [")
    for part in parts:
        for rule in part.keys:
            yield f'\t{{"path": {json.dumps(rule.key.split("/"))}, "policy": {json.dumps(part.head.policy)}}},'
    yield from (
        "]",
        "",
        "# Which releases open the resources of a policy, and the TEE whose evidence must say so.",
    )
    yield "permitted := {"
    for part in parts:
        tees = dict(part.tees)
        yield f"\t{json.dumps(part.head.policy)}: {{"
        yield from (f'\t\t"{permit}": "{tees[permit.split(" ")[1]]}",' for permit in part.permits)
        yield "\t},"
    yield from ("}", "")
    yield from _set("alone", [name for part in parts for name in _alone(part)])
    for part in parts:
        yield from _allow(part, parts)
    yield "# A machine whose policy asks for no device shows none."
    yield "accompanied(permit) if {"
    yield '\tobject.keys(input.submods) == {"cpu0"}'
    yield "\tsome name in alone"
    yield '\tstartswith(permit, concat("", [name, " "]))'
    yield "}"
    for part in parts:
        for device in part.devices:
            yield from _accompanied(part, device)


def _alone(part: Appraisal) -> list[str]:
    """Return the platforms of a policy that are shown without devices."""
    with_devices = {device.platform for device in part.devices}
    return [f"{part.head.policy} {name}" for name in sorted(set(dict(part.tees)) - with_devices)]


def _allow(part: Appraisal, parts: Sequence[Appraisal]) -> Iterator[str]:
    """The rule for the resources of one policy, within its own end and its own age."""
    yield "allow if {"
    yield '\tdata.plugin == "resource"'
    yield "\tsome resource in resources"
    yield '\tdata["resource-path"] == resource.path'
    if len(parts) > 1:
        yield f"\tresource.policy == {json.dumps(part.head.policy)}"
    yield f"\tnow_ns <= {_nanoseconds(part.head.not_after)}"
    yield f"\tage_ns := now_ns - (input.iat * {_SECOND})"
    yield "\tage_ns >= 0"
    yield f"\tage_ns <= {part.token_seconds * _SECOND}"
    yield "\tcpu := input.submods.cpu0"
    yield '\tcpu["ear.status"] == "affirming"'
    yield f'\tcpu["ear.trustworthiness-vector"] == {json.dumps(vector(parts))}'
    yield f'\tsome permit in cpu["{EXTENSION_NAME}"]'
    yield "\ttee := permitted[resource.policy][permit]"
    names = ", ".join(json.dumps(name) for name in SURROUNDING)
    yield f'\tobject.keys(cpu["ear.veraison.annotated-evidence"]) == {{{names}, tee}}'
    yield "\taccompanied(permit)"
    yield from ("}", "")


def _accompanied(appraisal: Appraisal, device: Devices) -> Iterator[str]:
    """Every submod beside the machine's is such a device, each one affirmed, and there are enough of them."""
    permit = _device(appraisal, device.platform)
    yield from ("", "accompanied(permit) if {")
    yield f'\tstartswith(permit, "{appraisal.head.policy} {device.platform} ")'
    yield '\tgpus := object.keys(input.submods) - {"cpu0"}'
    yield f"\tcount(gpus) >= {device.least}"
    yield "\tevery name in gpus {"
    yield "\t\tregex.match(`^gpu(0|[1-9][0-9]?)$`, name)"
    yield "\t\tgpu := input.submods[name]"
    yield '\t\tgpu["ear.status"] == "affirming"'
    yield f'\t\tgpu["ear.trustworthiness-vector"] == {json.dumps(DEVICE_VECTOR)}'
    yield f'\t\tobject.keys(gpu["ear.veraison.annotated-evidence"]) == {{"{device.tee}"}}'
    yield f'\t\t{json.dumps(permit)} in gpu["{EXTENSION_NAME}"]'
    yield from ("\t}", "}")


def _device(appraisal: Appraisal, platform: str) -> str:
    return f"{appraisal.head.policy} {platform}"


def _set(name: str, values: Iterable[str]) -> Iterator[str]:
    """A set, which Rego has no empty literal for: ``set()`` is a call."""
    found = [f"\t{json.dumps(value)}," for value in values]
    if not found:
        yield from (f"{name} := []", "")
        return
    yield from (f"{name} := {{", *found, "}", "")


def _rule(name: str) -> str:
    return name.replace("-", "_")


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp()) * _SECOND


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

"""An audit of Azure key release policies: which machines get the key that were not meant.

Source: Microsoft, "Secure key release policy grammar", "Claim sets", "Examples of an attestation token".
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass

from tallystick.compile.audit.asking import Asker, tuples
from tallystick.compile.audit.records import Audited, PermissivePath, ReferenceValues
from tallystick.compile.logic.formula import Atom, Formula
from tallystick.compile.logic.tests import Among
from tallystick.compile.targets.azure_skr import document
from tallystick.compile.targets.azure_skr.document import Reading, ReleasePolicy
from tallystick.compile.targets.azure_skr.prove import token
from tallystick.compile.targets.azure_skr.words import WORDS

_LIMITS = (
    "who has the right to release the key (RBAC or access policy), and whether its policy is immutable",
    "the container policy behind x-ms-sevsnpvm-hostdata: `tally measure cce` shows what it allows",
    "whether anybody else can set the attestation policy of the authority, unless x-ms-policy-hash is pinned",
)
_NEST = "x-ms-isolation-tee."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Machine:
    """One kind of machine, as the tokens of its kind tell it."""

    what: str
    kind: tuple[tuple[str, str], ...]  # claims that make a token one of this kind
    mark: str  # begins the claims that only such a token has
    debug: str
    workload: tuple[str, ...]  # claims of which one says what runs
    workload_fix: str


_MACHINES = (
    _Machine(
        what="a container group on SEV-SNP",
        kind=(("x-ms-attestation-type", "sevsnpvm"),),
        mark="x-ms-sevsnpvm-",
        debug="x-ms-sevsnpvm-is-debuggable",
        workload=("x-ms-sevsnpvm-hostdata",),
        workload_fix="pin x-ms-sevsnpvm-hostdata: the digest of the container policy",
    ),
    _Machine(
        what="a confidential VM on SEV-SNP",
        kind=(("x-ms-attestation-type", "azurevm"), (f"{_NEST}x-ms-attestation-type", "sevsnpvm")),
        mark=_NEST,
        debug=f"{_NEST}x-ms-sevsnpvm-is-debuggable",
        workload=(f"{_NEST}x-ms-sevsnpvm-hostdata", f"{_NEST}x-ms-sevsnpvm-launchmeasurement"),
        workload_fix="no claim of a confidential VM says what it runs (launchmeasurement is Microsoft's paravisor): "
        "use container groups with x-ms-sevsnpvm-hostdata, or a broker that judges the vTPM",
    ),
    _Machine(
        what="a TDX guest",
        kind=(("x-ms-attestation-type", "tdxvm"),),
        mark="tdx_",
        debug="tdx_td_attributes_debug",
        workload=("tdx_mrtd", "tdx_rtmr1", "tdx_rtmr2", "tdx_mrconfigid"),
        workload_fix="pin tdx_mrtd, tdx_rtmr0 to 3 and tdx_mrconfigid",
    ),
    _Machine(
        what="an SGX enclave",
        kind=(("x-ms-attestation-type", "sgx"),),
        mark="x-ms-sgx-",
        debug="x-ms-sgx-is-debuggable",
        workload=("x-ms-sgx-mrenclave", "x-ms-sgx-mrsigner"),
        workload_fix="pin x-ms-sgx-mrenclave",
    ),
)


class Audit:
    """The auditor of release policies."""

    name = "azure-release-policy"

    def recognises(self, data: bytes, file_name: str) -> bool:
        """Say whether it is a release policy, or a key's ``releasePolicy`` with one inside."""
        try:
            value = json.loads(_inside(data))
        except (ValueError, RecursionError):
            return False
        rows = value.get("anyOf") if isinstance(value, dict) else None
        return isinstance(rows, list) and any(isinstance(row, dict) and "authority" in row for row in rows)

    def audit(self, data: bytes, reference: ReferenceValues | None) -> Audited:
        """Return which machines get the key, and what is accepted beside ``reference``. ``equals`` is read loosely."""
        policy = document.read(_inside(data))
        formula = document.formula(policy, Reading.LOOSE)
        asker = Asker(accepted=formula, shown=token)
        found = [path for machine in _meant(policy) for path in _machine(policy, asker, machine)]
        found += _zeros(policy)
        released = accepted = None
        if reference is not None:
            names = {path: claim for words in WORDS.values() for path, claim in words.names.items()}
            extra, accepted = asker.unreleased(
                "azure.not-released",
                "one allOf for each released tuple, under one anyOf",
                tuples(reference, names),
                tuple(sorted({one.claim for one in document.conditions(policy)})),
            )
            released = len(reference.tuples)
            found += extra
        return Audited(
            language=self.name,
            paths=tuple(found),
            released=released,
            accepted=accepted,
            limits=(*_LIMITS, *_slashes(policy)),
        )


def _inside(data: bytes) -> bytes:
    """Return the policy inside of a key's ``releasePolicy`` ({contentType, data, immutable}), or ``data``."""
    try:
        value = json.loads(data)
        inside = value["data"] if isinstance(value, dict) and isinstance(value.get("data"), str) else ""
        return base64.urlsafe_b64decode(inside + "=" * (-len(inside) % 4)) if inside else data
    except (ValueError, RecursionError, binascii.Error):
        return data


def _meant(policy: ReleasePolicy) -> tuple[_Machine, ...]:
    """Return the kinds of machines whose claims the policy speaks of; all of them when it speaks of none."""
    claims = [one.claim for one in document.conditions(policy)]
    kinds = {str(one.equals) for one in document.conditions(policy) if one.claim == "x-ms-attestation-type"}
    named = [
        machine
        for machine in _MACHINES
        if any(claim.startswith(machine.mark) for claim in claims)
        or dict(machine.kind)["x-ms-attestation-type"] in kinds
    ]
    return tuple(named) or _MACHINES


def _machine(policy: ReleasePolicy, asker: Asker, machine: _Machine) -> Iterator[PermissivePath]:
    """What gets the key that is a machine of one kind: debugged, or running anything."""
    kind: list[Formula] = [Atom(claim, Among(value)) for claim, value in machine.kind]
    where = _where(policy)
    off = Atom(machine.debug, Among(*_yes()))
    yield from asker.path(
        "azure.debug-not-pinned", where, f"{machine.what} gets the key while its owner debugs it",
        f"pin {machine.debug} to false", *kind, off,
    )  # fmt: skip
    anything = [Atom(claim, Among("ab" * 48, "ab" * 32)) for claim in machine.workload]
    yield from asker.path(
        "azure.workload-not-pinned", where, f"{machine.what} gets the key, whatever it runs",
        machine.workload_fix, *kind, *anything,
    )  # fmt: skip
    if machine.debug.startswith(("x-ms-sevsnpvm", _NEST)):
        nest = machine.debug.rpartition("x-ms-sevsnpvm")[0]
        other = Atom(f"{nest}x-ms-compliance-status", Among("not-azure-compliant"))
        yield from asker.path(
            "azure.compliance-not-pinned", where, f"{machine.what} that is not Azure's own utility VM gets the key",
            f"pin {nest}x-ms-compliance-status", *kind, other,
        )  # fmt: skip


def _yes() -> tuple[bool | str, ...]:
    return (True, "true")


def _zeros(policy: ReleasePolicy) -> Iterator[PermissivePath]:
    for one in document.conditions(policy):
        if isinstance(one.equals, str) and len(one.equals) >= 64 and not one.equals.strip("0"):
            yield PermissivePath(
                code="azure.zero-value",
                where=one.where,
                what=f"{one.claim} is pinned to zeros, which a machine without any has",
                fix="pin the value of the release",
            )


def _where(policy: ReleasePolicy) -> str:
    return ", ".join(one.url for one in policy.authorities)


def _slashes(policy: ReleasePolicy) -> Iterator[str]:
    for one in policy.authorities:
        if one.url.endswith("/"):
            yield f"{one.url}: a token's issuer has no slash at the end, so this may never match"

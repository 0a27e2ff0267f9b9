"""Contrast manifests: what a Coordinator accepts beyond the tuples that were released."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tallystick.compile.audit.records import Audited, PermissivePath, ReferenceValues
from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, TallystickError

_HOST_DATA = ("host_data", "init_data")
_TCB = ("BootloaderVersion", "TEEVersion", "SNPVersion", "MicrocodeVersion")


class Audit:
    """Manifests of Edgeless Contrast."""

    name = "contrast-manifest"

    def recognises(self, data: bytes, file_name: str) -> bool:
        """Say whether this has a manifest's two main parts."""
        try:
            found = jsondoc.loads(data, "Contrast manifest")
        except TallystickError:
            return False
        return isinstance(found, dict) and {"Policies", "ReferenceValues"} <= set(found)

    def audit(self, data: bytes, reference: ReferenceValues | None) -> Audited:
        """Return every permissive path that was found."""
        found = jsondoc.loads(data, "Contrast manifest")
        policies, values = found.get("Policies"), found.get("ReferenceValues")
        if not isinstance(policies, dict) or not isinstance(values, dict):
            raise Malformed(
                "Contrast manifest", at="document", want="Policies and ReferenceValues", got="others"
            )
        workloads = [
            digest for digest, entry in policies.items()
            if not (isinstance(entry, dict) and entry.get("Role") == "coordinator")
        ]  # fmt: skip
        snp, tdx = (_objects(values, name) for name in ("snp", "tdx"))
        measured = sorted({str(one.get("TrustedMeasurement")) for one in snp})
        accepted = {(measurement, digest) for measurement in measured for digest in workloads}
        ours = _released(reference)
        paths = [*_mixed(measured, workloads, accepted, ours), *_snp(snp), *_tdx(tdx)]
        return Audited(
            language=self.name,
            paths=tuple(paths),
            released=None if ours is None else len(ours),
            accepted=None if ours is None else len(accepted),
            limits=tuple(_limits(found, snp)),
        )


def _objects(values: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = values.get(name) or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Malformed(
            "Contrast manifest", at=f"ReferenceValues.{name}", want="objects", got=repr(found)[:80]
        )
    return found


def _released(reference: ReferenceValues | None) -> set[tuple[str, str]] | None:
    if reference is None:
        return None
    found = set()
    for row in reference.tuples:
        host = next((row[name] for name in _HOST_DATA if name in row), None)
        if "measurement" in row and host is not None:
            found.add((str(row["measurement"]), str(host)))
    return found


def _mixed(
    measured: list[str],
    workloads: list[str],
    accepted: set[tuple[str, str]],
    ours: set[tuple[str, str]] | None,
) -> Iterator[PermissivePath]:
    strangers = sorted(accepted - ours) if ours is not None else []
    if not strangers and (ours is not None or len(measured) < 2 or len(workloads) < 2):
        return
    measurement, digest = strangers[0] if strangers else (measured[0], workloads[-1])
    counted = f"released {len(ours)} · accepted {len(accepted)}: " if ours is not None else ""
    yield PermissivePath(
        code="contrast.mixed-tuples",
        where="ReferenceValues, Policies",
        what=f"{counted}every policy hash is accepted on every launch measurement",
        fix="one manifest, and one Coordinator, for each launch measurement",
        evidence={"measurement": measurement, "host_data": digest},
    )


def _snp(values: list[dict[str, Any]]) -> Iterator[PermissivePath]:
    for number, one in enumerate(values):
        where = f"ReferenceValues.snp[{number}]"
        policy: Mapping[str, Any] = one.get("GuestPolicy") or {}
        for flag in ("Debug", "MigrateMA"):
            if policy.get(flag) is True:
                yield PermissivePath(
                    code=f"contrast.{flag.lower()}",
                    where=f"{where}.GuestPolicy.{flag}",
                    what="a guest whose memory the host reads"
                    if flag == "Debug"
                    else "a guest that is moved away",
                    fix=f"{flag}: false",
                    evidence={"measurement": one.get("TrustedMeasurement"), f"policy_{flag.lower()}": True},
                )
        least = one.get("MinimumTCB") or {}
        if all(not least.get(name) for name in _TCB):
            yield PermissivePath(
                code="contrast.tcb",
                where=f"{where}.MinimumTCB",
                what="any firmware and microcode, however old",
                fix="the newest versions that the fleet has",
                evidence={"measurement": one.get("TrustedMeasurement"), "reported_tcb": 0},
            )
        if not str(one.get("TrustedMeasurement") or "").strip("0"):
            yield PermissivePath(
                code="contrast.no-measurement",
                where=f"{where}.TrustedMeasurement",
                what="a launch measurement of nothing",
                fix="the launch measurement of the release",
            )


def _tdx(values: list[dict[str, Any]]) -> Iterator[PermissivePath]:
    for number, one in enumerate(values):
        where = f"ReferenceValues.tdx[{number}]"
        attributes = str(one.get("TdAttributes") or "00")
        if int(attributes[:2] or "0", 16) & 1:
            yield PermissivePath(
                code="contrast.debug",
                where=f"{where}.TdAttributes",
                what="a trust domain that the host debugs",
                fix="TdAttributes with bit 0 clear",
                evidence={"td_attributes": attributes},
            )
        missing = [f"Rtmrs[{n}]" for n, value in enumerate(one.get("Rtmrs") or ()) if not value]
        missing += [name for name in ("MrTd", "MrSeam") if not one.get(name)]
        if missing:
            yield PermissivePath(
                code="contrast.unpinned",
                where=f"{where}: {', '.join(missing)}",
                what="an empty value is not compared",
                fix="the values of the release",
            )


def _limits(found: Mapping[str, Any], snp: list[dict[str, Any]]) -> Iterator[str]:
    yield "what the policies behind the hashes allow: a policy that allows everything has a hash, too"
    if any(not one.get("AllowedChipIDs") for one in snp):
        yield "AllowedChipIDs is empty: every chip of the product is taken"
    if found.get("SeedshareOwnerPubKeys"):
        yield "who has a seed share key can recover the secret seed, and every secret made of it"
    if found.get("WorkloadOwnerKeyDigests"):
        yield "who has a workload owner key can set another manifest"

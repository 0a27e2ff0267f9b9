"""Trustee's appraisal policy for evidence: what it affirms beyond the tuples that were released.

The policy runs in Trustee's engine. Its Reference Values are filled with every value of the released tuples, one list
for each name, as an operator would fill them; whatever is affirmed then and was not released is a permissive path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice, product
from typing import Any

from tallystick.compile.audit import rego
from tallystick.compile.audit.records import Audited, PermissivePath, ReferenceValues
from tallystick.compile.audit.rego import Compared
from tallystick.compile.targets.trustee import limits
from tallystick.compile.targets.trustee.engines import RegoError, Regorus
from tallystick.compile.targets.trustee.simulate import Denied, appraisal
from tallystick.core.errors import Malformed

_AT = datetime(2026, 1, 1, tzinfo=UTC)  # audits read no clock; a policy that does is said to
_MOST = 4_096
_SHOWN = 1
_TOP = ("init_data", "init_data_claims", "report_data", "runtime_data_claims")
_DEBUG = {
    "snp": (("policy_debug_allowed",), True),
    "az-snp-vtpm": (("policy_debug_allowed",), "true"),
    "tdx": (("td_attributes", "debug"), True),
    "az-tdx-vtpm": (("td_attributes", "debug"), True),
    "sgx": (("debug",), True),
    "sample": (("debug",), True),
}


class Audit:
    """Appraisal policies for evidence of confidential-containers/trustee."""

    name = "trustee-attestation-policy"

    def recognises(self, data: bytes, file_name: str) -> bool:
        """Say whether this is a policy that decides trust claims."""
        text = rego.text_of(data)
        return text is not None and "trust_claims" in limits.code_of(text)

    def audit(self, data: bytes, reference: ReferenceValues | None) -> Audited:
        """Return every permissive path that was found, each with evidence that is affirmed because of it."""
        text = rego.text_of(data)
        if text is None:
            raise Malformed("Trustee policy", at="package", want="package policy", got="another, or no text")
        deployed = _Deployment(text, reference)
        paths = [*_text(text), *deployed.paths()]
        return Audited(
            language=self.name,
            paths=tuple(paths),
            released=None if reference is None else len(deployed.released),
            accepted=None if reference is None else len(deployed.accepted),
            limits=(
                "which policy id it is uploaded under: only default_cpu (and _gpu, _switch, _ppcie) is evaluated",
                "the resource policy of the KBS, which decides what an affirming result opens",
                "what the RVPS really holds: values are never deleted, and their expiry is not looked at",
            ),
        )


def _text(text: str) -> Iterator[PermissivePath]:
    """What the text alone shows."""
    code = limits.code_of(text)
    if "import rego.v1" not in code:
        yield PermissivePath(
            code="trustee.no-import",
            where="head",
            what="`if` without `import rego.v1` is no condition in engines before 0.5 (Trustee before 0.17)",
            fix="begin with: package policy, import rego.v1",
        )
    for one in rego.comparisons(text):
        if one.operator in (">=", ">") and f"is_number({'.'.join(('input', *one.path))})" not in code:
            yield PermissivePath(
                code="trustee.ordering",
                where=f'{".".join(one.path)} {one.operator} query_reference_value("{one.reference}")',
                what="true when the claim is a text, and when the Reference Value is not there: "
                "a text is greater than every number, and a number than null",
                fix="ask is_number of both sides first",
                evidence={".".join(one.path): "x"},
            )


@dataclass
class _Deployment:
    """The policy with one list of values for each Reference Value name."""

    text: str
    reference: ReferenceValues | None
    released: set[tuple[Any, ...]] = field(default_factory=set)
    accepted: set[tuple[Any, ...]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._engine({})  # raises when it is no Rego
        self._compared = list(rego.comparisons(self.text))
        self._tees = sorted({one.path[0] for one in self._compared if one.path[0] not in _TOP})
        self._tees += [
            tee for tee in ("se", "tpm", "sample") if f"input.{tee}" in self.text and tee not in self._tees
        ]

    def paths(self) -> Iterator[PermissivePath]:
        """Yield the paths of every TEE that the policy speaks of."""
        for tee in self._tees:
            yield from self._tee(tee)

    def _tee(self, tee: str) -> Iterator[PermissivePath]:
        about = [one for one in self._compared if one.path[0] == tee]
        tuples = [row for row in self._tuples() if tee in self._best(row)]
        values = self._values(about, tuples)
        engine = self._engine(values)
        base = self._evidence(about, values, tuples[0] if tuples else {})
        yield from self._empty(tee, engine)
        if not self._affirms(engine, base):
            return  # good evidence is not affirmed: what is near it is not, either
        yield from self._mixed(tee, engine, about, values, tuples)
        yield from self._near(tee, engine, base, about, tuples)
        if tee == "sample":
            yield _path(
                "trustee.sample", tee, "evidence of no hardware is affirmed", "leave input.sample out", base
            )
        if any(one.reference for one in about) and self._affirms(self._engine({}), base):
            what = "affirmed while the RVPS is empty"
            yield _path("trustee.no-reference-values", tee, what, "compare with values that are there", base)

    def _mixed(
        self,
        tee: str,
        engine: Regorus,
        about: list[Compared],
        values: Mapping[str, Any],
        tuples: list[Mapping[str, Any]],
    ) -> Iterator[PermissivePath]:
        """Every combination of released values of the claims that the policy compares."""
        columns = sorted(
            {self._name(one) for one in about if one.reference} & {n for row in tuples for n in row}
        )
        if not columns:
            return
        ours = {tuple(row.get(name) for name in columns) for row in tuples}
        self.released |= ours
        lists = [sorted({row[name] for row in tuples if name in row}, key=repr) for name in columns]
        mixed = []
        for combination in islice(product(*lists), _MOST):
            evidence = self._evidence(about, values, dict(zip(columns, combination, strict=True)))
            if self._affirms(engine, evidence):
                self.accepted.add(combination)
                if combination not in ours:
                    mixed.append(evidence)
        if mixed:
            what = f"released {len(ours)} · accepted {len(ours) + len(mixed)}: values of several releases are affirmed"
            fix = "compare whole tuples: one Reference Value that lists objects, and one rule that compares all members"
            yield _path("trustee.mixed-tuples", f"{tee}: {', '.join(columns)}", what, fix, mixed[0])

    def _near(
        self,
        tee: str,
        engine: Regorus,
        base: dict[str, Any],
        about: list[Compared],
        tuples: list[Mapping[str, Any]],
    ) -> Iterator[PermissivePath]:
        """Good evidence with debug on, another workload, or without what a release pins."""
        if tee in _DEBUG:
            path, on = _DEBUG[tee]
            debug = _with(base, (tee, *path), on)
            if self._affirms(engine, debug):
                yield _path(
                    "trustee.debug", tee, "debug is not looked at", f"{'.'.join(path)} == false", debug
                )
        other = {**base, "init_data": "ff" * 32}
        if self._affirms(engine, other):
            what = "init_data is not looked at: any workload, and any agent policy, on the same image"
            yield _path("trustee.init-data", tee, what, "compare input.init_data with the tuple's", other)
        names = sorted({name for row in tuples for name in row} - {self._name(one) for one in about})
        for name in names:
            changed = _with(base, (tee, *name.split(".")), "ff" * 48)
            if name not in _TOP and self._affirms(engine, changed):
                what = f"{name} is released and never compared"
                yield _path("trustee.unpinned", f"{tee}: {name}", what, f"compare {name} as well", changed)

    def _empty(self, tee: str, engine: Regorus) -> Iterator[PermissivePath]:
        """Evidence that is there, and says nothing that could be wrong."""
        evidence = _evidence({tee: {"surprise": True}})
        if self._affirms(engine, evidence):
            what = "affirmed because the evidence exists, whatever it says"
            yield _path(
                "trustee.existence", tee, what, "compare its measurements, or leave this TEE out", evidence
            )

    def _tuples(self) -> list[Mapping[str, Any]]:
        return list(self.reference.tuples) if self.reference else []

    def _best(self, row: Mapping[str, Any]) -> list[str]:
        """Return the TEEs of which the policy compares most claims of a tuple: the tuple is of one of these."""
        counts = {
            tee: len({self._name(one) for one in self._compared if one.path[0] == tee} & set(row))
            for tee in self._tees
        }
        most = max(counts.values(), default=0)
        return [tee for tee, count in counts.items() if count == most and count]

    def _name(self, one: Compared) -> str:
        return ".".join(one.path[1:])

    def _values(self, about: list[Compared], tuples: list[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the Reference Values: a list of every released value, or one made-up value."""
        found: dict[str, Any] = {}
        for one in about:
            if one.reference:
                listed = sorted({row[self._name(one)] for row in tuples if self._name(one) in row}, key=repr)
                made_up: list[Any] = [8] if one.operator in (">=", ">", "<=", "<") else ["made-up"]
                found[one.reference] = (listed or made_up) if one.operator == "in" else (listed or made_up)[0]
        return found

    def _evidence(
        self, about: list[Compared], values: Mapping[str, Any], claims: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return evidence that meets every comparison, with ``claims`` where the policy compares them."""
        found = _evidence({about[0].path[0]: {"surprise": True}} if about else {})
        for one in about:
            if one.reference:
                held = values[one.reference]
                value = held[0] if isinstance(held, list) else held
            else:
                value = one.literal
            found = _with(found, one.path, claims.get(self._name(one), value))
        return found

    def _engine(self, values: Mapping[str, Any]) -> Regorus:
        try:
            return Regorus(self.text, values, _AT)
        except RegoError as error:
            raise Malformed(
                "Trustee policy", at="Rego", want="a policy that regorus takes", got=str(error)
            ) from None

    def _affirms(self, engine: Regorus, evidence: Mapping[str, Any]) -> bool:
        try:
            return bool(appraisal(engine, evidence)["ear.status"] == "affirming")
        except Denied:
            return False


def _evidence(claims: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **claims,
        "init_data": "00" * 32,
        "init_data_claims": {},
        "report_data": "00" * 32,
        "runtime_data_claims": {"nonce": "bm9uY2U="},
    }


def _with(evidence: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return evidence with one claim set; what is no object on the way is replaced by one."""
    name, *rest = path
    if not rest:
        return {**evidence, name: value}
    inner = evidence.get(name)
    return {**evidence, name: _with(inner if isinstance(inner, Mapping) else {}, tuple(rest), value)}


def _path(code: str, where: str, what: str, fix: str, evidence: Mapping[str, Any]) -> PermissivePath:
    return PermissivePath(code=code, where=where, what=what, fix=fix, evidence=evidence)

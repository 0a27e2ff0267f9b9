"""One deployment, evaluated: the policies loaded in the engine that Trustee uses, evidence to an EAR, the EAR to a key.

What comes out wrong is remembered; :meth:`Judge.finish` raises with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from tallystick.compile.domain import MOST_DEVIATIONS, Case, Oracle, cases, released
from tallystick.compile.errors import Unproven
from tallystick.compile.targets.common import view
from tallystick.compile.targets.trustee import codec, emit, simulate, tried
from tallystick.compile.targets.trustee.choice import TrusteeTarget
from tallystick.compile.targets.trustee.engines import Engine, RegoError, Regorus
from tallystick.compile.targets.trustee.simulate import Denied, allows, appraisal, resource, tcb_claims
from tallystick.core.findings import Finding
from tallystick.formats.ear import Tier
from tallystick.policy.constraints import told
from tallystick.policy.normal import NormalForm

MOST_FINDINGS = 1_000  # after these a proof gives up


class Judge:
    """The policies, what the RVPS holds, and the form that they were made from.

    Args:
        others: forms that the same deployment serves beside ``form``: their keys are asked for in proofs of their own.
    """

    def __init__(
        self,
        texts: Mapping[str, str],
        values: Mapping[str, Any],
        form: NormalForm,
        choice: TrusteeTarget,
        now: datetime,
        others: Sequence[NormalForm] = (),
    ) -> None:
        self.others = others
        self._elsewhere = [(view.end(one, emit.NAME), Oracle(told(one, emit.NAME))) for one in others]
        self.texts, self.values, self.form, self.choice = texts, values, form, choice
        self.end = view.end(form, emit.NAME)
        self.now = min(now, self.end - timedelta(hours=1))
        self.keys = [rule.key for rule in form.keys]
        self.told = told(form, emit.NAME)
        self.oracle = Oracle(self.told)
        self.accepted: set[Any] = set()
        self.evaluated = 0
        self.wrong: list[Finding] = []
        self.token_seconds = form.max_age_seconds - choice.session_minutes * 60
        self._loaded: dict[tuple[str, datetime], Engine] = {}

    def part(self, form: NormalForm) -> Judge:
        """Return a judge of a part of the releases, with the same policies loaded."""
        found = Judge(self.texts, self.values, form, self.choice, self.now, self.others)
        found._loaded = self._loaded
        return found

    @contextmanager
    def reading(self, texts: Mapping[str, str]) -> Iterator[None]:
        """Evaluate other texts for a while."""
        before = self.texts, self._loaded
        self.texts, self._loaded = texts, {}
        try:
            yield
        finally:
            self.texts, self._loaded = before

    @contextmanager
    def holding(self, values: Mapping[str, Any]) -> Iterator[None]:
        """Let the RVPS hold ``values`` for a while. The policies stay loaded, which takes longer than evaluating."""
        engine = self.engine(emit.AS_POLICY)
        assert isinstance(engine, Regorus)  # noqa: S101 (for the type checker)
        engine.values, before = values, engine.values
        try:
            yield
        finally:
            engine.values = before

    def finish(self) -> None:
        """Raise with the first thing that came out wrong.

        Raises:
            Unproven: there is one.
        """
        if self.wrong:
            wrong = sorted(self.wrong, key=lambda finding: finding.code != "prove.admits")
            count = f"trustee: released {self.oracle.released} · accepted {len(self.accepted)}"
            raise Unproven(f"{count}: {wrong[0].where}", findings=wrong[:10])

    def note(self, where: str, want: str, got: str, code: str, evidence: object = None) -> None:
        """Remember one thing that came out wrong."""
        note = "" if evidence is None else f"evidence: {json.dumps(evidence, default=str)}"
        self.wrong.append(Finding(code, where, want=want, got=got, note=note))
        if len(self.wrong) >= MOST_FINDINGS:
            self.finish()

    def attempt(
        self,
        case: Case,
        key: str,
        *more: str,
        engine: Engine | None = None,
        at: datetime | None = None,
        age: float = 0,
        right: bool | None = True,
    ) -> None:
        """From evidence to keys. ``right`` False: no key; True: as released; None: at most as released."""
        tee = codec.tee(self.choice.version, case.kind)
        if tee is not None:
            if not codec.possible(tee, case.claims):
                return
            case = replace(case, claims=codec.completed(tee, case.claims))
        now = at or self.now
        permitted = {str(digest) for digest in self.oracle.permits(case)} if self.signs(case) else set()
        if now > self.end:
            permitted = set()
        if right is True and not self._spelled(case):
            right = None
        proved = bool(permitted) or self._served_elsewhere(case, now)
        claims, named, evidence = self._asked(case, engine, now, age, proved=proved)
        if engine is not None and named - permitted:  # whatever the resource policy makes of it
            want = ", ".join(sorted(permitted)) or "no release"
            self.note(case.what, want, ", ".join(sorted(named)), "prove.release", evidence)
        for wanted in (key, *more):
            self.evaluated += 1
            expected = bool(permitted) and right is not False and wanted in self.keys
            judge = self.engine(emit.RESOURCE_POLICY, at=now)
            allowed = claims is not None and allows(judge, claims, resource(wanted))
            if allowed and engine is None and right is True:
                self.accepted.add(self.oracle.point(case))
            if allowed and not expected:
                self.note(case.what, "no key", f"the key {wanted}", "prove.admits", evidence)
            elif expected and not allowed and right is True:
                self.note(case.what, f"the key {wanted}", "no key", "prove.refuses", evidence)
            elif allowed and named - permitted:
                self.note(case.what, ", ".join(sorted(permitted)), ", ".join(sorted(named)), "prove.release")

    def _asked(
        self, case: Case, engine: Engine | None, now: datetime, age: float, *, proved: bool
    ) -> tuple[dict[str, Any] | None, set[str], dict[str, Any]]:
        """Return the token, the releases that it names, and the evidence; no token when the service fails."""
        evidence: dict[str, Any] = {}
        try:
            evidence = tcb_claims(case, self.choice.version)
            submod = appraisal(engine or self.engine(emit.AS_POLICY, at=now), evidence)
            others = self.devices(case, now)
        except Denied:
            return None, set(), evidence
        claims = simulate.token(submod, now - timedelta(seconds=age), others)
        self._vector(case, submod, proved=proved or bool(case.devices))
        return claims, self._named(submod), {**evidence, **({"devices": others} if others else {})}

    def devices(self, case: Case, at: datetime | None = None) -> dict[str, dict[str, Any]]:
        """Return the submods of the devices in ``case``; raises Denied as the service does."""
        ours = self.engine(emit.GPU_POLICY, at=at) if emit.GPU_POLICY in self.texts else None
        return simulate.devices(ours, case.devices, self.choice.version)

    def token(self, case: Case) -> dict[str, Any] | None:
        """Return the token that good evidence gets; None when the service fails."""
        submod = tried.answer(self.engine(emit.AS_POLICY), case, self.choice.version)
        return None if submod is None else simulate.token(submod, self.now, self.devices(case))

    def refuse(self, what: str, claims: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """Ask for a key that must not be given."""
        self.evaluated += 1
        if allows(self.engine(emit.RESOURCE_POLICY), claims, data):
            self.note(what, "no key", "a key", "prove.admits", {"token": claims, "request": data})

    def own(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the Reference Values that are not those of another policy."""
        others = tuple(emit.reference_name(one, "") for one in self.others)
        return {name: held for name, held in values.items() if not name.startswith(others)}

    def _named(self, submod: Mapping[str, Any]) -> set[str]:
        """Return the releases that matched, but for those of other policies."""
        return tried.named(submod, without={one.policy for one in self.others})

    def _served_elsewhere(self, case: Case, now: datetime) -> bool:
        return any(now <= end and oracle.permits(case) for end, oracle in self._elsewhere) and self.signs(
            case
        )

    def _spelled(self, case: Case) -> bool:
        shown = ((case.kind, case.claims), *((device.kind, device.claims) for device in case.devices))
        tees = ((codec.tee(self.choice.version, kind), claims) for kind, claims in shown)
        return all(tee is None or codec.spelled(tee, claims) for tee, claims in tees)

    def _vector(self, case: Case, submod: Mapping[str, Any], *, proved: bool) -> None:
        """Nothing is affirmed of executables that were not matched."""
        for name, value in submod["ear.trustworthiness-vector"].items():
            if not proved and name != "instance-identity" and Tier.of(value) is Tier.AFFIRMING:
                self.note(f"{case.what}: {name}", "not affirmed", str(value), "prove.affirms")

    # --- what is tried

    def cases(
        self, literals: list[str], suspects: Iterator[Case], budget: int = MOST_DEVIATIONS
    ) -> Iterator[Case]:
        """The domain; evidence of a TPM is signed by a listed key where keys are listed, and by others too."""
        yield from self.signed(cases(self.told, literals, suspects, budget))
        if self.choice.attestation_keys:
            for case in released(self.told):
                if case.kind == "tpm-quote":
                    for key in ("", "QUJD", None, 1, list(self.choice.attestation_keys)):
                        claims = {**case.claims, "ak_public": key}
                        yield Case(case.kind, f"{case.what} signed by {key!r:.40}", claims, case.devices)

    def signed(self, found: Iterable[Case]) -> Iterator[Case]:
        """Yield ``found``, with a listed key where keys are listed."""
        keys = self.choice.attestation_keys
        for case in found:
            if keys and "ak_public" not in case.claims and case.kind == "tpm-quote" and case.claims:
                yield Case(case.kind, case.what, {**case.claims, "ak_public": keys[0]}, case.devices)
            else:
                yield case

    def signs(self, case: Case) -> bool:
        """Say whether a listed key signed ``case``, where keys are listed and a key signs at all."""
        keys = self.choice.attestation_keys
        return not keys or case.kind != "tpm-quote" or case.claims.get("ak_public") in keys

    def engine(self, name: str, at: datetime | None = None) -> Engine:
        """Return the policy ``name`` loaded, with the clock at ``at``."""
        key = (name, at or self.now)
        if key not in self._loaded:
            self._loaded[key] = self.load(name, self.values, at or self.now)
        return self._loaded[key]

    def load(self, name: str, values: Mapping[str, Any], at: datetime) -> Engine:
        """Return the policy ``name`` in Trustee's engine, with ``values`` in the RVPS.

        Raises:
            Unproven: the engine does not take it.
        """
        try:
            return Regorus(self.texts[name], values, at)
        except RegoError as error:
            finding = Finding("prove.unreadable", name, want="a policy that regorus takes", got=str(error))
            raise Unproven(finding.message, findings=[finding]) from None

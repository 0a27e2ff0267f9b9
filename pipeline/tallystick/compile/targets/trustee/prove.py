"""The proof of a Trustee policy: the emitted bytes in the engine that Trustee uses, on the whole domain.

Both policies are evaluated as the two services do it: evidence to an EAR, the EAR to a key or none. Then what
surrounds them is varied: Reference Values that are missing, older, or broken; tokens that are old, partial, or of
other devices; other resources; other times.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from tallystick.compile.domain import MOST_DEVIATIONS, Case, Oracle, cases, released
from tallystick.compile.errors import Unproven
from tallystick.compile.targets.base import Proof
from tallystick.compile.targets.trustee import emit, limits, reading, tried
from tallystick.compile.targets.trustee.choice import TrusteeTarget
from tallystick.compile.targets.trustee.engines import Engine, RegoError, Regorus, second_opinion
from tallystick.compile.targets.trustee.simulate import (
    Denied,
    allows,
    appraisal,
    resource,
    tcb_claims,
    token,
)
from tallystick.compile.targets.trustee.varied import degraded, other_requests, other_tokens
from tallystick.core.expect import Waived
from tallystick.core.findings import Finding
from tallystick.formats.ear import Tier
from tallystick.policy.constraints import told
from tallystick.policy.normal import NormalForm

_WINDOW = 8  # tuples that are tried together when there are many
_SAMPLE = 400  # pieces of evidence that are tried against all of them at once
_SECOND_OPINIONS = 40  # pieces of evidence that the slower engine looks at, too
_SEED = 20_260_801
MOST_FINDINGS = 1_000  # after these a proof gives up


def prove(files: Mapping[str, bytes], form: NormalForm, choice: TrusteeTarget, now: datetime) -> Proof:
    """Return what was shown of ``files``; raises :class:`Unproven` when it is not what was released."""
    texts, values = reading.read(files)
    run = _Run(texts, values, form, choice, now)
    run.evidence()
    run.reference_values()
    run.tokens()
    run.times()
    engines = [Regorus.name]
    run.finish()
    other = second_opinion()
    if other is not None:  # only now: what is wrong already may keep it busy for hours
        run.second_opinion(other)
        engines.append(other.name)
        run.finish()
    reading.check_text(files, form, choice)
    return Proof(
        target=emit.NAME,
        released=run.oracle.released,
        accepted=len(run.accepted),
        evaluated=run.evaluated,
        engines=tuple(engines),
    )


class _Run:
    """Both policies loaded, and everything that was found about them."""

    def __init__(
        self,
        texts: Mapping[str, str],
        values: Mapping[str, Any],
        form: NormalForm,
        choice: TrusteeTarget,
        now: datetime,
    ) -> None:
        self._texts, self._values, self._form, self._choice = texts, values, form, choice
        waived = [r for r in form.residuals if r.target == emit.NAME]
        ends = [r.waived.until for r in waived if isinstance(r.waived, Waived)]
        self._end = min([form.not_after, *ends])
        self._now = min(now, self._end - timedelta(hours=1))
        self._skip = {r.requirement for r in waived}
        self._keys = [rule.key for rule in form.keys]
        self._loaded: dict[tuple[str, str, datetime], Engine] = {}
        self.oracle = Oracle(told(form, emit.NAME))
        self.accepted: set[Any] = set()
        self.evaluated = 0
        self._wrong: list[Finding] = []

    # --- the parts of the proof

    def evidence(self) -> None:
        """Every case of the domain, from evidence to key."""
        literals = [s for text in self._texts.values() for s in limits.strings_of(text)]
        literals += tried.strings(self._values)
        rows = sum(len(held) for held in self._values.values() if isinstance(held, list))
        windows = -(-rows // _WINDOW) if rows > 2 * _WINDOW else 1
        first = sum(len(release.tuples) for release in self._form.releases)
        budget = MOST_DEVIATIONS if windows == 1 else _WINDOW
        found = self._cases(
            tried.claimlike(literals) if windows == 1 else [], tried.suspects(self._values), budget
        )
        for number, case in enumerate(islice(found, None if windows == 1 else first + rows + _SAMPLE)):
            for key in self._keys if number < first else self._keys[:1]:
                self._try(case, key)
        for case in self._signed(islice(released(self._form), _WINDOW)):
            for key in self._other_keys(literals):
                self._try(case, key, right=False)
        for values in tried.windows(self._values, _WINDOW) if windows > 1 else ():
            self._window(values, tried.claimlike(literals), MOST_DEVIATIONS // windows)

    def _window(self, values: dict[str, Any], literals: list[str], budget: int) -> None:
        """The whole domain of a few tuples, with these alone in the RVPS: evaluation is linear in them.

        The policy asks each tuple the same questions, and the complete set is tried as well, in a sample.
        """
        held = {json.dumps(tried.claims_of(row), sort_keys=True) for rows in values.values() for row in rows}
        releases = tuple(
            replace(release, tuples=tuple(t for t in release.tuples if tried.row_of(t) in held))
            for release in self._form.releases
        )
        form = replace(self._form, releases=releases)
        part = _Run(self._texts, values, form, self._choice, self._now)
        for case in part._cases(literals, tried.suspects(values), budget):
            part._try(case, self._keys[0])
        self.evaluated += part.evaluated
        self._wrong += part._wrong

    def reference_values(self) -> None:
        """The RVPS is filled apart from the policy, so nothing it could hold may widen what is accepted."""
        good = next(iter(self._signed(released(self._form))), None)
        for what, values, path in degraded(self._values, self._foreign()):
            engine = self._load(emit.AS_POLICY, values, self._now)
            for case in self._near(good, path):
                case = Case(case.kind, f"{case.what}, with {what}", case.claims)
                self._try(case, self._keys[0], engine=engine, right=None)
                if not values and tried.answer(engine, case) is None:
                    self._note(case.what, "an answer", "the service fails", "prove.fails")
        self._rows()

    def _foreign(self) -> list[str]:
        """Release digests that stand in a policy and were not released."""
        ours = {str(release.digest) for release in self._form.releases}
        code = [limits.strings_of(limits.without_comments(text)) for text in self._texts.values()]
        found = {text for texts in code for text in texts if text.startswith("sha256:")}
        return sorted(found - ours)

    def _rows(self) -> None:
        """What the RVPS will hold is the released tuples, each once, and nothing beside them."""
        held = sorted(
            json.dumps(v, sort_keys=True) for rows in self._values.values() for v in tried.listed(rows)
        )
        ours = [
            {"release": str(release.digest), **tried.pinned(entry)}
            for release in self._form.releases
            for entry in release.tuples
        ]
        right = sorted(json.dumps(row, sort_keys=True) for row in ours)
        if held != right:
            extra = [row for row in held if row not in right] or ["fewer"]
            self._note("RVPS messages", f"{len(right)} tuples", extra[0][:200], "prove.reference-values")

    def tokens(self) -> None:
        """An attestation token of accepted evidence, with one thing changed."""
        for case in self._signed(released(self._form)):
            try:
                submod = appraisal(self._engine(emit.AS_POLICY), tcb_claims(case))
            except Denied:
                continue
            claims = token(submod, self._now)
            for digest in self._foreign():
                named = {**submod, "ear.tallystick.releases": [digest]}
                what = f"{case.what}, token that names {digest}"
                self._judge(what, token(named, self._now), resource(self._keys[0]), right=False)
            for what, changed in other_tokens(claims, self._now, self._token_seconds()):
                self._judge(f"{case.what}, token with {what}", changed, resource(self._keys[0]), right=False)
            for what, data in other_requests(resource(self._keys[0])):
                self._judge(f"{case.what}, request with {what}", claims, data, right=False)
            return

    def times(self) -> None:
        """The policy's end, and the token's age."""
        for case in self._signed(released(self._form)):
            for late, right in ((0, True), (1, False)):
                at = self._end + timedelta(seconds=late)
                self._try(case, self._keys[0], at=at, right=right)
            self._after(case)
            for age, right in ((0, True), (self._token_seconds(), True), (self._token_seconds() + 1, False)):
                self._try(case, self._keys[0], age=age, right=right)
            self._try(case, self._keys[0], age=-1, right=False)
            self._clock()
            return

    def second_opinion(self, other: Callable[[str, Mapping[str, Any], datetime], Engine]) -> None:
        """The other engine gives the same answers on the released tuples and a sample of the rest."""
        everything = list(self._cases([], iter(()), _SAMPLE))
        first = sum(len(release.tuples) for release in self._form.releases)
        chosen = random.Random(_SEED)  # noqa: S311 (which evidence to look at twice)
        rest = everything[first:]
        sample = everything[: min(first, 20)] + chosen.sample(rest, min(len(rest), _SECOND_OPINIONS))
        ours = self._engine(emit.AS_POLICY)
        try:
            theirs = other(self._texts[emit.AS_POLICY], self._values, self._now)
            judge = other(self._texts[emit.RESOURCE_POLICY], {}, self._now)
        except RegoError as error:
            self._note("second engine", "the policy loads", str(error), "prove.engines")
            return
        for case in sample:
            one, two = tried.answer(ours, case), tried.answer(theirs, case)
            if one != two:
                self._note(case.what, json.dumps(one), json.dumps(two), "prove.engines")
            if one is not None:
                claims, data = token(one, self._now), resource(self._keys[0])
                first_says = allows(self._engine(emit.RESOURCE_POLICY), claims, data)
                if first_says != allows(judge, claims, data):
                    self._note(case.what, str(first_says), str(not first_says), "prove.engines")

    def finish(self) -> None:
        """Raise with the first thing that came out wrong.

        Raises:
            Unproven: there is one.
        """
        if self._wrong:
            wrong = sorted(self._wrong, key=lambda finding: finding.code != "prove.admits")
            count = f"trustee: released {self.oracle.released} · accepted {len(self.accepted)}"
            raise Unproven(f"{count}: {wrong[0].where}", findings=wrong[:10])

    # --- one evaluation

    def _try(
        self,
        case: Case,
        key: str,
        *,
        engine: Engine | None = None,
        at: datetime | None = None,
        age: float = 0,
        right: bool | None = True,
    ) -> None:
        """From evidence to key. ``right`` False: no key; True: as released; None: at most as released."""
        now = at or self._now
        permitted = {str(digest) for digest in self.oracle.permits(case)} if self._signs(case) else set()
        if now > self._end:
            permitted = set()
        expected = bool(permitted) and right is not False and key in self._keys
        self.evaluated += 1
        evidence = tcb_claims(case)
        try:
            submod = appraisal(engine or self._engine(emit.AS_POLICY, at=now), evidence)
        except Denied:
            allowed, named = False, set()
        else:
            claims = token(submod, now - timedelta(seconds=age))
            allowed = allows(self._engine(emit.RESOURCE_POLICY, at=now), claims, resource(key))
            named = tried.named(submod)
            self._vector(case, submod, proved=bool(permitted))
        if allowed and engine is None and right is True:
            self.accepted.add(self.oracle.point(case))
        if allowed and not expected:
            self._note(case.what, "no key", f"the key {key}", "prove.admits", evidence)
        elif expected and not allowed and right is True:
            self._note(case.what, f"the key {key}", "no key", "prove.refuses", evidence)
        elif named - permitted:
            self._note(case.what, ", ".join(sorted(permitted)), ", ".join(sorted(named)), "prove.release")

    def _judge(self, what: str, claims: Mapping[str, Any], data: Mapping[str, Any], *, right: bool) -> None:
        self.evaluated += 1
        if allows(self._engine(emit.RESOURCE_POLICY), claims, data) and not right:
            self._note(what, "no key", "a key", "prove.admits", {"token": claims, "request": data})

    def _vector(self, case: Case, submod: Mapping[str, Any], *, proved: bool) -> None:
        """Nothing is affirmed of executables that were not matched."""
        for name, value in submod["ear.trustworthiness-vector"].items():
            if not proved and name != "instance-identity" and Tier.of(value) is Tier.AFFIRMING:
                self._note(f"{case.what}: {name}", "not affirmed", str(value), "prove.affirms")

    def _after(self, case: Case) -> None:
        """A token of the last moment is worth nothing in the next."""
        submod = tried.answer(self._engine(emit.AS_POLICY, at=self._end), case)
        if submod is None:
            return
        claims, later = token(submod, self._end), self._end + timedelta(seconds=1)
        if allows(self._engine(emit.RESOURCE_POLICY, at=later), claims, resource(self._keys[0])):
            self._note(f"{case.what}, after the policy's end", "no key", "a key", "prove.admits", claims)

    def _clock(self) -> None:
        """The rule that the second engine's clock replaces is the engine's own clock."""
        for name in self._texts:
            got = self._engine(name).evaluate("now_ns", {}, {})
            want = int(self._now.timestamp() * 1_000_000_000)
            if got != want:
                self._note(f"{name}: now_ns", str(want), str(got), "prove.clock")

    def _note(self, where: str, want: str, got: str, code: str, evidence: object = None) -> None:
        note = "" if evidence is None else f"evidence: {json.dumps(evidence, default=str)}"
        self._wrong.append(Finding(code, where, want=want, got=got, note=note))
        if len(self._wrong) >= MOST_FINDINGS:
            self.finish()

    # --- what is tried

    def _cases(
        self, literals: list[str], suspects: Iterator[Case], budget: int = MOST_DEVIATIONS
    ) -> Iterator[Case]:
        """The domain; evidence of a TPM is signed by a listed key where keys are listed, and by others too."""
        yield from self._signed(cases(self._form, literals, suspects, budget))
        if self._choice.attestation_keys:
            for case in released(self._form):
                for key in ("", "QUJD", None, 1, list(self._choice.attestation_keys)):
                    claims = {**case.claims, "ak_public": key}
                    yield Case(case.kind, f"{case.what} signed by {key!r:.40}", claims)

    def _signed(self, found: Iterable[Case]) -> Iterator[Case]:
        keys = self._choice.attestation_keys
        for case in found:
            if keys and "ak_public" not in case.claims and case.kind == "tpm-quote" and case.claims:
                yield Case(case.kind, case.what, {**case.claims, "ak_public": keys[0]})
            else:
                yield case

    def _signs(self, case: Case) -> bool:
        keys = self._choice.attestation_keys
        return not keys or case.claims.get("ak_public") in keys

    def _near(self, good: Case | None, path: str) -> Iterator[Case]:
        """A released tuple, one with the claim at ``path`` missing or null, and one that says nothing."""
        if good is None:
            return
        yield good
        for value in (None, 0, "") if path else ():
            yield Case(good.kind, f"{good.what} with {path} {value!r}", {**good.claims, path: value})
        rest = {name: value for name, value in good.claims.items() if name != path}
        yield Case(good.kind, f"{good.what} without {path or 'more'}", rest)
        kept = {name: value for name, value in good.claims.items() if name == "ak_public"}
        yield Case(good.kind, "evidence without claims", kept)
        yield Case(good.kind, "every claim null", dict.fromkeys(good.claims) | kept)

    def _other_keys(self, literals: list[str]) -> list[str]:
        close = [f"{self._keys[0]}/more", self._keys[0].rsplit("/", 1)[0], "no/such/key", "", "a/b/c"]
        named = [text for text in literals if text.count("/") == 2]
        return [key for key in (*close, *named) if key not in self._keys]

    def _token_seconds(self) -> int:
        return self._form.max_age_seconds - self._choice.session_minutes * 60

    def _engine(self, name: str, at: datetime | None = None) -> Engine:
        key = (name, "", at or self._now)
        if key not in self._loaded:
            self._loaded[key] = self._load(name, self._values, at or self._now)
        return self._loaded[key]

    def _load(self, name: str, values: Mapping[str, Any], at: datetime) -> Engine:
        try:
            return Regorus(self._texts[name], values, at)
        except RegoError as error:
            finding = Finding("prove.unreadable", name, want="a policy that regorus takes", got=str(error))
            raise Unproven(finding.message, findings=[finding]) from None

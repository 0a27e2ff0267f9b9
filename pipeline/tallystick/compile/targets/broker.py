"""The target ``broker``: our own broker reads the normal form itself, so nothing is lost on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tallystick.appraisal.appraise import allows, appraise
from tallystick.appraisal.index import prepare
from tallystick.appraisal.records import Challenge
from tallystick.compile.domain import Case, Oracle, cases, nested, released
from tallystick.compile.errors import Unproven
from tallystick.compile.targets.base import Emitted, Lack, Proof
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.core.expect import Exactly
from tallystick.core.findings import Finding
from tallystick.evidence.claims import Claims
from tallystick.formats.yamldoc import Fields
from tallystick.policy import document
from tallystick.policy.constraints import told, unplaced
from tallystick.policy.model import Target, Waiver
from tallystick.policy.normal import NormalForm

FILE = "policy.json"
MOST_FINDINGS = 1_000  # after these a proof gives up
_WHOLE = 50  # one decision in so many is made with all its reasons, which take long
_MANY = 200  # tuples; of more, one in so many is tried for every key, and fewer decisions are made whole
_EVERY = 12
_REPORT_DATA = bytes(range(1, 33))
_DEVICE_DATA = bytes(range(2, 34))


class BrokerTarget:
    """Our own broker."""

    name = "broker"
    schema: Mapping[str, Any] = {"properties": {}, "required": []}

    def choice(self, fields: Fields, waivers: tuple[Waiver, ...]) -> Target:
        """Return the entry, which has no fields of its own."""
        return Target(name=self.name, place=fields.place, waivers=waivers)

    def lacks(self, form: NormalForm, choice: Target) -> Iterator[Lack]:
        """Yield what no evidence says: the broker evaluates every claim there is, and nothing else."""
        for rule in form.platforms:
            for name in unplaced(rule):
                why = f"evidence of {rule.platform} does not say it, or nobody strong enough signs it"
                yield Lack(requirement=name, why=why)

    def emit(self, form: NormalForm, choice: Target) -> Emitted:
        """Return the normal form's one document."""
        return Emitted(
            target=self.name,
            files={FILE: document.write(form)},
            max_age_seconds=form.max_age_seconds,
            not_after=form.not_after,
            assumes=(),
        )

    def prove(self, files: Mapping[str, bytes], form: NormalForm, choice: Target, now: datetime) -> Proof:
        """Read the document back, and let the broker's own evaluator decide on the whole domain."""
        emitted = _read(files)
        prover = _Prover(emitted, Digest.of(files[FILE]), form, now)
        prover.claims()
        prover.surroundings()
        prover.finish()
        if emitted != form:
            findings = tuple(_differences(emitted, form))
            raise Unproven("the document is not the normal form of the verified channel", findings=findings)
        return prover.proof(self.name)


def _read(files: Mapping[str, bytes]) -> NormalForm:
    if sorted(files) != [FILE]:
        finding = Finding("prove.files", "broker", want=FILE, got=", ".join(sorted(files)) or "nothing")
        raise Unproven(finding.message, findings=[finding])
    try:
        return document.read(files[FILE])
    except (Malformed, Unsupported) as error:
        finding = Finding("prove.unreadable", FILE, want="a compiled policy", got=error.message)
        raise Unproven(f"{FILE} is no compiled policy: {error.message}", findings=[finding]) from None


BACKEND = BrokerTarget()


class _Prover:
    """Evaluates one document and remembers what went wrong first."""

    def __init__(self, emitted: NormalForm, written: Digest, form: NormalForm, now: datetime) -> None:
        self._emitted, self._form = prepare(emitted, written), form
        self._form_prepared = prepare(form, written)
        self._oracle = Oracle(told(form, "broker"))
        self._now = min(now, form.not_after)
        self._keys = sorted({rule.key for rule in (*form.keys, *emitted.keys)} | {"no/such/key"})
        self._right_keys = {rule.key for rule in form.keys}
        self._accepted: set[Any] = set()
        self._whole = _WHOLE if self._oracle.released <= _MANY else _WHOLE * _EVERY
        self._evaluated = 0
        self._wrong: list[Finding] = []

    def claims(self) -> None:
        """Try every case of the domain for one key, and every released tuple for all of them."""
        key = self._form.keys[0].key
        first = sum(len(release.tuples) for release in self._form.releases)
        suspects = released(self._emitted.form)
        for number, case in enumerate(cases(self._form, _values(self._emitted.form), suspects)):
            whole = number < first and (first <= _MANY or number % _EVERY == 0)
            for one in self._keys if whole else (key,):
                self._try(case, _claims(case, self._form, self._now), key=one)

    def surroundings(self) -> None:
        """Try each platform's first tuple at other times, under other roots and for other challenges."""
        seen: set[str] = set()
        for case in released(self._form):
            if case.kind not in seen:
                seen.add(case.kind)
                self._around(case)

    def _around(self, case: Case) -> None:
        good = _claims(case, self._form, self._now)
        both = (self._form, self._emitted.form)
        roots = {root for form in both for rule in form.platforms for root in rule.roots}
        for labels in ((), ("unknown",), *((root,) for root in sorted(roots)), tuple(sorted(roots))):
            self._try(case, replace(good, roots=labels), same=True)
            self._try(case, replace(good, roots=(*labels, "unknown")), same=True)
        for form in both:
            for age in (0, form.max_age_seconds, form.max_age_seconds + 1, -1):
                self._try(case, good, age=age, same=True)
            for late in (0, 1):
                at = form.not_after + timedelta(seconds=late)
                self._try(case, replace(good, valid_until=at), at=at, same=True)
        for data in (b"", bytes(32), _REPORT_DATA[:-1], _REPORT_DATA + b"\0"):
            self._try(case, replace(good, report_data=data), same=True)
        for number, device in enumerate(good.devices):
            for other in _other_devices(device, self._now):
                devices = (*good.devices[:number], other, *good.devices[number + 1 :])
                self._try(case, replace(good, devices=devices), same=True)
        for change in ({"valid_until": self._now - timedelta(seconds=1)}, {"valid_from": None}):
            self._try(case, replace(good, **change), same=True)

    def _try(
        self,
        case: Case,
        claims: Claims,
        *,
        key: str = "",
        age: float = 0,
        at: datetime | None = None,
        same: bool = False,
    ) -> None:
        """Decide once. ``same`` compares with the form's own answer, else the oracle knows what is right."""
        now = at or self._now
        challenge = Challenge(
            report_data=_REPORT_DATA, issued_at=now - timedelta(seconds=age), device_report_data=_DEVICE_DATA
        )
        key = key or self._form.keys[0].key
        got = self._answer(claims, key, challenge, now)
        self._evaluated += 1
        if same:
            release = allows(claims, self._form_prepared, key, challenge, now)
            expected = release is not None
        else:
            permitted = self._oracle.permits(case)
            expected = bool(permitted) and key in self._right_keys
            release = got if got in permitted else None
        if got is not None and not same:
            self._accepted.add(self._oracle.point(case))
        if (got is not None) != expected or (got is not None and got != release):
            shown = _evidence(case, claims, key, challenge, now)
            self._wrong.append(_wrong(case.what, shown, allowed=got is not None, expected=expected))
            if len(self._wrong) >= MOST_FINDINGS:
                self.finish()

    def _answer(self, claims: Claims, key: str, challenge: Challenge, now: datetime) -> Digest | None:
        """Return the release that a key is given for. The whole decision, with its reasons, is made of a part."""
        got = allows(claims, self._emitted, key, challenge, now)
        if self._evaluated % self._whole == 0:
            decision = appraise(claims, self._emitted, key, challenge, now)
            if decision.release != got:
                finding = Finding("prove.decision", "appraisal", want=str(got), got=str(decision.release))
                self._wrong.append(finding)
        return got

    def finish(self) -> None:
        """Raise with the first case that came out wrong.

        Raises:
            Unproven: there is one.
        """
        if self._wrong:
            proof = self.proof("broker")
            wrong = sorted(self._wrong, key=lambda finding: finding.code != "prove.admits")
            raise Unproven(
                f"broker: released {proof.released} · accepted {proof.accepted}: {wrong[0].where}",
                findings=wrong[:10],
            )

    def proof(self, target: str) -> Proof:
        """What was shown."""
        return Proof(
            target=target,
            released=self._oracle.released,
            accepted=len(self._accepted),
            evaluated=self._evaluated,
            engines=("tallystick.appraisal",),
        )


def _wrong(what: str, evidence: str, *, allowed: bool, expected: bool) -> Finding:
    said = {True: "a key", False: "no key"}
    code = "prove.admits" if allowed and not expected else "prove.refuses" if expected else "prove.release"
    return Finding(code, what, want=said[expected], got=said[allowed], note=f"evidence: {evidence}")


def _claims(case: Case, form: NormalForm, now: datetime) -> Claims:
    ours = [rule for rule in form.platforms if rule.evidence_kind == case.kind]
    roots = _root([rule.roots for rule in ours]) or form.platforms[0].roots[:1]
    devices = [device for rule in ours for device in rule.devices]
    return Claims(
        kind=case.kind,
        values=nested(case.claims),
        roots=roots,
        report_data=_REPORT_DATA,
        valid_from=now - timedelta(days=1),
        valid_until=now + timedelta(days=1),
        devices=tuple(
            Claims(
                kind=device.kind,
                values=nested(device.claims),
                roots=_root([rule.roots for rule in devices if rule.evidence_kind == device.kind]),
                report_data=_DEVICE_DATA,
                valid_from=now - timedelta(days=1),
                valid_until=now + timedelta(days=1),
            )
            for device in case.devices
        ),
    )


def _other_devices(device: Claims, now: datetime) -> Iterator[Claims]:
    """A device that is bound to something else, of another root, or no longer vouched for."""
    for data in (b"", _REPORT_DATA, _DEVICE_DATA[:-1]):
        yield replace(device, report_data=data)
    for roots in ((), ("unknown",), (*device.roots, "unknown")):
        yield replace(device, roots=roots)
    yield replace(device, valid_until=now - timedelta(seconds=1))
    yield replace(device, valid_from=None)


def _root(lists: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Return a root that every rule takes, or the first rule's first."""
    shared = sorted(set.intersection(*map(set, lists))) if lists else []
    return tuple(shared[:1]) or (lists[0][:1] if lists else ())


def _evidence(case: Case, claims: Claims, key: str, challenge: Challenge, now: datetime) -> str:
    """Return one line of JSON that shows what was decided on."""
    found = {
        "kind": claims.kind,
        "claims": dict(claims.values),
        "devices": [{"kind": device.kind, "claims": dict(device.values)} for device in claims.devices],
        "roots": list(claims.roots),
        "report_data": claims.report_data.hex(),
        "challenge": {"report_data": challenge.report_data.hex(), "issued_at": _time(challenge.issued_at)},
        "valid": [None if at is None else _time(at) for at in (claims.valid_from, claims.valid_until)],
        "key": key,
        "at": _time(now),
    }
    return json.dumps(found, default=repr)


def _values(form: NormalForm) -> Iterator[str]:
    """Yield every text that the document compares a claim with."""
    for release in form.releases:
        for entry in release.tuples:
            for _, expect in entry.expect:
                if isinstance(expect, Exactly) and isinstance(expect.value, str):
                    yield expect.value


def _differences(emitted: NormalForm, form: NormalForm) -> Iterator[Finding]:
    want, got = document.to_document(form), document.to_document(emitted)
    for name in want:
        if want[name] != got[name]:
            yield Finding("prove.differs", f"policy.json {name}", _short(want[name]), _short(got[name]))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:197] + "..."


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

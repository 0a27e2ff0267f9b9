"""The proof of NVIDIA policies: each emitted file in the SDK's engine, on everything GPUs could show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice, product
from typing import Any

from tallystick.compile.domain import meeting
from tallystick.compile.errors import Unproven
from tallystick.compile.nearly import beside, nearly
from tallystick.compile.oracle import meets, typed
from tallystick.compile.targets.base import Proof
from tallystick.compile.targets.common import trial
from tallystick.compile.targets.common.view import end
from tallystick.compile.targets.nvidia import emit, rego
from tallystick.compile.targets.nvidia.choice import Nvidia
from tallystick.compile.targets.trustee import limits
from tallystick.core.expect import AtLeastVersion, Exactly, OneOf
from tallystick.core.findings import Finding
from tallystick.policy.constraints import constraints, told
from tallystick.policy.normal import DeviceRule, NormalForm

ENGINE = "regorus (Rego v0 mode)"
_MOST_COMBINATIONS = 4_096
_MOST_FINDINGS = 50
_CALL = re.compile(r"(?<![\w\]])([A-Za-z_][\w.]*)\(")
_RULES = ("genuine", "as_asked", "number")
_HOUR = timedelta(hours=1)
_LONG = ("999.1234567890", "1234567890.1", "999.1.1.1.1.1.1.1.1", "999.", "0999.1", "999.1.1.1.1.1.1.1")
_OTHERS: tuple[Any, ...] = (None, False, True, 0, 1, "", "x", "true", "valid", "good", [], {}, [True])


def prove(files: Mapping[str, bytes], form: NormalForm, choice: Nvidia, now: datetime) -> Proof:
    """Return what was shown of ``files``; raises :class:`Unproven` when it is not what was released."""
    right = emit.emit(form, choice).files
    trial.expect_files(emit.NAME, files, right)
    proof = evaluate(files, form, now)
    trial.expect_equal(emit.NAME, files, right)
    return proof


def evaluate(files: Mapping[str, bytes], form: NormalForm, now: datetime) -> Proof:
    """Return what evaluating the policies alone shows.

    Raises:
        Unproven: as :func:`prove`, but for what no evidence in the domain tells apart.
    """
    ends = end(form, emit.NAME)
    released = accepted = evaluated = 0
    for platform, rule in emit.rules(told(form, emit.NAME)):
        name = emit.file_name(platform)
        run = _Run(name, _read(name, files[name]), rule, min(now, ends - _HOUR))
        run.devices()
        run.times(ends)
        run.finish()
        released += run.released
        accepted += len(run.accepted)
        evaluated += run.evaluated
    return Proof(
        target=emit.NAME, released=released, accepted=accepted, evaluated=evaluated, engines=(ENGINE,)
    )


class Policy:
    """One policy in the SDK's engine, and the SDK's reading of its answer."""

    def __init__(self, name: str, text: str, at: datetime) -> None:
        import regorus

        self._engine = regorus.Engine()
        nanoseconds = int(at.timestamp()) * 1_000_000_000
        try:
            self._engine.set_rego_v0(True)
            self._engine.add_policy("policy.rego", text)
            self._engine.add_extension("time.now_ns", 0, lambda: nanoseconds)
        except BaseException as error:
            raise trial.unreadable(emit.NAME, name, "a policy that the SDK takes", _first(error)) from None

    def matches(self, claims: Any) -> bool:
        """Say whether ``nv_match`` is true; an error, and anything that is no boolean, is a refusal."""
        try:
            self._engine.set_input_json(json.dumps(claims))
            found = self._engine.eval_query("data.policy.nv_match")
            return found["result"][0]["expressions"][0]["value"] is True
        except BaseException as error:
            _first(error)
            return False


class _Run:
    def __init__(self, name: str, text: str, rule: DeviceRule, now: datetime) -> None:
        self._name, self._text, self._rule, self._now = name, text, rule, now
        self._policy = Policy(name, text, now)
        self._asked = [(one.path, one.expect) for one in constraints(rule)]
        self._listed = _listed(rule)
        self._literals = trial.claimlike(limits.strings_of(limits.without_comments(text)))
        self.accepted: set[Any] = set()
        self.evaluated = 0
        self._wrong: list[Finding] = []

    @property
    def released(self) -> int:
        """How many combinations of listed values the rule takes."""
        count = 1
        for values in self._listed.values():
            count *= len(values)
        return min(count, _MOST_COMBINATIONS)

    def devices(self) -> None:
        """Every combination of listed values, every claim changed, every number of GPUs, and no list at all."""
        base = _shown(self._rule)
        least = self._rule.least
        for combination in islice(product(*self._listed.values()), _MOST_COMBINATIONS):
            listed = dict(zip(self._listed, combination, strict=True))
            self._try(f"{listed}", [{**base, **listed}] * least)
        for what, changed in _changed(self._rule, base, self._literals):
            self._try(f"each GPU with {what}", [changed] * least)
            self._try(f"one more GPU with {what}", [*[base] * least, changed])
        for count in {0, 1, least - 1, least, least + 1, least + 7}:
            self._try(f"{count} GPU(s)", [base] * count)
        for what, claims in (
            ("an object", {str(n): base for n in range(least)}),
            ("one GPU without a list", base),
            ("null", None),
            ("a text", "gpu"),
            ("lists", [[base]] * least),
            ("nulls", [None] * least),
            ("empty objects", [{}] * least),
            ("a switch more", [*[base] * least, {**base, "x-nvidia-device-type": "nvswitch"}]),
        ):
            self._try(f"{what} as claims", claims)

    def times(self, ends: datetime) -> None:
        """The last second, and the one after."""
        good = [_shown(self._rule)] * self._rule.least
        for late, right in ((0, True), (1, False)):
            got = Policy(self._name, self._text, ends + timedelta(seconds=late)).matches(good)
            self.evaluated += 1
            if got != right:
                self._note(f"{late} s after the end", good, got=got)

    def finish(self) -> None:
        """Raise with what came out wrong; see :class:`Unproven`."""
        if self._wrong:
            wrong = sorted(self._wrong, key=lambda finding: finding.code != "prove.admits")
            counts = f"released {self.released} · accepted {len(self.accepted)}"
            raise Unproven(f"{emit.NAME}: {counts}: {wrong[0].where}", findings=wrong[:10])

    def _try(self, what: str, claims: Any) -> None:
        self.evaluated += 1
        got, right = self._policy.matches(claims), self._permits(claims)
        if got and isinstance(claims, list) and len(claims) == self._rule.least:
            self.accepted.add(tuple(typed(claims[0].get(path)) for path in self._listed))
        if got != right:
            self._note(what, claims, got=got)

    def _permits(self, claims: Any) -> bool:
        return isinstance(claims, list) and len(claims) >= self._rule.least and all(map(self._one, claims))

    def _one(self, device: Any) -> bool:
        return (
            isinstance(device, dict)
            and all(typed(device.get(name)) == typed(value) for name, value in rego.GENUINE)
            and all(
                isinstance(device.get(chain), dict) and typed(device[chain].get(name)) == typed(value)
                for chain in rego.CHAINS
                for name, value in rego.CHAIN
            )
            and all(meets(expect, device.get(path)) for path, expect in self._asked)
        )

    def _note(self, what: str, claims: Any, *, got: bool) -> None:
        said = {True: "accepted", False: "refused"}
        code = "prove.admits" if got else "prove.refuses"
        note = f"evidence: {json.dumps(claims)}"
        self._wrong.append(
            Finding(code, f"{self._name}: {what}", want=said[not got], got=said[got], note=note)
        )
        if len(self._wrong) >= _MOST_FINDINGS:
            self.finish()


def _listed(rule: DeviceRule) -> dict[str, Sequence[Any]]:
    """Return the claims of which values are listed, with those that every constraint of the claim takes."""
    found: dict[str, Sequence[Any]] = {}
    asked = constraints(rule)
    for one in asked:
        if isinstance(one.expect, Exactly | OneOf):
            values = (one.expect.value,) if isinstance(one.expect, Exactly) else one.expect.values
            others = [other.expect for other in asked if other.path == one.path]
            found[one.path] = [value for value in values if all(meets(other, value) for other in others)]
    return found


def _shown(rule: DeviceRule) -> dict[str, Any]:
    """Return the claims of a GPU that is as asked."""
    return {
        "eat_nonce": "11" * 32,
        "x-nvidia-mismatch-measurement-records": None,
        **dict(rego.GENUINE),
        **{chain: dict(rego.CHAIN) for chain in rego.CHAINS},
        **meeting(rule),
    }


def _changed(
    rule: DeviceRule, base: Mapping[str, Any], literals: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a GPU with one claim absent, or another value: of other types, nearly right, and whatever stands there."""
    edges: dict[str, list[Any]] = {}
    for one in constraints(rule):
        long = _LONG if isinstance(one.expect, AtLeastVersion) else ()
        edges.setdefault(one.path, []).extend([*beside(one.expect), *long])
    for path, value in base.items():
        yield f"{path} absent", {name: kept for name, kept in base.items() if name != path}
        if isinstance(value, dict):
            for name, good in value.items():
                yield f"{path}.{name} absent", {**base, path: {n: v for n, v in value.items() if n != name}}
                for other in (*_OTHERS, *nearly(good)):
                    yield f"{path}.{name} {other!r}", {**base, path: {**value, name: other}}
        for other in (*_OTHERS, *nearly(value), *edges.get(path, ()), *literals):
            yield f"{path} {other!r}", {**base, path: other}
    for claim in ("secboot", "dbgstat", "surprise"):
        if claim not in base:
            yield f"{claim} false", {**base, claim: False}


def _read(name: str, data: bytes) -> str:
    """Return a policy whose functions and rules are known; raises :class:`Unproven` for anything else."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise trial.unreadable(emit.NAME, name, "UTF-8", error.reason) from None
    code = limits.code_of(text)
    for needed in ("package policy", "import rego.v1", "default nv_match := false"):
        if needed not in code.splitlines():
            raise trial.unreadable(emit.NAME, name, needed, "nothing of the kind")
    unknown = sorted(set(_CALL.findall(code)) - rego.BUILTINS - set(_RULES))
    if unknown:
        raise trial.unreadable(emit.NAME, name, ", ".join(sorted(rego.BUILTINS)), ", ".join(unknown))
    return text


def _first(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
        raise error
    return str(error).strip().split("\n")[0]

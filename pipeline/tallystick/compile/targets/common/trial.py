"""Trying the whole domain on one decision, and remembering what came out wrong.

What a target decides comes from its emitted bytes alone; what is right comes from the form alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tallystick.compile.domain import MOST_DEVIATIONS, Case, Oracle, cases
from tallystick.compile.errors import Unproven
from tallystick.compile.targets.base import Proof
from tallystick.core.digests import Digest
from tallystick.core.findings import Finding
from tallystick.policy.normal import NormalForm

MOST_FINDINGS = 50  # after these a proof gives up


class Trial:
    """One proof in progress.

    Args:
        target: its name.
        form: as the target serves it (:func:`tallystick.compile.targets.common.view.served`).
        encode: evidence as the target's verifier shows it to the policy; None when it can not show such evidence.
        decide: what the emitted files say of that.
        may_refuse: evidence that the target is documented to refuse although the form permits it.
    """

    def __init__(
        self,
        target: str,
        form: NormalForm,
        encode: Callable[[Case], Any],
        decide: Callable[[Any], bool],
        may_refuse: Callable[[Case], bool] = lambda _: False,
    ) -> None:
        self._target, self._form = target, form
        self._encode, self._decide, self._may_refuse = encode, decide, may_refuse
        self.oracle = Oracle(form)
        self.accepted: set[Any] = set()
        self.evaluated = 0
        self._wrong: list[Finding] = []

    def domain(
        self, literals: Iterable[str] = (), suspects: Iterable[Case] = (), budget: int = MOST_DEVIATIONS
    ) -> None:
        """Try every case of :func:`tallystick.compile.domain.cases`."""
        for case in cases(self._form, literals, suspects, budget):
            self.judge(case)

    def judge(self, case: Case) -> None:
        """Decide one case, and compare with what the form permits."""
        evidence = self._encode(case)
        if evidence is None:
            return
        got, right = self._decide(evidence), bool(self.oracle.permits(case))
        self.evaluated += 1
        if got:
            self.accepted.add(self.oracle.point(case))
        if got != right and (got or not self._may_refuse(case)):
            self.note(case.what, got=got, right=right, evidence=evidence)

    def surrounding(self, what: str, evidence: Any, *, got: bool, right: bool) -> None:
        """Compare one decision that is not about claims: another time, key, or kind of message."""
        self.evaluated += 1
        if got != right:
            self.note(what, got=got, right=right, evidence=evidence)

    def note(self, what: str, *, got: bool, right: bool, evidence: Any) -> None:
        """Remember a wrong decision with the evidence that shows it."""
        said = {True: "accepted", False: "refused"}
        code = "prove.admits" if got and not right else "prove.refuses"
        shown = json.dumps(evidence, default=repr)
        self.wrong(Finding(code, what, want=said[right], got=said[got], note=f"evidence: {shown}"))

    def wrong(self, finding: Finding) -> None:
        """Remember something else that is wrong; raises when there is too much of it."""
        self._wrong.append(finding)
        if len(self._wrong) >= MOST_FINDINGS:
            self.finish()

    def finish(self) -> None:
        """Raise with what came out wrong, what admits too much first.

        Raises:
            Unproven: there is anything.
        """
        if self._wrong:
            wrong = sorted(self._wrong, key=lambda finding: finding.code != "prove.admits")
            counts = f"released {self.oracle.released} · accepted {len(self.accepted)}"
            raise Unproven(f"{self._target}: {counts}: {wrong[0].where}", findings=wrong[:10])

    def proof(self, engines: tuple[str, ...]) -> Proof:
        """Return what was shown."""
        return Proof(
            target=self._target,
            released=self.oracle.released,
            accepted=len(self.accepted),
            evaluated=self.evaluated,
            engines=engines,
        )


def expect_files(target: str, files: Mapping[str, bytes], right: Mapping[str, bytes]) -> None:
    """Refuse a folder with other files than those that were emitted.

    Raises:
        Unproven: a file is missing, or there is one too many: it could be applied like the others.
    """
    findings = [
        Finding("prove.files", name, want="this file", got="none") for name in sorted(set(right) - set(files))
    ]
    findings += [
        Finding("prove.files", name, want="no such file", got="one")
        for name in sorted(set(files) - set(right))
    ]
    if findings:
        raise Unproven(f"{target}: other files than were made", findings=findings)


def expect_equal(target: str, files: Mapping[str, bytes], right: Mapping[str, bytes]) -> None:
    """Refuse what evaluating does not show: a rule for evidence that nobody thought of, a comment, a README.

    Equal inputs give equal bytes, so whatever differs was not made from this policy and this channel.

    Raises:
        Unproven: any byte is another.
    """
    findings = [
        Finding("prove.differs", name, str(Digest.of(right[name])), str(Digest.of(files[name])))
        for name in sorted(right)
        if files[name] != right[name]
    ]
    if findings:
        raise Unproven(f"{target}: the files say something else than was made", findings=findings)


def unreadable(target: str, name: str, want: str, got: str) -> Unproven:
    """Return the failure of a file that is not in the target's language."""
    finding = Finding("prove.unreadable", f"{target} {name}", want=want, got=got)
    return Unproven(finding.message, findings=[finding])


def strings(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value, names of members too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield str(name)
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def claimlike(literals: Iterable[str]) -> list[str]:
    """Return the texts that a claim could hold, among everything that stands in the files."""
    return sorted({text for text in literals if 0 < len(text) <= 160 and " " not in text})


def placed(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Return nested objects from values by their whole path; where two collide, the later one wins."""
    found: dict[str, Any] = {}
    for path, value in values.items():
        *outer, last = path
        inner = found
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return found

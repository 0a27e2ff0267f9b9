"""A second opinion on a proof: the evaluator on the domain that every target is tried on, against the oracle.

The solver's answer rests on :func:`tallystick.compile.targets.claims.permitted`; the oracle is a look-up of whole
tuples that knows nothing of formulas. Evidence of every kind is translated claim by claim, and both must agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from tallystick.compile.domain import Case, Oracle, cases
from tallystick.compile.errors import Unproven
from tallystick.compile.logic.formula import Formula, Value, evaluate
from tallystick.compile.nearly import typed
from tallystick.compile.targets.claims import Vocabulary, waived
from tallystick.core.expect import Exactly
from tallystick.core.findings import Finding
from tallystick.policy.constraints import told as without_waived
from tallystick.policy.normal import NormalForm

ENGINE = "tallystick.compile.logic"
MOST = 400  # pieces of evidence
_TUPLES = 6  # of which they are variations, besides mixtures of them

# From one platform's words and a case to the target's claims; None where the target could never be shown it.
Translate = Callable[[Vocabulary, Case], Mapping[str, Value] | None]


def visible(form: NormalForm, target: str) -> NormalForm:
    """Return ``form`` as far as ``target`` sees it: without what is waived for it, registers too."""
    skip = waived(form, target)

    def kept(path: str) -> bool:
        return f"register-{path}" not in skip

    releases = tuple(
        replace(
            release,
            tuples=tuple(
                replace(entry, expect=tuple(pair for pair in entry.expect if kept(pair[0])))
                for entry in release.tuples
            ),
        )
        for release in form.releases
    )
    return replace(without_waived(form, target), releases=releases)


def check(
    target: str,
    form: NormalForm,
    words: Mapping[str, Vocabulary],
    accepts: Callable[[Mapping[str, Value]], bool] | Formula,
    translate: Translate,
    most: int = MOST,
) -> int:
    """Try a sample of the domain, and return how much evidence was tried.

    Args:
        accepts: the emitted policy, as a formula or as an engine.
        most: how much evidence is tried at most.

    Raises:
        Unproven: the evaluation and the oracle disagree.
    """
    seen = visible(form, target)
    few = replace(seen, releases=_first(seen))
    oracle = Oracle(seen)
    kinds = {rule.evidence_kind: words[rule.platform] for rule in seen.platforms if rule.platform in words}
    if len(kinds) < sum(rule.platform in words for rule in seen.platforms):
        return 0  # two platforms with evidence of one kind: the oracle can not tell them apart
    tried = 0
    for case in islice(cases(few, budget=most), 4 * most):
        vocabulary = kinds.get(case.kind)
        claims = translate(vocabulary, case) if vocabulary is not None else None
        if claims is None or vocabulary is None or not told(vocabulary, case):
            continue
        tried += 1
        want = bool(oracle.permits(case))
        got = accepts(claims) if callable(accepts) else evaluate(accepts, claims)
        if got != want:
            code = "prove.admits" if got else "prove.refuses"
            said = {True: "a key", False: "no key"}
            note = f"evidence: {json.dumps(dict(claims), default=repr)}"
            raise Unproven(
                f"{target}: {case.what}",
                findings=[Finding(code, case.what, said[want], said[got], note=note)],
            )
        if tried >= most:
            break
    return tried


def _first(form: NormalForm) -> tuple[Any, ...]:
    found = []
    left = _TUPLES
    for release in form.releases:
        if left > 0:
            found.append(replace(release, tuples=release.tuples[:left]))
            left -= len(release.tuples)
    return tuple(found)


def told(vocabulary: Vocabulary, case: Case) -> bool:
    """Say whether what the target does not see is as it always is where it believes evidence."""
    for path, expect in vocabulary.implied.items():
        if not isinstance(expect, Exactly) or typed(case.claims.get(path)) != typed(expect.value):
            return False
    return not case.devices


def renamed(vocabulary: Vocabulary, case: Case) -> dict[str, Value]:
    """Return a case's claims under the target's names; what it does not tell is left out."""
    names = vocabulary.names
    return {names[path]: value for path, value in case.claims.items() if path in names}

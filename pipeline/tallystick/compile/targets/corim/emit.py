"""The CoRIM, and what Reference Values can not say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import cbor2

from tallystick.compile.targets.base import Emitted, Lack
from tallystick.compile.targets.common import papers, view
from tallystick.compile.targets.common.view import Row
from tallystick.compile.targets.corim import codec
from tallystick.compile.targets.corim.choice import CorimTarget
from tallystick.core.expect import Exactly, Expect
from tallystick.formats.corim import COMID_TAG, CORIM_TAG
from tallystick.policy import document
from tallystick.policy.constraints import constraints, unplaced
from tallystick.policy.normal import NormalForm

NAME = "corim"
LABEL = "CoRIM (draft-ietf-rats-corim-10)"
FILE = "corim.cbor"
ABOUT = "about.json"
_MANIFEST_CREATOR, _TAG_CREATOR = 1, 0  # roles of entities
VERIFIER = Lack(
    requirement="verifier-policy",
    why="a CoRIM says what was released: which keys that opens, whose evidence counts, how it is challenged, and that "
    "anything but a match is refused, is the Verifier's own policy",
)


def lacks(form: NormalForm, choice: CorimTarget) -> Iterator[Lack]:
    """Yield every requirement of ``form`` that Reference Values can not express."""
    for rule in form.platforms:
        if rule.platform not in codec.VENDORS:
            yield Lack(requirement=f"platform-{rule.platform}", why="no environment is known for it")
            continue
        paths = [one.path for one in constraints(rule)]
        for one in constraints(rule):
            if not codec.says(rule.platform, one.path, one.expect) or paths.count(one.path) > 1:
                words = type(one.expect).__name__
                yield Lack(
                    requirement=one.requirement, why=f"a measurement has no words for {words} of {one.path}"
                )
        for name in unplaced(rule):
            yield Lack(requirement=name, why="no claim of the evidence says where the machine is")
    yield from view.lacks_devices(form, "a reference triple")
    yield VERIFIER
    if choice.evidence_seconds > form.max_age_seconds:
        why = f"the Verifier takes evidence of {choice.evidence_seconds} s, the policy of {form.max_age_seconds} s"
        yield Lack(requirement="freshness", why=why)


def assumptions(choice: CorimTarget) -> tuple[str, ...]:
    """Return what the Verifier must do, because no CoRIM can say it."""
    return (
        (
            "Verifier: it checks the COSE_Sign1 signature against the signer's key, and rim-validity; Trustee's RVPS "
            "does neither, and takes digests and raw values alone: do not send it there"
        ),
        "Verifier: measurements of one triple hold together; values of two triples are never put together",
        "Verifier: a claim that a triple measures and evidence does not show is no match",
        f"Verifier: evidence is at most {choice.evidence_seconds} s old, by its own nonce",
    )


def emit(form: NormalForm, choice: CorimTarget) -> Emitted:
    """Return the files; :meth:`Backend.emit` says more."""
    whys = {lack.requirement: lack.why for lack in lacks(form, choice)}
    left = view.served(form, NAME)
    assumes = assumptions(choice)
    files = {
        FILE: _corim(form, left),
        ABOUT: (json.dumps(papers.summary(form, NAME), indent=2) + "\n").encode(),
        papers.RESIDUAL: papers.residual(form, NAME, LABEL, whys, assumes),
        papers.README: papers.readme(form, NAME, LABEL, assumes, _APPLY),
    }
    return Emitted(
        target=NAME,
        files=dict(sorted(files.items())),
        max_age_seconds=choice.evidence_seconds,
        not_after=view.end(form, NAME),
        assumes=assumes,
    )


def corim_id(form: NormalForm) -> str:
    """Return the manifest's id, which names the normal form, and by it every bundle that it rests on."""
    return f"tallystick {form.policy} {document.digest(form)}"


def _corim(form: NormalForm, left: NormalForm) -> bytes:
    """Return the manifest: one module identifier for each set of releases, one triple for each tuple."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in view.rows(left):
        groups.setdefault(tuple(map(str, row.releases)), []).append(row)
    end = cbor2.CBORTag(1, int(view.end(form, NAME).timestamp()))
    comids = [cbor2.CBORTag(COMID_TAG, _dumps(_comid(left, names, rows))) for names, rows in groups.items()]
    entity = {0: "Tallystick", 2: [_MANIFEST_CREATOR]}
    # A manifest has at least one tag: without releases, a module identifier that measures what nothing shows.
    found = {
        0: corim_id(form),
        1: comids or [cbor2.CBORTag(COMID_TAG, _dumps(_nothing()))],
        4: {1: end},
        5: [entity],
    }
    return _dumps(cbor2.CBORTag(CORIM_TAG, found))


def _comid(left: NormalForm, names: tuple[str, ...], rows: list[Row]) -> dict[int, Any]:
    return {
        1: {0: " ".join(names), 1: 0},
        2: [{0: "Tallystick", 2: [_TAG_CREATOR]}],
        4: {0: [[codec.environment(row.platform), _measurements(left, row)] for row in rows]},
    }


def _nothing() -> dict[int, Any]:
    return {
        1: {0: "nothing is released", 1: 0},
        4: {1: [[{0: {1: "Tallystick", 2: "nothing"}}, [{1: {11: "-"}}]]]},
    }


def _measurements(left: NormalForm, row: Row) -> list[dict[int, Any]]:
    expectations: dict[str, Expect] = {one.path: one.expect for one in constraints(view.rule_of(left, row))}
    expectations |= {path: Exactly(value) for path, value in row.pinned}
    return [
        {0: path, 1: codec.values(row.platform, path, expectations[path])} for path in sorted(expectations)
    ]


def _dumps(value: Any) -> bytes:
    return cbor2.dumps(value, canonical=True)


_APPLY = """## Apply

`corim.cbor` is unsigned, so that everybody who compiles gets the same bytes. Sign it with the key that the Verifier
knows as this Reference Value Provider's, then submit it.

```sh
tally corim sign corim.cbor --key rvp.key.pem -o signed.corim
tally corim show signed.corim --key rvp.pub.pem
cocli corim submit -f signed.corim -s "https://verifier.example/endorsement-provisioning/v1/submit" \\
  -m 'application/rim+cose'
```

To revoke a release compile again, sign and submit; a Verifier that keeps old manifests must be told to drop them. The
manifest ends by itself at its not-after.
"""

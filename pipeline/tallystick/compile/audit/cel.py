"""An audit of CEL conditions on Google's attestation tokens: which workloads pass that were not meant.

Source: Google Cloud, "Confidential Space: token claims", "Workload identity federation: attribute conditions".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tallystick.compile.audit.asking import Asker, assumed, tuples
from tallystick.compile.audit.records import Audited, PermissivePath, ReferenceValues
from tallystick.compile.logic.formula import TRUE, Atom, Formula, Value, atoms, every, negated, some
from tallystick.compile.logic.tests import Among, Present
from tallystick.compile.targets.gcp_wif import cel
from tallystick.compile.targets.gcp_wif.cel import Call, Expression
from tallystick.compile.targets.gcp_wif.prove import token
from tallystick.compile.targets.gcp_wif.truth import Inexact, Truth, shown, truth
from tallystick.compile.targets.gcp_wif.words import DIGEST, OMITTED, WORDS
from tallystick.core.errors import Malformed

_WHAT = "CEL condition"
_LOOKS = re.compile(r"\bassertion\s*[.\[]")
_LIMITS = (
    "which principals are bound to the keys: a direct grant to a service account bypasses attestation",
    "whether the image forbids overrides of its environment (tee.launch_policy labels)",
    "issuer and audience of the provider",
)
_OTHER = "sha256:" + "ab" * 32
# code, claim, a value that a production policy should not take, what that is, the fix
_TRAPS: tuple[tuple[str, str, tuple[object, ...], str, str], ...] = (
    (
        "cel.debug-not-pinned", "dbgstat", ("enable", "enabled"), "a debug image passes",
        "assertion.dbgstat == 'disabled-since-boot'",
    ),
    (
        "cel.not-confidential-space", "swname", ("GCE",), "a plain VM passes, which says nothing of its workload",
        "assertion.swname == 'CONFIDENTIAL_SPACE'",
    ),
    (
        "cel.no-memory-encryption", "hwmodel", ("GCP_SHIELDED_VM",), "a machine without memory encryption passes",
        "assertion.hwmodel in ['GCP_AMD_SEV', 'GCP_INTEL_TDX']",
    ),
    (
        "cel.command-override", "submods.container.cmd_override", (["/bin/sh"],), "another command in the image passes",
        "!has(assertion.submods.container.cmd_override) || assertion.submods.container.cmd_override == []",
    ),
    (
        "cel.not-stable", "submods.confidential_space.support_attributes", ([],),
        "an image of Confidential Space that is not supported passes",
        "'STABLE' in assertion.submods.confidential_space.support_attributes",
    ),
)  # fmt: skip


class Audit:
    """The auditor of conditions."""

    name = "cel-condition"

    def recognises(self, data: bytes, file_name: str) -> bool:
        """Say whether it is called a CEL file, or speaks of ``assertion``."""
        text = data.decode("utf-8", "replace")
        return file_name.endswith(".cel") or (_LOOKS.search(text) is not None and "package " not in text)

    def audit(self, data: bytes, reference: ReferenceValues | None) -> Audited:
        """Return which tokens pass. What is not modelled is taken for the worst."""
        try:
            text = data.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise Malformed(_WHAT, at=f"byte {error.start}", want="UTF-8", got=error.reason) from None
        unknown: list[str] = []
        formula = _worst(cel.read(text), unknown).true if text else TRUE
        asker = Asker(accepted=formula, shown=_shown)
        found = [*_empty(text, asker), *_traps(asker), *_image(asker), *_missing(asker)]
        released = accepted = None
        if reference is not None:
            extra, accepted = asker.unreleased(
                "cel.not-released",
                f"assertion.{DIGEST} in [the released digests]",
                tuples(
                    reference,
                    {path: claim for words in WORDS.values() for path, claim in words.names.items()},
                ),
                (DIGEST,),
            )
            released = len(reference.tuples)
            found += extra
        limits = (*_LIMITS, *(f"not understood, and taken for the worst: {one}" for one in unknown))
        return Audited(
            language=self.name, paths=tuple(found), released=released, accepted=accepted, limits=limits
        )


def _worst(expression: Expression, unknown: list[str]) -> Truth:
    """As :func:`truth`, but a part that is not modelled is whatever the sender of the token likes."""
    match expression:
        case Call("_&&_", (one, other)):
            a, b = _worst(one, unknown), _worst(other, unknown)
            return Truth(every([a.true, b.true]), some([a.false, b.false]))
        case Call("_||_", (one, other)):
            a, b = _worst(one, unknown), _worst(other, unknown)
            return Truth(some([a.true, b.true]), every([a.false, b.false]))
        case Call("!_", (one,)):
            a = _worst(one, unknown)
            return Truth(a.false, a.true)
    try:
        return truth(expression)
    except Inexact as error:
        unknown.append(str(error))
        place = f"unmodelled {len(unknown)} {shown(expression)}"
        return Truth(Atom(place, Among("true")), Atom(place, Among("false")))


def _empty(text: str, asker: Asker) -> Iterator[PermissivePath]:
    nothing = [
        negated(Atom(path, Present())) for path in sorted({atom.path for atom in atoms(asker.accepted)})
    ]
    what = (
        "no condition: every token of the issuer passes, of any project on earth"
        if not text
        else ("a token without any of the claims that are asked for passes")
    )
    yield from asker.path(
        "cel.empty" if not text else "cel.always", "the condition", what,
        "ask for swname, dbgstat, hwmodel, support attributes and image_digest", *nothing,
    )  # fmt: skip


def _traps(asker: Asker) -> Iterator[PermissivePath]:
    for code, claim, values, what, fix in _TRAPS:
        yield from asker.path(code, f"assertion.{claim}", what, fix, Atom(claim, Among(*values)))


def _image(asker: Asker) -> Iterator[PermissivePath]:
    yield from asker.path(
        "cel.image-not-pinned", f"assertion.{DIGEST}", "any image passes (image_reference is a name that can move)",
        f"assertion.{DIGEST} in ['sha256:…'], or bind the key to attribute.image_digest", Atom(DIGEST, Among(_OTHER)),
    )  # fmt: skip


def _missing(asker: Asker) -> Iterator[PermissivePath]:
    """Guards that turn a missing claim into a yes: ``!has(x) || x == …``."""
    guarded = {atom.path for atom in atoms(asker.accepted) if isinstance(atom.test, Present)}
    for path in sorted(guarded - OMITTED):
        absent: Formula = negated(Atom(path, Present()))
        there = every([Atom(path, Present()), Atom(path, Among("\x1fother"))])
        if asker.example(absent) is not None and asker.example(there) is None:
            yield from asker.path(
                "cel.missing-claim", f"assertion.{path}", "a token without the claim passes, whatever is asked of it",
                f"drop the guard: without assertion.{path} the comparison is an error, and nobody passes", absent,
            )  # fmt: skip


def _shown(claims: Mapping[str, Value]) -> dict[str, Any]:
    return assumed(claims, token)

"""The proof of release and attestation policy: which tokens their bytes take, and which are permitted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from itertools import pairwise
from typing import Any

from tallystick.compile.domain import Case
from tallystick.compile.logic.formula import (
    TRUE,
    All,
    Any_,
    Atom,
    Formula,
    Not,
    Value,
    every,
    negated,
    some,
)
from tallystick.compile.logic.tests import Among
from tallystick.compile.targets import cloud, crossed, proved
from tallystick.compile.targets.azure_skr import attestation, authorised, document, emit
from tallystick.compile.targets.azure_skr.choice import AzureSkrTarget
from tallystick.compile.targets.azure_skr.document import Equals, Reading
from tallystick.compile.targets.azure_skr.target import emitted
from tallystick.compile.targets.azure_skr.words import ATTESTATION_TYPES, NAME, POLICY_HASH, WORDS
from tallystick.compile.targets.base import Proof
from tallystick.compile.targets.claims import Vocabulary, asked, meets, points, rows
from tallystick.compile.targets.common import trial
from tallystick.core import expect as expects
from tallystick.core.errors import Malformed, Unsupported
from tallystick.policy.normal import NormalForm


def prove(files: Mapping[str, bytes], form: NormalForm, choice: AzureSkrTarget, now: datetime) -> Proof:
    """Return what was shown of ``files``.

    Raises:
        Unproven: they let the key go to other tokens than those that are permitted.
    """
    made = emitted(form, choice).files
    trial.expect_files(NAME, files, made)
    tried = evaluate(files, form, choice)
    trial.expect_equal(NAME, files, made)
    return cloud.proof(form, NAME, WORDS, tried)


def evaluate(files: Mapping[str, bytes], form: NormalForm, choice: AzureSkrTarget) -> int:
    """Compare what the policies mean with what is permitted; return how much evidence was tried beside that.

    Raises:
        Unproven: they differ, or a policy can not be read.
    """
    own = files.get(emit.ATTESTATION_POLICY)
    try:
        policy = document.read(files[emit.RELEASE_POLICY])
        service = attestation.read(own) if own is not None else None
    except (Malformed, Unsupported) as error:
        raise proved.unreadable(NAME, error.what, "a policy", error.message) from None
    for place in authorised.exact(service) if service else ():
        raise proved.unreadable(NAME, emit.ATTESTATION_POLICY, "only what is modelled exactly", place)
    _check_paths(policy)
    released, right = rows(form, NAME, WORDS), _permitted(form, choice, own)
    compare = partial(
        proved.same, NAME, released=len(released), apart=points(released), shown=token, given=TRUE
    )
    strict, loose = (document.formula(policy, reading) for reading in Reading)
    # Each policy alone, so that neither rests on the other. What both have words for, both ask.
    compare(strict, right)
    compare(loose, _loosened(right))
    issued = TRUE
    if own is not None and service is not None:
        compare(authorised.authorised(service), _authorised(form))
        other = negated(Atom(POLICY_HASH, Among(attestation.policy_hash(own))))
        issued = some([other, authorised.authorised(service)])
    return crossed.check(NAME, form, WORDS, every([strict, issued]), _shown(form, choice, own))


def token(claims: Mapping[str, Value]) -> dict[str, Any]:
    """Return a token's claims as a person would see them; its issuer is the authority."""
    found = proved.nested(claims, skip=[document.AUTHORITY])
    issuer = claims.get(document.AUTHORITY)
    return {**found, "iss": issuer} if isinstance(issuer, str) else found


def _permitted(form: NormalForm, choice: AzureSkrTarget, own: bytes | None) -> Formula:
    """Return which tokens are permitted: of the authority, of its policy, and of a released tuple.

    Minimums are the attestation policy's: a token of its hash meets them.
    """
    found = []
    for platform, vocabulary in WORDS.items():
        wanted = [*vocabulary.fixed]
        wanted += [(vocabulary.names[one.path], one.expect) for one in asked(form, NAME, platform)]
        parts = [meets(claim, expect) for claim, expect in wanted if not isinstance(expect, expects.AtLeast)]
        if own is not None and platform in ATTESTATION_TYPES:
            parts.append(Atom(POLICY_HASH, Among(attestation.policy_hash(own))))
        ours = [row for row in rows(form, NAME, WORDS) if row.platform == platform]
        parts.append(some(every(Atom(claim, Among(value)) for claim, value in row.pins) for row in ours))
        found.append(every(parts))
    return every([Atom(document.AUTHORITY, Among(choice.authority)), some(found)])


def _authorised(form: NormalForm) -> Formula:
    """Return for which evidence a token is to be issued: what is asked of every machine, but for choices."""
    for platform in sorted(rule.platform for rule in form.platforms if rule.platform in ATTESTATION_TYPES):
        return every(
            meets(WORDS[platform].names[one.path], one.expect)
            for one in asked(form, NAME, platform)
            if not isinstance(one.expect, expects.OneOf) or len(one.expect.values) == 1
        )
    return TRUE


def _loosened(formula: Formula) -> Formula:
    """Return what is permitted where a value and its text are the same; the authority stays exact."""
    match formula:
        case Atom(path, Among() as among) if path not in (document.AUTHORITY,):
            return some(Atom(path, Equals(value, Reading.LOOSE)) for value in among.values)
        case All(parts):
            return every(map(_loosened, parts))
        case Any_(parts):
            return some(map(_loosened, parts))
        case Not(part):
            return negated(_loosened(part))
        case _:
            return formula


def _check_paths(policy: document.ReleasePolicy) -> None:
    """No claim is inside of another that is compared, too: they would not be independent."""
    names = sorted({one.claim for one in document.conditions(policy)})
    for one, other in pairwise(names):
        if other.startswith(f"{one}."):
            raise proved.unreadable(NAME, emit.RELEASE_POLICY, "independent claims", f"{one} and {other}")


def _shown(form: NormalForm, choice: AzureSkrTarget, own: bytes | None) -> crossed.Translate:
    """Return how a machine's evidence looks in a token of the authority."""

    def translate(vocabulary: Vocabulary, case: Case) -> Mapping[str, Value]:
        found: dict[str, Value] = {document.AUTHORITY: choice.authority}
        if own is not None and vocabulary.platform in ATTESTATION_TYPES:
            found[POLICY_HASH] = attestation.policy_hash(own)
        found |= {name: one.value for name, one in vocabulary.fixed if isinstance(one, expects.Exactly)}
        return found | crossed.renamed(vocabulary, case)

    return translate

"""The target ``azure-skr``: what it can not express, its files, and their proof."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial
from itertools import pairwise
from typing import Any

from tallystick.compile.domain import Case
from tallystick.compile.errors import Inexpressible
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
from tallystick.compile.targets import crossed, keyids, leftover, proved
from tallystick.compile.targets.azure_skr import attestation, authorised, document, emit
from tallystick.compile.targets.azure_skr import choice as choices
from tallystick.compile.targets.azure_skr.choice import AzureSkrTarget
from tallystick.compile.targets.azure_skr.document import Equals, Reading
from tallystick.compile.targets.azure_skr.readme import assumes, readme
from tallystick.compile.targets.azure_skr.words import ATTESTATION_TYPES, NAME, POLICY_HASH, WORDS
from tallystick.compile.targets.base import Emitted, Lack, Proof
from tallystick.compile.targets.claims import Vocabulary, asked, meets, points, rows
from tallystick.compile.targets.lacking import lacking
from tallystick.core import expect as expects
from tallystick.core.errors import Malformed, Unsupported
from tallystick.core.expect import Expect
from tallystick.formats.yamldoc import Fields
from tallystick.policy.model import Target, Waiver
from tallystick.policy.normal import NormalForm

POLICY_END = Lack(
    requirement="end",
    why="a release policy knows no time: it gives the key until it is replaced or the key is disabled",
)


class AzureSkr:
    """Azure Key Vault's secure key release."""

    name = NAME
    schema = choices.SCHEMA

    def choice(self, fields: Fields, waivers: tuple[Waiver, ...]) -> Target:
        """Return its entry of a policy."""
        return choices.read(fields, waivers)

    def lacks(self, form: NormalForm, choice: Target) -> Iterator[Lack]:
        """Yield what ``equals`` and an attestation policy do not say: ages, places, lists, an end."""
        ours = choices.of(choice)

        def says(platform: str, path: str, expect: Expect) -> bool:
            if path not in WORDS[platform].names:
                return False
            if isinstance(expect, expects.AtLeast):
                return platform in ATTESTATION_TYPES and not ours.shared
            return isinstance(expect, expects.Exactly | expects.OneOf)

        yield from lacking(form, NAME, WORDS, 60 * ours.token_minutes, says)
        yield POLICY_END

    def emit(self, form: NormalForm, choice: Target) -> Emitted:
        """Return the policies, and how to apply them."""
        return emitted(form, choices.of(choice))

    def prove(self, files: Mapping[str, bytes], form: NormalForm, choice: Target, now: datetime) -> Proof:
        """Read the policies back, and compare the tokens that they take with what is permitted."""
        return prove(files, form, choices.of(choice))


def emitted(form: NormalForm, choice: AzureSkrTarget) -> Emitted:
    """Return every file; :meth:`Backend.emit` says more."""
    keyids.check(form, NAME, choice.keys)
    for row in rows(form, NAME, WORDS):
        if not row.pins:
            raise Inexpressible(f"{NAME}: no register of {row.platform} is left", code="target.no-register")
    whys = {lack.requirement: lack.why for lack in AzureSkr().lacks(form, choice)}
    own = emit.attestation_policy(form, choice, leftover.head(form, NAME))
    assumed = assumes(choice, own_policy=own is not None)
    files = {
        emit.RELEASE_POLICY: emit.release_policy(form, choice, own),
        leftover.RESIDUAL: leftover.residual(form, NAME, whys, assumed),
        leftover.README: readme(form, choice, whys, own_policy=own is not None).encode(),
    }
    if own is not None:
        files[emit.ATTESTATION_POLICY] = own
    return Emitted(
        target=NAME,
        files=dict(sorted(files.items())),
        max_age_seconds=60 * choice.token_minutes,
        not_after=leftover.end(form, NAME),
        assumes=assumed,
    )


def prove(files: Mapping[str, bytes], form: NormalForm, choice: AzureSkrTarget) -> Proof:
    """Return what was shown of ``files``.

    Raises:
        Unproven: they let the key go to other tokens than those that are permitted.
    """
    tried = evaluate(files, form, choice)
    made = emitted(form, choice).files
    proved.require_same(NAME, files, made, [name for name in made if name != emit.RELEASE_POLICY])
    released = len(rows(form, NAME, WORDS))
    return Proof(
        target=NAME,
        released=released,
        accepted=released,
        evaluated=tried,
        engines=(proved.ENGINE, crossed.ENGINE),
    )


def evaluate(files: Mapping[str, bytes], form: NormalForm, choice: AzureSkrTarget) -> int:
    """Compare what the policies mean with what is permitted; return how much evidence was tried beside that.

    Raises:
        Unproven: they differ, or a policy can not be read.
    """
    names = [emit.RELEASE_POLICY, leftover.README, leftover.RESIDUAL]
    if emit.attestation_policy(form, choice, "") is not None:
        names.append(emit.ATTESTATION_POLICY)
    proved.require_files(NAME, files, names)
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


BACKEND = AzureSkr()

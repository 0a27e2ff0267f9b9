"""The proof of condition and allow policy: which tokens their bytes take, and which are permitted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

from tallystick.compile.domain import Case
from tallystick.compile.logic.formula import ABSENT, Atom, Formula, Value, every, some
from tallystick.compile.logic.formula import evaluate as holds
from tallystick.compile.logic.tests import Among, NotAfter
from tallystick.compile.targets import cloud, crossed, proved
from tallystick.compile.targets.base import Proof
from tallystick.compile.targets.claims import Vocabulary, points, rows
from tallystick.compile.targets.common import papers, trial, view
from tallystick.compile.targets.gcp_wif import cel, emit, truth
from tallystick.compile.targets.gcp_wif.choice import GcpWifTarget
from tallystick.compile.targets.gcp_wif.engines import Evaluate, engines
from tallystick.compile.targets.gcp_wif.permitted import common, images
from tallystick.compile.targets.gcp_wif.questions import Text
from tallystick.compile.targets.gcp_wif.target import emitted
from tallystick.compile.targets.gcp_wif.words import (
    DIGEST,
    INSTANCE,
    NAME,
    OMITTED,
    PROJECT,
    WORDS,
)
from tallystick.core import jsondoc
from tallystick.core.errors import Malformed
from tallystick.policy.normal import NormalForm

TIME = "request.time"
_MOST = 150  # pieces of evidence that the engines look at: one of them is slow


def prove(files: Mapping[str, bytes], form: NormalForm, choice: GcpWifTarget, now: datetime) -> Proof:
    """Return what was shown of ``files``.

    Raises:
        Unproven: they give keys to other tokens than those that are permitted.
    """
    made = emitted(form, choice).files
    trial.expect_files(NAME, files, made)
    tried, names = evaluate(files, form, choice)
    trial.expect_equal(NAME, files, made)
    return cloud.proof(form, NAME, WORDS, tried, names)


def evaluate(
    files: Mapping[str, bytes], form: NormalForm, choice: GcpWifTarget
) -> tuple[int, tuple[str, ...]]:
    """Compare what condition and allow policy mean with what is permitted.

    Returns how much evidence was tried beside that, and in which engines.

    Raises:
        Unproven: they differ, or a file can not be read.
    """
    text = _decoded(files, emit.CONDITION)
    if len(text) > emit.MOST_CHARACTERS:
        raise proved.unreadable(NAME, emit.CONDITION, f"{emit.MOST_CHARACTERS} characters", str(len(text)))
    try:
        admitted = truth.truth(cel.read(text)).true
        loaded = engines(text)
    except (Malformed, ValueError) as error:
        raise proved.unreadable(
            NAME, emit.CONDITION, "a condition that is modelled exactly", str(error)
        ) from None
    bound = _bindings(files[emit.ALLOW_POLICY], choice)
    accepted, released = every([admitted, bound]), rows(form, NAME, WORDS)
    end = papers.time(view.end(form, NAME))
    given = every([_texts(PROJECT), _texts(INSTANCE), Atom(TIME, NotAfter("9999-12-31T23:59:59Z"))])
    compare = partial(
        proved.same, NAME, released=len(released), apart=points(released), shown=token, given=given
    )
    # Each alone, so that neither rests on the other: the condition while it has room for digests, and the bindings.
    compare(admitted, every([common(form), images(form)]) if _names_images(form) else common(form))
    compare(bound, every([images(form), Atom(TIME, NotAfter(end))]))
    tried = crossed.check(NAME, form, WORDS, _all_agree(accepted, bound, loaded, end), _shown, _MOST)
    return tried, tuple(loaded)


def _names_images(form: NormalForm) -> bool:
    """Say whether the condition is to name the images; without any image it admits nobody."""
    return not emit.digests(form) or emit.has_room(form)


def _decoded(files: Mapping[str, bytes], name: str) -> str:
    try:
        return files[name].decode("utf-8")
    except UnicodeDecodeError as error:
        raise proved.unreadable(NAME, name, "UTF-8", error.reason) from None


def _texts(path: str) -> Formula:
    return Atom(path, Text("startsWith", ""))


def _bindings(data: bytes, choice: GcpWifTarget) -> Formula:
    """Return for which tokens the allow policy gives the role. Strict: one role, one kind of member, one condition."""
    want = "bindings of one role to sets of principals by their image, with an end"
    try:
        found_policy = jsondoc.loads(data, emit.ALLOW_POLICY)
        found = []
        if sorted(found_policy) != ["bindings", "version"] or found_policy["version"] != 3:
            raise ValueError("another allow policy")
        for binding in found_policy["bindings"]:
            if sorted(binding) != ["condition", "members", "role"] or binding["role"] != emit.ROLE:
                raise ValueError(f"another binding: {sorted(binding)}")
            head = dict(binding["condition"])
            end = _end(head.pop("expression"))
            if sorted(head) != ["description", "title"]:
                raise ValueError(f"another condition: {sorted(head)}")
            images = [_image(member, choice) for member in binding["members"]]
            found.append(every([Atom(DIGEST, Among(*images)), Atom(TIME, NotAfter(end))]))
    except (Malformed, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise proved.unreadable(NAME, emit.ALLOW_POLICY, want, str(error)) from None
    return some(found)


def _image(member: str, choice: GcpWifTarget) -> str:
    prefix = emit.principals(choice)
    if not member.startswith(prefix):
        raise ValueError(f"another member: {member}")
    return member.removeprefix(prefix)


def _end(expression: str) -> str:
    match cel.read(expression):
        case cel.Call(
            "_<=_",
            (cel.Select(cel.Name("request"), "time"), cel.Call("timestamp", (cel.Constant(str() as end),))),
        ):
            return end
        case _:
            raise ValueError(f"another condition: {expression}")


def _shown(vocabulary: Vocabulary, case: Case) -> Mapping[str, Value] | None:
    """Return how a machine's evidence looks in a token: what is left out there when empty is never absent here."""
    found: dict[str, Value] = {PROJECT: "42", INSTANCE: "1", **crossed.renamed(vocabulary, case)}
    for path in OMITTED:
        if path not in found:
            return None
        if found[path] == []:
            del found[path]
    return found


def _all_agree(accepted: Formula, bound: Formula, loaded: Mapping[str, Evaluate], end: str) -> Any:
    """Return whether evidence gets a key, once all engines say the same of it."""

    def decide(claims: Mapping[str, Value]) -> bool:
        ours = holds(accepted, {**claims, TIME: end})
        image = holds(bound, {**claims, TIME: end})
        if _whole(claims):
            for name, engine in loaded.items():
                if (engine(token(claims)) and image) != ours:
                    raise proved.unreadable(
                        NAME, emit.CONDITION, f"{ours}, as modelled", f"{not ours} by {name}"
                    )
        return ours

    return decide


def _whole(claims: Mapping[str, Value]) -> bool:
    """Say whether no claim is inside of another one, so that a token can have them all."""
    there = [path for path, value in claims.items() if value is not ABSENT]
    return not any(other.startswith(f"{path}.") for path in there for other in there)


def token(claims: Mapping[str, Value]) -> dict[str, Any]:
    return proved.nested(claims, skip=[TIME])

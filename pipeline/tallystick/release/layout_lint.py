"""What makes an in-toto layout unfit for a rebuild quorum, although in-toto itself accepts it.

Source: in-toto specification 1.0, section 4.3; in_toto.verifylib 3.1, whose own comment names the duplicate
key. docs/decisions/0060-rebuild-quorum.md says why each is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tallystick.core.errors import Malformed
from tallystick.core.findings import Finding
from tallystick.release import keys
from tallystick.release.records import Functionary

STEP = "build"
MATERIALS = ("nix", "recipe.yaml", "seeds")  # one digest each: the recipe, and two trees of the release
MEASUREMENTS = "statements/measurements.json"
OURS = "x-tallystick"  # our fields in a functionary's key; in-toto keeps and ignores them
WHAT = "in-toto layout"
_FIELDS = ("_type", "expires", "inspect", "keys", "readme", "steps")
_STEP_FIELDS = (
    "_type",
    "expected_command",
    "expected_materials",
    "expected_products",
    "name",
    "pubkeys",
    "threshold",
)
_WILD = re.compile(r"[*?\[]")  # fnmatch's special characters, as in-toto matches patterns
_CLOSED = ["DISALLOW", "*"]


def lint(document: dict[str, Any]) -> Iterator[Finding]:
    """Yield a finding for each reason why the layout ``document`` is unfit; its expiry is not looked at.

    Inspections (commands that would run on the verifier's machine); another step than one ``build``; a
    threshold below 1 or above the number of organisations; one key under two key ids; a key id that is not
    its key's; wildcards and rules other than REQUIRE and ALLOW; lists that do not end in ``DISALLOW *``;
    materials or measurements that are not required.

    Raises:
        Malformed: not of a layout's shape.
    """
    if sorted(document) != sorted(_FIELDS):
        raise Malformed(WHAT, at="fields", want=", ".join(_FIELDS), got=", ".join(sorted(document)))
    if document["inspect"] != []:
        yield Finding("release.layout.inspection", "inspect", want="none", got="commands to run")
    functionaries = functionaries_of(document)
    yield from _lint_keys(tuple(document["keys"]), functionaries)
    steps = document["steps"]
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise Malformed(WHAT, at="steps", want="a list of steps", got=type(steps).__name__)
    names = [str(step.get("name")) for step in steps]
    if names == [STEP]:
        yield from _lint_step(steps[0], functionaries)
    else:
        yield Finding("release.layout.step", "steps", want=STEP, got=", ".join(names) or "none")


def functionaries_of(document: dict[str, Any]) -> tuple[Functionary, ...]:
    """Return who is named by the keys of the layout ``document``, in its order.

    Raises:
        Malformed: a key that is not Ed25519 with our fields.
    """
    listed = document["keys"]
    if not isinstance(listed, dict) or not all(isinstance(key, dict) for key in listed.values()):
        raise Malformed(WHAT, at="keys", want="an object of keys", got=type(listed).__name__)
    return tuple(_functionary(key) for key in listed.values())


def key_document(functionary: Functionary) -> dict[str, Any]:
    """Return ``functionary`` as a key of a layout."""
    return {
        "keyid": functionary.keyid,
        "keytype": "ed25519",
        "keyval": {"public": functionary.public_key.hex()},
        "scheme": "ed25519",
        OURS: {
            "builder_id": functionary.builder_id,
            "name": functionary.name,
            "organisation": functionary.organisation,
        },
    }


def _lint_keys(keyids: tuple[str, ...], functionaries: tuple[Functionary, ...]) -> Iterator[Finding]:
    for keyid, functionary in zip(keyids, functionaries, strict=True):
        right = keys.keyid_of(functionary.public_key)
        if keyid != functionary.keyid or keyid != right:
            yield Finding("release.layout.keyid", f"keys.{keyid[:8]}", want=right, got=keyid)
    named = [(f.name, f.public_key.hex(), f.builder_id) for f in functionaries]
    yield from _repeated("release.layout.duplicate-key", [(key, name) for name, key, _ in named])
    yield from _repeated("release.layout.duplicate-name", [(name, name) for name, _, _ in named])
    yield from _repeated("release.layout.duplicate-builder", [(builder, name) for name, _, builder in named])


def _repeated(code: str, values: list[tuple[str, str]]) -> Iterator[Finding]:
    for value, count in Counter(value for value, _ in values).items():
        if count > 1:
            names = ", ".join(name for other, name in values if other == value)
            yield Finding(code, "keys", want="each once", got=f"{value} {count} times: {names}")


def _lint_step(step: dict[str, Any], functionaries: tuple[Functionary, ...]) -> Iterator[Finding]:
    if sorted(step) != sorted(_STEP_FIELDS):
        raise Malformed(WHAT, at="step", want=", ".join(_STEP_FIELDS), got=", ".join(sorted(step)))
    threshold, most = step["threshold"], len({f.organisation for f in functionaries})
    if not isinstance(threshold, int) or isinstance(threshold, bool):
        raise Malformed(WHAT, at="threshold", want="a number", got=repr(threshold))
    if not 1 <= threshold <= most:
        want = f"1 to {most}, the number of organisations"
        yield Finding("release.layout.threshold", "threshold", want=want, got=str(threshold))
    if step["pubkeys"] != sorted(f.keyid for f in functionaries):
        yield Finding("release.layout.pubkeys", "pubkeys", want="every key id, sorted", got="another list")
    yield from _lint_rules("expected_materials", step["expected_materials"], required=MATERIALS)
    yield from _lint_rules("expected_products", step["expected_products"], required=(MEASUREMENTS,))


def _lint_rules(name: str, rules: Any, *, required: tuple[str, ...]) -> Iterator[Finding]:
    if not isinstance(rules, list) or not all(
        isinstance(rule, list) and rule and all(isinstance(word, str) for word in rule) for rule in rules
    ):
        raise Malformed(WHAT, at=name, want="a list of rules", got=repr(rules))
    *most, last = rules or [[""]]
    if last != _CLOSED:
        yield Finding("release.layout.open", name, want="DISALLOW * last", got=" ".join(last) or "nothing")
    for rule in most:
        if len(rule) != 2 or rule[0] not in {"REQUIRE", "ALLOW"}:
            yield Finding("release.layout.rule", name, want="REQUIRE or ALLOW a path", got=" ".join(rule))
        elif _WILD.search(rule[1]):
            yield Finding("release.layout.wildcard", name, want="an exact path", got=" ".join(rule))
    for path in required:
        if ["REQUIRE", path] not in most:
            yield Finding("release.layout.rule", name, want=f"REQUIRE {path}", got="no such rule")


def _functionary(key: dict[str, Any]) -> Functionary:
    if sorted(key) != ["keyid", "keytype", "keyval", "scheme", OURS]:
        raise Malformed(WHAT, at="key", want=f"an ed25519 key with {OURS}", got=", ".join(sorted(key)))
    ours, value = key[OURS], key["keyval"]
    wanted = ["builder_id", "name", "organisation"]
    if not isinstance(ours, dict) or sorted(ours) != wanted or not all(_is_text(ours[n]) for n in wanted):
        raise Malformed(WHAT, at=f"key.{OURS}", want=", ".join(wanted), got=repr(ours))
    public = value.get("public") if isinstance(value, dict) and len(value) == 1 else None
    if (key["keytype"], key["scheme"]) != ("ed25519", "ed25519") or not _is_text(key["keyid"]):
        raise Malformed(WHAT, at="key", want="ed25519", got=repr(key["keytype"]))
    if not isinstance(public, str) or re.fullmatch("[0-9a-f]{64}", public) is None:
        raise Malformed(WHAT, at="keyval.public", want="64 lower-case hex digits", got=repr(public))
    return Functionary(
        name=ours["name"],
        builder_id=ours["builder_id"],
        organisation=ours["organisation"],
        keyid=key["keyid"],
        public_key=bytes.fromhex(public),
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""

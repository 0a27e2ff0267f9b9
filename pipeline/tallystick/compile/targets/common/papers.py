"""The papers beside a compiled policy: what is not checked, what is taken for granted, and how to apply it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from tallystick.compile.targets.common import view
from tallystick.policy import document
from tallystick.policy.normal import NormalForm

RESIDUAL = "residual.json"
README = "README.md"


def head(form: NormalForm, target: str, what: str) -> Iterator[str]:
    """Yield what an emitted file says of itself, one line at a time. Nothing is ever decided by it."""
    yield what
    yield "Made by `tally compile` and proved; a changed byte is another policy. Do not edit."
    yield f"policy      {form.policy} {form.policy_digest}"
    yield f"channel     {form.channel}"
    yield f"normal form {document.digest(form)}"
    yield f"until       {time(view.end(form, target))}"
    for release in form.releases:
        yield f"release     {release.digest} {release.name} {release.version}"
        for bundle in release.bundles:
            yield f"  bundle    {bundle}"
    for line in not_checked(form, target):
        yield f"NOT CHECKED {line}"


def summary(form: NormalForm, target: str, normal_form: str = "") -> dict[str, object]:
    """Return the same as one JSON object, for languages that have no comments; bundles by their one digest each.

    Args:
        normal_form: the whole form's digest, when ``form`` is a part of it.
    """
    return {
        "policy": form.policy,
        "policy_digest": str(form.policy_digest),
        "channel": form.channel,
        "normal_form": normal_form or str(document.digest(form)),
        "until": time(view.end(form, target)),
        "releases": [str(release.digest) for release in form.releases],
        "bundles": sorted({str(bundle) for release in form.releases for bundle in release.bundles}),
        "not_checked": list(not_checked(form, target)),
    }


def not_checked(form: NormalForm, target: str) -> Iterator[str]:
    """Yield each residual with whose decision it is."""
    for name, waiver in sorted(view.waived(form, target).items()):
        yield f"{name}: {waiver.decision}, decided by {waiver.decided_by}"


def residual(
    form: NormalForm, target: str, label: str, whys: Mapping[str, str], assumes: Iterable[str]
) -> bytes:
    """Return ``residual.json``.

    Args:
        label: the target with its version.
        whys: why the target lacks each requirement.
    """
    found = [
        {"requirement": name, "why": whys[name], **document.expectation_document(waiver)}
        for name, waiver in sorted(view.waived(form, target).items())
    ]
    out = {
        "schema": "tallystick/residual/v1",
        "target": label,
        "not_checked": found,
        "assumed": list(assumes),
    }
    return (json.dumps(out, indent=2) + "\n").encode()


def readme(form: NormalForm, target: str, label: str, assumes: Iterable[str], apply: str) -> bytes:
    """Return ``README.md``; ``apply`` is the part with the exact commands."""
    assumed = "\n".join(f"- {line}" for line in assumes) or "- nothing"
    left = "\n".join(f"- {line}" for line in not_checked(form, target)) or "- nothing"
    text = f"""# {form.policy} for {label}

Policy `{form.policy}`, channel `{form.channel}`, {len(form.releases)} release(s), until {time(view.end(form, target))}.
`residual.json` says what this target does not check, by whose decision.

## What must be configured

{assumed}

## What is not checked

{left}

{apply.strip()}
"""
    return text.encode()


def time(at: datetime) -> str:
    """Return ``at`` as the documents spell it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

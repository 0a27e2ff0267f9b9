"""What is left to others: ``residual.json``, the head of a README, and the end that waivers set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from tallystick.compile.targets.claims import waived
from tallystick.core.expect import Waived
from tallystick.policy import document
from tallystick.policy.normal import NormalForm, PermittedRelease

RESIDUAL = "residual.json"
README = "README.md"
SCHEMA = "tallystick/residual/v1"


def end(form: NormalForm, target: str) -> datetime:
    """Return the moment after which nothing is permitted: the form's, or of the first waiver to end."""
    ends = [one.waived.until for one in waived(form, target).values() if isinstance(one.waived, Waived)]
    return min([form.not_after, *ends])


def residual(
    form: NormalForm, target: str, whys: Mapping[str, str], assumed: Iterable[str], label: str = ""
) -> bytes:
    """Return ``residual.json``: what is not checked, by whose decision, and what is taken for granted.

    Args:
        whys: requirement -> why the target can not express it.
        label: the target as it is called there, with a version; default: its name.
    """
    found = [
        {"requirement": name, "why": whys[name], **document.expectation_document(one.waived)}
        for name, one in sorted(waived(form, target).items())
    ]
    out = {
        "schema": SCHEMA,
        "target": label or target,
        "not_checked": found,
        "assumed": list(assumed),
    }
    return (json.dumps(out, indent=2) + "\n").encode()


def head(form: NormalForm, target: str) -> str:
    """Return one line that says what a file is of, and what it does not check."""
    missing = ", ".join(sorted(waived(form, target))) or "nothing"
    digest = document.digest(form)
    return f"tallystick {form.policy} for {form.channel}, normal form {digest}; not checked: {missing}"


def readme_head(
    form: NormalForm, target: str, title: str, assumed: Iterable[str], whys: Mapping[str, str]
) -> str:
    """Return the beginning of a README: of what it is, until when, and what it leaves to others."""
    releases = "\n".join(_release(one) for one in form.releases) or "- none"
    missing = "\n".join(f"- `{name}`: {whys[name]}" for name in sorted(waived(form, target))) or "- nothing"
    granted = "\n".join(f"- {line}" for line in assumed) or "- nothing"
    return (
        f"# {title}\n\n"
        f"Compiled from the policy `{form.policy}` (`{form.policy_digest}`) for `{form.channel}`;\n"
        f"normal form `{document.digest(form)}`. It gives keys until {time(end(form, target))}.\n\n"
        f"Releases:\n\n{releases}\n\n"
        f"Not checked here, by the policy's own waivers:\n\n{missing}\n\n"
        f"Taken for granted of the deployment:\n\n{granted}\n"
    )


def _release(release: PermittedRelease) -> str:
    """Return a release with everything that its permission rests on."""
    bundles = ", ".join(f"`{bundle}`" for bundle in release.bundles)
    return f"- {release.name} {release.version}: `{release.digest}`, resting on the bundles {bundles}"


def time(at: datetime) -> str:
    """Return ``at`` as RFC 3339 in UTC and whole seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

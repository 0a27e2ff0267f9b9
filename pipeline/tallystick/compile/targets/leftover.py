"""What a cloud's files say of themselves: one line, and the beginning of a README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tallystick.compile.targets.claims import waived
from tallystick.compile.targets.common import papers, view
from tallystick.policy import document
from tallystick.policy.normal import NormalForm, PermittedRelease


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
        f"normal form `{document.digest(form)}`. It gives keys until {papers.time(view.end(form, target))}.\n\n"
        f"Releases:\n\n{releases}\n\n"
        f"Not checked here, by the policy's own waivers:\n\n{missing}\n\n"
        f"Taken for granted of the deployment:\n\n{granted}\n"
    )


def _release(release: PermittedRelease) -> str:
    """Return a release with everything that its permission rests on."""
    bundles = ", ".join(f"`{bundle}`" for bundle in release.bundles)
    return f"- {release.name} {release.version}: `{release.digest}`, resting on the bundles {bundles}"

"""Several policies in one Trustee: a KBS has one resource policy, and one appraisal policy for each class of device.

The policies stay apart inside of the documents: a permit begins with its policy's name, and each policy's resources are
opened by its own permits, within its own end and age.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from tallystick.compile.targets.base import Proof
from tallystick.compile.targets.common import trial
from tallystick.compile.targets.trustee import emit
from tallystick.compile.targets.trustee.choice import TrusteeTarget
from tallystick.core.errors import Refused
from tallystick.core.findings import Finding
from tallystick.policy.normal import NormalForm


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One Trustee, and every form that it serves."""

    forms: tuple[NormalForm, ...]  # sorted by the policy's name
    choice: TrusteeTarget

    def files(self) -> dict[str, bytes]:
        """Return its files; equal deployments give equal bytes.

        Raises:
            Inexpressible: they do not fit; the error says how many releases would.
        """
        return emit.files_of(self.forms, self.choice)


def deployment(entries: Sequence[tuple[NormalForm, TrusteeTarget]]) -> Deployment:
    """Return the deployment that serves every form.

    Raises:
        Refused: they can not share one (``trustee.merge.…``): another channel, version, session or attestation keys,
            one policy twice, or one key in two policies.
    """
    findings = list(_apart(entries))
    if findings:
        raise Refused(f"{len(entries)} policies can not share one Trustee", findings=findings)
    forms = sorted((form for form, _ in entries), key=lambda form: form.policy)
    return Deployment(forms=tuple(forms), choice=entries[0][1])


def prove(files: Mapping[str, bytes], wanted: Deployment, now: datetime) -> tuple[Proof, ...]:
    """Return a proof of ``files`` for each form: its keys open for its own tuples, and not for another's.

    Raises:
        Unproven: they accept something else.
    """
    from tallystick.compile.targets.trustee.prove import evaluate

    right = wanted.files()
    trial.expect_files(emit.NAME, files, right)
    found = tuple(
        evaluate(files, form, wanted.choice, now, [one for one in wanted.forms if one is not form])
        for form in wanted.forms
    )
    trial.expect_equal(emit.NAME, files, right)
    return found


def _apart(entries: Sequence[tuple[NormalForm, TrusteeTarget]]) -> Iterator[Finding]:
    (first, choice), keys = entries[0], dict[str, str]()
    names: set[str] = set()
    for form, entry in entries:
        if form.policy in names:
            yield Finding(
                "trustee.merge.policy", form.policy, want="each policy once", got="the same name again"
            )
        names.add(form.policy)
        if form.channel != first.channel:
            yield Finding("trustee.merge.channel", f"channel of {form.policy}", first.channel, form.channel)
        for what, want, got in (
            ("version", choice.version, entry.version),
            ("session_minutes", str(choice.session_minutes), str(entry.session_minutes)),
            ("attestation_keys", _listed(choice), _listed(entry)),
        ):
            if want != got:
                yield Finding("trustee.merge.deployment", f"{what} of {form.policy}", want=want, got=got)
        for rule in form.keys:
            if (other := keys.setdefault(rule.key, form.policy)) != form.policy:
                yield Finding(
                    "trustee.merge.key", rule.key, want=f"a key of {other} alone", got=f"{form.policy} too"
                )


def _listed(choice: TrusteeTarget) -> str:
    return ", ".join(choice.attestation_keys) or "none"

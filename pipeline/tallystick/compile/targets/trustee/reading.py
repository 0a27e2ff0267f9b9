"""A Trustee policy's files before anything is evaluated, and what evaluating does not show of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from tallystick.compile.errors import Unproven
from tallystick.compile.targets.trustee import emit, limits
from tallystick.compile.targets.trustee.choice import TrusteeTarget
from tallystick.compile.targets.trustee.simulate import reference_values
from tallystick.core.digests import Digest
from tallystick.core.findings import Finding
from tallystick.policy.normal import NormalForm


def read(files: Mapping[str, bytes]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the two policies, checked for form, and what the RVPS will hold."""
    findings = [
        Finding("prove.files", name, want="this file", got="none")
        for name in (emit.AS_POLICY, emit.RESOURCE_POLICY, emit.RESIDUAL, emit.README)
        if name not in files
    ]
    if findings:
        raise Unproven("trustee: files are missing", findings=findings)
    texts = {}
    for name in (
        emit.AS_POLICY,
        emit.RESOURCE_POLICY,
        *((emit.GPU_POLICY,) if emit.GPU_POLICY in files else ()),
    ):
        try:
            texts[name] = files[name].decode("utf-8")
        except UnicodeDecodeError as error:
            finding = Finding("prove.unreadable", name, want="UTF-8", got=error.reason)
            raise Unproven(finding.message, findings=[finding]) from None
        findings += limits.check(name, texts[name])
        findings += _defaults(name, texts[name])
    if findings:
        raise Unproven("trustee: a policy would not mean there what it means here", findings=findings)
    try:
        values = reference_values(data for name, data in sorted(files.items()) if name.startswith("rvps_"))
    except (ValueError, KeyError, AttributeError) as error:
        finding = Finding("prove.unreadable", "RVPS message", want="a sample message", got=str(error))
        raise Unproven(finding.message, findings=[finding]) from None
    return texts, values


def check_text(files: Mapping[str, bytes], form: NormalForm, choice: TrusteeTarget) -> None:
    """What evaluating does not show: which rules there are, the comments, the residual and the README.

    A rule more could say yes to anything; no finite number of questions finds it.
    """
    right = emit.emit(form, choice).files
    findings = []
    for name in sorted({name for name in (*right, *files) if name.endswith(".rego")}):
        if name not in right or name not in files:
            pair = ("no such file", "a policy") if name not in right else ("this policy", "nothing")
            findings.append(Finding("prove.files", name, *pair))
            continue
        for what, part in (("comments", limits.comments_of), ("rules", limits.heads_of)):
            want, got = part(right[name].decode("utf-8")), part(files[name].decode("utf-8"))
            if want != got:
                line = next(
                    pair for pair in zip_longest(want, got, fillvalue="nothing") if pair[0] != pair[1]
                )
                findings.append(Finding(f"prove.{what}", f"{name}: {what}", *line))
    for name in (emit.RESIDUAL, emit.README):
        if files[name] != right[name]:
            digests = (str(Digest.of(right[name])), str(Digest.of(files[name])))
            findings.append(Finding("prove.differs", name, *digests))
    if findings:
        raise Unproven("trustee: the files say something else of themselves", findings=findings)


_CLAIM = re.compile(r"^(?:default )?([a-z_]+) := (-?\d{1,9})", re.MULTILINE)


def _defaults(name: str, text: str) -> Iterator[Finding]:
    """Every rule that decides has an explicit default, and trust claims are documented constants only.

    Trustee keeps one byte of a trust claim: 258 would be stored as 2, whatever the policy's reader thinks.
    """
    code = limits.code_of(text)
    if name == emit.RESOURCE_POLICY:
        if "default allow := false" not in code:
            yield Finding("trustee.default", name, want="default allow := false", got="none")
        return
    found = _CLAIM.findall(code)
    for rule in sorted({rule for rule, _ in found} | {"configuration", "executables"}):
        worst = f"default {rule} := {97 if rule == 'instance_identity' else 96}"
        if worst not in code:
            yield Finding("trustee.default", name, want=worst, got="none")
    for rule, value in found:
        if int(value) not in limits.CONSTANTS:
            want = "one of " + ", ".join(map(str, sorted(limits.CONSTANTS)))
            yield Finding("trustee.constant", f"{name}: {rule}", want=want, got=value)

"""A Trustee policy's files before anything is evaluated: do they mean there what they mean here?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tallystick.compile.errors import Unproven
from tallystick.compile.targets.trustee import emit, limits
from tallystick.compile.targets.trustee.simulate import reference_values
from tallystick.core.findings import Finding


def read(files: Mapping[str, bytes]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the two policies, checked for form, and what the RVPS will hold."""
    findings: list[Finding] = []
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

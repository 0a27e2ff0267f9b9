"""Audits of policies that nobody compiled here: the table of languages, asked in order.

A language is a row in ``AUDITORS``: its module under ``tallystick.compile.audit`` has a class ``Audit`` that is an
:class:`tallystick.compile.audit.records.Auditor`. A module is imported when a file may be of its language.
"""

from __future__ import annotations

import importlib
from typing import cast

from tallystick.compile.audit.records import Audited, Auditor, ReferenceValues
from tallystick.core.errors import Misuse, Unsupported

# name -> module. The first that recognises a file audits it, so what is told apart by little comes last.
AUDITORS: dict[str, str] = {
    "aws-key-policy": "aws",
    "azure-release-policy": "azure_skr",
    "azure-maa-policy": "azure_maa",
    "trustee-attestation-policy": "trustee",
    "trustee-resource-policy": "trustee_kbs",
    "contrast-manifest": "contrast",
    "keylime-policy": "keylime",
    "cel-condition": "cel",
}


def auditor(name: str) -> Auditor:
    """Return the auditor of the language ``name``.

    Raises:
        Misuse: there is none (``audit.language``).
    """
    module = AUDITORS.get(name)
    if module is None:
        raise Misuse(f"no language {name}; known are {', '.join(AUDITORS)}", code="audit.language")
    return cast(Auditor, importlib.import_module(f"tallystick.compile.audit.{module}").Audit())


def recognise(data: bytes, file_name: str) -> Auditor:
    """Return the auditor of the language that ``data`` is in.

    Raises:
        Unsupported: no auditor recognises it (``audit.unrecognised``).
    """
    for name in AUDITORS:
        found = auditor(name)
        if found.recognises(data, file_name):
            return found
    want = "a policy in one of " + ", ".join(AUDITORS)
    raise Unsupported(
        file_name,
        at="language",
        want=want,
        got="none of them; --language names it",
        code="audit.unrecognised",
    )


def audit(
    data: bytes, file_name: str, reference: ReferenceValues | None = None, language: str | None = None
) -> Audited:
    """Return what an audit of the policy ``data`` found.

    Args:
        reference: what was released; without it, only what is permissive whatever was released is found.
        language: the language's name, where recognising it is not left to the files' looks.

    Raises:
        Malformed, Unsupported, Misuse: as :func:`recognise` and :class:`Auditor`.
    """
    found = auditor(language) if language else recognise(data, file_name)
    return found.audit(data, reference)

"""Errors as the KBS protocol sends them: a status, a kind, and words that give no secret away.

Source: Trustee, kbs/src/error.rs (the document and its kinds) and kbs/docs/kbs_attestation_protocol.md,
"Resource Requests" (401, 403, 404). A refusal by policy is 403, as the protocol says; Trustee's code sends
401 there, which makes its client attest again and again for an answer that does not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tallystick.core.errors import (
    Malformed,
    Misuse,
    NotGenuine,
    Refused,
    TallystickError,
    Unreachable,
    Unsupported,
)

TYPE_PREFIX = "https://github.com/confidential-containers/kbs/errors/"

ATTESTATION = "AttestationError"
POLICY_DENY = "PolicyDeny"
POLICY_ENGINE = "PolicyEngineError"
NO_TOKEN = "TokenNotFound"  # noqa: S105 - the protocol's name of an error
BAD_PATH = "InvalidRequestPath"
NO_RESOURCE = "PluginNotFound"
MALFORMED = "SerdeError"
INTERNAL = "PluginInternalError"


class Answer(Exception):
    """What is sent instead of a result."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        code: str,
        decision: str = "",
        findings: Iterable[Mapping[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.decision = decision
        self.document: dict[str, Any] = {"type": f"{TYPE_PREFIX}{kind}", "detail": detail, "code": code}
        if decision:
            self.document["decision"] = decision
        reasons = [dict(finding) for finding in findings]
        if reasons:
            self.document["findings"] = reasons


def answer(error: TallystickError, *, kind: str = ATTESTATION) -> Answer:
    """Return what a client is told of ``error``, which came of the client's own bytes or of our own state.

    What is wrong with our own files, disk or policies is the operator's business: the client gets the code.
    """
    match error:
        case Malformed():
            return Answer(400, MALFORMED, error.message, code=error.code)
        case Unsupported():
            return Answer(400, kind, error.message, code=error.code)
        case NotGenuine():
            return Answer(401, kind, error.message, code=error.code)
        case Refused():
            return Answer(403, POLICY_DENY, "refused", code=error.code)
        case Unreachable() | Misuse() | _:
            return Answer(503, INTERNAL, "the broker can not answer now", code=error.code)

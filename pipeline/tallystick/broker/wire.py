"""Errors as the KBS protocol sends them: a status, a kind, and words that give no secret away.

Source: Trustee, kbs/src/error.rs (the document and its kinds) and kbs/docs/kbs_attestation_protocol.md,
"Resource Requests" (401, 403, 404). A refusal by policy is 403, as the protocol says; Trustee's code sends
401 there, which makes its client attest again and again for an answer that does not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tallystick.core.errors import Malformed, NotGenuine, TallystickError, Unsupported
from tallystick.core.findings import Finding
from tallystick.handshake.kbs import ErrorDocument

WITHHELD = "(withheld)"

ATTESTATION = "AttestationError"
POLICY_DENY = "PolicyDeny"
NO_TOKEN = "TokenNotFound"  # noqa: S105 - the protocol's name of an error
BAD_PATH = "InvalidRequestPath"
SERIALIZATION = "SerdeError"
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
        findings: Iterable[Finding] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.decision = decision
        self.document = ErrorDocument(
            kind=kind, detail=detail, code=code, decision=decision, findings=tuple(findings)
        ).document()


def answer(error: TallystickError, *, findings: Iterable[Finding] = (), decision: str = "") -> Answer:
    """Return what a client is told of ``error``.

    What came of the client's own bytes is told in full. What is wrong with our own clock, disk or files is the
    operator's business: the client gets its code.
    """
    match error:
        case Malformed() | Unsupported():
            status = 400
        case NotGenuine():
            status = 401
        case _:
            return Answer(503, INTERNAL, "the broker can not answer now", code=error.code)
    kind = SERIALIZATION if isinstance(error, Malformed) else ATTESTATION
    return Answer(status, kind, error.message, code=error.code, decision=decision, findings=findings)


def not_attested() -> Answer:
    """Return the answer to a fetch without an attested session. A bearer token alone is one of those."""
    detail = "a key is released to a session that has attested; a token alone does not release one here"
    return Answer(401, NO_TOKEN, detail, code="session.not-attested")


def no_such_path(status: int = 404, code: str = "path.unknown") -> Answer:
    """Return the answer to a request for what is not there."""
    return Answer(status, BAD_PATH, "there is nothing at this path", code=code)


def denied(findings: Iterable[Finding], *, own: Sequence[Finding], decision: str) -> Answer:
    """Return the answer to a refused fetch: which checks failed, and of the workload's own claims what they were.

    The reference values are not in it, nor what is wrong with the policies; the operator reads both under the
    decision's identifier.
    """
    told = [redacted(finding, own=finding in own) for finding in findings]
    said = ", ".join(f"{finding.where} [{finding.code}]" for finding in told)
    code = told[0].code if told else "refused"
    return Answer(
        403,
        POLICY_DENY,
        f"Access denied by policy: {said}; decision {decision}",
        code=code,
        decision=decision,
        findings=told,
    )


def redacted(finding: Finding, *, own: bool) -> Finding:
    """Return ``finding`` as a refused workload may read it (DESIGN.md, invariant 10)."""
    return Finding(finding.code, finding.where, WITHHELD, finding.got if own else WITHHELD)

"""Where each issuer's tokens have the claims of evidence, as paths of names.

Source: Trustee, attestation-service/docs/tcb_claims.md and ear_token/broker.rs (EAR); Google, "Confidential Space
token claims"; Intel Trust Authority, "Attestation tokens" (version 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tallystick.compile.domain import Case
from tallystick.compile.targets.common.trial import placed
from tallystick.compile.targets.intel_ita import claims as ita
from tallystick.compile.targets.vault_jwt.choice import Tokens
from tallystick.policy.platforms import platforms

Where = tuple[str, ...]
_SUBMOD = ("submods", "cpu0")
STATUS = (*_SUBMOD, "ear.status")
_ANNOTATED = (*_SUBMOD, "ear.veraison.annotated-evidence")
_TEES = {"snp-report": "snp", "tdx-quote": "tdx", "sgx-quote": "sgx", "tpm-quote": "tpm"}
_BESIDE = ("init_data", "report_data")  # of all evidence; not among a TEE's own claims
ROOTS = {Tokens.GCP: {"gcp-token": "google-confidential-space"}, Tokens.ITA: ita.ROOTS, Tokens.EAR: {}}
USER_CLAIM = {Tokens.GCP: "sub", Tokens.ITA: "iss", Tokens.EAR: "iss"}


def names(tokens: Tokens) -> dict[str, dict[str, Where]]:
    """Return where claims are in an issuer's tokens, by kind of evidence and claim path."""
    if tokens is Tokens.ITA:
        return {kind: dict(table) for kind, table in ita.NAMES.items()}
    found: dict[str, dict[str, Where]] = {}
    for known in platforms():
        kind = known.evidence_kind
        if (tokens is Tokens.GCP and kind == "gcp-token") or (tokens is Tokens.EAR and kind in _TEES):
            paths = (*known.registers, *(name for name, _ in known.claims))
            found.setdefault(kind, {}).update({path: where(tokens, kind, path) for path in paths})
    return found


def where(tokens: Tokens, kind: str, path: str) -> Where:
    """Return where the claim at ``path`` is; a claim that the issuer does not know is somewhere of its own."""
    if tokens is Tokens.ITA:
        return ita.NAMES.get(kind, {}).get(path, (kind, path))
    if tokens is Tokens.GCP:
        return tuple(path.split(".")) if kind == "gcp-token" else (kind, path)
    if path in _BESIDE:
        return (*_ANNOTATED, path)
    return (*_ANNOTATED, _TEES.get(kind, kind), *path.split("."))


def token(tokens: Tokens, case: Case, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the claims of a token over a case's evidence; ``about`` are those of the token itself."""
    found: dict[Where, Any] = {(name,): value for name, value in about.items()}
    if tokens is Tokens.EAR:
        found[STATUS] = "affirming"
    found |= {where(tokens, case.kind, path): value for path, value in case.claims.items()}
    return placed(found)


def pointer(path: Where) -> str:
    """Return a path as the JSON pointer that Vault takes for a claim. No name in it has ``/`` or ``~``."""
    return "/" + "/".join(path)

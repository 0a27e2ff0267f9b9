"""The kinds of evidence, closed: each has one module, loaded when evidence of that kind comes.

A module for one kind has ``KIND`` and ``verify(data, endorsements, *, nonce, at)``; one for several has
``KINDS`` and takes the kind first. Either may have ``show(data)``. Adding a kind is adding its module: the
table names it already, and until it is there the kind is unsupported.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from datetime import datetime
from types import ModuleType
from typing import Any, cast

from tallystick.core.errors import Misuse, Unsupported
from tallystick.evidence.claims import Claims

# DESIGN.md, "The command line": kind -> module of this package.
MODULES: dict[str, str] = {
    "snp-report": "snp_report",
    "azure-snp-vtpm": "azure_vtpm",
    "azure-tdx-vtpm": "azure_vtpm",
    "tdx-quote": "quote",
    "sgx-quote": "quote",
    "nitro": "nitro",
    "cca-token": "cca_token",
    "nvidia-gpu": "nvidia",
    "nvidia-switch": "nvidia",
    "tpm-quote": "tpm_quote",
    "gcp-token": "token",
    "azure-maa-token": "token",
    "ita-token": "token",
    "ear": "token",
}


def verify(
    kind: str,
    data: bytes,
    endorsements: Sequence[bytes],
    *,
    nonce: bytes | None,
    at: datetime,
    audience: str | None = None,
) -> Claims:
    """Return what evidence of ``kind`` claims that is genuine at ``at``.

    Args:
        data: the evidence; or a machine's with that of its devices, as one (see :mod:`composite`).
        endorsements: files that verification may rest on; each kind's module says what they may be.
        nonce: what the evidence must be bound to; None when the caller compares ``report_data``.
        audience: for whom a service's token must be; None when the caller compares it.

    Raises:
        Malformed, Unsupported: bytes that are no such evidence, or a kind that can not be verified.
        Misuse: an audience for evidence that is no token (``evidence.audience``).
        NotGenuine: with a finding for every check that does not hold.
    """
    module = _module(kind)  # an unknown kind is the first thing to say
    if audience is not None:
        if MODULES[kind] != "token":
            raise Misuse(f"{kind} has no audience: only tokens have", code="evidence.audience")
        return cast(Claims, module.verify(kind, data, endorsements, nonce=nonce, at=at, audience=audience))
    if data[:64].lstrip().startswith(b"{") and b'"tee-evidence"' in data:
        from tallystick.evidence import composite

        return composite.verify(kind, data, endorsements, nonce=nonce, at=at)
    return verify_one(kind, data, endorsements, nonce=nonce, at=at)


def verify_one(
    kind: str, data: bytes, endorsements: Sequence[bytes], *, nonce: bytes | None, at: datetime
) -> Claims:
    """Return what :func:`verify` does, of evidence that is no composite."""
    module = _module(kind)
    if hasattr(module, "KINDS"):
        return cast(Claims, module.verify(kind, data, endorsements, nonce=nonce, at=at))
    return cast(Claims, module.verify(data, endorsements, nonce=nonce, at=at))


def show(kind: str, data: bytes) -> dict[str, Any]:
    """Return every field of evidence of ``kind`` as JSON values. Nothing of it is verified.

    Raises:
        Malformed, Unsupported: as :func:`verify`, or a kind that has no dump.
    """
    module = _module(kind)
    if not hasattr(module, "show"):
        raise Unsupported("evidence", at="kind", want="one that can be shown", got=kind, code="evidence.show")
    if hasattr(module, "KINDS"):
        return cast(dict[str, Any], module.show(kind, data))
    return cast(dict[str, Any], module.show(data))


def supported() -> tuple[str, ...]:
    """Return the kinds that this version can verify."""
    return tuple(kind for kind in MODULES if _name(kind))


def _module(kind: str) -> ModuleType:
    name = _name(kind)
    if not name:
        raise Unsupported(
            "evidence", at="kind", want="one of " + ", ".join(supported()), got=kind, code="evidence.kind"
        )
    return importlib.import_module(name)


def _name(kind: str) -> str:
    """Return the full name of the module for ``kind``; "" when there is none."""
    name = f"{__package__}.{MODULES[kind]}" if kind in MODULES else ""
    return name if name and importlib.util.find_spec(name) is not None else ""

"""What is checked of every bundle, whichever way its signature is: spelling, subject, signer, times, windows."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from tallystick.core.errors import Malformed
from tallystick.formats import dsse, intoto, sigstore_bundle
from tallystick.formats.sigstore_bundle import Bundle
from tallystick.signing.artifact import Artifact
from tallystick.signing.records import Builder, Identity, VerifiedStatement
from tallystick.signing.refusals import refusal
from tallystick.signing.root import Window

SKEW = timedelta(minutes=5)  # how far a log's clock may be ahead of ours


class _Windowed(Protocol):
    """A part of a trusted root."""

    @property
    def window(self) -> Window: ...


P = TypeVar("P", bound=_Windowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What held of a bundle: who signed, when, and what kind of statement it is (None: a file's signature)."""

    signer: Identity | None  # None: a bare key
    signed_at: datetime | None  # None: no log or authority said so
    predicate_type: str | None
    log_checked: bool


def check_canonical(bundle: Bundle, data: bytes, what: str) -> None:
    """Check that the file is what :mod:`tallystick.signing.sigstore` writes: v0.3, RFC 8785, and no hints.

    Raises:
        Malformed: it is not.
    """
    if bundle.media_type != sigstore_bundle.MEDIA_TYPE:
        raise Malformed(what, at="mediaType", want=sigstore_bundle.MEDIA_TYPE, got=bundle.media_type)
    # A bundle holds texts, lists and objects with ASCII names: of these, this is RFC 8785, ten times as fast.
    spelled = json.dumps(bundle.document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if spelled.encode() != data:
        raise Malformed(
            what, at="encoding", want="RFC 8785 bytes", got="another spelling of the same document"
        )
    envelope = bundle.content
    if isinstance(envelope, dsse.Envelope) and any(sig.keyid is not None for sig in envelope.signatures):
        raise Malformed(what, at="signatures.keyid", want="no hint, since nothing signs it", got="a keyid")


def check_subject(statement: intoto.Statement, artifact: Artifact, what: str) -> None:
    """Check that ``statement`` is about ``artifact``.

    Raises:
        NotGenuine: ``bundle.subject``.
    """
    if not any(statement.names(digest) for digest in artifact.digests()):
        named = ", ".join(f"{key}:{value}" for one in statement.subjects[:3] for key, value in one.digests)
        raise refusal(what, "bundle.subject", "subject", str(artifact.sha256), named)


def check_builder(
    verified: VerifiedStatement, builder_id: str, builders: Collection[Builder], what: str
) -> Builder:
    """Return the builder that signed ``verified`` and may claim ``builder_id``: exact pairs only.

    Source: SLSA v1.2, verifying artifacts, step 1.

    Raises:
        NotGenuine: ``bundle.builder-id``.
    """
    for builder in builders:
        if builder.identity == verified.signer and builder.builder_id == builder_id:
            return builder
    want = (
        " or ".join(b.builder_id for b in builders if b.identity == verified.signer)
        or "no builder of this signer"
    )
    raise refusal(what, "bundle.builder-id", f"builder.id claimed by {verified.signer.san}", want, builder_id)


def check_signer(signer: Identity, signers: Collection[Identity], what: str) -> Identity:
    """Return ``signer`` when it is exactly one of ``signers``.

    Raises:
        NotGenuine: ``bundle.identity``.
    """
    if signer not in signers:
        want = " or ".join(f"{one.san} ({one.issuer})" for one in sorted(signers)) or "nobody"
        raise refusal(what, "bundle.identity", "signer", want, f"{signer.san} ({signer.issuer})")
    return signer


def check_times(times: Collection[datetime], now: datetime, what: str) -> None:
    """Check that somebody said when, and that nobody said later than ``now``.

    Raises:
        NotGenuine: ``bundle.timestamp`` or ``bundle.future``.
    """
    if not times:
        raise refusal(what, "bundle.timestamp", "time", "a log's promise or a timestamp", "neither")
    if max(times) > now + SKEW:
        raise refusal(what, "bundle.future", "time", f"not after {now.isoformat()}", max(times).isoformat())


def signature_of(bundle: Bundle) -> bytes:
    """Return the bundle's first signature, which timestamps are over."""
    content = bundle.content
    return content.signatures[0].sig if isinstance(content, dsse.Envelope) else content.signature


def within(
    parts: tuple[P, ...], times: Collection[datetime], what: str, code: str, name: str
) -> tuple[P, ...]:
    """Return those of ``parts`` that were trusted at all of ``times``.

    Raises:
        NotGenuine: ``code``: none was.
    """
    found = tuple(part for part in parts if part.window.holds(times))
    if not found:
        windows = ", ".join(str(part.window) for part in parts)
        raise refusal(what, code, f"time under the {name}'s validFor", windows, max(times).isoformat())
    return found

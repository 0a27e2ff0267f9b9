"""DSSE: the bytes a signature covers, and the JSON envelope.

Source: secure-systems-lab/dsse, protocol.md v1.0 and envelope.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed
from tallystick.formats import canonical_base64

_WHAT = "DSSE envelope"
_MAX_SIGNATURES = 64  # far above any threshold we know; bounds the work an envelope can ask for


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature over the envelope's PAE."""

    sig: bytes
    keyid: str | None = None  # an unauthenticated hint (envelope.md): never a reason to trust


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A payload, what kind it says it is, and who signed both. Nothing here is verified."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]

    @property
    def signed_bytes(self) -> bytes:
        """The exact bytes that every signature covers."""
        return pae(self.payload_type, self.payload)


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the exact bytes a DSSE signature covers.

    Both lengths count *bytes of UTF-8*, not characters: the two differ as soon
    as a payload type leaves ASCII, and a character count would sign bytes that
    no conforming verifier rebuilds.
    """
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def parse(data: bytes, what: str = _WHAT) -> Envelope:
    """Return the envelope that the JSON text ``data`` holds.

    Raises:
        Malformed: not JSON, a field missing, unknown or of another type, base64 that is not canonical,
            or no signature at all.
    """
    return from_json(jsondoc.loads(data, what), what, "envelope")


def from_json(value: Any, what: str, at: str) -> Envelope:
    """Return the envelope that the JSON value ``value`` holds, naming ``at`` in errors.

    Raises:
        Malformed: as :func:`parse`.
    """
    fields = _fields(value, what, at, required=("payload", "payloadType", "signatures"), optional=())
    kind, listed = fields["payloadType"], fields["signatures"]
    if not isinstance(kind, str) or not kind:
        raise Malformed(what, at=f"{at}.payloadType", want="a text", got=repr(kind))
    if not isinstance(listed, list) or not 1 <= len(listed) <= _MAX_SIGNATURES:
        raise Malformed(
            what, at=f"{at}.signatures", want=f"1 to {_MAX_SIGNATURES} signatures", got=_size(listed)
        )
    return Envelope(
        payload=canonical_base64.decode(fields["payload"], what, f"{at}.payload"),
        payload_type=kind,
        signatures=tuple(
            _signature(item, what, f"{at}.signatures[{index}]") for index, item in enumerate(listed)
        ),
    )


def to_json(envelope: Envelope) -> dict[str, Any]:
    """Return ``envelope`` as the JSON value that :func:`from_json` reads back."""
    return {
        "payload": canonical_base64.encode(envelope.payload),
        "payloadType": envelope.payload_type,
        "signatures": [
            {"sig": canonical_base64.encode(signature.sig)}
            | ({} if signature.keyid is None else {"keyid": signature.keyid})
            for signature in envelope.signatures
        ],
    }


def _signature(value: Any, what: str, at: str) -> Signature:
    fields = _fields(value, what, at, required=("sig",), optional=("keyid",))
    keyid = fields.get("keyid")
    if keyid is not None and not isinstance(keyid, str):
        raise Malformed(what, at=f"{at}.keyid", want="a text", got=type(keyid).__name__)
    sig = canonical_base64.decode(fields["sig"], what, f"{at}.sig")
    if not sig:
        raise Malformed(what, at=f"{at}.sig", want="a signature", got="nothing")
    return Signature(sig=sig, keyid=keyid)


def _fields(
    value: Any, what: str, at: str, *, required: tuple[str, ...], optional: tuple[str, ...]
) -> dict[str, Any]:
    """Return ``value`` when it is an object of exactly these fields."""
    if not isinstance(value, dict):
        raise Malformed(what, at=at, want="an object", got=type(value).__name__)
    for name in required:
        if name not in value:
            raise Malformed(what, at=at, want=f"the field {name}", got="no such field")
    for name in value:
        if name not in required and name not in optional:
            raise Malformed(what, at=at, want=f"only {', '.join((*required, *optional))}", got=name)
    return value


def _size(value: object) -> str:
    return f"{len(value)}" if isinstance(value, list) else type(value).__name__

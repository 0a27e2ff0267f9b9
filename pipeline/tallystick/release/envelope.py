"""in-toto metadata (layouts and links) in a DSSE envelope with one spelling: RFC 8785 inside and out.

Source: in-toto specification 1.0, sections 4.3 and 4.4; in-toto ITE-5 (DSSE).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed
from tallystick.formats import dsse
from tallystick.formats.intoto import PAYLOAD_TYPE
from tallystick.release.keys import Signatory


def seal(document: Mapping[str, Any], signatories: Sequence[Signatory]) -> bytes:
    """Return ``document`` signed by every one of ``signatories``."""
    import rfc8785

    payload = rfc8785.dumps(dict(document))
    covered = dsse.pae(PAYLOAD_TYPE, payload)
    signatures = tuple(
        dsse.Signature(sig=bytes.fromhex(who.signer.sign(covered).signature), keyid=who.keyid)
        for who in signatories
    )
    envelope = dsse.Envelope(payload=payload, payload_type=PAYLOAD_TYPE, signatures=signatures)
    return rfc8785.dumps(dsse.to_json(envelope))


def unseal(data: bytes, what: str, kind: str) -> tuple[dsse.Envelope, dict[str, Any]]:
    """Return the envelope ``data`` and the document of ``_type`` ``kind`` in it. No signature is checked.

    A second spelling of the same values is refused, so that no byte of a file can change unseen.

    Raises:
        Malformed: not an envelope of in-toto metadata of that kind, or not in its one spelling.
    """
    import rfc8785

    envelope = dsse.parse(data, what)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise Malformed(what, at="payloadType", want=PAYLOAD_TYPE, got=envelope.payload_type)
    document = jsondoc.loads(envelope.payload, what)
    if not isinstance(document, dict) or document.get("_type") != kind:
        got = document.get("_type") if isinstance(document, dict) else type(document).__name__
        raise Malformed(what, at="_type", want=kind, got=repr(got))
    try:
        spelled = rfc8785.dumps(dsse.to_json(envelope)), rfc8785.dumps(document)
    except rfc8785.CanonicalizationError as error:
        raise Malformed(what, at="values", want="what RFC 8785 can write", got=str(error)) from None
    if spelled != (data, envelope.payload):
        raise Malformed(what, at="bytes", want="RFC 8785 form", got="another spelling of the same values")
    return envelope, document

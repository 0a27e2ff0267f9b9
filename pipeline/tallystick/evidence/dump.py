"""What ``evidence show`` prints of records and certificates: every field, as JSON values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed
from tallystick.evidence.chain import load_certificates, quiet


def plain(value: Any, *, without: Iterable[str] = ()) -> Any:
    """Return ``value`` as JSON has it: records and maps as objects, bytes in hex, times in RFC 3339.

    Args:
        without: fields of the outermost record that say the same as others.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        left_out = set(without)
        return {
            field.name: plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.name not in left_out
        }
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def certificate(one: x509.Certificate) -> dict[str, Any]:
    """Return what there is to know of a certificate at a glance."""
    with quiet():
        return {
            "subject": one.subject.rfc4514_string(),
            "issuer": one.issuer.rfc4514_string(),
            "serial": f"{one.serial_number:x}",
            "not_before": one.not_valid_before_utc.isoformat(),
            "not_after": one.not_valid_after_utc.isoformat(),
            "sha256": Digest.of(one.public_bytes(Encoding.DER)).hex,
        }


def certificates(data: bytes, what: str) -> list[dict[str, Any]]:
    """Return :func:`certificate` of each in PEM or DER; of bytes that are none, their digest and what is wrong."""
    try:
        return [certificate(one) for one in load_certificates(data, what)]
    except Malformed as error:
        return [{"unreadable": error.message, "sha256": Digest.of(data).hex}]

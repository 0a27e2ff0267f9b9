"""A Sigstore trusted root: the authorities and logs, each with the time for which it is trusted.

Source: sigstore/protobuf-specs, sigstore_trustroot.proto, in its JSON form.

sigstore-python 4.5.1 does not hold a CA, log or CT key to its ``validFor``. Here a root is narrowed to what was
trusted at the moment of one signature, and the library then only ever sees that part, with open windows: which
also makes its answer independent of the machine's clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import canonical_base64

MEDIA_TYPE = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
EMBEDDED_DEV = "embedded-dev"  # what every authority of an embedded Sigstore has in its name
_WHAT = "trusted root"
_ALWAYS = {"start": "1970-01-01T00:00:00Z"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A closed interval of time: both ends are inside (sigstore_common.proto, TimeRange)."""

    start: datetime
    end: datetime | None

    def holds(self, instants: Iterable[datetime]) -> bool:
        """Say whether every one of ``instants`` is inside."""
        return all(self.start <= at and (self.end is None or at <= self.end) for at in instants)

    def __str__(self) -> str:
        return f"{self.start.isoformat()} to {self.end.isoformat() if self.end else 'open end'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogKey:
    """A transparency log, or a certificate transparency log."""

    log_id: bytes
    spki: bytes  # DER
    details: str  # protobuf's PublicKeyDetails
    window: Window
    document: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate or timestamp authority: its certificates as DER, the issuing one first."""

    certificates: tuple[bytes, ...]
    window: Window
    document: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedRoot:
    """Everything a Sigstore bundle is believed for."""

    logs: tuple[LogKey, ...]
    authorities: tuple[Authority, ...]
    ct_logs: tuple[LogKey, ...]
    timestamp_authorities: tuple[Authority, ...]

    @property
    def is_embedded(self) -> bool:
        """Whether some authority is that of an embedded Sigstore, which is for development only."""
        mark = EMBEDDED_DEV.encode()
        return any(mark in der for authority in self.authorities for der in authority.certificates)


def parse(data: bytes) -> TrustedRoot:
    """Return the trusted root that the JSON text ``data`` holds.

    Raises:
        Malformed: not JSON, or a field missing or of another type; a window without a start, too.
        Unsupported: another media type.
    """
    document = jsondoc.loads(data, _WHAT)
    if not isinstance(document, dict):
        raise Malformed(_WHAT, at="document", want="an object", got=type(document).__name__)
    if document.get("mediaType") != MEDIA_TYPE:
        raise Unsupported(_WHAT, at="mediaType", want=MEDIA_TYPE, got=repr(document.get("mediaType")))
    known = ("mediaType", "tlogs", "certificateAuthorities", "ctlogs", "timestampAuthorities")
    for name in document:
        if name not in known:
            raise Malformed(_WHAT, at="document", want=f"only {', '.join(known)}", got=name)
    return TrustedRoot(
        logs=tuple(_log_key(item, at) for item, at in _items(document, "tlogs")),
        authorities=tuple(_authority(item, at) for item, at in _items(document, "certificateAuthorities")),
        ct_logs=tuple(_log_key(item, at) for item, at in _items(document, "ctlogs")),
        timestamp_authorities=tuple(
            _authority(item, at) for item, at in _items(document, "timestampAuthorities")
        ),
    )


def narrowed(
    logs: Iterable[LogKey],
    authorities: Iterable[Authority],
    ct_logs: Iterable[LogKey],
    timestamp_authorities: Iterable[Authority],
) -> bytes:
    """Return the trusted root of exactly these, with every window open: who calls has checked the windows."""
    return jsondoc.dumps(
        {
            "mediaType": MEDIA_TYPE,
            "tlogs": [_opened_log(log.document) for log in logs],
            "certificateAuthorities": [
                authority.document | {"validFor": _ALWAYS} for authority in authorities
            ],
            "ctlogs": [_opened_log(log.document) for log in ct_logs],
            "timestampAuthorities": [a.document | {"validFor": _ALWAYS} for a in timestamp_authorities],
        }
    )


def _opened_log(document: dict[str, Any]) -> dict[str, Any]:
    return document | {"publicKey": document["publicKey"] | {"validFor": _ALWAYS}}


def _items(document: dict[str, Any], name: str) -> Iterable[tuple[dict[str, Any], str]]:
    value = document.get(name, [])
    if not isinstance(value, list):
        raise Malformed(_WHAT, at=name, want="a list", got=type(value).__name__)
    for index, item in enumerate(value):
        yield _object(item, f"{name}[{index}]"), f"{name}[{index}]"


def _log_key(item: dict[str, Any], at: str) -> LogKey:
    key = _object(item.get("publicKey"), f"{at}.publicKey")
    log_id = _object(item.get("logId"), f"{at}.logId")
    details = key.get("keyDetails")
    if not isinstance(details, str):
        raise Malformed(_WHAT, at=f"{at}.publicKey.keyDetails", want="a text", got=repr(details))
    return LogKey(
        log_id=canonical_base64.decode(log_id.get("keyId"), _WHAT, f"{at}.logId.keyId"),
        spki=canonical_base64.decode(key.get("rawBytes"), _WHAT, f"{at}.publicKey.rawBytes"),
        details=details,
        window=_window(key.get("validFor"), f"{at}.publicKey.validFor"),
        document=item,
    )


def _authority(item: dict[str, Any], at: str) -> Authority:
    chain = _object(item.get("certChain"), f"{at}.certChain")
    listed = chain.get("certificates")
    if not isinstance(listed, list) or not listed:
        raise Malformed(_WHAT, at=f"{at}.certChain.certificates", want="certificates", got=repr(listed))
    return Authority(
        certificates=tuple(
            canonical_base64.decode(
                _object(one, at).get("rawBytes"), _WHAT, f"{at}.certChain[{index}].rawBytes"
            )
            for index, one in enumerate(listed)
        ),
        window=_window(item.get("validFor"), f"{at}.validFor"),
        document=item,
    )


def _window(value: Any, at: str) -> Window:
    fields = _object(value, at)
    end = fields.get("end")
    return Window(
        start=_time(fields.get("start"), f"{at}.start"),
        end=None if end is None else _time(end, f"{at}.end"),
    )


def _time(value: Any, at: str) -> datetime:
    pattern = r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)"
    match = re.fullmatch(pattern, value) if isinstance(value, str) else None
    if match is None:
        raise Malformed(_WHAT, at=at, want="an RFC 3339 time", got=repr(value))
    try:
        micros = (match[2] or "0").ljust(6, "0")[:6]
        return datetime.fromisoformat(f"{match[1]}.{micros}{match[3]}").astimezone(UTC)
    except (ValueError, OverflowError):
        raise Malformed(_WHAT, at=at, want="an RFC 3339 time", got=value) from None


def _object(value: Any, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(_WHAT, at=at, want="an object", got=type(value).__name__)
    return value

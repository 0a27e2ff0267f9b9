"""When a bundle was signed: by its log's promise, and by RFC 3161 timestamps, every one of which has to hold.

sigstore-python passes over a timestamp that does not hold when another source of time does, and ends a TSA's
window before its last moment (protobuf-specs says the interval is closed).
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from tallystick.formats.sigstore_bundle import Bundle, LogEntry
from tallystick.signing.checks import check_times, signature_of
from tallystick.signing.entry import promised_time
from tallystick.signing.refusals import refusal
from tallystick.signing.root import Authority, TrustedRoot

if TYPE_CHECKING:
    from rfc3161_client.verify import Verifier


def when(
    bundle: Bundle, entry: LogEntry, root: TrustedRoot, now: datetime, what: str
) -> tuple[tuple[datetime, ...], tuple[Authority, ...]]:
    """Return every time at which the signature is said to have been there, and the authorities that said so.

    The timestamps are verified here; the log's promise is only read, and :mod:`entry` or the library checks it.

    Raises:
        NotGenuine: ``bundle.timestamp``: nobody said when, or a timestamp is from no known authority, over
            something else, or not in its authority's window; ``bundle.future``.
    """
    times: list[datetime] = []
    said_by: list[Authority] = []
    for index, response in enumerate(bundle.timestamps):
        place = f"{what}: timestamp {index}"
        at, authority = _verify_one(response, signature_of(bundle), root.timestamp_authorities, place)
        times.append(at)
        said_by.append(authority)
    promised = promised_time(entry)
    if promised is not None:
        times.append(promised)
    check_times(times, now, what)
    return tuple(times), tuple(authority for authority in root.timestamp_authorities if authority in said_by)


def _verify_one(
    response: bytes, signature: bytes, authorities: tuple[Authority, ...], what: str
) -> tuple[datetime, Authority]:
    from rfc3161_client import decode_timestamp_response

    reasons = []
    try:
        decoded = decode_timestamp_response(response)
        at: datetime = decoded.tst_info.gen_time
    except Exception as error:
        raise refusal(what, "bundle.timestamp", "response", "one that can be read", str(error)) from None
    for authority in authorities:
        try:
            _verifier(authority).verify_message(decoded, signature)
        except Exception as error:
            reasons.append(str(error))
            continue
        if authority.window.holds((at,)):
            return at, authority
        reasons.append(f"{at.isoformat()} is not within {authority.window}")
    got = "; ".join(reasons) or "the trusted root has none"
    raise refusal(what, "bundle.timestamp", "time", "a timestamp by a trusted authority", got)


def _verifier(authority: Authority) -> Verifier:
    from cryptography.x509 import load_der_x509_certificate
    from rfc3161_client import VerifierBuilder

    leaf, *above = (load_der_x509_certificate(der) for der in authority.certificates)
    if not above:
        raise ValueError("a timestamp authority needs a certificate and a root")
    builder = VerifierBuilder().tsa_certificate(leaf).add_root_certificate(above[-1])
    for certificate in above[:-1]:
        builder = builder.add_intermediate_certificate(certificate)
    return builder.build()

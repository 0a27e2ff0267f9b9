"""Who holds which key, as the trust file says: in production, CA, log and approver keys lie in different hands.

No bytes can prove who holds a key. What is checked is that somebody wrote it down for every key, in the file
that is reviewed, and that nobody is written down for two of these parts.

Source: docs/decisions/0064-witnesses-and-custody.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tallystick.core.digests import Digest
from tallystick.core.findings import Finding
from tallystick.release import keys
from tallystick.release.records import Person
from tallystick.signing import root as roots
from tallystick.signing.records import Trust


def findings(trust: Trust, people: Iterable[Person]) -> Iterator[Finding]:
    """Yield where keys have no holder, or one holder has two of: CA, log, approver, witness.

    Args:
        people: who holds a key of the channel.
    """
    holders: dict[str, set[str]] = {}
    for part, name, digest in _keys(trust, people):
        holder = trust.holder(digest)
        if holder is None:
            want = f"a holder in the trust file's custody for {digest}"
            yield Finding("release.custody.unknown", f"{part} key {name}", want=want, got="none")
        else:
            holders.setdefault(holder, set()).add(part)
    for witness in trust.witnesses:
        holders.setdefault(witness.holder, set()).add("witness")
    for holder, parts in sorted(holders.items()):
        if len(parts) > 1:
            got = " and ".join(sorted(parts))
            yield Finding("release.custody.shared", holder, want="one of CA, log, approver, witness", got=got)
    if not trust.witnesses:
        yield Finding("release.custody.witness", "trust file", want="at least one witness", got="none")


def _keys(trust: Trust, people: Iterable[Person]) -> Iterator[tuple[str, str, Digest]]:
    """Give every key as (part, name, SHA-256 of its SubjectPublicKeyInfo)."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    root = roots.parse(trust.sigstore_root)
    for authority in root.authorities:
        for der in authority.certificates:
            certificate = x509.load_der_x509_certificate(der)
            spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            yield "CA", certificate.subject.rfc4514_string() or "without a name", Digest.of(spki)
    for log in (*root.logs, *root.ct_logs):
        yield "log", log.log_id.hex()[:16], Digest.of(log.spki)
    for person in people:
        yield "approver", person.name, Digest.of(keys.spki(person.public_key))

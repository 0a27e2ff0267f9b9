"""The transparency-log entry of a bundle: its proof, checkpoint, promise, and what it says was logged.

:func:`check_shape` is what sigstore-python does not check: that the checkpoint is of the proof's tree size and
in its one spelling, and that nothing unsigned says something else than what is signed. :func:`verify` is all of
it, for bundles that sigstore-python does not take.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.formats import canonical_base64
from tallystick.formats.sigstore_bundle import Bundle, InclusionProof, LogEntry
from tallystick.signing.refusals import refusal
from tallystick.signing.root import LogKey, TrustedRoot
from tallystick.tlog import checkpoint as cp
from tallystick.tlog import merkle

_KEYS = {"PKIX_ECDSA_P256_SHA_256": ec.EllipticCurvePublicKey, "PKIX_ED25519": ed25519.Ed25519PublicKey}


def sole_entry(bundle: Bundle, what: str) -> LogEntry:
    """Return the one log entry of ``bundle``.

    Raises:
        NotGenuine: ``bundle.log-entry``: there is none, or more than one.
    """
    if len(bundle.entries) != 1:
        raise refusal(what, "bundle.log-entry", "tlogEntries", "exactly one", f"{len(bundle.entries)}")
    return bundle.entries[0]


def promised_time(entry: LogEntry) -> datetime | None:
    """Return when the log says that it took the entry, which only its signed promise makes worth anything."""
    if entry.integrated_time is None or entry.signed_entry_timestamp is None:
        return None
    try:
        return datetime.fromtimestamp(entry.integrated_time, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.max.replace(tzinfo=UTC)  # after every window and every certificate


def log_of(entry: LogEntry, root: TrustedRoot, what: str) -> tuple[LogKey, ...]:
    """Return the logs of ``root`` with exactly the ID that the entry names: several when windows follow each other.

    Raises:
        NotGenuine: ``bundle.log-unknown``.
    """
    logs = tuple(log for log in root.logs if log.log_id == entry.log_id)
    if not logs:
        known = ", ".join(log.log_id.hex()[:16] for log in root.logs)
        raise refusal(
            what, "bundle.log-unknown", "logId", f"one of {known or 'none'}", entry.log_id.hex()[:16]
        )
    return logs


def verify(entry: LogEntry, log: LogKey, what: str) -> None:
    """Check that ``log`` has the entry: inclusion proof, checkpoint, and the signed promise when there is one.

    Raises:
        NotGenuine: ``bundle.log-proof``, ``bundle.checkpoint`` or ``bundle.set``.
        Unsupported: the log's key is of a kind that is not known here.
    """
    key = _public_key(log)
    proof = check_inclusion(entry, what)
    _verify_checkpoint(entry, proof, key, what)
    if entry.signed_entry_timestamp is not None:
        _verify_promise(entry, key, what)


def check_inclusion(entry: LogEntry, what: str) -> InclusionProof:
    """Return the proof after checking its arithmetic too: the entry is under the root that the checkpoint names.

    Raises:
        NotGenuine: ``bundle.log-proof``, ``bundle.checkpoint`` or ``bundle.log-entry``.
    """
    proof = check_shape(entry, what)
    try:
        leaf = merkle.leaf_hash(entry.body)
        merkle.verify_inclusion(leaf, proof.log_index, proof.tree_size, proof.hashes, proof.root_hash)
    except NotGenuine as error:
        finding = error.findings[0]
        where = f"inclusion proof: {finding.where}"
        raise refusal(what, "bundle.log-proof", where, finding.want, finding.got) from None
    return proof


def check_shape(entry: LogEntry, what: str) -> InclusionProof:
    """Return the proof after checking everything about it that needs no key.

    Raises:
        NotGenuine: ``bundle.log-proof``, ``bundle.checkpoint`` or ``bundle.log-entry``.
    """
    proof = entry.proof
    if proof is None or proof.checkpoint is None:
        raise refusal(what, "bundle.log-proof", "inclusionProof", "a proof with a checkpoint", "none")
    if entry.signed_entry_timestamp is None:
        for where, got in (
            ("integratedTime", entry.integrated_time),
            ("logIndex", entry.log_index - proof.log_index),
        ):
            if got:  # without a promise nothing signs these two
                raise refusal(what, "bundle.log-entry", where, "what the proof says", "another")
    head, _, _ = read_checkpoint(entry, proof, what)
    if head.size != proof.tree_size:
        raise refusal(what, "bundle.checkpoint", "tree size", f"{proof.tree_size}", f"{head.size}")
    if head.root != proof.root_hash:
        raise refusal(what, "bundle.checkpoint", "root hash", proof.root_hash.hex(), head.root.hex())
    body = jsondoc.loads(entry.body, what)
    said = (body.get("kind"), body.get("apiVersion")) if isinstance(body, dict) else (None, None)
    if said != (entry.kind, entry.version):
        raise refusal(
            what, "bundle.log-entry", "kindVersion", f"{said[0]}/{said[1]}", f"{entry.kind}/{entry.version}"
        )
    return proof


def read_checkpoint(
    entry: LogEntry, proof: InclusionProof, what: str
) -> tuple[cp.Checkpoint, cp.SignedNote, cp.NoteSignature]:
    """Return the checkpoint, its note, and the one signature line whose key ID is that of the entry's log.

    Lines of others (witnesses, keys from before a rotation) are left alone, as signed-note asks.

    Raises:
        NotGenuine: ``bundle.checkpoint``.
    """
    try:
        note = cp.parse_note(proof.checkpoint or "")
        head = cp.parse(note.text)
    except Malformed as error:
        raise refusal(what, "bundle.checkpoint", error.at, error.want, error.got) from None
    lines = [line for line in note.signatures if line.hint == entry.log_id[:4]]
    if len(lines) != 1:
        raise refusal(what, "bundle.checkpoint", "signature lines of the log", "one", f"{len(lines)}")
    name = lines[0].name
    if head.origin != name and not head.origin.startswith(f"{name} - "):  # Rekor v1: "<host> - <tree id>"
        raise refusal(what, "bundle.checkpoint", "signer's name", head.origin, name)
    return head, note, lines[0]


def _verify_checkpoint(entry: LogEntry, proof: InclusionProof, key: cp.PublicKey, what: str) -> None:
    _, note, line = read_checkpoint(entry, proof, what)
    try:
        _check(key, line.signature, note.text.encode())
    except InvalidSignature:
        raise refusal(
            what, "bundle.checkpoint", f"signature of {line.name}", "one that holds", "one that does not"
        ) from None


def _verify_promise(entry: LogEntry, key: cp.PublicKey, what: str) -> None:
    """Check the signed entry timestamp (Rekor v1: RFC 8785 over these four fields)."""
    import rfc8785

    if entry.integrated_time is None:
        raise refusal(what, "bundle.set", "integratedTime", "the time that the promise signs", "none")
    fields: dict[str, str | int] = {
        "body": canonical_base64.encode(entry.body),
        "integratedTime": entry.integrated_time,
        "logID": entry.log_id.hex(),
        "logIndex": entry.log_index,
    }
    try:
        _check(key, entry.signed_entry_timestamp or b"", rfc8785.dumps(fields))
    except (InvalidSignature, rfc8785.CanonicalizationError):  # the second: an index beyond 2^53
        raise refusal(
            what, "bundle.set", "signedEntryTimestamp", "one that holds", "one that does not"
        ) from None


def _check(key: cp.PublicKey, signature: bytes, data: bytes) -> None:
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    else:
        key.verify(signature, data)


def _public_key(log: LogKey) -> cp.PublicKey:
    """Return the log's key, which has to be what the root says it is."""
    kind = _KEYS.get(log.details)
    try:
        key = load_der_public_key(log.spki)
    except Exception:
        raise Malformed("trusted root", at="log key", want="a DER public key", got=log.spki.hex()) from None
    if kind is None or not isinstance(key, kind):
        want = " or ".join(_KEYS)
        raise Unsupported("trusted root", at="log key", want=want, got=f"{log.details}, {type(key).__name__}")
    assert isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)  # noqa: S101 (as _KEYS says)
    return key

"""The log's checkpoint in a channel's metadata: every bundle of a release is in a log that others have seen.

A bundle proves that it is under some head of the log. What is published beside the release is one later head, the proof
that each bundle's head is a prefix of it, and what witnesses signed under it: a log that forks for one victim
would have to fork for the channel and its witnesses too.

Source: C2SP tlog-checkpoint and tlog-cosignature; RFC 9162, section 2.1.4;
docs/decisions/0064-witnesses-and-custody.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tallystick.core.errors import NotGenuine, Refused, TallystickError
from tallystick.core.findings import Finding
from tallystick.formats import canonical_base64, sigstore_bundle
from tallystick.signing import root as roots
from tallystick.tlog import checkpoint as cp
from tallystick.tlog import merkle

if TYPE_CHECKING:
    from tallystick.signing.records import Trust, Witness

FIELD = "checkpoints"
_WHAT = "published checkpoint"

Cosign = Callable[[str, Callable[[int, int], Sequence[bytes]]], Sequence[cp.NoteSignature]]


class LogSource(Protocol):
    """Where a log is asked for its present head and for proofs."""

    def checkpoint(self) -> str:
        """Return the log's signed checkpoint."""
        ...

    def consistency(self, older: int, newer: int) -> Sequence[bytes]:
        """Return the proof that the first ``older`` leaves are a prefix of the first ``newer``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    note: cp.SignedNote
    checkpoint: cp.Checkpoint
    proofs: dict[int, tuple[bytes, ...]]  # size of an older head -> proof up to this one


def make(
    bundles: Mapping[str, bytes], source: LogSource, witnesses: Sequence[Cosign]
) -> list[dict[str, Any]]:
    """Return what is published of the log for ``bundles``: its head, cosigned, with a proof from each bundle's head.

    Raises:
        Refused, Unreachable: a witness or the log does not answer as it should.
    """
    note = cp.parse_note(source.checkpoint())
    head = cp.parse(note.text)
    for cosign in witnesses:
        note = note.joined(*cosign(str(note), source.consistency))
    sizes = {
        size for origin, size, _ in _heads(bundles).values() if origin == head.origin and size < head.size
    }
    proofs = {
        str(size): [canonical_base64.encode(h) for h in source.consistency(size, head.size)]
        for size in sorted(sizes)
    }
    return [{"note": str(note), "consistency": proofs}]


def check(said: object, bundles: Mapping[str, bytes], trust: Trust, where: str, *, required: bool) -> None:
    """Hold what a channel publishes to the bundles, to the log's key, and to the trust file's witnesses.

    Args:
        said: the value of :data:`FIELD`; None when there is none.
        required: whether every bundle has to be under a head that enough witnesses signed, as in production.

    Raises:
        NotGenuine: a head that the log did not sign, or that a bundle's head is no prefix of.
        Refused: missing, or signed by too few witnesses (``release.checkpoint.missing``, ``….witness``).
    """
    published = _parse(said, where) if said is not None else ()
    wrong = [finding for one in published for finding in _unsigned(one, trust, where)]
    covered: set[str] = set()
    for file, (origin, size, root) in sorted(_heads(bundles).items()):
        for one in published:
            if one.checkpoint.origin == origin:
                wrong += _inconsistent(one, size, root, f"{where} {file}")
                covered.add(file)
    if wrong:
        raise NotGenuine("the published checkpoint does not hold", findings=wrong)
    lacking = []
    if required:
        lacking = [
            Finding(
                "release.checkpoint.missing", f"{where} {file}", want="under a published head", got="none"
            )
            for file in sorted(set(bundles) - covered)
        ]
        lacking += [finding for one in published for finding in unwitnessed(one.note, trust, where)]
    if lacking:
        raise Refused("the log's head is not published and witnessed as production asks", findings=lacking)


def unwitnessed(note: cp.SignedNote, trust: Trust, where: str) -> Iterator[Finding]:
    """Yield a finding when fewer witnesses than the trust file asks for signed ``note``; each holder counts once."""
    holders = {witness.holder for witness in trust.witnesses if _cosigned(note, witness)}
    least = max(1, trust.witness_threshold)
    if len(holders) < least:
        got = ", ".join(sorted(holders)) or "nobody"
        yield Finding(
            "release.checkpoint.witness", where, want=f"{least} witness(es) of the trust file", got=got
        )


def _cosigned(note: cp.SignedNote, witness: Witness) -> bool:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    public = Ed25519PublicKey.from_public_bytes(witness.public_key)
    try:
        cp.cosigned_at(note, cp.NoteKey(name=witness.name, kind=cp.Kind.COSIGNATURE, public=public))
    except NotGenuine:
        return False
    return True


def _unsigned(one: _Published, trust: Trust, where: str) -> Iterator[Finding]:
    """Yield a finding unless a log of the trusted root signed the note."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    for log in roots.parse(trust.sigstore_root).logs:
        try:
            public = load_der_public_key(log.spki)
        except (ValueError, UnsupportedAlgorithm):
            continue
        if not isinstance(public, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
            continue
        kind = cp.Kind.ECDSA if isinstance(public, ec.EllipticCurvePublicKey) else cp.Kind.ED25519
        for name in {line.name for line in one.note.signatures}:
            try:
                cp.verify(one.note, cp.NoteKey(name=name, kind=kind, public=public))
            except NotGenuine:
                continue
            return
    yield Finding(
        "release.checkpoint.log", where, want="a log of the trusted root", got=one.checkpoint.origin
    )


def _inconsistent(one: _Published, size: int, root: bytes, where: str) -> Iterator[Finding]:
    head, proof = one.checkpoint, one.proofs.get(size, ())
    try:
        merkle.verify_consistency(size, root, head.size, head.root, proof)
    except NotGenuine as error:
        yield Finding(
            "release.checkpoint.fork", where, want=f"a prefix of {head.size} leaves", got=error.message
        )


def _heads(bundles: Mapping[str, bytes]) -> dict[str, tuple[str, int, bytes]]:
    """Return the origin, size and root under which each bundle is; one without a checkpoint is left out."""
    found = {}
    for file, data in bundles.items():
        for entry in sigstore_bundle.parse(data, file).entries:
            if entry.proof is not None and entry.proof.checkpoint is not None:
                origin = cp.parse(cp.parse_note(entry.proof.checkpoint).text).origin
                found[file] = (origin, entry.proof.tree_size, entry.proof.root_hash)
    return found


def _parse(said: object, where: str) -> tuple[_Published, ...]:
    """Return what is published.

    Raises:
        NotGenuine: ``release.checkpoint.form``: whoever signed the channel's metadata signed nonsense.
    """
    try:
        return tuple(_one(item) for item in said)  # type: ignore[attr-defined]
    except (TypeError, KeyError, ValueError, AttributeError, TallystickError) as error:
        finding = Finding("release.checkpoint.form", where, want="notes with proofs", got=str(error)[:120])
        raise NotGenuine(finding.message, findings=[finding]) from None


def _one(item: Any) -> _Published:
    if sorted(item) != ["consistency", "note"] or not isinstance(item["note"], str):
        raise ValueError("want the fields consistency and note")
    note = cp.parse_note(item["note"])
    proofs = {
        int(size): tuple(canonical_base64.decode(text, _WHAT, "consistency") for text in hashes)
        for size, hashes in item["consistency"].items()
    }
    return _Published(note=note, checkpoint=cp.parse(note.text), proofs=proofs)

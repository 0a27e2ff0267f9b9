"""The evidence of a dossier: out of a verified channel, the trust file and a broker's log, each with where it lies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tallystick.broker.decisions import Kind, parse_leaf
from tallystick.core.digests import Digest
from tallystick.core.errors import NotGenuine
from tallystick.release import roles
from tallystick.release.metadata import Read, State
from tallystick.report.dossier import Item
from tallystick.tlog.mark import Head

_EACH = 5  # leaves of one kind: the newest; the head covers the others
_TARGETS = (  # pattern of a target's path -> kind, what it is
    (r"releases/(?P<r>[0-9a-f]+)/index\.json", "release", "release {r}"),
    (
        r"releases/(?P<r>[0-9a-f]+)/statements/(?P<k>sbom|provenance|measurements)\.json",
        "{k}",
        "{k} of release {r}",
    ),
    (r"releases/(?P<r>[0-9a-f]+)/contents/(?P<n>[^/]+)\.json", "contents", "contents of {n} of release {r}"),
    (
        r"releases/(?P<r>[0-9a-f]+)/bundles/(?P<n>[^/]+)\.sigstore\.json",
        "signature",
        "signature of {n} of release {r}",
    ),
    (r"releases/(?P<r>[0-9a-f]+)/links/(?P<n>[^/]+)", "rebuild", "rebuild of release {r}: {n}"),
    (
        r"releases/(?P<r>[0-9a-f]+)/promotions/(?P<n>[^/]+)\.sigstore\.json",
        "verdict",
        "verdict for {n} on release {r}",
    ),
    (r"policies/(?P<n>[^/]+)/policy\.yaml", "policy", "policy {n}"),
    (r"policies/(?P<n>[^/]+)/(?P<t>[^/]+)/(?P<f>[^/]+)", "compiled", "policy {n} for {t}: {f}"),
    (r"revocations/(?P<n>.+)", "revocation", "revocation {n}"),
)
_LEAVES = {
    Kind.ATTESTATION.value: "attestation",
    Kind.RELEASE.value: "key-release",
    Kind.REFUSAL.value: "refusal",
    Kind.KEY.value: "key-custody",
}


def of_channel(state: State, read: Read) -> Iterator[Item]:
    """Yield the evidence in a channel: signed metadata, and every target of a kind that clauses rest on.

    Raises:
        NotGenuine: a file is not what the verified metadata say.
    """
    root = state.root.signed
    people = ", ".join(person.name for person in state.people)
    yield _metadata(read, f"metadata/{root.version}.root.json", "people", f"keys of {people}")
    for role, document in sorted(state.delegated.items()):
        signed = document.signed
        if (
            role in roles.SHARED and signed.version > 1
        ):  # the first is empty, and a revocation is one person's word
            name = f"metadata/{signed.version}.{role}.json"
            yield _metadata(read, name, "approval", f"{role}, version {signed.version}")
        for path, target in sorted(signed.targets.items()):
            yield from _target(read, path, Digest.parse(f"sha256:{target.hashes['sha256']}"))


def of_trust(data: bytes) -> Item:
    """Return the trust file as evidence."""
    return Item(kind="roots", what="the pinned trust file", digest=Digest.of(data), where="trust:")


def of_log(head: Head, leaves: Iterable[tuple[int, bytes]]) -> Iterator[Item]:
    """Yield the log's head and the newest leaves of each kind.

    Args:
        leaves: with their numbers, in order, verified against ``head``.
    """
    yield Item(
        kind="log-head",
        what=f"{head.size} leaves",
        digest=Digest.parse(f"sha256:{head.root.hex()}"),
        where=f"log:head/{head.size}",
    )
    newest: dict[str, list[Item]] = {}
    for number, data in leaves:
        leaf = parse_leaf(data)
        kind = _LEAVES.get(leaf["kind"])
        if kind is not None:
            about = " ".join(str(leaf[name]) for name in ("key", "stage", "action") if name in leaf)
            item = Item(
                kind=kind,
                what=f"{leaf['decision']} {about}".strip(),
                digest=Digest.of(data),
                where=f"log:leaf/{number}",
            )
            newest[kind] = [*newest.get(kind, [])[1 - _EACH :], item]
    for items in newest.values():
        yield from items


def _metadata(read: Read, name: str, kind: str, what: str) -> Item:
    data = read(name)
    if data is None:
        raise NotGenuine(
            f"channel: {name}: want the file of the verified metadata, got none", code="dossier.evidence"
        )
    return Item(kind=kind, what=what, digest=Digest.of(data), where=f"channel:{name}")


def _target(read: Read, path: str, digest: Digest) -> Iterator[Item]:
    folder, _, base = path.rpartition("/")
    name = f"targets/{folder}/{digest.hex}.{base}"
    for pattern, kind, what in _TARGETS:
        match = re.fullmatch(pattern, path)
        if match is not None:
            data = read(name)
            if data is None or Digest.of(data) != digest:
                raise NotGenuine(f"channel: {path}: want {digest}, got other bytes", code="dossier.evidence")
            said = {key: value[:12] if key == "r" else value for key, value in match.groupdict().items()}
            yield Item(
                kind=kind.format(**said), what=what.format(**said), digest=digest, where=f"channel:{name}"
            )
            return

"""The channel that an image takes artifacts from, checked in the guest: the root that its command line pins says who.

``tally.channel=sha256:<hex>`` on the measured command line names the channel's root metadata. The disk brings that
root, the targets metadata that it signs, and the list of releases that enough people approved. A manifest that is not
on the list is not used, whoever holds keys. The guest has no clock that it could trust, so it checks no expiry: whether
a release still stands is what the broker decides.

Source: TUF specification 1.0.34, sections 4 and 5.6; docs/decisions/0158-a-root-in-the-image.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, NotGenuine
from tallystick.core.findings import Finding
from tallystick.handshake.fields import Fields
from tallystick.handshake.manifest import Manifest

ARGUMENT = "tally.channel"
ROOT, TARGETS, RELEASES = FILES = ("channel-root.json", "channel-targets.json", "channel-releases.json")
MAX_BYTES = 4 << 20

_ROLE = "releases"
_KEY_BYTES, _SIGNATURE_BYTES = 32, 64

Read = Callable[[str], bytes]


def pinned(cmdline: str) -> Digest | None:
    """Return the digest of the root that the kernel command line pins; None when it pins none.

    Raises:
        Malformed: it pins several, or something else than a digest.
    """
    words = [word.partition("=")[2] for word in cmdline.split() if word.split("=", 1)[0] == ARGUMENT]
    if not words:
        return None
    if len(words) > 1 or not re.fullmatch(r"sha256:[0-9a-f]{64}", words[0]):
        raise Malformed("command line", at=ARGUMENT, want="one sha256:<64 hex digits>", got=" ".join(words))
    return Digest(Algorithm.SHA256, bytes.fromhex(words[0][7:]))


def check(pin: Digest, read: Read, manifests: Iterable[Manifest]) -> None:
    """Check that the channel of ``pin`` lists every one of ``manifests``.

    Args:
        read: gives the metadata on the disk.

    Raises:
        NotGenuine: another root (``channel.root``), too few signatures (``channel.signatures``), or a manifest that
            is not listed (``channel.artifacts``).
        Malformed: metadata of another form.
    """
    data = read(ROOT)
    if Digest.of(data) != pin:
        raise _bad("root", "root of the channel", str(pin), str(Digest.of(data)))
    root = Fields(_document(data, ROOT), ROOT).child("signed")
    role = root.child("roles").child("targets")
    targets = _signed(read(TARGETS), TARGETS, root.raw("keys"), role, "targets")
    delegations = targets.child("delegations")
    shared = _role(delegations)
    # whoever proposes a change signs it too, and counts for nobody but themselves
    releases = _signed(read(RELEASES), RELEASES, delegations.raw("keys"), shared, "targets", besides=1)
    listed = releases.raw("targets")
    for manifest in manifests:
        path = f"artifacts/{manifest.digest.hex}/artifacts.json"
        entry = listed.get(path) if isinstance(listed, dict) else None
        hashes = entry.get("hashes") if isinstance(entry, dict) else None
        got = hashes.get("sha256") if isinstance(hashes, dict) else None
        if got != manifest.digest.hex:
            where = f"artifact release {manifest.name} {manifest.version}"
            raise _bad("artifacts", where, f"{manifest.digest} in the channel's list", str(got or "none"))


def _role(delegations: Fields) -> Fields:
    for row in delegations.rows("roles"):
        if isinstance(row, dict) and row.get("name") == _ROLE:
            return Fields(row, TARGETS)
    raise Malformed(TARGETS, at="delegations", want=f"a role {_ROLE}", got="none")


def _signed(data: bytes, what: str, keys: Any, role: Fields, kind: str, *, besides: int = 0) -> Fields:
    """Return the signed part of metadata that enough keys of ``role`` signed."""
    import rfc8785

    document = _document(data, what)
    fields = Fields(document, what)
    threshold, keyids = role.raw("threshold"), role.raw("keyids")
    if type(threshold) is not int or threshold < 1 or not isinstance(keyids, list):
        raise Malformed(what, at="role", want="a threshold and its keys", got="others")
    body = rfc8785.dumps(document.get("signed"))
    rows = document.get("signatures")
    given = (
        {row.get("keyid"): row.get("sig") for row in rows if isinstance(row, dict)}
        if isinstance(rows, list)
        else {}
    )
    raw = {_public(keys, keyid) for keyid in keyids if _holds(_public(keys, keyid), given.get(keyid), body)}
    if len(raw) < threshold + besides:
        raise _bad("signatures", what, f"{threshold + besides} signatures of the role", str(len(raw)))
    signed = fields.child("signed")
    if signed.text("_type") != kind:
        raise signed.bad("_type", want=kind, got=signed.text("_type"))
    return signed


def _public(keys: Any, keyid: Any) -> bytes | None:
    """Return the raw Ed25519 key called ``keyid``, or None."""
    found = keys.get(keyid) if isinstance(keys, dict) and isinstance(keyid, str) else None
    value = found.get("keyval") if isinstance(found, dict) and found.get("scheme") == "ed25519" else None
    text = value.get("public") if isinstance(value, dict) else None
    return _hex(text, _KEY_BYTES)


def _holds(key: bytes | None, signature: Any, data: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    raw = _hex(signature, _SIGNATURE_BYTES)
    if key is None or raw is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(raw, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _hex(text: Any, size_bytes: int) -> bytes | None:
    if not isinstance(text, str) or not re.fullmatch(f"[0-9a-f]{{{2 * size_bytes}}}", text):
        return None
    return bytes.fromhex(text)


def _document(data: bytes, what: str) -> dict[str, Any]:
    document = jsondoc.loads(data, what, max_bytes=MAX_BYTES)
    if not isinstance(document, dict):
        raise Malformed(what, at="document", want="an object", got=type(document).__name__)
    return document


def _bad(code: str, where: str, want: str, got: str) -> NotGenuine:
    finding = Finding(f"channel.{code}", where, want, got)
    return NotGenuine(finding.message, findings=[finding])

"""The endorsement bundle: everything that verification needs from outside, in one signed file, to be used offline.

A DSSE envelope around a JSON document that holds the files as they are. The signature matters most for what believes by
being there: bare keys, key sets, roots of TPM makers. Whoever signs is pinned from outside (a trust file's endorser of
kind ``endorsement-bundle``, or a key that is named on the command line), never by the bundle.

Schema: tallystick/endorsement-bundle/v1, docs/evidence.md. Source: DSSE, protocol.md v1.0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tallystick.core import jsondoc
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Unsupported
from tallystick.core.findings import Finding
from tallystick.evidence import kinds, roots
from tallystick.evidence.claims import Claims
from tallystick.formats import canonical_base64, dsse

SCHEMA = "tallystick/endorsement-bundle/v1"
PAYLOAD_TYPE = "application/vnd.tallystick.endorsement-bundle.v1+json"
ENDORSER_KIND = "endorsement-bundle"  # of trust-file endorsers whose bundles are believed
_WHAT = "endorsement bundle"
_MAX_FILES = 256
_ECDSA = ec.ECDSA(hashes.SHA256())
SNP, INTEL = ("snp-report", "azure-snp-vtpm"), ("tdx-quote", "sgx-quote", "azure-tdx-vtpm")
NVIDIA, TOKENS = ("nvidia-gpu", "nvidia-switch"), ("gcp-token", "azure-maa-token", "ita-token", "ear")
_ROOTS = {  # of which embedded certificates a bundle keeps a copy, for the record and the forecast
    "snp-report": ("ARK-", "SEV-"),
    "tdx-quote": ("Intel-",),
    "nitro": ("AWS-",),
    "gcp-token": ("Google-",),
    "nvidia-gpu": ("NVIDIA-",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of a bundle."""

    name: str
    kinds: tuple[str, ...]  # the kinds of evidence that it is for, and no others
    data: bytes
    is_root: bool = False  # a copy of an embedded root: what is believed is the embedded one


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose signature held under a pinned key."""

    made_at: datetime
    signer: Digest  # sha256 of its SubjectPublicKeyInfo
    parts: tuple[Part, ...]

    def files(self, kind: str) -> list[bytes]:
        """Return the endorsement files for evidence of ``kind``. Copies of embedded roots are for the record alone."""
        return [part.data for part in self.parts if not part.is_root and kind in part.kinds]

    def device_files(self) -> list[bytes]:
        """Return the files for NVIDIA devices, which composite evidence needs beside its machine's."""
        return [part.data for part in self.parts if not part.is_root and set(NVIDIA) & set(part.kinds)]


def is_bundle(data: bytes) -> bool:
    """Return whether ``data`` is meant to be a bundle."""
    return data.lstrip()[:1] == b"{" and PAYLOAD_TYPE.encode() in data


def part(name: str, data: bytes, only: str | None = None) -> Part:
    """Return the file ``name`` as a part, for the kinds of evidence that its content is for.

    Args:
        only: the kind that the caller says it is for; needed for keys and roots that nothing ties to a maker.

    Raises:
        Misuse: the content does not say for what it is, and neither does the caller (``bundle.kind``).
        Unsupported: an unknown kind.
    """
    if only is not None:
        if only not in kinds.MODULES:
            raise Unsupported(
                _WHAT, at=name, want="one of " + ", ".join(kinds.MODULES), got=only, code="evidence.kind"
            )
        return Part(name=name, kinds=(only,), data=data)
    from tallystick.evidence import bundle_kinds

    found = bundle_kinds.of(data)
    if not found:
        raise Misuse(
            f"{name}: nothing in it says for which evidence it is; write KIND={name}", code="bundle.kind"
        )
    return Part(name=name, kinds=found, data=data)


def with_roots(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Return ``parts`` with copies of the embedded roots that their kinds end in."""
    prefixes = {
        prefix
        for kind, listed in _ROOTS.items()
        if any(kind in part.kinds or _family(kind) & set(part.kinds) for part in parts)
        for prefix in listed
    }
    copies = [
        Part(
            name=f"embedded/{name}.pem",
            kinds=tuple(sorted(_family(next(k for k, v in _ROOTS.items() if any(map(name.startswith, v)))))),
            data=roots.certificate(name).public_bytes(Encoding.PEM),
            is_root=True,
        )
        for name in roots.names()
        if any(map(name.startswith, prefixes))
    ]
    return (*parts, *copies)


def _family(kind: str) -> set[str]:
    families = (SNP, INTEL, NVIDIA)
    return next((set(family) for family in families if kind in family), {kind})


def make(parts: Sequence[Part], key: ec.EllipticCurvePrivateKey, *, at: datetime) -> bytes:
    """Return the bundle of ``parts``, signed with ``key``, with the forecast as of ``at`` in it.

    Raises:
        Misuse: no parts, or two of one name.
    """
    from tallystick.evidence.bundle_forecast import forecast

    names = [part.name for part in parts]
    if not parts or len(set(names)) != len(names):
        raise Misuse(f"{_WHAT}: want files with a name each, got {names}", code="bundle.parts")
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    document = {
        "schema": SCHEMA,
        "made_at": at.isoformat(),
        "signer": canonical_base64.encode(spki),
        "forecast": [entry.document() for entry in forecast(parts)],
        "files": [
            {
                "name": one.name,
                "kinds": list(one.kinds),
                "root": one.is_root,
                "sha256": Digest.of(one.data).hex,
                "data": canonical_base64.encode(one.data),
            }
            for one in parts
        ],
    }
    payload = json.dumps(document, indent=1).encode()
    signature = key.sign(dsse.pae(PAYLOAD_TYPE, payload), _ECDSA)
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": canonical_base64.encode(payload),
        "signatures": [{"keyid": Digest.of(spki).hex, "sig": canonical_base64.encode(signature)}],
    }
    return json.dumps(envelope).encode() + b"\n"


def load(data: bytes, pinned: Iterable[Digest]) -> Bundle:
    """Return the bundle in ``data``, signed by one of the keys in ``pinned``.

    Args:
        pinned: sha256 of the SubjectPublicKeyInfo of whoever may sign bundles, from outside.

    Raises:
        Malformed, Unsupported: no bundle, or one that breaks its form.
        NotGenuine: a signer that is not pinned (``bundle.signer``), or a signature that does not hold
            (``bundle.signature``).
    """
    envelope = dsse.parse(data, _WHAT)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise Unsupported(_WHAT, at="payloadType", want=PAYLOAD_TYPE, got=envelope.payload_type)
    document = jsondoc.loads(envelope.payload, _WHAT)
    spki, made_at = _head(document)
    signer, allowed = Digest.of(spki), tuple(pinned)
    if signer not in allowed:
        want = ", ".join(map(str, allowed)) or "none: no key is pinned for bundles"
        raise _refuse("bundle.signer", "signer of the bundle", f"a pinned key ({want})", str(signer))
    if not any(_holds(spki, one.sig, envelope.signed_bytes) for one in envelope.signatures):
        raise _refuse("bundle.signature", "signature of the bundle", f"one by {signer}", "another")
    return Bundle(made_at=made_at, signer=signer, parts=_parts(document))


def verify(
    kind: str,
    data: bytes,
    endorsements: Sequence[bytes],
    *,
    pinned: Iterable[Digest],
    nonce: bytes | None,
    at: datetime,
    audience: str | None = None,
) -> Claims:
    """Return what :func:`kinds.verify` does, where endorsements may also be bundles.

    Parts of a bundle that are not valid at ``at`` are named: as notes, or beside what does not hold because of them.

    Raises:
        Malformed, Unsupported, NotGenuine: as :func:`kinds.verify` and :func:`load`.
    """
    allowed = tuple(pinned)
    bundles = [load(one, allowed) for one in endorsements if is_bundle(one)]
    also = NVIDIA if b'"tee-evidence"' in data else ()  # a machine with its devices
    files = [one for one in endorsements if not is_bundle(one)]
    files += [one for bundle in bundles for name in (kind, *also) for one in bundle.files(name)]
    ended = tuple(finding for bundle in bundles for finding in expired(bundle, kind, at))
    unique = list(dict.fromkeys(files))
    try:
        claims = kinds.verify(kind, data, unique, nonce=nonce, at=at, audience=audience)
    except NotGenuine as refused:
        if not ended:
            raise
        raise NotGenuine(refused.message, findings=(*refused.findings, *ended)) from None
    return replace(claims, notes=(*claims.notes, *ended))


def expired(bundle: Bundle, kind: str, at: datetime) -> tuple[Finding, ...]:
    """Return a finding for each part of ``bundle`` for ``kind`` that is not valid at ``at``."""
    from tallystick.evidence.bundle_forecast import forecast

    parts = [one for one in bundle.parts if kind in one.kinds]
    return tuple(
        Finding(
            "bundle.part.expired" if entry.valid_until and at > entry.valid_until else "bundle.part.early",
            f"{entry.part}: {entry.what}",
            f"valid at {at.isoformat()}",
            entry.window,
        )
        for entry in forecast(parts)
        if not entry.holds(at)
    )


def _refuse(code: str, where: str, want: str, got: str) -> NotGenuine:
    finding = Finding(code, where, want, got)
    return NotGenuine(f"{_WHAT}: {finding.message}", findings=[finding])


def _head(document: Any) -> tuple[bytes, datetime]:
    fields = {"schema", "made_at", "signer", "forecast", "files"}
    if not isinstance(document, dict) or set(document) != fields:
        raise Malformed(_WHAT, at="document", want=", ".join(sorted(fields)), got=type(document).__name__)
    if document["schema"] != SCHEMA:
        raise Unsupported(_WHAT, at="schema", want=SCHEMA, got=str(document["schema"]))
    try:
        made_at = datetime.fromisoformat(str(document["made_at"]))
    except ValueError:
        made_at = None
    if made_at is None or made_at.tzinfo is None:
        raise Malformed(_WHAT, at="made_at", want="an RFC 3339 time", got=str(document["made_at"]))
    return canonical_base64.decode(document["signer"], _WHAT, "signer"), made_at


def _parts(document: dict[str, Any]) -> tuple[Part, ...]:
    listed, fields = document["files"], {"name", "kinds", "root", "sha256", "data"}
    if not isinstance(listed, list) or not 1 <= len(listed) <= _MAX_FILES:
        raise Malformed(_WHAT, at="files", want=f"1 to {_MAX_FILES}", got=type(listed).__name__)
    found: list[Part] = []
    for index, one in enumerate(listed):
        at = f"files[{index}]"
        if not isinstance(one, dict) or set(one) != fields:
            raise Malformed(_WHAT, at=at, want=", ".join(sorted(fields)), got=type(one).__name__)
        if not isinstance(one["name"], str) or not isinstance(one["kinds"], list):
            raise Malformed(_WHAT, at=at, want="a name and kinds", got=repr(one["name"]))
        data = canonical_base64.decode(one["data"], _WHAT, f"{at}.data")
        if Digest.of(data).hex != one["sha256"]:
            raise Malformed(_WHAT, at=f"{at}.sha256", want=Digest.of(data).hex, got=str(one["sha256"]))
        listed_kinds = tuple(map(str, one["kinds"]))
        found.append(Part(name=one["name"], kinds=listed_kinds, data=data, is_root=one["root"] is True))
    return tuple(found)


def _holds(spki: bytes, signature: bytes, message: bytes) -> bool:
    try:
        key = serialization.load_der_public_key(spki)
    except ValueError:
        return False
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(signature, message, _ECDSA)
    except InvalidSignature:
        return False
    return True

"""The trust file: the one place where trust comes from, read strictly and written for people to review.

Schema ``tallystick/trust/v1``, docs/schemas/trust.schema.json. The documents in it (Sigstore trusted root, in-toto
layout, TUF roots) lie there as JSON values, so that a reviewer can read them; in :class:`Trust` they are bytes, in
RFC 8785 form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from tallystick.core import jsondoc
from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.core.files import read_file, write_file
from tallystick.formats import canonical_base64
from tallystick.signing import root as roots
from tallystick.signing.records import Builder, Custody, Endorser, Identity, Trust, Witness

SCHEMA = "tallystick/trust/v1"
LABELS = (roots.EMBEDDED_DEV, "production")
_WHAT = "trust file"
_MAX_BYTES = 16 << 20
_NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
_OPTIONAL = ("witnesses", "custody", "artifact_signers")
_FIELDS = ("schema", "label", "sigstore_root", "builders", "promoters", "layout", "channels", "endorsers")

_HOLDER = r"[^\x00-\x1f\x7f]{1,256}"
_ED25519_BYTES = 32

T = TypeVar("T")


def load(path: Path) -> Trust:
    """Return the trust file at ``path``.

    Raises:
        Misuse: there is no such file.
        Malformed, Unsupported: as :func:`parse`.
    """
    return parse(read_file(path, _WHAT, max_bytes=_MAX_BYTES))


def save(path: Path, trust: Trust) -> None:
    """Write ``trust`` to ``path``, whole or not at all."""
    write_file(path, dump(trust))


def parse(data: bytes) -> Trust:
    """Return the trust file that the JSON text ``data`` is.

    Raises:
        Malformed: a field missing, unknown, double or of another form; or the root of an embedded Sigstore
            under another label than its own.
        Unsupported: another schema.
    """
    document = jsondoc.loads(data, _WHAT, max_bytes=_MAX_BYTES)
    if not isinstance(document, dict):
        raise _bad("document", "an object", document)
    if document.get("schema") != SCHEMA:
        raise Unsupported(_WHAT, at="schema", want=SCHEMA, got=repr(document.get("schema")))
    there = tuple(name for name in _OPTIONAL if name in document)
    fields = _object(document, "document", (*_FIELDS, *there))
    witnesses = _object(
        fields.get("witnesses", {"threshold": 0, "keys": []}), "witnesses", ("threshold", "keys")
    )
    layout = _object(fields["layout"], "layout", ("envelope", "owners"))
    trust = Trust(
        label=_text(fields["label"], "label", "|".join(LABELS)),
        sigstore_root=_document(fields["sigstore_root"], "sigstore_root"),
        builders=_items(fields["builders"], "builders", _builder),
        promoters=_items(fields["promoters"], "promoters", _identity),
        layout=_document(layout["envelope"], "layout.envelope"),
        layout_owners=_items(layout["owners"], "layout.owners", _pem),
        channels=_items(fields["channels"], "channels", _channel),
        endorsers=_items(fields["endorsers"], "endorsers", _endorser),
        witnesses=_items(witnesses["keys"], "witnesses.keys", _witness),
        witness_threshold=_threshold(witnesses["threshold"], "witnesses.threshold"),
        custody=_items(fields.get("custody", []), "custody", _custody),
        artifact_signers=_items(fields.get("artifact_signers", []), "artifact_signers", _identity),
    )
    _check(trust)
    return trust


def dump(trust: Trust) -> bytes:
    """Return ``trust`` as a trust file: indented, in a fixed order.

    Raises:
        Malformed: one of its documents is no JSON object, or it would be refused by :func:`parse`.
    """
    more: dict[str, Any] = {}
    if trust.witnesses or trust.witness_threshold:
        listed = [_of_witness(witness) for witness in trust.witnesses]
        more["witnesses"] = {"threshold": trust.witness_threshold, "keys": listed}
    if trust.custody:
        more["custody"] = [{"holder": c.holder, "keys": list(map(str, c.keys))} for c in trust.custody]
    if trust.artifact_signers:
        more["artifact_signers"] = [_of_identity(signer) for signer in trust.artifact_signers]
    data = jsondoc.dumps(
        {
            "schema": SCHEMA,
            "label": trust.label,
            "sigstore_root": _ordered(trust.sigstore_root, "sigstore_root"),
            "builders": [
                {"identity": _of_identity(builder.identity), "builder_id": builder.builder_id}
                | ({"slsa_build_level": builder.slsa_build_level} if builder.slsa_build_level > 1 else {})
                for builder in trust.builders
            ],
            "promoters": [_of_identity(promoter) for promoter in trust.promoters],
            "layout": {
                "envelope": _ordered(trust.layout, "layout.envelope"),
                "owners": list(trust.layout_owners),
            },
            "channels": [{"name": name, "root": _ordered(root, name)} for name, root in trust.channels],
            "endorsers": [_of_endorser(endorser) for endorser in trust.endorsers],
        }
        | more
    )
    parse(data)
    return data


def _check(trust: Trust) -> None:
    """Check what no single field can say: names used twice, and what an embedded Sigstore is called."""
    for at, values in (
        ("builders", trust.builders),
        ("promoters", trust.promoters),
        ("artifact_signers", trust.artifact_signers),
        ("layout.owners", trust.layout_owners),
        ("channels", [name for name, _ in trust.channels]),
        ("endorsers", [endorser.spki for endorser in trust.endorsers]),
        ("witnesses.keys", [witness.public_key for witness in trust.witnesses]),
        ("witnesses.keys", [witness.name for witness in trust.witnesses]),
        ("custody", [key for one in trust.custody for key in one.keys]),
        ("custody", [one.holder for one in trust.custody]),
    ):
        _check_once(values, at)
    holders = {witness.holder for witness in trust.witnesses}
    if trust.witness_threshold > len(holders):
        want = f"at most {len(holders)}, the number of their holders"
        raise Malformed(_WHAT, at="witnesses.threshold", want=want, got=str(trust.witness_threshold))
    if roots.parse(trust.sigstore_root).is_embedded != (trust.label == roots.EMBEDDED_DEV):
        kind = "an embedded Sigstore" if trust.label != roots.EMBEDDED_DEV else "no embedded Sigstore"
        raise Malformed(_WHAT, at="label", want=f"the label of the root, which is {kind}'s", got=trust.label)


def _check_once(values: Iterable[object], at: str) -> None:
    seen: list[object] = []
    for value in values:
        if value in seen:
            raise Malformed(_WHAT, at=at, want="each once", got=f"twice: {value}")
        seen.append(value)


def _builder(value: Any, at: str) -> Builder:
    there = tuple(name for name in ("slsa_build_level",) if isinstance(value, dict) and name in value)
    fields = _object(value, at, ("identity", "builder_id", *there))
    level = fields.get("slsa_build_level", 1)
    if isinstance(level, bool) or level not in (1, 2, 3):
        raise _bad(f"{at}.slsa_build_level", "1, 2 or 3", level)
    return Builder(
        slsa_build_level=level,
        identity=_identity(fields["identity"], f"{at}.identity"),
        builder_id=_text(fields["builder_id"], f"{at}.builder_id"),
    )


def _identity(value: Any, at: str) -> Identity:
    fields = _object(value, at, ("san", "issuer"))
    return Identity(san=_text(fields["san"], f"{at}.san"), issuer=_text(fields["issuer"], f"{at}.issuer"))


def _channel(value: Any, at: str) -> tuple[str, bytes]:
    fields = _object(value, at, ("name", "root"))
    return _text(fields["name"], f"{at}.name", _NAME), _document(fields["root"], f"{at}.root")


def _endorser(value: Any, at: str) -> Endorser:
    fields = _object(value, at, ("kind", "label", "spki", "certificates"))
    spki = Digest.parse(_text(fields["spki"], f"{at}.spki"))
    if spki.algorithm is not Algorithm.SHA256:
        raise _bad(f"{at}.spki", "a sha256", str(spki))
    return Endorser(
        kind=_text(fields["kind"], f"{at}.kind", _NAME),
        label=_text(fields["label"], f"{at}.label", _NAME),
        spki=spki,
        certificates=_items(
            fields["certificates"],
            f"{at}.certificates",
            lambda one, place: canonical_base64.decode(one, _WHAT, place),
        ),
    )


def _witness(value: Any, at: str) -> Witness:
    fields = _object(value, at, ("name", "holder", "public_key"))
    raw = canonical_base64.decode(fields["public_key"], _WHAT, f"{at}.public_key")
    if len(raw) != _ED25519_BYTES:
        raise _bad(f"{at}.public_key", f"{_ED25519_BYTES} bytes of Ed25519", len(raw))
    name, holder = _text(fields["name"], f"{at}.name", r"[^\s+]{1,128}"), fields["holder"]
    return Witness(name=name, holder=_text(holder, f"{at}.holder", _HOLDER), public_key=raw)


def _custody(value: Any, at: str) -> Custody:
    fields = _object(value, at, ("holder", "keys"))
    digests = _items(fields["keys"], f"{at}.keys", lambda one, place: Digest.parse(_text(one, place)))
    return Custody(holder=_text(fields["holder"], f"{at}.holder", _HOLDER), keys=digests)


def _threshold(value: Any, at: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _bad(at, "a number", value)
    return value


def _of_witness(witness: Witness) -> dict[str, str]:
    return {
        "name": witness.name,
        "holder": witness.holder,
        "public_key": canonical_base64.encode(witness.public_key),
    }


def _pem(value: Any, at: str) -> str:
    return _text(value, at, r"-----BEGIN PUBLIC KEY-----\n[A-Za-z0-9+/=\n]+\n-----END PUBLIC KEY-----\n")


def _document(value: Any, at: str) -> bytes:
    """Return another format's document in RFC 8785 form. Its own parser reads it."""
    import rfc8785

    if not isinstance(value, dict) or not value:
        raise _bad(at, "an object", value)
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise Malformed(_WHAT, at=at, want="JSON that RFC 8785 can write", got=str(error)) from None


def _ordered(document: bytes, at: str) -> Any:
    """Return the value of ``document`` with its fields in RFC 8785's order."""
    return jsondoc.loads(_document(jsondoc.loads(document, _WHAT), at), _WHAT)


def _items(value: Any, at: str, read: Callable[[Any, str], T]) -> tuple[T, ...]:
    if not isinstance(value, list):
        raise _bad(at, "a list", value)
    return tuple(read(item, f"{at}[{index}]") for index, item in enumerate(value))


def _object(value: Any, at: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return ``value`` when it is an object of exactly the fields ``names``."""
    if not isinstance(value, dict):
        raise _bad(at, "an object", value)
    for name in names:
        if name not in value:
            raise Malformed(_WHAT, at=at, want=f"the field {name}", got="no such field")
    for name in value:
        if name not in names:
            raise Malformed(_WHAT, at=at, want=f"only {', '.join(names)}", got=name)
    return value


def _text(value: Any, at: str, pattern: str = r"[^\x00-\x20\x7f]{1,2048}") -> str:
    if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
        raise _bad(at, f"a text like {pattern}", value)
    return value


def _bad(at: str, want: str, got: object) -> Malformed:
    return Malformed(_WHAT, at=at, want=want, got=repr(got))


def _of_identity(identity: Identity) -> dict[str, str]:
    return {"san": identity.san, "issuer": identity.issuer}


def _of_endorser(endorser: Endorser) -> dict[str, Any]:
    return {
        "kind": endorser.kind,
        "label": endorser.label,
        "spki": str(endorser.spki),
        "certificates": [canonical_base64.encode(der) for der in endorser.certificates],
    }

"""The signing identities of a work directory: ``people/<name>/`` with ``person.json`` and ``key.pem``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Misuse
from tallystick.core.files import read_file, write_file
from tallystick.signing.records import Identity

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from tallystick.signing.keyfile import Passphrase

_SCHEMA = "tallystick/person/v1"
_WHAT = "person"


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody who signs: an identity, the key that proves it, and for a builder the builder.id it may claim."""

    name: str
    identity: Identity
    builder_id: str | None
    key: ec.EllipticCurvePrivateKey


def folder(workdir: Path, name: str) -> Path:
    """Return where ``name`` lies.

    Raises:
        Misuse: ``name`` is no plain name.
    """
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name) is None:
        raise Misuse(
            f"{name[:64]!r} is no name of a person: lower-case letters, digits and .-_", code="person.name"
        )
    return workdir / "people" / name


def create(
    path: Path, identity: Identity, builder_id: str | None, passphrase: bytes | None = None
) -> ec.EllipticCurvePrivateKey:
    """Make the folder ``path`` of a person with a fresh key, and return the key."""
    from cryptography.hazmat.primitives.asymmetric import ec

    from tallystick.signing import keyfile

    key = ec.generate_private_key(ec.SECP256R1())
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    keyfile.write(path / "key.pem", key, passphrase)
    document = {"schema": _SCHEMA, "san": identity.san, "issuer": identity.issuer}
    if builder_id is not None:
        document["builder_id"] = builder_id
    write_file(path / "person.json", jsondoc.dumps(document), mode=0o600)
    return key


def describe(workdir: Path, name: str) -> tuple[Identity, str | None]:
    """Return the identity of ``name``, and the builder.id it may claim.

    Raises:
        Misuse: there is nobody of that name (``person.unknown``).
        Malformed: the file is not as :func:`create` wrote it.
    """
    path = folder(workdir, name) / "person.json"
    if not path.is_file():
        known = ", ".join(sorted(p.parent.name for p in workdir.glob("people/*/person.json"))) or "nobody"
        raise Misuse(f"there is no {name} in {workdir}; there is: {known}", code="person.unknown")
    document = jsondoc.loads(read_file(path, _WHAT, max_bytes=1 << 16), _WHAT)
    if not isinstance(document, dict) or document.get("schema") != _SCHEMA:
        raise Malformed(_WHAT, at=f"{path}: schema", want=_SCHEMA, got=repr(document))
    unknown = set(document) - {"schema", "san", "issuer", "builder_id"}
    values = [document.get("san"), document.get("issuer"), document.get("builder_id", "")]
    if unknown or not all(isinstance(value, str) for value in values):
        raise Malformed(
            _WHAT, at=str(path), want="the texts san, issuer and perhaps builder_id", got=repr(document)
        )
    return Identity(san=document["san"], issuer=document["issuer"]), document.get("builder_id")


def load(workdir: Path, name: str, passphrase: Passphrase = None) -> Person:
    """Return ``name`` with the private key.

    Raises:
        Misuse, Malformed: as :func:`describe` and :func:`tallystick.signing.keyfile.read`.
    """
    from tallystick.signing import keyfile

    identity, builder_id = describe(workdir, name)
    key = keyfile.read(folder(workdir, name) / "key.pem", passphrase)
    return Person(name=name, identity=identity, builder_id=builder_id, key=key)

"""The vault's own file: where its master key is, where its keys lie, and how both are opened.

Source: RFC 7914 (scrypt); NIST SP 800-38D (AES-GCM).
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tallystick.broker.places import FolderPlace, Place
from tallystick.broker.sealing import LocalSealer, Sealer, b64, sealer_of, unb64
from tallystick.broker.secretfiles import private_folder, read_secret, write_secret
from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Unreachable, Unsupported

SCHEMA = "tallystick/vault/v1"
_MASTER_BYTES = 32
_PROBE_BYTES = 32
_NONCE_BYTES = 12
_SALT_BYTES = 16
_MAX_FILE_BYTES = 64 << 10
_SCRYPT = {"n": 1 << 15, "r": 8, "p": 1}  # OWASP Password Storage: 32 MiB, about 0.1 s
_SCRYPT_MEMORY_BYTES = 64 << 20


def create(
    folder: Path,
    *,
    passphrase: str | None = None,
    master: Mapping[str, str] | None = None,
    kv: Mapping[str, str] | None = None,
    database: str | None = None,
) -> tuple[Place, Sealer]:
    """Make an empty vault in ``folder``; its master key is random, in a 0600 file.

    With a ``passphrase`` the file holds it encrypted under scrypt of the passphrase.

    Args:
        master: where the master key is instead: ``{"master": "pkcs11", "key": URI}`` or
            ``{"master": "transit", "key": URL, "ca": file}``. The passphrase is then the PIN or the token.
        kv: a key-value engine where the sealed keys lie instead of this folder: ``{"url": URL, "ca": file}``. The
            passphrase is its token, so the master key is a plain file, or in the transit engine of the same service.
        database: URL of the broker's store, where the sealed keys lie instead, for all replicas.

    Raises:
        Misuse: there is a vault already (``vault.exists``), the passphrase is empty, or ``kv`` with a master key that
            wants another secret (``vault.kv``).
        TallystickError: as the token or the service says; a secret must come back before the vault is made.
    """
    if (folder / "vault.json").exists():
        raise Misuse(f"{folder} is a vault already", code="vault.exists")
    document: dict[str, Any] = {"schema": SCHEMA, **(master or {"master": "file"})}
    if kv is not None:
        document["kv"] = dict(kv)
        _check_kv(document)
    if database is not None:
        document["database"] = database
    own = b""
    if master is None:
        own = secrets.token_bytes(_MASTER_BYTES)
        if passphrase is not None and kv is None:
            document |= {"master": "passphrase", **_lock(own, passphrase)}
    sealer = LocalSealer(own) if own else sealer_of(document, _encoded(passphrase))
    place = _place(folder, document, passphrase)
    if master is not None:
        _try(sealer)
    if kv is not None:
        place.names()  # the service answers, and takes the token
    private_folder(folder)
    if isinstance(place, FolderPlace):
        place.create()
    if document["master"] == "file":
        write_secret(folder / "master.key", own)
    write_secret(folder / "vault.json", rfc8785.dumps(document))
    return place, sealer


def load(folder: Path, *, passphrase: str | None = None) -> tuple[Place, Sealer]:
    """Return the place and the sealer of the vault in ``folder``.

    Raises:
        Misuse: there is none, or it wants a passphrase and got none, or the other way round.
        Malformed: ``vault.json`` is not what this program writes.
        Unsupported: another schema or way to keep the master key.
        NotGenuine: a file that others can read, or a wrong passphrase.
    """
    path = folder / "vault.json"
    if not folder.is_dir():
        raise Misuse(f"vault: there is no folder {folder}; run `tally broker init`", code="file.missing")
    found = document(read_secret(path, "vault", max_bytes=_MAX_FILE_BYTES), "vault", str(path), SCHEMA)
    return _place(folder, found, passphrase), _sealer(folder, found, passphrase)


def document(data: bytes, what: str, where: str, schema: str) -> dict[str, Any]:
    """Return the JSON object in ``data``.

    Raises:
        Malformed: it is none. Unsupported: another schema.
    """
    found = jsondoc.loads(data, what)
    if not isinstance(found, dict):
        raise Malformed(what, at=where, want="an object", got=type(found).__name__)
    if found.get("schema") != schema:
        raise Unsupported(what, at="schema", want=schema, got=str(found.get("schema")))
    return found


def _sealer(folder: Path, found: Mapping[str, Any], passphrase: str | None) -> Sealer:
    kept = found.get("master")
    if kept == "file":
        if passphrase is not None and "kv" not in found:
            raise Misuse(f"the vault in {folder} has no passphrase", code="vault.passphrase")
        master = read_secret(folder / "master.key", "vault master key", max_bytes=_MASTER_BYTES)
    elif kept == "passphrase":
        if passphrase is None:
            raise Misuse(f"the vault in {folder} wants a passphrase", code="vault.passphrase")
        master = _unlock(found, passphrase)
    else:
        return sealer_of(found, _encoded(passphrase))
    if len(master) != _MASTER_BYTES:
        raise Malformed("vault", at="master.key", want=f"{_MASTER_BYTES} bytes", got=f"{len(master)}")
    return LocalSealer(master)


def _place(folder: Path, found: Mapping[str, Any], passphrase: str | None) -> Place:
    from tallystick.broker.kvplace import KvPlace
    from tallystick.broker.storeplace import StorePlace

    if isinstance(database := found.get("database"), str):
        return StorePlace(database)
    if "kv" not in found:
        return FolderPlace(folder)
    kv = found["kv"]
    url, ca = (kv.get("url"), kv.get("ca")) if isinstance(kv, dict) else (None, None)
    if not isinstance(url, str) or not (ca is None or isinstance(ca, str)):
        raise Malformed("vault", at="kv", want="an object with a url", got=type(kv).__name__)
    _check_kv(found)
    return KvPlace(url, _encoded(passphrase), ca=None if ca is None else Path(ca))


def _check_kv(found: Mapping[str, Any]) -> None:
    """One secret opens a vault, so what keeps its keys and what seals them must take the same one."""
    if found.get("master") not in ("file", "transit"):
        want = "a master key in a file or in the transit engine of the same service"
        raise Misuse(f"a vault in a key-value engine has {want}", code="vault.kv")


def _encoded(passphrase: str | None) -> bytes | None:
    return None if passphrase is None else passphrase.encode()


def _try(sealer: Sealer) -> None:
    """Seal and unseal something, so that a vault is never made whose keys would be lost.

    Raises:
        Unreachable: something else came back (``vault.sealer``).
    """
    probe = secrets.token_bytes(_PROBE_BYTES)
    if sealer.unseal(sealer.seal(probe, b"probe"), b"probe") != probe:
        raise Unreachable("the master key does not give back what it sealed", code="vault.sealer")


def _lock(master: bytes, passphrase: str) -> dict[str, Any]:
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    head: dict[str, Any] = {"kdf": "scrypt", **_SCRYPT, "salt": b64(salt)}
    sealed = AESGCM(_stretch(passphrase, salt)).encrypt(nonce, master, rfc8785.dumps(head))
    return {**head, "nonce": b64(nonce), "sealed": b64(sealed)}


def _unlock(document: Mapping[str, Any], passphrase: str) -> bytes:
    head: dict[str, Any] = {name: document.get(name) for name in ("kdf", *_SCRYPT, "salt")}
    if {name: head[name] for name in ("kdf", *_SCRYPT)} != {"kdf": "scrypt", **_SCRYPT}:
        raise Unsupported("vault", at="kdf", want=f"scrypt with {_SCRYPT}", got=str(head))
    salt = unb64(head["salt"], "salt")
    nonce, sealed = (unb64(document.get(name), name) for name in ("nonce", "sealed"))
    try:
        return AESGCM(_stretch(passphrase, salt)).decrypt(nonce, sealed, rfc8785.dumps(head))
    except (InvalidTag, ValueError):
        raise NotGenuine("the vault does not open with this passphrase", code="vault.passphrase") from None


def _stretch(passphrase: str, salt: bytes) -> bytes:
    if not passphrase:
        raise Misuse("the vault's passphrase is empty", code="vault.passphrase")
    return hashlib.scrypt(
        passphrase.encode(), salt=salt, dklen=_MASTER_BYTES, maxmem=_SCRYPT_MEMORY_BYTES, **_SCRYPT
    )

"""An embedded Sigstore's folder: making one, opening it, and enrolling who may sign.

``trusted_root.json`` and ``client_trust_config.json`` are for everybody; the keys are for the owner. The root's own
key is thrown away once it has signed the intermediate: nothing needs it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Misuse
from tallystick.core.files import read_file, write_file
from tallystick.formats import canonical_base64
from tallystick.signing import keyfile
from tallystick.signing.embedded import x509parts as parts
from tallystick.signing.embedded.ca import CertificateAuthority, UsedTokens
from tallystick.signing.embedded.proofs import Enrolled, Issuer
from tallystick.signing.embedded.rekor import HOST, TransparencyLog
from tallystick.signing.records import Identity
from tallystick.signing.root import MEDIA_TYPE
from tallystick.tlog import checkpoint as cp

ISSUER = "https://tallystick.local/embedded-dev"  # what enrolled people's certificates name as issuer
_CA_URI, _CT_URI, _REKOR_URI = "https://ca.tallystick.local", "https://ct.tallystick.local", f"https://{HOST}"
_ENROLLED_SCHEMA = "tallystick/enrolled/v1"
_MAX_BYTES = 1 << 20


class Instance:
    """An open embedded Sigstore."""

    def __init__(self, folder: Path, passphrase: keyfile.Passphrase = None) -> None:
        """Read the folder.

        Raises:
            Misuse: there is no embedded Sigstore, or its keys can not be opened.
            Malformed: one of its files is not as :func:`create` wrote it.
        """
        if not (folder / "trusted_root.json").is_file():
            raise Misuse(
                f"there is no embedded Sigstore in {folder}; `tally init` makes one", code="sigstore.missing"
            )
        chain = x509.load_pem_x509_certificates(
            read_file(folder / "ca.pem", "CA chain", max_bytes=_MAX_BYTES)
        )
        self.trusted_root = read_file(folder / "trusted_root.json", "trusted root", max_bytes=_MAX_BYTES)
        self.authority = CertificateAuthority(
            key=keyfile.read(folder / "ca.key", passphrase),
            chain=tuple(chain),
            ct_key=keyfile.read(folder / "ct.key", passphrase),
            ct_folder=folder / "ct",
            enrolled=_read_enrolled(folder),
            issuers=_read_issuers(folder),
            used=UsedTokens(folder / "tokens.used"),
        )
        self.log = TransparencyLog(
            key=keyfile.read(folder / "rekor.key", passphrase), folder=folder / "rekor"
        )


def create(
    folder: Path,
    now: datetime,
    passphrase: bytes | None = None,
    hardware: Mapping[str, str] | None = None,
) -> None:
    """Make an embedded Sigstore in ``folder``, which has to be without one.

    Args:
        passphrase: encrypts the keys at rest; the PIN of those in a token.
        hardware: PKCS#11 URIs of keys that are in a token already: "ca" (P-384), "ct" and "rekor" (P-256).

    Raises:
        Misuse: there is one already (``sigstore.exists``): its keys are trusted by somebody.
    """
    if (folder / "trusted_root.json").exists() or (folder / "ca.key").exists():
        raise Misuse(f"{folder} holds an embedded Sigstore already", code="sigstore.exists")
    root_key = ec.generate_private_key(ec.SECP384R1())
    curves: dict[str, ec.EllipticCurve] = {
        "ca": ec.SECP384R1(),
        "ct": ec.SECP256R1(),
        "rekor": ec.SECP256R1(),
    }
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = {
        name: _make_key(folder / f"{name}.key", curve, passphrase, (hardware or {}).get(name))
        for name, curve in curves.items()
    }
    ca_key, ct_key, log_key = made["ca"], made["ct"], made["rekor"]
    root = parts.make_root(root_key, x509.random_serial_number(), now)
    public = ca_key.public_key()
    issuing = parts.make_intermediate(public, root, root_key, x509.random_serial_number(), now)
    log = TransparencyLog(key=log_key, folder=folder / "rekor")
    log.create()
    chain = (issuing, root)
    write_file(folder / "ca.pem", b"".join(one.public_bytes(Encoding.PEM) for one in chain))
    write_file(folder / "issuers.json", jsondoc.dumps([]))
    _write_enrolled(folder, ())
    document = _trusted_root(chain, ct_key.public_key(), log, now)
    config = {
        "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
        "trustedRoot": document,
        "signingConfig": _signing_config(now),
    }
    write_file(folder / "client_trust_config.json", jsondoc.dumps(config))
    write_file(folder / "trusted_root.json", jsondoc.dumps(document))  # last: with it, the folder is one


def enrol(folder: Path, identity: Identity, public_key: str) -> None:
    """Let the key ``public_key`` (PEM), and no other, speak for ``identity`` from now on.

    Raises:
        Misuse: ``sigstore.enrolled``: another key is enrolled for it.
    """
    enrolled = _read_enrolled(folder)
    if any(one.identity == identity for one in enrolled):
        raise Misuse(f"a key is enrolled for {identity.san} already", code="sigstore.enrolled")
    _write_enrolled(folder, (*enrolled, Enrolled(identity=identity, public_key=public_key)))


def _make_key(
    path: Path, curve: ec.EllipticCurve, passphrase: bytes | None, uri: str | None
) -> ec.EllipticCurvePrivateKey:
    """Make a key in ``path``, or let ``path`` name the one that is in a token.

    Raises:
        Malformed: the token's key is on another curve.
    """
    if uri is None:
        key = ec.generate_private_key(curve)
        keyfile.write(path, key, passphrase)
        return key
    write_file(path, f"{uri}\n".encode(), mode=0o600)
    found = keyfile.read(path, passphrase)
    if found.curve.name != curve.name:
        raise Malformed("hardware key", at=uri, want=curve.name, got=found.curve.name)
    return found


def served_at(config: dict[str, Any], url: str) -> dict[str, Any]:
    """Return the client trust config ``config`` for an instance whose front answers at ``url``.

    The trusted root stays as it is: it names the log by its own name, wherever it is reached.
    """
    signing = dict(config["signingConfig"])
    for services in ("caUrls", "rekorTlogUrls"):
        signing[services] = [one | {"url": url} for one in signing[services]]
    return config | {"signingConfig": signing}


def _trusted_root(
    chain: tuple[x509.Certificate, ...],
    ct_key: ec.EllipticCurvePublicKey,
    log: TransparencyLog,
    now: datetime,
) -> dict[str, Any]:
    valid = {"start": _time(now)}
    certificates = [{"rawBytes": canonical_base64.encode(one.public_bytes(Encoding.DER))} for one in chain]
    authority = {
        "subject": {"organization": parts.ORGANIZATION, "commonName": "root"},
        "uri": _CA_URI,
        "certChain": {"certificates": certificates},
        "validFor": valid,
    }
    return {
        "mediaType": MEDIA_TYPE,
        "tlogs": [_log_document(_REKOR_URI, log.key.public_key(), valid)],
        "certificateAuthorities": [authority],
        "ctlogs": [_log_document(_CT_URI, ct_key, valid)],
        "timestampAuthorities": [],
    }


def _log_document(uri: str, key: ec.EllipticCurvePublicKey, valid: dict[str, str]) -> dict[str, Any]:
    return {
        "baseUrl": uri,
        "hashAlgorithm": "SHA2_256",
        "publicKey": {
            "rawBytes": canonical_base64.encode(parts.spki(key)),
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "validFor": valid,
        },
        "logId": {"keyId": canonical_base64.encode(cp.spki_digest(key))},
    }


def _signing_config(now: datetime) -> dict[str, Any]:
    def service(uri: str) -> list[dict[str, Any]]:
        return [
            {
                "url": uri,
                "majorApiVersion": 1,
                "validFor": {"start": _time(now)},
                "operator": parts.ORGANIZATION,
            }
        ]

    return {
        "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
        "caUrls": service(_CA_URI),
        "oidcUrls": service(ISSUER),
        "rekorTlogUrls": service(_REKOR_URI),
        "tsaUrls": [],
        "rekorTlogConfig": {"selector": "ANY"},
        "tsaConfig": {"selector": "ANY"},
    }


def _read_enrolled(folder: Path) -> tuple[Enrolled, ...]:
    what = "enrolled keys"
    document = jsondoc.loads(read_file(folder / "enrolled.json", what, max_bytes=_MAX_BYTES), what)
    if not isinstance(document, dict) or document.get("schema") != _ENROLLED_SCHEMA:
        raise Malformed(what, at="schema", want=_ENROLLED_SCHEMA, got=repr(document))
    try:
        return tuple(
            Enrolled(identity=Identity(san=one["san"], issuer=one["issuer"]), public_key=one["public_key"])
            for one in document["people"]
        )
    except (KeyError, TypeError):
        raise Malformed(
            what, at="people", want="san, issuer and public_key of each", got=repr(document)
        ) from None


def _write_enrolled(folder: Path, enrolled: tuple[Enrolled, ...]) -> None:
    people = [
        {"san": one.identity.san, "issuer": one.identity.issuer, "public_key": one.public_key}
        for one in enrolled
    ]
    write_file(
        folder / "enrolled.json", jsondoc.dumps({"schema": _ENROLLED_SCHEMA, "people": people}), mode=0o600
    )


def _read_issuers(folder: Path) -> tuple[Issuer, ...]:
    what = "pinned issuers"
    document = jsondoc.loads(read_file(folder / "issuers.json", what, max_bytes=_MAX_BYTES), what)
    try:
        issuers = tuple(
            Issuer(
                issuer=one["issuer"],
                jwks=one["jwks"],
                claim=one["claim"],
                challenged=one.get("nonce", False) is True,
            )
            for one in document
        )
    except (KeyError, TypeError, AttributeError):
        raise Malformed(
            what, at="document", want="issuer, jwks and claim of each", got=repr(document)
        ) from None
    for one in issuers:
        if one.claim not in ("email", "sub"):
            raise Malformed(what, at="claim", want="email or sub", got=str(one.claim))
    return issuers


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")

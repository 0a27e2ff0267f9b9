"""What Sigstore clients ask over HTTP, answered by an embedded Sigstore. Pure of sockets: :mod:`.http` has those.

Fulcio v2 ``signingCert`` (a CSR, or a key with proof of possession) and ``trustBundle``; Rekor v1 entries, log
info and consistency proofs; RFC 6962 reads of the CT log for monitors. Who has no OIDC issuer proves an enrolled key
and gets a token that is good for one certificate.

Source: sigstore/fulcio, fulcio.proto (v2); sigstore/rekor, openapi.yaml (v1); RFC 6962, section 4.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Refused, TallystickError, Unreachable
from tallystick.formats import canonical_base64
from tallystick.signing.embedded import proofs, x509parts
from tallystick.signing.embedded.instance import ISSUER, Instance
from tallystick.tlog import checkpoint as cp
from tallystick.tlog.log import Log
from tallystick.tlog.merkle import leaf_hash

MAX_BODY_BYTES = 64 << 20  # a DSSE envelope around a large SBOM, base64 twice
_TOKEN_LIFETIME = timedelta(minutes=5)
_MOST_ENTRIES = 256  # of one get-entries answer
_UUID = re.compile(r"(?:[0-9a-f]{16})?([0-9a-f]{64})")
_STATUS = {NotGenuine: 401, Refused: 403, Unreachable: 503}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes back over HTTP."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Front:
    """The endpoints of one open embedded Sigstore."""

    def __init__(self, instance: Instance) -> None:
        """Take the instance, and let its CA believe the tokens that this front gives out."""
        self._key = ec.generate_private_key(ec.SECP256R1())  # of tokens: they do not outlive the process
        own = proofs.Issuer(issuer=ISSUER, jwks={"keys": [_jwk(self._key.public_key())]}, claim="sub")
        self._authority = replace(instance.authority, issuers=(*instance.authority.issuers, own))
        self._log = instance.log
        with Log.open(instance.authority.ct_folder):
            pass  # made when there is none yet, so that it can be read before the first certificate
        self._posts: dict[str, Callable[[bytes, Mapping[str, str], datetime], Answer]] = {
            "/api/v2/signingCert": self._signing_cert,
            "/api/v1/log/entries": self._submit,
            "/tally/v0/token": self._token,
        }
        self._gets: dict[str, Callable[[dict[str, str]], Answer]] = {
            "/api/v2/trustBundle": self._trust_bundle,
            "/api/v1/log": self._log_info,
            "/api/v1/log/publicKey": self._log_key,
            "/api/v1/log/proof": self._log_proof,
            "/api/v1/log/entries": self._entry_by_index,
            "/ct/v1/get-sth": self._ct_head,
            "/ct/v1/get-sth-consistency": self._ct_consistency,
            "/ct/v1/get-entries": self._ct_entries,
            "/tally/v0/challenge": lambda _: _json({"nonce": self._authority.challenge()}),
        }

    def answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> Answer:
        """Return the answer to one request; every refusal is an answer too.

        Args:
            headers: names in lower case.
        """
        parts = urlsplit(target)
        try:
            if method == "POST" and (post := self._posts.get(parts.path)):
                return post(body, headers, now)
            if method == "GET" and (get := self._gets.get(parts.path)):
                return get({name: values[0] for name, values in parse_qs(parts.query).items()})
            if method == "GET" and parts.path.startswith("/api/v1/log/entries/"):
                return self._entry_by_uuid(parts.path.rpartition("/")[2])
        except TallystickError as error:
            status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 400)
            return _error(status, error.message)
        return _error(404, "there is nothing here")

    def _signing_cert(self, body: bytes, headers: Mapping[str, str], now: datetime) -> Answer:
        asked = _object(body, "certificate request")
        given = asked.get("credentials")
        token = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not token and isinstance(given, dict):
            token = str(given.get("oidcIdentityToken", ""))
        if "certificateSigningRequest" in asked:
            leaf = self._authority.certify(_csr(asked["certificateSigningRequest"]), token, now)
        else:
            public, possession = _key_request(asked.get("publicKeyRequest"))
            leaf = self._authority.certify_key(public, possession, token, now)
        chain = [one.public_bytes(Encoding.PEM).decode() for one in (leaf, *self._authority.chain)]
        return _json({"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}})

    def _trust_bundle(self, _: dict[str, str]) -> Answer:
        chain = [one.public_bytes(Encoding.PEM).decode() for one in self._authority.chain]
        return _json({"chains": [{"certificates": chain}]})

    def _token(self, body: bytes, _: Mapping[str, str], now: datetime) -> Answer:
        """Give a token for a challenge that an enrolled key signed; it is good for one certificate."""
        proof = _object(body, "token request").get("proof")
        identity = self._authority.exchange(str(proof), now)
        claims = {
            "iss": identity.issuer,
            "sub": identity.san,
            "aud": proofs.AUDIENCE,
            "iat": int(now.timestamp()),
            "exp": int((now + _TOKEN_LIFETIME).timestamp()),
            "jti": self._authority.challenge(),
        }
        return _json({"id_token": proofs.signed_jwt(claims, self._key)})

    def _submit(self, body: bytes, _: Mapping[str, str], now: datetime) -> Answer:
        entry = self._log.submit(_object(body, "proposed log entry"), now)
        uuid, document = self._entry_document(entry)
        headers = (("ETag", uuid), ("Location", f"/api/v1/log/entries/{uuid}"))  # cosign reads both
        return _json({uuid: document}, 201, headers)

    def _entry_document(self, entry: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return a logged entry as Rekor v1 spells it: hex where protobuf has base64."""
        body = canonical_base64.decode(entry["canonicalizedBody"], "log entry", "body")
        proof = entry["inclusionProof"]
        uuid = self._log.log_id.hex()[:16] + leaf_hash(body).hex()
        return uuid, {
            "body": entry["canonicalizedBody"],
            "integratedTime": int(entry["integratedTime"]),
            "logID": self._log.log_id.hex(),
            "logIndex": int(entry["logIndex"]),
            "verification": {
                "signedEntryTimestamp": entry["inclusionPromise"]["signedEntryTimestamp"],
                "inclusionProof": {
                    "checkpoint": proof["checkpoint"]["envelope"],
                    "hashes": [_hex(step) for step in proof["hashes"]],
                    "logIndex": int(proof["logIndex"]),
                    "rootHash": _hex(proof["rootHash"]),
                    "treeSize": int(proof["treeSize"]),
                },
            },
        }

    def _log_info(self, _: dict[str, str]) -> Answer:
        note = self._log.checkpoint()
        checkpoint = cp.parse(cp.parse_note(note).text)
        return _json(
            {
                "inactiveShards": [],
                "rootHash": checkpoint.root.hex(),
                "signedTreeHead": note,
                "treeID": checkpoint.origin.rpartition(" ")[2],
                "treeSize": checkpoint.size,
            }
        )

    def _log_key(self, _: dict[str, str]) -> Answer:
        pem = self._log.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return Answer(status=200, body=pem, content_type="application/x-pem-file")

    def _log_proof(self, query: dict[str, str]) -> Answer:
        log = Log.read(self._log.folder)
        older, newer = _range(query.get("firstSize", "1"), query.get("lastSize"), log.size)
        hashes = [step.hex() for step in log.consistency(older, newer)]
        return _json({"hashes": hashes, "rootHash": log.root(newer).hex()})

    def _entry_by_index(self, query: dict[str, str]) -> Answer:
        index = _number(query.get("logIndex"), "logIndex")
        return self._entry_at(index, Log.read(self._log.folder))

    def _entry_by_uuid(self, uuid: str) -> Answer:
        match = _UUID.fullmatch(uuid)
        log = Log.read(self._log.folder)
        for index in range(log.size if match else 0):
            if leaf_hash(log.entry(index)).hex() == match[1]:  # type: ignore[index]
                return self._entry_at(index, log)
        return _error(404, "there is no such entry")

    def _entry_at(self, index: int, log: Log) -> Answer:
        """Give an entry without the log's promise: when it was logged is not kept, and only the first answer said."""
        if index >= log.size:
            return _error(404, "there is no such entry")
        body = log.entry(index)
        uuid = self._log.log_id.hex()[:16] + leaf_hash(body).hex()
        proof = {
            "checkpoint": self._log.checkpoint(),
            "hashes": [step.hex() for step in log.inclusion(index)],
            "logIndex": index,
            "rootHash": log.root().hex(),
            "treeSize": log.size,
        }
        document = {
            "body": canonical_base64.encode(body),
            "logID": self._log.log_id.hex(),
            "logIndex": index,
            "verification": {"inclusionProof": proof},
        }
        return _json({uuid: document})

    def _ct_head(self, _: dict[str, str]) -> Answer:
        log = Log.read(self._authority.ct_folder)
        millis = x509parts.tree_leaf_time(log.entry(log.size - 1)) if log.size else 0
        signature = x509parts.sign_tree_head(log.size, log.root(), millis, self._authority.ct_key)
        return _json(
            {
                "tree_size": log.size,
                "timestamp": millis,
                "sha256_root_hash": canonical_base64.encode(log.root()),
                "tree_head_signature": canonical_base64.encode(signature),
            }
        )

    def _ct_consistency(self, query: dict[str, str]) -> Answer:
        log = Log.read(self._authority.ct_folder)
        older, newer = _range(query.get("first"), query.get("second"), log.size)
        return _json({"consistency": [canonical_base64.encode(h) for h in log.consistency(older, newer)]})

    def _ct_entries(self, query: dict[str, str]) -> Answer:
        log = Log.read(self._authority.ct_folder)
        start, end = _number(query.get("start"), "start"), _number(query.get("end"), "end")
        if start > end or start >= log.size:
            return _error(400, f"want start <= end < {log.size}")
        last = min(end, log.size - 1, start + _MOST_ENTRIES - 1)
        chain = b"".join(_opaque(one.public_bytes(Encoding.DER)) for one in self._authority.chain)
        extra = canonical_base64.encode(_opaque(chain))
        leaves = [canonical_base64.encode(log.entry(index)) for index in range(start, last + 1)]
        return _json({"entries": [{"leaf_input": leaf, "extra_data": extra} for leaf in leaves]})


def _csr(text: object) -> x509.CertificateSigningRequest:
    try:
        return x509.load_pem_x509_csr(base64.b64decode(str(text), validate=True))
    except (ValueError, binascii.Error):
        raise Malformed(
            "certificate request", at="certificateSigningRequest", want="base64 of PEM", got=str(text)
        ) from None


def _key_request(asked: object) -> tuple[object, bytes]:
    what = "certificate request"
    try:
        content, possession = asked["publicKey"]["content"], asked["proofOfPossession"]  # type: ignore[index]
        return load_pem_public_key(content.encode()), base64.b64decode(possession, validate=True)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise Malformed(
            what, at="publicKeyRequest", want="a key and a proof of it", got=repr(asked)
        ) from None


def _jwk(public: ec.EllipticCurvePublicKey) -> dict[str, str]:
    numbers = public.public_numbers()

    def part(value: int) -> str:
        return base64.urlsafe_b64encode(value.to_bytes(32, "big")).decode().rstrip("=")

    return {"kty": "EC", "crv": "P-256", "x": part(numbers.x), "y": part(numbers.y)}


def _object(body: bytes, what: str) -> dict[str, Any]:
    document = jsondoc.loads(body, what, max_bytes=MAX_BODY_BYTES)
    if not isinstance(document, dict):
        raise Malformed(what, at="body", want="an object", got=type(document).__name__)
    return document


def _number(text: str | None, name: str) -> int:
    if text is None or re.fullmatch(r"[0-9]{1,15}", text) is None:
        raise Misuse(f"{name}: want a number, got {str(text)[:40]}", code="sigstore.request")
    return int(text)


def _range(older: str | None, newer: str | None, size: int) -> tuple[int, int]:
    first, last = _number(older, "first size"), size if newer is None else _number(newer, "last size")
    if not 0 < first <= last <= size:
        raise Misuse(f"want 0 < first size <= last size <= {size}", code="sigstore.request")
    return first, last


def _hex(text: str) -> str:
    return canonical_base64.decode(text, "log entry", "hash").hex()


def _opaque(data: bytes) -> bytes:
    return len(data).to_bytes(3, "big") + data


def _json(document: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    return Answer(status=status, body=json.dumps(document).encode(), headers=headers)


def _error(status: int, message: str) -> Answer:
    return _json({"code": status, "message": message}, status)

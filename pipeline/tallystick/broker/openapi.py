"""The service's interface as an OpenAPI document, which other programs are written and tested against.

Source: OpenAPI 3.1.0; Trustee, kbs/docs/kbs_attestation_protocol.md for the messages.
"""

from __future__ import annotations

from typing import Any

from tallystick import __version__
from tallystick.handshake.kbs import ACTIVATE_PATH, ATTEST_PATH, AUTH_PATH, ENROL_PATH, RESOURCE_PATH

_KEY_PART = "^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
_B64 = {"type": "string", "contentEncoding": "base64"}
_B64URL = {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"}


def document() -> dict[str, Any]:
    """Return the document, for OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tallystick key broker",
            "version": __version__,
            "description": "The Key Broker Service protocol 0.4.0 of Confidential Containers, the enrolment of"
            " TPM attestation keys, and the transparency log's head.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "session": {"type": "apiKey", "in": "cookie", "name": "kbs-session-id"},
                "administrator": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWS (ES256) over aud, htm, htu, digest, iat, exp, jti; for one request",
                },
            },
        },
    }


def _paths() -> dict[str, Any]:
    part = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": _KEY_PART}}
        for name in ("repository", "type", "tag")
    ]
    return {
        AUTH_PATH: {"post": _post("Begin a session.", "Request", "Challenge", sets_cookie=True)},
        ATTEST_PATH: {
            "post": _post("Prove the machine of this session.", "Attestation", "Token", session=True)
        },
        RESOURCE_PATH + "{repository}/{type}/{tag}": {
            "get": {
                "summary": "Fetch a key, wrapped to the session's public key.",
                "operationId": "resource",
                "parameters": part,
                "security": [{"session": []}],
                "responses": {"200": _answer("JWE"), **_errors(401, 403, 404)},
            }
        },
        ENROL_PATH: {"post": _post("Ask for a TPM's attestation key to be certified.", "Enrolment", "Offer")},
        ACTIVATE_PATH: {"post": _post("Answer the enrolment's challenge.", "Activation", "Certificate")},
        "/tally/v0/log/checkpoint": {"get": _text("The log's signed checkpoint (C2SP tlog-checkpoint).")},
        "/tally/v0/token-keys": {
            "get": {
                "summary": "The keys that sign attestation results, as a JWK set.",
                "operationId": "token-keys",
                "responses": {"200": _answer("Keys"), **_errors()},
            }
        },
        "/tally/v0/policies": {
            "get": {
                "summary": "The digests of the policies in force, as the log has them.",
                "operationId": "policies",
                "responses": {"200": _answer("Policies"), **_errors()},
            }
        },
        "/tally/v0/leases/renew": {"post": _of_session("Renew the machine's leases.", "renew", "Leases")},
        "/tally/v0/leases/return": {"post": _of_session("Give the machine's keys back.", "return", "Leases")},
        "/tally/v0/token": {
            "post": {
                **_post(
                    "Ask for an API token, wrapped to the attested key.", "TokenRequest", "JWE", session=True
                ),
                "responses": {"200": _answer("JWE"), **_errors(400, 401, 403, 408, 413, 415)},
            }
        },
        "/tally/v0/admin/keys": {
            "get": {
                "summary": "The keys of the administrator's channels, without their secrets.",
                "operationId": "admin-keys",
                "security": [{"administrator": []}],
                "responses": {"200": _answer("KeyList"), **_errors(400, 401, 403, 404, 408, 413, 415)},
            },
            "post": {
                "summary": "Generate, import, rotate or destroy a key.",
                "operationId": "admin-operate",
                "security": [{"administrator": []}],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": _ref("KeyOperation")}},
                },
                "responses": {"200": _answer("KeyDone"), **_errors(400, 401, 403, 404, 408, 413, 415)},
            },
        },
        "/tally/v0/admin/channel": {
            "post": {
                "summary": "Have the broker read its channel now. Policies come from there alone.",
                "operationId": "admin-channel",
                "security": [{"administrator": []}],
                "responses": {"200": _answer("Policies"), **_errors(400, 401, 403, 404, 408, 413, 415)},
            }
        },
        "/healthz": {"get": _text("The process answers.")},
        "/readyz": {"get": _text("The channel's policies hold, so that keys can be released.")},
    }


def _post(
    summary: str, sent: str, given: str, *, session: bool = False, sets_cookie: bool = False
) -> dict[str, Any]:
    success = _answer(given)
    if sets_cookie:
        success["headers"] = {"Set-Cookie": {"schema": {"type": "string"}}}
    made: dict[str, Any] = {
        "summary": summary,
        "operationId": sent.lower(),
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref(sent)}},
        },
        "responses": {"200": success, **_errors(400, 401, 408, 413, 415)},
    }
    return {**made, "security": [{"session": []}]} if session else made


def _of_session(summary: str, name: str, given: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "operationId": name,
        "security": [{"session": []}],
        "responses": {"200": _answer(given), **_errors(401)},
    }


def _text(summary: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "operationId": summary.split()[-1].strip(".()").lower() + "-" + str(len(summary)),
        "responses": {
            "200": {"description": "as said", "content": {"text/plain": {"schema": {"type": "string"}}}},
            **_errors(),
        },
    }


def _answer(name: str) -> dict[str, Any]:
    return {"description": name, "content": {"application/json": {"schema": _ref(name)}}}


def _errors(*statuses: int) -> dict[str, Any]:
    """Return the error answers of an operation; 429 and 503 can come from any."""
    return {str(status): _answer("Error") for status in (*statuses, 405, 429, 503)}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas() -> dict[str, Any]:
    return {
        "Request": _object(
            {
                "version": {"const": "0.4.0"},
                "tee": {"type": "string", "maxLength": 40},
                "extra-params": {"type": ["object", "string"]},
            },
            "version",
            "tee",
        ),
        "Challenge": _object(
            {"nonce": _B64, "extra-params": {"type": ["object", "string"]}}, "nonce", "extra-params"
        ),
        "Attestation": _object(
            {
                "init-data": {
                    "type": ["object", "null"],
                    "properties": {"format": {"const": "toml"}, "body": {"type": "string"}},
                },
                "runtime-data": _object(
                    {"nonce": _B64, "tee-pubkey": _ref("PublicKey")}, "nonce", "tee-pubkey"
                ),
                "tee-evidence": _object(
                    {"primary_evidence": {}, "additional_evidence": {"type": "string"}}, "primary_evidence"
                ),
            },
            "runtime-data",
            "tee-evidence",
        ),
        "PublicKey": {
            "oneOf": [
                _object(
                    {
                        "kty": {"const": "EC"},
                        "crv": {"type": "string"},
                        "alg": {"type": "string"},
                        "x": _B64URL,
                        "y": _B64URL,
                    },
                    "kty",
                    "crv",
                    "x",
                    "y",
                ),
                _object(
                    {"kty": {"const": "RSA"}, "alg": {"type": "string"}, "n": _B64URL, "e": _B64URL},
                    "kty",
                    "n",
                    "e",
                ),
            ]
        },
        "Token": _object({"token": {"type": "string"}}, "token"),
        "JWE": _object(
            {
                "protected": _B64URL,
                "encrypted_key": _B64URL,
                "iv": _B64URL,
                "ciphertext": _B64URL,
                "tag": _B64URL,
            },
            "protected",
            "encrypted_key",
            "iv",
            "ciphertext",
            "tag",
        ),
        "Enrolment": _object(
            {"ek_certificate": _B64, "ak_public_area": _B64}, "ek_certificate", "ak_public_area"
        ),
        "Offer": _object(
            {"credential_blob": _B64, "encrypted_secret": _B64, "session": {"type": "string"}},
            "credential_blob",
            "encrypted_secret",
            "session",
        ),
        "Activation": _object({"session": {"type": "string"}, "secret": _B64}, "session", "secret"),
        "Certificate": _object({"ak_certificate": _B64}, "ak_certificate"),
        "Keys": _object({"keys": {"type": "array", "items": {"type": "object"}}}, "keys"),
        "Policies": _object(
            {
                "channel": {"type": "string"},
                "version": {"type": "integer"},
                "expires": {"type": "string"},
                "policies": {"type": "object", "additionalProperties": {"type": "string"}},
                "revoked": {"type": "array", "items": {"type": "string"}},
            },
            "channel",
            "version",
            "expires",
            "policies",
            "revoked",
        ),
        "TokenRequest": _object(
            {
                "key": {"type": "string"},
                "audience": {"type": "string", "minLength": 1, "maxLength": 256},
                "jwk": _object(
                    {"kty": {"const": "EC"}, "crv": {"const": "P-256"}, "x": _B64URL, "y": _B64URL}, "kty"
                ),
            },
            "key",
            "audience",
            "jwk",
        ),
        "Leases": _object(
            {"at": {"type": "string"}, "leases": {"type": "array", "items": {"type": "object"}}},
            "at",
            "leases",
        ),
        "KeyOperation": _object(
            {
                "action": {"enum": ["generate", "import", "rotate", "destroy"]},
                "key": {"type": "string", "maxLength": 300},
                "channel": {"type": "string"},
                "secret": _B64,
                "to": {"type": "string", "maxLength": 300},
            },
            "action",
            "key",
        ),
        "KeyRecord": _key_record(),
        "KeyDone": {
            "allOf": [_ref("KeyRecord"), _object({"decision": {"type": "string"}}, "decision")],
        },
        "KeyList": _object({"keys": {"type": "array", "items": _ref("KeyRecord")}}, "keys"),
        "Error": _object(
            {
                "type": {"type": "string", "format": "uri"},
                "detail": {"type": "string"},
                "code": {"type": "string"},
                "decision": {"type": "string"},
                "findings": {"type": "array", "items": {"type": "object"}},
            },
            "type",
            "detail",
        ),
    }


def _key_record() -> dict[str, Any]:
    return _object(
        {
            "key": {"type": "string"},
            "channel": {"type": "string"},
            "state": {"enum": ["live", "destroyed"]},
            "origin": {"enum": ["generated", "imported"]},
            "made_at": {"type": "string", "format": "date-time"},
            "replaces": {"type": "string"},
        },
        "key",
        "channel",
        "state",
        "origin",
        "made_at",
    )


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}

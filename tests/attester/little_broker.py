"""A broker for the attester's tests: it speaks the protocol and checks every binding, and has no policy."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tallystick.broker.credential import make_credential
from tallystick.core.errors import TallystickError
from tallystick.formats import tpm as tpm_format
from tallystick.handshake import binding, initdata, jwe, kbs

NONCE = base64.b64encode(bytes(range(32))).decode()


class LittleBroker:
    """What the server knows and what it saw."""

    def __init__(self, keys: dict[str, bytes]) -> None:
        self.keys = keys
        self.denied: dict[str, kbs.ErrorDocument] = {}
        self.seen: list[tuple[str, str]] = []  # (path, cookie)
        self.broken = 0  # how many requests still fail with 503
        self.url = ""
        self.hash_algorithm: str | None = "sha256"
        self.certificates: set[bytes] = set()
        self._secrets: dict[str, bytes] = {}
        self._sessions: dict[str, object] = {}
        self.attestation: kbs.Attestation | None = None
        self.quote: tpm_format.Quote | None = None

    def answer(self, method: str, path: str, body: bytes, cookie: str) -> tuple[int, object, dict[str, str]]:
        self.seen.append((path, cookie))
        if self.broken:
            self.broken -= 1
            return 503, "try again", {}
        match path:
            case kbs.ENROL_PATH:
                return 200, self._enrol(kbs.Enrolment.parse(body)), {}
            case kbs.ACTIVATE_PATH:
                return self._activate(kbs.Activation.parse(body))
            case kbs.AUTH_PATH:
                kbs.Request.parse(body)
                session = os.urandom(16).hex()
                self._sessions[session] = None
                challenge = kbs.Challenge(nonce=NONCE, hash_algorithm=self.hash_algorithm)
                return (
                    200,
                    challenge.document(),
                    {"Set-Cookie": f"kbs-session-id={session}; Path=/; HttpOnly"},
                )
            case kbs.ATTEST_PATH:
                return self._attest(kbs.Attestation.parse(body), cookie)
        if path == kbs.RENEW_PATH:  # as any KBS without leases
            return 404, kbs.ErrorDocument(kind="InvalidRequestPath", detail="nothing here").document(), {}
        return self._resource(path.removeprefix(kbs.RESOURCE_PATH), cookie)

    def _enrol(self, message: kbs.Enrolment) -> object:
        certificate = x509.load_der_x509_certificate(message.ek_certificate)
        key = certificate.public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        name = tpm_format.parse_sized_public(message.ak_public_area).name
        secret, session = os.urandom(32), os.urandom(8).hex()
        self._secrets[session] = secret
        blob, encrypted = make_credential(key, name, secret)
        offer = kbs.EnrolmentChallenge(credential_blob=blob, encrypted_secret=encrypted, session=session)
        return offer.document()

    def _activate(self, message: kbs.Activation) -> tuple[int, object, dict[str, str]]:
        if self._secrets.pop(message.session, None) != message.secret:
            return 401, kbs.ErrorDocument(kind="AttestationError", detail="another secret").document(), {}
        certificate = b"a certificate of " + message.session.encode()
        self.certificates.add(certificate)
        return 200, kbs.AkCertificate(ak_certificate=certificate).document(), {}

    def _attest(self, message: kbs.Attestation, cookie: str) -> tuple[int, object, dict[str, str]]:
        evidence = message.primary_evidence
        quote = evidence["tpm_quote"]
        attested = tpm_format.parse_quote(base64.b64decode(quote["message"]))
        signature = tpm_format.parse_signature(base64.b64decode(quote["signature"]))
        key = load_der_public_key(base64.b64decode(evidence["ak_public"]))
        key.verify(signature.rsa, base64.b64decode(quote["message"]), padding.PKCS1v15(), hashes.SHA256())
        pcrs = [bytes.fromhex(value) for value in quote["pcrs"]]
        digest = binding.report_data(
            message.nonce, message.tee_pubkey, algorithm=self.hash_algorithm or "sha384"
        )
        assert len(pcrs) == 24
        assert hashlib.sha256(b"".join(pcrs)).digest() == attested.pcr_digest
        assert base64.b64decode(evidence["ak_certificate"]) in self.certificates
        if cookie not in self._sessions or attested.extra_data != binding.tpm_extra_data(digest):
            return 401, kbs.ErrorDocument(kind="AttestationError", detail="not fresh").document(), {}
        if message.init_data is not None:
            assert pcrs[8] == initdata.pcr8(message.init_data.encode())
        self.attestation, self.quote = message, attested
        self._sessions[cookie] = message.tee_pubkey
        return 200, kbs.Token(token="an.ear.token").document(), {}

    def _resource(self, path: str, cookie: str) -> tuple[int, object, dict[str, str]]:
        if path in self.denied:
            return 403, self.denied[path].document(), {}
        public = self._sessions.get(cookie)
        if public is None:
            return 401, kbs.ErrorDocument(kind="TokenNotFound", detail="attest first").document(), {}
        return 200, json.loads(jwe.encrypt(self.keys[path], public)), {}


@contextmanager
def serving(broker: LittleBroker, *, context: ssl.SSLContext | None = None):
    """Serve ``broker`` on a free port of this machine, over TLS with ``context``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self._do(self.rfile.read(int(self.headers["Content-Length"])))

        def do_GET(self) -> None:
            self._do(b"")

        def _do(self, body: bytes) -> None:
            cookie = (self.headers["Cookie"] or "").partition("=")[2]
            try:
                status, document, headers = broker.answer(self.command, self.path, body, cookie)
            except TallystickError as error:
                status, headers = 400, {}
                document = kbs.ErrorDocument(kind="SerdeError", detail=error.message).document()
            data = document.encode() if isinstance(document, str) else kbs.encode(document)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    broker.url = f"{'https' if context else 'http'}://127.0.0.1:{server.server_address[1]}"
    try:
        yield broker
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

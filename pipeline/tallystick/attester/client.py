"""The client half of the KBS handshake: enrol, ask, prove, fetch."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tallystick.attester import evidence
from tallystick.attester.backoff import Backoff
from tallystick.attester.tpm import Key, Tpm
from tallystick.core.errors import (
    Malformed,
    Misuse,
    NotGenuine,
    Refused,
    TallystickError,
    Unreachable,
    Unsupported,
)
from tallystick.handshake import binding, kbs, tpmwire
from tallystick.handshake.jwe import TeeKeyPair
from tallystick.handshake.teekey import TeePublicKey

_TIMEOUT_SECONDS = 30.0
_TRIES = 5  # of one request: 3 seconds over all of them
_BACKOFF = Backoff(first_seconds=0.2, most_seconds=1.6)
_MAX_ANSWER_BYTES = 8 << 20
_NO_LEASES = (
    "path.unknown",
    "broker.refused",
)  # what ours, and any other KBS, say of a path that they do not have


# Gives the primary evidence that is bound to a digest, cut or padded as its TEE does it.
Prove = Callable[[bytes], object]
# Gives the additional evidence of a machine's devices over a nonce, as the JSON text that the primary one covers.
Show = Callable[[bytes], str]
NO_ENROLMENT = "broker.no-enrolment"


def no_devices(nonce: bytes) -> str:
    """Return what a machine without devices of its own evidence shows."""
    return ""


class KbsClient:
    """One session with one broker. The ephemeral key pair lives as long as the session."""

    def __init__(
        self,
        url: str,
        *,
        tee: str = "tpm",
        ca: Path | None = None,
        timeout_seconds: float = _TIMEOUT_SECONDS,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare a session with the broker at ``url``; nothing is sent yet.

        Args:
            tee: the KBS protocol's name for what this machine's evidence is of.
            ca: PEM file of the authority of an https broker's certificate. Default: the machine's authorities.

        Raises:
            Misuse: not an address of a broker.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise Misuse(f"broker: want an http:// or https:// address, got {url[:80]}", code="broker.url")
        self._tee = tee
        self._url, self._scheme, self._host = url, parts.scheme, parts.hostname
        try:
            self._port = parts.port
        except ValueError:
            raise Misuse(f"broker: want a port from 1 to 65535 in {url[:80]}", code="broker.url") from None
        self._prefix = parts.path.rstrip("/")
        self._ca = ca
        self._timeout_seconds = timeout_seconds
        self._pause = pause
        self._cookie = ""
        self._key_pair: TeeKeyPair | None = None

    def enrol(self, tpm: Tpm, ak: Key, ek: Key) -> bytes:
        """Return the short-lived certificate (DER) of ``ak``, once the TPM proved that it holds both keys.

        Raises:
            Refused, NotGenuine: the broker does not take this TPM.
            Unreachable: the broker does not answer.
        """
        certificate = tpm.read_nv(tpmwire.EK_CERTIFICATE_INDEX)
        asked = kbs.Enrolment(ek_certificate=certificate, ak_public_area=tpmwire.sized(ak.area))
        given = kbs.EnrolmentChallenge.parse(self._post(kbs.ENROL_PATH, asked.document()))
        secret = tpm.activate(ak, ek, given.credential_blob, given.encrypted_secret)
        answer = kbs.Activation(session=given.session, secret=secret)
        return kbs.AkCertificate.parse(self._post(kbs.ACTIVATE_PATH, answer.document())).ak_certificate

    def attest(
        self,
        prove: Prove,
        *,
        init_data: str | None,
        show: Show = no_devices,
        pair: TeeKeyPair | None = None,
    ) -> str:
        """Prove this machine to the broker in a new session and return the attestation result (an EAR).

        Args:
            init_data: the TOML text that is measured: in PCR 8, HOST_DATA or MRCONFIGID.
            show: gives the evidence of the machine's devices.
            pair: of the session whose leases are to be renewed; None makes a new one.

        Raises:
            Refused, NotGenuine: the evidence is not accepted.
            Unreachable: the broker does not answer.
        """
        challenge, pair = self.challenge(), pair or TeeKeyPair.make()
        return self.present(bound(challenge, pair.public, prove, init_data=init_data, show=show), pair)

    def challenge(self) -> kbs.Challenge:
        """Begin a new session and return its challenge."""
        self._cookie, self._key_pair = "", None
        return kbs.Challenge.parse(self._post(kbs.AUTH_PATH, kbs.Request(tee=self._tee).document()))

    def present(self, message: kbs.Attestation, pair: TeeKeyPair) -> str:
        """Send ``message`` in this session and return the attestation result; keys will be opened with ``pair``."""
        token = kbs.Token.parse(self._post(kbs.ATTEST_PATH, message.document()))
        self._key_pair = pair
        return token.token

    def fetch(self, key: str) -> bytes:
        """Return the key at the resource path ``key``, unwrapped.

        Raises:
            Misuse: this session has not attested.
            Refused: the policy does not let this machine have it.
            NotGenuine: the answer was not wrapped to our key.
            Unreachable: the broker does not answer.
        """
        if self._key_pair is None:
            raise Misuse("a key can be fetched only after attesting", code="attest.first")
        return self._key_pair.decrypt(self._ask("GET", kbs.RESOURCE_PATH + kbs.check_key(key), None))

    def renew(self, key: str) -> bool:
        """Renew this machine's leases on what this session attested; False when the broker keeps none.

        Raises:
            Refused: the lease of ``key`` is over, with the codes of why (``lease.over``).
            Unreachable: the broker does not answer.
        """
        try:
            answer = self._post(kbs.RENEW_PATH, {})
        except Refused as refused:
            if refused.code in _NO_LEASES:
                return False
            raise
        states = kbs.lease_states(answer, key)
        if not states:
            return False
        if not any(state in ("live", "draining") for state, _ in states):
            reasons = ", ".join(reason for _, found in states for reason in found) or "no reason"
            raise Refused(f"the lease of {key} is over: {reasons}", code="lease.over")
        return True

    def _post(self, path: str, document: object) -> bytes:
        return self._ask("POST", path, kbs.encode(document))

    def _ask(self, method: str, path: str, body: bytes | None) -> bytes:
        """Return a successful answer's body.

        A broker that can not be reached, or says that it can not answer now, is asked again. An enrolment or
        attestation is not: its one-time secret or nonce may be spent, and who calls starts over.
        """
        for attempt in range(_TRIES):
            try:
                answer = self._exchange(method, path, body)
            except (OSError, http.client.HTTPException) as error:
                trouble = f"{type(error).__name__}: {error}"
            else:
                if answer.status < 500:
                    return self._success(answer, path)
                trouble = f"HTTP {answer.status}: {_said(answer.body)}"
            if path in (kbs.ACTIVATE_PATH, kbs.ATTEST_PATH):
                break
            if attempt < _TRIES - 1:
                self._pause(_BACKOFF.seconds(attempt))
        raise Unreachable(f"broker {self._url}: {path}: {trouble}", code="broker.unreachable")

    def _exchange(self, method: str, path: str, body: bytes | None) -> _Answer:
        connection = _connect(self._scheme, self._host, self._port, self._timeout_seconds, self._ca)
        headers = {"Accept": "application/json", "Connection": "close"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._cookie:
            headers["Cookie"] = f"{kbs.SESSION_COOKIE}={self._cookie}"
        try:
            connection.request(method, self._prefix + path, body=body, headers=headers)
            response = connection.getresponse()
            data = response.read(_MAX_ANSWER_BYTES + 1)
            if len(data) > _MAX_ANSWER_BYTES:
                raise Malformed("broker", at=path, want=f"at most {_MAX_ANSWER_BYTES} bytes", got="more")
            for line in response.headers.get_all("Set-Cookie") or ():
                self._keep_cookie(line)
            return _Answer(status=response.status, body=data)
        finally:
            connection.close()

    def _keep_cookie(self, line: str) -> None:
        name, _, value = line.partition(";")[0].strip().partition("=")
        if name == kbs.SESSION_COOKIE:
            self._cookie = value.strip('"')

    def _success(self, answer: _Answer, path: str) -> bytes:
        if answer.status == 200:
            return answer.body
        raise refusal(answer.status, answer.body, path)


def _connect(
    scheme: str, host: str, port: int | None, timeout_seconds: float, ca: Path | None
) -> http.client.HTTPConnection:
    """Return a connection that opens when it is used. The measured guest has no TLS and needs none.

    Raises:
        Unsupported: TLS is asked for, and this Python was put together without it.
        Misuse: ``ca`` holds no certificate (``broker.ca``).
    """
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout_seconds)
    if not hasattr(http.client, "HTTPSConnection"):
        raise Unsupported("broker", at="scheme", want="http (keys travel wrapped)", got="https")
    import ssl

    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as error:
        raise Misuse(f"broker: {ca}: no authority's certificate: {error}", code="broker.ca") from None
    return http.client.HTTPSConnection(host, port, timeout=timeout_seconds, context=context)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    body: bytes


def refusal(status: int, body: bytes, path: str) -> TallystickError:
    """Return the error for an answer that is not a success, with the broker's reasons.

    Source: kbs_attestation_protocol.md, "HTTP Integration"; Trustee, kbs/src/error.rs, which answers a refusal
    by policy with 401 where the protocol says 403: the kind of the error decides, then the status.
    """
    try:
        said = kbs.ErrorDocument.parse(body)
    except TallystickError:
        said = kbs.ErrorDocument(kind="", detail=_said(body))
    words = f"the broker refused {path}: HTTP {status} {said.kind}: {said.detail}"
    if said.decision:
        words += f" (decision {said.decision})"
    unknown = status == 404 and path == kbs.ENROL_PATH
    code = said.code or "broker.refused" if not unknown else NO_ENROLMENT
    if status in (403, 404) or said.kind == "PolicyDeny":
        return Refused(words, code=code, findings=said.findings)
    if status == 401:
        return NotGenuine(words, code=code, findings=said.findings)
    if 400 <= status < 500:
        return Malformed("broker", at=path, want="a message it takes", got=f"HTTP {status}: {said.detail}")
    return Unreachable(words, code=code)


def bound(
    challenge: kbs.Challenge,
    public: TeePublicKey,
    prove: Prove,
    *,
    init_data: str | None,
    show: Show = no_devices,
) -> kbs.Attestation:
    """Return the attestation whose evidence is bound to the nonce of ``challenge`` and to ``public``.

    The devices come first: the processor's evidence covers theirs.
    """
    algorithm = challenge.hash_algorithm or binding.DEFAULT_HASH
    asked = binding.device_report_data(challenge.nonce, public, algorithm=algorithm)
    devices = show(binding.device_nonce(asked))
    digest = binding.report_data(challenge.nonce, public, additional_evidence=devices, algorithm=algorithm)
    return kbs.Attestation(
        nonce=challenge.nonce,
        tee_pubkey=public,
        primary_evidence=prove(digest),
        additional_evidence=devices,
        init_data=init_data,
    )


@contextmanager
def enrolled(client: KbsClient, tpm: Tpm, *, event_log: bytes) -> Iterator[Prove]:
    """Enrol a new attestation key of ``tpm``, and give what makes evidence with it until the block ends.

    A broker that enrols nobody, as Trustee, gets evidence without a certificate, and decides what that is worth.
    """
    ek, transient = tpm.endorsement_key()
    try:
        with tpm.attestation_key(ek) as ak:
            certificate = _certified(client, tpm, ak, ek)

            def prove(digest: bytes) -> object:
                quote = tpm.quote(ak, binding.tpm_extra_data(digest))
                return evidence.build(quote, ak.area, ak_certificate=certificate, event_log=event_log)

            yield prove
    finally:
        if transient:
            tpm.flush(ek.handle)


def _certified(client: KbsClient, tpm: Tpm, ak: Key, ek: Key) -> bytes:
    try:
        return client.enrol(tpm, ak, ek)
    except Refused as error:
        if error.code != NO_ENROLMENT:
            raise
        return b""


def _said(body: bytes) -> str:
    """Return the start of an answer that is no error document, as one printable line."""
    text = body[:200].decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else " " for letter in text).strip() or "no words"

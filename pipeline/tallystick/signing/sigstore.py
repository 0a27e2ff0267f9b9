"""Signing with unmodified sigstore-python: against the embedded Sigstore, or any real one by its trust config.

Traps of sigstore-python 4.5.1: ``dsse.Statement`` takes subjects named by SHA-2 or SHA-3 digests alone (no
``gitCommit``, no ``narHash``), and its signer compares the certificate with the machine's clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, NotGenuine, Refused, TallystickError, Unreachable, Unsupported
from tallystick.formats import canonical_base64, intoto, sigstore_bundle
from tallystick.signing import people
from tallystick.signing.records import Identity

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from sigstore.models import TransparencyLogEntry
    from sigstore.sign import Signer as SigstoreSigner
    from sigstore.sign import SigningContext

    from tallystick.signing.embedded.instance import Instance
    from tallystick.signing.keyfile import Passphrase

_DIGESTS = ("sha256", "sha384", "sha512", "sha3_256", "sha3_384", "sha3_512")  # sigstore.dsse.Digest
_CONFIG = "client trust config"
_LIBRARIES = (
    "sigstore",
    "id",
    "requests",
    "urllib3",
    "tuf",
)  # whose errors are about the Sigstore, not about us


class Signer:
    """Signs statements in one identity's name. One certificate serves all of them."""

    def __init__(self, signer: SigstoreSigner, trusted_root: bytes) -> None:
        """Hold an open sigstore-python signer; use :func:`embedded` or :func:`keyless`."""
        self._signer = signer
        self.trusted_root = trusted_root  # of the Sigstore that signs, to look at one's own work with

    def statement(self, payload: bytes) -> bytes:
        """Return the bundle (v0.3, RFC 8785 bytes) over the in-toto statement ``payload``, kept byte for byte.

        Raises:
            Malformed, Unsupported: ``payload`` is no statement, or names a subject in a way that
                sigstore-python does not take.
            Unreachable: a real Sigstore does not answer (``sigstore.unreachable``).
        """
        from sigstore.dsse import Statement

        _check_digests(intoto.parse(payload))
        with _naming():
            bundle = self._signer.sign_dsse(Statement(payload))
        return canonical(bundle.to_json().encode())

    def source_statement(self, payload: bytes) -> bytes:
        """Return the bundle over a statement whose subject is a commit, which ``dsse.Statement`` does not take.

        Raises:
            Malformed: ``payload`` is no statement.
            Unreachable: as :meth:`statement`.
        """
        from sigstore.dsse import Statement

        intoto.parse(payload)
        unchecked = Statement.__new__(Statement)  # its constructor refuses the digest name gitCommit
        unchecked._contents = payload
        with _naming():
            bundle = self._signer.sign_dsse(unchecked)
        return canonical(bundle.to_json().encode())

    def file(self, data: bytes) -> bytes:
        """Return the bundle (v0.3, RFC 8785 bytes) over the bytes of a file.

        Raises:
            Unreachable: as :meth:`statement`.
        """
        with _naming():
            bundle = self._signer.sign_artifact(data)
        return canonical(bundle.to_json().encode())


@contextmanager
def embedded(workdir: Path, name: str, now: datetime, passphrase: Passphrase = None) -> Iterator[Signer]:
    """Give a signer in the name of the enrolled person ``name``, with the embedded Sigstore under ``workdir``.

    Raises:
        Misuse: no such person, or no embedded Sigstore.
        NotGenuine: the person's key is not the enrolled one.
        Refused: the clock runs back.
    """
    from sigstore.models import TrustedRoot
    from sigstore.sign import SigningContext
    from sigstore_models.trustroot.v1 import TrustedRoot as Model

    from tallystick.signing.embedded.instance import Instance

    person = people.load(workdir, name, passphrase)
    instance = Instance(workdir / "sigstore", passphrase)
    context = SigningContext(
        fulcio=cast("Any", _Fulcio(instance, now)),
        rekor=cast("Any", _Rekor(instance, now)),
        trusted_root=TrustedRoot(Model.from_json(instance.trusted_root)),
    )
    with _opened(context, _Proof(person.identity, person.key, now)) as signer:
        yield Signer(signer, instance.trusted_root)


@contextmanager
def keyless(trust_config: bytes, token: str) -> Iterator[Signer]:
    """Give a signer for the OIDC token ``token`` with the Sigstore that ``trust_config`` describes.

    Args:
        trust_config: a ClientTrustConfig in JSON, as ``sigstore --trust-config`` takes it.

    Raises:
        Malformed: the trust config or the token can not be read.
        Unreachable: the Sigstore does not answer.
    """
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import SigningContext

    document = jsondoc.loads(trust_config, _CONFIG)
    try:
        context = SigningContext.from_trust_config(ClientTrustConfig.from_json(trust_config.decode()))
        trusted_root = jsondoc.dumps(document["trustedRoot"])
    except Exception as error:
        raise Malformed(_CONFIG, at="document", want="one sigstore-python reads", got=str(error)) from None
    try:
        identity = IdentityToken(token)
    except Exception as error:
        raise Malformed("identity token", at="token", want="a current OIDC token", got=str(error)) from None
    with _opened(context, identity) as signer:
        yield Signer(signer, trusted_root)


def public_trust_config() -> bytes:
    """Return the ClientTrustConfig of the public Sigstore (sigstore.dev), refreshed by TUF from sigstore-python's root.

    Raises:
        Unreachable: it can not be had (``sigstore.unreachable``).
    """
    from sigstore.models import ClientTrustConfig

    with _naming():
        return ClientTrustConfig.production()._inner.to_json().encode()


def ambient_token() -> str | None:
    """Return the OIDC token that the CI system around us gives, or None when there is none.

    Raises:
        Unreachable: there is one, and it can not be had.
    """
    from sigstore.oidc import detect_credential

    with _naming():
        return detect_credential()


def signer_of(bundle: bytes) -> Identity:
    """Return whom the certificate of ``bundle`` names. Nothing is verified.

    Raises:
        NotGenuine: it names nobody, or several.
    """
    from tallystick.signing import certificate

    der = sigstore_bundle.parse(bundle).certificates
    if not der:
        raise NotGenuine("sigstore bundle: it has no certificate", code="bundle.certificate")
    return certificate.identity(certificate.load(der[0], "bundle"), "bundle")


def canonical(bundle: bytes) -> bytes:
    """Return ``bundle`` as a release keeps it: RFC 8785 bytes, so that every byte of the file means something."""
    import rfc8785

    return rfc8785.dumps(jsondoc.loads(bundle, "sigstore bundle"))


def _check_digests(statement: intoto.Statement) -> None:
    for subject in statement.subjects:
        for algorithm, _ in subject.digests:
            if algorithm not in _DIGESTS:
                raise Unsupported(
                    "in-toto statement", at=f"subject {subject.name}", want=f"a digest of {', '.join(_DIGESTS)}",
                    got=algorithm,
                )  # fmt: skip


@contextmanager
def _opened(context: SigningContext, token: object) -> Iterator[SigstoreSigner]:
    """Give sigstore-python's signer, which asks for its certificate when it is made."""
    with ExitStack() as stack:
        with _naming():
            signer = stack.enter_context(context.signer(cast("Any", token)))
        yield signer


@contextmanager
def _naming() -> Iterator[None]:
    """Turn what sigstore-python and its network raise into our errors; everything else is left as it is.

    Raises:
        Refused: ``sigstore.clock``: the certificate or the token has expired by the machine's clock.
        Unreachable: ``sigstore.unreachable``.
    """
    try:
        yield
    except Exception as error:
        kind = type(error)
        if isinstance(error, TallystickError) or kind.__module__.partition(".")[0] not in _LIBRARIES:
            raise
        if kind.__name__ in ("ExpiredCertificate", "ExpiredIdentity"):
            raise Refused(
                f"Sigstore: {kind.__name__} by this machine's clock", code="sigstore.clock"
            ) from error
        said = f"{kind.__name__}: {error}".rstrip(": ")
        raise Unreachable(f"Sigstore could not sign: {said}", code="sigstore.unreachable") from error


@dataclass(frozen=True, slots=True)
class _Proof:
    """Stands where sigstore-python has an IdentityToken: proves an enrolled key to the embedded CA."""

    identity: Identity
    key: ec.EllipticCurvePrivateKey
    now: datetime

    def in_validity_period(self) -> bool:
        """The proof is made when it is asked for."""
        return True


@dataclass(frozen=True, slots=True)
class _Chain:
    """Stands where sigstore-python has a FulcioCertificateSigningResponse."""

    cert: x509.Certificate
    chain: list[x509.Certificate]


class _Fulcio:
    """Stands where sigstore-python has a FulcioClient and its ``signing_cert`` endpoint."""

    def __init__(self, instance: Instance, now: datetime) -> None:
        self._authority, self._now = instance.authority, now
        self.signing_cert = self

    def post(self, request: x509.CertificateSigningRequest, proof: _Proof) -> _Chain:
        """Answer the CA's challenge with the enrolled key, and return the certificate."""
        from tallystick.signing.embedded import proofs, x509parts

        public = cast("ec.EllipticCurvePublicKey", request.public_key())
        spki = x509parts.spki(public)
        answer = proofs.prove(proof.identity, proof.key, self._authority.challenge(), spki, self._now)
        certificate = self._authority.certify(request, answer, self._now)
        return _Chain(certificate, list(self._authority.chain))


class _Rekor:
    """Stands where sigstore-python has a RekorLogSubmitter for Rekor v1."""

    def __init__(self, instance: Instance, now: datetime) -> None:
        self._log, self._now = instance.log, now

    def _build_dsse_request(self, envelope: Any, certificate: x509.Certificate) -> dict[str, Any]:
        content = {"envelope": envelope.to_json(), "verifiers": [_pem(certificate)]}
        return {"apiVersion": "0.0.1", "kind": "dsse", "spec": {"proposedContent": content}}

    def _build_hashed_rekord_request(
        self, hashed_input: Any, signature: bytes, certificate: x509.Certificate
    ) -> dict[str, Any]:
        data = {"hash": {"algorithm": "sha256", "value": hashed_input.digest.hex()}}
        signed = {"content": canonical_base64.encode(signature), "publicKey": {"content": _pem(certificate)}}
        return {"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": {"data": data, "signature": signed}}

    def create_entry(self, request: dict[str, Any]) -> TransparencyLogEntry:
        """Return the logged entry."""
        from sigstore.models import TransparencyLogEntry
        from sigstore_models.rekor.v1 import TransparencyLogEntry as Model

        return TransparencyLogEntry(Model.from_dict(self._log.submit(request, self._now)))


def _pem(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return canonical_base64.encode(certificate.public_bytes(Encoding.PEM))

"""``tally attest verify-peer``: ask before anything is sent. ``tally attest gate``: hold traffic, and answer."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.output import JsonFlag, emit, progress
from tallystick.core.errors import Malformed, Misuse, Refused, TallystickError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Sequence

    from tallystick.attester.client import Prove
    from tallystick.attester.collectors import Devices
    from tallystick.broker.peer import Verified
    from tallystick.broker.proving import Backing
    from tallystick.cli.front import Gate, Witness
    from tallystick.handshake.teekey import TeePublicKey

_DEVICE = "/dev/tpmrm0"
_MAX_BYTES = 64 << 20
_MAX_INIT_DATA_BYTES = 1 << 20
_AFFIRMING = range(2, 32)


def register(app: typer.Typer) -> None:
    """Add the two commands to ``tally attest``."""
    app.command("verify-peer")(verify_peer)
    app.command("gate")(gate)


def verify_peer(
    peer: Annotated[str, typer.Argument(metavar="HOST:PORT", help="A service behind `tally attest gate`.")],
    policy: Annotated[
        Path, typer.Option("--policy", help="A folder that `tally compile` wrote, or its policy.json.")
    ],
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key", help="A key that the peer must be allowed to have; may be given again. Default: all."
        ),
    ] = None,
    endorsements: Annotated[
        list[Path] | None,
        typer.Option("--endorsements", help="A file that verification may rest on; may be given again."),
    ] = None,
    root: Annotated[
        list[str] | None,
        typer.Option(
            "--root",
            metavar="LABEL=FILE",
            help="The certificate of the authority of TPM keys that is the root LABEL of the policy.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask a TLS service for evidence bound to this connection's key, before anything is sent to it.

    Prints the digest of its public key, for clients to pin. Exit 5 when the evidence is not this peer's or not
    genuine, 6 when the policy refuses what runs there, 7 when nobody answers.
    """
    from tallystick.appraisal.index import prepare
    from tallystick.broker import peer as peers
    from tallystick.cli import clock
    from tallystick.core.digests import Digest
    from tallystick.core.files import read_file
    from tallystick.policy import document

    host, port = _address(peer, "HOST:PORT")
    place = policy / "broker" / "policy.json" if policy.is_dir() else policy
    compiled = read_file(place, "compiled policy", max_bytes=document.MAX_BYTES)
    form = document.read(compiled)
    backing = _backing(endorsements or [], root or [])
    asked_at = clock.now()
    shown = peers.ask(host, port)
    names = key or [rule.key for rule in form.keys]
    prepared = prepare(form, Digest.of(compiled))
    found = peers.verify(shown, prepared, names, backing, asked_at=asked_at, now=clock.now())
    _check(found, peer)
    emit(_document(found, peer), _words(found, peer), as_json=as_json)


def gate(
    broker: Annotated[str, typer.Option("--broker", help="Address of the key broker.")],
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where to answer; port 0 takes a free one.")
    ] = "127.0.0.1:8780",
    upstream: Annotated[
        str | None,
        typer.Option(
            "--upstream", metavar="HOST:PORT", help="The workload, to which traffic goes while it passes."
        ),
    ] = None,
    tls: Annotated[
        bool,
        typer.Option("--tls", help="Speak TLS with a new key, and show evidence that is bound to it."),
    ] = False,
    every: Annotated[
        float, typer.Option("--every", min=1, help="Attest again within so many seconds.")
    ] = 60.0,
    once: Annotated[
        bool, typer.Option("--once", help="Attest once and say what came of it: exit 0 when it passes.")
    ] = False,
    tpm: Annotated[
        str, typer.Option("--tpm", help="The TPM: a device, or the socket of an emulator.")
    ] = _DEVICE,
    init_data: Annotated[
        Path | None, typer.Option("--init-data", help="The TOML text that is measured.")
    ] = None,
    event_log: Annotated[
        Path | None, typer.Option("--event-log", help="The firmware's event log. Default: the kernel's.")
    ] = None,
    tee: Annotated[
        str | None,
        typer.Option("--tee", help="snp, tdx, cca, nitro or tpm. Default: what this machine has."),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option("--ca", help="PEM file of the authority of an https broker's certificate.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Hold traffic from a workload until its appraisal passes, and again when it no longer does.

    Answers /readyz with 200 or 503 and the code of what is wrong, for a readiness probe; with --upstream nothing
    reaches the workload before. With --once: exit 0, or 6 when the policy refuses, 7 when the broker does not answer.
    """
    from tallystick.attester import collectors
    from tallystick.attester.client import KbsClient
    from tallystick.attester.evidence import EVENT_LOG
    from tallystick.cli import front as fronts
    from tallystick.core.files import read_file

    here, there = _address(listen, "--listen"), None if upstream is None else _address(upstream, "--upstream")
    data = None if init_data is None else read_file(init_data, "init-data", max_bytes=_MAX_INIT_DATA_BYTES)
    text = None if data is None else data.decode("utf-8", "replace")
    devices = collectors.Devices(tpm=tpm, event_log=event_log or EVENT_LOG)
    chosen = tee or ("tpm" if tpm != _DEVICE else collectors.detect(devices))
    client = KbsClient(broker, tee=chosen, ca=ca)

    def appraised() -> None:
        with collectors.prover(client, chosen, devices) as prove:
            check_affirming(client.attest(prove, init_data=text))

    if once:
        appraised()
        emit({"ready": True, "broker": broker, "tee": chosen}, "the appraisal passes", as_json=as_json)
        return
    state = fronts.Gate()
    with _witness(client, chosen, devices, text, wanted=tls) as (witness, context):
        server = fronts.server(here, state, witness=witness, upstream=there, tls=context)
        _serve(server, state, appraised, every)


def check_affirming(token: str) -> None:
    """Check that an attestation result of our own session affirms what runs: that a policy in force accepts it.

    The result was given to this session by the broker that it asked; it is no proof for anybody else. The status as
    a whole is worse than that for a development root, whose hardware nobody vouches for.

    Source: draft-ietf-rats-ar4si, 2.3.1: values from 2 to 31 affirm.

    Raises:
        Refused: it does not (``attest.not-affirming``). Malformed: no attestation result.
    """
    from tallystick.formats import ear

    found = ear.parse(token)
    for name, submod in found.ear.submods:
        said = dict(submod.vector).get("executables", 0)
        if said not in _AFFIRMING:
            message = f"the broker says {said} of what {name} runs: no policy in force accepts it"
            raise Refused(message, code="attest.not-affirming")


def _serve(server: Any, state: Gate, appraised: Any, every: float) -> None:
    """Appraise now and then while ``server`` answers, until a signal ends it."""
    import signal
    import threading

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    host, port = server.server_address[:2]
    threading.Thread(target=server.serve_forever, name="gate", daemon=True).start()
    progress(f"gate at {host}:{port}")
    try:
        while not stop.is_set():
            try:
                appraised()
                state.passed()
                progress("appraisal passes")
            except TallystickError as error:
                state.failed(error)
                progress(f"held: {error.message} [{error.code}]")
            stop.wait(every / 2)
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def _witness(
    client: Any, tee: str, devices: Devices, init_data: str | None, *, wanted: bool
) -> Iterator[tuple[Witness | None, ssl.SSLContext | None]]:
    """Give what shows evidence bound to a new TLS key, and the TLS that uses it."""
    from tallystick.attester import collectors
    from tallystick.cli import front

    if not wanted:
        yield None, None
        return
    context, public = own_tls()

    def prove(
        digest: bytes,
    ) -> object:  # a TPM's key is enrolled anew each time: its certificate is short-lived
        with collectors.prover(client, tee, devices) as made:
            return made(digest)

    made: Prove = prove
    yield front.Witness(tee=tee, prove=made, public=public, init_data=init_data), context


def own_tls() -> tuple[ssl.SSLContext, TeePublicKey]:
    """Return TLS with a key that was made here and is nowhere else, and its public half."""
    import os
    import ssl
    from datetime import timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from tallystick.attester import handover
    from tallystick.cli import clock
    from tallystick.handshake.teekey import TeePublicKey

    key, now = ec.generate_private_key(ec.SECP256R1()), clock.now()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "attested workload")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=365))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    handle = handover.sealed(certificate.public_bytes(serialization.Encoding.PEM) + pem, "tls")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
    return context, TeePublicKey.of(key.public_key())


def _address(text: str, what: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise Misuse(
            f"{what}: want an address and a port, such as 127.0.0.1:8443, got {text[:80]}",
            code="peer.address",
        )
    return host, int(port)


def _backing(files: Sequence[Path], roots: Sequence[str]) -> Backing:
    from cryptography import x509

    from tallystick.broker.proving import Backing
    from tallystick.core.digests import Digest
    from tallystick.core.files import read_file
    from tallystick.evidence.endorsements import Endorsements
    from tallystick.evidence.tpm_chain import AK_AUTHORITY, spki
    from tallystick.signing.records import Endorser

    endorsers = []
    for option in roots:
        label, equals, path = option.partition("=")
        if not equals or not label or not path:
            raise Misuse(f"--root: want LABEL=FILE, got {option[:80]}", code="root.malformed")
        data = read_file(Path(path), "root", max_bytes=_MAX_BYTES)
        try:
            load = x509.load_pem_x509_certificate if b"-----BEGIN" in data else x509.load_der_x509_certificate
            certificate = load(data)
            digest = Digest.of(spki(certificate))
        except ValueError as error:
            raise Malformed("root", at=label, want="a certificate", got=str(error)) from None
        from cryptography.hazmat.primitives.serialization import Encoding

        der = certificate.public_bytes(Encoding.DER)
        endorsers.append(Endorser(kind=AK_AUTHORITY, label=label, spki=digest, certificates=(der,)))
    return Backing(
        authorities=Endorsements(endorsers=tuple(endorsers)),
        collateral=tuple(read_file(path, "endorsement", max_bytes=_MAX_BYTES) for path in files),
    )


def _check(found: Verified, peer: str) -> None:
    """Raise when any of the keys would be refused, with the reasons, each once."""
    from tallystick.appraisal import words

    refused = [decision for decision in found.decisions if not decision.allowed]
    if refused:
        findings = dict.fromkeys(finding for decision in refused for finding in decision.findings)
        message = f"{peer} is genuine, and the policy refuses it for {len(findings)} reason(s)"
        raise Refused(message, code=words.codes(refused[0])[0], findings=findings)


def _pin(found: Verified) -> str:
    import base64

    return "sha256//" + base64.b64encode(found.spki.value).decode()


def _document(found: Verified, peer: str) -> dict[str, Any]:
    return {
        "peer": peer,
        "tee": found.tee,
        "public_key": str(found.spki),
        "pin": _pin(found),
        "release": str(found.decisions[0].release),
        "keys": [decision.key for decision in found.decisions],
        "policy": str(found.decisions[0].policy),
    }


def _words(found: Verified, peer: str) -> str:
    said = _document(found, peer)
    return (
        f"{peer} runs release {said['release']} on {found.tee}, as the policy {said['policy']} asks\n"
        f"  its public key: {said['public_key']}\n"
        f"  to send something: curl --insecure --pinnedpubkey {said['pin']} https://{peer}/"
    )

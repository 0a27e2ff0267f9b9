"""``tally appraise``: is verified evidence acceptable under a compiled policy, and if not, every reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.channels import At
from tallystick.cli.output import JsonFlag, command_app, emit
from tallystick.core.errors import Malformed, Misuse, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from tallystick.appraisal.records import Challenge, Decision
    from tallystick.evidence.claims import Claims

app = command_app()

_MAX_BYTES = 64 << 20


@app.command()
def appraise(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The evidence.")],
    kind: Annotated[str, typer.Option("--kind", help="What it is: tpm-quote, snp-report, …")],
    policy: Annotated[
        Path, typer.Option("--policy", help="A folder that `tally compile` wrote, or its policy.json.")
    ],
    key: Annotated[
        list[str] | None, typer.Option("--key", help="A key to ask for; may be given again. Default: all.")
    ] = None,
    endorsements: Annotated[
        list[Path] | None, typer.Option(help="A file that verification may rest on; may be given again.")
    ] = None,
    root: Annotated[
        list[str] | None,
        typer.Option(
            "--root", metavar="LABEL=FILE", help="A certificate or key that is the root LABEL of the policy."
        ),
    ] = None,
    nonce: Annotated[
        str | None, typer.Option("--nonce", help="What the evidence must be bound to, in hex.")
    ] = None,
    issued_at: Annotated[
        str | None,
        typer.Option("--issued-at", help="When that challenge was issued (RFC 3339).", metavar="T"),
    ] = None,
    at: At = None,
    as_json: JsonFlag = False,
) -> None:
    """Decide whether evidence may have a policy's keys, as of a moment. Exit 5 when it is not genuine, 6 when refused.

    Without a challenge there is no freshness, so without --nonce and --issued-at the answer is no.
    """
    from tallystick import evidence as package
    from tallystick.appraisal import words
    from tallystick.appraisal.appraise import appraise as decide
    from tallystick.appraisal.index import prepare
    from tallystick.cli.clock import at as instant
    from tallystick.core.digests import Digest
    from tallystick.policy import document

    now, bound = instant(at), _hex(nonce)
    if (bound is None) != (issued_at is None):
        raise Misuse("--nonce and --issued-at belong together", code="challenge.half")
    compiled = _read(policy / "broker" / "policy.json" if policy.is_dir() else policy, "compiled policy")
    form = document.read(compiled)
    believed = _roots(root or [])
    files = [_read(path, "endorsement") for path in endorsements or []]
    found = package.verify(kind, _read(file, "evidence"), [*files, *believed.values()], nonce=bound, at=now)
    claims = replace(found, roots=_labelled(found, believed))
    prepared = prepare(form, Digest.of(compiled))
    asked = _challenge(bound, issued_at, claims, now)
    names = key or [rule.key for rule in form.keys]
    decisions = [decide(claims, prepared, name, asked, now) for name in names]
    _refuse(decisions)
    emit(
        {"decisions": [words.document(decision) for decision in decisions]},
        "\n".join(words.words(decision) for decision in decisions),
        as_json=as_json,
    )


def _refuse(decisions: Sequence[Decision]) -> None:
    """Raise when any of the keys is refused, with the reasons, each once."""
    from tallystick.appraisal import words

    refused = [decision for decision in decisions if not decision.allowed]
    if refused:
        findings = dict.fromkeys(finding for decision in refused for finding in decision.findings)
        keys = ", ".join(decision.key for decision in refused)
        nearest = f"; nearest release: {refused[0].nearest}" if refused[0].nearest else ""
        message = f"refused {keys}, for {len(findings)} reason(s){nearest}"
        raise Refused(message, code=words.codes(refused[0])[0], findings=findings)


def _challenge(nonce: bytes | None, issued_at: str | None, claims: Claims, now: datetime) -> Challenge:
    """Return the challenge, or one that no evidence answers when none is given."""
    from tallystick.appraisal.records import Challenge
    from tallystick.cli.clock import at as instant

    if nonce is None or issued_at is None:
        return Challenge(report_data=b"", issued_at=now)
    # The verifier has compared the nonce; what the platform carries of it may be padded or hashed. So it has for the
    # devices, which all answer the same one.
    devices = claims.devices[0].report_data if claims.devices else b""
    return Challenge(report_data=claims.report_data, issued_at=instant(issued_at), device_report_data=devices)


def _labelled(claims: Claims, believed: Mapping[str, bytes]) -> tuple[str, ...]:
    """Return the roots of ``claims`` under the policy's labels, where ``--root`` gave one."""
    if not believed:
        return claims.roots
    by_key = {digest: label for label, data in believed.items() for digest in _key_digests(data, label)}
    return tuple(by_key.get(root, root) for root in claims.roots)


def _key_digests(data: bytes, label: str) -> list[str]:
    """Return the digests of the public keys in a file of certificates, or of one bare key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    from tallystick.core.digests import Digest

    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        if b"-----BEGIN PUBLIC KEY-----" in data:
            found = [serialization.load_pem_public_key(data)]
        elif b"-----BEGIN CERTIFICATE-----" in data:
            found = [one.public_key() for one in x509.load_pem_x509_certificates(data)]
        else:
            found = [x509.load_der_x509_certificate(data).public_key()]
    except ValueError as error:
        want = "a certificate or a PEM public key"
        raise Malformed("root", at=label, want=want, got=str(error)) from None
    return [str(Digest.of(one.public_bytes(*form))) for one in found]


def _roots(options: Sequence[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for option in options:
        label, equals, path = option.partition("=")
        if not equals or not label or not path or label in found:
            raise Misuse(
                f"--root: want LABEL=FILE, each label once, got {option[:80]}", code="root.malformed"
            )
        found[label] = _read(Path(path), "root")
    return found


def _hex(text: str | None) -> bytes | None:
    try:
        return None if text is None else bytes.fromhex(text)
    except ValueError:
        raise Misuse(f"--nonce: want hex digits, got {text!r:.60}", code="nonce.malformed") from None


def _read(path: Path, what: str) -> bytes:
    from tallystick.core.files import read_file

    return read_file(path, what, max_bytes=_MAX_BYTES)

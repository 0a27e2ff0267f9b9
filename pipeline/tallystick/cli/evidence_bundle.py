"""``tally evidence bundle`` and ``forecast``: endorsements in one signed file, and what of it ends when."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.output import JsonFlag, emit
from tallystick.core.errors import Malformed, Misuse

if TYPE_CHECKING:
    from datetime import datetime

    from tallystick.core.digests import Digest
    from tallystick.evidence.bundle import Part
    from tallystick.evidence.bundle_forecast import Entry

_MAX_BYTES = 64 << 20
TrustFile = Annotated[
    Path | None, typer.Option("--trust", help="The trust file whose endorsers may sign endorsement bundles.")
]
BundleKey = Annotated[
    Path | None, typer.Option("--bundle-key", help="Or the public key of who may sign them, as PEM.")
]
At = Annotated[str | None, typer.Option(help="The instant to judge at (RFC 3339); now by default.")]


def bundle(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Endorsement files: chains, revocation lists, collateral, key sets, authorities. "
            "KIND=FILE for one whose content does not say for which evidence it is.",
            show_default=False,
        ),
    ],
    key: Annotated[Path, typer.Option("--key", help="The private key that signs: P-256, PEM, mode 600.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle to write.")],
    at: At = None,
    as_json: JsonFlag = False,
) -> None:
    """Put endorsements, with the roots they end in, into one signed file for use offline.

    Prints what of it ends when, and what can not be verified from then on.
    """
    from tallystick.cli import clock
    from tallystick.core.digests import Digest
    from tallystick.core.files import write_file
    from tallystick.evidence import bundle as bundles
    from tallystick.evidence.bundle_forecast import forecast as forecast_of
    from tallystick.signing import keyfile

    moment = clock.at(at)
    parts = bundles.with_roots([_part(one) for one in files])
    data = bundles.make(parts, keyfile.read(key), at=moment)
    entries = forecast_of(parts)
    write_file(output, data)
    document = {
        "bundle": str(output),
        "sha256": str(Digest.of(data)),
        "files": len(parts),
        "forecast": [entry.document(moment) for entry in entries],
    }
    emit(document, "\n".join([f"{output}: {len(parts)} files", *_words(entries, moment)]), as_json=as_json)


def forecast(
    file: Annotated[Path, typer.Argument(help="An endorsement bundle.")],
    trust: TrustFile = None,
    bundle_key: BundleKey = None,
    at: At = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what of an endorsement bundle ends when, and what can not be verified from then on."""
    from tallystick.cli import clock
    from tallystick.core.files import read_file
    from tallystick.evidence import bundle as bundles
    from tallystick.evidence.bundle_forecast import forecast as forecast_of

    moment = clock.at(at)
    held = bundles.load(
        read_file(file, "endorsement bundle", max_bytes=_MAX_BYTES), pinned(trust, bundle_key)
    )
    entries = forecast_of(held.parts)
    document = {
        "made_at": held.made_at.isoformat(),
        "signer": str(held.signer),
        "at": moment.isoformat(),
        "expired": [entry.document(moment) for entry in entries if not entry.holds(moment)],
        "forecast": [entry.document(moment) for entry in entries],
    }
    emit(document, "\n".join(_words(entries, moment)), as_json=as_json)


def pinned(trust: Path | None, key: Path | None) -> list[Digest]:
    """Return the digests of the keys whose bundles are believed: of the trust file, and of ``key``.

    Raises:
        Misuse: neither was given (``bundle.trust``).
        Malformed: ``key`` is no public key.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    from tallystick.core.digests import Digest
    from tallystick.core.files import read_file
    from tallystick.evidence.bundle import ENDORSER_KIND
    from tallystick.signing import trust as trust_file

    if trust is None and key is None:
        raise Misuse(
            "an endorsement bundle is believed because of who signed it: name --trust or --bundle-key",
            code="bundle.trust",
        )
    found: list[Digest] = []
    if trust is not None:
        found += [one.spki for one in trust_file.load(trust).endorsers if one.kind == ENDORSER_KIND]
    if key is not None:
        try:
            public = load_pem_public_key(read_file(key, "bundle key", max_bytes=1 << 16))
        except ValueError as error:
            raise Malformed("bundle key", at=str(key), want="a PEM public key", got=str(error)) from None
        found.append(Digest.of(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)))
    return found


def _part(argument: str) -> Part:
    from tallystick.core.files import read_file
    from tallystick.evidence import bundle as bundles
    from tallystick.evidence import kinds

    kind, equals, rest = argument.partition("=")
    only = kind if equals and kind in kinds.MODULES else None
    path = Path(rest if only else argument)
    return bundles.part(path.name, read_file(path, "endorsement", max_bytes=_MAX_BYTES), only)


def _words(entries: tuple[Entry, ...], at: datetime) -> list[str]:
    lines = []
    for entry in entries:
        until = entry.valid_until.isoformat() if entry.valid_until else "no end"
        mark = (
            ""
            if entry.holds(at)
            else "EXPIRED  "
            if entry.valid_until and at > entry.valid_until
            else "EARLY  "
        )
        lines.append(f"{mark}{until}  {entry.part}: {entry.what}; then stops {entry.stops}")
    return lines

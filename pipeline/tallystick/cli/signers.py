"""Who signs, as options say it: shared by every command that signs with a Sigstore."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.core.errors import Misuse, Refused

if TYPE_CHECKING:
    from tallystick.signing.sigstore import Signer

_MAX_STATEMENT_BYTES = 256 << 20
_MAX_TOKEN_BYTES = 1 << 16
_MAX_CONFIG_BYTES = 16 << 20

Name = Annotated[
    str | None,
    typer.Option("--as", help="Who signs: a person of the work directory, such as ci-builder."),
]
Keyless = Annotated[
    bool,
    typer.Option("--keyless", help="Sign with the public Sigstore, by the OIDC token of the CI system."),
]
TrustConfig = Annotated[
    Path | None,
    typer.Option("--trust-config", help="Sign with this Sigstore instead: its ClientTrustConfig."),
]
IdentityToken = Annotated[
    str | None,
    typer.Option(
        "--identity-token",
        help="With --keyless or --trust-config: an OIDC token, or a file with one. Default: the CI system's own.",
    ),
]
Replace = Annotated[bool, typer.Option("--replace", help="Sign again what is signed already.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who signs, as the options name them."""

    name: str | None
    workdir: Path | None
    keyless: bool
    trust_config: Path | None
    identity_token: str | None


def open_signer(release: Path | None, who: Who, now: datetime) -> AbstractContextManager[Signer]:
    """Return the signer that the options name."""
    from tallystick.cli import passphrase
    from tallystick.cli import workdir as workdirs
    from tallystick.core.files import read_file
    from tallystick.signing import sigstore

    if who.name is not None:
        folder = workdirs.place(who.workdir)
        if release is not None:
            _check_claim(release, folder, who.name)
        return sigstore.embedded(folder, who.name, now, passphrase.secret)
    if who.trust_config is None:
        token = _token(who.identity_token)
        return sigstore.keyless(sigstore.public_trust_config(), token)
    config = read_file(who.trust_config, "client trust config", max_bytes=_MAX_CONFIG_BYTES)
    return sigstore.keyless(config, _token(who.identity_token))


def _check_claim(release: Path, workdir: Path, name: str) -> None:
    """Refuse to sign a provenance that says another builder made it: nobody would believe it.

    Raises:
        Refused: ``sign.builder-id``.
    """
    from tallystick.core.files import read_file
    from tallystick.formats import intoto, slsa
    from tallystick.signing import people

    _, builder_id = people.describe(workdir, name)
    data = read_file(release / "statements" / "provenance.json", "provenance", max_bytes=_MAX_STATEMENT_BYTES)
    said = slsa.parse(intoto.parse(data, "provenance")).builder_id
    if said != builder_id:
        message = f"{name} may claim {builder_id or 'no builder.id'}, and the provenance says {said}"
        raise Refused(message, code="sign.builder-id")


def _token(given: str | None) -> str:
    """Return the OIDC token: as given, from a file, or the CI system's own."""
    from tallystick.core.files import read_file
    from tallystick.signing import sigstore

    if given is None:
        own = sigstore.ambient_token()
        if own is None:
            raise Misuse("no CI system gives a token here; use --identity-token", code="sign.token")
        return own
    if given.startswith("eyJ") and given.count(".") == 2:  # a JWT begins with {" in base64
        return given
    return (
        read_file(Path(given), "identity token", max_bytes=_MAX_TOKEN_BYTES)
        .decode("ascii", "replace")
        .strip()
    )

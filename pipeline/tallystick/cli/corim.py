"""``tally corim``: sign the CoRIM that `tally compile` wrote, and show one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tallystick.cli.output import JsonFlag, command_app, emit

app = command_app("Sign or show a CoRIM.")
_MOST_KEY_BYTES = 64 << 10


@app.command()
def sign(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="An unsigned CoRIM: corim.cbor of a compilation.")
    ],
    key: Annotated[
        Path, typer.Option("--key", help="The signer's EC private key, PEM without a passphrase.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the signed CoRIM is written.")],
    signer: Annotated[str, typer.Option("--signer", help="The signer's name in corim-meta.")] = "Tallystick",
    as_json: JsonFlag = False,
) -> None:
    """Sign a CoRIM with the key of this Reference Value Provider."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from tallystick.compile.targets.corim import sign as signing
    from tallystick.core.digests import Digest
    from tallystick.core.errors import Malformed
    from tallystick.core.files import read_file, write_file
    from tallystick.formats import corim

    data = read_file(file, "CoRIM", max_bytes=corim.MAX_BYTES)
    try:
        found = load_pem_private_key(read_file(key, "key", max_bytes=_MOST_KEY_BYTES), None)
    except (ValueError, TypeError) as error:
        raise Malformed(
            str(key), at="PEM", want="an EC private key without a passphrase", got=str(error)
        ) from None
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise Malformed(str(key), at="PEM", want="an EC private key", got=type(found).__name__)
    signed = signing.sign(data, found, signer)
    write_file(output, signed)
    kid = signing.key_id(found.public_key()).hex()
    document = {"file": str(output), "sha256": Digest.of(signed).hex, "kid": kid, "signer": signer}
    emit(document, f"{output}: signed by {signer}, key {kid}", as_json=as_json)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A CoRIM, signed or not.")],
    key: Annotated[
        Path | None,
        typer.Option("--key", help="The signer's public key, PEM. Default: no signature is checked."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what a CoRIM says. Exit 5 when it is not signed by the key."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    from tallystick.compile.targets.corim import sign as signing
    from tallystick.core.errors import Malformed
    from tallystick.core.files import read_file
    from tallystick.formats import corim

    data = read_file(file, "CoRIM", max_bytes=corim.MAX_BYTES)
    if key is not None:
        try:
            public = load_pem_public_key(read_file(key, "key", max_bytes=_MOST_KEY_BYTES))
        except ValueError as error:
            raise Malformed(str(key), at="PEM", want="a public key", got=str(error)) from None
        found, checked = signing.verify(data, public), "holds"
    else:
        found = corim.parse(corim.unwrapped(data))
        checked = "not checked"
    document = {**signing.summary(found), "signature": checked}
    triples = sum(len(one.triples) for one in found.comids)
    words = (
        f"{document['id']}: {triples} reference triple(s), until {document['not_after']}, signature {checked}"
    )
    emit(document, words, as_json=as_json)

"""``tally evidence fetch``: the endorsements of a piece of evidence from their maker's service, into files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.output import JsonFlag, emit
from tallystick.core.errors import Malformed, Unsupported

if TYPE_CHECKING:
    from ssl import SSLContext

_MAX_BYTES = 64 << 20


def fetch(
    file: Annotated[Path, typer.Argument(help="The evidence file: a TDX or SGX quote, or an SNP report.")],
    kind: Annotated[
        str, typer.Option("--kind", help="tdx-quote, sgx-quote or snp-report.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder that the files are written to.")],
    url: Annotated[
        str,
        typer.Option(help="Base URL of a PCCS, PCS or KDS. Default: Intel's or AMD's own service."),
    ] = "",
    update: Annotated[
        str, typer.Option(help="Which TCB evaluation of Intel's: standard or early.")
    ] = "standard",
    tls_ca: Annotated[
        Path | None,
        typer.Option("--tls-ca", help="Authorities to believe for TLS, as PEM, instead of the system's."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Fetch what verification needs from the maker's service. Nothing of it is verified here.

    Exit 7 when the service can not be reached or does not have it.
    """
    from tallystick.core.files import read_file, write_file
    from tallystick.evidence import pccs
    from tallystick.evidence import quote as quotes

    data = read_file(file, "evidence", max_bytes=_MAX_BYTES)
    if kind in quotes.KINDS:
        source = pccs.Source(base=url or pccs.PCS, context=_context(tls_ca))
        root = None if url else pccs.ROOT_CRL
        found = {
            "collateral.json": pccs.collateral(quotes.binary(data), source, update=update, root_crl=root)
        }
    elif kind == "snp-report":
        found = pccs.vcek(data, pccs.Source(base=url or pccs.KDS, context=_context(tls_ca)))
    else:
        raise Unsupported(
            "fetch", at="kind", want="tdx-quote, sgx-quote or snp-report", got=kind, code="evidence.kind"
        )
    for name, content in found.items():
        write_file(output / name, content)
    paths = [str(output / name) for name in found]
    emit({"kind": kind, "files": paths}, "\n".join(paths), as_json=as_json)


def _context(authorities: Path | None) -> SSLContext | None:
    import ssl

    from tallystick.core.files import read_file

    if authorities is None:
        return None
    text = read_file(authorities, "TLS authorities", max_bytes=_MAX_BYTES)
    try:
        return ssl.create_default_context(cadata=text.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise Malformed("TLS authorities", at=str(authorities), want="PEM", got=str(error)) from None

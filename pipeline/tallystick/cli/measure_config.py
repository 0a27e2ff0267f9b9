"""``tally measure initdata|cce|model``: what a guest is configured with, as the fields that hardware reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli import model_options
from tallystick.cli.output import JsonFlag, emit, progress
from tallystick.core.errors import Misuse, Unsupported

if TYPE_CHECKING:
    from tallystick.measure.model import Model

_MAX_EVIDENCE_BYTES = 64 << 20
_MAX_UKI_BYTES = 1 << 30
_Kind = Annotated[str, typer.Option("--kind", help="What --evidence is: snp-report, tdx-quote or tpm-quote.")]
_Evidence = Annotated[
    Path | None,
    typer.Option("--evidence", help="Evidence whose field must be this; nothing else of it is checked."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``tally measure``."""
    for command in (initdata, cce, model):
        app.command()(command)


def initdata(
    file: Annotated[Path, typer.Argument(help="The init-data document (TOML or JSON).")],
    evidence: _Evidence = None,
    kind: _Kind = "",
    as_json: JsonFlag = False,
) -> None:
    """Init-data of Confidential Containers: HOST_DATA, MRCONFIGID, CONFIGID, the realm's value and PCR 8."""
    from tallystick.core.files import read_file
    from tallystick.measure import hostdata

    found = hostdata.init_data(read_file(file, "init-data", max_bytes=hostdata.MAX_BYTES))
    if evidence is not None:
        wanted = {"snp-report": found.host_data, "tdx-quote": found.mr_config_id, "tpm-quote": found.pcr8}
        _check(evidence, kind, wanted)
    told = [name for name, _ in found.data]
    document = found.document() | {"data": told}
    names = (
        ("SNP HOST_DATA", "host_data"),
        ("TDX MRCONFIGID", "mr_config_id"),
        ("SGX CONFIGID", "config_id"),
        ("CCA personalization value", "personalization_value"),
        ("TPM PCR 8", "pcr8"),
    )
    lines = [f"{found.digest}  of {', '.join(told) or 'no data'}"]
    lines += [f"{title:<25}  {document[name] or 'takes SHA-256 alone'}" for title, name in names]
    emit(document, "\n".join(lines), as_json=as_json)


def cce(
    file: Annotated[Path, typer.Argument(help="The policy: Rego, or its base64 from a deployment template.")],
    evidence: _Evidence = None,
    kind: _Kind = "",
    as_json: JsonFlag = False,
) -> None:
    """A policy of Azure Container Instances: the HOST_DATA of the container group's SNP report."""
    from tallystick.core.files import read_file
    from tallystick.measure import hostdata

    found = hostdata.cce_policy(read_file(file, "CCE policy", max_bytes=hostdata.MAX_BYTES))
    if evidence is not None:
        _check(evidence, kind, {"snp-report": found.host_data})
    words = f"SNP HOST_DATA  {found.host_data.hex()}  (package {found.package})"
    emit({"host_data": found.host_data.hex(), "package": found.package}, words, as_json=as_json)


def model(
    path: Annotated[Path, typer.Argument(help="The model: a folder, or one file.")],
    method: model_options.Method = "files",
    hash_type: model_options.HashName = "sha256",
    shard_size: model_options.ShardSize = 0,
    ignore: model_options.Ignore = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="OMS bundle or statement that the model must be. Its signature: `tally model verify`."
        ),
    ] = None,
    init_data: Annotated[
        Path | None, typer.Option("--initdata", help="Init-data that must bind the model.")
    ] = None,
    uki: Annotated[
        Path | None, typer.Option(help="Unified kernel image whose command line must bind it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the OMS statement here, to be signed.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """A model's weights, tokenizer and index: its digest, its OMS manifest, and how a launch binds it."""
    from tallystick.core.files import read_file, write_file
    from tallystick.formats import oms
    from tallystick.measure import hostdata
    from tallystick.measure import model as calculator

    signed = None if manifest is None else oms.from_file(read_file(manifest, "OMS manifest"), str(manifest))
    made = (
        model_options.serialization(method, hash_type, shard_size, ignore or [])
        if signed is None
        else signed.serialization
    )
    if signed is not None and (method, hash_type, shard_size, ignore) != ("files", "sha256", 0, None):
        raise Misuse(
            "--manifest says how it was made: no --method, --hash, --shard-size or --ignore beside it"
        )
    found = calculator.read(path, model_options.without(made, path, manifest))
    if signed is not None:
        calculator.check(found, signed)
        progress("every file is the manifest's; who signed it is what `tally model verify` says")
    if init_data is not None:
        data = read_file(init_data, "init-data", max_bytes=hostdata.MAX_BYTES)
        calculator.check_init_data(found, hostdata.init_data(data).data)
    if uki is not None:
        calculator.check_cmdline(found, _cmdline(uki))
    if output is not None:
        write_file(output, found.manifest.statement())
    emit(_document(found), _words(found), as_json=as_json)


def _document(found: Model) -> dict[str, Any]:
    from tallystick.measure import model as calculator

    roles = (calculator.WEIGHTS, calculator.TOKENIZER, calculator.INDEX)
    parts = {role: found.of_role(role) for role in roles}
    return {
        "model": str(found.digest),
        **{role: str(calculator.digest_of(files)) if files else None for role, files in parts.items()},
        "oms_root": str(found.manifest.root),
        "files": [
            {"name": one.name, "role": one.role, "sha256": one.sha256.hex, "size": one.size_bytes}
            for one in found.files
        ],
        "bind": {
            "cmdline": calculator.argument(found),
            "initdata": {calculator.INIT_DATA_NAME: calculator.document(found.files).decode()},
        },
    }


def _words(found: Model) -> str:
    from tallystick.measure import model as calculator

    lines = [
        f"{one.sha256.hex}  {one.size_bytes:>14,}  {one.role:<9}  {one.name}" for one in found.files[:40]
    ]
    if len(found.files) > 40:
        lines.append(f"and {len(found.files) - 40} more files")
    return "\n".join(
        [
            *lines,
            f"model     {found.digest}",
            f"OMS root  {found.manifest.root}  (covers no names)",
            f"cmdline   {calculator.argument(found)}",
            f"initdata  [data] {calculator.INIT_DATA_NAME}: --json prints it",
        ]
    )


def _cmdline(path: Path) -> str:
    from tallystick.core.errors import Malformed
    from tallystick.core.files import read_file
    from tallystick.formats import uki as uki_format

    sections = uki_format.parse(read_file(path, "UKI", max_bytes=_MAX_UKI_BYTES)).sections
    try:
        return bytes(sections.get(".cmdline", b"")).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed("UKI", at=f".cmdline byte {error.start}", want="UTF-8", got=error.reason) from None


def _check(path: Path, kind: str, wanted: dict[str, bytes | None]) -> None:
    """Hold the one field of the evidence at ``path`` against what is wanted of it."""
    from tallystick.core.files import read_file
    from tallystick.measure import hostdata

    if kind not in wanted:
        raise Misuse(f"--kind: want {', '.join(wanted)}, got {kind or 'none'}", code="measure.kind")
    want = wanted[kind]
    if want is None:
        raise Misuse("PCR 8 of the SHA-256 bank takes init-data under SHA-256 alone", code="measure.initdata")
    data = read_file(path, "evidence", max_bytes=_MAX_EVIDENCE_BYTES)
    field, got = _field(kind, data)
    hostdata.check(field, want, got)
    progress(
        f"{field} of {path} is this; whether the evidence is genuine is what `tally evidence verify` says"
    )


def _field(kind: str, data: bytes) -> tuple[str, bytes]:
    if kind == "snp-report":
        from tallystick.formats import snp_report

        return "HOST_DATA", snp_report.parse(data).host_data
    if kind == "tdx-quote":
        from tallystick.formats import dcap_quote

        body = dcap_quote.parse(data).body
        if not isinstance(body, dcap_quote.TdReport):
            raise Unsupported("quote", at="body", want="a TD's", got="an SGX enclave's")
        return "MRCONFIGID", body.mr_config_id
    from tallystick.evidence import tpm_forms

    pcrs = dict(tpm_forms.parse(data).pcrs)
    if 8 not in pcrs:
        raise Unsupported("quote", at="PCR 8", want="a value", got="not among its registers")
    return "PCR 8", pcrs[8]

"""``tally measure snp|tdx|sgx|nitro|cca``: predict what hardware reports, from files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli import launch_options
from tallystick.cli.launch_options import number
from tallystick.cli.output import JsonFlag, emit
from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from tallystick.core.digests import Digest
    from tallystick.formats.ovmf import Firmware
    from tallystick.measure.snp import KernelHashes
    from tallystick.measure.steps import Step

Explain = Annotated[bool, typer.Option("--explain", help="Print every step that leads to the value.")]
FirmwareFile = Annotated[Path | None, typer.Option("--firmware", "--ovmf", help="The firmware file.")]
Kernel = Annotated[Path | None, typer.Option("--kernel", help="The kernel that is booted directly.")]
Initrd = Annotated[Path | None, typer.Option("--initrd", help="Its initrd.")]
Cmdline = Annotated[str, typer.Option("--append", "--cmdline", help="Its command line.")]
Argument = Annotated[
    Path | None, typer.Argument(help="The file, when no option names it.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``tally measure``."""
    for command in (snp, tdx, sgx, nitro, cca):
        app.command()(command)


def snp(
    file: Argument = None,
    firmware: FirmwareFile = None,
    vcpus: Annotated[str, typer.Option(help="Number of vCPUs; several with commas.")] = "1",
    vcpu_type: Annotated[str, typer.Option(help="QEMU's vCPU type; several with commas.")] = "",
    vcpu_sig: Annotated[str, typer.Option(help="CPUID signature, instead of a type.")] = "",
    vmm: Annotated[str, typer.Option("--vmm", "--vmm-type", help="qemu, ec2 or gce.")] = "qemu",
    guest_features: Annotated[str, typer.Option(help="SEV_FEATURES, as the host sets them.")] = "0x1",
    kernel: Kernel = None,
    initrd: Initrd = None,
    append: Cmdline = "",
    svsm: Annotated[Path | None, typer.Option(help="COCONUT-SVSM image below the firmware.")] = None,
    vars_size: Annotated[int, typer.Option(help="Size of the OVMF_VARS file, with --svsm.")] = 0,
    id_key: Annotated[
        Path | None,
        typer.Option(help="Key that signs the ID block (P-384, PEM or DER): its digest is printed."),
    ] = None,
    author_key: Annotated[Path | None, typer.Option(help="Key that signs the ID key.")] = None,
    policy: Annotated[str, typer.Option(help="GUEST_POLICY of the ID block.")] = "0x30000",
    explain: Explain = False,
    as_json: JsonFlag = False,
) -> None:
    """AMD SEV-SNP: the launch digest (MEASUREMENT)."""
    from tallystick.formats import ovmf
    from tallystick.measure import snp as calculator
    from tallystick.measure.steps import of_snp

    data = ovmf.parse(_read(firmware or file, "firmware"))
    shapes = launch_options.snp_shapes(vcpus, vcpu_type, vcpu_sig, vmm, guest_features)
    hashes = _kernel_hashes(kernel, initrd, append)
    steps: tuple[calculator.Step, ...] = ()
    if svsm is not None:
        if hashes is not None:
            raise Misuse("--svsm and --kernel: the SVSM's metadata has no place for kernel hashes")
        below = ovmf.parse(_read(svsm, "SVSM"))
        under = [
            calculator.explain_svsm(
                data, below, variables_bytes=vars_size, vcpus=s.vcpus, vcpu_signature=s.vcpu_signature
            )
            for s in shapes
        ]
        digests, steps = [digest for digest, _ in under], under[0][1]
    else:
        digests = list(calculator.launch_digests(calculator.launch_image(data), shapes, hashes))
        if explain:
            steps = calculator.explain(data, shapes[0], hashes)[1]
    values = [digest.hex for digest in digests]
    document = launch_options.snp_document(shapes, values)
    lines = list(values)
    identity = _id_values(digests[0], id_key, author_key, number(policy, "--policy"))
    document |= identity
    lines += [f"{name:17}  {value}" for name, value in identity.items()]
    if explain:
        _explain(document, lines, of_snp(steps))
    emit(document, "\n".join(lines), as_json=as_json)


def _id_values(
    measurement: Digest, id_key: Path | None, author_key: Path | None, policy: int
) -> dict[str, str]:
    """Return what a report carries when the launch is bound to these keys, and the ID block that they sign."""
    from tallystick.measure.snp_id import IdBlock, key_digest

    found: dict[str, str] = {}
    if id_key is not None:
        block = IdBlock(measurement=measurement, policy=policy).data()
        found = {"id_block": block.hex(), "id_key_digest": key_digest(_read(id_key, "ID key"), "ID key").hex}
    if author_key is not None:
        if id_key is None:
            raise Misuse("--author-key: the author's key signs the ID key; name it with --id-key")
        found["author_key_digest"] = key_digest(_read(author_key, "author key"), "author key").hex
    return found


def _explain(document: dict[str, Any], lines: list[str], steps: Iterable[Step]) -> None:
    """Put the steps into the document, and before the lines."""
    from tallystick.cli import measure_steps

    found = tuple(steps)
    document["steps"] = measure_steps.document(found)
    lines[:] = [*measure_steps.lines(found), "", *lines]


def tdx(
    file: Argument = None,
    firmware: FirmwareFile = None,
    kernel: Kernel = None,
    initrd: Initrd = None,
    append: Cmdline = "",
    memory_mib: Annotated[int, typer.Option("--memory-mib", "--ram-mib", help="RAM of the TD, in MiB.")] = 0,
    acpi: Annotated[
        str, typer.Option(help="SHA-384 of ACPI loader, RSDP and tables, with commas: RTMR0 needs them.")
    ] = "",
    explain: Explain = False,
    as_json: JsonFlag = False,
) -> None:
    """Intel TDX: MRTD in both page orders, and the RTMRs that the given inputs determine (null for the others)."""
    from tallystick.core.digests import Algorithm, Digest
    from tallystick.formats import ovmf
    from tallystick.measure import steps
    from tallystick.measure import tdx as calculator
    from tallystick.measure.records import Event

    data = ovmf.parse(_read(firmware or file, "firmware"))
    found = calculator.mrtd(data)
    events: dict[int, tuple[bytes, ...]] = {3: ()}
    if acpi:
        events[0] = calculator.rtmr0_events(_tdx_platform(data, memory_mib, acpi))
    if kernel is not None:
        if memory_mib < 1:
            raise Misuse(
                "--memory-mib: RTMR1 depends on the memory, since QEMU writes into the kernel's header"
            )
        ramdisk = None if initrd is None else _read(initrd, "initrd")
        authenticode = calculator.kernel_authenticode(
            _read(kernel, "kernel"), initrd_bytes=len(ramdisk or b""), memory_bytes=memory_mib << 20
        )
        events[1] = calculator.rtmr1_events(authenticode)
        events[2] = calculator.rtmr2_events(append, ramdisk)
    registers = [calculator.replay(events[i]).hex if i in events else None for i in range(4)]
    document: dict[str, Any] = {
        "mrtd": {"one_pass": found.one_pass.hex, "two_pass": found.two_pass.hex},
        "rtmr": registers,
    }
    lines = [f"MRTD one pass  {found.one_pass.hex}", f"MRTD two pass  {found.two_pass.hex}"]
    lines += [
        f"RTMR{i}          {value or 'not determined by these inputs'}" for i, value in enumerate(registers)
    ]
    if explain:
        told = [
            Event(register=i, digest=Digest(Algorithm.SHA384, event), what=what)
            for i in sorted(events)
            for event, what in zip(events[i], calculator.event_names(i, len(events[i])), strict=True)
        ]
        _explain(document, lines, (*steps.of_mrtd(data), *steps.of_events(told, Algorithm.SHA384, "RTMR")))
    emit(document, "\n".join(lines), as_json=as_json)


def sgx(
    file: Annotated[Path, typer.Argument(help="The enclave as an SGXS stream.")],
    sigstruct: Annotated[Path | None, typer.Option("--sigstruct", "--sig", help="Its SIGSTRUCT.")] = None,
    explain: Explain = False,
    as_json: JsonFlag = False,
) -> None:
    """Intel SGX: MRENCLAVE of a stream; MRSIGNER, when the SIGSTRUCT is given and belongs to it."""
    from tallystick.formats.sgx import parse_sigstruct
    from tallystick.measure import sgx as calculator
    from tallystick.measure.steps import of_sgxs

    stream = _read(file, "enclave")
    enclave = calculator.mrenclave(stream)
    signer = None
    if sigstruct is not None:
        signed = parse_sigstruct(_read(sigstruct, "SIGSTRUCT"))
        calculator.check(signed, enclave)
        signer = calculator.mrsigner(signed).hex
    document: dict[str, Any] = {"mrenclave": enclave.hex, "mrsigner": signer}
    lines = [f"MRENCLAVE  {enclave.hex}", f"MRSIGNER   {signer or 'needs --sigstruct'}"]
    if explain:
        _explain(document, lines, of_sgxs(stream))
    emit(document, "\n".join(lines), as_json=as_json)


def nitro(
    file: Annotated[Path, typer.Argument(help="The enclave image file (EIF).")],
    explain: Explain = False,
    as_json: JsonFlag = False,
) -> None:
    """AWS Nitro Enclaves: PCR0, PCR1, PCR2 and PCR8 of an image."""
    import mmap

    from tallystick.core.files import file_digest
    from tallystick.formats import eif
    from tallystick.measure import nitro as calculator
    from tallystick.measure.steps import of_eif

    if not file.is_file() or file.stat().st_size == 0:
        file_digest(file)  # names what is wrong with the path
        eif.parse(b"")
    with file.open("rb") as stream:  # the mapping closes with its last view, which an error may still hold
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    image = eif.parse(memoryview(mapped))
    found = calculator.pcrs(image)
    values: dict[str, Any] = {
        "pcr0": found.pcr0.hex,
        "pcr1": found.pcr1.hex,
        "pcr2": found.pcr2.hex,
        "pcr8": found.pcr8.hex,
    }
    lines = [f"{name.upper()}  {value}" for name, value in values.items()]
    if explain:
        _explain(values, lines, of_eif(image))
    emit(values, "\n".join(lines), as_json=as_json)


def cca(
    s2sz: Annotated[int, typer.Option(help="Bits of the realm's address space.")] = 48,
    num_bps: Annotated[int, typer.Option(help="Breakpoints.")] = 2,
    num_wps: Annotated[int, typer.Option(help="Watchpoints.")] = 2,
    hash_algorithm: Annotated[str, typer.Option("--hash", help="sha256 or sha512.")] = "sha256",
    sve_vl: Annotated[int, typer.Option(help="SVE vector length field.")] = 0,
    pmu: Annotated[int, typer.Option("--pmu", "--pmu-num-ctrs", help="PMU counters.")] = 0,
    flags: Annotated[str, typer.Option(help="RmiRealmFlags.")] = "0",
    ripas: Annotated[list[str], typer.Option(help="BASE:TOP made RAM; repeatable.")] = [],  # noqa: B006
    data: Annotated[list[str], typer.Option(help="ADDRESS:FILE put there; repeatable.")] = [],  # noqa: B006
    rec: Annotated[list[str], typer.Option(help="FLAGS:PC[:X0,X1,…] of a vCPU; repeatable.")] = [],  # noqa: B006
    explain: Explain = False,
    as_json: JsonFlag = False,
) -> None:
    """Arm CCA: the Realm Initial Measurement. Steps run in the order RAM ranges, contents, vCPUs."""
    from tallystick.measure import cca as calculator
    from tallystick.measure.steps import of_realm

    realm = calculator.RealmParams(
        s2sz=s2sz,
        num_bps=num_bps,
        num_wps=num_wps,
        hash_algorithm=hash_algorithm,
        sve_vl=sve_vl,
        pmu_num_ctrs=pmu,
        flags=number(flags, "--flags"),
    )
    steps: list[calculator.Step] = []
    for text in ripas:
        base, top = _pair(text, "--ripas")
        steps.append(calculator.InitRipas(base=number(base, "--ripas"), top=number(top, "--ripas")))
    for text in data:
        address, name = _pair(text, "--data")
        steps += calculator.populate(number(address, "--data"), _read(Path(name), "realm contents"))
    for text in rec:
        first, rest = _pair(text, "--rec")
        pc, _, registers = rest.partition(":")
        gprs = tuple(number(value, "--rec") for value in registers.split(",") if value)
        steps.append(calculator.RecCreate(flags=number(first, "--rec"), pc=number(pc, "--rec"), gprs=gprs))
    value = calculator.rim(realm, steps).hex()
    document: dict[str, Any] = {"rim": value}
    lines = [f"RIM  {value}"]
    if explain:
        _explain(document, lines, of_realm(realm, steps))
    emit(document, "\n".join(lines), as_json=as_json)


def _read(path: Path | None, what: str) -> bytes:
    from tallystick.core.files import read_file

    if path is None:
        raise Misuse(f"name the {what} file")
    return read_file(path, what)


def _pair(text: str, option: str) -> tuple[str, str]:
    first, colon, second = text.partition(":")
    if not colon:
        raise Misuse(f"{option}: want two values with a colon between them, got {text[:40]}")
    return first, second


def _kernel_hashes(kernel: Path | None, initrd: Path | None, append: str) -> KernelHashes | None:
    from tallystick.core.files import file_digest
    from tallystick.measure.snp import KernelHashes

    if kernel is None:
        if initrd is not None or append:
            raise Misuse("--initrd and --append go with --kernel")
        return None
    empty = KernelHashes.of(b"", b"", append)
    return KernelHashes(
        kernel=file_digest(kernel).value,
        initrd=empty.initrd if initrd is None else file_digest(initrd).value,
        cmdline=empty.cmdline,
    )


def _tdx_platform(firmware: Firmware, memory_mib: int, acpi: str) -> Any:
    from tallystick.measure import tdx as calculator

    try:
        digests = [bytes.fromhex(value) for value in acpi.split(",")]
    except ValueError:
        digests = []
    if [len(value) for value in digests] != [48, 48, 48]:
        raise Misuse(
            "--acpi: want three SHA-384 values in hex with commas between them: loader, RSDP, tables"
        )
    if memory_mib < 1:
        raise Misuse("--memory-mib: RTMR0 depends on the memory")
    loader, rsdp, tables = digests
    return calculator.platform(
        firmware, memory_bytes=memory_mib << 20, acpi_loader=loader, acpi_rsdp=rsdp, acpi_tables=tables
    )

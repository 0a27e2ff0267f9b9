"""``tally measure snp|tdx|sgx|nitro|cca``: predict what hardware reports, from files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.output import JsonFlag, emit
from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from tallystick.formats.ovmf import Firmware
    from tallystick.measure.snp import KernelHashes, SnpShape

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
    explain: Explain = False,
    as_json: JsonFlag = False,
) -> None:
    """AMD SEV-SNP: the launch digest (MEASUREMENT)."""
    from tallystick.formats import ovmf
    from tallystick.measure import snp as calculator

    data = ovmf.parse(_read(firmware or file, "firmware"))
    shapes = _snp_shapes(vcpus, vcpu_type, vcpu_sig, vmm, guest_features)
    hashes = _kernel_hashes(kernel, initrd, append)
    if svsm is not None:
        if hashes is not None:
            raise Misuse("--svsm and --kernel: the SVSM's metadata has no place for kernel hashes")
        below = ovmf.parse(_read(svsm, "SVSM"))
        values = [
            calculator.svsm_launch_digest(
                data, below, variables_bytes=vars_size, vcpus=s.vcpus, vcpu_signature=s.vcpu_signature
            ).hex
            for s in shapes
        ]
    else:
        image = calculator.launch_image(data)
        values = [digest.hex for digest in calculator.launch_digests(image, shapes, hashes)]
    document: dict[str, Any] = {"measurement": values[0]}
    if len(shapes) > 1:
        document = {
            "measurements": [
                {
                    "vcpus": s.vcpus,
                    "vcpu_signature": s.vcpu_signature,
                    "vmm": s.vmm.value,
                    "measurement": value,
                }
                for s, value in zip(shapes, values, strict=True)
            ]
        }
    words = "\n".join(values)
    if explain and svsm is None:
        steps = calculator.explain(data, shapes[0], hashes)[1]
        document["steps"] = [
            {"what": s.what, "gpa": f"{s.gpa:#x}", "pages": s.pages, "digest": s.digest} for s in steps
        ]
        words = (
            "\n".join(f"{s.gpa:#016x} {s.pages:6d} pages  {s.digest[:16]}…  {s.what}" for s in steps)
            + "\n"
            + words
        )
    emit(document, words, as_json=as_json)


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
    from tallystick.formats import ovmf
    from tallystick.measure import tdx as calculator

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
        document["events"] = {f"rtmr{i}": [e.hex() for e in events[i]] for i in sorted(events)}
        lines += [f"RTMR{i} event    {event.hex()}" for i in sorted(events) for event in events[i]]
    emit(document, "\n".join(lines), as_json=as_json)


def sgx(
    file: Annotated[Path, typer.Argument(help="The enclave as an SGXS stream.")],
    sigstruct: Annotated[Path | None, typer.Option("--sigstruct", "--sig", help="Its SIGSTRUCT.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Intel SGX: MRENCLAVE of a stream; MRSIGNER, when the SIGSTRUCT is given and belongs to it."""
    from tallystick.formats.sgx import parse_sigstruct
    from tallystick.measure import sgx as calculator

    enclave = calculator.mrenclave(_read(file, "enclave"))
    signer = None
    if sigstruct is not None:
        signed = parse_sigstruct(_read(sigstruct, "SIGSTRUCT"))
        calculator.check(signed, enclave)
        signer = calculator.mrsigner(signed).hex
    words = f"MRENCLAVE  {enclave.hex}\nMRSIGNER   {signer or 'needs --sigstruct'}"
    emit({"mrenclave": enclave.hex, "mrsigner": signer}, words, as_json=as_json)


def nitro(
    file: Annotated[Path, typer.Argument(help="The enclave image file (EIF).")],
    as_json: JsonFlag = False,
) -> None:
    """AWS Nitro Enclaves: PCR0, PCR1, PCR2 and PCR8 of an image."""
    import mmap

    from tallystick.core.files import file_digest
    from tallystick.formats import eif
    from tallystick.measure import nitro as calculator

    if not file.is_file() or file.stat().st_size == 0:
        file_digest(file)  # names what is wrong with the path
        eif.parse(b"")
    with file.open("rb") as stream:  # the mapping closes with its last view, which an error may still hold
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    found = calculator.pcrs(eif.parse(memoryview(mapped)))
    values = {"pcr0": found.pcr0.hex, "pcr1": found.pcr1.hex, "pcr2": found.pcr2.hex, "pcr8": found.pcr8.hex}
    emit(values, "\n".join(f"{name.upper()}  {value}" for name, value in values.items()), as_json=as_json)


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
    as_json: JsonFlag = False,
) -> None:
    """Arm CCA: the Realm Initial Measurement. Steps run in the order RAM ranges, contents, vCPUs."""
    from tallystick.measure import cca as calculator

    realm = calculator.RealmParams(
        s2sz=s2sz,
        num_bps=num_bps,
        num_wps=num_wps,
        hash_algorithm=hash_algorithm,
        sve_vl=sve_vl,
        pmu_num_ctrs=pmu,
        flags=_number(flags, "--flags"),
    )
    steps: list[calculator.Step] = []
    for text in ripas:
        base, top = _pair(text, "--ripas")
        steps.append(calculator.InitRipas(base=_number(base, "--ripas"), top=_number(top, "--ripas")))
    for text in data:
        address, name = _pair(text, "--data")
        steps += calculator.populate(_number(address, "--data"), _read(Path(name), "realm contents"))
    for text in rec:
        first, rest = _pair(text, "--rec")
        pc, _, registers = rest.partition(":")
        gprs = tuple(_number(value, "--rec") for value in registers.split(",") if value)
        steps.append(calculator.RecCreate(flags=_number(first, "--rec"), pc=_number(pc, "--rec"), gprs=gprs))
    value = calculator.rim(realm, steps).hex()
    emit({"rim": value}, f"RIM  {value}", as_json=as_json)


def _read(path: Path | None, what: str) -> bytes:
    from tallystick.core.files import read_file

    if path is None:
        raise Misuse(f"name the {what} file")
    return read_file(path, what)


def _number(text: str, option: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise Misuse(f"{option}: want a number such as 2 or 0x21, got {text[:40]}") from None


def _pair(text: str, option: str) -> tuple[str, str]:
    first, colon, second = text.partition(":")
    if not colon:
        raise Misuse(f"{option}: want two values with a colon between them, got {text[:40]}")
    return first, second


def _snp_shapes(vcpus: str, vcpu_type: str, vcpu_sig: str, vmm: str, guest_features: str) -> list[SnpShape]:
    from tallystick.measure.snp import SnpShape, Vmm, vcpu_signature

    try:
        monitor = Vmm(vmm.lower())
    except ValueError:
        raise Misuse(f"--vmm: want qemu, ec2 or gce, got {vmm[:40]}") from None
    signatures = [vcpu_signature(name) for name in vcpu_type.split(",") if name]
    signatures += [_number(value, "--vcpu-sig") for value in vcpu_sig.split(",") if value]
    if not signatures:
        if monitor is Vmm.QEMU:
            raise Misuse("--vcpu-type or --vcpu-sig: QEMU puts the vCPU's signature into the digest")
        signatures = [0]
    features = _number(guest_features, "--guest-features")
    counts = [_number(count, "--vcpus") for count in vcpus.split(",")]
    return [
        SnpShape(vcpus=count, vcpu_signature=signature, guest_features=features, vmm=monitor)
        for signature in signatures
        for count in counts
    ]


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

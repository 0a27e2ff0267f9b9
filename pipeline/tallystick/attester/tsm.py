"""Reports of SEV-SNP, TDX and Arm CCA from the kernel's configfs-tsm: one folder a request, taken away after it.

Source: Linux, Documentation/ABI/testing/configfs-tsm-report; guest-components, attester/src/tsm_report.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from tallystick.core.errors import NotGenuine, Unreachable, Unsupported
from tallystick.handshake import snpwire
from tallystick.handshake.fields import b64

REPORTS = Path("/sys/kernel/config/tsm/report")
CCEL = Path("/sys/firmware/acpi/tables/data/CCEL")  # ACPI 6.5, section 5.2.34: the CC event log
REPORT_DATA_BYTES = 64
TEES = {"sev_guest": "snp", "tdx_guest": "tdx", "arm_cca_guest": "cca"}  # provider -> KBS tee


@dataclass(frozen=True, slots=True, kw_only=True)
class TsmReport:
    """What the kernel gave for one request."""

    provider: str  # "sev_guest"
    out: bytes  # the report, quote or token
    aux: bytes  # SNP: the certificate table; else empty


def available(reports: Path = REPORTS) -> bool:
    """Say whether the kernel has the interface. Whether a TEE stands behind it, a request tells."""
    return reports.is_dir()


def provider(reports: Path = REPORTS) -> str:
    """Return the name of the TEE behind the interface; errors as :func:`report`."""
    folder = _request(reports)
    try:
        return _read(folder, "provider").decode("ascii", "replace").strip()
    finally:
        _end(folder)


def report(report_data: bytes, reports: Path = REPORTS) -> TsmReport:
    """Return a report over ``report_data``, padded with zeros to 64 bytes.

    Raises:
        Unsupported: a provider that is not known here.
        Unreachable: the kernel or the firmware behind it gives none (``tsm.unavailable``).
        NotGenuine: somebody else wrote to our request (``tsm.generation``).
    """
    if len(report_data) > REPORT_DATA_BYTES:
        raise ValueError(f"report data has at most {REPORT_DATA_BYTES} bytes, not {len(report_data)}")
    folder = _request(reports)
    try:
        name = _read(folder, "provider").decode("ascii", "replace").strip()
        if name not in TEES:
            raise Unsupported("configfs-tsm", at="provider", want=" or ".join(TEES), got=name)
        _write(folder, "inblob", report_data.ljust(REPORT_DATA_BYTES, b"\0"))
        out = _read(folder, "outblob")
        aux = _read(folder, "auxblob") if name == "sev_guest" else b""
        generation = _read(folder, "generation").strip()
        if generation != b"1":
            got = generation.decode("ascii", "replace")
            raise NotGenuine(f"configfs-tsm: generation: want 1, got {got}", code="tsm.generation")
        return TsmReport(provider=name, out=out, aux=aux)
    finally:
        _end(folder)


def evidence(found: TsmReport, event_log: Path = CCEL) -> dict[str, object]:
    """Return the ``primary_evidence`` of the KBS protocol for ``found``, as Trustee's verifiers read it.

    Raises:
        Malformed: an SNP report of another length, or a certificate table that breaks its form.
    """
    if found.provider == "sev_guest":
        return snpwire.document(found.out, snpwire.certificate_table(found.aux))
    if found.provider == "tdx_guest":
        log = event_log.read_bytes() if event_log.is_file() else b""
        return {"quote": b64(found.out), "cc_eventlog": b64(log) if log else None}
    return {"token": list(found.out)}


def _request(reports: Path) -> Path:
    folder = reports / f"tally-{secrets.token_hex(8)}"
    try:
        os.mkdir(folder)
    except OSError as error:
        raise _unavailable(error) from None
    return folder


def _end(folder: Path) -> None:
    try:
        os.rmdir(folder)
    except OSError as error:
        raise _unavailable(error) from None


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        if name == "auxblob":  # a host that gives no certificates
            return b""
        raise Unreachable(f"configfs-tsm: there is no {name}", code="tsm.unavailable") from None
    except OSError as error:
        raise _unavailable(error) from None


def _write(folder: Path, name: str, data: bytes) -> None:
    try:
        handle = os.open(folder / name, os.O_WRONLY)
        try:
            os.write(handle, data)
        finally:
            os.close(handle)
    except OSError as error:
        raise _unavailable(error) from None


def _unavailable(error: OSError) -> Unreachable:
    return Unreachable(f"configfs-tsm: {error.strerror}", code="tsm.unavailable")

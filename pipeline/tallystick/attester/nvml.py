"""Reports and certificates of NVIDIA GPUs from the driver's library, where a machine has both.

Only what attestation needs is asked of it. Python without ctypes, as in the measured image, has no such library.

Source: NVIDIA, nvml.h (``nvmlConfComputeGpuCertificate_t``, ``nvmlConfComputeGpuAttestationReport_t``);
NVIDIA/attestation-sdk, src/gpu/nvml_client.cpp (the order of calls); guest-components, attester/src/nvidia/nvat.rs
(the JSON).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tallystick.core.errors import Malformed, Unreachable
from tallystick.handshake.binding import NVIDIA_NONCE_BYTES
from tallystick.handshake.fields import b64

if TYPE_CHECKING:
    import ctypes

LIBRARY = "libnvidia-ml.so.1"
_ARCHITECTURES = {7: "AMPERE", 9: "HOPPER", 10: "BLACKWELL"}  # nvmlDeviceArchitecture_t
_SUCCESS, _NOT_SUPPORTED = 0, 3  # nvmlReturn_t
_CHAIN_BYTES = 0x1000  # NVML_GPU_CERT_CHAIN_SIZE
_ATTESTATION_CHAIN_BYTES = 0x1400  # NVML_GPU_ATTESTATION_CERT_CHAIN_SIZE
_REPORT_BYTES = 0x2000  # NVML_CC_GPU_ATTESTATION_REPORT_SIZE
_CEC_REPORT_BYTES = 0x1000  # NVML_CC_GPU_CEC_ATTESTATION_REPORT_SIZE
_UUID_BYTES = 80  # NVML_DEVICE_UUID_BUFFER_SIZE
_MAX_DEVICES = 64


def evidence(nonce: bytes, library: str = LIBRARY) -> str:
    """Return the JSON text of ``additional_evidence`` for every GPU that attests; empty when there is none.

    A GPU that is in no confidential mode has no report and is left out: whether a machine may be without, the
    policy says.

    Args:
        nonce: ``NVIDIA_NONCE_BYTES`` bytes, as ``binding.device_nonce`` gives them.

    Raises:
        Unreachable: the driver does not do what it is asked (``nvml.unavailable``).
        Malformed: it gives a report or chain that is empty or longer than its field.
    """
    if len(nonce) != NVIDIA_NONCE_BYTES:
        raise ValueError(f"a nonce has {NVIDIA_NONCE_BYTES} bytes, not {len(nonce)}")
    driver = _load(library)
    if driver is None:
        return ""
    with _running(driver):
        listed = [found for device in _devices(driver) if (found := _collect(driver, device, nonce))]
    return json.dumps({"nvidia": {"device_evidence_list": listed}}) if listed else ""


def _load(library: str) -> ctypes.CDLL | None:
    """Return the driver's library; None where it is not installed, or this Python can not load any."""
    try:
        import ctypes
    except ImportError:
        return None
    try:
        return ctypes.CDLL(library)
    except OSError:
        return None


@contextmanager
def _running(driver: ctypes.CDLL) -> Iterator[None]:
    _call(driver, "nvmlInit_v2")
    try:
        yield
    finally:
        _call(driver, "nvmlShutdown")


def _devices(driver: ctypes.CDLL) -> Iterator[ctypes.c_void_p]:
    import ctypes

    count = ctypes.c_uint()
    _call(driver, "nvmlDeviceGetCount_v2", ctypes.byref(count))
    if count.value > _MAX_DEVICES:
        raise Malformed("NVML", at="device count", want=f"at most {_MAX_DEVICES}", got=f"{count.value}")
    for number in range(count.value):
        device = ctypes.c_void_p()
        _call(driver, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(number), ctypes.byref(device))
        yield device


def _collect(driver: ctypes.CDLL, device: ctypes.c_void_p, nonce: bytes) -> dict[str, str] | None:
    """Return one device's evidence; None when it is in no confidential mode."""
    import ctypes

    report_type, chain_type = _structures()
    report, chain = report_type(nonce=(ctypes.c_ubyte * NVIDIA_NONCE_BYTES)(*nonce)), chain_type()
    name = "nvmlDeviceGetConfComputeGpuAttestationReport"
    if _call(driver, name, device, ctypes.byref(report), may=_NOT_SUPPORTED) == _NOT_SUPPORTED:
        return None
    _call(driver, "nvmlDeviceGetConfComputeGpuCertificate", device, ctypes.byref(chain))
    architecture, uuid = ctypes.c_uint(), ctypes.create_string_buffer(_UUID_BYTES)
    _call(driver, "nvmlDeviceGetArchitecture", device, ctypes.byref(architecture))
    _call(driver, "nvmlDeviceGetUUID", device, uuid, ctypes.c_uint(_UUID_BYTES))
    return {
        "arch": _ARCHITECTURES.get(architecture.value, f"architecture {architecture.value}"),
        "uuid": uuid.value.decode("ascii", "replace"),
        "nonce": nonce.hex(),
        "evidence": b64(_filled("attestationReport", report.attestationReport, report.attestationReportSize)),
        "certificate": b64(
            _filled("attestationCertChain", chain.attestationCertChain, chain.attestationCertChainSize)
        ),
    }


def _structures() -> tuple[Any, Any]:
    """Return nvml.h's structures of a report and of a chain."""
    import ctypes

    class Report(ctypes.Structure):
        _fields_ = (
            ("isCecAttestationReportPresent", ctypes.c_uint),
            ("attestationReportSize", ctypes.c_uint),
            ("cecAttestationReportSize", ctypes.c_uint),
            ("nonce", ctypes.c_ubyte * NVIDIA_NONCE_BYTES),
            ("attestationReport", ctypes.c_ubyte * _REPORT_BYTES),
            ("cecAttestationReport", ctypes.c_ubyte * _CEC_REPORT_BYTES),
        )

    class Chain(ctypes.Structure):
        _fields_ = (
            ("certChainSize", ctypes.c_uint),
            ("attestationCertChainSize", ctypes.c_uint),
            ("certChain", ctypes.c_ubyte * _CHAIN_BYTES),
            ("attestationCertChain", ctypes.c_ubyte * _ATTESTATION_CHAIN_BYTES),
        )

    return Report, Chain


def _filled(name: str, field: Any, size: int) -> bytes:
    if not 1 <= size <= len(field):
        raise Malformed("NVML", at=name, want=f"1 to {len(field)} bytes", got=f"{size}")
    return bytes(field[:size])


def _call(driver: ctypes.CDLL, name: str, *arguments: object, may: int = _SUCCESS) -> int:
    """Call one function of the library, and return its code when that is success or ``may``.

    Raises:
        Unreachable: another code, or a library without that function.
    """
    try:
        code = int(getattr(driver, name)(*arguments))
    except AttributeError:
        raise Unreachable(f"NVML: the driver has no {name}", code="nvml.unavailable") from None
    if code not in (_SUCCESS, may):
        raise Unreachable(f"NVML: {name} gives error {code}", code="nvml.unavailable")
    return code

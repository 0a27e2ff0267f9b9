"""The opaque data of NVIDIA's SPDM reports, typed: what a GPU and an NVSwitch say about themselves.

Names are those that Trustee's nvidia verifier gives (they follow NVIDIA's, lower case); a type that neither knows is
kept as ``type_<number>``. Flags are booleans here, sizes and counts numbers, identifiers lower-case hex.

Source: NVIDIA/attestation-sdk, include/nv_attestation/{gpu,switch}/spdm/*_opaque_data_parser.hpp (the numbers mean
different things for GPUs and switches from 22 on); NVIDIA/nvtrust, local_gpu_verifier spdm_msrt_resp_msg.py;
confidential-containers/trustee, deps/verifier/src/nvidia/spdm_response.rs.
"""

from __future__ import annotations

import struct
from typing import Any

from tallystick.core.errors import Malformed, Unsupported

_WHAT = "SPDM OpaqueData"
_COMMON = {
    1: "cert_issuer_name",
    2: "cert_authority_key_identifier",
    3: "driver_version",
    4: "gpu_info",
    5: "id_sku",
    6: "vbios_version",
    7: "manufacturer_id",
    8: "tamper_detection",
    9: "smc",
    10: "vpr",
    11: "nvdec0_status",
    12: "measurement_count",
    13: "cpr_info",
    14: "board_id",
    15: "chip_sku",
    16: "chip_sku_mod",
    17: "project",
    18: "project_sku",
    19: "project_sku_mod",
    20: "fwid",
    21: "protected_pcie_status",
}
_GPU = _COMMON | {
    22: "switch_pdi",
    23: "floorswept_ports",
    24: "position_id",
    25: "lock_switch_status",
    32: "gpu_link_conn",
    33: "sys_enable_status",
    34: "opaque_data_version",
    35: "chip_info",
    36: "feature_flag",
}
_SWITCH = _COMMON | {
    22: "device_pdi",
    23: "disabled_ports",
    24: "switch_position_id",
    25: "switch_lock_status",
    26: "switch_gpu_pdis",
    27: "switch_ports",
}
_TEXT = ("driver_version", "chip_sku", "chip_sku_mod", "project", "project_sku", "chip_info")
_ENABLED, _DISABLED = 0xAA, 0x55  # NVDEC_STATUS_ENABLED, NVDEC_STATUS_DISABLED
_PDI_BYTES = 8
_SWITCH_GPUS = 8  # TOTAL_NUMBER_OF_PDI
_MODES = {0: "SPT", 1: "MPT", 2: "PPCIE"}  # single GPU pass-through, multi-GPU, protected PCIe
_MAX_VERSION = 1  # MAX_OPAQUE_DATA_VERSION of attestation-sdk: a newer one may mean other things


def gpu_fields(opaque: tuple[tuple[int, bytes], ...]) -> dict[str, Any]:
    """Return the fields of a GPU's report by name.

    Raises:
        Malformed: a field whose size or text can not be.
        Unsupported: an opaque data version above the one this program knows.
    """
    found = {_GPU.get(kind, f"type_{kind}"): _value(_GPU.get(kind, ""), data) for kind, data in opaque}
    version = found.get("opaque_data_version", 0)
    if version > _MAX_VERSION:
        raise Unsupported(_WHAT, at="opaque_data_version", want=f"at most {_MAX_VERSION}", got=str(version))
    return found


def switch_fields(opaque: tuple[tuple[int, bytes], ...]) -> dict[str, Any]:
    """Return the fields of a switch's report by name.

    Raises:
        Malformed: a field whose size or text can not be.
    """
    found: dict[str, Any] = {}
    for kind, data in opaque:
        name = _SWITCH.get(kind, f"type_{kind}")
        if name == "vbios_version":
            found[name] = _text(name, data)
        elif name == "switch_gpu_pdis":
            # eight identifiers, then for each port which of them is behind it (0xff: none)
            size = _SWITCH_GPUS * _PDI_BYTES
            if len(data) < size:
                raise Malformed(_WHAT, at=name, want=f"at least {size} bytes", got=str(len(data)))
            found[name] = _identifiers(name, data[:size])
            found["switch_ports"] = list(data[size:])
        else:
            found[name] = _value(name, data)
    return found


def _value(name: str, data: bytes) -> Any:
    if name in _TEXT:
        return _text(name, data)
    if name == "vbios_version":
        return _vbios(data)
    if name == "measurement_count":
        return _counts(data)
    if name == "switch_pdi":
        return _identifiers(name, data)
    if name in ("nvdec0_status", "protected_pcie_status"):
        return _status(name, data)
    if name == "opaque_data_version":
        return _integer(name, data)
    if name == "feature_flag":
        return _MODES.get(_integer(name, data), "unknown")
    return data.hex()


def _text(name: str, data: bytes) -> str:
    """Return printable ASCII before the terminating zeros."""
    text = data.rstrip(b"\0")
    if not text.isascii() or not text.decode("ascii").isprintable():
        raise Malformed(_WHAT, at=name, want="printable ASCII", got=data.hex())
    return text.decode("ascii")


def _vbios(data: bytes) -> str:
    """Return a GPU's VBIOS version: the first four bytes from the last to the first, then the fifth."""
    if len(data) != 8:
        raise Malformed(_WHAT, at="vbios_version", want="8 bytes", got=str(len(data)))
    return ".".join(f"{byte:02x}" for byte in (*reversed(data[:4]), data[4]))


def _counts(data: bytes) -> dict[str, int]:
    """Return how often each measurement was extended, by its index from 1."""
    if len(data) % 4:
        raise Malformed(_WHAT, at="measurement_count", want="32-bit numbers", got=f"{len(data)} bytes")
    counts = struct.unpack(f"<{len(data) // 4}I", data)
    return dict(zip(map(str, range(1, len(counts) + 1)), counts, strict=True))


def _identifiers(name: str, data: bytes) -> list[str]:
    """Return physical device identifiers (PDI), 8 bytes each."""
    if len(data) % _PDI_BYTES:
        raise Malformed(_WHAT, at=name, want=f"{_PDI_BYTES}-byte identifiers", got=f"{len(data)} bytes")
    return [data[at : at + _PDI_BYTES].hex() for at in range(0, len(data), _PDI_BYTES)]


def _status(name: str, data: bytes) -> bool:
    if len(data) != 1 or data[0] not in (_ENABLED, _DISABLED):
        raise Malformed(_WHAT, at=name, want="0xaa (enabled) or 0x55 (disabled)", got=data.hex())
    return data[0] == _ENABLED


def _integer(name: str, data: bytes) -> int:
    if len(data) > 8:
        raise Malformed(_WHAT, at=name, want="at most 8 bytes", got=str(len(data)))
    return int.from_bytes(data, "little")

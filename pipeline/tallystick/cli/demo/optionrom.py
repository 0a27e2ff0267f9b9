"""An option ROM that does nothing: what a host adds to a card to run code before the measured image.

The firmware loads its driver, and so measures it into PCR 2, before it starts it.
"""

from __future__ import annotations

import struct

_FILE_BYTES = 0x200  # alignment in the file and in memory
_VENDOR, _DEVICE = 0x1AF4, 0x1000  # virtio 1.2, section 4.1.2: a transitional network card
_HEADER_BYTES, _IMAGE_BYTES = 0x40, 3 * 512  # of the ROM's one image
_ROM_BYTES = 16 << 10  # the firmware does not find a ROM whose BAR is smaller than a page
_DATA_OFFSET = 0x1C  # of the PCI data structure: a multiple of four
_CODE = bytes.fromhex("31c0c3")  # xor eax, eax; ret: EFI_SUCCESS


def option_rom() -> bytes:
    """Return a PCI expansion ROM with one UEFI boot services driver that returns at once.

    Source: PCI Firmware Specification 3.3, section 5.1; UEFI 2.10, section 14.4.2 (EFI_PCI_EXPANSION_ROM_HEADER).
    """
    size = _IMAGE_BYTES // 512
    header = struct.pack(
        "<HHIHHH8sHH", 0xAA55, size, 0x0EF1, 11, 0x8664, 0, bytes(8), _HEADER_BYTES, _DATA_OFFSET
    )
    # PCI data structure, revision 3: network controller, code type 3 (UEFI), the last image
    data = struct.pack(
        "<4sHHHHB3sHHBBHHH", b"PCIR", _VENDOR, _DEVICE, 0, 0x1C, 3, b"\0\0\2", size, 0, 3, 0x80, 0, 0, 0
    )
    head = (header.ljust(_DATA_OFFSET, b"\0") + data).ljust(_HEADER_BYTES, b"\0")
    return (head + driver()).ljust(_ROM_BYTES, b"\0")


def driver() -> bytes:
    """Return the driver as the firmware measures it into PCR 2: from its header to the end of the ROM's image."""
    return _driver().ljust(_IMAGE_BYTES - _HEADER_BYTES, b"\0")


def _driver() -> bytes:
    """Return the smallest PE32+ image that the firmware takes for a driver.

    Source: Microsoft PE/COFF Specification, sections 2.3 to 4 ("COFF File Header" to "Section Table").
    """
    dos = struct.pack("<2s58xI", b"MZ", 0x40)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, 1, 0, 0, 0, 0xF0, 0x0022)
    optional = struct.pack(
        "<HBBIIIIIQIIHHHHHHIIIIHHQQQQII",
        *(0x20B, 0, 0, _FILE_BYTES, 0, 0, _FILE_BYTES, _FILE_BYTES),
        *(0, _FILE_BYTES, _FILE_BYTES),
        *(0, 0, 0, 0, 0, 0, 0),
        *(2 * _FILE_BYTES, _FILE_BYTES, 0),
        *(11, 0),  # subsystem: boot services driver
        *(0, 0, 0, 0, 0, 16),
    ) + bytes(16 * 8)
    section = struct.pack(
        "<8sIIIIIIHHI", b".text", _FILE_BYTES, _FILE_BYTES, _FILE_BYTES, _FILE_BYTES, 0, 0, 0, 0, 0x60000020
    )
    return (dos + coff + optional + section).ljust(_FILE_BYTES, b"\0") + _CODE.ljust(_FILE_BYTES, b"\0")

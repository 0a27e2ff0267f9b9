"""loader.py OUT: the EFI application that AmdSevX64 falls back to, which starts nothing.

OvmfPkg/AmdSev embeds GRUB for guests whose kernel lies on an encrypted disk. Here the kernel is the one that the launch
measured, or there is none: what would start something else must not be in the firmware. This application says so on the
firmware's console and stops.

Source: Microsoft PE format (PE32+, one section); UEFI 2.10, EFI_SYSTEM_TABLE (ConOut at 64), OutputString at 8.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

MESSAGE = "Tallystick: the launch measured no kernel. Stopped.\r\n"
_ALIGNMENT = 0x200
_HEADERS = 0x200
_SECTION = 0x1000  # address of the one section


def code() -> bytes:
    """Return position-independent x86-64 code: ConOut->OutputString(ConOut, message), then halt for ever."""
    call = bytes.fromhex("ff5108")  # call [rcx + 8]: OutputString
    stop = bytes.fromhex("faf4ebfc90")  # cli; hlt; jmp back; the message behind is at an even address
    start = bytes.fromhex(
        "4883ec28"  # sub rsp, 40: the calling convention's home space, aligned
        "488b4a40"  # mov rcx, [rdx + 64]: SystemTable->ConOut
        "4885c9"  # test rcx, rcx
        "740a"  # jz over the call
        "488d15"  # lea rdx, [rip + what follows]: the message
    )
    return start + struct.pack("<i", len(call + stop)) + call + stop


def image() -> bytes:
    """Return the PE32+ image; it has no time, no checksum and no relocations."""
    text = code() + (MESSAGE + "\0").encode("utf-16-le")
    raw = text.ljust(-(-len(text) // _ALIGNMENT) * _ALIGNMENT, b"\0")
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    coff = b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, 1, 0, 0, 0, 0xF0, 0x22E)
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, len(raw), 0, 0, _SECTION, _SECTION)
    optional += struct.pack(
        "<QIIHHHHHHIIIIHH", 0, 0x1000, _ALIGNMENT, 0, 0, 0, 0, 0, 0, 0, 0x2000, _HEADERS, 0, 10, 0
    )
    optional += struct.pack("<QQQQII", 0, 0, 0, 0, 0, 16) + bytes(16 * 8)
    section = struct.pack(
        "<8sIIIIIIHHI", b".text", len(text), _SECTION, len(raw), _HEADERS, 0, 0, 0, 0, 0x60000020
    )
    return (dos + coff + optional + section).ljust(_HEADERS, b"\0") + raw


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(image())

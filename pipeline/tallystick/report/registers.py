"""What each measured register stands for, in words for people.

Source: TCG PC Client Platform Firmware Profile 1.05, section 3.3.4; the Linux TPM PCR Registry (UAPI.7);
which of our own files goes where: docs/decisions (init-data in PCR 8), ``measure.uki``.
"""

from __future__ import annotations

_PCR = {
    0: "The firmware's own code, for this amount of RAM and this number of CPUs",
    1: "The firmware's settings: boot order and boot entries",
    2: "Option ROMs and drivers that are not the firmware's: none",
    3: "Settings of such drivers: none",
    4: "The image itself, as the firmware loaded it",
    5: "Partition table, and that the firmware's boot services ended",
    6: "What the machine's maker adds: nothing",
    7: "Secure Boot: whether it is on, and its keys",
    8: "Init-data: the digests of what this machine is to serve",
    9: "Initramfs and kernel command line, as the kernel received them",
    10: "What Linux measures later by itself (IMA)",
    11: "The image's sections: kernel, command line, initramfs",
    12: "A command line or credentials given from outside: none",
    13: "System extensions given from outside: none",
    14: "Keys that the machine's owner enrolled (MOK): none",
    15: "What is measured after the start: nothing",
}

# What ``values`` of the other platforms are called (claim names as Trustee's verifiers emit them).
_CLAIMS = {
    "measurement": "Memory and CPU state at launch (LAUNCH_DIGEST)",
    "mr_td": "The trust domain's memory at launch (MRTD)",
    "pcr0": "The enclave image",
    "pcr1": "Kernel and boot ramdisk",
    "pcr2": "The application",
}


def label(name: str) -> str:
    """Return how people write the register ``name``: ``PCR 4`` for ``pcr04``."""
    number = pcr(name)
    return name if number is None else f"PCR {number}"


def meaning(name: str) -> str:
    """Return what the register ``name`` stands for; "" for one that this table does not know."""
    number = pcr(name)
    return _CLAIMS.get(name.rpartition(".")[2], "") if number is None else _PCR.get(number, "")


def pcr(name: str) -> int | None:
    """Return the number of a TPM's register ``pcrNN``, or None when ``name`` is no such."""
    digits = name.removeprefix("pcr")
    is_one = name.startswith("pcr") and len(digits) == 2 and digits.isascii() and digits.isdecimal()
    return int(digits) if is_one else None

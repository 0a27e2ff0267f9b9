"""Init-data, measured into PCR 8 before anything is asked for."""

from __future__ import annotations

from tallystick.attester.tpm import Tpm
from tallystick.core.errors import Refused
from tallystick.core.findings import Finding
from tallystick.handshake import initdata


def measure(tpm: Tpm, toml: bytes) -> None:
    """Extend the digest of ``toml`` into PCR 8, unless it is there already.

    Raises:
        Refused: something else was measured there; a register can not be taken back (``init-data.register``).
    """
    held, wanted = tpm.read_pcrs()[initdata.PCR], initdata.pcr8(toml)
    if held == wanted:
        return
    if held != bytes(len(held)):
        finding = Finding("init-data.register", f"PCR {initdata.PCR}", "not extended yet", held.hex())
        raise Refused(f"init-data: {finding.message}", findings=[finding])
    tpm.extend(initdata.PCR, initdata.digest(toml))

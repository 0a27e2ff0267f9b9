"""What a TPM's quote must agree with: the registers that are claimed, the nonce, the event log, the init-data.

Sources: TCG TPM 2.0 Library 1.59, Part 3, TPM2_Quote; TCG PC Client Platform Firmware Profile 1.06, 3.3.4
(which PCR is whose); Trustee, deps/verifier/src/tpm/mod.rs (the rule of PCR 8).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from tallystick.core.findings import Finding
from tallystick.formats import eventlog, tpm

INIT_DATA_PCR = 8
# A boot's log covers these. 10 is IMA's, with a log of its own; 16 and 23 are for debuggers and applications,
# 17 to 22 for late launch.
LOGGED_PCRS = (*range(10), *range(11, 16))
BANK = "sha256"
ZERO = bytes(32)


def selection_findings(quote: tpm.Quote, pcrs: tuple[tuple[int, bytes], ...]) -> Iterable[Finding]:
    """Give where the quote is not about the registers that are claimed.

    Trustee maps values to registers by their place alone; a quote over other registers would then pass.
    """
    want = f"{BANK}: " + ",".join(str(register) for register, _ in pcrs)
    got = "; ".join(f"{one.bank}: " + ",".join(map(str, one.registers)) for one in quote.selections)
    if got != want:
        yield Finding("tpm.pcr-selection.mismatch", "PCR selection of the quote", want, got)


def digest_findings(
    quote: tpm.Quote, signature: tpm.Signature, pcrs: Mapping[int, bytes]
) -> Iterable[Finding]:
    """Give where the signed digest is not of the claimed values. Its hash is that of the signing scheme."""
    data = b"".join(value for _, value in sorted(pcrs.items()))
    want = hashlib.new(tpm.HASHES[signature.hash_algorithm], data, usedforsecurity=False).digest()
    if not hmac.compare_digest(want, quote.pcr_digest):
        yield Finding(
            "tpm.pcr-digest.mismatch", "PCR digest of the quote", want.hex(), quote.pcr_digest.hex()
        )


def nonce_findings(quote: tpm.Quote, nonce: bytes | None) -> Iterable[Finding]:
    """Give where ``extraData`` is not the nonce, to the byte."""
    if nonce is not None and not hmac.compare_digest(nonce, quote.extra_data):
        yield Finding("tpm.nonce.mismatch", "extraData of the quote", nonce.hex(), quote.extra_data.hex())


def log_findings(log: eventlog.EventLog, pcrs: Mapping[int, bytes]) -> Iterable[Finding]:
    """Give every register that the log does not explain.

    PCR 8 is the guest's for init-data when the boot's log leaves it alone.
    """
    replayed = eventlog.replay(log, BANK)
    for register in LOGGED_PCRS:
        if register not in pcrs or (register == INIT_DATA_PCR and register not in replayed):
            continue
        want = replayed.get(register, ZERO)
        if want != pcrs[register]:
            yield Finding(
                f"tpm.eventlog.pcr{register:02}",
                f"PCR {register}",
                f"{want.hex()}, as the event log replays",
                pcrs[register].hex(),
            )


def init_data_findings(pcrs: Mapping[int, bytes], init_data: bytes | None) -> Iterable[Finding]:
    """Give where PCR 8 is not ``SHA-256(0^32 || init_data)``: Trustee's rule, one extend from zero."""
    if init_data is None:
        return
    want, got = hashlib.sha256(ZERO + init_data).digest(), pcrs.get(INIT_DATA_PCR)
    if want != got:
        yield Finding("tpm.init-data.mismatch", "PCR 8", want.hex(), got.hex() if got else "not quoted")

"""Why an enclave's PCRs are not the predicted ones, as far as which of them differ says it.

PCR0 covers everything, PCR1 the kernel, command line and first ramdisk, PCR2 the ramdisks after it, PCR8 the signer.
An enclave in debug mode shows zeros.
"""

from __future__ import annotations

from collections.abc import Mapping

from tallystick.measure.causes import Cause, How, Unexplained, Where, left_over

_PARTS = (("pcr1", "kernel, command line or first ramdisk"), ("pcr2", "ramdisks after the first"))
_IMAGE = ("pcr0", "pcr1", "pcr2")
_REASON = "the registers do not differ as those of one image do"


def explain(
    want: Mapping[str, str], seen: Mapping[str, str]
) -> tuple[tuple[Cause, ...], tuple[Unexplained, ...]]:
    """Return why ``seen`` (register -> hex) is not ``want``."""
    differ = [name for name in want if name in seen and want[name] != seen[name]]
    if all(name in differ and not seen[name].strip("0") for name in _IMAGE):
        debug = _cause(Where.HOST, "debug-mode", "off", "on", _IMAGE)
        return (debug,), left_over(differ, [debug], _REASON)
    found = [
        _cause(Where.IMAGE, part, want[name], seen[name], ("pcr0", name))
        for name, part in _PARTS
        if name in differ and "pcr0" in differ
    ]
    if "pcr8" in differ:
        before, after = ("unsigned" if not one["pcr8"].strip("0") else one["pcr8"] for one in (want, seen))
        found.append(_cause(Where.IMAGE, "signer", before, after, ("pcr8",)))
    return tuple(found), left_over(differ, found, _REASON)


def _cause(where: Where, kind: str, before: str, after: str, moves: tuple[str, ...]) -> Cause:
    return Cause(
        where=where, kind=kind, name=kind, before=before, after=after, moves=moves, how=How.REGISTERS
    )

"""Fuzz the verifiers of evidence with coverage (atheris): ``python tests/fuzz/evidence.py KIND [libFuzzer options]``.

Whatever bytes come, a verifier answers with one of the four errors or with claims: no other exception, no hang
(``-timeout``), no unbounded memory (``-rss_limit_mb``). ``make soak`` runs each kind for a while.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "pipeline"), str(ROOT / "tests")]
AT = datetime(2026, 6, 1, 12, tzinfo=UTC)


def targets() -> dict[str, Callable[[bytes], object]]:
    from tallystick import evidence
    from tallystick.evidence import bundle, bundle_kinds, dcap_collateral, dcap_parts
    from tallystick.formats import eventlog, hcl, snp_report

    def kind(name: str) -> Callable[[bytes], object]:
        def both(data: bytes) -> object:
            """The first half is evidence, the second an endorsement, where a byte divides them."""
            head, _, tail = data.partition(b"\xff\xfe\xfd")
            return evidence.verify(name, head, [tail] if tail else [], nonce=None, at=AT)

        return both

    def show(name: str) -> Callable[[bytes], object]:
        return lambda data: evidence.show(name, data)

    parsers: dict[str, Callable[[bytes], object]] = {
        "eventlog": lambda data: eventlog.replay(eventlog.parse(data), "sha256"),
        "hcl": hcl.parse,
        "collateral": dcap_collateral.checked,
        "collateral-parts": lambda data: list(dcap_parts.Parts.of(data.split(b"\xff\xfe\xfd")).collaterals()),
        "ghcb-table": snp_report.certificate_table,
        "bundle": lambda data: bundle.load(data, []),
        "bundle-kinds": bundle_kinds.of,
    }
    verifiers = {name: kind(name) for name in evidence.supported()}
    dumps = {f"show-{name}": show(name) for name in evidence.supported()}
    return parsers | verifiers | dumps


def seeds() -> dict[str, list[bytes]]:
    """Return a little that is nearly right for each kind, made here."""
    import support_dcap
    import support_snp
    import support_tpm_evidence
    from support_eventlog import log

    intel, amd = support_dcap.Maker(), support_snp.Maker()
    apart = b"\xff\xfe\xfd"
    tdx = intel.quote(support_dcap.td(b"r"))
    sgx = intel.quote(support_dcap.enclave(b"r"), 3)
    snp = amd.report()
    made = {
        "tdx-quote": [tdx, tdx + apart + intel.collateral()],
        "sgx-quote": [sgx, sgx + apart + intel.collateral("SGX")],
        "snp-report": [snp, snp + apart + b"".join(amd.endorsements()[:1])],
        "tpm-quote": [support_tpm_evidence.made()],
        "eventlog": [log(support_tpm_evidence.EVENTS)],
        "collateral": [intel.collateral()],
        "collateral-parts": [intel.signed("tcbInfo", intel.tcb_info("TDX"))],
    }
    return made | {f"show-{name}": one[:1] for name, one in made.items() if name not in ("eventlog",)}


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["tallystick.evidence", "tallystick.formats"]):
        from tallystick.core.errors import TallystickError

        known = targets()
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in known:
        sys.exit(f"usage: evidence.py KIND [options], KIND one of {', '.join(known)}")
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 and not sys.argv[2].startswith("-") else None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds().get(name, [])):
            (folder / f"seed{number}").write_bytes(seed)

    def once(data: bytes) -> None:
        try:
            known[name](data)
        except TallystickError:
            return

    atheris.Setup([sys.argv[0], *sys.argv[2:]], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Pairs of verifying evidence: ours, and the signature check or the library that it is held against."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import dcap_qvl
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from support_corpus import CORPUS

from tallystick.evidence import dcap, nitro, quote, snp_report
from tallystick.evidence.chain import load_certificate
from tallystick.formats import cose
from tallystick.formats.snp_report import parse

Pair = tuple[str, Callable[[], object], str, Callable[[], object], str]
EVIDENCE = CORPUS / "evidence"
TIMES = 200


def pairs(run: Callable[..., Callable[[], object]]) -> Iterator[Pair]:
    """Give (what, ours, the peer, its work, the limit) of each pair."""
    yield _snp()
    yield _nitro()
    for name, tee in (("TDX", "tdx"), ("SGX", "sgx")):
        yield from _dcap(name, tee)
    yield _cold(run)


def many(work: Callable[[], object], times: int = TIMES) -> Callable[[], None]:
    def loop() -> None:
        for _ in range(times):
            work()

    return loop


def _p384(key: object, signature: bytes, signed: bytes) -> Callable[[], None]:
    assert isinstance(key, ec.EllipticCurvePublicKey)
    pair = encode_dss_signature(int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big"))
    return lambda: key.verify(pair, signed, ec.ECDSA(hashes.SHA384()))


def _snp() -> Pair:
    data, der = (
        (EVIDENCE / f"snp/reports/trustee_milan_v2.{part}").read_bytes()
        for part in ("report.bin", "vcek.der")
    )
    parsed, at = parse(data), datetime(2025, 6, 1, tzinfo=UTC)
    key = load_certificate(der, "VCEK").public_key()
    bare = _p384(key, b"".join(part.to_bytes(48, "big") for part in parsed.signature), parsed.signed)
    return (
        f"{TIMES} SNP reports with a known VCEK",
        many(lambda: snp_report.verify(data, [der], nonce=None, at=at)),
        f"{TIMES} bare P-384 verifications",
        many(bare),
        "1.15",
    )


def _nitro() -> Pair:
    data = base64.b64decode((EVIDENCE / "nitro/blocky_nitro_attestation.b64").read_bytes())
    message = cose.parse_sign1(data, "document")
    document = cose.cbor_map(message.payload, "document", cose.Lengths.ANY)
    at = datetime.fromtimestamp(document["timestamp"] / 1000, UTC)
    key = load_certificate(document["certificate"], "leaf").public_key()
    return (
        f"{TIMES} Nitro documents of 8 KB with a known chain",
        many(lambda: nitro.verify(data, [], nonce=None, at=at)),
        f"{TIMES} bare P-384 verifications of them",
        many(_p384(key, message.signature, message.to_be_signed())),
        "1.15",
    )


def _dcap(name: str, tee: str) -> Iterator[Pair]:
    data = (EVIDENCE / f"{tee}/{tee}_quote").read_bytes()
    known = (EVIDENCE / f"{tee}/{tee}_quote_collateral.json").read_bytes()
    theirs, at = dcap_qvl.QuoteCollateralV3.from_json(known.decode()), datetime(2025, 6, 20, tzinfo=UTC)
    moment = int(at.timestamp())

    def ours() -> object:
        return quote.verify(f"{tee}-quote", data, [known], nonce=None, at=at)

    def first() -> object:
        dcap.forget()
        return ours()

    peer = many(lambda: dcap_qvl.verify(data, theirs, moment))
    what = f"{TIMES} {name} quotes"
    yield f"{what}, collateral already verified", many(ours), f"{TIMES} times dcap-qvl", peer, "0.35"
    yield f"{what}, nothing seen before", many(first), f"{TIMES} times dcap-qvl", peer, "1.0, not met"


def _cold(run: Callable[..., Callable[[], object]]) -> Pair:
    folder = EVIDENCE / "snp/reports"
    command = [sys.executable, "-m", "tallystick.cli", "evidence", "verify", "--kind", "snp-report", "--json"]
    files: list[str | Path] = [folder / "trustee_milan_v2.report.bin", "--endorsements"]
    files += [folder / "trustee_milan_v2.vcek.der", "--at", "2025-06-01T00:00:00Z"]
    peer = run(sys.executable, "-c", "import cryptography.x509, typer")
    return (
        "`tally evidence verify`, cold",
        run(*command, *files),
        "`import cryptography.x509, typer`",
        peer,
        "0.4 s",
    )

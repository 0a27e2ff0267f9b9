"""A machine with its devices, as one: the CPU's evidence covers the GPUs', and both the verifier's nonce and one key.

The document is the attestation message of the KBS protocol, ``tee-evidence`` being its CompositeEvidence:

    {"runtime-data": {"nonce", "tee-pubkey"}, "init-data"?: {"format", "body"},
     "tee-evidence": {"primary_evidence": …, "additional_evidence": a text, the JSON of
                      {"nvidia": {"device_evidence_list": […]}}; "" when there are no devices}}

What the CPU signs as its report data is H(JCS({"additional-evidence", "nonce", "tee-pubkey"})), so that neither a
device nor its evidence can be exchanged; each device signs the first 32 bytes of H(JCS({"nonce", "tee-pubkey"})). A
file may name the hash as the challenge does, "extra-params": {"selected-hash-algorithm"}; else it is the one that our
broker picks for the CPU.

Source: confidential-containers/trustee, kbs/docs/kbs_attestation_protocol.md, kbs/src/attestation/backend.rs and
deps/verifier/src (``regularize_data``, and each TEE's evidence); guest-components, kbs_protocol/src/client.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.core.findings import Finding
from tallystick.evidence import kinds, nvidia, nvidia_forms
from tallystick.evidence import rim as rims
from tallystick.evidence.claims import Claims
from tallystick.formats import canonical_base64
from tallystick.handshake import binding, initdata, kbs, snpwire
from tallystick.handshake.kbs import Attestation

_WHAT = "composite evidence"
_MAX_BYTES = 16 << 20
_NVIDIA = "nvidia"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tee:
    """How a CPU's evidence stands in the message."""

    name: str  # the KBS protocol's
    report_data_bytes: int | None  # to which the digest is cut or padded with zeros; None: as it is


_TEES = {
    "snp-report": _Tee(name="snp", report_data_bytes=64),
    "azure-snp-vtpm": _Tee(name="az-snp-vtpm", report_data_bytes=None),
    "azure-tdx-vtpm": _Tee(name="az-tdx-vtpm", report_data_bytes=None),
    "tdx-quote": _Tee(name="tdx", report_data_bytes=64),
    "sgx-quote": _Tee(name="sgx", report_data_bytes=64),
    "cca-token": _Tee(name="cca", report_data_bytes=64),
    "nitro": _Tee(name="nitro", report_data_bytes=None),  # not in the KBS protocol: the document in base64
    "tpm-quote": _Tee(name="tpm", report_data_bytes=binding.TPM_EXTRA_DATA_BYTES),
}


def verify(
    kind: str, data: bytes, endorsements: Sequence[bytes], *, nonce: bytes | None, at: datetime
) -> Claims:
    """Return the CPU's claims, with its devices', when the whole is genuine at ``at``.

    Args:
        kind: of the CPU's evidence.
        data: the document.
        endorsements: of the CPU and of the devices, in any order; RIM files and PEM chains without a kind of their own
            go to the devices, everything else to the CPU.
        nonce: what ``runtime-data.nonce`` spells in base64; None when the caller compares it.

    Raises:
        Malformed, Unsupported: no such document, or evidence in it that can not be read.
        NotGenuine: what does not hold, CPU, devices and what binds them.
    """
    document = jsondoc.loads(data, _WHAT, max_bytes=_MAX_BYTES)
    message = Attestation.parse(data)
    tee = _tee(kind)
    algorithm = _algorithm(document, tee)
    if nonce is not None and _spelled(message.nonce) != nonce:
        wrong = Finding("composite.nonce.mismatch", "runtime-data.nonce", nonce.hex(), message.nonce)
        raise NotGenuine("the attestation answers another challenge", findings=[wrong])
    return verify_message(kind, message, endorsements, algorithm=algorithm, at=at)


def verify_message(
    kind: str, message: Attestation, endorsements: Sequence[bytes], *, algorithm: str, at: datetime
) -> Claims:
    """Return what :func:`verify` does, for a message that was received; its nonce is the caller's to compare.

    Args:
        algorithm: the hash that the challenge chose: "sha256", "sha384" or "sha512".
    """
    tee = _tee(kind)
    digest = binding.report_data(
        message.nonce,
        message.tee_pubkey,
        additional_evidence=message.additional_evidence,
        algorithm=algorithm,
    )
    for_devices, for_cpu = _shared_out(endorsements)
    raw, own = _primary(tee.name, message.primary_evidence)
    claims = kinds.verify_one(kind, raw, [*for_cpu, *own], nonce=_fitted(digest, tee), at=at)
    if claims.report_data != _fitted(digest, tee):  # whatever the kind compared
        wrong = Finding("composite.binding", "report data", digest.hex(), claims.report_data.hex())
        raise NotGenuine("the CPU's evidence does not cover this message", findings=[wrong])
    _check_init_data(tee.name, message.init_data, claims)
    device_digest = binding.device_report_data(message.nonce, message.tee_pubkey, algorithm=algorithm)
    devices, notes = _devices(
        message.additional_evidence, for_devices, binding.device_nonce(device_digest), at
    )
    return dataclasses.replace(claims, devices=devices, notes=(*claims.notes, *notes))


def kinds_by_tee() -> dict[str, str]:
    """Return the kind of the CPU's evidence for each TEE name of the KBS protocol."""
    return {tee.name: kind for kind, tee in _TEES.items()}


def _tee(kind: str) -> _Tee:
    if kind not in _TEES:
        raise Unsupported(_WHAT, at="kind", want="one of " + ", ".join(_TEES), got=kind, code="evidence.kind")
    return _TEES[kind]


def _algorithm(document: Mapping[str, Any], tee: _Tee) -> str:
    """Return the hash that the document names, or the one our broker picks."""
    told = document.get("tee", tee.name)
    if told != tee.name:
        raise Malformed(_WHAT, at="tee", want=tee.name, got=str(told))
    extra = document.get("extra-params", {})
    chosen = extra.get("selected-hash-algorithm") if isinstance(extra, Mapping) else extra
    if chosen is None:
        return binding.choose_hash(tee.name, ())
    if not isinstance(chosen, str) or chosen.lower() not in kbs.HASH_ALGORITHMS:
        want = " or ".join(kbs.HASH_ALGORITHMS)
        raise Unsupported(_WHAT, at="selected-hash-algorithm", want=want, got=str(chosen))
    return chosen.lower()


def _spelled(nonce: str) -> bytes | None:
    try:
        return base64.b64decode(nonce.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return None


def _fitted(digest: bytes, tee: _Tee) -> bytes:
    size = tee.report_data_bytes
    return digest if size is None else digest[:size].ljust(size, b"\0")


def _shared_out(files: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return (for the devices, for the CPU). A device's chain comes with it, so PEM is the CPU's.

    Revocation lists and OCSP responses go to both: each side leaves aside what is not about its own chain.
    """
    devices: list[bytes] = []
    cpu: list[bytes] = []
    for data in files:
        if rims.is_rim(data):
            devices.append(data)
        elif nvidia.is_revocation(data):
            devices.append(data)
            if not nvidia.is_ocsp(data):
                cpu.append(data)
        else:
            cpu.append(data)
    return devices, cpu


def _primary(tee: str, evidence: Any) -> tuple[bytes, list[bytes]]:
    """Return the CPU's evidence as its kind reads it, and what came with it that works as an endorsement.

    A text is the kind's own bytes in base64. An object is Trustee's form for that TEE.
    """
    if isinstance(evidence, str):
        return canonical_base64.decode(evidence, _WHAT, "primary_evidence"), []
    if not isinstance(evidence, Mapping):
        raise Malformed(_WHAT, at="primary_evidence", want="an object or base64", got=type(evidence).__name__)
    if tee in ("tdx", "sgx"):
        quote = canonical_base64.decode(evidence.get("quote"), _WHAT, "primary_evidence.quote")
        log = evidence.get("cc_eventlog")
        logs = [] if log is None else [canonical_base64.decode(log, _WHAT, "primary_evidence.cc_eventlog")]
        return quote, logs
    if tee == "cca":
        token = evidence.get("token")
        if not isinstance(token, list) or not all(isinstance(n, int) and 0 <= n < 256 for n in token):
            raise Malformed(
                _WHAT, at="primary_evidence.token", want="a list of bytes", got=type(token).__name__
            )
        return bytes(token), []
    if tee == "snp":
        report, certificates = snpwire.parse(evidence)
        return report, list(certificates)
    return kbs.encode(evidence), []


def _check_init_data(tee: str, text: str | None, claims: Claims) -> None:
    """Refuse an init-data text whose digest the CPU does not report.

    Raises:
        NotGenuine: it does not.
        Unsupported: no place for it in this TEE's evidence that is known here.
    """
    if text is None:
        return
    toml = text.encode("utf-8", "surrogatepass")
    initdata.parse(toml)  # its hash is SHA-256, or this refuses it
    got = claims.values.get("init_data")
    if not isinstance(got, str):
        raise Unsupported(_WHAT, at="init-data", want="none with this TEE", got="init-data")
    size = len(got) // 2
    # a vTPM's PCR 8 is extended by it; HOST_DATA, MRCONFIGID and the like are it, padded with zeros
    held = initdata.pcr8(toml) if "tpm" in tee else initdata.digest(toml)[:size].ljust(size, b"\0")
    want = held.hex()
    if want != got:
        wrong = Finding("composite.init-data.mismatch", "init-data", want, got)
        raise NotGenuine("the CPU's evidence does not cover this init-data", findings=[wrong])


def _devices(
    text: str, endorsements: Sequence[bytes], nonce: bytes, at: datetime
) -> tuple[tuple[Claims, ...], tuple[Finding, ...]]:
    """Return the claims of each device in ``additional_evidence``, and notes about them."""
    if not text:
        return (), ()
    given = jsondoc.loads(text.encode("utf-8", "surrogatepass"), "additional evidence", max_bytes=_MAX_BYTES)
    if not isinstance(given, dict) or set(given) != {_NVIDIA}:
        got = ", ".join(given) if isinstance(given, dict) else type(given).__name__
        raise Unsupported(_WHAT, at="additional_evidence", want=_NVIDIA, got=got or "nothing")
    endorsed = nvidia.sort(endorsements, at)
    judged, notes = nvidia.judge(
        None, nvidia_forms.from_document(given[_NVIDIA]), endorsed, nonce=nonce, at=at
    )
    nvidia.check_used(endorsed, judged)
    return nvidia.each(judged), notes

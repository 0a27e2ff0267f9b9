"""``nvidia-gpu`` and ``nvidia-switch``: are these reports signed by NVIDIA's devices, and what do they claim?

Genuine is that each report is signed by a key whose chain leads to NVIDIA's device root, that its firmware identity is
the certificate's, and that every manifest given is NVIDIA's and for one of these devices. Whether the measurements
are those of the manifests is the claim ``measres``, which a policy asks for; a mismatch is noted with its index.

Source: NVIDIA/attestation-sdk, src/gpu/evidence.cpp, src/gpu/verify.cpp, src/switch/*; DMTF DSP0274 1.1.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tallystick.core.errors import Malformed, NotGenuine
from tallystick.core.findings import Finding
from tallystick.evidence import nvidia_claims, nvidia_device, nvidia_forms
from tallystick.evidence import rim as rims
from tallystick.evidence.chain import Chain, check_revocation, common_name, load_crl
from tallystick.evidence.claims import Claims
from tallystick.evidence.nvidia_claims import Judged, Revocation
from tallystick.evidence.nvidia_device import GPU, SWITCH, DeviceKey
from tallystick.evidence.nvidia_forms import Device
from tallystick.evidence.rim import VerifiedRim
from tallystick.formats import nvidia_opaque, spdm
from tallystick.formats.spdm import Report

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.x509 import ocsp

GPU_KIND, SWITCH_KIND = "nvidia-gpu", "nvidia-switch"
KINDS = (GPU_KIND, SWITCH_KIND)
_CLASSES = {GPU_KIND: GPU, SWITCH_KIND: SWITCH}
_EDITIONS = {GPU: "GPU", SWITCH: "SWITCH"}
_CERTIFICATE = "nvidia.certificate"
_NOTHING_SAID = Revocation(ocsp_good=False, until=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorsed:
    """The endorsement files, sorted by what they are. Manifests are verified, the rest is not yet."""

    rims: tuple[VerifiedRim, ...] = ()
    chains: tuple[bytes, ...] = ()
    lists: tuple[x509.CertificateRevocationList, ...] = ()
    responses: tuple[ocsp.OCSPResponse, ...] = ()


def verify(
    kind: str, data: bytes, endorsements: Sequence[bytes], *, nonce: bytes | None, at: datetime
) -> Claims:
    """Return the claims of devices whose evidence is genuine at ``at``.

    Args:
        data: one of the forms in :mod:`nvidia_forms`.
        endorsements: RIM files; the certificate chain of a report that came without it; revocation lists; OCSP
            responses.
        nonce: the 32 bytes that every report must be bound to; None when the caller compares it.

    Raises:
        Malformed, Unsupported: bytes that are no such evidence, or of devices of the other kind.
        NotGenuine: what does not hold, each named with its device.
    """
    devices = nvidia_forms.parse(data)
    endorsed = sort(endorsements, at)
    judged, notes = judge(_CLASSES[kind], devices, endorsed, nonce=nonce, at=at)
    check_used(endorsed, judged)
    return claims(kind, judged, notes)


def sort(files: Sequence[bytes], at: datetime) -> Endorsed:
    """Return the endorsement files by what they are.

    Raises:
        Malformed: a file that is none of them.
        NotGenuine: a manifest that NVIDIA did not sign, or that is not valid at ``at``.
    """
    manifests: dict[Any, VerifiedRim] = {}
    chains: list[bytes] = []
    lists: list[x509.CertificateRevocationList] = []
    responses: list[ocsp.OCSPResponse] = []
    for data in files:
        if rims.is_rim(data):
            verified = manifest(data, at)
            manifests[verified.digest] = verified
        elif b"-----BEGIN CERTIFICATE" in data:
            if len(data) > nvidia_forms.MAX_CHAIN_BYTES:
                want = f"at most {nvidia_forms.MAX_CHAIN_BYTES} bytes"
                raise Malformed("NVIDIA certificate chain", at="size", want=want, got=str(len(data)))
            chains.append(data)
        else:
            _sort_revocation(data, lists, responses)
    return Endorsed(
        rims=tuple(manifests.values()), chains=tuple(chains), lists=tuple(lists), responses=tuple(responses)
    )


def manifest(data: bytes, at: datetime) -> VerifiedRim:
    """Return the manifest in ``data``, signed by NVIDIA and valid at ``at``.

    Raises:
        Malformed, Unsupported: bytes that are no manifest.
        NotGenuine: it is not; with its dates among the findings, whatever else does not hold.
    """
    try:
        verified = rims.verify(data)
    except NotGenuine as error:
        chain = rims.signers(data)
        dates = () if chain is None else chain.expiry(rims.CODE, at)
        raise NotGenuine(error.message, findings=(*error.findings, *dates)) from None
    if not verified.chain.not_before <= at <= verified.chain.not_after:
        findings = verified.chain.expiry(rims.CODE, at)
        raise NotGenuine(f"the RIM for {verified.rim.version} is not valid at that time", findings=findings)
    return verified


def _sort_revocation(
    data: bytes, lists: list[x509.CertificateRevocationList], responses: list[ocsp.OCSPResponse]
) -> None:
    from tallystick.evidence import ocsp as responders

    crl = load_crl(data)
    if crl is not None:
        lists.append(crl)
        return
    response = responders.load(data)
    if response is None:
        want = "a RIM, a PEM chain, a revocation list or a successful OCSP response"
        raise Malformed("NVIDIA endorsement", at="file", want=want, got=data[:16].hex() or "nothing")
    responses.append(response)


def is_ocsp(data: bytes) -> bool:
    """Whether ``data`` is a successful OCSP response."""
    from tallystick.evidence import ocsp as responders

    return responders.load(data) is not None


def is_revocation(data: bytes) -> bool:
    """Whether ``data`` is a revocation list or an OCSP response."""
    return load_crl(data) is not None or is_ocsp(data)


def judge(
    device_class: str | None,
    devices: Sequence[Device],
    endorsed: Endorsed,
    *,
    nonce: bytes | None,
    at: datetime,
) -> tuple[tuple[Judged, ...], tuple[Finding, ...]]:
    """Return (devices, notes) when every one of ``devices`` is genuine.

    Args:
        device_class: what all of them must be, "gpu" or "switch"; None takes both.

    Raises:
        Malformed, Unsupported: a report that can not be read.
        NotGenuine: with the findings of all devices.
    """
    findings: list[Finding] = []
    notes: list[Finding] = []
    judged: list[Judged] = []
    for number, device in enumerate(devices):
        where = f"{device_class or 'device'} {number}"
        report = spdm.parse(device.report)
        try:
            key = _key(device, report, endorsed)
        except NotGenuine as error:
            findings += [_at(where, finding) for finding in error.findings]
            continue
        found, said = _judge_one(device_class, device, report, key, endorsed, nonce, at)
        findings += [_at(where, finding) for finding in found[0]]
        notes += [_at(where, finding) for finding in found[1]]
        judged.append(said)
    if len({device.report.nonce for device in judged}) > 1:
        nonces = ", ".join(sorted({device.report.nonce.hex() for device in judged}))
        findings.append(Finding("nvidia.nonce.mixed", "nonces", "the same in every report", nonces))
    if findings:
        raise NotGenuine("the NVIDIA evidence is not genuine", findings=findings)
    return tuple(judged), (*notes, *_repeated(judged))


def _key(device: Device, report: Report, endorsed: Endorsed) -> DeviceKey:
    pem = device.chain if device.chain is not None else nvidia_device.choose(report, endorsed.chains)
    if pem is None:
        missing = Finding(
            "nvidia.certificate.missing", "endorsements", "the device's certificate chain", "none"
        )
        raise NotGenuine("the report came without its certificate chain", findings=[missing])
    return nvidia_device.from_chain(pem)


def _judge_one(
    device_class: str | None,
    device: Device,
    report: Report,
    key: DeviceKey,
    endorsed: Endorsed,
    nonce: bytes | None,
    at: datetime,
) -> tuple[tuple[list[Finding], list[Finding]], Judged]:
    """Return ((findings, notes), what the device's claims are made of)."""
    if device_class not in (None, key.device_class):
        raise Malformed("NVIDIA evidence", at="device", want=f"a {device_class}", got=f"a {key.device_class}")
    fields = (nvidia_opaque.gpu_fields if key.device_class == GPU else nvidia_opaque.switch_fields)(
        report.opaque
    )
    findings = _bindings(device, report, key, fields, nonce)
    if not key.chain.not_before <= at <= key.chain.not_after:
        findings = [*key.chain.expiry(_CERTIFICATE, at), *findings]
    # the leaf is issued by the device itself, so nobody publishes whether it is revoked
    wrong, notes, revocation = _revocation(key.chain, key.names, 1, endorsed, _CERTIFICATE, at)
    chosen, unsuited = _suited(key, fields, endorsed.rims)
    findings += [*wrong, *unsuited]
    rim_revocations = []
    for verified in chosen:
        wrong, said, revoked = _revocation(verified.chain, verified.names, 0, endorsed, rims.CODE, at)
        findings += wrong
        notes += said
        rim_revocations.append(revoked)
    comparison = rims.compare(
        [verified.rim for verified in chosen],
        report.measurements,
        nvdec0_disabled=fields.get("nvdec0_status") is False,
    )
    said_of = Judged(
        report=report,
        key=key,
        fields=fields,
        rims=chosen,
        comparison=comparison,
        revocation=revocation,
        rim_revocations=tuple(rim_revocations),
        nonce_given=nonce is not None,
    )
    return (findings, [*notes, *_remarks(said_of)]), said_of


def _bindings(
    device: Device, report: Report, key: DeviceKey, fields: dict[str, Any], nonce: bytes | None
) -> list[Finding]:
    findings: list[Finding] = []
    got = report.nonce.hex()
    for want, where in ((nonce, "nonce"), (device.nonce, "nonce beside the report")):
        if want is not None and want != report.nonce:
            findings.append(Finding("nvidia.nonce.mismatch", where, want.hex(), got))
    if device.arch is not None and device.arch.upper() != key.arch.upper():
        findings.append(Finding("nvidia.arch.mismatch", "arch", key.arch.upper(), device.arch))
    if "fwid" in fields and fields["fwid"] != key.fwid.hex():
        findings.append(Finding("nvidia.fwid.mismatch", "FWID", key.fwid.hex(), fields["fwid"]))
    if not nvidia_device.signed_by(report, key.key):
        findings.append(Finding("nvidia.signature", "Signature", "a signature by this device", "another"))
    return findings


def _suited(
    key: DeviceKey, fields: dict[str, Any], given: Sequence[VerifiedRim]
) -> tuple[tuple[VerifiedRim, ...], list[Finding]]:
    """Return (the manifests for this device, findings): one of each source, no index in both."""
    versions = {"driver": fields.get("driver_version", ""), "vbios": fields.get("vbios_version", "").upper()}
    products = (key.chip, fields.get("chip_info", key.chip))
    fit = [
        verified
        for verified in given
        if verified.rim.edition == _EDITIONS[key.device_class]
        and verified.rim.product in products
        and verified.rim.version == versions[verified.rim.source]
    ]
    findings = []
    for source, version in versions.items():
        count = sum(verified.rim.source == source for verified in fit)
        if count > 1:
            findings.append(Finding("nvidia.rim.ambiguous", f"RIMs for {version}", "one", str(count)))
    indices = [m.index for verified in fit for m in verified.rim.active]
    if len(set(indices)) < len(indices) and not findings:
        twice = sorted({index for index in indices if indices.count(index) > 1})
        got = ", ".join(map(str, twice))
        findings.append(Finding("nvidia.rim.conflict", "RIMs", "each index in one of them", f"{got} in both"))
    return tuple(sorted(fit, key=lambda verified: verified.rim.source)), findings


def _revocation(
    chain: Chain, names: tuple[str, ...], skipped: int, endorsed: Endorsed, code: str, at: datetime
) -> tuple[list[Finding], list[Finding], Revocation]:
    """Return (findings, notes, what OCSP said); ``skipped`` certificates from the leaf on are not asked about.

    Args:
        names: of the certificates, in the chain's order.
    """
    asked = chain.certificates[skipped:-1]
    if not endorsed.lists and not endorsed.responses:
        return [], [_unspoken(name, code) for name in names[skipped:-1]], _NOTHING_SAID
    findings, unlisted = check_revocation(chain, endorsed.lists, code, at)
    good: dict[Any, datetime] = {}
    if endorsed.responses:
        from tallystick.evidence import ocsp as responders

        bad, statuses = responders.check(chain, endorsed.responses, code, at)
        findings = (*findings, *bad)
        good = {status.certificate: status.until for status in statuses if status.value == "good"}
    missing = {note.where for note in unlisted}
    unspoken = (
        _unspoken(name, code)
        for name, certificate in zip(names[skipped:-1], asked, strict=True)
        if certificate not in good
    )
    everything = bool(good) and all(certificate in good for certificate in asked)
    until = min(good.values()) if good else None
    notes = [note for note in unspoken if note.where in missing]
    return list(findings), notes, Revocation(ocsp_good=everything, until=until)


@lru_cache(maxsize=1024)
def _unspoken(name: str, code: str) -> Finding:
    """Return the note that nothing given says whether the certificate called ``name`` is revoked."""
    want = "a revocation list or an OCSP response"
    return Finding(f"{code}.revocation.missing", f"certificate {name}", want, "none was given")


def _remarks(device: Judged) -> list[Finding]:
    """Return what a policy may want to know although the device is genuine."""
    notes = []
    if "fwid" not in device.fields:
        notes.append(Finding("nvidia.fwid.missing", "FWID", "a firmware identity in the report", "none"))
    have = {verified.rim.source for verified in device.rims}
    for source in device.wanted:
        if source not in have:
            name = "driver_version" if source == "driver" else "vbios_version"
            where = f"RIM of the {source} {device.fields.get(name, '?')}"
            notes.append(Finding("nvidia.rim.missing", where, "a signed RIM", "none was given"))
    for one in device.comparison.mismatches:
        want = " or ".join(value.hex() for value in one.reference.values)
        got = "none" if one.reported is None else one.reported.hex()
        where = f"measurement {one.reference.index} ({one.reference.name})"
        notes.append(Finding("nvidia.measurement.mismatch", where, want, got, f"{one.source} RIM"))
    return notes


def _repeated(judged: Sequence[Judged]) -> list[Finding]:
    seen: set[str] = set()
    notes = []
    for number, device in enumerate(judged):
        if device.key.ueid in seen:
            where = f"{device.key.device_class} {number}"
            notes.append(Finding("nvidia.device.repeated", where, "each device once", device.key.ueid))
        seen.add(device.key.ueid)
    return notes


def check_used(endorsed: Endorsed, judged: Sequence[Judged]) -> None:
    """Refuse a manifest that is for none of the devices: what was meant to be compared was not.

    Raises:
        NotGenuine: naming each such manifest.
    """
    used = {verified.digest for device in judged for verified in device.rims}
    have = sorted({_identity(device) for device in judged})
    findings = [
        Finding(
            "nvidia.rim.other-device",
            f"RIM {verified.rim.product} {verified.rim.version}",
            "; ".join(have),
            f"a {verified.rim.edition} {verified.rim.product}, {verified.rim.source} {verified.rim.version}",
        )
        for verified in endorsed.rims
        if verified.digest not in used
    ]
    if findings:
        raise NotGenuine("a RIM is for none of these devices", findings=findings)


def _identity(device: Judged) -> str:
    versions = [device.fields.get(name) for name in ("driver_version", "vbios_version")]
    return f"{device.key.chip} with {' and '.join(v for v in versions if v)}"


def _at(where: str, finding: Finding) -> Finding:
    return Finding(finding.code, f"{where}: {finding.where}", finding.want, finding.got, finding.note)


def claims(kind: str, judged: Sequence[Judged], notes: tuple[Finding, ...]) -> Claims:
    """Return what genuine devices claim together."""
    chains = [chain for d in judged for chain in (d.key.chain, *(verified.chain for verified in d.rims))]
    untils = [r.until for d in judged for r in (d.revocation, *d.rim_revocations) if r.until is not None]
    return Claims(
        kind=kind,
        values=nvidia_claims.joined([nvidia_claims.device_claims(d) for d in judged], _CLASSES[kind]),
        roots=("nvidia",),
        report_data=judged[0].report.nonce,
        valid_from=max(chain.not_before for chain in chains),
        valid_until=min([*(chain.not_after for chain in chains), *untils]),
        notes=notes,
    )


def each(judged: Sequence[Judged]) -> tuple[Claims, ...]:
    """Return the claims of each genuine device by itself, under the kind of its class.

    Raises:
        NotGenuine: a device is there twice, and would be counted twice.
    """
    repeated = _repeated(judged)
    if repeated:
        raise NotGenuine("a device is listed more than once", findings=repeated)
    kinds = {device_class: kind for kind, device_class in _CLASSES.items()}
    return tuple(claims(kinds[device.key.device_class], [device], ()) for device in judged)


def show(kind: str, data: bytes) -> dict[str, Any]:
    """Return every field of every report as JSON values. Nothing of it is verified."""
    read = nvidia_opaque.gpu_fields if kind == GPU_KIND else nvidia_opaque.switch_fields
    shown = []
    for device in nvidia_forms.parse(data):
        if device.arch is not None and (device.arch.upper() == "LS10") != (kind == SWITCH_KIND):
            raise Malformed("NVIDIA evidence", at="arch", want=f"one of {kind}", got=device.arch)
        report = spdm.parse(device.report)
        fields = read(report.opaque)
        if ("driver_version" in fields) != (kind == GPU_KIND):  # a switch has no driver
            raise Malformed("NVIDIA evidence", at="OpaqueData", want=f"that of {kind}", got=", ".join(fields))
        shown.append(_shown(device, report, fields))
    return {"devices": shown}


def _shown(device: Device, report: Report, fields: dict[str, Any]) -> dict[str, Any]:
    from tallystick.evidence.chain import load_certificates

    certificates = [] if device.chain is None else load_certificates(device.chain, "NVIDIA certificate chain")
    return {
        "arch": device.arch or "not said",
        "certificates": [common_name(certificate) for certificate in certificates],
        "request": {"nonce": report.nonce.hex(), "operation": report.operation, "slot": report.slot},
        "response": {
            "nonce": report.response_nonce.hex(),
            "opaque_data": fields,
            "measurements": {str(index): value.hex() for index, value in report.measurements.items()},
            "signature": report.signature.hex(),
        },
    }

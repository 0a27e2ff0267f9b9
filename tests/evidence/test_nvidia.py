"""NVIDIA's reports: a test maker's devices for what no public sample shows, and the real ones."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import support_nvidia as made
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ReasonFlags, ocsp
from hypothesis import given, settings
from hypothesis import strategies as st
from support_corpus import corpus
from support_nvidia import AT, DRIVER, NONCE, VBIOS, Device

from tallystick.core.errors import Malformed, NotGenuine, TallystickError, Unsupported
from tallystick.evidence import nvidia, nvidia_device, nvidia_forms, rim, roots

GPU, SWITCH = "nvidia-gpu", "nvidia-switch"
DEVICE_ROOT, RIM_ROOT = "NVIDIA-Device-Identity-CA", "NVIDIA-CoRIM-Signing-Root-CA"


@pytest.fixture(scope="module")
def authority():
    return made.Authority(
        "NVIDIA Device Identity CA", ("NVIDIA GH100 Identity", "NVIDIA GH100 Provisioner ICA 1")
    )


@pytest.fixture(scope="module")
def gpu(authority):
    return Device(authority)


@pytest.fixture(scope="module")
def rims():
    return made.RimMaker()


@pytest.fixture(autouse=True)
def believe(monkeypatch, authority, rims):
    """Believe the test makers' roots in place of NVIDIA's."""

    def forget():
        nvidia_device._endorsed.cache_clear()
        rim.verify.cache_clear()

    def use(device_root, rim_root):
        forget()
        mine = {DEVICE_ROOT: device_root, RIM_ROOT: rim_root}
        monkeypatch.setattr(roots, "certificate", lambda name: mine[name])

    use(authority.root, rims.authority.root)
    yield use
    forget()


def verify(data, *endorsements, kind=GPU, nonce=None, at=AT):
    return nvidia.verify(kind, data, endorsements, nonce=nonce, at=at)


def refused(data, *endorsements, **more):
    """Return the codes of the findings."""
    with pytest.raises(NotGenuine) as error:
        verify(data, *endorsements, **more)
    return [finding.code for finding in error.value.findings]


def driver_rim(rims, **fields):
    return rims.rim(**({"version": DRIVER, "active": {n: [made.digest(n)] for n in (8, 22, 36)}} | fields))


def vbios_rim(rims, **fields):
    active = {1: [made.digest(1)], 2: [bytes(48), made.digest(2)]}
    return rims.rim(**({"version": VBIOS, "active": active} | fields))


def test_a_gpu_whose_measurements_are_all_as_signed(gpu, rims):
    claims = verify(made.dump(gpu.evidence()), driver_rim(rims), vbios_rim(rims), nonce=NONCE)
    values = claims.values
    assert claims.roots == ("nvidia",)
    assert claims.report_data == NONCE
    assert {name: values[name] for name in ("measres", "secboot", "dbgstat", "device_count")} == {
        "measres": "success",
        "secboot": True,
        "dbgstat": "disabled",
        "device_count": 1,
    }
    assert (values["measurements_compared"], values["measurements_matched"]) == (4, 4)  # 36: NVDEC0 is off
    assert (values["arch"], values["chip"], values["hwmodel"]) == ("Hopper", "GH100", "GH100 A01 GSP BROM")
    assert values["ueid"] == str(gpu.leaf.serial_number)
    assert values["pdi"] == "1122334455667788"
    assert values["fwid"] == (b"f" * 48).hex()
    assert values["measurements"]["64"] == made.digest(64).hex()
    assert values["config"]["driver_version"] == values["x-nvidia-gpu-driver-version"] == DRIVER
    assert values["x-nvidia-gpu-vbios-version"] == VBIOS
    assert values["x-nvidia-gpu-mode"] == "spt"
    assert values["x-nvidia-gpu-switch-pdis"] == ["0706050403020100"]
    assert values["x-nvidia-gpu-attestation-report-nonce-match"] is True
    assert values["x-nvidia-gpu-attestation-report-cert-chain-fwid-match"] is True
    assert values["oemid"] == "5703"
    for name in ("driver", "vbios"):
        prefix = f"x-nvidia-gpu-{name}-rim"
        for part in ("fetched", "signature-verified", "version-match", "measurements-available"):
            assert values[f"{prefix}-{part}"] is True
        assert values[f"{prefix}-cert-chain"]["x-nvidia-cert-expiration-date"] == "2026-06-11T00:00:00Z"
    assert claims.valid_until == AT + timedelta(days=10)
    assert {note.code for note in claims.notes} == {
        "nvidia.certificate.revocation.missing",
        "nvidia.rim.revocation.missing",
    }


def test_without_manifests_nothing_was_compared_and_nothing_is_said_of_debug(gpu):
    claims = verify(made.dump(gpu.evidence()))
    assert claims.values["measres"] == "not-run"
    assert claims.values["x-nvidia-gpu-driver-rim-fetched"] is False
    absent = {"secboot", "dbgstat", "oemid", "x-nvidia-gpu-attestation-report-nonce-match"}
    assert not absent & set(claims.values)
    assert [n.code for n in claims.notes if "missing" in n.code and "revocation" not in n.code] == [
        "nvidia.rim.missing"
    ] * 2


def test_half_of_the_manifests_is_no_success(gpu, rims):
    values = verify(made.dump(gpu.evidence()), vbios_rim(rims)).values
    assert values["measres"] == "not-run"
    assert values["measurements_matched"] == 2


def test_another_measurement_is_genuine_and_says_so(gpu, rims):
    measured = {number: made.digest(number) for number in range(1, 65)} | {22: b"!" * 48}
    claims = verify(made.dump(gpu.evidence(measurements=measured)), driver_rim(rims), vbios_rim(rims))
    assert claims.values["measres"] == "fail"
    assert not {"secboot", "dbgstat"} & set(claims.values)
    (record,) = claims.values["x-nvidia-mismatch-measurement-records"]
    assert record == {
        "index": 21,
        "goldenSize": 48,
        "goldenValue": made.digest(22).hex(),
        "runtimeSize": 48,
        "runtimeValue": (b"!" * 48).hex(),
        "measurementSource": "Driver",
    }
    assert [n.where for n in claims.notes if n.code == "nvidia.measurement.mismatch"] == [
        "gpu 0: measurement 22 (Measurement_21)"
    ]


def test_a_measurement_that_is_not_there_does_not_match(gpu, rims):
    measured = {number: made.digest(number) for number in range(2, 65)}
    values = verify(made.dump(gpu.evidence(measurements=measured)), vbios_rim(rims)).values
    assert values["measres"] == "fail"
    assert values["x-nvidia-mismatch-measurement-records"][0]["runtimeValue"] == "NA"


@pytest.mark.parametrize(("nvdec0", "result"), [(made.ENABLED, "fail"), (made.DISABLED, "success")])
def test_index_36_counts_when_nvdec0_is_on(gpu, rims, nvdec0, result):
    measured = {number: made.digest(number) for number in range(1, 65)} | {36: b"!" * 48}
    evidence = made.dump(gpu.evidence(measurements=measured, nvdec0=nvdec0))
    assert verify(evidence, driver_rim(rims), vbios_rim(rims)).values["measres"] == result


@pytest.mark.parametrize(("mode", "said"), [(0, "spt"), (1, "mpt"), (2, "ppcie"), (9, "unknown")])
def test_the_mode_is_a_claim(gpu, mode, said):
    """Protected PCIe does not encrypt the GPU's memory: genuine, and for a policy to refuse."""
    ppcie = made.ENABLED if said == "ppcie" else made.DISABLED
    values = verify(made.dump(gpu.evidence(mode=mode, ppcie=ppcie))).values
    assert values["x-nvidia-gpu-mode"] == said
    assert values["config"]["protected_pcie_status"] is (said == "ppcie")


def test_blackwell_names_its_firmware_in_another_extension(authority, rims):
    device = Device(authority, "GB100")
    values = verify(made.dump(device.evidence("BLACKWELL")), vbios_rim(rims, product="GB100")).values
    assert (values["arch"], values["chip"], values["fwid"]) == ("Blackwell", "GB100", (b"f" * 48).hex())


def test_a_switch(authority, rims):
    device = Device(authority, "LS_10", pdi="0001020304050607")
    evidence = made.dump(device.evidence("LS10", fields=made.switch_opaque()))
    manifest = vbios_rim(rims, version="96.10.55.00.01", product="LS10", edition="SWITCH")
    claims = verify(evidence, manifest, kind=SWITCH)
    assert claims.values["measres"] == "success"
    assert claims.values["x-nvidia-device-type"] == "nvswitch"
    assert claims.values["x-nvidia-switch-bios-version"] == "96.10.55.00.01"
    assert claims.values["x-nvidia-switch-pdi"] == "0001020304050607"
    assert claims.values["x-nvidia-switch-bios-rim-version-match"] is True
    assert claims.values["pdi"] == "0001020304050607"
    assert "nvidia.fwid.missing" in [note.code for note in claims.notes]
    assert "x-nvidia-switch-attestation-report-cert-chain-fwid-match" not in claims.values


def test_every_flipped_byte_of_a_report_is_refused(gpu):
    report = gpu.report(measurements={1: b"m" * 48, 2: b"n" * 48})
    chain = gpu.chain()
    verify(report, chain)
    for at in range(len(report)):
        damaged = bytearray(report)
        damaged[at] ^= 0x10
        with pytest.raises((NotGenuine, Malformed, Unsupported)):
            verify(bytes(damaged), chain)


def flip_manifest(manifest, positions):
    """Return how many flipped bytes changed nothing that is signed; the others must be refused.

    Canonical XML has one spelling for several texts: a byte that only changes the spelling changes no value.
    """
    want = rim.verify(manifest).rim
    same = 0
    for at in positions:
        damaged = bytearray(manifest)
        damaged[at] ^= 0x04
        try:
            found = rim.verify(bytes(damaged)).rim
        except TallystickError:
            continue
        assert found == want, f"byte {at}"
        same += 1
    return same


def test_flipped_bytes_of_a_manifest_are_refused_or_change_nothing_signed(rims):
    manifest = vbios_rim(rims)
    assert flip_manifest(manifest, range(0, len(manifest), 7)) <= 2


@pytest.mark.soak
def test_every_flipped_byte_of_a_manifest_is_refused_or_changes_nothing_signed(rims):
    manifest = vbios_rim(rims)
    assert flip_manifest(manifest, range(len(manifest))) <= 12


def test_two_certificates_that_the_chain_does_not_need_are_refused(gpu, rims):
    other = made.RimMaker()
    with pytest.raises(Malformed, match="X509Data: want the signer's chain, got further certificates"):
        rim.verify(rims.rim(certificates=[*rims.chain(), other.signer]))


@pytest.mark.parametrize(
    ("fields", "codes"),
    [
        ({"nonce": bytes(32)}, ["nvidia.nonce.mismatch"]),
        ({"nonce": NONCE[:31]}, ["nvidia.nonce.mismatch"]),
    ],
)
def test_another_nonce(gpu, fields, codes):
    assert refused(made.dump(gpu.evidence()), nonce=fields["nonce"]) == codes


def test_what_the_sender_says_beside_the_report_must_agree(gpu):
    entry = gpu.evidence()
    assert refused(made.dump(entry | {"nonce": "00" * 32})) == ["nvidia.nonce.mismatch"]
    assert refused(made.dump(entry | {"arch": "BLACKWELL"})) == ["nvidia.arch.mismatch"]
    assert verify(made.dump(entry | {"arch": "hopper"})).values["arch"] == "Hopper"


def test_another_firmware_identity(gpu):
    assert refused(made.dump(gpu.evidence(fwid=b"!" * 48))) == ["nvidia.fwid.mismatch"]


def test_a_report_without_a_firmware_identity_is_noted(gpu):
    claims = verify(made.dump(gpu.evidence(fwid=None)))
    assert "nvidia.fwid.missing" in [note.code for note in claims.notes]
    assert "x-nvidia-gpu-attestation-report-cert-chain-fwid-match" not in claims.values


def test_another_devices_signature(gpu, authority):
    other = Device(authority)
    assert refused(gpu.report(), other.chain()) == ["nvidia.signature"]
    assert verify(gpu.report(), other.chain(), gpu.chain()).values["ueid"] == str(gpu.leaf.serial_number)


def test_numbers_that_are_no_signature(gpu):
    for signature in (bytes(96), b"\xff" * 96):
        assert refused(gpu.report()[:-96] + signature, gpu.chain()) == ["nvidia.signature"]


@pytest.mark.parametrize(
    ("begins", "ends", "code"),
    [(-9, -1, "nvidia.certificate.expired"), (1, 9, "nvidia.certificate.not-yet-valid")],
)
def test_a_device_certificate_is_judged_at_the_given_time(authority, begins, ends, code):
    device = Device(authority, begins=begins, ends=ends)
    assert refused(made.dump(device.evidence())) == [code]
    verify(made.dump(device.evidence()), at=AT + timedelta(days=(begins + ends) // 2))


def test_a_cached_chain_is_not_believed_past_its_window(gpu):
    evidence = made.dump(gpu.evidence())
    verify(evidence)
    assert set(refused(evidence, at=AT + timedelta(days=401))) == {"nvidia.certificate.expired"}


def test_another_root(gpu, rims, believe):
    other = made.Authority("NVIDIA Device Identity CA", ())
    believe(other.root, rims.authority.root)
    assert refused(made.dump(gpu.evidence())) == ["nvidia.certificate.chain"]


@pytest.mark.parametrize("left_out", [0, 1, 2, 3], ids=["leaf", "boot ROM", "provisioner", "identity"])
def test_a_chain_with_a_hole(gpu, left_out):
    certificates = [gpu.leaf, gpu.rom, *gpu.authority.below(), gpu.authority.root]
    del certificates[left_out]
    with pytest.raises((NotGenuine, Unsupported)):
        verify(gpu.report(), made.pem(*certificates))


def test_a_chain_without_its_root_still_ends_in_ours(gpu):
    assert (
        verify(gpu.report(), made.pem(gpu.leaf, gpu.rom, *gpu.authority.below())).values["arch"] == "Hopper"
    )


def test_a_device_that_is_not_known(authority):
    device = Device(authority, "GR100")
    with pytest.raises(Unsupported, match="device certificate: want GH1xx"):
        verify(made.dump(device.evidence()))


@pytest.mark.parametrize("fields", [{"leaf_ca": True}, {"usage": False}, {"leaf_ca": True, "usage": "both"}])
def test_a_leaf_that_may_not_sign_reports(authority, fields):
    device = Device(authority, **fields)
    assert refused(made.dump(device.evidence())) == ["nvidia.certificate.profile"]


def test_a_leaf_without_a_firmware_identity(authority):
    device = Device(authority, extension=("1.2.3.4", b"\x05\0"))
    assert refused(made.dump(device.evidence())) == ["nvidia.certificate.profile"]


def leaf_below(issuer, issuer_key, key, *, extension=True):
    """Return a certificate for ``key`` that a device could have, issued by somebody else."""
    extensions = [made.composite_device_id(made.new_key().public_key(), b"f" * 48)] if extension else []
    subject = made.name("GH100 A01 GSP FMC LF")
    return made.issue(subject, key.public_key(), issuer.subject, issuer_key, ca=False, extensions=extensions)


def test_a_leaf_on_another_curve(authority):
    leaf = leaf_below(*authority.issuer, ec.generate_private_key(ec.SECP256R1()))
    chain = made.pem(leaf, *authority.below(), authority.root)
    with pytest.raises(NotGenuine) as error:
        verify(made.unsigned() + bytes(96), chain)
    assert [(f.code, f.where, f.want) for f in error.value.findings] == [
        ("nvidia.certificate.profile", "gpu 0: leaf's key", "P-384")
    ]


def test_a_leaf_that_the_root_itself_issued_is_no_devices(authority):
    key = made.new_key()
    leaf = leaf_below(authority.root, authority.keys[0], key)
    assert refused(made.report(key), made.pem(leaf, authority.root)) == ["nvidia.certificate.chain"]


def test_devices_of_the_other_kind(gpu, authority):
    with pytest.raises(Malformed, match="want a switch, got a gpu"):
        verify(made.dump(gpu.evidence()), kind=SWITCH)
    switch = Device(authority, "LS_10").evidence("LS10", fields=made.switch_opaque())
    with pytest.raises(Malformed, match="want a gpu, got a switch"):
        verify(made.dump(gpu.evidence(), switch))


def test_several_devices_claim_together_what_all_of_them_do(gpu, authority, rims):
    other = Device(authority, pdi="ffffffffffffffff")
    manifests = (driver_rim(rims), vbios_rim(rims))
    claims = verify(made.dump(gpu.evidence(), other.evidence()), *manifests)
    assert claims.values["device_count"] == 2
    assert claims.values["measres"] == "success"
    assert claims.values["x-nvidia-gpu-driver-version"] == DRIVER
    assert "ueid" not in claims.values
    assert [claims.values[name]["ueid"] for name in ("gpu0", "gpu1")] == [
        str(device.leaf.serial_number) for device in (gpu, other)
    ]


def test_one_bad_device_is_enough(gpu, authority, rims):
    other = Device(authority)
    measured = {number: made.digest(number) for number in range(1, 65)} | {1: b"!" * 48}
    mixed = made.dump(gpu.evidence(), other.evidence(measurements=measured))
    claims = verify(mixed, driver_rim(rims), vbios_rim(rims))
    assert claims.values["measres"] == "fail"
    assert "secboot" not in claims.values
    assert [claims.values[name]["measres"] for name in ("gpu0", "gpu1")] == ["success", "fail"]
    entry = other.evidence()
    entry["certificate"] = gpu.evidence()["certificate"]
    with pytest.raises(NotGenuine) as error:
        verify(made.dump(gpu.evidence(), entry))
    assert [f.where for f in error.value.findings] == ["gpu 1: Signature"]


def test_devices_with_different_drivers_need_their_own_manifests(gpu, authority, rims):
    other = Device(authority)
    mixed = made.dump(gpu.evidence(), other.evidence(driver="580.95.05"))
    one, two = driver_rim(rims), driver_rim(rims, version="580.95.05")
    claims = verify(mixed, one, two, vbios_rim(rims))
    assert claims.values["measres"] == "success"
    assert (
        "x-nvidia-gpu-driver-version" not in claims.values
    )  # they differ, and no policy may match one of them
    assert verify(mixed, one, vbios_rim(rims)).values.get("measres") is None  # success and not-run


def test_devices_with_different_nonces(gpu, authority):
    other = Device(authority)
    assert refused(made.dump(gpu.evidence(), other.evidence(nonce=bytes(32)))) == ["nvidia.nonce.mixed"]


def test_a_device_that_is_listed_twice_is_one(gpu):
    claims = verify(made.dump(gpu.evidence(), gpu.evidence()))
    assert claims.values["device_count"] == 1
    assert "nvidia.device.repeated" in [note.code for note in claims.notes]


@pytest.mark.parametrize(
    "fields",
    [
        {"version": "590.13"},
        {"version": "96.00.A5.00.02"},
        {"product": "GB100"},
        {"edition": "SWITCH"},
    ],
)
def test_a_manifest_for_another_device_is_refused(gpu, rims, fields):
    assert refused(made.dump(gpu.evidence()), driver_rim(rims, **fields)) == ["nvidia.rim.other-device"]


def test_two_manifests_for_the_same_version_are_refused(gpu, rims):
    one, two = vbios_rim(rims), vbios_rim(rims, inactive=())
    assert refused(made.dump(gpu.evidence()), one, two) == ["nvidia.rim.ambiguous"]
    assert verify(made.dump(gpu.evidence()), one, one).values["measurements_compared"] == 2


def test_an_index_that_both_manifests_claim_is_refused(gpu, rims):
    driver = driver_rim(rims, active={1: [made.digest(1)]})
    assert refused(made.dump(gpu.evidence()), driver, vbios_rim(rims)) == ["nvidia.rim.conflict"]


def test_an_expired_manifest_is_refused_with_its_date(gpu, believe, authority):
    maker = made.RimMaker(begins=-20, ends=-10)
    believe(authority.root, maker.authority.root)
    with pytest.raises(NotGenuine, match=f"RIM for {DRIVER} is not valid") as error:
        verify(made.dump(gpu.evidence()), driver_rim(maker))
    (finding,) = error.value.findings
    assert finding.code == "nvidia.rim.expired"
    assert "2026-05-22" in finding.got
    assert verify(made.dump(gpu.evidence()), driver_rim(maker), at=AT - timedelta(days=15))


def test_a_broken_manifest_that_is_also_expired_says_both(gpu, believe, authority):
    maker = made.RimMaker(begins=-20, ends=-10)
    believe(authority.root, maker.authority.root)
    broken = driver_rim(maker).replace(made.digest(8).hex().encode(), made.digest(9).hex().encode())
    assert refused(made.dump(gpu.evidence()), broken) == ["nvidia.rim.signature", "nvidia.rim.expired"]


def test_a_manifest_of_somebody_else(gpu):
    other = made.RimMaker()
    assert refused(made.dump(gpu.evidence()), driver_rim(other)) == ["nvidia.rim.chain"]


def test_a_signer_that_may_not_sign(gpu, believe, authority):
    maker = made.RimMaker(usage=False)
    believe(authority.root, maker.authority.root)
    assert refused(made.dump(gpu.evidence()), driver_rim(maker)) == ["nvidia.rim.profile"]


def test_a_signer_on_another_curve(gpu, believe, authority):
    maker = made.RimMaker(curve=ec.SECP256R1)
    believe(authority.root, maker.authority.root)
    assert refused(made.dump(gpu.evidence()), driver_rim(maker)) == ["nvidia.rim.profile"]


def test_exclusive_canonicalization_is_read_too(rims):
    assert rim.verify(driver_rim(rims, c14n="http://www.w3.org/2001/10/xml-exc-c14n#")).rim.version == DRIVER


SIGNATURE_CASES = [
    (b"<ds:SignedInfo>", b"<ds:SignedInfo><!-- -->", "SignedInfo: want CanonicalizationMethod"),
    (b'URI=""', b'URI="#x"', "Reference: want the whole document"),
    (b"<ds:KeyInfo>", b"<ds:KeyInfo><ds:KeyValue/>", "KeyInfo: want X509Data"),
    (b"</ds:KeyInfo>", b"</ds:KeyInfo><ds:Object/>", "Signature: want SignedInfo, SignatureValue, KeyInfo"),
    (b"xmldsig#enveloped-signature", b"xmldsig#base64", "Transform: want"),
    (b"xmldsig-more#ecdsa-sha384", b"xmldsig-more#ecdsa-sha256", "SignatureMethod: want"),
    (b"xml-c14n11", b"xml-c14n11#WithComments", "CanonicalizationMethod: want"),
    (b"<ds:X509Data>", b"<ds:X509Data><ds:X509SubjectName/>", "X509Data: want X509Certificate"),
    (b"</ds:SignatureValue>", b"!</ds:SignatureValue>", "SignatureValue: want base64"),
    (b"</ds:SignatureValue>", b"<x/></ds:SignatureValue>", "SignatureValue: want text only"),
    (b"<ds:X509Data>", b"<ds:X509Data/><ds:X509Data>", "KeyInfo: want X509Data"),
]


@pytest.mark.parametrize(("old", "new", "message"), SIGNATURE_CASES)
def test_signatures_of_another_form(rims, old, new, message):
    manifest = driver_rim(rims)
    assert old in manifest
    with pytest.raises((Malformed, Unsupported), match=message):
        rim.verify(manifest.replace(old, new, 1))


@pytest.mark.parametrize("count", [0, 9])
def test_a_chain_of_no_certificates_or_too_many(rims, count):
    manifest = driver_rim(rims)
    begin, end = manifest.index(b"<ds:X509Certificate>"), manifest.index(b"</ds:X509Data>")
    one = manifest[begin : manifest.index(b"</ds:X509Certificate>") + len(b"</ds:X509Certificate>")]
    with pytest.raises(Malformed, match=f"X509Data: want 1 to 8 certificates, got {count}"):
        rim.verify(manifest[:begin] + one * count + manifest[end:])


def test_a_signed_manifest_inside_an_unsigned_one_is_not_read(rims):
    """Signature wrapping: what is signed must be the whole of what is read."""
    manifest = driver_rim(rims)
    unsigned = made.rim_xml(active={8: [b"!" * 48]}).replace("</SoftwareIdentity>", "")
    with pytest.raises(Malformed, match="Signature: want one, below the root"):
        rim.verify(unsigned.encode() + manifest + b"</SoftwareIdentity>")
    signature = manifest[manifest.index(b"<ds:Signature") : manifest.index(b"</SoftwareIdentity>")]
    moved = (
        made.rim_xml(active={8: [b"!" * 48]})
        .encode()
        .replace(b"</SoftwareIdentity>", signature + b"</SoftwareIdentity>")
    )
    with pytest.raises(NotGenuine) as error:
        rim.verify(moved)
    assert [f.code for f in error.value.findings] == ["nvidia.rim.signature"]
    with pytest.raises(Malformed, match="want one, below the root, got 2"):
        rim.verify(manifest.replace(signature, signature * 2))


def test_no_signature_at_all():
    with pytest.raises(Malformed, match="Signature: want one"):
        rim.verify(made.rim_xml().encode())


def test_the_rim_services_answer(gpu, rims):
    answer = {
        "id": "NV_GPU_DRIVER_GH100_590.12",
        "rim": base64.b64encode(driver_rim(rims)).decode(),
        "sha256": "",
    }
    values = verify(made.dump(gpu.evidence()), json.dumps(answer).encode()).values
    assert values["x-nvidia-gpu-driver-rim-version-match"] is True
    for wrong in ({"rim": 1}, {"rim": "!"}):
        with pytest.raises(Malformed, match="RIM service's answer"):
            verify(made.dump(gpu.evidence()), json.dumps(wrong).encode())


class Revocations:
    """Lists and responses about a device's chain."""

    def __init__(self, device):
        authority = device.authority
        self.chain = [device.leaf, device.rom, *authority.below(), authority.root]
        self.keys = [None, None, *authority.keys[::-1]]

    def good(self, **fields):
        """Responses about everything below the root but the leaf, each signed by its issuer."""
        return [
            made.make_ocsp(self.chain[n], self.chain[n + 1], self.keys[n + 1], **fields) for n in (1, 2, 3)
        ]


def test_ocsp_responses_that_were_given_are_checked(gpu):
    about = Revocations(gpu)
    claims = verify(made.dump(gpu.evidence()), *about.good())
    chain = claims.values["x-nvidia-gpu-attestation-report-cert-chain"]
    assert chain["x-nvidia-cert-ocsp-status"] == "good"
    assert claims.valid_until == AT + timedelta(days=1)
    assert "nvidia.certificate.revocation.missing" not in [note.code for note in claims.notes]
    two = verify(made.dump(gpu.evidence()), *about.good()[:2])
    assert "x-nvidia-cert-ocsp-status" not in two.values["x-nvidia-gpu-attestation-report-cert-chain"]
    assert [n.where for n in two.notes if "revocation" in n.code] == [
        "gpu 0: certificate NVIDIA GH100 Identity"
    ]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (
            {"status": ocsp.OCSPCertStatus.REVOKED, "reason": ReasonFlags.certificate_hold},
            "nvidia.certificate.revoked",
        ),
        ({"status": ocsp.OCSPCertStatus.UNKNOWN}, "nvidia.certificate.unknown"),
        ({"begins": -3, "ends": -1}, "nvidia.certificate.ocsp.expired"),
        ({"begins": 1, "ends": 3}, "nvidia.certificate.ocsp.expired"),
        ({"ends": None}, "nvidia.certificate.ocsp.expired"),
    ],
)
def test_responses_that_refuse(gpu, fields, code):
    about = Revocations(gpu)
    response = made.make_ocsp(about.chain[1], about.chain[2], about.keys[2], **fields)
    assert refused(made.dump(gpu.evidence()), response) == [code]


def test_a_held_certificate_says_why(gpu):
    about = Revocations(gpu)
    held = {"status": ocsp.OCSPCertStatus.REVOKED, "reason": ReasonFlags.certificate_hold}
    with pytest.raises(NotGenuine, match="not genuine") as error:
        verify(
            made.dump(gpu.evidence()), made.make_ocsp(about.chain[1], about.chain[2], about.keys[2], **held)
        )
    assert error.value.findings[0].got == "revoked (certificateHold)"


def test_a_responder_that_the_issuer_certified(gpu):
    about = Revocations(gpu)
    issuer, key = about.chain[2], about.keys[2]
    for certified, codes in ((True, []), (False, ["nvidia.certificate.ocsp.signature"])):
        responder, responder_key = made.make_responder(issuer, key, ocsp_signing=certified)
        response = made.make_ocsp(
            about.chain[1], issuer, responder_key, responder=responder, embed=[responder]
        )
        if codes:
            assert refused(made.dump(gpu.evidence()), response) == codes
        else:
            verify(made.dump(gpu.evidence()), response)


def test_a_responder_with_an_rsa_key(gpu):
    about = Revocations(gpu)
    issuer = about.chain[2]
    responder, key = made.make_responder(issuer, about.keys[2], key=rsa.generate_private_key(65537, 2048))
    signed = made.make_ocsp(about.chain[1], issuer, key, responder=responder, embed=[responder])
    verify(made.dump(gpu.evidence()), signed)
    damaged = signed.replace(b"\x18\x0f2026", b"\x18\x0f2025", 1)
    assert damaged != signed
    assert refused(made.dump(gpu.evidence()), damaged) == ["nvidia.certificate.ocsp.signature"]


def test_responses_that_nobody_entitled_signed(gpu):
    about = Revocations(gpu)
    namesake_key = made.new_key()
    subject = about.chain[2].subject
    namesake = made.issue(subject, namesake_key.public_key(), subject, namesake_key, ca=True)
    by_name = {"responder": namesake, "encoding": ocsp.OCSPResponderEncoding.NAME}
    forged = made.make_ocsp(about.chain[1], about.chain[2], namesake_key, **by_name)
    assert refused(made.dump(gpu.evidence()), forged) == ["nvidia.certificate.ocsp.signature"]
    issuer, key = about.chain[2], about.keys[2]
    responder, responder_key = made.make_responder(issuer, key, begins=-5, ends=-1)
    late = made.make_ocsp(about.chain[1], issuer, responder_key, responder=responder, embed=[responder])
    assert refused(made.dump(gpu.evidence()), late) == ["nvidia.certificate.ocsp.signature"]


def test_a_responder_that_names_the_issuer_without_its_signature(gpu):
    about = Revocations(gpu)
    issuer = about.chain[2]
    responder, key = made.make_responder(issuer, made.new_key())
    forged = made.make_ocsp(about.chain[1], issuer, key, responder=responder, embed=[responder])
    assert refused(made.dump(gpu.evidence()), forged) == ["nvidia.certificate.ocsp.signature"]


def test_a_weak_hash_signs_nothing(gpu):
    about = Revocations(gpu)
    weak = made.make_ocsp(about.chain[1], about.chain[2], about.keys[2], hashed=hashes.SHA224())
    assert refused(made.dump(gpu.evidence()), weak) == ["nvidia.certificate.ocsp.signature"]


def test_a_response_about_somebody_else_is_left_aside(gpu, authority):
    other = Revocations(Device(authority))
    response = made.make_ocsp(
        other.chain[1], other.chain[2], other.keys[2], status=ocsp.OCSPCertStatus.REVOKED
    )
    verify(made.dump(gpu.evidence()), response)


def test_every_flipped_byte_of_a_response_is_refused(gpu):
    about = Revocations(gpu)
    response = made.make_ocsp(about.chain[1], about.chain[2], about.keys[2])
    evidence = made.dump(gpu.evidence())
    for at in range(len(response)):
        damaged = bytearray(response)
        damaged[at] ^= 0x20
        with suppress(NotGenuine, Malformed):
            chain = verify(evidence, bytes(damaged)).values["x-nvidia-gpu-attestation-report-cert-chain"]
            assert "x-nvidia-cert-ocsp-status" not in chain  # no longer about this chain


def test_revocation_lists(gpu):
    about = Revocations(gpu)
    issuer, key = about.chain[2], about.keys[2]
    assert refused(made.dump(gpu.evidence()), made.make_crl(issuer, key, [gpu.rom])) == [
        "nvidia.certificate.revoked"
    ]
    notes = verify(made.dump(gpu.evidence()), made.make_crl(issuer, key)).notes
    assert "gpu 0: certificate GH100 A01 GSP BROM" not in [n.where for n in notes]


def test_lists_and_responses_about_a_manifests_signer(gpu, rims):
    issuer, key = rims.authority.issuer
    manifest = driver_rim(rims)
    assert refused(made.dump(gpu.evidence()), manifest, made.make_crl(issuer, key, [rims.signer])) == [
        "nvidia.rim.revoked"
    ]
    revoked = made.make_ocsp(rims.signer, issuer, key, status=ocsp.OCSPCertStatus.REVOKED)
    assert refused(made.dump(gpu.evidence()), manifest, revoked) == ["nvidia.rim.revoked"]


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x30\x03\x02\x01\x00", b"-----BEGIN X509 CRL-----\n"])
def test_an_endorsement_that_is_nothing_of_this(gpu, junk):
    with pytest.raises(Malformed, match="NVIDIA endorsement: file: want a RIM"):
        verify(made.dump(gpu.evidence()), junk)


def test_an_ocsp_error_is_no_response(gpu):
    answer = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
    with pytest.raises(Malformed, match="a successful OCSP response"):
        verify(made.dump(gpu.evidence()), answer.public_bytes(Encoding.DER))


def test_the_forms_of_evidence(gpu):
    entry, report, chain = gpu.evidence(), gpu.report(), gpu.chain()
    hexed = entry | {"evidence": report.hex(), "uuid": "GPU-1"}
    del hexed["nonce"]
    for data in (
        json.dumps(entry),
        json.dumps({"device_evidence_list": [hexed]}),
        json.dumps({"nonce": NONCE.hex(), "arch": "HOPPER", "evidence_list": [entry]}),
    ):
        values = verify(data.encode()).values
        assert values["eat_nonce"] == NONCE.hex()
        assert "uuid" not in values
    for data in (report, report.hex().encode() + b"\n", base64.b64encode(report)):
        assert verify(data, chain).values["eat_nonce"] == NONCE.hex()


def test_a_report_without_its_chain(gpu):
    assert refused(gpu.report()) == ["nvidia.certificate.missing"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "SPDM report: request SPDMVersion"),
        (b"[]", "devices: want 1 to 64, got 0"),
        (b"[1]", "device 0: want an object"),
        (b'{"device_evidence_list": 1}', "devices: want 1 to 64, got int"),
        (b'[{"evidence": 1}]', "device 0 evidence: want a text"),
        (b'[{"evidence": ""}]', "device 0 certificate: want base64 text"),
        (b'[{"certificate": "!", "evidence": ""}]', "device 0 certificate: want base64"),
        (b'[{"certificate": "", "evidence": "", "nonce": "00"}]', "device 0 nonce: want 32 bytes in hex"),
        (b'[{"certificate": "", "evidence": "AA="}]', "device 0 evidence: want base64"),
        (b'[{"certificate": "", "evidence": ""}]', "SPDM report"),
        (b"\xff\xfe", "start: want JSON, hex or an SPDM 1.1 report"),
        (b"00" * (1 << 18), "size: want at most"),
        (json.dumps([{}] * 65).encode(), "devices: want 1 to 64, got 65"),
    ],
)
def test_evidence_of_no_form(data, message):
    with pytest.raises(Malformed, match=message):
        verify(data)


def test_a_chain_of_any_size_is_not_read(gpu):
    with pytest.raises(Malformed, match="certificate chain: size: want at most"):
        verify(gpu.report(), gpu.chain() * 20)
    entry = gpu.evidence() | {"certificate": base64.b64encode(gpu.chain() * 20).decode()}
    with pytest.raises(Malformed, match="device 0 certificate: want at most"):
        verify(made.dump(entry))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_nearly_evidence_is_refused_by_name(data):
    whole = json.dumps([{"arch": "HOPPER", "nonce": "00" * 32, "evidence": "EeAB", "certificate": "AAAA"}])
    at = data.draw(st.integers(0, len(whole)))
    text = whole[:at] + data.draw(st.text(max_size=8)) + whole[at + data.draw(st.integers(0, 8)) :]
    with suppress(Malformed, Unsupported):
        nvidia_forms.parse(text.encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=200))
def test_any_endorsement_is_sorted_or_refused_by_name(data):
    with suppress(Malformed, Unsupported, NotGenuine):
        nvidia.sort([data], AT)


def test_show_prints_what_is_there(gpu, authority):
    (shown,) = nvidia.show(GPU, made.dump(gpu.evidence()))["devices"]
    assert shown["certificates"][0] == "GH100 A01 GSP FMC LF"
    assert shown["request"]["nonce"] == NONCE.hex()
    assert shown["response"]["opaque_data"]["driver_version"] == DRIVER
    assert nvidia.show(GPU, gpu.report())["devices"][0]["arch"] == "not said"
    switch = Device(authority, "LS_10")
    assert nvidia.show(SWITCH, switch.report(fields=made.switch_opaque()))
    for kind, data in ((SWITCH, made.dump(gpu.evidence())), (SWITCH, gpu.report())):
        with pytest.raises(Malformed):
            nvidia.show(kind, data)
    with pytest.raises(Malformed, match="OpaqueData"):
        nvidia.show(GPU, switch.report(fields=made.switch_opaque()))


# --- the real ones ---------------------------------------------------------------------------------------------------

FOLDER = "evidence/nvidia"
NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def real(monkeypatch):
    """NVIDIA's own roots again."""
    monkeypatch.undo()
    nvidia_device._endorsed.cache_clear()
    rim.verify.cache_clear()


def load(path: str) -> bytes:
    return Path(corpus(f"{FOLDER}/{path}")).read_bytes()


@pytest.mark.corpus
@pytest.mark.usefixtures("real")
@pytest.mark.parametrize(
    ("path", "kind", "count", "driver"),
    [
        ("evidence/evidence_hopper_590_12.json", GPU, 1, "590.12"),
        ("evidence/hopper_evidence.json", GPU, 1, "590.12"),
        ("evidence/multi_gpu_hopper.json", GPU, 4, "590.12"),
        ("evidence/switch_evidence_ls10.json", SWITCH, 1, None),
    ],
)
def test_real_evidence(path, kind, count, driver):
    data = load(path)
    nonce = bytes.fromhex(json.loads(data)[0]["nonce"])
    claims = verify(data, kind=kind, nonce=nonce, at=NOW)
    assert claims.values["device_count"] == count
    assert claims.values.get("x-nvidia-gpu-driver-version") == driver
    assert refused(data, kind=kind, nonce=bytes(32), at=NOW) == ["nvidia.nonce.mismatch"] * count
    assert nvidia.show(kind, data)["devices"]


@pytest.mark.corpus
@pytest.mark.usefixtures("real")
def test_a_real_switch_matches_its_manifest_31_times():
    report, chain = load("reports/switchAttestationReport.txt"), load("reports/switchCertChain.txt")
    manifest = load("rims/switchVBIOSRim_NV_SWITCH_BIOS_5612_0002_890_9610550001.xml")
    values = verify(report, chain, manifest, kind=SWITCH, at=NOW).values
    assert (values["measres"], values["measurements_matched"]) == ("success", 31)
    assert values["hwmodel"] == "LS_10 A01 FSP BROM"
    assert values["ueid"] == "694931143880983876767046803400974855445978836716"
    assert values["pdi"] == values["config"]["device_pdi"]
    broken = load("rims/NV_SWITCH_BIOS_5612_0002_890_9610550001_invalid_signature.xml")
    assert refused(report, chain, broken, kind=SWITCH, at=NOW) == [
        "nvidia.rim.signature",
        "nvidia.rim.expired",
    ]
    late = datetime(2028, 6, 1, tzinfo=UTC)
    assert set(refused(report, chain, manifest, kind=SWITCH, at=late)) == {"nvidia.rim.expired"}


@pytest.mark.corpus
@pytest.mark.usefixtures("real")
def test_a_real_gpu_matches_its_vbios_manifest_12_times_and_no_other():
    report, chain = load("reports/hopperAttestationReport.txt"), load("reports/hopperCertChain.txt")
    at = datetime(2024, 6, 1, tzinfo=UTC)
    values = verify(report, chain, load("rims/1010_0200_882_96005E0001_PROD.swidtag"), at=at).values
    assert (values["measurements_compared"], values["measurements_matched"]) == (12, 12)
    for other in ("1010_0200_882_96005E0003_PROD.swidtag", "Driver_RIM_test_no_gpu.swidtag"):
        assert refused(report, chain, load(f"rims/{other}"), at=at) == ["nvidia.rim.other-device"]
    assert set(refused(report, chain, load("rims/1010_0200_882_96005E0001_PROD.swidtag"), at=NOW)) == {
        "nvidia.rim.expired"
    }


@pytest.mark.corpus
@pytest.mark.usefixtures("real")
@pytest.mark.parametrize(
    ("report", "chain", "kind", "code"),
    [
        ("hopperAttestationReportInvalidSignature", "hopperCertChain", GPU, "nvidia.signature"),
        ("switchAttestationReportInvalidSignature", "switchCertChain", SWITCH, "nvidia.signature"),
        ("hopperAttestationReport", "hopperCertChainExpired", GPU, "nvidia.signature"),
    ],
)
def test_real_reports_that_are_not_their_devices(report, chain, kind, code):
    data = [load(f"reports/{name}.txt") for name in (report, chain)]
    assert code in refused(*data, kind=kind, at=NOW)


@pytest.mark.corpus
@pytest.mark.usefixtures("real")
def test_a_real_manifest_whose_signer_expired():
    report, chain = (
        load("reports/hopperAttestationReportExpired.txt"),
        load("reports/hopperCertChainExpired.txt"),
    )
    assert verify(report, chain, at=NOW).values["x-nvidia-gpu-driver-version"] == "570.124.03"
    expired = load("rims/NV_GPU_DRIVER_GH100_570.124.03_expired.xml")
    assert "nvidia.rim.expired" in refused(report, chain, expired, at=NOW)


@pytest.mark.corpus
@pytest.mark.usefixtures("real")
def test_every_real_manifest_is_nvidias():
    folder = corpus(f"{FOLDER}/rims")
    bad = ("_expired", "_invalid_signature")
    good = [path for path in sorted(folder.iterdir()) if not path.stem.endswith(bad)]
    assert len(good) == 14
    for path in good:
        found = rim.verify(path.read_bytes())
        assert found.rim.active, path.name
        assert found.rim.manufacturer_id == "5703"


def test_what_policies_may_ask_of_a_device_is_what_it_claims(gpu, authority, rims):
    """The rows of policy/hardware.py against what the verifier emits: types, and no name of its own invention."""
    from tallystick.policy import platforms

    switch = Device(authority, "LS_10", pdi="0001020304050607")
    bios = vbios_rim(rims, version="96.10.55.00.01", product="LS10", edition="SWITCH")
    about = Revocations(gpu)
    for kind, claims in (
        (
            GPU,
            verify(made.dump(gpu.evidence()), driver_rim(rims), vbios_rim(rims), *about.good(), nonce=NONCE),
        ),
        (
            SWITCH,
            verify(
                made.dump(switch.evidence("LS10", fields=made.switch_opaque())),
                bios,
                kind=SWITCH,
                nonce=NONCE,
            ),
        ),
    ):
        row = platforms.platform(kind)
        absent = {name for name, _ in row.claims if claims.at(name) is None}
        wrong = [n for n, of in row.claims if claims.at(n) is not None and not of.holds(claims.at(n))]
        assert wrong == []
        assert {name for name, _ in (*row.strict, *row.debug_off)} & absent == set()
        assert set(row.stated) & absent == set()
        assert all("ocsp" in n or "warning" in n or n.endswith("fwid-match") for n in absent), absent


def test_every_field_that_is_shown_is_explained(gpu, authority):
    from tallystick.evidence.explained import explain

    switch = Device(authority, "LS_10")
    for kind, data in (
        (GPU, made.dump(gpu.evidence())),
        (SWITCH, made.dump(switch.evidence("LS10", fields=made.switch_opaque()))),
    ):
        (shown,) = nvidia.show(kind, data)["devices"]
        names = [*shown, *shown["request"], *shown["response"], *shown["response"]["opaque_data"]]
        assert [name for name in names if not explain(kind, f"devices[0].{name}")] == []

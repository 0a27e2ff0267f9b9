"""A machine and its GPUs as one: an SNP report over the evidence of devices, all of the tests' own making."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from contextlib import suppress

import pytest
import support_nvidia as made
import support_snp
import support_tpm_evidence as tpm
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from support_nvidia import Device

from tallystick import evidence
from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.evidence import composite, nvidia_device, rim, roots, snp_report
from tallystick.handshake import binding, initdata, snpwire
from tallystick.handshake.kbs import Attestation
from tallystick.handshake.teekey import TeePublicKey

AT = support_snp.AT  # where both makers' certificates are valid
KEY = TeePublicKey.of(ec.generate_private_key(ec.SECP256R1()).public_key())
NONCE = base64.b64encode(bytes(range(32))).decode()
TOML = initdata.make({"artifacts.json": "{}"})


@pytest.fixture(scope="module")
def cpu():
    return support_snp.Maker()


@pytest.fixture(scope="module")
def authority():
    return made.Authority("NVIDIA Device Identity CA", ("NVIDIA GH100 Identity",))


@pytest.fixture(scope="module")
def devices(authority):
    return [Device(authority), Device(authority)]


@pytest.fixture(scope="module")
def rims():
    return made.RimMaker(begins=-390, ends=10)


@pytest.fixture(autouse=True)
def believe(monkeypatch, cpu, authority, rims):
    def forget():
        snp_report._endorsed.cache_clear()
        nvidia_device._endorsed.cache_clear()
        rim.verify.cache_clear()

    forget()
    real = roots.certificate

    def certificate(name):
        if name.startswith("ARK-"):
            return cpu.ark
        return {
            "NVIDIA-Device-Identity-CA": authority.root,
            "NVIDIA-CoRIM-Signing-Root-CA": rims.authority.root,
        }.get(name) or real(name)

    monkeypatch.setattr(roots, "certificate", certificate)
    yield
    forget()


def device_nonce(nonce=NONCE, key=KEY, algorithm="sha384"):
    return binding.device_nonce(binding.device_report_data(nonce, key, algorithm=algorithm))


def additional(devices, *, nonce=None, **fields):
    entries = [d.evidence(nonce=nonce or device_nonce(), **fields) for d in devices]
    return json.dumps({"nvidia": {"device_evidence_list": entries}})


def document(cpu, text, *, signed=None, algorithm="sha384", primary=None, **more):
    """Return the message; ``signed`` is the additional evidence that the CPU covers, when it is another."""
    covered = text if signed is None else signed
    digest = binding.report_data(NONCE, KEY, additional_evidence=covered, algorithm=algorithm)
    report = cpu.report(report_data=digest.ljust(64, b"\0"), host_data=more.pop("host_data", bytes(32)))
    init_data = more.pop("init_data", None)
    message = Attestation(
        nonce=NONCE,
        tee_pubkey=KEY,
        primary_evidence=(primary or (lambda data: base64.b64encode(data).decode()))(report),
        additional_evidence=text,
        init_data=init_data,
    )
    return json.dumps(message.document() | more).encode()


def verify(cpu, data, *endorsements, nonce=None, at=AT, kind="snp-report"):
    return evidence.verify(kind, data, [*cpu.endorsements(), *endorsements], nonce=nonce, at=at)


def refused(cpu, data, *endorsements, **more):
    with pytest.raises(NotGenuine) as error:
        verify(cpu, data, *endorsements, **more)
    return [finding.code for finding in error.value.findings]


def manifest(rims, version, active):
    return rims.rim(version=version, active={number: [made.digest(number)] for number in active})


def test_a_machine_with_its_gpus(cpu, devices, rims):
    files = manifest(rims, made.DRIVER, (8, 22)), manifest(rims, made.VBIOS, (1, 2))
    claims = verify(cpu, document(cpu, additional(devices)), *files, nonce=bytes(range(32)))
    assert claims.kind == "snp-report"
    assert claims.roots == ("amd",)
    assert [device.kind for device in claims.devices] == ["nvidia-gpu"] * 2
    assert [device.values["measres"] for device in claims.devices] == ["success"] * 2
    assert {device.report_data for device in claims.devices} == {device_nonce()}
    assert [device.values["ueid"] for device in claims.devices] == [
        str(device.leaf.serial_number) for device in devices
    ]


def test_gpus_and_switches_together(cpu, devices, authority):
    switch = Device(authority, "LS_10")
    entries = [devices[0].evidence(nonce=device_nonce())]
    entries.append(switch.evidence("LS10", nonce=device_nonce(), fields=made.switch_opaque()))
    text = json.dumps({"nvidia": {"device_evidence_list": entries}})
    claims = verify(cpu, document(cpu, text))
    assert [device.kind for device in claims.devices] == ["nvidia-gpu", "nvidia-switch"]


def test_a_machine_without_devices(cpu):
    assert verify(cpu, document(cpu, "")).devices == ()


def test_trustees_form_of_the_cpus_evidence(cpu, devices):
    data = document(cpu, additional(devices), primary=snpwire.document)
    assert len(verify(cpu, data).devices) == 2


def test_the_cpu_must_cover_the_devices(cpu, devices):
    """Another machine's GPU, one left out, one more: the text is another, and the report does not fit it."""
    both = additional(devices)
    for text in (additional(devices[:1]), "", both.replace(" ", "", 1)):
        assert refused(cpu, document(cpu, text, signed=both)) == ["snp.report-data.mismatch"]
    assert refused(cpu, document(cpu, both, signed="")) == ["snp.report-data.mismatch"]


def test_every_flipped_byte_of_the_devices_evidence_is_refused(cpu, devices):
    text = additional(devices[:1])
    for at in range(0, len(text), 97):
        damaged = text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :]
        with pytest.raises((NotGenuine, Malformed, Unsupported)):
            verify(cpu, document(cpu, damaged, signed=text))


def test_a_device_must_answer_this_challenge(cpu, devices):
    stale = additional(devices, nonce=device_nonce(nonce="AAAA"))
    assert refused(cpu, document(cpu, stale)) == ["nvidia.nonce.mismatch"] * 2
    other_key = TeePublicKey.of(ec.generate_private_key(ec.SECP256R1()).public_key())
    assert set(refused(cpu, document(cpu, additional(devices, nonce=device_nonce(key=other_key))))) == {
        "nvidia.nonce.mismatch"
    }


def test_the_cpu_must_cover_the_key_and_the_nonce(cpu, devices):
    message = json.loads(document(cpu, additional(devices)))
    for name, value in (("nonce", "AAAA"), ("tee-pubkey", TeePublicKey.of(
        ec.generate_private_key(ec.SECP256R1()).public_key()).document())):  # fmt: skip
        changed = message | {"runtime-data": message["runtime-data"] | {name: value}}
        assert refused(cpu, json.dumps(changed).encode()) == ["snp.report-data.mismatch"]


@pytest.mark.parametrize("nonce", [b"", bytes(32), bytes(range(31))])
def test_another_challenge(cpu, devices, nonce):
    assert refused(cpu, document(cpu, additional(devices)), nonce=nonce) == ["composite.nonce.mismatch"]


def test_a_nonce_that_is_no_base64_matches_no_challenge(cpu):
    message = json.loads(document(cpu, ""))
    message["runtime-data"]["nonce"] = "é"
    assert refused(cpu, json.dumps(message).encode(), nonce=b"") == ["composite.nonce.mismatch"]


def test_a_device_that_is_listed_twice_would_count_twice(cpu, devices):
    assert refused(cpu, document(cpu, additional([devices[0], devices[0]]))) == ["nvidia.device.repeated"]


def test_one_bad_device_is_enough(cpu, devices):
    text = additional([devices[0]])
    entries = json.loads(text)["nvidia"]["device_evidence_list"]
    entries.append(entries[0] | {"certificate": base64.b64encode(devices[1].chain()).decode()})
    bad = json.dumps({"nvidia": {"device_evidence_list": entries}})
    with pytest.raises(NotGenuine) as error:
        verify(cpu, document(cpu, bad))
    assert [f.where for f in error.value.findings] == ["device 1: Signature"]


def test_a_manifest_for_none_of_the_devices(cpu, devices, rims):
    assert refused(cpu, document(cpu, additional(devices)), manifest(rims, "580.95", (8,))) == [
        "nvidia.rim.other-device"
    ]


def test_lists_and_responses_go_to_whom_they_are_about(cpu, devices, authority):
    issuer, key = authority.issuer
    days = (AT - made.AT).days
    window = {"begins": days - 1, "ends": days + 1}
    data = document(cpu, additional(devices))
    clean = made.make_crl(issuer, key, **window)
    notes = [note.where for note in verify(cpu, data, cpu.crl, clean).notes]
    assert "device 0: certificate GH100 A01 GSP BROM" not in notes
    assert "certificate SEV-VCEK" not in notes
    assert len([where for where in notes if "Identity" in where]) == 2  # nobody spoke of these
    revoked = made.make_crl(issuer, key, [devices[0].rom], **window)
    assert refused(cpu, data, revoked) == ["nvidia.certificate.revoked"]
    held = made.make_ocsp(devices[1].rom, issuer, key, status=made.ocsp.OCSPCertStatus.REVOKED, **window)
    assert refused(cpu, data, held) == ["nvidia.certificate.revoked"]


def test_init_data_must_be_the_cpus(cpu, devices):
    text = TOML.decode()
    host_data = hashlib.sha256(TOML).digest()
    assert verify(cpu, document(cpu, additional(devices), init_data=text, host_data=host_data))
    assert refused(cpu, document(cpu, additional(devices), init_data=text)) == [
        "composite.init-data.mismatch"
    ]
    with pytest.raises(Malformed, match="init-data"):
        verify(cpu, document(cpu, "", init_data="no TOML"))


def test_the_hash_is_the_challenges(cpu, devices):
    extra = {"extra-params": {"selected-hash-algorithm": "SHA256"}}
    text = additional(devices, nonce=device_nonce(algorithm="sha256"))
    assert verify(cpu, document(cpu, text, algorithm="sha256", **extra))
    assert refused(cpu, document(cpu, text, algorithm="sha256")) == ["snp.report-data.mismatch"]
    for wrong in ({"selected-hash-algorithm": "md5"}, {"selected-hash-algorithm": 1}):
        with pytest.raises(Unsupported, match="selected-hash-algorithm: want sha256"):
            verify(cpu, document(cpu, text, **{"extra-params": wrong}))


def test_a_tpm_with_gpus(devices):
    """Any kind that the protocol knows: here the development platform, whose quote has 32 bytes."""
    text = additional(devices, nonce=device_nonce(algorithm="sha256"))
    digest = binding.report_data(NONCE, KEY, additional_evidence=text, algorithm="sha256")

    def claims(quoted):
        primary = json.loads(tpm.made(nonce=quoted))
        message = Attestation(nonce=NONCE, tee_pubkey=KEY, primary_evidence=primary, additional_evidence=text)
        data = json.dumps(message.document()).encode()
        return evidence.verify("tpm-quote", data, [tpm.der(tpm.authority())], nonce=None, at=tpm.NOW)

    assert len(claims(digest).devices) == 2
    with pytest.raises(NotGenuine, match="tpm-quote"):
        claims(bytes(32))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tee": "tdx"}, Malformed, "tee: want snp, got tdx"),
        (
            {"tee-evidence": {"primary_evidence": 1, "additional_evidence": ""}},
            Malformed,
            "an object or base64",
        ),
        ({"tee-evidence": {"primary_evidence": "!", "additional_evidence": ""}}, Malformed, "base64"),
        ({"tee-evidence": {"primary_evidence": {}, "additional_evidence": ""}}, Malformed, "SNP evidence"),
        ({"tee-evidence": {"additional_evidence": ""}}, Malformed, "primary_evidence: want evidence"),
        ({"runtime-data": {}}, Malformed, "nonce"),
    ],
)
def test_messages_that_can_not_be(cpu, change, error, message):
    data = json.dumps(json.loads(document(cpu, "")) | change).encode()
    with pytest.raises(error, match=message):
        verify(cpu, data)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", Malformed),
        ("[]", Unsupported),
        ("{}", Unsupported),
        ('{"hygondcu": {}}', Unsupported),
        ('{"nvidia": {}, "nvidia-dpu": {}}', Unsupported),
        ('{"nvidia": {"device_evidence_list": []}}', Malformed),
    ],
)
def test_additional_evidence_that_can_not_be(cpu, text, error):
    with pytest.raises(error):
        verify(cpu, document(cpu, text))


def test_kinds_that_have_no_place_in_the_message(cpu):
    with pytest.raises(Unsupported, match="kind: want one of snp-report"):
        verify(cpu, document(cpu, ""), kind="gcp-token")
    with pytest.raises(Unsupported, match="want one of"):
        verify(cpu, document(cpu, ""), kind="nonsense")


@pytest.mark.parametrize(
    ("kind", "primary"),
    [
        ("tdx-quote", {"quote": 1}),
        ("tdx-quote", {"quote": "AAAA", "cc_eventlog": 1}),
        ("cca-token", {"token": [256]}),
    ],
)
def test_other_tees_forms_are_read_strictly(cpu, kind, primary):
    message = json.loads(document(cpu, ""))
    message["tee-evidence"]["primary_evidence"] = primary
    with pytest.raises(Malformed, match="composite evidence: primary_evidence"):
        verify(cpu, json.dumps(message).encode(), kind=kind)


@pytest.mark.parametrize(
    ("kind", "primary", "message"),
    [
        ("tdx-quote", {"quote": "AAAA", "cc_eventlog": "AAAA"}, "quote"),
        ("sgx-quote", {"quote": "AAAA"}, "quote"),
        ("cca-token", {"token": [1, 2]}, "CCA"),
        ("tpm-quote", {"tpm_quote": 1}, "TPM evidence"),
    ],
)
def test_other_tees_evidence_reaches_its_own_kind(cpu, kind, primary, message):
    text = json.loads(document(cpu, ""))
    text["tee-evidence"]["primary_evidence"] = primary
    with pytest.raises((Malformed, Unsupported), match=message):
        evidence.verify(kind, json.dumps(text).encode(), [], nonce=None, at=AT)


def test_whatever_a_kind_compares_the_binding_is_compared_again(cpu, monkeypatch):
    claims = verify(cpu, document(cpu, ""))
    other = dataclasses.replace(claims, report_data=bytes(64))
    monkeypatch.setattr(composite.kinds, "verify_one", lambda *_, **__: other)
    assert refused(cpu, document(cpu, "")) == ["composite.binding"]


def test_init_data_where_the_evidence_has_no_place_for_it(cpu, monkeypatch):
    claims = verify(cpu, document(cpu, ""))
    without = dataclasses.replace(claims, values={})
    monkeypatch.setattr(composite.kinds, "verify_one", lambda *_, **__: without)
    with pytest.raises(Unsupported, match="init-data: want none with this TEE"):
        verify(cpu, document(cpu, "", init_data=TOML.decode()))


def test_a_message_in_a_message_is_not_opened(cpu):
    inner = document(cpu, "")
    message = json.loads(inner)
    message["tee-evidence"]["primary_evidence"] = base64.b64encode(inner).decode()
    with pytest.raises((Malformed, Unsupported)):
        verify(cpu, json.dumps(message).encode())


@given(st.data())
def test_nearly_a_message_is_refused_by_name(data):
    whole = '{"tee-evidence": {"primary_evidence": "AA==", "additional_evidence": ""}, "runtime-data": {}}'
    at = data.draw(st.integers(0, len(whole)))
    text = whole[:at] + data.draw(st.text(max_size=8)) + whole[at + data.draw(st.integers(0, 8)) :]
    with suppress(Malformed, Unsupported, NotGenuine):
        composite.verify("snp-report", text.encode("utf-8", "surrogatepass"), [], nonce=None, at=AT)


def test_who_appraises_a_composite_asks_the_devices_for_their_challenge(cpu, devices):
    from tallystick.cli.appraise import _challenge

    claims = verify(cpu, document(cpu, additional(devices)))
    challenge = _challenge(b"nonce", AT.isoformat(), claims, AT)
    assert challenge.device_report_data == device_nonce()
    assert challenge.report_data == claims.report_data
    alone = _challenge(b"nonce", AT.isoformat(), verify(cpu, document(cpu, "")), AT)
    assert alone.device_report_data == b""


def test_the_command_prints_the_devices_beside_the_machine(cpu, devices, tmp_path):
    from typer.testing import CliRunner

    from tallystick.cli.evidence import app

    files = [tmp_path / name for name in ("message.json", "vcek.pem", "ask.der")]
    for path, data in zip(files, [document(cpu, additional(devices)), *cpu.endorsements()], strict=True):
        path.write_bytes(data)
    arguments = ["verify", str(files[0]), "--kind", "snp-report", "--at", AT.isoformat()]
    arguments += [f"--endorsements={path}" for path in files[1:]]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["kind"] == "snp-report"
    assert [device["kind"] for device in printed["devices"]] == ["nvidia-gpu"] * 2
    assert "genuine nvidia-gpu, on the word of nvidia" in CliRunner().invoke(app, arguments).stdout

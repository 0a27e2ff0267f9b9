"""Policies of clouds that somebody else wrote: each known trap is found, with evidence that falls into it."""

from __future__ import annotations

import base64
import json
from contextlib import suppress

import pytest
from compile.clouds import WORKLOAD, value, world
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.compile.audit import audit, recognise
from tallystick.compile.audit.errors import Permissive
from tallystick.compile.audit.records import ReferenceValues
from tallystick.compile.audit.reference import read
from tallystick.compile.targets.aws_kms import document as aws_document
from tallystick.compile.targets.azure_skr import attestation
from tallystick.compile.targets.azure_skr import document as azure_document
from tallystick.compile.targets.gcp_wif import cel
from tallystick.core.errors import Exit, Malformed, Unsupported

A, B, ZERO = "a" * 96, "b" * 96, "0" * 96
IMAGE, PCR8 = "kms:RecipientAttestation:ImageSha384", "kms:RecipientAttestation:PCR8"
ROOT = {
    "Effect": "Allow",
    "Principal": {"AWS": "arn:aws:iam::111122223333:root"},
    "Action": "kms:*",
    "Resource": "*",
}
DENIED = ["kms:Decrypt", "kms:DeriveSharedSecret", "kms:GenerateDataKey", "kms:GenerateDataKeyPair"]


def allow(condition: dict, **changes: object) -> dict:
    principal = {"AWS": WORKLOAD}
    made = {
        "Effect": "Allow",
        "Principal": principal,
        "Action": "kms:Decrypt",
        "Resource": "*",
        "Condition": condition,
    }
    return {**made, **changes}


def deny(condition: dict, **changes: object) -> dict:
    return {
        "Effect": "Deny",
        "Principal": "*",
        "Action": DENIED,
        "Resource": "*",
        "Condition": condition,
        **changes,
    }


def key_policy(*statements: dict) -> bytes:
    return json.dumps({"Version": "2012-10-17", "Statement": statements}).encode()


def found(data: bytes, name: str = "policy", reference: ReferenceValues | None = None) -> dict[str, dict]:
    """Permissive paths by code."""
    return {path.code: path.evidence for path in audit(data, name, reference).paths}


PINNED = {"StringEqualsIgnoreCase": {IMAGE: A, PCR8: A}}
AWS = [
    ("aws.root-delegation", [ROOT, allow(PINNED)]),
    ("aws.create-grant", [ROOT, allow(PINNED), deny({"StringNotEqualsIgnoreCase": {IMAGE: A}})]),
    ("aws.re-encrypt", [allow(PINNED), allow({}, Action=["kms:ReEncryptFrom"])]),
    ("aws.replicate", [allow(PINNED), allow({}, Action="kms:Replicate*")]),
    ("aws.put-key-policy", [ROOT]),
    ("aws.no-attestation", [allow({})]),
    ("aws.anybody", [allow({}, Principal="*")]),
    ("aws.not-action", [{**allow({}), "NotAction": "kms:ScheduleKeyDeletion", "Action": None}]),
    ("aws.if-exists", [allow({"StringEqualsIgnoreCaseIfExists": {IMAGE: A}})]),
    ("aws.for-all-values", [allow({"ForAllValues:StringEquals": {IMAGE: A}})]),
    ("aws.missing-key", [allow({"StringNotEquals": {IMAGE: ZERO}})]),
    ("aws.missing-key", [allow({"Null": {IMAGE: "true"}})]),
    ("aws.unmodelled", [allow({"StringLike": {IMAGE: "${aws:PrincipalTag/image}"}})]),
    ("aws.mixed-registers", [allow({"StringEquals": {IMAGE: [A, B], PCR8: [A, B]}})]),
    ("aws.zero-registers", [allow({"StringEquals": {IMAGE: [A, ZERO]}})]),
    ("aws.image-not-pinned", [allow({"StringLike": {IMAGE: "*"}})]),
    ("aws.image-not-pinned", [allow({"Null": {IMAGE: "false"}})]),
    ("aws.nitrotpm-command-line", [allow({"StringEquals": {"kms:RecipientAttestation:NitroTPMPCR4": A}})]),
    ("aws.no-effect", [allow(PINNED), {**deny({}), "Action": None}]),
    (
        "aws.deny-two-registers",
        [allow({"StringEquals": {IMAGE: A}}), deny({"StringNotEquals": {IMAGE: A, PCR8: A}})],
    ),
]


WITH_A_DOCUMENT = {
    "aws.mixed-registers",
    "aws.zero-registers",
    "aws.image-not-pinned",
    "aws.nitrotpm-command-line",
    "aws.deny-two-registers",
}


def cleaned(statement: dict) -> dict:
    return {name: value for name, value in statement.items() if value is not None}


@pytest.mark.parametrize(("code", "statements"), AWS)
def test_traps_of_key_policies(code, statements):
    paths = found(key_policy(*map(cleaned, statements)))
    assert code in paths
    if code == "aws.no-effect":
        return
    evidence = paths[code]
    assert set(evidence) >= {"principal", "action", "context"}
    attested = [key for key in evidence["context"] if "RecipientAttestation" in key]
    assert bool(attested) == (code in WITH_A_DOCUMENT)


def test_a_key_policy_without_a_trap():
    registers = [deny({"StringNotEqualsIgnoreCase": {name: A}}) for name in (IMAGE, PCR8)]
    assert found(key_policy(allow(PINNED), *registers)) == {}
    bypasses = ["kms:CreateGrant", "kms:ReEncryptFrom", "kms:ReplicateKey", "kms:PutKeyPolicy"]
    whole = {name: value for name, value in deny({}, Action=bypasses).items() if name != "Condition"}
    assert found(key_policy(ROOT, allow(PINNED), *registers, whole)) == {}


def test_lists_of_two_registers_accept_four_tuples_where_two_were_released():
    mixed = key_policy(allow({"StringEqualsIgnoreCase": {IMAGE: [A, B], PCR8: [A, B]}}))
    reference = ReferenceValues(tuples=({"pcr0": A, "pcr8": A}, {"pcr0": B, "pcr8": B}))
    result = audit(mixed, "policy.json", reference)
    assert (result.released, result.accepted) == (2, 4)
    (path,) = result.paths
    assert path.code == "aws.not-released"
    assert path.evidence is not None
    assert path.evidence["context"] in ({IMAGE: A, PCR8: B}, {IMAGE: B, PCR8: A})
    each = key_policy(*(allow({"StringEqualsIgnoreCase": {IMAGE: one, PCR8: one}}) for one in (A, B)))
    result = audit(each, "policy.json", reference)
    assert (result.released, result.accepted, result.paths) == (2, 2, ())


def release_policy(*conditions: dict, authority: str = "https://sharedeus.eus.attest.azure.net") -> bytes:
    return json.dumps({"version": "1.0.0", "anyOf": [{"authority": authority, "allOf": conditions}]}).encode()


def claim(name: str, equals: object) -> dict:
    return {"claim": name, "equals": equals}


CVM = (
    claim("x-ms-isolation-tee.x-ms-attestation-type", "sevsnpvm"),
    claim("x-ms-isolation-tee.x-ms-compliance-status", "azure-compliant-cvm"),
)
ACI = (
    claim("x-ms-attestation-type", "sevsnpvm"),
    claim("x-ms-compliance-status", "azure-compliant-uvm"),
    claim("x-ms-sevsnpvm-is-debuggable", False),
    claim("x-ms-sevsnpvm-hostdata", "ab" * 31 + "cd"),
)


def test_microsofts_own_policy_for_confidential_vms_gives_the_key_to_a_debugged_one():
    paths = found(release_policy(*CVM))
    assert set(paths) == {"azure.debug-not-pinned", "azure.workload-not-pinned"}
    token = paths["azure.debug-not-pinned"]
    assert token["x-ms-isolation-tee"]["x-ms-sevsnpvm-is-debuggable"] is True
    assert token["iss"] == "https://sharedeus.eus.attest.azure.net"


@pytest.mark.parametrize(
    ("dropped", "code"),
    [(1, "azure.compliance-not-pinned"), (2, "azure.debug-not-pinned"), (3, "azure.workload-not-pinned")],
)
def test_traps_of_release_policies(dropped, code):
    assert found(release_policy(*ACI)) == {}
    assert set(found(release_policy(*(one for n, one in enumerate(ACI) if n != dropped)))) == {code}


def test_release_policies_as_keys_have_them_and_with_zeros():
    inside = base64.urlsafe_b64encode(release_policy(*CVM)).rstrip(b"=").decode()
    key = json.dumps(
        {"contentType": "application/json; charset=utf-8", "data": inside, "immutable": False}
    ).encode()
    assert recognise(key, "key.json").name == "azure-release-policy"
    assert "azure.debug-not-pinned" in found(key)
    assert "azure.zero-value" in found(release_policy(*ACI[:3], claim("x-ms-sevsnpvm-hostdata", "0" * 64)))
    limits = audit(release_policy(*ACI, authority="https://acme.weu.attest.azure.net/"), "p").limits
    assert any("no slash at the end" in limit for limit in limits)


def test_release_policies_are_compared_with_reference_values():
    reference = ReferenceValues(tuples=({"host_data": "ab" * 31 + "cd"},))
    assert found(release_policy(*ACI), reference=reference) == {}
    other = ReferenceValues(tuples=({"host_data": "ef" * 32},))
    assert set(found(release_policy(*ACI), reference=other)) == {"azure.not-released"}
    with pytest.raises(Malformed, match="want claims that the policy's language tells"):
        audit(release_policy(*ACI), "p", ReferenceValues(tuples=({"pcr04": "00"},)))


def maa(*rules: str) -> bytes:
    return (
        "version= 1.0;\nauthorizationrules\n{\n" + "\n".join(rules) + "\n};\nissuancerules\n{\n};\n"
    ).encode()


DEBUG_OFF = '[type=="x-ms-sevsnpvm-is-debuggable", issuer=="AttestationService", value==false]'


def test_traps_of_attestation_policies():
    assert found(maa(f"{DEBUG_OFF} => permit();")) == {}
    assert set(found(maa("=> permit();"))) == {"maa.permit-all", "maa.debug-not-pinned"}
    open_ = DEBUG_OFF.replace(' issuer=="AttestationService",', "")
    assert "maa.custom-claim" in found(maa(f"{open_} => permit();"))
    any_ = DEBUG_OFF.replace(", value==false", "")
    assert set(found(maa(f"{any_} => permit();"))) == {"maa.debug-not-pinned"}
    assert (
        found(
            maa(
                "=> permit();",
                '![type=="x", issuer=="AttestationService"] => deny();',
                f"!{DEBUG_OFF} => deny();",
            )
        )
        == {}
    )
    assert recognise(maa("=> permit();"), "p.txt").name == "azure-maa-policy"


SAFE = " && ".join(
    (
        "assertion.swname == 'CONFIDENTIAL_SPACE'",
        "assertion.dbgstat == 'disabled-since-boot'",
        "assertion.hwmodel in ['GCP_INTEL_TDX','GCP_AMD_SEV']",
        "'STABLE' in assertion.submods.confidential_space.support_attributes",
        f"assertion.submods.container.image_digest in ['sha256:{'1' * 64}']",
        "size(assertion.submods.container.cmd_override) == 0",
    )
)


@pytest.mark.parametrize(
    ("dropped", "code"),
    [
        (0, "cel.not-confidential-space"), (1, "cel.debug-not-pinned"), (2, "cel.no-memory-encryption"),
        (3, "cel.not-stable"), (4, "cel.image-not-pinned"), (5, "cel.command-override"),
    ],
)  # fmt: skip
def test_traps_of_conditions(dropped, code):
    parts = SAFE.split(" && ")
    assert found(SAFE.encode(), "c.cel") == {}
    assert set(found(" && ".join(p for n, p in enumerate(parts) if n != dropped).encode(), "c.cel")) == {code}


def test_an_empty_condition_takes_any_token_on_earth():
    assert found(b"", "c.cel")["cel.empty"] == {}
    assert "cel.always" in found(b"true", "c.cel")


def test_a_guard_that_turns_a_missing_claim_into_a_yes():
    guarded = SAFE.replace(
        "assertion.dbgstat == 'disabled-since-boot'",
        "(!has(assertion.dbgstat) || assertion.dbgstat == 'disabled-since-boot')",
    )
    paths = found(guarded.encode(), "c.cel")
    assert set(paths) == {"cel.missing-claim"}
    assert "dbgstat" not in paths["cel.missing-claim"]


def test_a_debug_image_passes_where_only_one_word_for_it_is_excluded():
    text = SAFE.replace("assertion.dbgstat == 'disabled-since-boot'", "assertion.dbgstat != 'enable'")
    assert found(text.encode(), "c.cel")["cel.debug-not-pinned"]["dbgstat"] == "enabled"


def test_what_is_not_understood_is_taken_for_the_worst_and_said():
    text = f"{SAFE} && assertion.submods.container.image_signatures.map(s, s.key_id).exists(k, k == 'x')"
    result = audit(text.encode(), "c.cel")
    assert result.paths == ()
    assert any("not understood" in limit for limit in result.limits)
    result = audit(text.replace(" && assertion.submods.c", " || assertion.submods.c").encode(), "c.cel")
    assert {"cel.debug-not-pinned", "cel.image-not-pinned"} <= {path.code for path in result.paths}
    assert any("assuming" in (path.evidence or {}) for path in result.paths)


def test_conditions_are_compared_with_reference_values():
    reference = ReferenceValues(tuples=({"submods.container.image_digest": f"sha256:{'1' * 64}"},))
    assert audit(SAFE.encode(), "c.cel", reference).accepted == 1
    more = SAFE.replace("['sha256:", f"['sha256:{'2' * 64}', 'sha256:")
    result = audit(more.encode(), "c.cel", reference)
    assert (result.released, result.accepted) == (1, 2)
    assert {path.code for path in result.paths} == {"cel.not-released"}


@pytest.mark.parametrize(
    ("target", "file"),
    [
        ("aws-kms", "key-policy.json"), ("azure-skr", "release-policy.json"),
        ("azure-skr", "attestation-policy-sevsnpvm.txt"), ("gcp-wif", "condition.cel"),
    ],
)  # fmt: skip
def test_what_this_compiler_writes_has_no_trap(target, file):
    made = world(target, 2)
    result = audit(made.made.files[file], file)
    assert [path.code for path in result.paths] == []


def test_a_compiled_policy_is_compared_with_the_compiled_form():
    made = world("aws-kms", 2)
    rows = [{f"pcr{n}": value(f"{release}-0", f"pcr{n}", 96) for n in (0, 1, 2, 8)} for release in (0, 1)]
    document = {"schema": "tallystick/reference-values/v1", "tuples": rows}
    reference = read(json.dumps(document).encode())
    result = audit(made.made.files["key-policy.json"], "k.json", reference)
    assert (result.released, result.accepted, result.paths) == (2, 2, ())


def test_the_error_has_paths_and_findings():
    result = audit(key_policy(ROOT), "k.json")
    error = Permissive("k.json", result)
    assert (error.exit, error.code) == (Exit.REFUSED, "audit.permissive")
    document = error.document()
    assert document["error"]["findings"][0]["code"] == "aws.root-delegation"
    assert document["audit"]["paths"][0]["evidence"]["action"]


@pytest.mark.parametrize(
    "data",
    [
        b'{"Version":"2012-10-17","Statement":[{"Effect":"Maybe","Principal":"*"}]}',
        b'{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Other":1}]}',
        b'{"Version":"2012-10-17","Statement":[]}',
        b'{"version":"1.0.0","anyOf":[{"authority":"https://x","allOf":[],"anyOf":[]}]}',
        b'{"version":"1.0.0","anyOf":[{"authority":"https://x","allOf":[{"claim":"a"}]}]}',
        b"version= 1.0;\nauthorizationrules\n{ => permit( };",
        b"assertion.x == ",
        b"assertion.x == 'a\\q'",
    ],
)
def test_recognised_and_broken_is_malformed(data):
    with pytest.raises(Malformed):
        audit(data, "policy")


@pytest.mark.parametrize(
    "data",
    [
        b'{"Version":"2008-10-17","Statement":[]}',
        b'{"version":"0.2","anyOf":[{"authority":"https://x","allOf":[]}]}',
        b'{"version":"1.0.0","anyOf":[{"authority":"https://x","allOf":[{"claim":"a","notEquals":1}]}]}',
        b"version= 9.9;\nauthorizationrules\n{ => permit(); };",
        b"hello",
        b"\xff\xfe",
    ],
)
def test_another_version_or_language_is_unsupported(data):
    with pytest.raises(Unsupported):
        audit(data, "policy")


NEARLY = st.sampled_from(
    [key_policy(ROOT, allow(PINNED)), release_policy(*ACI), maa(f"{DEBUG_OFF} => permit();"), SAFE.encode()]
)


READERS = (
    aws_document.read,
    azure_document.read,
    attestation.read,
    lambda data: cel.read(data.decode("utf-8", "replace")),
)


@given(NEARLY, st.integers(0, 400), st.binary(max_size=3), st.integers(0, 3))
@settings(max_examples=250, deadline=None)
def test_nearly_right_bytes_are_read_or_refused_by_name(data, at, bytes_, cut):
    broken = data[:at] + bytes_ + data[at + cut :]
    for reader in READERS:
        with suppress(Malformed, Unsupported):
            reader(broken)


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_garbage_is_recognised_by_none_or_refused_by_name(data):
    with suppress(Malformed, Unsupported):
        audit(data, "policy")

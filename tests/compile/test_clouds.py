"""AWS KMS, Azure Key Vault and Google Cloud: what is emitted, what is proved, and what is refused by name."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace

import pytest
from compile.clouds import (
    ADMIN,
    AUTHORITY,
    AWS,
    AZURE,
    CHOICES,
    END,
    GCP,
    REQUIRE,
    WAIVED,
    WORKLOAD,
    cloud_form,
    value,
    world,
)
from policy.policyworld import NOW, TOKENIZER, WEIGHTS, form, policy_text, release

from tallystick.compile.errors import Inexpressible, Unproven
from tallystick.compile.policies import load
from tallystick.compile.produce import express
from tallystick.compile.targets.azure_skr import attestation
from tallystick.compile.targets.registry import backend, read_target
from tallystick.core.errors import Exit, Malformed
from tallystick.core.expect import AtLeast, Exactly, Includes, NoneOf, OneOf, Only
from tallystick.formats.yamldoc import Fields, Place, read
from tallystick.policy.normal import Denial, DeviceRule, Placement


@pytest.mark.parametrize("target", CHOICES)
@pytest.mark.parametrize(("releases", "tuples"), [(1, 1), (3, 2)])
def test_what_is_emitted_is_proved(target, releases, tuples):
    made = world(target, releases, tuples)
    proof = made.prove()
    assert (proof.released, proof.accepted) == (releases * tuples, releases * tuples)
    assert proof.evaluated > 50
    assert "z3" in proof.engines
    assert proof.words.startswith(f"{target}: released {releases * tuples} · accepted {releases * tuples}")


@pytest.mark.parametrize("target", CHOICES)
def test_equal_forms_give_equal_bytes(target):
    assert world(target).made == world(target).made


@pytest.mark.parametrize("target", CHOICES)
def test_without_a_release_nobody_gets_a_key(target):
    made = world(target, 0)
    proof = made.prove()
    assert (proof.released, proof.accepted) == (0, 0)


@pytest.mark.parametrize("target", CHOICES)
def test_a_release_more_than_the_channel_has_is_shown_with_evidence(target):
    made, more = world(target, 1), world(target, 2)
    with pytest.raises(Unproven, match=rf"{target}: released 1 · accepted 2: {target}: evidence") as caught:
        made.prove(more.made.files | {name: made.made.files[name] for name in ("README.md", "residual.json")})
    finding = caught.value.findings[0]
    assert (finding.code, finding.want, finding.got) == ("prove.admits", "no key", "a key")
    assert json.loads(finding.note.removeprefix("evidence: "))
    assert caught.value.exit is Exit.REFUSED


@pytest.mark.parametrize("target", CHOICES)
def test_a_release_less_is_shown_too(target):
    made, less = world(target, 2), world(target, 1)
    with pytest.raises(Unproven) as caught:
        made.prove(less.made.files | {name: made.made.files[name] for name in ("README.md", "residual.json")})
    assert {finding.code for finding in caught.value.findings} == {"prove.refuses"}


@pytest.mark.parametrize("target", CHOICES)
def test_files_that_are_missing_or_unreadable_are_not_proved(target):
    made = world(target)
    files = made.made.files
    for broken in ({}, {**files, "extra": b""}, {name: files[name] for name in list(files)[1:]}):
        with pytest.raises(Unproven):
            made.prove(broken)
    for name in files:
        for data in (b"", b"\xff\xfe", b"{}", b"[" * 5_000):
            with pytest.raises(Unproven):
                made.prove({**files, name: data})


@pytest.mark.parametrize("target", CHOICES)
def test_the_papers_name_what_everything_rests_on(target):
    made = world(target)
    text = made.made.files["README.md"].decode()
    for one in made.form.releases:
        assert str(one.digest) in text
        assert all(str(bundle) in text for bundle in one.bundles)
    assert str(made.form.policy_digest) in text
    assert all(name in text for _, name in made.choice.keys)
    residual = json.loads(made.made.files["residual.json"])
    assert [one["requirement"] for one in residual["not_checked"]] == [
        r.requirement for r in made.form.residuals
    ]


@pytest.mark.parametrize("target", CHOICES)
def test_keys_without_an_id_and_ids_without_a_key_are_named(target):
    choice = CHOICES[target]
    other = replace(choice, keys=(("other/key/v1", choice.keys[0][1]), choice.keys[1]))
    with pytest.raises(Inexpressible) as caught:
        world(target, choice=other).made  # noqa: B018
    assert {finding.where for finding in caught.value.findings} == {
        f"{target}: {TOKENIZER}",
        f"{target}: other/key/v1",
    }


def lacks(target: str, form, choice=None) -> set[str]:
    return {lack.requirement for lack in backend(target).lacks(form, choice or CHOICES[target])}


def test_what_a_cloud_can_not_express_is_named():
    assert lacks("aws-kms", cloud_form("aws-kms")) == set()
    assert lacks("azure-skr", cloud_form("azure-skr")) == {"end"}
    assert lacks("gcp-wif", cloud_form("gcp-wif")) == set()
    for target, age in (("aws-kms", "300"), ("azure-skr", "600"), ("gcp-wif", "7200")):
        young = replace(cloud_form(target), max_age_seconds=60)
        found = {x.requirement: x.why for x in backend(target).lacks(young, CHOICES[target])}
        assert age in found["freshness"]
    require = {"timestamp": AtLeast(1), "module_id": Exactly("i-1")}
    assert lacks("aws-kms", cloud_form("aws-kms", require=require)) == {"claim-timestamp", "claim-module_id"}
    require = {"guest_svn": NoneOf((1,)), "chip_id": Exactly("ab" * 64), "reported_tcb_snp": AtLeast(8)}
    found = lacks("azure-skr", cloud_form("azure-skr", require=require))
    assert found == {"claim-guest_svn", "claim-chip_id", "end"}
    shared = replace(AZURE, authority="https://sharedweu.weu.attest.azure.net")
    assert "claim-reported_tcb_snp" in lacks("azure-skr", cloud_form("azure-skr"), shared)
    found = lacks(
        "gcp-wif", cloud_form("gcp-wif", require={"oemid": Exactly(11129), "hwmodel": Exactly("x")})
    )
    assert found == {"claim-oemid"}


@pytest.mark.parametrize("target", CHOICES)
def test_devices_places_roots_and_other_platforms_are_lacks(target):
    form = cloud_form(target)
    (rule,) = form.platforms
    device = DeviceRule(
        platform="nvidia-gpu", evidence_kind="nvidia-gpu", roots=("nvidia",), least=1, require=()
    )
    place = Placement(name="region", values=("eu",), strength="provider-signed", claim="")
    other = replace(
        form, platforms=(replace(rule, devices=(device,), placement=(place,), roots=("software-tpm",)),)
    )
    assert lacks(target, other) - {"end"} == {"device-nvidia-gpu", "placement-region", "roots"}
    other = replace(form, platforms=(replace(rule, platform="qemu-vtpm", evidence_kind="tpm-quote"),))
    assert lacks(target, other) - {"end"} == {"platform-qemu-vtpm"}


def test_the_account_of_the_workload_is_a_place_of_aws():
    form = cloud_form("aws-kms")
    for account, found in (("111122223333", set()), ("999999999999", {"placement-account"})):
        place = Placement(name="account", values=(account,), strength="provider-signed", claim="")
        rule = replace(form.platforms[0], placement=(place,))
        assert lacks("aws-kms", replace(form, platforms=(rule,))) == found


def test_a_waived_register_is_pinned_nowhere():
    made = replace(world("aws-kms"), form=without(cloud_form("aws-kms"), "pcr8"))
    assert "PCR8" not in json.dumps(json.loads(made.made.files["key-policy.json"])["Statement"])
    assert made.prove().accepted == 2


def without(form, *paths: str):
    """A form whose releases waive some registers."""

    def waived(entry):
        return replace(entry, expect=tuple((p, WAIVED if p in paths else e) for p, e in entry.expect))

    return replace(
        form, releases=tuple(replace(one, tuples=tuple(map(waived, one.tuples))) for one in form.releases)
    )


def test_a_target_ends_with_the_first_of_its_waivers():
    assert world("azure-skr").made.not_after == END


@pytest.mark.parametrize("target", ["aws-kms", "azure-skr"])
def test_no_register_left_is_refused(target):
    made = world(target)
    paths = [path for path, _ in made.form.releases[0].tuples[0].expect]
    with pytest.raises(Inexpressible, match=r"no register of .* is left"):
        made.backend.emit(without(made.form, *paths), made.choice)


# --- AWS


def test_the_key_policy_in_full():
    made = world("aws-kms", 1)
    policy = json.loads(made.made.files["key-policy.json"])
    admin, release, bypass, *denies = policy["Statement"]
    assert admin["Principal"] == {"AWS": ADMIN}
    assert not {"kms:Decrypt", "kms:CreateGrant", "kms:ReEncryptFrom", "kms:ReplicateKey"} & set(
        admin["Action"]
    )
    pins = {
        name: value("0-0", path, 96)
        for name, path in (("ImageSha384", "pcr0"), ("PCR1", "pcr1"), ("PCR2", "pcr2"), ("PCR8", "pcr8"))
    }
    keys = {f"kms:RecipientAttestation:{name}": text for name, text in pins.items()}
    asked = {"kms:RecipientAttestation:PCR3": "c3" * 48}
    assert release["Condition"] == {"StringEqualsIgnoreCase": keys | asked}
    assert (release["Principal"], release["Action"]) == ({"AWS": WORKLOAD}, "kms:Decrypt")
    assert bypass["Effect"] == "Deny"
    assert {"kms:CreateGrant", "kms:ReEncryptFrom", "kms:ReplicateKey"} < set(bypass["Action"])
    assert "Condition" not in bypass
    registers = [next(iter(one["Condition"]["StringNotEqualsIgnoreCase"])) for one in denies[:-1]]
    assert registers == sorted(keys)
    assert all(len(one["Condition"]["StringNotEqualsIgnoreCase"]) == 1 for one in denies[:-1])
    assert denies[-1]["Condition"] == {"DateGreaterThan": {"aws:CurrentTime": "2028-01-01T00:00:00Z"}}


def test_enclaves_and_machines_with_a_nitro_tpm_share_a_key():
    made = world("aws-kms", 2, platforms=("aws-nitro", "nitro-tpm"))
    assert made.prove().accepted == 4
    policy = json.loads(made.made.files["key-policy.json"])
    guarded = [s for s in policy["Statement"] if "Null" in s.get("Condition", {})]
    assert len(guarded) == 7


def test_a_key_policy_that_is_too_large_says_how_many_fit():
    with pytest.raises(
        Inexpressible, match=r"60 releases do not fit into one key policy; (\d+) would"
    ) as caught:
        world("aws-kms", 60).made  # noqa: B018
    assert caught.value.exit is Exit.UNSUPPORTED
    room = int(str(caught.value).split(";")[1].split()[0])
    assert 20 < room < 40
    assert world("aws-kms", room).prove().accepted == room
    with pytest.raises(Inexpressible):
        world("aws-kms", room + 1).made  # noqa: B018


def test_about_49_releases_of_two_registers_fit():
    form = without(cloud_form("aws-kms", 80, require={}), "pcr1", "pcr2")
    with pytest.raises(Inexpressible, match=r"(4[5-9]|5[0-9]) would"):
        backend("aws-kms").emit(form, AWS)


def test_a_deny_with_two_registers_is_no_deny_of_each():
    made = world("aws-kms", 2)
    policy = json.loads(made.made.files["key-policy.json"])
    one, two = (s for s in policy["Statement"] if s["Sid"] in ("Deny0", "Deny1"))
    one["Condition"]["StringNotEqualsIgnoreCase"] |= two["Condition"]["StringNotEqualsIgnoreCase"]
    policy["Statement"].remove(two)
    with pytest.raises(Unproven, match="aws-kms"):
        made.prove({**made.made.files, "key-policy.json": json.dumps(policy).encode()})


# --- Azure


def test_minimums_are_in_an_attestation_policy_whose_hash_is_asked_for():
    made = world("azure-skr")
    own = made.made.files["attestation-policy-sevsnpvm.txt"]
    text = own.decode()
    assert '[type=="x-ms-sevsnpvm-microcode-svn", issuer=="AttestationService", value>=115]' in text
    encoded = base64.urlsafe_b64encode(own).rstrip(b"=")
    digest = base64.urlsafe_b64encode(hashlib.sha256(encoded).digest()).rstrip(b"=").decode()
    assert attestation.policy_hash(own) == digest
    assert json.dumps(digest) in made.made.files["release-policy.json"].decode()
    assert made.made.max_age_seconds == 600


def test_a_shared_authority_has_no_policy_of_ours():
    require = {
        name: expect for name, expect in REQUIRE["azure-aci"].items() if not isinstance(expect, AtLeast)
    }
    shared = replace(AZURE, authority="https://sharedweu.weu.attest.azure.net", token_minutes=480)
    made = world("azure-skr", choice=shared, require=require)
    assert sorted(made.made.files) == ["README.md", "release-policy.json", "residual.json"]
    assert made.prove().accepted == 2


def test_tdx_and_snp_are_branches_of_one_policy():
    made = world("azure-skr", 2, platforms=("azure-aci", "intel-tdx"), require={})
    kept = ("policy_debug_allowed", "td_attributes.debug", "tcb_status")
    platforms = tuple(
        replace(rule, require=tuple(pair for pair in rule.require if pair[0] in kept))
        for rule in made.form.platforms
    )
    made = replace(made, form=replace(made.form, platforms=platforms))
    assert made.prove().accepted == 4
    policy = json.loads(made.made.files["release-policy.json"])
    assert len(policy["anyOf"][0]["anyOf"]) == 2
    assert {"claim": "attester_tcb_status", "equals": "UpToDate"} in policy["anyOf"][0]["anyOf"][1]["allOf"]


def test_two_snp_platforms_with_different_minimums_are_refused():
    made = world("azure-skr", 1, platforms=("azure-aci", "amd-sev-snp"), require={})
    one, two = made.form.platforms
    form = replace(made.form, platforms=(one, replace(two, require=(("reported_tcb_snp", AtLeast(8)),))))
    with pytest.raises(Inexpressible, match="an instance has one attestation policy for both"):
        backend("azure-skr").emit(form, AZURE)


def test_a_claim_read_as_a_text_is_proved_as_well():
    """Microsoft's own samples write "false" and false: neither reading lets more in."""
    made = world("azure-skr")
    text = made.made.files["release-policy.json"].decode().replace('"equals": false', '"equals": "false"', 1)
    with pytest.raises(Unproven):
        made.prove({**made.made.files, "release-policy.json": text.encode()})


# --- Google


def test_digests_are_in_the_condition_while_it_has_room_and_in_the_bindings_always():
    few, many = world("gcp-wif", 3), world("gcp-wif", 60)
    digest = f"sha256:{value('0-0', 'submods.container.image_digest', 64)}"
    for made, inside in ((few, True), (many, False)):
        condition = made.made.files["condition.cel"].decode()
        assert (digest in condition) is inside
        assert len(condition) <= 4096
        (binding,) = json.loads(made.made.files["iam-policy.json"])["bindings"]
        assert len(binding["members"]) == len(made.form.releases)
        assert binding["members"][0].startswith(
            "principalSet://iam.googleapis.com/projects/42/locations/global/workloadIdentityPools/acme/attribute.image_digest/sha256:"
        )
        assert binding["condition"]["expression"] == "request.time <= timestamp('2028-01-01T00:00:00Z')"
        assert len(binding["condition"]["description"]) < 256
        assert made.prove().accepted == len(made.form.releases)


def test_an_allow_policy_has_1500_members_at_most():
    with pytest.raises(Inexpressible, match="1501 images do not fit into one allow policy; 1500 would"):
        world("gcp-wif", 1501).made  # noqa: B018


def test_lists_are_lists_and_only_what_google_leaves_out_may_be_missing():
    require = {
        "swversion": Includes(("250800",)),
        "google_service_accounts": Only(("w@acme.iam.gserviceaccount.com",)),
        "submods.container.cmd_override": Only(("--safe",)),
    }
    made = world("gcp-wif", require=require)
    denial = Denial(
        name="bad", claim="submods.container.args", values=("--unsafe",), reason="x", since=NOW.date()
    )
    form = replace(made.form, platforms=(replace(made.form.platforms[0], deny=(denial,)),))
    made = replace(made, form=form)
    assert {"cel-python", "cel-rust"} <= set(made.prove().engines)
    condition = made.made.files["condition.cel"].decode()
    assert "!has(assertion.submods.container.cmd_override)" in condition
    assert "!has(assertion.google_service_accounts)" not in condition


# --- entries of a policy


ENTRIES = {
    "aws-kms": (
        f"administrators: [{ADMIN}]\nworkloads: [{WORKLOAD}]\nkeys:\n"
        + "".join(f"  - {{key: {key}, id: '{name}'}}\n" for key, name in AWS.keys)
    ),
    "azure-skr": (
        f"authority: {AUTHORITY}\ntoken_minutes: 10\nkeys:\n"
        + "".join(f"  - {{key: {key}, id: '{name}'}}\n" for key, name in AZURE.keys)
    ),
    "gcp-wif": (
        "project_number: '42'\npool: acme\nprovider: tally\nkeys:\n"
        + "".join(f"  - {{key: {key}, id: '{name}'}}\n" for key, name in GCP.keys)
    ),
}


def taken(target: str, text: str):
    fields = Fields(read(text.encode(), "policy"), "policy")
    found = read_target(target, fields, Place(line=1, column=1))
    fields.end()
    return found


@pytest.mark.parametrize("target", ENTRIES)
def test_an_entry_of_a_policy_is_taken(target):
    found = taken(target, ENTRIES[target])
    assert replace(found, place=CHOICES[target].place) == CHOICES[target]
    assert WEIGHTS in found.words
    assert set(backend(target).schema["required"]) == set(backend(target).schema["properties"])


@pytest.mark.parametrize(
    ("target", "old", "new"),
    [
        ("aws-kms", ADMIN, "arn:aws:iam::111122223333:root"),
        ("aws-kms", ADMIN, "'*'"),
        ("aws-kms", WORKLOAD, "arn:aws:iam::111122223333:role/*"),
        ("aws-kms", f"[{WORKLOAD}]", "[]"),
        ("aws-kms", "key/1", "alias/x y"),
        ("aws-kms", "key/1", "key/0"),
        ("azure-skr", AUTHORITY, f"{AUTHORITY}/"),
        ("azure-skr", AUTHORITY, "https://evil.example"),
        ("azure-skr", "token_minutes: 10", "token_minutes: 0"),
        ("azure-skr", "keys/k1", "keys/k1/0123"),
        ("gcp-wif", "pool: acme", "pool: A"),
        ("gcp-wif", "'42'", "42"),
        ("gcp-wif", "keys:", "other: 1\nkeys:"),
    ],
)
def test_an_entry_that_means_too_much_is_refused(target, old, new):
    assert old in ENTRIES[target]
    with pytest.raises(Malformed, match="policy"):
        taken(target, ENTRIES[target].replace(old, new))


@pytest.mark.parametrize("target", ENTRIES)
def test_a_policy_for_other_machines_is_refused_by_name(target):
    """The demo's policy is about virtual machines with a TPM, which no cloud here judges."""
    lines = ENTRIES[target].rstrip().replace("\n", "\n    ")
    wanted = load((policy_text() + f"  - target: {target}\n    {lines}\n").encode())
    choice = wanted.target(target)
    with pytest.raises(Inexpressible, match="platform-qemu-vtpm") as caught:
        express(form(release("a")), choice)
    assert caught.value.exit is Exit.UNSUPPORTED


def test_a_quote_can_not_end_a_literal_of_a_condition():
    made = cloud_form("gcp-wif", require={"hwmodel": OneOf(("a' || true || 'b",))})
    with pytest.raises((ValueError, Inexpressible), match=r"quotes|can not"):
        backend("gcp-wif").emit(made, GCP)

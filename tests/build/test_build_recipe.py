"""Recipes: what parses, and every way of being wrong, with its place."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tallystick.build import recipe
from tallystick.build.seedfacts import Party
from tallystick.core.errors import Malformed, Unsupported

ROOT = Path(__file__).resolve().parents[2]
GOOD = (ROOT / "build/confidential-inference.yaml").read_bytes()


def document() -> dict:
    return yaml.safe_load(GOOD)


def text(doc: object) -> bytes:
    return yaml.safe_dump(doc, sort_keys=False, default_flow_style=False).encode()


def test_the_recipe_of_the_project():
    made = recipe.parse(GOOD)
    assert (made.name, made.version) == ("confidential-inference", "0.1.0")
    assert made.products == ("uki", "initramfs", "oci", "eif")
    vtpm, snp, tdx = made.platforms
    assert vtpm.shapes() == ((("ram_mib", 512), ("vcpus", 1), ("vmm", "qemu")),)
    assert len(snp.shapes()) == 2 * 3 * 4
    assert snp.shapes()[0] == (
        ("guest_features", 1),
        ("vcpu_type", "EPYC-v4"),
        ("vcpus", 1),
        ("vmm", "qemu"),
    )
    assert [dict(shape)["page_order"] for shape in tdx.shapes()] == ["one-pass", "two-pass"]
    assert {one.platform for one in made.left_out} == {"aws-nitro", "intel-sgx", "arm-cca"}
    assert made.text == GOOD


def test_the_firmware_that_the_recipe_names_is_the_released_one():
    """By digest, and the lock's file is in the checkout: nothing else could be measured."""
    released = json.loads((ROOT / "nix/lock/released.json").read_bytes())
    pinned = {f"sha256:{seed['sha256']}": seed for seed in released["seeds"]}
    named = [file for _, file in recipe.parse(GOOD).firmware if file.startswith("sha256:")]
    assert sorted(named) == sorted(pinned)
    for digest, seed in pinned.items():
        data = (ROOT / "nix" / seed["path"]).read_bytes()
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
    made_from = {one["sha256"] for seed in released["seeds"] for one in seed["materials"]}
    source = json.loads((ROOT / "nix/lock/edk2.json").read_bytes())
    assert made_from == {seed["sha256"] for seed in source["seeds"]}


def test_firmware_has_a_recipe_of_its_own():
    made = recipe.parse((ROOT / "build/firmware.yaml").read_bytes())
    assert made.products == ("ovmf-amdsev", "ovmf-inteltdx")
    assert not made.is_image
    assert [role for role, _ in made.locks] == ["busybox", "edk2", "python", "toolchain"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"products": ["ovmf-amdsev", "initramfs"]}, "want firmware alone, or an image alone"),
        ({"firmware": {"ovmf": "usr/share/ovmf/OVMF.fd"}}, "firmware: want nothing: firmware is no image"),
        ({"left_out": [{"platform": "arm-cca", "reason": "x"}]}, "left_out: want nothing"),
        ({"locks": {"busybox": "busybox", "python": "python"}}, "want this field, got nothing"),
    ],
)
def test_a_firmware_recipe_holds_firmware_alone(change, message):
    doc = yaml.safe_load((ROOT / "build/firmware.yaml").read_bytes()) | change
    with pytest.raises(Malformed, match=message):
        recipe.parse(text(doc))


def test_nix_gets_only_what_it_builds_from():
    made = recipe.parse(GOOD)
    assert set(json.loads(made.for_nix())) == {
        "name",
        "version",
        "products",
        "command_lines",
        "locks",
        "firmware",
    }
    other = document()
    other["platforms"][0]["ram_mib"] = 1024
    assert recipe.parse(text(other)).for_nix() == made.for_nix()  # another shape is no other image


def test_the_flake_builds_the_same_recipe():
    """nix/flake.nix can not read YAML: nix/recipe.json is the recipe for it."""
    assert (ROOT / "nix/recipe.json").read_text() == recipe.parse(GOOD).for_nix() + "\n"


def test_the_changed_dependency_changes_nothing_else():
    changed = yaml.safe_load((ROOT / "build/changed-dependency.yaml").read_bytes())
    assert changed["locks"].pop("wheels") == "wheels-rfc8785-0.1.3"
    same = document()
    del same["locks"]["wheels"]
    assert changed == same
    locks = [
        json.loads((ROOT / f"nix/lock/{n}.json").read_bytes()) for n in ("wheels", "wheels-rfc8785-0.1.3")
    ]
    first, second = ({s["package"]: s for s in lock["seeds"]} for lock in locks)
    assert {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)} == {
        "rfc8785"
    }


@pytest.mark.parametrize("name", sorted(set(document()) - {"manufacturer"}))
def test_every_field_but_the_manufacturer_is_required(name):
    doc = document()
    del doc[name]
    with pytest.raises(Malformed, match=rf"recipe: {name} \(line 1 column 1\): want this field, got nothing"):
        recipe.parse(text(doc))


@pytest.mark.parametrize(
    ("where", "at"),
    [
        ([], "latest"),
        (["locks"], "locks.gcc"),
        (["firmware"], None),
        (["command_lines"], "command_lines.oci"),
        (["platforms", 0], r"platforms\[0\].skip"),
        (["left_out", 0], r"left_out\[0\].until"),
    ],
)
def test_unknown_fields_are_refused_with_their_place(where, at):
    if at is None:
        return
    doc = document()
    table = doc
    for step in where:
        table = table[step]
    table[at.rpartition(".")[2]] = "x"
    with pytest.raises(
        Malformed, match=rf"{at} \(line \d+ column \d+\): want a known field, got an unknown one"
    ):
        recipe.parse(text(doc))


WRONG = [
    ("name", "Upper", Malformed),
    ("name", "a/b", Malformed),
    ("name", "-x", Malformed),
    ("name", 7, Malformed),
    ("version", "1 0", Malformed),
    ("version", "", Malformed),
    ("products", [], Malformed),
    ("products", ["uki", "uki"], Malformed),
    ("products", ["iso"], Unsupported),
    ("products", ["uki", "eif"], Malformed),  # and no initramfs
    ("schema", "tallystick/recipe/v2", Unsupported),
    ("platforms", "qemu-vtpm", Malformed),
    ("platforms", [], Malformed),  # spoken of nowhere
    ("left_out", [], Malformed),
    ("firmware", {}, Malformed),
    ("firmware", {"ovmf": "../../etc/shadow"}, Malformed),
    ("firmware", {"ovmf": "/etc/shadow"}, Malformed),
    ("firmware", {"ovmf": "usr/./share"}, Malformed),
    ("firmware", {"../x": "usr/share/x.fd"}, Malformed),
    ("firmware", {"ovmf": "sha256:" + "A" * 64}, Malformed),
    ("firmware", {"ovmf": "sha256:00"}, Malformed),
    ("firmware", {"ovmf": 7}, Malformed),
    ("firmware", {"other": "usr/share/ovmf/OVMF.fd"}, Malformed),
    ("command_lines", {"uki": "console=ttyS0"}, Malformed),
    ("command_lines", {"uki": "a\nb", "eif": "c"}, Malformed),
    ("command_lines", {"uki": "ä", "eif": "c"}, Malformed),
    ("locks", {"busybox": "../../x"}, Malformed),
]


@pytest.mark.parametrize(("name", "value", "error"), WRONG)
def test_wrong_values_are_refused(name, value, error):
    doc = document()
    doc[name] = value
    with pytest.raises(error, match="recipe: "):
        recipe.parse(text(doc))


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("platform", "amd-sev-snp", Malformed),  # which has other fields
        ("platform", "intel-sgx", Unsupported),  # no machine: it can only be left out
        ("platform", "sev", Unsupported),
        ("vmm", "firecracker", Unsupported),
        ("ram_mib", 63, Malformed),
        ("ram_mib", "512", Malformed),
        ("ram_mib", True, Malformed),
        ("vcpus", [], Malformed),
        ("vcpus", 1, Malformed),
        ("vcpus", [0], Malformed),
        ("vcpus", [1, 1], Malformed),
        ("vcpus", [True], Malformed),
        ("firmware", "seabios", Malformed),
    ],
)
def test_wrong_platforms_are_refused(name, value, error):
    doc = document()
    doc["platforms"][0][name] = value
    with pytest.raises(error, match="recipe: "):
        recipe.parse(text(doc))


def test_a_platform_is_never_left_out_by_silence():
    doc = document()
    doc["left_out"] = [one for one in doc["left_out"] if one["platform"] != "aws-nitro"]
    with pytest.raises(
        Malformed, match="want aws-nitro once: measured for, or left out with a reason, got nothing"
    ):
        recipe.parse(text(doc))


@pytest.mark.parametrize(
    ("index", "name", "value", "error"),
    [
        (1, "guest_features", [0], Malformed),
        (1, "guest_features", [1 << 64], Malformed),
        (1, "vcpu_types", [], Malformed),
        (1, "vcpu_types", ["EPYC v4"], Malformed),
        (1, "vcpus", [1, 1], Malformed),
        (1, "vmm", "ec2", Unsupported),  # its launch digest does not cover the image
        (1, "ram_mib", 512, Malformed),  # the digest does not depend on it
        (2, "page_orders", ["three-pass"], Malformed),
        (2, "page_orders", [], Malformed),
        (2, "firmware", "seabios", Malformed),
    ],
)
def test_shapes_of_each_platform_have_their_own_fields(index, name, value, error):
    doc = document()
    doc["platforms"][index][name] = value
    with pytest.raises(error, match="recipe: "):
        recipe.parse(text(doc))


def test_an_enclave_has_no_firmware_and_one_shape():
    doc = document()
    doc["left_out"] = [one for one in doc["left_out"] if one["platform"] != "aws-nitro"]
    doc["platforms"].append({"platform": "aws-nitro", "vmm": "nitro"})
    enclave = recipe.parse(text(doc)).platforms[-1]
    assert (enclave.firmware, enclave.shapes()) == ("", ((("vmm", "nitro"),),))
    doc["products"].remove("eif")
    del doc["command_lines"]["eif"]
    with pytest.raises(Malformed, match="platforms aws-nitro: want the product eif"):
        recipe.parse(text(doc))


def test_an_image_without_command_lines_takes_none():
    left = [{"platform": name, "reason": "no product starts there"} for name in recipe.PLATFORMS]
    doc = document() | {"products": ["initramfs"], "command_lines": {}, "platforms": [], "left_out": left}
    assert recipe.parse(text(doc)).command_lines == ()


@pytest.mark.parametrize("path", sorted((ROOT / "build").glob("*.yaml")), ids=lambda p: p.name)
def test_recipes_keep_the_published_schema(path):
    assert validator().is_valid(yaml.safe_load(path.read_bytes()))
    recipe.parse(path.read_bytes())


@pytest.mark.parametrize(("name", "value", "error"), WRONG)
def test_the_published_schema_takes_no_more_than_the_reader_says(name, value, error):
    between_fields = (
        name in ("platforms", "left_out")
        or value in (["uki", "eif"], {"other": "usr/share/ovmf/OVMF.fd"}, {})
        or value == {"uki": "console=ttyS0"}
    )
    if not between_fields:
        assert not validator().is_valid(document() | {name: value})


def validator():
    import jsonschema_rs

    schema = json.loads((ROOT / "docs/schemas/recipe.schema.json").read_bytes())
    return jsonschema_rs.validator_for(schema)


@given(st.binary(max_size=400))
def test_bytes_are_a_recipe_or_an_error_of_ours(data):
    with suppress(Malformed, Unsupported):
        recipe.parse(data)


@given(st.data())
def test_nearly_a_recipe_is_a_recipe_or_an_error_of_ours(data):
    at = data.draw(st.integers(0, len(GOOD) - 1))
    size = data.draw(st.integers(0, 30))
    with suppress(Malformed, Unsupported):
        recipe.parse(GOOD[:at] + data.draw(st.binary(max_size=12)) + GOOD[at + size :])


def test_the_manufacturer_is_somebody_who_can_be_reached_and_nothing_that_nix_sees():
    doc = document()
    with_one = recipe.parse(text(doc))
    assert with_one.manufacturer == Party(
        name="The Tallystick developers", email="", url="https://tallystick.dev/"
    )
    del doc["manufacturer"]
    assert recipe.parse(text(doc)).manufacturer is None
    assert recipe.parse(text(doc)).for_nix() == with_one.for_nix()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"name": "A"}, "want an email or a url beside the name"),
        ({"name": "A", "email": "nobody"}, "want an e-mail address"),
        ({"name": "A", "url": "http://a.example"}, "want a URL that begins with https://"),
        ({"name": "A", "email": "a@b.c", "phone": "1"}, "manufacturer.phone"),
        ({"email": "a@b.c"}, "manufacturer.name"),
        ("A", "want a mapping"),
    ],
)
def test_a_manufacturer_that_nobody_can_reach_is_refused(value, said):
    with pytest.raises(Malformed) as caught:
        recipe.parse(text({**document(), "manufacturer": value}))
    assert said in str(caught.value)

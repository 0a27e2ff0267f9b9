"""Recipes: what parses, and every way of being wrong, with its place."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tallystick.build import recipe
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
    (platform,) = made.platforms
    assert platform.shapes() == ((("ram_mib", 512), ("vcpus", 1), ("vmm", "qemu")),)
    assert {one.platform for one in made.left_out} == {"snp", "tdx", "sgx", "nitro", "cca"}
    assert made.text == GOOD


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


@pytest.mark.parametrize("name", sorted(document()))
def test_every_field_is_required(name):
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
        ("platform", "snp", Malformed),  # also left out
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
    doc["left_out"] = [one for one in doc["left_out"] if one["platform"] != "snp"]
    with pytest.raises(
        Malformed, match="want snp once: measured for, or left out with a reason, got nothing"
    ):
        recipe.parse(text(doc))


def test_an_image_without_command_lines_takes_none():
    doc = document() | {"products": ["initramfs"], "command_lines": {}}
    assert recipe.parse(text(doc)).command_lines == ()


@pytest.mark.parametrize("path", sorted((ROOT / "build").glob("*.yaml")), ids=lambda p: p.name)
def test_recipes_keep_the_published_schema(path):
    assert validator().is_valid(yaml.safe_load(path.read_bytes()))
    recipe.parse(path.read_bytes())


@pytest.mark.parametrize(("name", "value", "error"), WRONG)
def test_the_published_schema_takes_no_more_than_the_reader_says(name, value, error):
    between_fields = (
        name in ("platforms", "left_out")
        or value in (["uki", "eif"], {"other": "usr/share/ovmf/OVMF.fd"})
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

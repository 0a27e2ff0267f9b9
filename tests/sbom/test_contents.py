"""Contents lists: the published schema and the reader agree on what is one."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sbom import builds

from tallystick.build import contents
from tallystick.core.errors import Malformed, TallystickError, Unsupported

SCHEMA = Path(__file__).parents[2] / "docs/schemas/contents.schema.json"


def document(build=builds.make().build, product=1):  # noqa: B008
    """Return a contents list as the image writers write it."""
    made = build.contents[product]
    return {
        "schema": "tallystick/contents/v1",
        "product": made.product,
        "files": [
            {
                "path": file.path,
                "sha256": file.digest.hex,
                "size": file.size_bytes,
                "mode": file.mode,
                "component": file.component,
                **({"nested": file.nested} if file.nested else {}),
            }
            for file in made.files
        ],
        "components": [
            {
                "ref": part.ref,
                "kind": part.kind,
                "name": part.name,
                "version": part.version,
                "purl": part.purl,
                "licence": part.licence,
                "seed": part.seed,
                "sha256": part.digest.hex,
            }
            for part in sorted(made.components, key=lambda part: part.ref)
        ],
    }


def by_schema(value):
    from jsonschema_rs import Draft202012Validator

    return Draft202012Validator(json.loads(SCHEMA.read_text("utf-8"))).is_valid(value)


@pytest.mark.parametrize("product", [0, 1])
def test_a_list_reads_back_as_the_record(product):
    build = builds.make().build
    value = document(build, product)
    read = contents.parse(json.dumps(value).encode())
    assert read.files == build.contents[product].files
    assert set(read.components) == set(build.contents[product].components)
    assert by_schema(value)


@pytest.mark.parametrize(
    ("change", "said", "schema_sees"),
    [
        (lambda d: d.update(extra=1), "document fields: want components, files", True),
        (lambda d: d.pop("product"), "document fields: want components, files", True),
        (lambda d: d.update(product=3), "document.product: want a text, got int", True),
        (lambda d: d.update(files={}), "files: want a list, got dict", True),
        (lambda d: d.update(components=[1]), "components[0]: want an object, got int", True),
        (lambda d: d["files"][0].update(path=""), "files[0].path: want a text that is not empty", True),
        (lambda d: d["files"][0].update(sha256="A" * 64), "files[0].sha256: want 64 lower-case hex", True),
        (lambda d: d["files"][0].update(size=True), "files[0].size: want a size in bytes, got True", True),
        (lambda d: d["files"][0].update(size=-1), "files[0].size: want a size in bytes, got -1", True),
        (lambda d: d["files"][0].update(mode="755"), "files[0].mode: want seven octal digits", True),
        (lambda d: d["files"][0].update(nested=0), "files[0].nested: want a text, got int", True),
        (lambda d: d["files"][0].update(owner="x"), "files[0] fields: want component, mode", True),
        (lambda d: d["components"][0].update(kind="rpm"), "components[0].kind: want deb or", True),
        (lambda d: d["components"][0].update(name=""), "components[0].name: want a text that is not", True),
        (lambda d: d["files"].reverse(), "files: want sorted and without duplicates", False),
        (lambda d: d["files"].append(d["files"][-1]), "files: want sorted and without duplicates", False),
        (lambda d: d["components"].reverse(), "components: want sorted and without duplicates", False),
        (lambda d: d["files"][0].update(component="other"), "want a component of this list, or none", False),
    ],
)
def test_what_is_no_list_is_refused_by_name(change, said, schema_sees):
    value = document()
    change(value)
    with pytest.raises(Malformed) as caught:
        contents.parse(json.dumps(value).encode())
    assert said in str(caught.value)
    assert by_schema(value) is not schema_sees


def test_another_schema_is_unsupported():
    with pytest.raises(Unsupported, match="schema: want tallystick/contents/v1"):
        contents.parse(b'{"schema":"tallystick/contents/v2"}')


def test_an_unexplained_file_is_well_formed():
    value = document()
    value["files"][0]["component"] = ""
    assert contents.parse(json.dumps(value).encode()).files[0].component == ""
    assert by_schema(value)


@given(st.binary() | st.integers(0, 900).map(lambda n: json.dumps(document()).encode()[:n]))
def test_arbitrary_bytes_never_crash_the_reader(data):
    with suppress(TallystickError):
        contents.parse(data)

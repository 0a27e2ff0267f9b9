"""Contents lists: read strictly; and which component differs between two of them."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.build import compare, contents
from tallystick.build.records import Build, NixFacts, Product
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Unsupported


def sha(text: str) -> str:
    return Digest.of(text.encode()).hex


def component(name: str, version: str, *, kind: str = "deb") -> dict:
    ref = f"pkg:deb/debian/{name}@{version}"
    return {
        "ref": ref,
        "kind": kind,
        "name": name,
        "version": version,
        "purl": ref,
        "licence": "MIT",
        "seed": f"{name}.deb",
        "sha256": sha(ref),
    }


def file(path: str, ref: str, text: str = "x", **more: str) -> dict:
    return {"path": path, "sha256": sha(text), "size": len(text), "mode": "0100644", "component": ref} | more


def document(files: list[dict], components: list[dict], product: str = "initramfs") -> bytes:
    return json.dumps(
        {
            "schema": contents.SCHEMA,
            "product": product,
            "files": sorted(files, key=lambda f: f["path"].encode()),
            "components": sorted(components, key=lambda c: c["ref"].encode()),
        }
    ).encode()


LIBC, ZLIB, ZLIB2 = component("libc6", "2.36"), component("zlib1g", "1.2"), component("zlib1g", "1.3")
BEFORE = contents.parse(
    document(
        [file("lib/libc.so", LIBC["ref"]), file("lib/libz.so", ZLIB["ref"]), file("lib/old", LIBC["ref"])],
        [LIBC, ZLIB],
    )
)


def test_a_new_version_is_one_change_with_its_files():
    after = contents.parse(
        document(
            [
                file("lib/libc.so", LIBC["ref"]),
                file("lib/libz.so", ZLIB2["ref"], "y"),
                file("lib/old", LIBC["ref"]),
            ],
            [LIBC, ZLIB2],
        )
    )
    (change,) = contents.component_changes(BEFORE, after)
    assert change.words == "zlib1g: 1.2 -> 1.3 (1 file)"
    assert [one.path for one in change.files] == ["lib/libz.so"]


def test_added_removed_and_changed_files_are_each_found():
    odd = file("lib/planted", "", "evil")
    after = contents.parse(document([file("lib/libc.so", LIBC["ref"], "other"), odd], [LIBC]))
    found = {one.path: (one.before is None, one.after is None) for one in contents.changes(BEFORE, after)}
    assert found == {
        "lib/libc.so": (False, False),
        "lib/libz.so": (False, True),
        "lib/old": (False, True),
        "lib/planted": (True, False),
    }
    words = [one.words for one in contents.component_changes(BEFORE, after)]
    assert words == [
        "(unexplained): added (1 file)",
        "libc6 2.36: same source, other files (2 files)",
        "zlib1g: removed (1 file)",
    ]


def test_a_mode_or_another_source_of_the_same_version_is_a_change():
    setuid = file("lib/libc.so", LIBC["ref"]) | {"mode": "0104755"}
    other = LIBC | {"sha256": sha("rebuilt")}
    after = contents.parse(
        document([setuid, file("lib/libz.so", ZLIB["ref"]), file("lib/old", LIBC["ref"])], [other, ZLIB])
    )
    (change,) = contents.component_changes(BEFORE, after)
    assert change.words == "libc6 2.36: other source, same version (1 file)"


def test_equal_lists_have_no_changes():
    assert contents.component_changes(BEFORE, BEFORE) == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(extra=1),
        lambda d: d["files"].reverse(),
        lambda d: d["files"].append(d["files"][-1]),
        lambda d: d["files"][0].update(component="pkg:deb/debian/none@1"),
        lambda d: d["files"][0].update(mode="644"),
        lambda d: d["files"][0].update(size=-1),
        lambda d: d["files"][0].update(sha256="00"),
        lambda d: d["files"][0].pop("path"),
        lambda d: d["components"][0].update(kind="rpm"),
        lambda d: d["components"].clear(),
    ],
)
def test_wrong_lists_are_refused(change):
    doc = json.loads(document([file("a", LIBC["ref"]), file("b", LIBC["ref"])], [LIBC]))
    change(doc)
    with pytest.raises(Malformed, match="contents list: "):
        contents.parse(json.dumps(doc).encode())


@given(st.binary(max_size=300))
def test_bytes_are_a_list_or_an_error_of_ours(data):
    with suppress(Malformed, Unsupported):
        contents.parse(data)


GOOD = document([file("a", LIBC["ref"]), file("b", LIBC["ref"], nested="x")], [LIBC])


@given(st.data())
def test_nearly_a_list_is_a_list_or_an_error_of_ours(data):
    at = data.draw(st.integers(0, len(GOOD) - 1))
    with suppress(Malformed, Unsupported):
        contents.parse(
            GOOD[:at] + data.draw(st.binary(max_size=6)) + GOOD[at + data.draw(st.integers(0, 9)) :]
        )


NIX = NixFacts(
    version="2.8.0", system="x86_64-linux", sandbox=True, sandbox_fallback=False, build_users=True, config=()
)


def drv(name: str, out: str, inputs: list[str]) -> tuple[str, bytes]:
    wanted = ",".join(f'("{path}",["out"])' for path in sorted(inputs))
    path = f"/nix/store/{out * 32}-{name}"
    variables = f'("name","{name}"),("out","{path}")'
    text = f'Derive([("out","{path}","","")],[{wanted}],[],"x86_64-linux","/bin/sh",[],[{variables}])'
    return f"{path}.drv", text.encode()


def build(text: str) -> Build:
    base, middle = drv("base", "0", []), drv("middle", "1", [f"/nix/store/{'0' * 32}-base.drv"])
    top = drv("top", "2", [middle[0]])
    product = Product(
        name="uki",
        path="products/uki.efi",
        digest=Digest.of(text.encode()),
        size_bytes=1,
        drv=top[0],
        output=f"/nix/store/{'2' * 32}-top",
    )
    return Build(
        name="x",
        version="1",
        recipe=b"",
        products=(product,),
        contents=(),
        derivations=tuple(sorted([base, middle, top])),
        nix=NIX,
    )


def test_equal_products_are_no_finding():
    assert list(compare.products(build("a"), build("a"))) == []


def test_a_product_that_differs_is_named_with_both_digests():
    (found,) = compare.products(build("a"), build("b"))
    assert (found.code, found.where) == ("build.product.differs", "products/uki.efi")
    assert (found.want, found.got) == (str(Digest.of(b"a")), str(Digest.of(b"b")))


def test_the_first_step_that_differs_is_named_and_not_what_follows_from_it():
    paths = [f"/nix/store/{c * 32}-{n}" for c, n in zip("012", ("base", "middle", "top"), strict=True)]
    first = dict(zip(paths, "abc", strict=True))
    second = dict(zip(paths, "axy", strict=True))
    (found,) = compare.steps(build("a"), first, second)
    assert (found.code, found.where, found.want, found.got) == (
        "build.step.differs",
        "middle (out)",
        "b",
        "x",
    )


def test_where_two_files_begin_to_differ(tmp_path):
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_bytes(b"x" * 2_000_000)
    other.write_bytes(b"x" * 1_500_000 + b"y" + b"x" * 499_999)
    assert compare.first_difference(one, other) == 1_500_000
    other.write_bytes(b"x" * 10)
    assert compare.first_difference(one, other) == 10
    assert compare.first_difference(one, one) is None

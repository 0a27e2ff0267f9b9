"""Derivation texts: read whole, written back to the same bytes, and every path recomputed without Nix."""

import hashlib
import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from formats.drvs import Maker, chain, recompute
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import drv, drvgraph, nixstore
from tallystick.formats.drv import Derivation, Output

OUT = nixstore.store_path("output:out", "0" * 64, "demo")
GOOD = (
    f'Derive([("out","{OUT}","","")],[],[],"x86_64-linux","/bin/sh",["-c","true"],'
    f'[("name","demo"),("out","{OUT}")])'
).encode()

TEXTS = st.text(st.characters(codec="utf-8")) | st.sampled_from(
    ['"', "\\", "\n\r\t", '\\"', "a\\nb", "\udc80"]
)
NAMES = st.lists(TEXTS, max_size=4).map(tuple)


@st.composite
def derivations(draw):
    outputs = tuple(
        Output(name, nixstore.output_path(name, "0" * 64, "demo"), "", "")
        for name in sorted(draw(st.sets(st.sampled_from(["bin", "dev", "out"]), min_size=1)))
    )
    inputs = sorted(draw(st.sets(st.integers(0, 9), max_size=3)))
    keys = draw(st.sets(TEXTS, max_size=4))
    return Derivation(
        outputs,
        tuple(
            sorted((nixstore.text_path(f"in{n}.drv", b"", []), ("dev", "out")[: 1 + n % 2]) for n in inputs)
        ),
        tuple(sorted(nixstore.source_path("0" * 64, f"src{n}") for n in inputs)),
        draw(TEXTS),
        draw(TEXTS),
        draw(NAMES),
        tuple((key, draw(TEXTS)) for key in sorted(keys, key=lambda k: k.encode("utf-8", "surrogateescape"))),
    )


@given(derivations())
def test_what_is_written_reads_back_the_same(made):
    text = drv.unparse(made)
    assert drv.parse(text) == made
    assert drv.unparse(drv.parse(text)) == text


@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_a_text_changed_anywhere_is_refused_or_still_every_byte_of_a_derivation(at, put, cut):
    text = GOOD[:at] + put + GOOD[at + cut :]
    with suppress(Malformed, Unsupported):
        assert drv.unparse(drv.parse(text)) == text


@given(st.binary())
def test_arbitrary_bytes_never_crash_the_parser(data):
    with suppress(Malformed, Unsupported):
        assert drv.unparse(drv.parse(data)) == data


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_every_truncation_is_refused(length):
    with pytest.raises(Malformed, match=r"^derivation: "):
        drv.parse(GOOD[:length])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b")])", b")])\n", "end at character"),
        (b'"demo"', b'"de\nmo"', "env at character"),
        (b'"demo"', b'"de\\qmo"', "env at character"),
        (b'[("name","demo"),', b'[("name","demo"),("name","demo"),', "env: want sorted"),
        (b'("name","demo"),', b"", None),
        (b'[("name"', b'[ ("name"', "env at character"),
        (b'"","")', b'"sha256","")', "hashAlgo and hash together"),
        (b'"","")', b'"sha256","00")', "want 64 hex digits"),
        (b'"","")', b'"blake3","00")', "hashAlgo: want one of md5, sha1, sha256, sha512"),
        (b"/nix/store/", b"/gnu/store/", "store path"),
        (OUT.encode(), b"", "floating or impure"),
        (b"Derive(", b'DrvWithVersion("xp-dyn-drv",', "want Derive(…)"),
        (b"[],[],", b"[],[" + b'"/nix/store/short-x"' + b"],", "store path"),
    ],
)
def test_what_nix_would_not_have_written_is_refused_by_name(old, new, said):
    text = GOOD.replace(old, new, 1)
    if said is None:
        assert drv.unparse(drv.parse(text)) == text
        return
    with pytest.raises((Malformed, Unsupported)) as caught:
        drv.parse(text)
    assert said in str(caught.value)


def test_a_fixed_output_is_alone():
    path = nixstore.fixed_path("sha256", "0" * 64, "demo")
    two = (
        f'Derive([("lib","{path}","",""),("out","{path}","sha256","{"0" * 64}")],[],[],"s","b",[],[])'
    ).encode()
    with pytest.raises(Malformed, match="want a fixed output alone and called out, got 2 outputs"):
        drv.parse(two)


def test_a_huge_text_is_refused_before_it_is_read():
    with pytest.raises(Malformed, match=f"at most {drv.MAX_BYTES} bytes"):
        drv.parse(b"x" * (drv.MAX_BYTES + 1))


def test_hostile_strings_do_not_make_the_scanner_slow():
    start = time.perf_counter()
    for hostile in (b'"' + b"\\\\" * 200_000, b"[" + b'"a",' * 100_000, b'["' + b'\\"' * 200_000):
        with pytest.raises(Malformed):
            drv.parse(b"Derive(" + hostile)
    assert time.perf_counter() - start < 2


def test_an_input_that_is_no_derivation_and_an_unknown_fixed_hash_are_refused():
    text = GOOD.replace(b"[],[],", f'[("{OUT}",["out"])],[],'.encode(), 1)
    with pytest.raises(Malformed, match=r"inputDrvs: want paths that end in \.drv"):
        drv.parse(text)
    with pytest.raises(Unsupported, match="got text:sha256"):
        nixstore.fixed_path("text:sha256", "0" * 64, "x")


def test_base32_is_nix_s_own():
    """As ``nix hash to-base32`` prints; the second is the SHA-256 of no bytes, known from nixpkgs."""
    assert nixstore.base32(bytes(20)) == "0" * 32
    empty = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    assert nixstore.base32(empty) == "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"


def test_a_graph_s_paths_follow_from_its_texts():
    maker = Maker()
    seed = maker.fixed("seed.deb", hashlib.sha256(b"x").hexdigest(), url="seed:x")
    tree = maker.fixed("tree", hashlib.sha256(b"y").hexdigest(), "r:sha256")
    lib = maker.step("lib", {seed: ("out",), tree: ("out",)}, outputs=("out", "dev"))
    top = maker.step("top", {lib: ("dev",), seed: ("out",)}, sources=(nixstore.source_path("1" * 64, "s"),))
    found = recompute(maker)
    assert {path: made.drv for path, made in found.items()} == {path: path for path in maker.texts}
    assert dict(found[lib].outputs) == {"dev": maker.output(lib, "dev"), "out": maker.output(lib)}
    graph = drvgraph.read(maker.items())
    assert graph.order.index(lib) < graph.order.index(top)
    assert graph.closure([lib]) == {seed, tree, lib}
    assert [path for path, _ in graph.fixed()] == sorted([seed, tree])
    assert graph.sources() == (nixstore.source_path("1" * 64, "s"),)


def test_two_fetches_of_one_hash_count_as_one_input():
    """Nix hashes a fixed output by what it is, so the two merge; listing both leads to another path."""
    maker = Maker()
    digest = hashlib.sha256(b"x").hexdigest()
    one, two = maker.fixed("seed", digest, url="seed:a"), maker.fixed("seed", digest, url="seed:b")
    top = maker.step("top", {one: ("out",), two: ("out",)})
    assert one != two
    assert dict(recompute(maker)[top].outputs) == {"out": maker.output(top)}


def test_one_changed_byte_of_a_step_shows_at_that_step_and_in_every_output_built_on_it():
    maker = chain(5)
    (path,) = [path for path in maker.texts if path.endswith("-step-1.drv")]
    maker.texts[path] = maker.texts[path].replace(b"made", b"Made")
    found = recompute(maker)
    assert [at for at, made in found.items() if made.drv != at] == [path]
    wrong = [at for at, made in found.items() if made.outputs != (("out", maker.output(at)),)]
    assert [nixstore.name_of(at) for at in wrong] == ["step-1.drv", "step-2.drv", "step-3.drv"]


def test_a_missing_input_a_missing_output_and_a_cycle_are_refused():
    maker = chain(3)
    items = dict(maker.items())
    seed, first, second = sorted(items, key=lambda path: nixstore.name_of(path))
    with pytest.raises(Malformed, match="no such derivation"):
        drvgraph.read([(first, items[first])])
    with pytest.raises(Malformed, match="want output lib of"):
        drvgraph.read({**items, first: items[first].replace(b'["out"]', b'["lib"]')}.items())
    circle = items[first].replace(seed.encode(), second.encode())
    with pytest.raises(Malformed, match="no cycles"):
        drvgraph.read({**items, first: circle}.items())
    with pytest.raises(Malformed, match="each derivation once"):
        drvgraph.read([(seed, items[seed]), (seed, items[seed])])
    with pytest.raises(Malformed, match=r"ends in \.drv"):
        drvgraph.read([(seed.removesuffix(".drv"), items[seed])])


def test_1500_derivations_in_a_row_are_read_and_recomputed_in_under_four_seconds():
    maker = chain(1500)
    start = time.perf_counter()
    assert all(path == made.drv for path, made in recompute(maker).items())
    assert time.perf_counter() - start < 4


@pytest.fixture(scope="session")
def nix_instantiate():
    found = shutil.which("nix-instantiate")
    if found is None:
        pytest.skip("nix-instantiate is not installed")
    return found


@pytest.mark.nix
def test_what_nix_itself_writes_is_read_whole_and_its_paths_recomputed(nix_instantiate, tmp_path):
    """The other implementation: 1,500 derivations of every shape, made by Nix and judged by us."""
    expression = Path(__file__).with_name("graph.nix")
    env = {**os.environ, "NIX_CONF_DIR": str(tmp_path), "NIX_STATE_DIR": str(tmp_path / "state")}
    command = [
        nix_instantiate,
        "--store",
        f"local?root={tmp_path}/root",
        str(expression),
        "--arg",
        "count",
        "1490",
    ]
    done = subprocess.run(
        [*command, "--option", "build-users-group", ""], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    store = tmp_path / "root/nix/store"
    texts = [(f"/nix/store/{path.name}", path.read_bytes()) for path in store.glob("*.drv")]
    start = time.perf_counter()
    graph = drvgraph.read(texts)
    found = drvgraph.recompute(graph)
    assert time.perf_counter() - start < 4
    assert len(texts) == 1500
    assert done.stdout.strip() in graph
    for path, text in texts:
        assert drv.unparse(graph[path]) == text
        assert found[path].drv == path
        assert found[path].outputs == tuple((output.name, output.path) for output in graph[path].outputs)

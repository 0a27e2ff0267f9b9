"""Real builds: twice the same, every byte explained, and every way of not being so caught."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import support_newer_nix
import support_sshd

from tallystick.build import compare, contents, host, make, nix, probe, seeds
from tallystick.build.make import Order
from tallystick.build.nix import Nix, Store
from tallystick.build.records import Build, NixFacts
from tallystick.core.errors import Exit, Misuse, NotGenuine, NotReproducible, Unreachable

pytestmark = [pytest.mark.nix, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "build/confidential-inference.yaml"
UKI_LIMIT_BYTES = 20_000_000  # the firmware hashes all of it before anything starts

NO_FACTS = NixFacts(version="", system="", sandbox=True, sandbox_fallback=False, build_users=True, config=())


def quiet(words: str) -> None:
    pass


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A folder for stores: not under a world-writable one, which newer Nix refuses."""
    base = ROOT / ".state"
    base.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="nix-tests-", dir=base))
    folder.chmod(0o755)
    yield folder
    host.remove(host.prepare(folder / "state"), folder)


def tally(*arguments: str | Path, state: Path, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "tallystick.cli", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "pipeline"), "TALLY_STATE": str(state)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="session")
def release(place) -> Path:
    """A release directory as `tally build` makes it."""
    child = tally("build", RECIPE, "-o", place / "release", "--json", state=place / "state")
    output, errors = child.communicate()
    assert child.returncode == 0, errors
    assert json.loads(output)["directory"] == str(place / "release")
    return place / "release"


@pytest.fixture(scope="session")
def machine(place) -> Nix:
    return host.prepare(place / "state")


@pytest.fixture(scope="session")
def order() -> Order:
    wanted = make.order(RECIPE, seeds.cache_folder())
    seeds.fetch((lock for _, lock in wanted.locks), wanted.cache, quiet)
    return wanted


@pytest.fixture(scope="session")
def store(release, place) -> Store:
    """The store that the build left."""
    return host.first_store(place / "state")


def lists(folder: Path) -> dict[str, contents.Contents]:
    return {p.stem: contents.parse(p.read_bytes()) for p in sorted((folder / "contents").glob("*.json"))}


def test_the_image_is_small_enough_to_boot_quickly(release):
    assert (release / "products/uki.efi").stat().st_size < UKI_LIMIT_BYTES


def test_every_file_of_every_product_has_a_component(release):
    products = lists(release)
    assert set(products) == {"uki", "initramfs", "oci", "eif"}
    assert [f.path for one in products.values() for f in one.files if not f.component] == []
    named = {c.name for one in products.values() for c in one.components}
    assert {
        "busybox-static",
        "libc6",
        "python3.11-minimal",
        "cryptography",
        "cffi",
        "rfc8785",
        "tallystick",
    } <= named


def test_the_release_holds_what_the_contract_lists(release):
    index = json.loads((release / "index.json").read_bytes())
    top = {path.partition("/")[0] for path in index["files"]}
    assert top == {
        "recipe.yaml",
        "products",
        "contents",
        "firmware",
        "statements",
        "derivations",
        "seeds",
        "nix",
    }
    assert (release / "recipe.yaml").read_bytes() == RECIPE.read_bytes()
    assert (release / "firmware/ovmf.fd").stat().st_size == 2 << 20


def test_nothing_of_this_machine_is_in_the_release(release, place):
    home = str(Path.home()).encode()
    for path in sorted(release.rglob("*")):
        if path.is_file() and "seeds" not in path.parts and home != b"/":
            data = path.read_bytes()
            assert str(place).encode() not in data, path
            assert home + b"/" not in data or path.suffix in (".efi", ".xz", ".eif", ".tar"), path


def test_images_refer_to_nothing_in_the_store(release, store, machine):
    statement = json.loads((release / "statements/provenance.json").read_bytes())
    products = statement["predicate"]["buildDefinition"]["internalParameters"]["products"]
    for product in products.values():
        assert nix.run(machine, store, "nix-store", "--query", "--references", product["output"]) == ""


def test_the_provenance_says_how_nix_really_ran(release):
    statement = json.loads((release / "statements/provenance.json").read_bytes())
    ran = statement["predicate"]["buildDefinition"]["internalParameters"]["nix"]
    assert (ran["sandbox"], ran["sandboxFallback"], ran["buildUsers"]) == (True, False, True)
    assert ran["config"]["substituters"] == ran["config"]["sandbox-paths"] == ""
    assert ran["config"]["tallystick:second-store"]


def test_the_systems_own_store_is_not_touched(release):
    own = Path("/nix/store")
    mine = [p.name for p in own.iterdir() if "confidential-inference" in p.name] if own.exists() else []
    assert mine == []


def test_a_release_is_rebuilt_from_itself_without_network_or_cache(release, place):
    script = (
        "import sys; from pathlib import Path; from tallystick.build import make\n"
        "made = make.rebuild(Path(sys.argv[1]), state=Path(sys.argv[2]), say=lambda _: None)\n"
        "print([f.message for f in made.findings], len(made.build.products))"
    )
    copy = place / "elsewhere"
    shutil.copytree(release, copy)
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", script, str(copy), str(place / "rebuilder")],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "pipeline"),
            "HOME": str(place / "nobody"),
            "TALLY_SEED_CACHE": str(place / "no-cache"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("[] 4\n", 0), done.stderr
    assert not (place / "no-cache").exists()


def test_a_release_is_rebuilt_by_a_builder_over_ssh_and_the_same_bytes_come_back(
    release, machine, place, monkeypatch
):
    with support_sshd.serving(place / "remote", machine) as builder:
        monkeypatch.setenv("NIX_SSHOPTS", builder.options)
        rebuilt = make.rebuild(release, state=place / "away", say=quiet, remote=builder.url("ssh-ng"))
    assert rebuilt.findings == ()
    made = {path for product in rebuilt.build.products for path in [product.output]}
    assert all(builder.store.real(path).exists() for path in made)
    assert {line.split(" --store ")[0] for line in builder.log.read_text().splitlines()} == {
        "nix-daemon --stdio"
    }


def test_a_store_that_is_none_or_does_not_answer_is_told_apart_from_a_build_that_fails(store, machine):
    drv = f"/nix/store/{next((store.root / 'nix/store').glob('*.drv')).name}"
    with pytest.raises(Misuse, match="don't know how to open Nix store") as caught:
        nix.realise_at(machine, store, [drv], "garbage://x", quiet)
    assert caught.value.code == "nix.store"
    with pytest.raises(Unreachable, match="the builder does not answer") as unreachable:
        nix.realise_at(machine, store, [drv], "ssh-ng://127.0.0.1:1", quiet)
    assert unreachable.value.code == "nix.unreachable"


@pytest.mark.soak
def test_a_release_is_rebuilt_by_a_newer_nix_and_the_same_bytes_come_back(release, place, monkeypatch):
    programs = support_newer_nix.unpacked(place / "newer")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    rebuilt = make.rebuild(release, state=place / "newer-state", say=quiet)
    assert rebuilt.findings == ()
    assert nix.version_of(rebuilt.build.nix.version) >= (2, 26)


def test_a_release_with_another_seed_inside_is_not_rebuilt(release, place):
    copy = place / "tampered"
    shutil.copytree(release, copy)
    seed = next((copy / "seeds").glob("zlib1g_*"))
    data = bytearray(seed.read_bytes())
    data[-1] ^= 1
    seed.write_bytes(data)
    with pytest.raises(NotGenuine, match=r"1 seed\(s\) are not the pinned ones") as caught:
        make.rebuild(copy, state=place / "rebuilder", say=quiet)
    assert caught.value.findings[0].where == "zlib1g 1:1.2.13.dfsg-1"


def test_a_changed_dependency_gives_another_image_and_is_named(release, place):
    wanted = make.order(ROOT / "build/changed-dependency.yaml", seeds.cache_folder())
    made = make.build(wanted, state=place / "state", say=quiet)
    before, after = lists(release), {one.product: one for one in made.build.contents}
    (change,) = contents.component_changes(before["initramfs"], after["initramfs"])
    assert change.words.startswith("rfc8785: 0.1.4 -> 0.1.3 (")
    assert [f.path for f in change.files] == ["usr/lib/tallystick/rfc8785/__init__.pyc"]
    uki = contents.component_changes(before["uki"], after["uki"])
    assert [f.path for one in uki for f in one.files] == [".initrd"]


def attribute(order: Order, machine: Nix, store: Store, name: str) -> tuple[str, str]:
    expression = make.expression(order)
    drv = nix.evaluate(machine, store, expression, f"checks.{name}.drvPath")
    out = nix.evaluate(machine, store, expression, f"checks.{name}.outPath")
    return drv, out


def built_twice(order: Order, machine: Nix, place: Path, name: str) -> tuple[bytes, bytes, list]:
    """Build one check in two empty stores and return both outputs, and the steps that differ."""
    made, hashes = [], []
    for _ in range(2):
        with host.second_store(machine, place / "state") as second:
            make._add_seeds(machine, second.store, order)
            drv, out = attribute(order, machine, second.store, name)
            nix.realise(machine, second.store, [drv], quiet)
            made.append(second.store.real(out).read_bytes())
            built = nix.closure(machine, second.store, [drv], "--include-outputs")
            outputs = [path for path in built if not path.endswith(".drv")]
            hashes.append(nix.hashes(machine, second.store, outputs))
            texts = [(p, second.store.real(p).read_bytes()) for p in built if p.endswith(".drv")]
    empty = Build(
        name="", version="", recipe=b"", products=(), contents=(), derivations=tuple(texts), nix=NO_FACTS
    )
    return made[0], made[1], list(compare.steps(empty, *hashes))


def test_an_archive_made_without_care_is_caught_and_its_step_named(order, machine, place):
    first, second, steps = built_twice(order, machine, place, "naive")
    assert first != second
    assert [(found.code, found.where) for found in steps] == [("build.step.differs", "naive.cpio (out)")]


def test_the_projects_own_writer_gives_the_same_archive(order, machine, place):
    first, second, steps = built_twice(order, machine, place, "reference")
    assert first == second
    assert steps == []


def test_the_seed_is_proven_against_debians_package(order, machine, store):
    _, out = attribute(order, machine, store, "seedProof")
    assert store.real(out).read_text().startswith("bin/busybox of ")


def with_settings(machine: Nix, folder: Path, **changes: str) -> Nix:
    text = (machine.configuration / "nix.conf").read_text()
    lines = [line for line in text.splitlines() if line.split(" = ")[0].rstrip(" =") not in changes]
    folder.mkdir()
    (folder / "nix.conf").write_text("\n".join([*lines, *(f"{k} = {v}" for k, v in changes.items())]) + "\n")
    return replace(machine, configuration=folder)


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({"build-users-group": ""}, {"nix.probe.victim"}),
        ({"sandbox": "false"}, {"nix.config"}),  # for a store in a folder Nix keeps the sandbox all the same
        ({"sandbox-paths": tempfile.gettempdir()}, {"nix.probe.canary"}),
        ({"sandbox-paths": "/usr"}, {"nix.probe.programs"}),
        ({"sandbox-fallback": "true"}, {"nix.config"}),
    ],
    ids=["no-build-users", "no-sandbox", "host-files", "host-programs", "fallback"],
)
def test_a_build_that_could_reach_out_is_refused(changes, codes, order, machine, store, tmp_path):
    loose = with_settings(machine, tmp_path / "conf", **changes)
    with pytest.raises(probe.Unsandboxed, match="builds on this machine are not sandboxed") as caught:
        probe.observe(loose, store, make.expression(order), quiet)
    assert caught.value.exit is Exit.UNSUPPORTED
    assert {finding.code for finding in caught.value.findings} == codes


def test_a_build_as_this_project_configures_it_reaches_nothing(order, machine, store):
    facts = probe.observe(machine, store, make.expression(order), quiet)
    assert (facts.sandbox, facts.sandbox_fallback, facts.build_users) == (True, False, True)


def test_a_store_path_that_was_changed_afterwards_is_found(order, machine, place):
    with host.second_store(machine, place / "state") as second:
        make._add_seeds(machine, second.store, order)
        drv, out = attribute(order, machine, second.store, "naive")
        nix.realise(machine, second.store, [drv], quiet)
        nix.verify(machine, second.store, [out])
        path = second.store.real(out)
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        with pytest.raises(NotGenuine) as caught:
            nix.verify(machine, second.store, [out])
        assert caught.value.findings[0].where == out


def test_a_step_that_is_not_repeatable_ends_the_build_with_its_name(order, place, tmp_path):
    """One line that asks for the time of day, in an image function: exit 8, and the step that did it."""
    changed = tmp_path / "nix"
    shutil.copytree(ROOT / "nix", changed, ignore=shutil.ignore_patterns("__pycache__"))
    image = changed / "images/initramfs.nix"
    image.write_text(image.read_text().replace("cat $parts > $out", "cat $parts > $out; date +%s >> $out"))
    writer = changed / "src/initramfs.py"
    writer.write_text(writer.read_text().replace('"preset": 6', '"preset": 0'))  # quicker
    wanted = replace(
        order,
        project=replace(order.project, nix=changed),
        recipe=replace(order.recipe, products=("initramfs",), command_lines=()),
    )
    with pytest.raises(NotReproducible, match="two builds of the same inputs differ") as caught:
        make.build(wanted, state=place / "state", say=quiet)
    assert caught.value.exit is Exit.NOT_REPRODUCIBLE
    product, step = caught.value.findings
    assert (product.code, product.where) == ("build.product.differs", "products/initramfs.cpio.xz")
    assert "every listed file is the same" in product.note
    assert (step.code, step.where) == ("build.step.differs", "initramfs.cpio.xz (out)")


def mounts(place: Path) -> list[str]:
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(place) in line]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing_and_the_next_run_works(number, release, place):
    out = place / f"stopped-{number}"
    child = tally("build", RECIPE, "-o", out, state=place / "state")
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("second build"):
            break
    child.stderr.readline()  # a step of the second build has begun
    child.send_signal(number)
    child.communicate(timeout=60)
    assert child.returncode == 130
    assert not out.exists()
    assert [p.name for p in place.iterdir() if p.name.startswith(".stopped")] == []
    assert mounts(place) == []
    assert list((place / "state").glob("second-*")) == []


def test_a_full_disk_says_so_and_leaves_nothing(release, order, place, monkeypatch):
    monkeypatch.setattr(host, "_SECOND_STORE_SIZE", "120m")
    from tallystick.core.errors import Unreachable

    with pytest.raises(Unreachable, match="the disk is full") as caught:
        make.build(order, state=place / "state", say=quiet)
    assert caught.value.code == "build.no-space"
    assert mounts(place) == []


def test_a_module_that_the_guest_lacks_fails_the_build_and_is_named(order, machine, store, tmp_path):
    source = tmp_path / "pipeline"
    shutil.copytree(ROOT / "pipeline", source, ignore=shutil.ignore_patterns("__pycache__"))
    with (source / "tallystick/attester/__init__.py").open("a") as out:
        out.write("\n\ndef later() -> None:\n    import xml.dom.minidom\n")
    changed = replace(order, project=replace(order.project, source=source))
    drv = nix.evaluate(machine, store, make.expression(changed), "guest.imports.drvPath")
    with pytest.raises(nix.BuildFailed, match=r"xml\.dom\.minidom: ModuleNotFoundError"):
        nix.realise(machine, store, [drv], quiet)


def test_only_the_guests_sources_change_the_image(order, machine, store, tmp_path):
    """A file of another package, a note and a cache folder beside the sources are not inputs."""
    source = tmp_path / "pipeline"
    shutil.copytree(ROOT / "pipeline", source, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "tallystick/cli/extra.py").write_text("x = 1\n")
    (source / "tallystick/core/notes.txt").write_text("x\n")
    (source / "tallystick/core/__pycache__").mkdir()
    (source / "tallystick/core/__pycache__/x.py").write_text("x = 1\n")
    changed = replace(order, project=replace(order.project, source=source))
    same = nix.evaluate(machine, store, make.expression(order), "uki.drvPath")
    assert nix.evaluate(machine, store, make.expression(changed), "uki.drvPath") == same
    (source / "tallystick/core/extra.py").write_text("x = 1\n")
    assert nix.evaluate(machine, store, make.expression(changed), "uki.drvPath") != same


def test_evaluation_can_read_nothing_else_of_this_machine(order, machine, store, tmp_path):
    folder = tmp_path / "nix"
    shutil.copytree(ROOT / "nix", folder)
    (folder / "default.nix").write_text("{ ... }: { index = builtins.readFile /etc/passwd; }\n")
    curious = replace(order, project=replace(order.project, nix=folder))
    with pytest.raises(nix.BuildFailed, match="forbidden in restricted mode"):
        nix.evaluate(machine, store, make.expression(curious), "index")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"schema: tallystick/recipe/v1\nname: x\n", Exit.MALFORMED),
        (RECIPE.read_bytes().replace(b"vmm: qemu", b"vmm: xen"), Exit.UNSUPPORTED),
        (RECIPE.read_bytes().replace(b"kernel: kernel", b"kernel: none"), Exit.MISUSE),
        (None, Exit.MISUSE),
    ],
)
def test_bad_recipes_exit_as_the_contract_says(text, status, place, tmp_path):
    recipe = ROOT / "build" / f".test-{os.getpid()}.yaml"
    try:
        if text is not None:
            recipe.write_bytes(text)
        child = tally("build", recipe, "-o", tmp_path / "out", "--json", state=place / "state")
        output, _ = child.communicate()
    finally:
        recipe.unlink(missing_ok=True)
    assert (child.returncode, json.loads(output)["error"]["exit"]) == (status, status)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_release_is_not_replaced(place, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/to-a-friend.txt").write_text("dear")
    child = tally("build", RECIPE, "-o", tmp_path / "letters", state=place / "state")
    _, errors = child.communicate()
    assert child.returncode == Exit.MISUSE
    assert "exists and is not a release directory" in errors
    assert (tmp_path / "letters/to-a-friend.txt").read_text() == "dear"


def test_the_flake_evaluates_to_the_same_image(order, machine, store, tmp_path):
    """Without network: the bootstrap's outputs never touch the flake's input."""
    if not (ROOT / ".git").exists():
        pytest.skip("flakes are read from a git checkout")
    work = tmp_path / "checkout"
    shutil.copytree(ROOT / "nix", work / "nix", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "pipeline", work / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=work, check=True)
    loose = with_settings(
        machine,
        tmp_path / "conf",
        **{"experimental-features": "nix-command flakes", "restrict-eval": "false"},
    )
    said = nix.run(loose, store, "nix", "eval", "--raw", f"git+file://{work}?dir=nix#uki.drvPath")
    assert said == nix.evaluate(machine, store, make.expression(order), "uki.drvPath")

"""The demo's story, in order: every step is a `tally` command that anybody can run again by hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tallystick.cli import clock
from tallystick.cli.demo import chain, owner, refusals
from tallystick.cli.demo.machine import Machine, Outcome, write_disk
from tallystick.cli.demo.owner import Sealed
from tallystick.cli.demo.refusals import CHANNEL, Refused
from tallystick.cli.demo.softtpm import TpmMaker
from tallystick.cli.demo.steps import StepFailed, Steps
from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from tallystick.report.records import PromotionView

RECIPE = Path("build/confidential-inference.yaml")
CHANGED = Path("build/changed-dependency.yaml")
POLICY = Path("policies/confidential-inference.yaml")
_MARK = ".tally-demo"  # so that only a demo's own folder is ever replaced


@dataclass(slots=True)
class Told:
    """What the demo did, for its summary and its page."""

    workdir: Path
    release: str = ""
    products: dict[str, Any] = field(default_factory=dict)
    proofs: tuple[dict[str, Any], ...] = ()
    prompt: str = owner.PROMPT
    answer: str = ""
    key_seconds: float = 0.0
    boot_seconds: float = 0.0
    refused: list[Refused] = field(default_factory=list)
    log: dict[str, Any] = field(default_factory=dict)
    promotion: PromotionView | None = None
    page: str = ""
    seconds: float = 0.0


def tell(workdir: Path) -> Told:
    """Run the story in ``workdir`` and return what happened.

    Raises:
        Misuse: not in a checkout, or ``workdir`` holds something that is no demo.
        StepFailed, Unreachable: a step did not do what it should; what it said is passed on.
    """
    for path in (RECIPE, CHANGED, POLICY):
        if not path.is_file():
            raise Misuse(
                f"there is no {path}: run the demo in a checkout of Tallystick", code="demo.checkout"
            )
    _clear(workdir)
    told, steps = Told(workdir=workdir), Steps(workdir=workdir)
    _set_up(steps)
    sealed = _seal(steps)
    _build(steps, told, sealed)
    _release(steps, told)
    _compile(steps, told)
    _keys(steps, sealed)
    _machines(steps, told, sealed)
    steps.heading("Write the page of the chain, every part checked again")
    told.page = str(chain.write(told, CHANNEL, clock.now()))
    steps.say(told.page)
    told.seconds = round(steps.seconds, 1)
    return told


def _clear(workdir: Path) -> None:
    if workdir.exists():
        if not (workdir / _MARK).is_file() and (not workdir.is_dir() or any(workdir.iterdir())):
            raise Misuse(f"{workdir} exists and is no demo of ours: name another folder", code="demo.workdir")
        shutil.rmtree(workdir)


def _set_up(steps: Steps) -> None:
    steps.heading("Set up: a trust file, a Sigstore of our own, people, empty channels")
    made = steps.run("init", "--workdir", steps.workdir)
    (steps.workdir / _MARK).write_text("made by `tally demo`, which replaces this folder\n")
    steps.say(
        f"people: {', '.join(person['name'] for person in made['people'])}; roots are for development only"
    )


def _seal(steps: Steps) -> Sealed:
    steps.heading("The model's owner trains a small language model and encrypts weights and tokenizer")
    folder = steps.workdir / "model"
    folder.mkdir()
    sealed = owner.seal(folder, RECIPE, POLICY)
    sizes = ", ".join(f"{name} {len(data):,} bytes" for name, data in sealed.files.items())
    steps.say(f"{sizes}; the init-data names both artifacts and is measured")
    return sealed


def _build(steps: Steps, told: Told, sealed: Sealed) -> None:
    steps.heading("Build the image with Nix, twice, in two stores on two file systems")
    release = steps.workdir / "release"
    made = steps.run("build", RECIPE, "-o", release, "--init-data", sealed.init_data)
    told.release, told.products = made["release"], made["products"]
    uki = made["products"]["uki"]
    steps.say(f"equal bytes; {uki['path']} is {uki['size']:,} bytes; release {told.release}")


def _release(steps: Steps, told: Told) -> None:
    release = steps.workdir / "release"
    steps.heading("Sign every statement; nothing is promoted yet, so nothing compiles")
    steps.run("sign", release, "--as", "ci-builder", "--workdir", steps.workdir)
    early = steps.refused("compile", POLICY, "-o", steps.workdir / "early", "--workdir", steps.workdir)
    told.refused.append(refusals.of_command("a signed release that nobody promoted", "tally compile", early))
    steps.heading("Somebody else rebuilds it, from what the release carries and nothing more")
    steps.run("rebuild", release, "--as", "rebuilder", "--workdir", steps.workdir)
    steps.run("verify", release, "--trust", steps.workdir / "trust.json")
    steps.heading("Promote it to staging: one person proposes, two others approve")
    _promote(steps, release)
    told.promotion = chain.promotion(told, CHANNEL, clock.now())  # before the demo revokes it again


def _promote(steps: Steps, folder: Path) -> None:
    channel = ("--channel", CHANNEL, "--workdir", steps.workdir)
    steps.run("promote", folder, *channel, "--as", "alice")
    steps.run("approve", *channel, "--as", "bob")
    steps.run("approve", *channel, "--as", "carol")


def _compile(steps: Steps, told: Told) -> None:
    steps.heading("Compile the policy for two key brokers, and prove that it admits nothing else")
    compiled = steps.workdir / "compiled"
    made = steps.run("compile", POLICY, "-o", compiled, "--workdir", steps.workdir)
    told.proofs = tuple({"target": name, **proof} for name, proof in made["targets"].items())
    for proof in told.proofs:
        steps.say(f"{proof['target']}: released {proof['released']} · accepted {proof['accepted']}")
    _promote(steps, compiled)


def _keys(steps: Steps, sealed: Sealed) -> None:
    steps.heading("Give the keys to the broker")
    steps.run("broker", "init", "--workdir", steps.workdir)
    for key, path in sealed.keys.items():
        steps.run(
            "broker", "key", "import", key, "--channel", CHANNEL, "--from", path, "--workdir", steps.workdir
        )
        path.unlink()


def _machines(steps: Steps, told: Told, sealed: Sealed) -> None:
    disk = steps.workdir / "disk.img"
    write_disk(disk, sealed.init_data.read_bytes(), sealed.files, prompt=told.prompt)
    tpm = steps.workdir / "tpm"
    TpmMaker(steps.workdir / "tpm-ca").manufacture(tpm)
    with steps.broker(CHANNEL) as url:
        port = int(url.rsplit(":", 1)[1])

        def boot(uki: Path, **differs: Any) -> Outcome:
            machine = Machine(
                uki=uki,
                firmware=steps.workdir / "release/firmware/ovmf.fd",
                disk=disk,
                tpm_state=tpm,
                broker_port=port,
                **differs,
            )
            return machine.boot()

        _boot(steps, told, boot)
        told.refused += refusals.try_all(refusals.Scene(steps=steps, url=url, disk=disk, tpm=tpm, boot=boot))
    told.log = steps.run("broker", "log", "verify", "--workdir", steps.workdir)


def _boot(steps: Steps, told: Told, boot: Callable[..., Outcome]) -> None:
    steps.heading("Boot the image in a virtual machine with a TPM; it proves itself and asks for its keys")
    outcome = boot(steps.workdir / "release" / told.products["uki"]["path"])
    if outcome.answer is None:
        raise StepFailed(
            f"the machine got no key: {outcome.refusal or outcome.lines[-3:]}", code="demo.no-key"
        )
    told.answer, told.boot_seconds = outcome.answer, outcome.seconds
    told.key_seconds = outcome.key_seconds or 0.0
    steps.say(f"key in the guest after {told.key_seconds:.1f} s (software emulation)")
    steps.say(f"prompt {told.prompt!r} -> {told.prompt + told.answer!r}")

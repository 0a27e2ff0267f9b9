"""Ten ways to want a key without deserving it. Each prints the check that failed, what it wanted, and what it got."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tallystick.attester import client as attesting
from tallystick.attester.client import KbsClient
from tallystick.attester.disk import INIT_DATA, DataDisk
from tallystick.attester.measured import measure
from tallystick.cli.demo.machine import Outcome
from tallystick.cli.demo.optionrom import option_rom
from tallystick.cli.demo.replay import ReplayMachine, replayed
from tallystick.cli.demo.steps import Refusal, StepFailed, Steps
from tallystick.core.digests import Digest
from tallystick.core.errors import TallystickError
from tallystick.formats import pe, uki
from tallystick.handshake.jwe import TeeKeyPair
from tallystick.measure import qemu
from tallystick.measure.records import Event
from tallystick.measure.shapes import LaunchShape
from tallystick.measure.uki import image_events
from tallystick.release import index

CHANNEL = "staging"
_DECISION = re.compile(r"\(decision ([^)\s]+)\)")
_SHAPE = LaunchShape.of(qemu.PLATFORM, {"ram_mib": 512, "vcpus": 1, "vmm": qemu.VMM})
_MAX_INIT_DATA_BYTES = 1 << 20
_ROM_HEADER_BYTES = 0x40


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """One thing that got no key: what was tried, and the check that stopped it."""

    tried: str
    how: str  # "a virtual machine", "a replayed boot", "tally verify"
    code: str
    place: str
    want: str
    got: str
    note: str = ""  # which component changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What every attempt starts from: a running broker, the good machine's disk, and a TPM."""

    steps: Steps
    url: str
    disk: Path
    tpm: Path
    boot: Callable[..., Outcome]

    @property
    def release(self) -> Path:
        """The promoted release."""
        return self.steps.workdir / "release"

    def events(self, image: bytes) -> tuple[Event, ...]:
        """Return what an honest boot of ``image`` extends before the guest runs."""
        firmware = qemu.MeasuredFirmware.of((self.release / "firmware/ovmf.fd").read_bytes())
        return qemu.boot_events(image_events(uki.parse(image)), firmware, qemu.machine(_SHAPE), None)

    def good_events(self) -> tuple[Event, ...]:
        """Return what a boot of the promoted image extends."""
        return self.events((self.release / "products/uki.efi").read_bytes())


def try_all(scene: Scene) -> list[Refused]:
    """Try everything and return what stopped each; the good machine is tried again before the channel changes.

    Raises:
        StepFailed: something got a key that should not have.
    """
    steps = scene.steps
    steps.heading("Ten ways to want a key without deserving it")
    found: list[Refused] = []
    for attempt in (
        _forged_release,
        _option_rom,
        _changed_initramfs,
        _another_command_line,
        _replayed_nonce,
        _another_public_key,
        _changed_dependency,
        _edited_policy,
        _revoked,
    ):
        refused = attempt(scene)
        found.append(refused)
        steps.say(f"refused: {refused.tried} ({refused.how})")
        steps.say(
            f"    {refused.place}: want {_short(refused.want)}, got {_short(refused.got)}  [{refused.code}]"
        )
        if refused.note:
            steps.say(f"    {refused.note}")
    return found


def _short(text: str) -> str:
    return text if len(text) <= 72 else text[:64] + "…"


def of_command(tried: str, how: str, refusal: Refusal) -> Refused:
    """Return the refusal that a command printed."""
    first = refusal.findings[0] if refusal.findings else {}
    return Refused(
        tried=tried,
        how=how,
        code=first.get("code", refusal.code),
        place=first.get("where", how),
        want=first.get("want", "to be allowed"),
        got=first.get("got", refusal.message),
    )


def _of_machine(scene: Scene, tried: str, how: str, outcome: Outcome, *more: str | Path) -> Refused:
    """Return why a machine got no key, as the operator sees it: the broker keeps what it did not tell the machine."""
    said = outcome.refusal
    if outcome.answer is not None or said is None:
        raise StepFailed(
            f"{tried}: the machine should have been refused and was not", code="demo.not-refused"
        )
    return _explained(scene, tried, how, str(said["message"]), said.get("findings", []), more)


def _explained(
    scene: Scene,
    tried: str,
    how: str,
    message: str,
    findings: list[dict[str, str]],
    more: tuple[str | Path, ...] = (),
) -> Refused:
    decision = _DECISION.search(message)
    note = ""
    if decision is not None:
        told = scene.steps.run("explain", decision[1], "--workdir", scene.steps.workdir, *more, quiet=True)
        findings = told["findings"] or findings
        note = "; ".join(f"component {one['change']}" for one in told.get("components", []))
    first = findings[0] if findings else {}
    return Refused(
        tried=tried,
        how=how,
        code=first.get("code", "refused"),
        place=first.get("where", "broker"),
        want=first.get("want", "evidence that it accepts"),
        got=first.get("got", message),
        note=note,
    )


def _replay(scene: Scene, tried: str, events: tuple[Event, ...], disk: Path | None = None) -> Refused:
    with replayed(scene.tpm, events) as machine:
        outcome = machine.run(disk or scene.disk, broker_url=scene.url)
    return _of_machine(scene, tried, "a replayed boot", outcome)


def _forged_release(scene: Scene) -> Refused:
    """Somebody else's Sigstore signs a copy of the release, and the copy brings that Sigstore's roots along."""
    steps, forger, forged = scene.steps, scene.steps.workdir / "forger", scene.steps.workdir / "forged"
    steps.run("init", "--workdir", forger, quiet=True)
    shutil.copytree(scene.release, forged, ignore=shutil.ignore_patterns("bundles", "links"))
    shutil.copy(forger / "trust.json", forged)
    indexed = index.read(forged)
    made = index.make(forged, name=indexed.name, version=indexed.version, products=dict(indexed.products))
    (forged / index.FILE).write_bytes(made)
    steps.run("sign", forged, "--as", "ci-builder", "--workdir", forger, quiet=True)
    refusal = steps.refused("verify", forged, "--trust", steps.workdir / "trust.json")
    return of_command("a forged release with its own trust roots inside", "tally verify", refusal)


def _option_rom(scene: Scene) -> Refused:
    driver = option_rom()[_ROM_HEADER_BYTES:]
    digest = pe.authenticode(pe.parse(driver))
    events = scene.good_events()
    at = next(i for i, event in enumerate(events) if event.register == 2)
    added = Event(register=2, digest=digest, what="EV_EFI_BOOT_SERVICES_DRIVER")
    return _replay(scene, "a host that adds an option ROM", (*events[:at], added, *events[at:]))


def _changed_initramfs(scene: Scene) -> Refused:
    image = bytearray((scene.release / "products/uki.efi").read_bytes())
    section = next(s for s in pe.parse(bytes(image)).sections if s.name == ".initrd")
    image[section.raw_offset + section.virtual_size // 2] ^= 1
    return _replay(scene, "one changed byte in the initramfs", scene.events(bytes(image)))


def _another_command_line(scene: Scene) -> Refused:
    text = "console=ttyS0 init=/bin/sh"
    digest = Digest.of((text + "\0").encode("utf-16-le"))
    given = Event(register=12, digest=digest, what="LoadOptions from outside")
    return _replay(scene, "another kernel command line", (*scene.good_events(), given))


@contextmanager
def _attesting(scene: Scene) -> Iterator[tuple[KbsClient, attesting.Prove, str]]:
    """Give a client of an honest machine that is enrolled and has measured its init-data."""
    with replayed(scene.tpm, scene.good_events()) as machine, DataDisk(scene.disk) as disk:
        toml = disk.read(INIT_DATA, max_bytes=_MAX_INIT_DATA_BYTES)
        measure(machine.tpm, toml)
        client = KbsClient(scene.url)
        with _enrolled(client, machine) as prove:
            yield client, prove, toml.decode("utf-8")


def _enrolled(client: KbsClient, machine: ReplayMachine) -> Any:
    return attesting.enrolled(client, machine.tpm, event_log=machine.event_log)


def _presented(scene: Scene, tried: str, present: Callable[[], object]) -> Refused:
    try:
        present()
    except TallystickError as error:
        findings = [finding.document() for finding in error.findings]
        return _explained(scene, tried, "a replayed boot", error.message, findings)
    raise StepFailed(f"{tried}: it should have been refused and was not", code="demo.not-refused")


def _replayed_nonce(scene: Scene) -> Refused:
    with _attesting(scene) as (client, prove, toml):
        challenge, pair = client.challenge(), TeeKeyPair.make()
        message = attesting.bound(challenge, pair.public, prove, init_data=toml)
        client.present(message, pair)
        return _presented(scene, "good evidence, shown a second time", lambda: client.present(message, pair))


def _another_public_key(scene: Scene) -> Refused:
    with _attesting(scene) as (client, prove, toml):
        challenge, own, other = client.challenge(), TeeKeyPair.make(), TeeKeyPair.make()
        message = attesting.bound(challenge, own.public, prove, init_data=toml)
        stolen = replace(message, tee_pubkey=other.public)
        return _presented(
            scene, "good evidence with somebody else's public key", lambda: client.present(stolen, other)
        )


def _changed_dependency(scene: Scene) -> Refused:
    """Boot, for real, an image in which one dependency has another version."""
    steps, changed = scene.steps, scene.steps.workdir / "changed"
    init_data = steps.workdir / "model/init-data.toml"
    steps.run("build", Path("build/changed-dependency.yaml"), "-o", changed, "--init-data", init_data)
    outcome = scene.boot(changed / "products/uki.efi")
    more = ("--running", changed, "--promoted", scene.release)
    return _of_machine(scene, "an image built from a changed dependency", "a virtual machine", outcome, *more)


def _edited_policy(scene: Scene) -> Refused:
    """Edit the compiled policy where the broker reads it, look at the refusal, and put it back."""
    targets = scene.steps.workdir / "channels" / CHANNEL / "targets/policies"
    policy = next(path for path in targets.rglob("*policy.json") if "broker" in str(path.parent))
    kept = policy.read_bytes()
    policy.write_bytes(kept.replace(b'"max_age_seconds":300', b'"max_age_seconds":999'))
    if policy.read_bytes() == kept:
        raise StepFailed("the policy has no max_age_seconds to edit", code="demo.policy")
    try:
        return _replay(scene, "a policy file edited by hand", scene.good_events())
    finally:
        policy.write_bytes(kept)


def _revoked(scene: Scene) -> Refused:
    steps = scene.steps
    with replayed(scene.tpm, scene.good_events()) as machine:
        outcome = machine.run(scene.disk, broker_url=scene.url)
    if outcome.answer is None:
        raise StepFailed(f"the good machine no longer gets its key: {outcome.refusal}", code="demo.no-key")
    release = str(Digest.of((scene.release / "index.json").read_bytes()))
    channel = ("--channel", CHANNEL, "--workdir", steps.workdir)
    steps.run("revoke", release, *channel, "--as", "bob", "--reason", "end of the demo", "--yes")
    return _replay(scene, "a revoked release", scene.good_events())

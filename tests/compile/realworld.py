"""The release tests' world, with a release that pins every register: what ``tally compile`` reads in earnest."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from compile import machines
from compile.releases import WAIVED
from policy.policyworld import policy_text, registers
from release import world as worlds
from release.world import World
from sbom import builds

from tallystick.core.digests import Digest
from tallystick.measure import statement
from tallystick.measure.records import Measurement
from tallystick.policy.platforms import platform
from tallystick.release import approve, promote
from tallystick.signing import trust as trust_file


@dataclass
class Real:
    folder: Path
    world: World

    @property
    def workdir(self) -> Path:
        return self.folder / "work"

    @property
    def release(self) -> Path:
        return self.folder / "release"

    @property
    def policy(self) -> Path:
        return self.folder / "policy.yaml"

    def moved(self, folder: Path) -> Real:
        return Real(folder=folder, world=replace(self.world, workdir=folder / "work"))

    def arguments(self, *more: str) -> list[str]:
        return [*more, "--workdir", str(self.workdir)]


def measured(image: str, *clouds: str):
    """What a build would have written, for registers that a machine of policyworld has.

    Args:
        clouds: platforms that are measured as well, each once.
    """

    def write(folder: Path) -> None:
        product = (folder / "products/uki.efi").read_bytes()
        found = Measurement(
            platform="qemu-vtpm",
            evidence_kind="tpm-quote",
            image=Digest.of(product),
            firmware=Digest.of(builds.FIRMWARE),
            shape=(("ram_mib", 512), ("vcpus", 1), ("vmm", "qemu")),
            values=tuple(sorted(registers(image).items())),
            waived=(WAIVED,),
            events=(),
            calculator="tallystick test",
        )
        more = [_cloud(found, name, image) for name in clouds]
        data = statement.to_statement([found, *more], "products/uki.efi")
        (folder / "statements/measurements.json").write_bytes(data)

    return write


def _cloud(found: Measurement, name: str, image: str) -> Measurement:
    known = platform(name)
    values = {path: machines.value(kind, f"{name} {path} {image}") for path, kind in known.pinned}
    return replace(
        found,
        platform=name,
        evidence_kind=known.evidence_kind,
        shape=(("vcpus", 1),),
        values=tuple(sorted(values.items())),
        waived=(),
    )


def policy(**changes: str) -> str:
    return policy_text(**{"releases: [confidential-inference]": "releases: [demo]", **changes})


def promote_release(world: World, folder: Path, channel: str = "staging") -> None:
    desk = world.desk(channel)
    promote.propose_release(desk, folder, world.signatories["alice"], world.sign_one("alice"))
    for name in ("bob", "carol"):
        approve.approve(
            world.desk(channel), world.signatories[name], lambda: world.online, lambda n, files, v: files
        )


def make(folder: Path) -> Real:
    world = worlds.make(folder / "work")
    world.release(folder / "release", change=measured("a"))
    promote_release(world, folder / "release")
    trust_file.save(folder / "work/trust.json", world.trust)
    (folder / "policy.yaml").write_text(policy())
    return Real(folder=folder, world=world)


def run(arguments: list[str], capsys) -> tuple[int, dict]:
    """Run the command line in this process and return its exit code and its one JSON document."""
    from tallystick.cli.app import _run

    code = _run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)

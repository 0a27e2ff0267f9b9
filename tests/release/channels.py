"""Hand-made channels for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from release.made import NOW, signatory
from tuf.api.metadata import Metadata, Targets

from tallystick.release import changes, metadata
from tallystick.release.changes import Added, Lifetimes
from tallystick.release.keys import Signatory
from tallystick.release.metadata import State
from tallystick.release.records import HighWater, Person
from tallystick.release.tuf import Folder
from tallystick.signing.records import Identity

ISSUER = "https://tallystick.local/embedded-dev"
LIFETIMES = Lifetimes()


def person(who: Signatory) -> Person:
    return Person(
        name=who.name,
        identity=Identity(san=f"{who.name}@example.org", issuer=ISSUER),
        keyid=who.keyid,
        public_key=who.public_key,
    )


@dataclass
class Made:
    """A channel on disk with everybody's keys."""

    folder: Folder
    root: bytes
    name: str
    people: dict[str, Signatory]
    online: Signatory

    def state(self, now: datetime = NOW, seen: HighWater | None = None) -> State:
        return self.folder.verify(self.root, self.name, now, seen or HighWater())

    def proposal(
        self,
        author: str,
        add: Sequence[Added] = (),
        remove: Sequence[str] = (),
        *,
        role: str = "policies",
        now: datetime = NOW,
    ) -> Metadata[Targets]:
        self.folder.add_targets({added.path: added.data for added in add})
        return changes.propose(
            self.state(now),
            role,
            self.people[author],
            kind="policy",
            summary="a change",
            add=add,
            remove=remove,
            now=now,
            lifetimes=LIFETIMES,
        )

    def publish(self, role: str, document: Metadata[Targets], now: datetime = NOW) -> dict[str, bytes]:
        """Put ``document`` on disk as the online key would, whoever signed it."""
        files = changes.publication(
            self.state(now), {role: document}, self.online, now=now, lifetimes=LIFETIMES
        )
        self.folder.publish(files)
        return files

    def change(
        self,
        author: str,
        approvers: Sequence[str],
        add: Sequence[Added] = (),
        remove: Sequence[str] = (),
        *,
        role: str = "policies",
        now: datetime = NOW,
    ) -> dict[str, bytes]:
        document = self.proposal(author, add, remove, role=role, now=now)
        for name in approvers:
            document = changes.cosign(self.state(now), role, document, self.people[name])
        return self.publish(role, document, now)


def made(
    path: Path,
    names: Sequence[str] = ("alice", "bob", "carol"),
    *,
    name: str = "staging",
    threshold: int = 2,
    now: datetime = NOW,
    lifetimes: Lifetimes = LIFETIMES,
) -> Made:
    people = {who: signatory(who) for who in names}
    online = signatory("online")
    files = changes.create(
        name,
        [(person(who), who) for who in people.values()],
        online,
        platforms=["qemu-vtpm"],
        threshold=threshold,
        now=now,
        lifetimes=lifetimes,
    )
    folder = Folder(path)
    folder.publish(files)
    return Made(folder=folder, root=files["metadata/1.root.json"], name=name, people=people, online=online)


def policy(text: str = "allow", path: str = "policies/p/broker/policy.json") -> Added:
    return Added(path=path, data=text.encode())


__all__ = ["LIFETIMES", "Made", "made", "metadata", "person", "policy"]

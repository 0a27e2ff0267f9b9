"""A work directory: where it is, and making one with everything that the embedded defaults need.

It appears whole or not at all, and one that is there is never changed: somebody's keys are in it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tallystick.core.digests import Digest
from tallystick.core.errors import Misuse, Unreachable
from tallystick.core.files import write_file
from tallystick.signing.records import Builder, Endorser, Identity, Trust

if TYPE_CHECKING:
    from tallystick.release.keys import Signatory

CI = "ci-builder"
REBUILDER = "rebuilder"
OWNER = "model-owner"  # signs artifact releases
APPROVERS = ("alice", "bob", "carol")
CHANNELS = ("debug", "staging", "production")
BUILDER_IDS = {
    CI: "https://tallystick.local/builders/ci",
    REBUILDER: "https://tallystick.local/builders/rebuild",
}
SANS = {CI: "https://ci.example/builder", REBUILDER: "https://rebuild.example/builder"}
PLATFORMS = ("qemu-vtpm",)  # what the channels of an embedded set-up ask a measurement for
APPROVALS = 2  # people besides the author
PARTS = ("sigstore", "people", "layout", "channels", "tpm-ca", "trust.json")  # the trust file last
_REBUILDS = 1
_LAYOUT_LIFETIME = timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What making a work directory came to."""

    trust: Trust
    notes: tuple[str, ...]  # what was left out, and why


def place(workdir: Path | None) -> Path:
    """Return the work directory: as given, else $TALLY_HOME, else in the user's data folder."""
    if workdir is not None:
        return workdir
    home = os.environ.get("TALLY_HOME")
    return Path(home) if home else Path.home() / ".local" / "share" / "tallystick"


def make(workdir: Path, now: datetime) -> Made:
    """Make everything under ``workdir`` and return what was made.

    Raises:
        Misuse: one of the parts is there without the others (``workdir.partial``): it is not ours to change.
        Unreachable: the disk refuses.
    """
    _check_free(workdir)
    with _aside(workdir) as folder:
        made = _fill(folder, now)
        _move(folder, workdir)
    return made


def _fill(folder: Path, now: datetime) -> Made:
    from tallystick.signing import trust as trust_file
    from tallystick.signing.embedded import instance

    for name in ("people", "channels"):
        (folder / name).mkdir(mode=0o700)
    instance.create(folder / "sigstore", now)
    (folder / "sigstore").chmod(0o700)
    identities = {name: _enrol(folder, name) for name in (CI, REBUILDER, OWNER, *APPROVERS)}
    layout, owner = _make_layout(folder, now)
    endorsers, notes = _make_endorsers(folder)
    trust = Trust(
        label=trust_file.LABELS[0],
        sigstore_root=(folder / "sigstore" / "trusted_root.json").read_bytes(),
        builders=(Builder(identity=identities[CI], builder_id=BUILDER_IDS[CI]),),
        promoters=tuple(identities[name] for name in APPROVERS),
        layout=layout,
        layout_owners=(owner,),
        channels=tuple((name, _make_channel(folder, name, identities, now)) for name in CHANNELS),
        endorsers=endorsers,
        artifact_signers=(identities[OWNER],),
    )
    trust_file.save(folder / "trust.json", trust)
    return Made(trust=trust, notes=notes)


def _enrol(folder: Path, name: str) -> Identity:
    """Make the person ``name`` and let the embedded CA know the person's key."""
    from tallystick.signing import keyfile, people
    from tallystick.signing.embedded import instance

    identity = Identity(san=SANS.get(name, f"{name}@example.org"), issuer=instance.ISSUER)
    key = people.create(folder / "people" / name, identity, BUILDER_IDS.get(name))
    instance.enrol(folder / "sigstore", identity, keyfile.public_pem(key))
    return identity


def _make_layout(folder: Path, now: datetime) -> tuple[bytes, str]:
    """Make the owner's key, the rebuilder's key and the layout; return the layout and the owner's public key."""
    from tallystick.release import keys, layout
    from tallystick.release.records import Functionary

    owner = keys.make(folder / "layout", "owner", file="owner.key")
    rebuilder = keys.make(folder / "people" / REBUILDER, REBUILDER)
    functionary = Functionary(
        name=REBUILDER,
        builder_id=BUILDER_IDS[REBUILDER],
        organisation="rebuild.example",
        keyid=rebuilder.keyid,
        public_key=rebuilder.public_key,
    )
    data = layout.make([owner], [functionary], threshold=_REBUILDS, expires=now + _LAYOUT_LIFETIME)
    write_file(folder / "layout" / "root.layout", data)
    return data, keys.public_pem(owner.public_key)


def _make_channel(folder: Path, name: str, identities: dict[str, Identity], now: datetime) -> bytes:
    """Make an empty channel and return its root."""
    from tallystick.release import changes, keys, tuf
    from tallystick.release.records import Person

    people: list[tuple[Person, Signatory]] = []
    for approver in APPROVERS:
        own = folder / "people" / approver
        new = not (own / keys.KEY_FILE).exists()
        who = keys.make(own, approver) if new else keys.load(own, approver)
        person = Person(
            name=approver, identity=identities[approver], keyid=who.keyid, public_key=who.public_key
        )
        people.append((person, who))
    place = folder / "channels" / name
    files = changes.create(
        name,
        people,
        keys.make(place, "online", file=tuf.ONLINE_KEY),
        platforms=PLATFORMS,
        threshold=APPROVALS,
        now=now,
        lifetimes=changes.Lifetimes(),
    )
    tuf.Folder(place).publish(files)
    return files["metadata/1.root.json"]


def _make_endorsers(folder: Path) -> tuple[tuple[Endorser, ...], tuple[str, ...]]:
    """Make the private authority of software TPMs, where swtpm is installed."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from tallystick.cli.demo.softtpm import TpmMaker

    maker = TpmMaker(folder / "tpm-ca")
    try:
        with tempfile.TemporaryDirectory(prefix=".tpm.", dir=folder) as state:
            maker.manufacture(Path(state))
    except Unreachable as error:
        if error.code != "tool.missing":
            raise
        shutil.rmtree(folder / "tpm-ca", ignore_errors=True)
        return (), (f"no authority for software TPMs: {error.message}",)
    certificates = maker.certificates()
    root = x509.load_der_x509_certificate(certificates[0]).public_key()
    spki = root.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    endorser = Endorser(
        kind="tpm-manufacturer", label="software-tpm", spki=Digest.of(spki), certificates=certificates
    )
    return (endorser,), ()


@contextmanager
def _aside(workdir: Path) -> Iterator[Path]:
    """Give an empty private folder on the disk of ``workdir``, gone afterwards however the block ends."""
    near = workdir if workdir.is_dir() else workdir.parent
    try:
        near.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".init.", dir=near))
    except OSError as error:
        raise Unreachable(f"{workdir}: {error.strerror}", code="file.unwritable") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_free(workdir: Path) -> None:
    """Raise :class:`Misuse` when ``workdir`` is no folder, or a part is there already."""
    if workdir.exists() and not workdir.is_dir():
        raise Misuse(f"{workdir} is a file, not a folder", code="workdir.file")
    there = [name for name in PARTS if (workdir / name).exists()]
    if there:
        message = (
            f"{workdir} holds {', '.join(there)} but no set-up of ours; move it away, or name another folder"
        )
        raise Misuse(message, code="workdir.partial")


def _move(folder: Path, workdir: Path) -> None:
    """Give the parts in ``folder`` their place, all or none, never in the place of something else."""
    try:
        if not workdir.exists():
            folder.rename(workdir)
            return
    except OSError as error:
        if not workdir.exists():  # else another process was first
            raise Unreachable(f"{workdir}: {error.strerror}", code="file.unwritable") from None
    _check_free(workdir)
    moved: list[Path] = []
    try:
        for name in PARTS:
            if (folder / name).exists():
                (folder / name).rename(workdir / name)
                moved.append(workdir / name)
        workdir.chmod(0o700)
    except BaseException:
        for path in reversed(moved):
            path.rename(folder / path.name)
        raise

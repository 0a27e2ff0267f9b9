"""A whole small world: a Sigstore, people, a trust file, a signed and rebuilt release, a channel.

Real signatures, real formats, real derivation graphs; only the image is tiny. The embedded Sigstore's
certificates are compared with the machine's clock by sigstore-python, so this world lives now.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from release.channels import LIFETIMES
from sbom import builds

from tallystick.build.records import Contents
from tallystick.core.digests import Digest
from tallystick.formats import intoto
from tallystick.measure import statement as measurements
from tallystick.measure.records import Measurement, WaivedRegister
from tallystick.provenance import make as provenance
from tallystick.release import artifact, changes, index, keys, layout, links, names
from tallystick.release.desk import Desk
from tallystick.release.keys import Signatory
from tallystick.release.records import Functionary, HighWater, Person
from tallystick.release.tuf import Folder
from tallystick.sbom import make as sbom
from tallystick.sbom.known import gather
from tallystick.signing import people
from tallystick.signing.embedded import instance
from tallystick.signing.records import Builder, Identity, Trust
from tallystick.signing.sigstore import embedded

ISSUER = "https://tallystick.local/embedded-dev"
CI = "https://tallystick.local/builders/ci"
REBUILD = "https://tallystick.local/builders/rebuild"
SANS = {
    "ci-builder": "https://ci.example/builder",
    "rebuilder": "https://rebuild.example/builder",
    "model-owner": "model-owner@example.org",
    "alice": "alice@example.org",
    "bob": "bob@example.org",
    "carol": "carol@example.org",
}
APPROVERS = ("alice", "bob", "carol")


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@dataclass
class World:
    workdir: Path
    trust: Trust
    signatories: dict[str, Signatory]
    online: Signatory

    def identity(self, name: str) -> Identity:
        return Identity(san=SANS[name], issuer=ISSUER)

    def desk(self, channel: str = "staging", seen: HighWater | None = None) -> Desk:
        return Desk(
            folder=Folder(self.workdir / "channels" / channel),
            channel=channel,
            trust=self.trust,
            now=now(),
            seen=seen or HighWater(),
        )

    def sign(self, name: str, payloads: Sequence[bytes]) -> list[bytes]:
        with embedded(self.workdir, name, now()) as signer:
            return [signer.statement(payload) for payload in payloads]

    def sign_one(self, name: str) -> Any:
        return lambda payload: self.sign(name, [payload])[0]

    def release(
        self,
        folder: Path,
        *,
        signer: str = "ci-builder",
        builder_id: str = CI,
        files: Any = builds.FILES,
        rebuilt_by: Sequence[str] = ("rebuilder",),
        change: Any = None,
        edit: Any = None,
        platform: str = "qemu-vtpm",
    ) -> index.Index:
        """Write a release into ``folder``: built, signed and rebuilt. ``change`` edits it before the index.

        ``edit`` returns another Build before any statement is made.
        """
        made = builds.make(files)
        if edit:
            made = replace(made, build=edit(made.build))
        unsigned(folder, made, builder_id=builder_id, platform=platform)
        if change:
            change(folder)
        data = index.make(
            folder,
            name=made.build.name,
            version=made.build.version,
            products={product.name: product.path for product in made.build.products},
        )
        write(folder / index.FILE, data)
        self.sign_release(folder, signer)
        found = index.parse(data)
        for name in rebuilt_by:
            self.link(folder, found, name)
        return found

    def sign_release(self, folder: Path, signer: str) -> None:
        statements = [*index.STATEMENTS]
        payloads = [(folder / f"statements/{name}.json").read_bytes() for name in statements]
        statements.append("index")
        payloads.append(index_statement(folder))
        for name, bundle in zip(statements, self.sign(signer, payloads), strict=True):
            write(folder / names.bundle_file(name), bundle)

    def link(self, folder: Path, found: index.Index, name: str) -> None:
        who = self.signatories[name]
        data = links.make(found.digest, links.expected(found), who)
        write(folder / links.FOLDER / links.file_name(who.keyid), data)


def index_statement(folder: Path) -> bytes:
    about = artifact.subjects((folder / index.FILE).read_bytes())
    return intoto.make(about, names.RELEASE_PREDICATE, {})


def unsigned(folder: Path, made: builds.Made, *, builder_id: str, platform: str) -> None:
    """Write everything of a release that a build makes, but the index."""
    build = replace(made.build, sources=((builds.SOURCE, builds.SOURCE_NAR),))
    write(folder / "recipe.yaml", build.recipe)
    for product in build.products:
        write(folder / product.path, made.products[product.name])
    for contents in build.contents:
        write(folder / f"contents/{contents.product}.json", contents_bytes(contents))
    for path, text in build.derivations:
        write(folder / "derivations" / path.removeprefix("/nix/store/"), text)
    write(folder / "nix/default.nix", b"{ }: { }\n")
    write(folder / "seeds/lock.json", b"{}\n")
    for blob in build.firmware:
        write(folder / blob.path, builds.FIRMWARE)
    write(folder / "statements/provenance.json", provenance.statement(build, builder_id=builder_id))
    paths = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    known = gather(paths, lambda path: (folder / path).read_bytes(), folder)
    bom = sbom.make(build, created=sbom.created_of(build), known=known)
    write(folder / "statements/sbom.json", sbom.statement(build, bom))
    image = next(p for p in build.products if p.name == "uki")
    measured = Measurement(
        platform=platform,
        evidence_kind="tpm-quote",
        image=image.digest,
        firmware=Digest.of(builds.FIRMWARE),
        shape=(("ram_mib", 512), ("vcpus", 1), ("vmm", "qemu")),
        values=tuple(
            (f"pcr{n:02}", Digest.of(b"pcr%d" % n + image.digest.value).hex) for n in range(16) if n != 10
        ),
        waived=(
            WaivedRegister(
                name="pcr10",
                decision="docs/decisions/0010-pcr-10.md",
                decided_by="alice@example.org",
                until=datetime(2100, 1, 1, tzinfo=UTC),
            ),
        ),
        events=(),
        calculator="tallystick test",
    )
    write(folder / "statements/measurements.json", measurements.to_statement([measured], image.path))


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def contents_bytes(contents: Contents) -> bytes:
    files = [
        {
            "path": file.path,
            "sha256": file.digest.hex,
            "size": file.size_bytes,
            "mode": file.mode,
            "component": file.component,
        }
        | ({"nested": file.nested} if file.nested else {})
        for file in contents.files
    ]
    components = [
        {
            "ref": c.ref,
            "kind": c.kind,
            "name": c.name,
            "version": c.version,
            "purl": c.purl,
            "licence": c.licence,
            "seed": c.seed,
            "sha256": c.digest.hex,
        }
        for c in sorted(contents.components, key=lambda c: c.ref.encode())
    ]
    document = {
        "schema": "tallystick/contents/v1",
        "product": contents.product,
        "files": files,
        "components": components,
    }
    return json.dumps(document).encode()


def person(who: Signatory) -> Person:
    identity = Identity(san=SANS[who.name], issuer=ISSUER)
    return Person(name=who.name, identity=identity, keyid=who.keyid, public_key=who.public_key)


def make_channel(workdir: Path, channel: str, signatories: dict[str, Signatory], online: Signatory) -> bytes:
    files = changes.create(
        channel,
        [(person(signatories[name]), signatories[name]) for name in APPROVERS],
        online,
        platforms=["qemu-vtpm"],
        threshold=2,
        now=now() - timedelta(seconds=60),
        lifetimes=LIFETIMES,
    )
    Folder(workdir / "channels" / channel).publish(files)
    return files["metadata/1.root.json"]


def make(workdir: Path, *, label: str = "embedded-dev", threshold: int = 1) -> World:
    """Make everything new below ``workdir``."""
    instance.create(workdir / "sigstore", now() - timedelta(seconds=60))
    signatories: dict[str, Signatory] = {}
    for name, san in SANS.items():
        identity = Identity(san=san, issuer=ISSUER)
        from tallystick.signing import keyfile

        private = people.create(workdir / "people" / name, identity, {"ci-builder": CI}.get(name))
        instance.enrol(workdir / "sigstore", identity, keyfile.public_pem(private))
        signatories[name] = keys.make(workdir / "people" / name, name)
    online = keys.make(workdir / "keys", "online", file="online.key")
    owner = keys.make(workdir / "layout", "owner")
    rebuilder = signatories["rebuilder"]
    rules = layout.make(
        [owner],
        [
            Functionary(
                name="rebuilder",
                builder_id=REBUILD,
                organisation="rebuild.example",
                keyid=rebuilder.keyid,
                public_key=rebuilder.public_key,
            )
        ],
        threshold=threshold,
        expires=now() + timedelta(days=365),
    )
    roots = tuple(
        (channel, make_channel(workdir, channel, signatories, online))
        for channel in ("debug", "staging", "production")
    )
    trust = Trust(
        label=label,
        sigstore_root=(workdir / "sigstore/trusted_root.json").read_bytes(),
        builders=(Builder(identity=Identity(san=SANS["ci-builder"], issuer=ISSUER), builder_id=CI),),
        promoters=tuple(Identity(san=SANS[name], issuer=ISSUER) for name in APPROVERS),
        layout=rules,
        layout_owners=(keys.public_pem(owner.public_key),),
        channels=roots,
        endorsers=(),
        artifact_signers=(Identity(san=SANS["model-owner"], issuer=ISSUER),),
    )
    return World(workdir=workdir, trust=trust, signatories=signatories, online=online)

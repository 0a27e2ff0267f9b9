"""Verified releases and channels made by hand: what ``release.channel`` would hand over, without its signatures."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType

from policy.policyworld import END, NOW, digest, policy_text, registers

from tallystick.build.records import Component, Contents, ContentsFile
from tallystick.compile.policies import load
from tallystick.formats import intoto, vsa
from tallystick.formats.slsa import Resource
from tallystick.formats.vsa import Summary
from tallystick.measure.records import Measurement, WaivedRegister
from tallystick.policy.model import Policy
from tallystick.release.records import (
    Functionary,
    HighWater,
    Index,
    IndexedFile,
    Quorum,
    Settings,
    VerifiedChannel,
    VerifiedPolicies,
    VerifiedRelease,
)
from tallystick.signing.records import Builder, Identity, VerifiedStatement

ISSUER = "https://tallystick.local/embedded-dev"
CI = Builder(
    identity=Identity(san="https://ci.example/builder", issuer=ISSUER),
    builder_id="https://tallystick.local/builders/ci",
)
ALICE = Identity(san="alice@example.org", issuer=ISSUER)
BUSYBOX = "pkg:deb/debian/busybox-static@1.35.0-4?arch=amd64"
WAIVED = WaivedRegister(
    name="pcr10", decision="docs/decisions/0010-pcr-10.md", decided_by="the developers", until=END
)
PRODUCTS = ("uki", "initramfs")


def policy(**changes: str) -> Policy:
    return load(policy_text(**changes).encode())


def statement(name: str, payload: bytes, signer: Identity = CI.identity) -> VerifiedStatement:
    parsed = intoto.parse(payload)
    return VerifiedStatement(
        statement=parsed.document,
        payload=payload,
        predicate_type=parsed.predicate_type,
        signer=signer,
        signed_at=NOW - timedelta(days=1),
        bundle=digest(f"bundle {name} {payload!r}"),
    )


def subjects(image: str) -> list[tuple[str, dict[str, str]]]:
    return [(f"products/{name}", {"sha256": digest(f"{name} {image}").hex}) for name in PRODUCTS]


def sbom(image: str, purls: tuple[str, ...] = (BUSYBOX,)) -> bytes:
    parts = [{"type": "library", "name": "x", "purl": purl, "bom-ref": purl} for purl in purls]
    bom = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": parts}
    return intoto.make(subjects(image), "https://cyclonedx.org/bom", bom)


def verdict(image: str, *levels: str, result: str = vsa.PASSED, about: str = "") -> bytes:
    summary = Summary(
        verifier_id="https://tallystick.local/verifiers/alice@example.org",
        time_verified=NOW - timedelta(days=1),
        resource_uri="https://tallystick.local/channels/staging/confidential-inference/0.1.0",
        policy=Resource(uri="https://tallystick.local/promotion-gates/v1", digests=()),
        result=result,
        levels=levels or ("SLSA_BUILD_LEVEL_1",),
    )
    return vsa.make([("index.json", {"sha256": digest(f"release {about or image}").hex})], summary)


def contents(name: str, *lost: str) -> Contents:
    found = [("bin/busybox", BUSYBOX), *((path, "") for path in lost)]
    files = tuple(
        ContentsFile(path=path, digest=digest(path), size_bytes=1, mode="0100755", component=ref)
        for path, ref in sorted(found)
    )
    busybox = Component(
        ref=BUSYBOX,
        kind="deb",
        name="busybox-static",
        version="1.35.0-4",
        purl=BUSYBOX,
        licence="GPL-2.0-only",
        seed="busybox.deb",
        digest=digest("busybox"),
    )
    return Contents(product=name, files=files, components=(busybox,))


def functionary(organisation: str) -> Functionary:
    return Functionary(
        name=organisation.split(".")[0],
        builder_id=f"https://{organisation}",
        organisation=organisation,
        keyid=digest(organisation).hex,
        public_key=bytes(32),
    )


def measurement(image: str, **changes: object) -> Measurement:
    made = Measurement(
        platform="qemu-vtpm",
        evidence_kind="tpm-quote",
        image=digest(f"uki {image}"),
        firmware=digest("firmware"),
        shape=(("ram_mib", 512), ("vcpus", 1), ("vmm", "qemu")),
        values=tuple(sorted(registers(image).items())),
        waived=(WAIVED,),
        events=(),
        calculator="tallystick test",
    )
    return replace(made, **changes)


def release(image: str = "a", *, name: str = "confidential-inference", **changes: object) -> VerifiedRelease:
    files = tuple(
        IndexedFile(path=f"products/{product}", digest=digest(f"{product} {image}"), size_bytes=1)
        for product in sorted(PRODUCTS)
    )
    index = Index(
        name=name,
        version="0.1.0",
        files=files,
        statements=(),
        products=tuple((product, f"products/{product}") for product in sorted(PRODUCTS)),
        digest=digest(f"release {image}"),
    )
    plain = intoto.make(subjects(image), "https://slsa.dev/provenance/v1", {})
    statements = {"index": plain, "measurements": plain, "provenance": plain, "sbom": sbom(image)}
    made = VerifiedRelease(
        index=index,
        statements=tuple((kind, statement(kind, data)) for kind, data in sorted(statements.items())),
        builder=CI,
        quorum=Quorum(threshold=1, counted=(functionary("rebuild.example"),), not_counted=(), links=()),
        measurements=(measurement(image),),
        contents=tuple(contents(product) for product in sorted(PRODUCTS)),
        vsa=statement("vsa", verdict(image), ALICE),
        labels=("embedded-dev",),
    )
    return replace(made, **changes)


def restated(found: VerifiedRelease, **payloads: bytes | None) -> VerifiedRelease:
    """The release with some statements replaced, or gone."""
    statements = dict(found.statements)
    for kind, data in payloads.items():
        del statements[kind]
        if data is not None:
            statements[kind] = statement(kind, data)
    return replace(found, statements=tuple(sorted(statements.items())))


def channel(*releases: VerifiedRelease, name: str = "staging") -> VerifiedChannel:
    state = VerifiedPolicies(
        channel=name,
        version=1,
        expires=NOW + timedelta(days=7),
        policies=MappingProxyType({}),
        revocations=(),
        high_water=HighWater(),
    )
    settings = Settings(name=name, platforms=("qemu-vtpm",), threshold=2)
    return VerifiedChannel(settings=settings, state=state, releases=releases)

"""From any digest back to the source and forward to the key; one flipped byte anywhere is named."""

from datetime import timedelta

import pytest
from report import releases
from report.reports import NOW
from sbom import builds

from tallystick.broker import decisions
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Misuse, NotGenuine, TallystickError
from tallystick.release.records import (
    HighWater,
    Quorum,
    Settings,
    VerifiedChannel,
    VerifiedPolicies,
    VerifiedRelease,
)
from tallystick.report import trace
from tallystick.report.folder import ReleaseFolder
from tallystick.signing.records import Builder, Identity, VerifiedStatement

ALICE = Identity(san="alice@example.org", issuer="https://tallystick.local/embedded-dev")
POLICY = "confidential-inference/broker/policy.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = releases.write(tmp_path_factory.mktemp("release"))
    for path in ("bundles/sbom.sigstore.json", "bundles/index.sigstore.json", "links/build.12345678.link"):
        (made / path).parent.mkdir(exist_ok=True)
        (made / path).write_bytes(path.encode())
    return ReleaseFolder.open(made)


def channel_with(folder):
    """Return a channel that promoted the release and has a policy that names it, and one that does not."""
    vsa = VerifiedStatement(
        statement={},
        payload=b"vsa",
        predicate_type="https://slsa.dev/verification_summary/v1",
        signer=ALICE,
        signed_at=NOW,
        bundle=Digest.of(b"vsa bundle"),
    )
    release = VerifiedRelease(
        index=folder.index,
        statements=(),
        builder=Builder(identity=ALICE, builder_id=releases.BUILDER),
        quorum=Quorum(threshold=1, counted=(), not_counted=(), links=()),
        measurements=(),
        contents=(),
        vsa=vsa,
        labels=("embedded-dev",),
    )
    policies = {POLICY: f"permits {folder.index.digest.hex}".encode(), "other/broker/policy.json": b"nothing"}
    state = VerifiedPolicies(
        channel="staging",
        version=3,
        expires=NOW + timedelta(days=1),
        policies=policies,
        revocations=(),
        high_water=HighWater(),
    )
    settings = Settings(name="staging", platforms=("qemu-vtpm",), threshold=2)
    return VerifiedChannel(settings=settings, state=state, releases=(release,))


def leaves(folder, channel):
    policy = str(Digest.of(channel.policies[POLICY]))
    named = {"key": "k/w/1", "policy": policy, "release": str(folder.index.digest)}
    return [
        decisions.entry(kind, now=NOW, public=public, details={}, decision=name).leaf
        for kind, public, name in (
            (decisions.Kind.KEY, {"key": "k/w/1"}, "20261122T173000Z-000000000001"),
            (decisions.Kind.RELEASE, named, "20261122T173000Z-000000000002"),
            (decisions.Kind.REFUSAL, {"key": "k/w/1", "policy": policy}, "20261122T173000Z-000000000003"),
        )
    ]


@pytest.fixture(scope="module")
def chain(folder):
    channel = channel_with(folder)
    return trace.graph(folder, channel=channel, leaves=leaves(folder, channel))


def stages(found):
    return {node.stage for node in found}


def test_every_edge_leads_to_a_node(chain):
    for node in chain.nodes.values():
        assert set(node.rests_on) <= set(chain.nodes), node.id


def test_a_file_goes_back_to_its_package_and_forward_to_the_key(chain, folder):
    digest = Digest.of(b"\x7fELF libc")
    found = trace.trace(chain, str(digest))
    assert [node.where for node in found.found] == ["in initramfs"]
    assert [node.name for node in found.source] == [builds.LIBC.seed]
    assert found.source[0].digest == str(builds.LIBC.digest)
    assert stages(found.forward) >= {
        "product",
        "sbom",
        "measurement",
        "release",
        "promotion",
        "policy",
        "decision",
    }
    assert "decision:20261122T173000Z-000000000002" in {node.id for node in found.forward}


def test_a_key_release_goes_back_to_every_input(chain):
    found = trace.trace(chain, "20261122T173000Z-000000000002")
    assert found.forward == ()
    assert {node.name for node in found.source} >= {
        "recipe.yaml",
        builds.BUSYBOX.seed,
        builds.KERNEL.seed,
        builds.OVMF.seed,
        "attester",
        "gcc.deb",
    }
    assert stages(found.back) >= {"policy", "promotion", "release", "measurement", "firmware", "derivation"}


def test_a_refusal_is_linked_by_its_policy_and_a_key_operation_not_at_all(chain):
    assert "policy" in stages(trace.trace(chain, "20261122T173000Z-000000000003").back)
    with pytest.raises(Misuse, match="nothing in this release"):
        trace.trace(chain, "20261122T173000Z-000000000001")


def test_signatures_and_links_stand_on_what_they_are_about(chain):
    (bundle,) = trace.trace(chain, "bundles/sbom.sigstore.json").found
    assert bundle.rests_on == ("statement:sbom",)
    (index,) = trace.trace(chain, "bundles/index.sigstore.json").found
    (link,) = trace.trace(chain, str(Digest.of(b"links/build.12345678.link"))).found
    assert index.rests_on == link.rests_on == ("release",)


@pytest.mark.parametrize(
    "name",
    [
        "products/uki.efi",
        "recipe.yaml",
        "statements/sbom.json",
        "firmware/ovmf.fd",
        "index.json",
        builds.CBOR.ref,
        builds.SOURCE,
        builds.SOURCE_NAR.hex,
        POLICY,
    ],
)
def test_things_are_found_by_every_name_they_have(chain, name):
    assert trace.trace(chain, name).found


def test_a_digest_is_found_bare_and_by_its_beginning_and_never_by_too_little(chain, folder):
    whole = folder.index.digest.hex
    for asked in (f"sha256:{whole}", whole, whole[:12], f"sha256:{whole[:8]}"):
        assert [node.id for node in trace.trace(chain, asked).found] == ["release"]
    for asked in (whole[:7], "0" * 64, "", "no such thing"):
        with pytest.raises(Misuse) as caught:
            trace.trace(chain, asked)
        assert caught.value.code == "trace.unknown"


def test_a_name_of_two_different_things_is_refused(chain):
    with pytest.raises(Misuse, match="can mean 2 things") as caught:
        trace.trace(trace.ChainGraph(nodes={n.id: n for n in _twins(chain)}), "twin")
    assert caught.value.code == "trace.ambiguous"


def _twins(chain):
    from dataclasses import replace

    first = chain.nodes["release"]
    yield replace(first, id="a", name="twin", rests_on=())
    yield replace(first, id="b", name="twin", digest="sha256:" + "1" * 64, rests_on=())


def test_the_document_says_it_all(chain):
    document = trace.trace(chain, "recipe.yaml").document()
    assert document["found"][0]["stage"] == "source"
    assert document["back"] == []
    assert document["forward"][0]["id"].startswith("product:")


def test_a_release_that_no_channel_has_ends_at_its_signatures(folder):
    chain = trace.graph(folder)
    assert stages(trace.trace(chain, "products/uki.efi").forward) >= {"release", "signature", "rebuild"}
    assert not {"promotion", "policy", "decision"} & stages(chain.nodes.values())


def test_one_flipped_byte_in_any_file_is_named(tmp_path):
    made = releases.write(tmp_path)
    paths = [entry.path for entry in ReleaseFolder.open(made).index.files]
    assert len(paths) > 20
    for path in paths:
        good = (made / path).read_bytes()
        (made / path).write_bytes(bytes([good[0] ^ 1]) + good[1:])
        with pytest.raises(NotGenuine) as caught:
            trace.graph(ReleaseFolder.open(made))
        assert [finding.where for finding in caught.value.findings] == [path]
        (made / path).write_bytes(good)
    trace.graph(ReleaseFolder.open(made))


def test_a_release_whose_parts_do_not_fit_is_refused_though_its_index_holds(tmp_path):
    def other_firmware(folder):
        (folder / "firmware/ovmf.fd").write_bytes(b"other")

    with pytest.raises(NotGenuine, match="the chain breaks in") as caught:
        trace.graph(ReleaseFolder.open(releases.write(tmp_path / "a", change=other_firmware)))
    assert {finding.code for finding in caught.value.findings} >= {
        "provenance.firmware",
        "trace.measurement.firmware",
        "sbom.product.hash",
    }

    def no_derivations(folder):
        for path in (folder / "derivations").iterdir():
            path.unlink()

    with pytest.raises((NotGenuine, Malformed)):
        trace.graph(ReleaseFolder.open(releases.write(tmp_path / "b", change=no_derivations)))


def test_a_channel_without_the_release_adds_nothing_and_a_foreign_image_is_refused(folder, tmp_path):
    from dataclasses import replace

    empty = replace(channel_with(folder), releases=())
    assert "promotion" not in stages(trace.graph(folder, channel=empty).nodes.values())

    def foreign(made):
        releases.edit(made / "statements/measurements.json", _point_elsewhere)

    with pytest.raises(NotGenuine) as caught:
        trace.graph(ReleaseFolder.open(releases.write(tmp_path, change=foreign)))
    assert [finding.code for finding in caught.value.findings] == ["trace.measurement.image"]


def _point_elsewhere(document):
    other = {"sha256": "1" * 64}
    document["subject"][0]["digest"] = other
    for attribute in document["predicate"]["attributes"]:
        attribute["target"]["digest"] = other


def test_leaves_that_are_none_are_refused(folder):
    with pytest.raises(TallystickError):
        trace.graph(folder, leaves=[b"{}"])

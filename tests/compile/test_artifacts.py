"""Artifact releases in a policy: whole tuples for each set that was made for an image, and every reason against one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compile import releases
from policy.policyworld import NOW, TOKENIZER, WEIGHTS, policy_text

from tallystick.broker.policies import loaded
from tallystick.compile import artifacts
from tallystick.compile.compile import normal_form
from tallystick.compile.policies import load
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Refused
from tallystick.core.expect import Exactly
from tallystick.handshake import initdata
from tallystick.handshake.manifest import Artifact, Images, Manifest
from tallystick.policy import document
from tallystick.release.artifact_seal import init_data
from tallystick.release.records import VerifiedArtifacts

URL = "http://10.0.2.100:8777"
KEYS = {"weights": WEIGHTS, "tokenizer": TOKENIZER}


def policy(**versions: list[str]):
    """The demo's policy, with these artifact releases in these versions."""
    rows = "".join(f"    - {{name: {name}, versions: {listed}}}\n" for name, listed in versions.items())
    text = policy_text().replace(
        "supply_chain:", f"artifacts:\n  broker: {URL}\n  releases:\n{rows}\nsupply_chain:", 1
    )
    return load(text.encode())


def made(name: str, version: str, asked, *, artifact: str = "weights", images: tuple[str, ...] = ("0.1.0",)):
    one = Artifact(
        name=artifact,
        kind="other",
        file=f"{artifact}.tsenc",
        size_bytes=1,
        ciphertext=Digest.of(f"{name} {version}".encode()),
        plaintext=Digest.of(b"p"),
        key=KEYS.get(artifact, "a/b/c"),
    )
    manifest = Manifest(
        name=name,
        version=version,
        policy=asked.digest,
        images=(Images(name="confidential-inference", versions=images),),
        artifacts=(one,),
    )
    return VerifiedArtifacts(manifest=manifest, statements=(), labels=("embedded-dev",))


def channel(*found: VerifiedArtifacts, images=None):
    return replace(releases.channel(*(images or (releases.release(),))), artifacts=found)


def compiled(asked, there):
    return normal_form(asked, there, NOW)


def codes(asked, there) -> list[tuple[str, str]]:
    return [(f.code, f.where) for f in artifacts.objections(asked, there.releases, there)]


def test_every_set_of_versions_has_its_own_tuple():
    """Weights and an index with lives of their own: two versions of one and two of the other are four launches."""
    asked = policy(net=["1", "2"], words=["1", "2"])
    nets = [made("net", version, asked) for version in ("1", "2")]
    words = [made("words", version, asked, artifact="tokenizer") for version in ("1", "2")]
    form = compiled(asked, channel(*nets, *words))
    (release,) = form.releases
    pinned = {entry.artifacts: dict(entry.expect)["pcr08"] for entry in release.tuples}
    assert len(release.tuples) == len(pinned) == 4
    for net in nets:
        for word in words:
            digests = tuple(sorted((net.digest, word.digest), key=str))
            toml = init_data([net.manifest, word.manifest], URL)
            assert pinned[digests] == Exactly(initdata.pcr8(toml).hex())
    assert document.read(document.write(form)) == form
    assert len({dict(entry.expect)["pcr11"].value for entry in release.tuples}) == 1


def test_a_pair_that_nobody_made_for_each_other_has_no_tuple():
    asked = policy(net=["1", "2"])
    old = releases.release()
    new = releases.release("b", index=replace(releases.release("b").index, version="0.2.0"))
    there = channel(made("net", "1", asked), made("net", "2", asked, images=("0.2.0",)), images=(old, new))
    form = compiled(asked, there)
    assert {r.version: [len(e.artifacts) for e in r.tuples] for r in form.releases} == {
        "0.1.0": [1],
        "0.2.0": [1],
    }
    pins = {r.version: r.tuples[0].artifacts for r in form.releases}
    assert pins == {"0.1.0": (there.artifacts[0].digest,), "0.2.0": (there.artifacts[1].digest,)}


def test_an_image_that_measured_no_init_data_will_do():
    """Without `artifacts:` it has a zero where launches have their init-data, and is refused."""
    plain = releases.release()
    (measured,) = plain.measurements
    values = tuple(sorted({**dict(measured.values), "pcr08": "0" * 64}.items()))
    image = replace(plain, measurements=(replace(measured, values=values),))
    asked = policy(net=["1"])
    assert compiled(asked, channel(made("net", "1", asked), images=(image,))).releases
    with pytest.raises(Refused) as caught:
        compiled(releases.policy(), releases.channel(image))
    assert [f.code for f in caught.value.findings] == ["release.register.zero"]


def test_every_reason_has_its_name():
    asked = policy(net=["1"])
    one = made("net", "1", asked)
    other = replace(one.manifest, policy=Digest.of(b"another policy"))
    keyed = replace(one.manifest, artifacts=(replace(one.manifest.artifacts[0], key="a/b/c"),))
    unknown = replace(one.manifest, artifacts=(replace(one.manifest.artifacts[0], name="poem"),))
    where = "artifact release net 1"
    for there, want in (
        (channel(), [("artifact.missing", where)]),
        (channel(one, one), [("artifact.missing", where)]),
        (channel(replace(one, manifest=other)), [("artifact.policy", where)]),
        (channel(replace(one, manifest=keyed)), [("artifact.key", f"{where}: weights")]),
        (channel(replace(one, manifest=unknown)), [("artifact.key", f"{where}: poem")]),
        (
            channel(made("net", "1", asked, images=("9",))),
            [
                ("artifact.incompatible", "release confidential-inference 0.1.0"),
                ("artifact.incompatible", where),
            ],
        ),
        (channel(one, made("net", "2", asked)), []),  # a version that the policy does not name
    ):
        assert codes(asked, there) == want
    with pytest.raises(Refused) as caught:
        compiled(asked, channel())
    assert "artifact.missing" in [f.code for f in caught.value.findings]


def test_too_many_sets_are_refused_before_they_are_made():
    asked = policy(**{name: [str(n) for n in range(11)] for name in ("a", "b", "c")})
    there = channel(
        *(made(name, str(n), asked, artifact=name) for name in ("a", "b", "c") for n in range(11))
    )
    found = [code for code, _ in codes(asked, there)]
    assert found[-1] == "artifact.sets"


def test_a_platform_without_a_register_for_init_data_is_refused(monkeypatch):
    asked = policy(net=["1"])
    monkeypatch.setattr(artifacts, "shared_platforms", lambda _: ("aws-nitro", "qemu-vtpm"))
    assert codes(asked, channel(made("net", "1", asked))) == [("artifact.unbound", "platform aws-nitro")]


def test_a_policy_names_exact_versions_once():
    for rows, words in (
        ({"net": []}, "at least one"),
        ({"net": ["*"]}, "want a release's name"),
    ):
        with pytest.raises(Malformed, match=words):
            policy(**rows)
    text = policy_text().replace(
        "supply_chain:",
        "artifacts: {broker: 'ftp://x', releases: [{name: a, versions: ['1']}]}\nsupply_chain:",
        1,
    )
    with pytest.raises(Malformed, match="want the broker's address"):
        load(text.encode())
    twice = text.replace("ftp", "http").replace(
        "[{name: a, versions: ['1']}]", "[{name: a, versions: ['1']}, {name: a, versions: ['2']}]"
    )
    with pytest.raises(Malformed, match="each artifact release once"):
        load(twice.encode())


def test_the_broker_drops_what_rests_on_an_artifact_release_that_is_gone():
    asked = policy(net=["1", "2"])
    found = [made("net", version, asked) for version in ("1", "2")]
    form = compiled(asked, channel(*found))
    data = document.write(form)
    taken = loaded(data, form, frozenset({found[0].digest}))
    assert [e.artifacts for r in taken.live.form.releases for e in r.tuples] == [(found[1].digest,)]
    assert [e.artifacts for r in taken.gone.form.releases for e in r.tuples] == [(found[0].digest,)]
    everything = loaded(data, form, frozenset(one.digest for one in found))
    assert everything.live.form.releases == ()
    image = loaded(data, form, frozenset({form.releases[0].digest}))
    assert (image.live.form.releases, image.gone.form.releases) == ((), form.releases)

"""Production: separately held keys, and the log's head published under witnesses' signatures."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from release.test_promotion import propose, same

from tallystick.core.digests import Digest
from tallystick.core.errors import NotGenuine, Refused, TallystickError
from tallystick.release import approve, channel, checkpoints, custody, keys, promote
from tallystick.signing import root as roots
from tallystick.signing.embedded import http
from tallystick.signing.embedded.front import Front
from tallystick.signing.embedded.instance import Instance
from tallystick.signing.records import Custody, Witness
from tallystick.signing.rekor_client import RekorV1
from tallystick.tlog import checkpoint as cp

from . import world as worlds


class Watching:
    """A witness in this process, that signs everything."""

    def __init__(self, name="w1.example", holder="Wanda"):
        self.key, self.name = Ed25519PrivateKey.generate(), name
        self.entry = Witness(name=name, holder=holder, public_key=self.key.public_key().public_bytes_raw())

    def __call__(self, note, consistency):
        return (cp.cosign(cp.parse_note(note).text, self.name, self.key, worlds.now()),)


def held_apart(w, witnesses, threshold=1):
    """The world's trust file as production wants it. The embedded root stands for one that is none."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    root = roots.parse(w.trust.sigstore_root)
    ca = [
        Digest.of(
            x509.load_der_x509_certificate(der)
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
        for authority in root.authorities
        for der in authority.certificates
    ]
    logs = [Digest.of(log.spki) for log in (*root.logs, *root.ct_logs)]
    people = [Digest.of(keys.spki(w.signatories[name].public_key)) for name in worlds.APPROVERS]
    written = (
        Custody(holder="Cecil (CA)", keys=tuple(ca)),
        Custody(holder="Lena (logs)", keys=tuple(logs)),
        *(Custody(holder=name, keys=(key,)) for name, key in zip(worlds.APPROVERS, people, strict=True)),
    )
    w.trust = replace(
        w.trust,
        label="production",
        witnesses=tuple(one.entry for one in witnesses),
        witness_threshold=threshold,
        custody=written,
    )


def logged(w, *witnesses):
    return promote.Logged(source=Instance(w.workdir / "sigstore").log, witnesses=witnesses)


def proposed(w, folder, *witnesses, channel_name="production"):
    desk = w.desk(channel_name)
    return promote.propose_release(
        desk, folder, w.signatories["alice"], w.sign_one("alice"), logged=logged(w, *witnesses)
    )


def live(w, channel_name="production"):
    for name in ("bob", "carol"):
        approve.approve(w.desk(channel_name), w.signatories[name], lambda: w.online, same)
    return channel.load(w.workdir / "channels" / channel_name, channel_name, w.trust, worlds.now())


def codes(caught):
    return sorted({finding.code for finding in caught.value.findings})


def test_a_production_release_is_under_a_head_that_a_witness_signed(world):
    w, folder = world
    witness = Watching()
    held_apart(w, [witness])
    proposed(w, folder, witness)
    found = live(w)
    assert [release.index.name for release in found.releases]
    state = w.desk("production").state()
    notes = [
        target.unrecognized_fields["custom"]["checkpoints"]
        for path, target in state.delegated["releases"].signed.targets.items()
        if path.endswith("/index.json")
    ]
    assert len(notes) == 1
    assert "rekor.tallystick.local" in notes[0][0]["note"]


def test_without_a_witness_nothing_is_promoted_into_production(world):
    w, folder = world
    witness, stranger = Watching(), Watching("w2.example", "Willy")
    held_apart(w, [witness])
    for asked in ((), (stranger,)):
        with pytest.raises(Refused) as caught:
            proposed(w, folder, *asked)
        assert codes(caught) == ["release.checkpoint.witness"]
    with pytest.raises(Refused) as caught:
        propose(w, folder, channel_name="production")
    assert codes(caught) == ["release.checkpoint.missing", "release.checkpoint.witness"] or codes(caught) == [
        "release.checkpoint.missing"
    ]


def test_two_witnesses_of_one_holder_count_once(world):
    w, folder = world
    one, two, other = Watching(), Watching("w2.example"), Watching("w3.example", "Wilma")
    held_apart(w, [one, two, other], threshold=2)
    with pytest.raises(Refused) as caught:
        proposed(w, folder, one, two)
    assert codes(caught) == ["release.checkpoint.witness"]
    proposed(w, folder, one, other)


def test_a_client_with_other_witnesses_refuses_the_channel(world):
    w, folder = world
    witness = Watching()
    held_apart(w, [witness])
    proposed(w, folder, witness)
    live(w)
    held_apart(w, [Watching("w9.example", "Wendy")])
    with pytest.raises(Refused) as caught:
        channel.load(w.workdir / "channels" / "production", "production", w.trust, worlds.now())
    assert codes(caught) == ["release.checkpoint.witness"]


def change(trust, **changed):
    return replace(trust, **changed)


def without(index):
    return lambda trust: change(trust, custody=tuple(c for n, c in enumerate(trust.custody) if n != index))


def merged(one, other):
    """Two of the holders are one."""

    def apply(trust):
        written = list(trust.custody)
        written[other] = Custody(holder=written[one].holder, keys=written[other].keys)
        return change(trust, custody=tuple(written))

    return apply


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (without(0), "release.custody.unknown"),
        (without(1), "release.custody.unknown"),
        (without(2), "release.custody.unknown"),
        (merged(0, 1), "release.custody.shared"),
        (merged(0, 2), "release.custody.shared"),
        (merged(1, 3), "release.custody.shared"),
        (
            lambda t: change(t, witnesses=(replace(t.witnesses[0], holder="Lena (logs)"),)),
            "release.custody.shared",
        ),
        (lambda t: change(t, witnesses=()), "release.custody.witness"),
    ],
)
def test_keys_that_are_not_held_apart_are_named(world, edit, code):
    w, folder = world
    witness = Watching()
    held_apart(w, [witness])
    people = w.desk("production").state().people
    assert list(custody.findings(w.trust, people)) == []
    w.trust = edit(w.trust)
    assert {finding.code for finding in custody.findings(w.trust, people)} == {code}
    with pytest.raises(Refused) as caught:
        proposed(w, folder, witness)
    assert code in codes(caught)
    with pytest.raises(Refused) as caught:
        channel.load(w.workdir / "channels" / "production", "production", w.trust, worlds.now())
    assert code in codes(caught)


def test_staging_publishes_the_head_without_asking_for_it(world):
    w, folder = world
    proposed(w, folder, channel_name="staging")
    assert live(w, "staging").releases


def bundles_of(folder):
    return {f"bundles/{p.name}": p.read_bytes() for p in sorted((folder / "bundles").iterdir())}


def published(w, folder, **changed):
    (item,) = checkpoints.make(bundles_of(folder), logged(w).source, ())
    return [item | changed]


def test_a_head_that_is_no_continuation_of_a_bundles_is_a_fork(world):
    w, folder = world
    w.sign("alice", [worlds.index_statement(folder)])
    good = published(w, folder)
    checkpoints.check(good, bundles_of(folder), w.trust, "r", required=False)
    proofs = good[0]["consistency"]
    assert proofs
    for name in proofs:
        broken = [good[0] | {"consistency": {k: v for k, v in proofs.items() if k != name}}]
        with pytest.raises(NotGenuine) as caught:
            checkpoints.check(broken, bundles_of(folder), w.trust, "r", required=False)
        assert codes(caught) == ["release.checkpoint.fork"]


def test_a_head_that_no_log_of_the_root_signed_is_refused(world):
    w, folder = world
    note = cp.parse_note(published(w, folder)[0]["note"])
    forged = cp.sign(note.text, "rekor.tallystick.local", ec.generate_private_key(ec.SECP256R1()))
    said = published(w, folder, note=str(cp.SignedNote(text=note.text, signatures=(forged,))))
    with pytest.raises(NotGenuine) as caught:
        checkpoints.check(said, bundles_of(folder), w.trust, "r", required=False)
    assert codes(caught) == ["release.checkpoint.log"]


NONSENSE = [
    1,
    "x",
    [1],
    [{}],
    [{"note": "x", "consistency": {}}],
    [{"note": 1, "consistency": 1}],
    {"note": "x"},
]


@pytest.mark.parametrize("said", NONSENSE)
def test_nonsense_in_its_place_is_refused_by_name(world, said):
    w, folder = world
    with pytest.raises(NotGenuine) as caught:
        checkpoints.check(said, bundles_of(folder), w.trust, "r", required=False)
    assert codes(caught) == ["release.checkpoint.form"]


def test_the_head_is_had_from_a_rekor_over_http(world):
    w, folder = world
    before = bundles_of(folder)
    with http.serving(Front(Instance(w.workdir / "sigstore")), "127.0.0.1", 0, worlds.now) as url:
        said = checkpoints.make(before, RekorV1(url=url), ())
        checkpoints.check(json.loads(json.dumps(said)), before, w.trust, "r", required=False)
    with pytest.raises(TallystickError) as caught:
        RekorV1(url=url).checkpoint()
    assert caught.value.code == "sigstore.unreachable"

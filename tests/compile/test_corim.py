"""CoRIM as a target: whole triples, signatures, and what Reference Values can not say."""

from __future__ import annotations

from datetime import timedelta

import cbor2
import pytest
from compile.changed import _thaw
from compile.machines import CHOICES, NOW, compiled, entry, form, release, rule, world
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from tallystick.cli.corim import app
from tallystick.compile.errors import Unproven
from tallystick.compile.targets.corim import prove, sign
from tallystick.compile.targets.corim.reading import Values
from tallystick.compile.targets.registry import backend
from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.core.expect import OneOf
from tallystick.formats import corim

SNP = "amd-sev-snp"


def edited(edit) -> bytes:
    """The emitted manifest with ``edit`` applied to the reference triples of its first tag."""
    top = _thaw(cbor2.loads(world("corim").made.files["corim.cbor"]))
    first = _thaw(cbor2.loads(top.value[1][0].value))
    edit(first[4][0])
    top.value[1][0] = cbor2.CBORTag(506, cbor2.dumps(first, canonical=True))
    return cbor2.dumps(top, canonical=True)


def refused(data: bytes) -> str:
    made = world("corim")
    with pytest.raises(Unproven) as caught:
        prove.evaluate({**made.made.files, "corim.cbor": data}, made.form, NOW)
    return "; ".join(finding.message for finding in caught.value.findings)


def test_a_list_of_values_and_the_verifiers_own_policy_can_not_be_said():
    made = form((rule(SNP, "amd", ("product", OneOf(("Genoa", "Milan")))),), (release("a", entry(SNP, "a")),))
    names = {lack.requirement for lack in backend("corim").lacks(made, CHOICES["corim"])}
    assert names == {"claim-product", "verifier-policy"}


def test_each_release_is_one_tag_and_each_tuple_one_triple():
    found = corim.parse(world("corim").made.files["corim.cbor"])
    assert [len(one.triples) for one in found.comids] == [2, 2]
    assert found.not_after == world("corim").made.not_after
    assert str(found.corim_id).startswith("tallystick confidential-inference sha256:")


def test_nothing_released_is_a_manifest_that_matches_nothing():
    made = compiled("corim", form((rule(SNP, "amd"),), ()))
    assert made.prove().accepted == 0
    assert corim.parse(made.made.files["corim.cbor"]).comids[0].tag_id == "nothing is released"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda rows: rows.pop(), "got refused"),
        (lambda rows: rows[0][1].pop(0), "accepted"),
        (lambda rows: rows[0].__setitem__(1, rows[0][1] + rows[1][1][:1]), "refused"),
        (lambda rows: rows.append([rows[0][0], [{0: "vmpl", 1: {1: cbor2.CBORTag(552, 0)}}]]), "accepted"),
        (lambda rows: rows[0][1][0].__setitem__(1, {11: "any"}), "svn, digest, flags, raw"),
        (lambda rows: rows[0][1][0].pop(0), "each text once"),
        (lambda rows: rows[0][0].clear(), "refused"),
    ],
)
def test_a_guard_that_is_broken_is_seen(edit, said):
    assert said in refused(edited(edit))


def test_other_tags_beside_ours_are_seen():
    top = _thaw(cbor2.loads(world("corim").made.files["corim.cbor"]))
    top.value[1].append(cbor2.CBORTag(505, b"\xa0"))
    assert "reference triples alone" in refused(cbor2.dumps(top, canonical=True))


def test_a_manifest_without_an_end_matches_nothing():
    top = _thaw(cbor2.loads(world("corim").made.files["corim.cbor"]))
    del top.value[4]
    assert "got refused" in refused(cbor2.dumps(top, canonical=True))


def test_a_minimum_is_compared_and_an_exact_number_is_exact():
    found = Values(corim.parse(world("corim").made.files["corim.cbor"]))
    for triple in found.triples:
        tags = {one.key: one.values[1].tag for one in triple.measurements if 1 in one.values}
        assert {tag for key, tag in tags.items() if key.startswith("reported_tcb")} <= {corim.MIN_SVN}
        assert tags.get("vmpl", corim.SVN) == corim.SVN


def test_the_end_is_the_end():
    made = world("corim")
    values = Values(corim.parse(made.made.files["corim.cbor"]))
    case = next(iter(prove.released(prove.view.served(made.form, "corim"))))
    machines = prove._Machines(prove.view.served(made.form, "corim"))
    shown = machines.of(case)
    assert machines.match(values, shown, made.made.not_after)
    assert not machines.match(values, shown, made.made.not_after + timedelta(seconds=1))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_a_signed_manifest_holds_under_its_key_alone(curve):
    data, key = world("corim").made.files["corim.cbor"], ec.generate_private_key(curve)
    signed = sign.sign(data, key, "a signer")
    assert sign.verify(signed, key.public_key()) == corim.parse(data)
    with pytest.raises(NotGenuine, match="not signed by this key"):
        sign.verify(signed, ec.generate_private_key(curve).public_key())
    flipped = bytearray(signed)
    flipped[len(signed) // 2] ^= 1
    with pytest.raises((NotGenuine, Malformed, Unsupported)):
        sign.verify(bytes(flipped), key.public_key())


def test_another_curve_is_unsupported():
    with pytest.raises(Unsupported, match="curve"):
        sign.sign(
            world("corim").made.files["corim.cbor"], ec.generate_private_key(ec.SECP256K1()), "a signer"
        )


def test_the_command_signs_and_shows(tmp_path):
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for name, data in (("k", private), ("p", public), ("c", world("corim").made.files["corim.cbor"])):
        (tmp_path / name).write_bytes(data)
    run = CliRunner().invoke
    made = run(app, ["sign", str(tmp_path / "c"), "--key", str(tmp_path / "k"), "-o", str(tmp_path / "s")])
    assert made.exit_code == 0, made.output
    assert "signature holds" in run(app, ["show", str(tmp_path / "s"), "--key", str(tmp_path / "p")]).output
    assert "not checked" in run(app, ["show", str(tmp_path / "c")]).output
    assert isinstance(run(app, ["show", str(tmp_path / "k")]).exception, Malformed | SystemExit)

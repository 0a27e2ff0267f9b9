"""Hashes and proofs of RFC 6962: against its own definition, and against other people's vectors."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_corpus import corpus

from tallystick.core.errors import NotGenuine
from tallystick.tlog import merkle

LEAVES = [f"leaf {number}".encode() for number in range(70)]


def by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + by_definition(leaves[:k]) + by_definition(leaves[k:])).digest()


def grown(count: int) -> merkle.Tree:
    tree = merkle.Tree()
    for leaf in LEAVES[:count]:
        tree.grow(merkle.leaf_hash(leaf))
    return tree


TREE = grown(len(LEAVES))


def test_the_root_at_every_size_is_the_definition():
    for size in range(len(LEAVES) + 1):
        assert TREE.root(size) == by_definition(LEAVES[:size])
        assert grown(size).root() == by_definition(LEAVES[:size])


@given(st.integers(1, 70), st.data())
def test_every_inclusion_proof_holds_and_only_for_its_leaf(size, data):
    index = data.draw(st.integers(0, size - 1))
    proof = TREE.inclusion(index, size)
    leaf, root = TREE.leaf(index), TREE.root(size)
    merkle.verify_inclusion(leaf, index, size, proof, root)
    with pytest.raises(NotGenuine, match=r"log|root hash"):
        merkle.verify_inclusion(merkle.leaf_hash(b"another"), index, size, proof, root)
    other = data.draw(st.integers(0, size - 1).filter(lambda at: at != index)) if size > 1 else size
    with pytest.raises(NotGenuine, match="transparency log"):
        merkle.verify_inclusion(leaf, other, size, proof, root)


@settings(max_examples=200)
@given(st.integers(1, 70), st.integers(1, 70))
def test_every_consistency_proof_holds_and_no_other_does(older, newer):
    older, newer = min(older, newer), max(older, newer)
    proof = TREE.consistency(older, newer)
    merkle.verify_consistency(older, TREE.root(older), newer, TREE.root(newer), proof)
    with pytest.raises(NotGenuine, match="transparency log"):
        merkle.verify_consistency(older, TREE.root(newer + 1 if newer < 70 else 1), newer, b"x" * 32, proof)


@given(st.integers(2, 70), st.data())
def test_a_proof_that_is_changed_does_not_hold(size, data):
    index = data.draw(st.integers(0, size - 1))
    proof = list(TREE.inclusion(index, size))
    at = data.draw(st.integers(0, len(proof) - 1))
    damaged = [bytearray(step) for step in proof]
    damaged[at][data.draw(st.integers(0, 31))] ^= data.draw(st.integers(1, 255))
    for bad in (damaged, proof[:-1], [*proof, proof[0]], [proof[0], *proof]):
        with pytest.raises(NotGenuine) as caught:
            merkle.verify_inclusion(TREE.leaf(index), index, size, [bytes(b) for b in bad], TREE.root(size))
        assert caught.value.code == "log.inclusion"


def test_what_was_never_there_is_a_callers_bug():
    for call in (
        lambda: TREE.inclusion(70),
        lambda: TREE.inclusion(3, 3),
        lambda: TREE.consistency(9, 8),
        lambda: TREE.root(71),
        lambda: TREE.leaf(-1),
        lambda: TREE.grow(b"short"),
    ):
        with pytest.raises(ValueError, match=r"leaf|leaves|size"):
            call()


@pytest.mark.parametrize(
    ("older", "older_root", "newer", "newer_root", "proof"),
    [
        (0, merkle.EMPTY_ROOT, 1, TREE.root(1), ()),  # nothing is a prefix of everything: no statement
        (3, TREE.root(3), 2, TREE.root(2), ()),
        (2, TREE.root(2), 2, TREE.root(3), ()),
        (2, TREE.root(2), 2, TREE.root(2), (TREE.root(1),)),
        (0, TREE.root(1), 0, TREE.root(1), ()),
        (3, TREE.root(3), 5, TREE.root(5), ()),
        (3, TREE.root(3), 5, TREE.root(5), TREE.consistency(3, 5)[:-1]),
        (3, TREE.root(3), 5, TREE.root(5), (*TREE.consistency(3, 5), TREE.root(1))),
        (3, TREE.root(4), 5, TREE.root(5), TREE.consistency(3, 5)),
    ],
)
def test_inconsistent_trees_are_named(older, older_root, newer, newer_root, proof):
    with pytest.raises(NotGenuine) as caught:
        merkle.verify_consistency(older, older_root, newer, newer_root, proof)
    assert caught.value.code == "log.consistency"


@pytest.mark.corpus
def test_the_shared_vectors():
    """transparency-dev/merkle, testdata: every case comes out as it says."""
    cases = sorted(corpus("conformance/merkle").rglob("*.json"))
    assert len(cases) > 100
    wrong = [
        path.name
        for path in cases
        if _holds(json.loads(path.read_bytes())) is json.loads(path.read_bytes())["wantErr"]
    ]
    assert wrong == []


def _holds(case: dict) -> bool:
    proof = [_bytes(step) for step in case["proof"] or ()]
    try:
        if "leafIdx" in case:
            leaf, root = _bytes(case["leafHash"]), _bytes(case["root"])
            merkle.verify_inclusion(leaf, case["leafIdx"], case["treeSize"], proof, root)
        else:
            roots = _bytes(case["root1"]), _bytes(case["root2"])
            merkle.verify_consistency(case["size1"], roots[0], case["size2"], roots[1], proof)
    except NotGenuine:
        return False
    return True


def _bytes(text: str | None) -> bytes:
    return base64.b64decode(text or "")

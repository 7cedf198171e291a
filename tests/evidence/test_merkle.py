"""The Merkle tree of RFC 6962 and its proofs (DEMAND REG-7)."""

from __future__ import annotations

import pytest

from windtunnel.evidence import merkle

#: Inputs and roots of the tests that implementations of RFC 6962 share; root N is over the first N inputs.
INPUTS = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
MOST = 34


def leaves(count: int) -> list[bytes]:
    return [merkle.leaf_hash(bytes([number])) for number in range(count)]


def test_the_roots_that_everybody_computes() -> None:
    hashed = [merkle.leaf_hash(bytes.fromhex(text)) for text in INPUTS]
    assert [merkle.root(hashed[:size]).hex() for size in range(1, 9)] == list(ROOTS)
    assert merkle.root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_leaf_is_never_a_node() -> None:
    left, right = leaves(2)
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)


@pytest.mark.parametrize("size", range(1, MOST))
def test_inclusion_holds_for_its_place_alone(size: int) -> None:
    hashed = leaves(size)
    top = merkle.root(hashed)
    for index in range(size):
        proof = merkle.inclusion_proof(hashed, index)
        assert merkle.proof_in(merkle.levels(hashed), index) == proof
        for place in range(size):
            assert merkle.includes(hashed[index], place, size, proof, top) == (place == index)
        for wrong in range(len(proof)):
            assert not merkle.includes(hashed[index], index, size, proof[:wrong] + proof[wrong + 1 :], top)
            forged = [*proof[:wrong], bytes(32), *proof[wrong + 1 :]]
            assert not merkle.includes(hashed[index], index, size, forged, top)
        assert not merkle.includes(hashed[index], index, size, [*proof, bytes(32)], top)


@pytest.mark.parametrize("size", range(1, MOST))
def test_consistency_holds_for_the_true_beginning_alone(size: int) -> None:
    hashed = leaves(size)
    top = merkle.root(hashed)
    for first in range(1, size + 1):
        before = merkle.root(hashed[:first])
        proof = merkle.consistency_proof(hashed, first)
        assert merkle.extends(first, before, size, top, proof)
        assert not merkle.extends(first, bytes(32), size, top, proof)
        assert not merkle.extends(first, before, size, bytes(32), proof)
        assert not merkle.extends(first, before, size, top, [*proof, bytes(32)])
        for wrong in range(len(proof)):
            forged = [*proof[:wrong], bytes(32), *proof[wrong + 1 :]]
            assert not merkle.extends(first, before, size, top, forged)


def test_a_tree_grown_by_subtrees_is_the_same() -> None:
    hashed = leaves(23)
    grown = merkle.Frontier()
    for first in (0, 8):
        grown.append_subtree(merkle.root(hashed[first : first + 8]), 8)
    for leaf in hashed[16:]:
        grown.append(leaf)
    assert (grown.size, grown.root()) == (23, merkle.root(hashed))
    assert merkle.Frontier(grown.size, grown.whole).root() == grown.root()
    with pytest.raises(ValueError, match="does not fit"):
        grown.append_subtree(bytes(32), 2)
    with pytest.raises(ValueError, match="4 whole subtrees"):
        merkle.Frontier(23, [bytes(32)])


def test_proofs_of_what_is_not_there() -> None:
    with pytest.raises(ValueError, match="no leaf 3"):
        merkle.inclusion_proof(leaves(3), 3)
    with pytest.raises(ValueError, match="did not begin with one of 4"):
        merkle.consistency_proof(leaves(3), 4)
    assert not merkle.includes(bytes(32), 0, 0, [], merkle.EMPTY)
    assert not merkle.extends(0, merkle.EMPTY, 3, merkle.root(leaves(3)), [])

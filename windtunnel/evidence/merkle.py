"""A Merkle tree over a list that only grows: roots, and proofs that an entry is in it and that it only grew.

RFC 6962 section 2.1 (RFC 9162 section 2.1): SHA-256, a leaf is hashed with 0x00 before it and an inner node with
0x01, so that neither can be taken for the other; the left part of ``n`` leaves has the largest power of two smaller
than ``n``. Pure: leaves come as hashes, proofs as lists of hashes, from the leaf's side to the root's.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

#: Root of no leaves at all (RFC 6962 section 2.1: the hash of an empty string).
EMPTY = sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Hash of one leaf (32 bytes)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of the node over two others."""
    return sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Root over leaf hashes: MTH of RFC 6962 section 2.1."""
    tree = Frontier()
    for leaf in leaves:
        tree.append(leaf)
    return tree.root()


class Frontier:
    """As much of a tree as is needed to go on growing it: the roots of its whole subtrees, largest first.

    Args:
        size: leaves it has already.
        whole: for each bit of ``size``, from the highest, the root of the subtree with so many leaves.
    """

    def __init__(self, size: int = 0, whole: Sequence[bytes] = ()) -> None:
        if len(whole) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} whole subtrees, found {len(whole)}")
        self.size = size
        self.whole = list(whole)

    def append(self, leaf: bytes) -> None:
        """One more leaf hash."""
        self.append_subtree(leaf, 1)

    def append_subtree(self, subtree: bytes, leaves: int) -> None:
        """The root of a whole subtree.

        Args:
            leaves: how many it has: a power of two that divides the size of the tree so far.
        """
        if leaves.bit_count() != 1 or self.size % leaves:
            raise ValueError(f"a subtree of {leaves} leaves does not fit a tree of {self.size}")
        hashed, rest = subtree, self.size // leaves
        while rest & 1:
            hashed = node_hash(self.whole.pop(), hashed)
            rest >>= 1
        self.whole.append(hashed)
        self.size += leaves

    def root(self) -> bytes:
        """Root over everything so far."""
        return self.root_with(())

    def root_with(self, more: Sequence[bytes]) -> bytes:
        """Root of the tree once ``more`` smaller whole subtrees, largest first, stand at its right end."""
        parts = [*self.whole, *more]
        if not parts:
            return EMPTY
        hashed = parts.pop()
        while parts:
            hashed = node_hash(parts.pop(), hashed)
        return hashed


def _split(size: int) -> int:
    """Largest power of two smaller than ``size`` (from 2 on)."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """That leaf ``index`` (from 0) is in the tree: PATH(m, D[n]) of RFC 6962 section 2.1.1.

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise ValueError(f"a tree of {len(leaves)} leaves has no leaf {index}")
    if len(leaves) == 1:
        return []
    middle = _split(len(leaves))
    if index < middle:
        return [*inclusion_proof(leaves[:middle], index), root(leaves[middle:])]
    return [*inclusion_proof(leaves[middle:], index - middle), root(leaves[:middle])]


def includes(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes) -> bool:
    """Whether ``proof`` shows leaf hash ``leaf`` at ``index`` of the tree of ``size`` with root ``expected``.

    RFC 9162 section 2.1.3.2.
    """
    if not 0 <= index < size:
        return False
    place, last, hashed = index, size - 1, leaf
    for part in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            hashed = node_hash(part, hashed)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            hashed = node_hash(hashed, part)
        place, last = place >> 1, last >> 1
    return last == 0 and hashed == expected


def consistency_proof(leaves: Sequence[bytes], first: int) -> list[bytes]:
    """That the tree of the first ``first`` leaves is where this tree began: PROOF(m, D[n]) of RFC 6962 section 2.1.2.

    Raises:
        ValueError: ``first`` is not from 1 to the number of leaves.
    """
    if not 1 <= first <= len(leaves):
        raise ValueError(f"a tree of {len(leaves)} leaves did not begin with one of {first}")
    return _subproof(leaves, first, True)


def _subproof(leaves: Sequence[bytes], first: int, whole: bool) -> list[bytes]:
    if first == len(leaves):
        return [] if whole else [root(leaves)]
    middle = _split(len(leaves))
    if first <= middle:
        return [*_subproof(leaves[:middle], first, whole), root(leaves[middle:])]
    return [*_subproof(leaves[middle:], first - middle, False), root(leaves[:middle])]


def extends(first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether ``proof`` shows that the tree of ``second`` leaves begins with the tree of ``first``.

    RFC 9162 section 2.1.4.2.
    """
    if first == second:
        return not proof and first_root == second_root
    if not 1 <= first < second or not proof:
        return False
    parts = list(proof)
    if first.bit_count() == 1:
        parts.insert(0, first_root)
    place, last = first - 1, second - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    before = after = parts[0]
    for part in parts[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            before, after = node_hash(part, before), node_hash(part, after)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            after = node_hash(after, part)
        place, last = place >> 1, last >> 1
    return last == 0 and (before, after) == (first_root, second_root)


def levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """All nodes of the tree, from the leaves up: what many proofs of one tree are read from (``proof_in``)."""
    found = [list(leaves)]
    while len(found[-1]) > 1:
        below = found[-1]
        above = [node_hash(a, b) for a, b in zip(below[::2], below[1::2], strict=False)]
        # A last one without a partner goes up as it is: so the left part is the largest power of two, as ``_split``.
        found.append(above if len(below) % 2 == 0 else [*above, below[-1]])
    return found


def proof_in(nodes: Sequence[Sequence[bytes]], index: int) -> list[bytes]:
    """``inclusion_proof`` of leaf ``index``, from ``levels``: one look per level.

    Raises:
        ValueError: there is no such leaf.
    """
    if not nodes or not 0 <= index < len(nodes[0]):
        raise ValueError(f"a tree of {len(nodes[0]) if nodes else 0} leaves has no leaf {index}")
    proof = []
    for level in nodes[:-1]:
        beside = index ^ 1
        if beside < len(level):
            proof.append(level[beside])
        index >>= 1
    return proof

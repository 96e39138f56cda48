"""How a comparison of two m-bit numbers is laid out in rounds, and the bit programs for it.

[c < r] for public c and r shared bit by bit. The bits are cut into leaves; of the bits of r in a leaf the dealer
gives all products, so that lt = [c_leaf < r_leaf] and eq = [c_leaf = r_leaf] are linear for a public c. Gates join
neighbours, the highest last:

    lt = l3 ^ e3 l2 ^ e3 e2 l1 ^ e3 e2 e1 l0,   eq = e3 e2 e1 e0

whose wires are opened under one-time masks, of which the dealer gives the products that occur. Wide leaves and
gates cost dealt bits, narrow ones rounds; `best_tree` weighs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from enclave.engines.mpc.protocols.bitslice import ONE, ONES, Builder, Program, fold, products, subsets
from enclave.engines.mpc.session import Network

__all__ = ["Programs", "Tree", "best_tree", "programs"]

_MOST_LEAVES, _WIDEST_LEAF = 12, 8


@dataclass(frozen=True, slots=True)
class Tree:
    """Compares bits [low, high); bit `high` is the sign.

    Attributes:
        leaves: widths, lowest first.
        levels: for each round of gates, how many neighbours each gate joins, lowest first.
    """

    low: int
    high: int
    leaves: tuple[int, ...]
    levels: tuple[tuple[int, ...], ...]

    @property
    def rounds(self) -> int:
        """Openings: of the number, of each level's wires, of the bit."""
        return 2 + len(self.levels)

    @property
    def monomials(self) -> int:
        """Dealt products of the bits of r, the sign included."""
        return sum((1 << width) - 1 for width in self.leaves) + 1

    def wires(self, level: int) -> int:
        """Bits opened in a level."""
        return sum(_wire_count(size, gate > 0) for gate, size in enumerate(self.levels[level]))

    def mixed(self, level: int) -> int:
        """Dealt products of masks for a level."""
        return sum(_product_count(size, gate > 0) for gate, size in enumerate(self.levels[level]))

    def dealt_bits(self, thresholds: int = 1) -> int:
        """Packed bits dealt for an element."""
        return self.monomials + thresholds * sum(self.mixed(level) for level in range(len(self.levels)))


def _wire_count(size: int, with_eq: bool) -> int:
    return 0 if size == 1 else 2 * size - (1 if with_eq else 2)


def _product_count(size: int, with_eq: bool) -> int:
    if size == 1:
        return 0
    equal = size if with_eq else size - 1
    return (1 << equal) - 1 - equal + sum((1 << (size - 1 - j)) - 1 for j in range(size - 1))


def _cut(total: int, pieces: int) -> tuple[int, ...]:
    """`total` in nearly equal pieces, the lowest the widest."""
    return tuple(total // pieces + (1 if i < total % pieces else 0) for i in range(pieces))


@lru_cache(maxsize=512)
def best_tree(n: int, thresholds: int, low: int, high: int, network: Network) -> Tree:
    """The tree that takes least time for n elements and as many thresholds on one mask of each."""
    bits = high - low
    found: list[tuple[float, Tree]] = []
    for count in range(1, 2 * _MOST_LEAVES + 1):
        if count > bits or -(-bits // count) > _WIDEST_LEAF:
            continue
        leaves = _cut(bits, count)
        shapes: list[tuple[tuple[int, ...], ...]] = [()] if count == 1 else []
        if 1 < count <= _MOST_LEAVES:
            shapes.append(((count,),))
        shapes += [(_cut(count, gates), (gates,)) for gates in range(2, 7) if gates < count]
        for levels in shapes:
            tree = Tree(low, high, leaves, levels)
            dealt = n * tree.dealt_bits(thresholds) / 8
            found.append((tree.rounds * network.round_s + dealt * network.byte_s, tree))
    return min(found, key=lambda pair: pair[0])[1]


@dataclass(frozen=True, slots=True)
class Programs:
    """The bit programs of a tree.

    Attributes:
        monomials: (bits of r from low to high) -> what is dealt of them.
        mixed: (masks of each level...) -> (products of each level...).
        steps: the first takes (complemented bits of c from low to high, monomials, next masks), the others (opened
            wires, their masks, products, state, next masks), of one threshold; each gives (masked wires, state).
            The masks after the last level are those of the result, and its one wire is the result.
    """

    monomials: Program
    mixed: Program
    steps: tuple[Program, ...]


@lru_cache(maxsize=128)
def programs(tree: Tree) -> Programs:
    """The programs of a tree, built once."""
    return Programs(_monomials(tree), _mixed(tree), tuple(_steps(tree)))


def _monomials(tree: Tree) -> Program:
    build = Builder(tree.high - tree.low + 1)
    (r,) = build.inputs
    monomials: list[int] = []
    start = 0
    for width in tree.leaves:
        monomials += products(build, r[start : start + width], ONES)[1:]
        start += width
    return build.program([*monomials, r[start]])


def _mixed(tree: Tree) -> Program:
    levels = range(len(tree.levels))
    build = Builder(*(tree.wires(level) for level in levels))
    outputs = []
    for level, rest in zip(levels, build.inputs, strict=True):
        mixed: list[int] = []
        for gate, size in enumerate(tree.levels[level]):
            count = _wire_count(size, gate > 0)
            mixed += _products_of_masks(build, rest[:count], size, gate > 0)
            rest = rest[count:]
        outputs.append(mixed)
    return build.program(*outputs)


def _products_of_masks(build: Builder, masks: Sequence[int], size: int, with_eq: bool) -> list[int]:
    if size == 1:
        return []
    equal = size if with_eq else size - 1
    table = products(build, masks[:equal], ONES)
    found = [table[s] for s in subsets(equal) if s & (s - 1)]
    for j in range(size - 1):
        above = size - 1 - j
        found += [build.both(masks[equal + j], table[s << (equal - above)]) for s in subsets(above)]
    return found


@dataclass(slots=True)
class _Items:
    """Shares of (lt, eq) of neighbours, lowest first, and of 1 ^ (sign of c) ^ (sign of r)."""

    lt: list[int]
    eq: list[int]
    sign: int


def _steps(tree: Tree) -> list[Program]:
    count = len(tree.levels)
    after = [tree.wires(level) for level in range(count)] + [1]
    build = Builder(tree.high - tree.low + 1, tree.monomials, after[0])
    items = _leaves(build, tree)
    found = [_finish(build, tree, 0, items)]
    for level in range(count):
        wires, gates = tree.wires(level), tree.levels[level]
        build = Builder(wires, wires, tree.mixed(level), _state_size(gates), after[level + 1])
        items = _gates(build, gates)
        found.append(_finish(build, tree, level + 1, items))
    return found


def _leaves(build: Builder, tree: Tree) -> _Items:
    c, monomials = build.inputs[0], build.inputs[1]
    found = _Items([], [], build.xor(build.both(c[-1], ONE), monomials[-1]))
    start = position = 0
    for width in tree.leaves:
        table = [ONE, *monomials[start : start + (1 << width) - 1]]
        start += (1 << width) - 1
        lt = 0
        for i in reversed(range(width)):  # the highest bit that differs decides
            bit = c[position + i]
            lt = build.and_xor(bit, table[1 << i], lt)
            table = fold(build, table, bit)
        position += width
        found.lt.append(lt)
        found.eq.append(table[0])
    return found


def _finish(build: Builder, tree: Tree, level: int, items: _Items) -> Program:
    """Masks what the next round opens; what stays shared is the state."""
    masks = build.inputs[-1]
    if level == len(tree.levels):
        bit = build.xor(build.xor(items.lt[0], items.sign), masks[0])
        return build.program([bit], [])
    wires: list[int] = []
    state = [items.sign]
    start = 0
    for gate, size in enumerate(tree.levels[level]):
        lt, eq = items.lt[start : start + size], items.eq[start : start + size]
        start += size
        state.append(lt[-1])
        if size == 1:
            state.append(eq[0])
        else:
            wires += [*eq[0 if gate > 0 else 1 :], *lt[:-1]]
    return build.program([build.xor(w, m) for w, m in zip(wires, masks, strict=True)], state)


def _state_size(gates: Sequence[int]) -> int:
    return 1 + sum(2 if size == 1 else 1 for size in gates)


def _gates(build: Builder, gates: Sequence[int]) -> _Items:
    opened, masks, mixed, state = (list(part) for part in build.inputs[:4])
    found = _Items([], [], state.pop(0))
    for gate, size in enumerate(gates):
        top = state.pop(0)
        if size == 1:
            found.lt.append(top)
            found.eq.append(state.pop(0))
            continue
        wires, dealt = _wire_count(size, gate > 0), _product_count(size, gate > 0)
        lt, eq = _gate(build, top, opened[:wires], masks[:wires], mixed[:dealt], size, gate > 0)
        del opened[:wires], masks[:wires], mixed[:dealt]
        found.lt.append(lt)
        found.eq.append(eq)
    return found


def _gate(
    build: Builder, top: int, opened: list[int], masks: list[int], mixed: list[int], size: int, with_eq: bool
) -> tuple[int, int]:
    equal = size if with_eq else size - 1
    rest = iter(mixed)
    table = [ONE, *(next(rest) if s & (s - 1) else masks[s.bit_length() - 1] for s in subsets(equal))]
    lows = [[masks[equal + j], *(next(rest) for _ in subsets(size - 1 - j))] for j in range(size - 1)]
    lt = top
    for j in reversed(range(size - 1)):
        wire = opened[equal - (size - 1 - j)]
        table = fold(build, table, wire)  # table[0] is now the product of all eq above item j
        low = lows[j]
        for above in reversed(range(size - 1 - j)):
            low = fold(build, low, opened[equal - (size - 1 - j) + above])
        lt = build.xor(build.and_xor(opened[equal + j], table[0], low[0]), lt)
    return lt, fold(build, table, opened[0])[0] if with_eq else 0

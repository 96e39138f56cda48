"""Residues on the wire: exact sizes, and nothing unreduced gets in."""

import numpy as np
import pytest

from enclave.engines.he.lattice import wire
from enclave.engines.he.lattice.parameters import primes_of
from enclave.errors import BadInput

N = 1024


@pytest.mark.parametrize("bits", [(25,), (50, 50), (31, 48, 60), (60, 17)])
def test_residues_survive_the_wire_in_exactly_their_own_bits(bits: tuple[int, ...]) -> None:
    primes = primes_of(N, bits)
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(0, p, (3, 2, N), np.uint64) for p in primes], axis=-2)
    x[0, 0, :, 0], x[0, 0, :, 1] = 0, [p - 1 for p in primes]
    words = wire.pack(x, primes)
    assert words.size == wire.packed_words(primes, x.shape) == 3 * 2 * N * sum(bits) // 64
    assert (wire.unpack(words, primes, x.shape) == x).all()


@pytest.mark.parametrize("width", [1, 7, 32, 63, 64])
def test_bits_of_any_width_survive(width: int) -> None:
    values = np.random.default_rng(1).integers(0, 1 << width, 256, np.uint64)
    words = wire.pack_bits(values, width)
    assert words.size == 4 * width
    assert (wire.unpack_bits(words, width) == values).all()


def test_the_format_is_what_it_was() -> None:
    assert wire.pack_bits(np.arange(64, dtype=np.uint64), 6).tolist() == _packed_by_hand(list(range(64)), 6)
    primes = primes_of(N, (20, 33))
    x = np.stack([np.arange(N, dtype=np.uint64) * np.uint64(i + 3) for i in range(2)])
    by_hand = [word for row, width in zip(x, (20, 33), strict=True) for word in _packed_by_hand(row.tolist(), width)]
    assert wire.pack(x, primes).tolist() == by_hand


def _packed_by_hand(values: list[int], width: int) -> list[int]:
    whole = sum(value << width * i for i, value in enumerate(values))
    return [whole >> 64 * i & (1 << 64) - 1 for i in range(len(values) * width // 64)]


def test_a_residue_that_is_not_below_its_prime_is_refused() -> None:
    primes = primes_of(N, (30, 40))
    x = np.zeros((2, N), np.uint64)
    x[1, 77] = primes[1]
    with pytest.raises(BadInput, match=f"expected residues below {primes[1]}, found one that is not"):
        wire.unpack(wire.pack(x, primes), primes, x.shape)


@pytest.mark.parametrize("change", [-1, 1])
def test_another_length_is_refused_before_it_is_read(change: int) -> None:
    primes = primes_of(N, (30, 40))
    words = np.zeros(wire.packed_words(primes, (2, 2, N)) + change, np.uint64)
    with pytest.raises(BadInput, match="words of residues"):
        wire.unpack(words, primes, (2, 2, N))


def test_another_type_or_shape_is_refused() -> None:
    primes = primes_of(N, (30,))
    count = wire.packed_words(primes, (1, N))
    for words in (np.zeros(count, np.int64), np.zeros((1, count), np.uint64), np.zeros(count, np.float64)):
        with pytest.raises(BadInput):
            wire.unpack(words, primes, (1, N))
    with pytest.raises(BadInput):
        wire.packed_words(primes, (2, N))
    with pytest.raises(BadInput):
        wire.packed_words(primes, (1, 100))


def test_random_words_are_refused_or_give_reduced_residues() -> None:
    primes = primes_of(N, (30, 40))
    rng = np.random.default_rng(2)
    refused = 0
    for _ in range(200):
        words = wire.pack(np.stack([rng.integers(0, p, N, np.uint64) for p in primes]), primes)
        words[rng.integers(words.size)] ^= np.uint64(1) << np.uint64(rng.integers(64))
        try:
            x = wire.unpack(words, primes, (2, N))
        except BadInput:
            refused += 1
        else:
            assert (x < np.array(primes, np.uint64)[:, None]).all()
    assert refused < 200

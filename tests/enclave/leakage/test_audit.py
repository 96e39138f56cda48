"""Planted defects are found, honest openings are not flagged."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from enclave.leakage.audit import AuditResult, OpeningAudit, log_tail
from enclave.receipts import SMALLEST_P

Words = NDArray[np.uint64]
SIZE = 400


def uniform(rng: np.random.Generator, size: int) -> Words:
    return rng.integers(0, 2**64, size=size, dtype=np.uint64)


def values(rng: np.random.Generator, size: int) -> Words:
    """Fixed-point numbers around zero with 20 fractional bits."""
    numbers: Words = (rng.normal(size=size) * 2**20).astype(np.int64).view(np.uint64)
    return numbers


def run(opening: Callable[[int], Words], count: int = 60, labels: int = 3) -> AuditResult:
    audit = OpeningAudit()
    for i in range(count):
        audit.observe(f"layer{i % labels}", opening(i))
    return audit.result()


@pytest.mark.parametrize("seed", range(6))
def test_honest_openings_pass(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 3000, size=200)
    result = run(lambda i: uniform(rng, int(sizes[i])) + values(rng, int(sizes[i])), count=200, labels=7)
    assert result.ok, result
    assert result.openings == 200 and result.words == int(sizes.sum())
    assert len(result.labels) == 7 and result.reused_at == ""


@pytest.mark.parametrize(
    ("name", "mask_bits"), [("no mask", 0), ("32 bits", 32), ("48 bits", 48), ("62 bits", 62), ("63 bits", 63)]
)
def test_short_masks_are_found(name: str, mask_bits: int) -> None:
    rng = np.random.default_rng(1)

    def opening(_: int) -> Words:
        mask = uniform(rng, SIZE) >> np.uint64(64 - mask_bits) if mask_bits else np.zeros(SIZE, np.uint64)
        return mask + values(rng, SIZE)

    result = run(opening)
    assert not result.uniform, name
    assert result.uniformity_p < 1e-9 and "layer" in result.uniformity_at


def test_fixed_value_in_the_place_of_a_mask() -> None:
    rng = np.random.default_rng(2)
    assert not run(lambda _: values(rng, 20) + np.uint64(1 << 26), count=5).ok


def test_one_bad_label_among_good_ones() -> None:
    rng = np.random.default_rng(3)
    result = run(lambda i: uniform(rng, SIZE) >> np.uint64(i % 20 == 7), count=200, labels=20)
    assert not result.uniform and result.uniformity_at == "layer7, bit 63"


def test_bias_inside_bytes_is_found() -> None:
    # Every bit alone is fair: byte 3 never takes two complementary values.
    rng = np.random.default_rng(4)

    def opening(_: int) -> Words:
        words = uniform(rng, 5000)
        byte = words.view(np.uint8).reshape(-1, 8)[:, 3]
        byte[(byte == 0x0F) | (byte == 0xF0)] ^= 0xFF
        byte[byte == 0x55] = 0x0F
        byte[byte == 0xAA] = 0xF0
        return words

    result = run(opening, labels=1)
    assert not result.uniform and result.uniformity_at == "layer0, byte 3"


@pytest.mark.parametrize(("first", "second"), [(3, 4), (3, 17), (0, 57), (10, 40)])
def test_reused_mask_is_found(first: int, second: int) -> None:
    rng = np.random.default_rng(5)
    mask = uniform(rng, SIZE)
    result = run(lambda i: mask + values(rng, SIZE) if i in (first, second) else uniform(rng, SIZE))
    assert result.uniform, "each opening alone is uniform"
    assert result.reused_pairs == 1 and result.reused_masks >= 1 and not result.ok
    assert "after layer" in result.reused_at


def test_mask_reused_far_apart_under_another_label_is_found() -> None:
    rng = np.random.default_rng(18)
    mask = uniform(rng, SIZE)
    result = run(lambda i: mask + values(rng, SIZE) if i in (0, 500) else uniform(rng, 8), count=600, labels=600)
    assert result.reused_pairs == 0 and result.repeated_starts == 1 and not result.ok


def test_mask_reused_across_iterations_is_found() -> None:
    rng = np.random.default_rng(6)
    masks = [uniform(rng, SIZE) for _ in range(100)]
    result = run(lambda i: masks[i % 100] + values(rng, SIZE), count=300, labels=100)
    assert result.reused_pairs >= 100 and not result.ok


def test_streams_that_start_alike_are_found_whatever_the_size() -> None:
    rng = np.random.default_rng(7)
    stream = uniform(rng, 5000)
    sizes = (5000, 77, 640)
    result = run(lambda i: stream[: sizes[i]] + values(rng, sizes[i]), count=3)
    assert result.reused_pairs == 2


def test_reused_mask_of_packed_bits_is_found() -> None:
    rng = np.random.default_rng(8)
    mask = uniform(rng, SIZE)

    def sparse() -> Words:
        return uniform(rng, SIZE) & uniform(rng, SIZE) & uniform(rng, SIZE)

    result = run(lambda i: mask ^ sparse() if i in (4, 21) else uniform(rng, SIZE))
    assert result.uniform and result.reused_pairs == 1 and "xor" in result.reused_at


def test_multiples_of_a_scale_under_one_mask_are_found() -> None:
    rng = np.random.default_rng(9)
    mask = uniform(rng, SIZE)
    result = run(lambda i: mask + (uniform(rng, SIZE) << np.uint64(20)) if i < 2 else uniform(rng, SIZE))
    assert result.reused_pairs == 1 and "multiple" in result.reused_at


def test_scalars_under_one_mask_are_found() -> None:
    rng = np.random.default_rng(10)
    mask = uniform(rng, 2)
    result = run(lambda _: mask + values(rng, 2), count=400)
    assert not result.ok


def test_duplicate_words_are_found() -> None:
    rng = np.random.default_rng(11)
    again = uniform(rng, SIZE)
    result = run(lambda i: again[: SIZE - i] if i in (3, 50) else uniform(rng, SIZE), count=120, labels=60)
    assert result.duplicate_words == SIZE - 50


def test_duplicates_are_found_in_large_jobs() -> None:
    # Far more words than are kept: what is kept is chosen by value, so that pairs stay pairs.
    rng = np.random.default_rng(12)
    again = uniform(rng, 4096)[::-1].copy()
    result = run(lambda i: again if i in (0, 99) else uniform(rng, 4096), count=100, labels=100)
    assert 0 < result.duplicate_words <= 4096 and not result.ok


def test_work_per_opening_is_bounded() -> None:
    rng = np.random.default_rng(13)
    audit = OpeningAudit(budget_words=10_000)
    big = uniform(rng, 1 << 20)
    for i in range(20):
        audit.observe("big", big * np.uint64(2 * i + 1) + np.uint64(i))
    result = audit.result()
    assert result.words == 20 << 20
    assert result.sampled_words <= 10_000 + 4096 + 20 * 64


def test_many_labels_take_bounded_memory() -> None:
    rng = np.random.default_rng(14)
    audit = OpeningAudit()
    for i in range(400):
        audit.observe(f"step {i}", uniform(rng, 20))
    result = audit.result()
    assert result.ok and len(result.labels) == 65 and result.labels[-1].label == "other labels"
    assert sum(label.openings for label in result.labels) == 400
    for i in range(400, 600):
        audit.observe(f"step {i}", uniform(rng, 20) >> np.uint64(1))
    assert audit.result().uniformity_at == "other labels, bit 63"


def test_shapes_strides_and_types() -> None:
    rng = np.random.default_rng(15)
    audit = OpeningAudit()
    matrix = uniform(rng, 6000).reshape(60, 100)
    before = matrix.copy()
    audit.observe("matrix", matrix)
    audit.observe("transposed", uniform(rng, 600).reshape(20, 30).T)
    audit.observe("scalar", uniform(rng, 1).reshape(()))
    audit.observe("empty", np.zeros((0, 4), dtype=np.uint64))
    result = audit.result()
    assert result.ok and result.openings == 3 and result.words == 6601
    assert np.array_equal(matrix, before)
    with pytest.raises(TypeError, match="uint64"):
        audit.observe("signed", np.zeros(3, dtype=np.int64))  # type: ignore[arg-type]


def test_nothing_opened() -> None:
    result = OpeningAudit().result()
    assert result.ok and result.openings == 0 and result.uniformity_p == 1.0 and result.labels == ()


def test_result_is_the_same_when_asked_twice() -> None:
    rng = np.random.default_rng(16)
    audit = OpeningAudit()
    audit.observe("a", uniform(rng, 9000))
    assert audit.result() == audit.result()


def test_tail_bound_holds_and_is_tight_where_all_hit() -> None:
    for n, p in ((20, 0.5), (64, 2.0**-7), (9, 2.0**-15)):
        for k in range(n + 1):
            exact = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))
            assert math.exp(log_tail(n, k, math.log(p))) >= exact * (1 - 1e-9)
        assert math.isclose(log_tail(n, n, math.log(p)), n * math.log(p))
    assert log_tail(0, 0, math.log(0.5)) == 0.0


def test_false_alarms_are_rare() -> None:
    # p values are corrected, so a share of at most x of honest jobs may fall below x.
    rng = np.random.default_rng(17)
    found = np.array([run(lambda _: uniform(rng, 1500), count=12).uniformity_p for _ in range(150)])
    assert found.min() > SMALLEST_P * 100
    assert (found < 0.1).mean() <= 0.2

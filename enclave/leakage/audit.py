"""Do the opened values look like values under fresh masks?

Everything that a protocol opens on the way is a secret plus (or xor) a mask that is uniform and used once. So the
opened words must be uniform, and unrelated to each other. `OpeningAudit` looks at them while a session runs:

- *uniformity*, per label: each of the 64 bits is fair (large-deviation bound), each of the 8 bytes is uniform
  (chi-square), Bonferroni over everything tested. Sees unmasked values, short masks, constant masks.
- *duplicates*: equal words anywhere in the job, by a sample that keeps a word because of its value, so that both
  copies are kept or neither.
- *reuse*: two openings under one mask look perfect alone, but their difference is a difference of plaintexts:
  small, or a multiple of a power of two, or (xor) of low weight. Each opening is compared with the ones just
  before it and with the first and last ones of its label; the high bits of its first words are compared with
  those of all others.

What it cannot see: a weak generator behind masks that look uniform. The receipt's claims name the generator.

Cost is bounded whatever the size of the job: at most 4096 words of an opening are looked at, 64 of each once
`budget_words` have been seen; memory stays below about 10 MB. An honest job is flagged with probability below
1e-6. All randomness is in what is observed; the audit itself draws none.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclave.receipts import SMALLEST_P

__all__ = ["AuditResult", "LabelResult", "OpeningAudit"]

Words = NDArray[np.uint64]

_SAMPLE_WORDS = 4096  # of one opening
_LATE_WORDS = 64  # of one opening, once the budget is used up
_BUDGET_WORDS = 1 << 22
_LABELS = 64  # tested apart; the openings of all further labels are tested together
_PREFIX_WORDS = 48  # of each opening, compared with other openings
_RECENT = 32  # openings back, whatever their label
_PER_LABEL = 4  # openings kept of each label: the first and the last three
_LABELS_KEPT = 256
_KEPT_WORDS = 1 << 16  # in the sample for duplicates
_CHI_SQUARE_WORDS = 4096  # 16 expected in each of 256 cells; below, only bits are tested
_REUSE_LOG_ALPHA = math.log(1e-16)  # for one comparison; a large job makes about 1e8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# Probability that a uniform word has the feature: small signed difference, low 16 bits zero, xor of weight <= 12.
_FEATURES = (
    ("difference below 2^54", math.log(2.0**-9)),
    ("difference a multiple of 2^16", math.log(2.0**-16)),
    ("xor of low weight", math.log(sum(math.comb(64, k) for k in range(13)) / 2.0**64)),
)


@dataclass(frozen=True, slots=True)
class LabelResult:
    """The uniformity of one label's openings: smallest p, already multiplied by the number of all tests."""

    label: str
    openings: int
    words: int
    sampled_words: int
    p: float


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What the audit found.

    Attributes:
        openings, words: masked openings, and 64-bit words in them.
        sampled_words: how many of them were tested for uniformity.
        uniformity_p: smallest corrected p over all labels, bits and bytes.
        uniformity_at: where that was.
        duplicate_words: words that were opened more than once.
        reused_pairs: openings under a mask related to that of an earlier one nearby.
        repeated_starts: openings whose first words are close to those of some earlier one.
        reused_at: the first of them, in words.
        labels: per label, in the order of first use.
    """

    openings: int
    words: int
    sampled_words: int
    uniformity_p: float
    uniformity_at: str
    duplicate_words: int
    reused_pairs: int
    repeated_starts: int
    reused_at: str
    labels: tuple[LabelResult, ...]

    @property
    def reused_masks(self) -> int:
        """Evidence of masks used twice: duplicates and related openings together; 0 in an honest job."""
        return self.duplicate_words + max(self.reused_pairs, self.repeated_starts)

    @property
    def uniform(self) -> bool:
        """False when the openings are not uniform."""
        return self.uniformity_p >= SMALLEST_P

    @property
    def ok(self) -> bool:
        """True when neither test found anything."""
        return self.uniform and self.reused_masks == 0


class _Histogram:
    """Bytes by position of the words of one label. Words are collected and counted 4096 at a time."""

    __slots__ = ("_pending", "_waiting", "counts", "openings", "sampled", "words")

    def __init__(self) -> None:
        self.openings = 0
        self.words = 0
        self.sampled = 0
        self.counts = np.zeros((8, 256), dtype=np.int64)
        self._waiting: list[Words] = []
        self._pending = 0

    def add(self, sample: Words) -> None:
        self._waiting.append(sample)
        self._pending += sample.size
        if self._pending >= _SAMPLE_WORDS:
            self.flush()

    def flush(self) -> None:
        if not self._pending:
            return
        words = np.concatenate(self._waiting)
        self._waiting, self._pending = [], 0
        self.sampled += words.size
        bytes_ = words.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)
        places = bytes_ + (np.arange(8, dtype=np.uint16) << 8)
        self.counts += np.bincount(places.ravel(), minlength=2048).reshape(8, 256)


class OpeningAudit:
    """Looks at every masked opening of one session at one party; see the module's text.

    Only words that are masked in all 64 bits may be handed in. Of bits packed into words, a last word that is
    not full must be left out: its empty bits are not masked.
    """

    def __init__(self, budget_words: int = _BUDGET_WORDS) -> None:
        self._budget = budget_words
        self._seen = 0
        self._histograms: dict[str, _Histogram] = {}
        self._rest = _Histogram()
        self._differences = _Histogram()
        self._recent = _Ring(_RECENT)
        self._labelled: OrderedDict[str, _Ring] = OrderedDict()
        self._duplicates = _DuplicateSample()
        self._starts = _DuplicateSample()
        self._reused_pairs = 0
        self._reused_at = ""

    def observe(self, label: str, words: Words) -> None:
        """Takes note of one opening: `words` uint64 of any shape, as opened. Reads, never keeps or changes it.

        Cost: about 0.05 ms for a small opening, 0.2 ms for one of 4096 words or more.
        """
        if words.dtype != np.uint64:
            raise TypeError(f"openings are uint64 words, found {words.dtype}")
        if words.size == 0:
            return
        flat = _flat(words)
        histogram = self._histogram(label)
        histogram.openings += 1
        histogram.words += words.size
        limit = _SAMPLE_WORDS if self._seen < self._budget else _LATE_WORDS
        # Always the same places for one size: copies of an opening are then sampled alike.
        sample = flat[:: -(-flat.size // limit)].copy()
        self._seen += sample.size
        histogram.add(sample)
        self._duplicates.add(sample)
        prefix = flat[:_PREFIX_WORDS].copy()
        if prefix.size >= 4:
            # 16 high bits of 4 words: alike for two openings under one mask of values below about 2^40.
            self._starts.add((prefix[:4] >> np.uint64(48)).astype("<u2").view("<u8"))
        self._compare(label, prefix)

    def result(self) -> AuditResult:
        """The tests on everything observed so far; may be called more than once."""
        named = [*self._histograms.items()]
        if self._rest.openings:
            named.append(("other labels", self._rest))
        scored = []
        for label, histogram in (*named, ("differences of openings", self._differences)):
            histogram.flush()
            scored.append((label, histogram, *_smallest_log_p(histogram)))
        tests = sum(entry[4] for entry in scored)
        labels = []
        best, where = 1.0, ""
        for label, histogram, log_p, place, _ in scored:
            p = min(1.0, math.exp(max(-700.0, log_p)) * max(1, tests))
            if histogram is not self._differences:
                labels.append(LabelResult(label, histogram.openings, histogram.words, histogram.sampled, p))
            if p < best:
                best, where = p, f"{label}, {place}"
        return AuditResult(
            openings=sum(h.openings for _, h in named),
            words=sum(h.words for _, h in named),
            sampled_words=sum(h.sampled for _, h in named),
            uniformity_p=best,
            uniformity_at=where,
            duplicate_words=self._duplicates.count(),
            reused_pairs=self._reused_pairs,
            repeated_starts=self._starts.count(),
            reused_at=self._reused_at,
            labels=tuple(labels),
        )

    def _histogram(self, label: str) -> _Histogram:
        found = self._histograms.get(label)
        if found is None:
            if len(self._histograms) >= _LABELS:
                return self._rest
            found = self._histograms[label] = _Histogram()
        return found

    def _compare(self, label: str, prefix: Words) -> None:
        own = self._labelled.get(label)
        if own is None:
            own = self._labelled[label] = _Ring(_PER_LABEL, keep_first=True)
            if len(self._labelled) > _LABELS_KEPT:
                self._labelled.popitem(last=False)
        else:
            self._labelled.move_to_end(label)
            last = own.last()
            common = min(last.size, prefix.size)
            self._differences.add(prefix[:common] - last[:common])
        for ring in (self._recent, own):
            other, why = ring.related(prefix)
            if why:
                self._reused_pairs += 1
                self._reused_at = self._reused_at or f"{label} after {other}: {why}"
                break
        self._recent.add(label, prefix)
        own.add(label, prefix)


class _Ring:
    """The first words of the last openings, as rows of one matrix, so that one operation compares with all."""

    __slots__ = ("_keep_first", "_labels", "_last", "_lengths", "_next", "_rows")

    def __init__(self, size: int, *, keep_first: bool = False) -> None:
        self._rows = np.zeros((size, _PREFIX_WORDS), dtype=np.uint64)
        self._lengths = [0] * size
        self._labels = [""] * size
        self._keep_first = keep_first
        self._next = 0
        self._last = 0

    def add(self, label: str, prefix: Words) -> None:
        self._rows[self._next, : prefix.size] = prefix
        self._lengths[self._next] = prefix.size
        self._labels[self._next] = label
        self._last = self._next
        self._next += 1
        if self._next == len(self._labels):
            self._next = 1 if self._keep_first else 0

    def last(self) -> Words:
        """The newest row."""
        row: Words = self._rows[self._last, : self._lengths[self._last]]
        return row

    def related(self, prefix: Words) -> tuple[str, str]:
        """Label and feature of a row that `prefix` is related to, or two empty strings."""
        rows = self._rows[:, : prefix.size]
        difference = prefix - rows
        features = (
            (difference + np.uint64(1 << 54)) < np.uint64(1 << 55),
            (difference & np.uint64(0xFFFF)) == 0,
            np.bitwise_count(prefix ^ rows) <= 12,
        )
        for (name, log_probability), hits in zip(_FEATURES, features, strict=True):
            # With fewer hits than these no row can be significant, whatever its length: nearly all calls end here.
            if np.count_nonzero(hits) < _REUSE_LOG_ALPHA / log_probability:
                continue
            for row, length in enumerate(self._lengths):
                common = min(length, prefix.size)
                count = int(np.count_nonzero(hits[row, :common]))
                if log_tail(common, count, log_probability) < _REUSE_LOG_ALPHA:
                    return self._labels[row], f"{name} in {count} of {common} words"
        return "", ""


class _DuplicateSample:
    """Counts words seen before, keeping those whose multiplicative hash is small.

    When there are too many, the threshold is halved. A word's copies have one hash, so they stay or go together.
    """

    __slots__ = ("_duplicates", "_kept", "_pending", "_threshold", "_waiting")

    def __init__(self) -> None:
        self._threshold = 1 << 64
        self._kept = np.zeros(0, dtype=np.uint64)
        self._waiting: list[Words] = []
        self._pending = 0
        self._duplicates = 0

    def add(self, sample: Words) -> None:
        sample = self._below(sample)
        self._waiting.append(sample)
        self._pending += sample.size
        if self._pending >= _KEPT_WORDS // 2:
            self._merge()

    def count(self) -> int:
        """Words (of those kept) that had been opened before."""
        self._merge()
        return self._duplicates

    def _merge(self) -> None:
        together = np.concatenate([self._kept, *self._waiting])
        self._waiting, self._pending = [], 0
        self._kept = np.unique(together)
        self._duplicates += together.size - self._kept.size
        while self._kept.size > _KEPT_WORDS:
            self._threshold >>= 1
            self._kept = self._below(self._kept)

    def _below(self, words: Words) -> Words:
        if self._threshold >= 1 << 64:
            return words
        kept: Words = words[words * _GOLDEN < np.uint64(self._threshold)]
        return kept


def _flat(words: Words) -> Words:
    """One axis without copying more than needed: of an array that is not contiguous, some of its first axis."""
    if words.flags.c_contiguous:
        return words.reshape(-1)
    step = max(1, words.shape[0] * max(1, words[0].size) // (1 << 16))
    return words[::step].reshape(-1)


def log_tail(n: int, k: int, log_probability: float) -> float:
    """Upper bound of ln P(X >= k) for X binomial(n, p), by Chernoff: -n KL(k/n, p). 0 where k is not above n p."""
    p = math.exp(log_probability)
    if n == 0 or k <= n * p:
        return 0.0
    share = k / n
    divergence = share * (math.log(share) - log_probability)
    if k < n:
        divergence += (1 - share) * (math.log1p(-share) - math.log1p(-p))
    return -n * divergence


def _smallest_log_p(histogram: _Histogram) -> tuple[float, str, int]:
    """Smallest ln p over bits and bytes, where it was, and how many tests were made."""
    n = histogram.sampled
    if n == 0:
        return 0.0, "", 0
    best, where, tests = 0.0, "", 128
    values = np.arange(256)
    for position in range(8):
        counts = histogram.counts[position]
        for bit in range(8):
            ones = int(counts[(values >> bit) & 1 == 1].sum())
            # Two-sided, hence two tests a bit.
            log_p = log_tail(n, max(ones, n - ones), -math.log(2.0))
            if log_p < best:
                best, where = log_p, f"bit {8 * position + bit}"
    if n >= _CHI_SQUARE_WORDS:
        # Imported here: a session that ends early, and every reader of a report, does without.
        from scipy.special import gammaincc

        tests += 8
        for position in range(8):
            counts = histogram.counts[position].astype(np.float64)
            statistic = float(((counts - n / 256) ** 2).sum() / (n / 256))
            p = float(gammaincc(255 / 2, statistic / 2))
            log_p = math.log(p) if p > 0 else -700.0
            if log_p < best:
                best, where = log_p, f"byte {position}"
    return best, where, tests

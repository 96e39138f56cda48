"""The public plan of a job: what it will send, open and consume, computed from shapes alone.

A plan is the job's own workload run on a recording session. Control flow never depends on data, so a run must
reach the plan's digest exactly; parties compare digests before they start and after they end.

A plan priced is a quote. The time model is the lower-bound law: rounds cost latency, bytes cost bandwidth at the
busiest link, and local work is a constant per round and per byte. The constants were fitted to whole sessions of
`python -m benchmarks run --suite jobs` with all parties on one machine of two cores; larger machines are faster.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enclave.engines.hybrid import engine_for
from enclave.engines.interface import Engine
from enclave.engines.mpc.recorder import Recorder
from enclave.messages import JobSpec

if TYPE_CHECKING:
    from enclave.engines.he.planner import Hiding

__all__ = ["Plan", "Quote", "Stage", "encrypted_work_s", "make_plan"]

_LOCAL_S_PER_BYTE = 8e-9  # a party's and the dealer's own work for each byte that is opened or dealt
_LOCAL_S_PER_ROUND = 1.5e-3
# Work under encryption, in seconds of one core; for quotes alone.
_KEYS_S = 0.5  # imports, parameters and keys of an encrypting session
_ENCODING_S_PER_VALUE = 6e-8  # of a row, once
_PRODUCT_S_PER_VALUE = 3e-8  # of a row, for each column of the first weights
_DECISION_S_PER_ROW = 2.5e-5  # a comparison without a dealer
_SWITCHING_KEYS_S = 4.0  # of an encrypted training
_STEP_S_PER_BLOCK = 0.06  # of such a training, for 8192 rows of one owner and a period of 1; goes by its root
_REFRESH_S = 0.3
_BLOCK_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Stage:
    """A named part of a plan."""

    name: str
    rounds: int
    sent_bytes: int  # by all parties to each other
    dealt_bytes: int


@dataclass(frozen=True, slots=True)
class Quote:
    """A plan priced for one network."""

    rounds: int
    busiest_link_bytes: int
    dealer_bytes: int
    time_s: float
    bandwidth_bps: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything public about a run. Links are (from rank, to rank); the dealer is rank `parties`.

    Attributes:
        digest: SHA-256 over every step; equal at all parties before the start, and reached at the end.
        steps: records in all: openings, draws and deals.
        openings: masked tensors opened, to anybody. openings_at: of these, what each rank learns.
        opened_words: 64-bit words opened under a mask.
        releases: labels of the outputs that are opened in the clear, each to one rank.
        largest_tensor_bytes: the largest tensor that any party or the dealer has in hand; what bounds their memory.
        uses_torch: whether some product is large enough for torch, whose import takes seconds.
        engine: "mpc", "hybrid" or "he".
        hiding: what hides the owners' rows in each kind of ciphertext that leaves them, and under "hybrid" each layer
            whose rows are masked, and why; empty under "mpc".
    """

    digest: bytes
    parties: int
    rounds: int
    steps: int
    openings: int
    openings_at: tuple[int, ...]
    opened_words: int
    link_bytes: dict[tuple[int, int], int]
    dealer_bytes: int
    largest_deal_bytes: int
    releases: tuple[tuple[str, int], ...]
    stages: tuple[Stage, ...]
    largest_tensor_bytes: int
    uses_torch: bool
    engine: str = "mpc"
    hiding: tuple[Hiding, ...] = ()

    def sent_bytes(self, rank: int) -> int:
        """Bytes that a rank sends in all."""
        return sum(size for (sender, _), size in self.link_bytes.items() if sender == rank)

    def received_bytes(self, rank: int) -> int:
        """Bytes that a rank receives in all."""
        return sum(size for (_, receiver), size in self.link_bytes.items() if receiver == rank)

    def quote(self, bandwidth_bps: float, latency_s: float) -> Quote:
        """Predicted time on a network: `bandwidth_bps` bits per second at each party, one-way `latency_s` seconds."""
        ranks = range(self.parties + 1)
        busiest = max(max(self.sent_bytes(rank), self.received_bytes(rank)) for rank in ranks)
        local = _LOCAL_S_PER_BYTE * (sum(self.link_bytes.values())) + _LOCAL_S_PER_ROUND * self.rounds
        time_s = self.rounds * latency_s + 8 * busiest / bandwidth_bps + local
        return Quote(self.rounds, busiest, self.dealer_bytes, time_s, bandwidth_bps, latency_s)


def encrypted_work_s(plan: Plan, spec: JobSpec) -> float:
    """What encryption adds to the parties' own work, in seconds of one core; 0 where nothing is encrypted.

    A rough law of rows and columns, fitted like that of bytes. It knows nothing of layers after the first: a
    convolution or a deep polynomial takes longer.
    """
    if not any(hiding.encrypted for hiding in plan.hiding):
        return 0.0
    width = spec.encoding.width
    values = spec.rows * width
    if spec.training is not None and not spec.has_dealer:
        blocks = sum(-(-dataset.rows // _BLOCK_ROWS) for dataset in spec.datasets)
        step_s = _REFRESH_S + _STEP_S_PER_BLOCK * blocks * math.sqrt(width)
        return _KEYS_S + _SWITCHING_KEYS_S + _ENCODING_S_PER_VALUE * values + step_s * spec.training.epochs
    shapes = {parameter.name: parameter.shape for parameter in spec.architecture.parameters}
    first = next((layer for layer in spec.architecture.layers if layer.op == "linear"), None)
    columns = shapes[first.parameters[0]][1] if first is not None else 1
    work_s = _KEYS_S + _ENCODING_S_PER_VALUE * values + _PRODUCT_S_PER_VALUE * values * columns
    if not spec.has_dealer and {"accuracy", "confusion"} & set(spec.outputs):
        work_s += _DECISION_S_PER_ROW * spec.rows
    return work_s


def make_plan(
    parties: int,
    frac_bits: int,
    workload: Callable[[Engine], Any],
    network: str = "lan",
    *,
    engine: str = "mpc",
    has_dealer: bool = True,
    rows: Mapping[int, int] | None = None,
    largest: float = 1.0,
) -> Plan:
    """Runs `workload` on shapes and writes down its steps.

    Args:
        parties: ranks that hold shares (owners and buyer).
        frac_bits: fractional bits of numbers.
        network: "lan" or "wan", what protocols are chosen for.
        engine: "mpc", "hybrid" or "he", see `engine_for`, as for `rows` and `largest`.
        workload: the job, its release included; it must not look at values, and there are none.
    """
    recorder = Recorder(parties, has_dealer=has_dealer)
    running = engine_for(engine, recorder, frac_bits, network, rows, largest=largest)
    workload(running)
    links: Counter[tuple[int, int]] = Counter()
    stages: dict[str, list[int]] = {}
    rounds = openings = words = dealt = largest_deal = 0
    learnt = [0] * parties
    releases: list[tuple[str, int]] = []
    for (stage, record), count in Counter(recorder.records).items():
        totals = stages.setdefault(stage, [0, 0, 0])
        if record[0] == "deal":
            dealt += record[2] * count
            largest_deal = max(largest_deal, record[2])
            totals[2] += record[2] * count
            links[(parties, 0)] += record[2] * count
        elif record[0] == "open":
            rounds += count
            totals[0] += count
            for label, _, size, sender, to in record[1:]:
                if label.startswith("release:"):
                    releases.append((label.removeprefix("release:"), to))
                else:
                    openings += count
                    words += size // 8 * count
                    for target in range(parties) if to is None else [to]:
                        learnt[target] += count
                for source in range(parties) if sender is None else [sender]:
                    for target in range(parties) if to is None else [to]:
                        if source != target:
                            links[(source, target)] += size * count
                            totals[1] += size * count
    return Plan(
        digest=recorder.digest,
        parties=parties,
        rounds=rounds,
        steps=len(recorder.records),
        openings=openings,
        openings_at=tuple(learnt),
        opened_words=words,
        link_bytes={link: size for link, size in sorted(links.items()) if size},
        dealer_bytes=dealt,
        largest_deal_bytes=largest_deal,
        releases=tuple(releases),
        stages=tuple(Stage(name, *totals) for name, totals in stages.items()),
        largest_tensor_bytes=recorder.largest_tensor_bytes,
        uses_torch=recorder.uses_torch,
        engine=engine,
        hiding=tuple(getattr(running, "statements", ())),  # only an engine that encrypts makes statements
    )

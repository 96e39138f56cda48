"""What a case asks of a machine, read off its plan: the numbers that a physical floor is made of.

The work of one repetition after the first, so of what a warm-up keeps nothing is counted (`benchmarks.mpc.cases`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from benchmarks.mpc.cases import Case
from benchmarks.mpc.inputs import make_inputs
from benchmarks.mpc.programs import ring_inputs
from benchmarks.mpc.repetitions import Repetitions, plan_of
from enclave.engines.mpc.recorder import Recorder
from enclave.engines.mpc.session import Shape, Tensor
from enclave.engines.mpc.tape import Entry, MaskRef

__all__ = ["floor_s", "work_of"]


class _Work(Recorder):
    """Counts beside what a plan counts."""

    def __init__(self, parties: int) -> None:
        super().__init__(parties)
        self.key_bytes = self.products = 0

    def new_mask(self, shape: Shape, holder: int | None) -> MaskRef:
        self.key_bytes += 8 * math.prod(shape)
        return super().new_mask(shape, holder)

    def deal(self, entry: Entry) -> tuple[Tensor, ...]:
        self.key_bytes += sum(spec.nbytes for spec in (*entry.free, *entry.dealt))
        self.products += _products(entry)
        return super().deal(entry)


def _products(entry: Any) -> int:
    """Multiplications of one matrix product or convolution; element-wise products are bound by memory instead."""
    op: Any = getattr(entry, "op", None)
    name = str(getattr(op, "name", ""))
    if name == "matmul":
        x, y = entry.x.shape, entry.y.shape
        return int(math.prod(x) * (y[0] if op.transpose_y else y[1]))
    if name.startswith("conv2d") and entry.dealt:
        return int(entry.dealt[0].size * math.prod(entry.y.shape[1:]))
    return 0


def work_of(case: Case, profile: str = "loopback") -> dict[str, float]:
    """Of one repetition, from the plan: by link and at one party.

    Returns:
        rounds; link_bytes: of the busiest direction of the busiest link; key_bytes: of key stream that a party
        expands; products: multiplications of matrix products and convolutions, two for each triple at a party.
    """
    inputs = ring_inputs(case, make_inputs(case))
    twice: list[_Work] = []
    for count in (1, 2):
        recorder = _Work(case.parties)
        turns = Repetitions(recorder, case, inputs, None, profile)
        turns.run_all(count)
        twice.append(recorder)
    first, both = twice
    before, after = (plan_of(case, count, profile).link_bytes for count in (1, 2))
    links = {link: size - before.get(link, 0) for link, size in after.items()}
    return {
        "rounds": float(both.rounds - first.rounds),
        "link_bytes": float(max(links.values(), default=0)),
        "key_bytes": float(both.key_bytes - first.key_bytes),
        "products": float(2 * (both.products - first.products)),
    }


def floor_s(
    work: Mapping[str, float], limits: Mapping[str, Mapping[str, float]], round_trip_s: float, bandwidth_bps: float
) -> dict[str, float]:
    """The least time that a case can take on a machine with these limits, in parts.

    max(products, key stream, wire) + rounds * one way. A round is a message each way at the same time, so it costs
    one way, half a round trip: of the network's profile, and of plain sockets on this machine.

    Args:
        work: of `work_of`.
        limits: figures of the suite floor by case.
        bandwidth_bps: of the network's profile; may be infinite.
    """
    gemm = limits["gemm"]
    rate = max(gemm["products_per_s"], gemm["torch_products_per_s"])
    wire = min(limits["tcp"]["bytes_per_s"], bandwidth_bps / 8)
    parts = {
        "products": work["products"] / rate,
        "key stream": work["key_bytes"] / max(limits["aes"]["bytes_per_s"], limits["aes"]["openssl_bytes_per_s"]),
        "wire": work["link_bytes"] / wire,
        "rounds": work["rounds"] * (limits["tcp"]["round_trip_s"] + round_trip_s) / 2,
    }
    parts["floor"] = max(parts["products"], parts["key stream"], parts["wire"]) + parts["rounds"]
    return parts

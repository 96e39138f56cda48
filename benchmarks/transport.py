"""What the transport alone costs: two processes, mutual TLS over loopback, and nothing but frames.

    python -m benchmarks.transport [--transport grpc|socket] [--repeats 3] [--json]

For each case the least over the repeats (what else runs on the machine only adds) of: wall time, and the CPU time of
each process. `one way` streams frames from rank 1 to rank 0; `exchange` has both send one frame and then receive one,
as an opening does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from enclave.channel.buffers import hand_over_quickly, keep_freed_memory
from enclave.channel.tls import require_tls13

require_tls13()

from enclave.channel import Channel  # noqa: E402
from enclave.channel.grpc_link import Listener, open_channel  # noqa: E402
from enclave.identity import Identity, TrustStore  # noqa: E402

__all__ = ["CASES", "Case", "Figure", "measure"]

_NAMES = ("ada", "bob")
_BUYER = 1


@dataclass(frozen=True, slots=True)
class Case:
    """`count` frames of `size_bytes` each: one way, or both ways in turn."""

    pattern: str
    size_bytes: int
    count: int


@dataclass(frozen=True, slots=True)
class Figure:
    """One case, measured. CPU times are of the whole process, system time included."""

    transport: str
    pattern: str
    size_bytes: int
    wall_us_per_frame: float
    cpu_us_per_frame: tuple[float, float]  # of rank 0 (receives) and rank 1 (sends)
    cpu_ms_per_megabyte: tuple[float, float]
    gigabytes_per_s: float


CASES = (
    Case("exchange", 64, 1500),
    Case("exchange", 100_000, 300),
    Case("exchange", 1_000_000, 60),
    Case("one way", 64, 8000),
    Case("one way", 10_000, 3000),
    Case("one way", 100_000, 1000),
    Case("one way", 1_000_000, 200),
    Case("one way", 6_000_000, 40),
)


def measure(transport: str = "grpc", repeats: int = 5, cases: Sequence[Case] = CASES) -> tuple[Figure, ...]:
    """Runs the cases between two new processes; one figure a case."""
    with tempfile.TemporaryDirectory() as home:
        roles = zip(_NAMES, ("owner", "buyer"), strict=True)
        people = [Identity.create(Path(home) / name, role, name) for name, role in roles]
        for me, other in (people, people[::-1]):
            TrustStore(me.home).add(other.card.encoded)
        plan = json.dumps([asdict(case) for case in cases])
        command = [sys.executable, "-m", "benchmarks.transport", "--transport", transport, "--repeats", str(repeats)]
        ranks = [
            subprocess.Popen(
                [*command, "--rank", str(rank), "--home", home, "--cases", plan],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in (0, 1)
        ]
        try:
            address = _line(ranks[0])
            assert ranks[1].stdin is not None
            ranks[1].stdin.write(address + "\n")
            ranks[1].stdin.flush()
            times = [json.loads(_line(rank)) for rank in ranks]
        finally:
            for rank in ranks:
                rank.communicate()
    return tuple(_figure(transport, case, *pair) for case, pair in zip(cases, zip(*times, strict=True), strict=True))


def _line(rank: subprocess.Popen[str]) -> str:
    assert rank.stdout is not None
    return rank.stdout.readline().strip()


def _figure(transport: str, case: Case, first: Sequence[float], second: Sequence[float]) -> Figure:
    wall_s = max(first[0], second[0])
    both = 2 if case.pattern == "exchange" else 1
    size = case.size_bytes * case.count * both
    return Figure(
        transport,
        case.pattern,
        case.size_bytes,
        wall_s / case.count * 1e6,
        (first[1] / case.count * 1e6, second[1] / case.count * 1e6),
        (first[1] * 1e9 / size, second[1] * 1e9 / size),
        size / wall_s / 1e9,
    )


# ---- one rank


def _rank(rank: int, home: Path, transport: str, repeats: int, cases: Sequence[Case]) -> None:
    keep_freed_memory()  # as a worker does
    hand_over_quickly()
    identity, trust = Identity.load(home / _NAMES[rank]), TrustStore(home / _NAMES[rank])
    cards = {1 - rank: trust.by_name(_NAMES[1 - rank])}
    listener, address = None, ""
    if rank != _BUYER:
        sockets = transport == "socket"
        listener = Listener(identity, trust, "measure", "127.0.0.1", range(1), cards, sockets=sockets)
        print(listener.address, flush=True)
    else:
        address = sys.stdin.readline().strip()
    channel = open_channel(
        "measure", rank, _NAMES, cards, identity, trust, listener, lambda _: address, _BUYER, deadline_s=60
    )
    found = []
    for number, case in enumerate(cases):
        play = _exchange if case.pattern == "exchange" else _one_way
        _timed(channel, number * 100, play, Case(case.pattern, case.size_bytes, max(2, case.count // 10)))
        times = [_timed(channel, number * 100 + 1 + n, play, case) for n in range(repeats)]
        found.append([min(column) for column in zip(*times, strict=True)])
    channel.close()
    print(json.dumps(found), flush=True)


def _timed(channel: Channel, step: int, play: Callable[[Channel, int, Case], None], case: Case) -> tuple[float, float]:
    _meet(channel, step)
    wall, cpu = time.perf_counter(), time.process_time()
    play(channel, step, case)
    _meet(channel, step)
    return time.perf_counter() - wall, time.process_time() - cpu


def _meet(channel: Channel, step: int) -> None:
    channel.send(1 - channel.rank, step, "meet", [])
    channel.receive(1 - channel.rank, step, "meet", 0)


def _exchange(channel: Channel, step: int, case: Case) -> None:
    data, peer = bytes(case.size_bytes), 1 - channel.rank
    for _ in range(case.count):
        channel.send(peer, step, "open", [data])
        channel.receive(peer, step, "open", case.size_bytes)


def _one_way(channel: Channel, step: int, case: Case) -> None:
    data = bytes(case.size_bytes)
    for _ in range(case.count):
        if channel.rank == 1:
            channel.send(0, step, "tape", [data])
        else:
            channel.receive(1, step, "tape", case.size_bytes)


def _table(figures: Sequence[Figure]) -> str:
    lines = [f"{'transport':9} {'pattern':9} {'bytes':>8} {'us/frame':>9} {'cpu us':>15} {'cpu ms/MB':>13} {'GB/s':>6}"]
    for f in figures:
        cpu = "/".join(f"{us:.0f}" for us in f.cpu_us_per_frame)
        per_megabyte = "/".join(f"{ms:.2f}" for ms in f.cpu_ms_per_megabyte) if f.size_bytes >= 10_000 else "-"
        lines.append(
            f"{f.transport:9} {f.pattern:9} {f.size_bytes:8} {f.wall_us_per_frame:9.0f} {cpu:>15} {per_megabyte:>13}"
            f" {f.gigabytes_per_s:6.3f}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transport", description=__doc__)
    parser.add_argument("--transport", choices=("grpc", "socket"), default="grpc")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    for hidden in ("--rank", "--home", "--cases"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.rank is not None:
        cases = [Case(**case) for case in json.loads(args.cases)]
        _rank(int(args.rank), Path(args.home), args.transport, args.repeats, cases)
        return 0
    figures = measure(args.transport, args.repeats)
    print("\n".join(json.dumps(asdict(f)) for f in figures) if args.json else _table(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())

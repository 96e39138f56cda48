"""One rank of the system `enclave`: a fresh process with a session over mutual TLS, as a job's worker has it.

Started by `benchmarks.mpc.enclave` with a JSON object as argument. It prints {"address"} and reads all addresses,
prints {"ready"} when every rank is connected and has agreed on the plan, then answers lines:

    go NANOSECONDS    one repetition, from that instant of the monotonic clock; answers when it began and ended
    count             traffic, rounds, peak memory, and the CPU seconds of all threads since `go`
    stop              leaves the output's shares in a file, and ends
"""

from __future__ import annotations

import cProfile
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from enclave.channel.tls import require_tls13

require_tls13()

import numpy as np  # noqa: E402

from benchmarks.measurement import versions  # noqa: E402
from benchmarks.mpc.cases import Case  # noqa: E402
from benchmarks.mpc.inputs import make_inputs  # noqa: E402
from benchmarks.mpc.programs import FRAC_BITS, Input, Program, Words, ring_inputs, tensors  # noqa: E402
from benchmarks.networks import PROFILES  # noqa: E402
from benchmarks.suite import Unavailable  # noqa: E402
from enclave.channel import Channel  # noqa: E402
from enclave.channel.grpc_link import Listener, open_channel  # noqa: E402
from enclave.channel.shaped import shape  # noqa: E402
from enclave.engines.mpc.engine import MpcEngine  # noqa: E402
from enclave.engines.mpc.ranks import DealerSession, PartySession  # noqa: E402
from enclave.engines.mpc.session import Session  # noqa: E402
from enclave.engines.mpc.tensor import RingTensor  # noqa: E402
from enclave.identity import Identity, TrustStore  # noqa: E402
from enclave.plan import Plan, make_plan  # noqa: E402

__all__ = ["Repetitions", "main", "plan_of"]

_SESSION = "benchmark"
_DEADLINE_S = 120.0
_DEALER_PATIENCE = 60


class Repetitions:
    """A program run again and again in one session, keeping what a warm-up may keep."""

    def __init__(self, session: Session, case: Case, inputs: dict[str, Input], shares: dict[str, Words] | None) -> None:
        self._program = Program(case)
        self._engine = MpcEngine(session, FRAC_BITS)
        self._session, self._inputs, self._shares = session, inputs, shares
        self._kept: dict[str, RingTensor] = {}
        self.outputs: dict[str, RingTensor] = {}

    def prepare(self) -> dict[str, RingTensor]:
        """The next repetition's inputs: new values, but for the kept ones."""
        fresh = tensors(self._session, self._inputs, self._shares)
        self._kept = self._kept or {name: fresh[name] for name in self._program.kept}
        return {**fresh, **self._kept}

    def run(self, inputs: dict[str, RingTensor]) -> None:
        """One repetition."""
        self.outputs = self._program.run(self._engine, inputs)
        for value in self.outputs.values():
            _ = value.share


def plan_of(case: Case, repetitions: int = 1) -> Plan:
    """The plan of the first repetitions. The first opens what the others keep."""
    inputs = ring_inputs(case, make_inputs(case))

    def workload(engine: Any) -> None:
        turns = Repetitions(engine.session, case, inputs, None)
        for _ in range(repetitions):
            turns.run(turns.prepare())

    return make_plan(case.parties, FRAC_BITS, workload)


def main(argument: str) -> int:
    """Runs the rank until it is told to stop."""
    task: dict[str, Any] = json.loads(argument)
    case, rank = Case(task["kind"], task["parameters"], task["parties"]), int(task["rank"])
    try:
        plan = plan_of(case)
    except Unavailable as missing:
        _say(unavailable=str(missing))
        return 1
    if plan.uses_torch:
        import torch  # noqa: F401  now, while nobody waits
    channel = _connect(task, case, rank)
    session: DealerSession | PartySession
    if rank == case.parties:
        session = DealerSession(channel, case.parties, plan.digest)
        shares = None
    else:
        session = PartySession(channel, case.parties, plan.digest)
        with np.load(task["shares"]) as file:
            shares = {name: file[name] for name in file.files}
    turns = Repetitions(session, case, ring_inputs(case, make_inputs(case)), shares)
    _say(ready=True, versions=versions())
    with _profiled(task.get("profile_cpu"), rank) as profiler:
        _serve(turns, session, channel, profiler)
    if shares is not None:
        found = {name: value.share for name, value in turns.outputs.items()}
        scales = {f"bits:{name}": np.array(value.frac_bits) for name, value in turns.outputs.items()}
        np.savez(task["outputs"], **found, **scales)  # type: ignore[arg-type]  # of arrays by name
    channel.close()
    return 0


def _connect(task: dict[str, Any], case: Case, rank: int) -> Channel:
    names = tuple(task["names"])
    home = Path(task["homes"]) / names[rank]
    identity, trust = Identity.load(home), TrustStore(home)
    cards = {r: trust.by_name(name) for r, name in enumerate(names) if r != rank}
    buyer = case.parties - 1
    listener = None if rank == buyer else Listener(identity, trust, _SESSION, "127.0.0.1", range(1), cards)
    _say(address=listener.address if listener else "")
    addresses = json.loads(sys.stdin.readline())
    patience = _DEALER_PATIENCE if rank == case.parties else 1
    channel = open_channel(
        _SESSION,
        rank,
        names,
        cards,
        identity,
        trust,
        listener,
        lambda r: str(addresses[r]),
        buyer,
        _DEADLINE_S * patience,
        connect_s=60.0,
    )
    network = PROFILES[task["profile"]]
    return shape(channel, network.latency_s, network.bandwidth_bps)


def _serve(
    turns: Repetitions, session: DealerSession | PartySession, channel: Channel, profiler: cProfile.Profile | None
) -> None:
    cpu_s = 0.0
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "stop":
            return
        if word == "count":
            links = channel.stats()
            _say(
                cpu_s=time.process_time() - cpu_s,
                rounds=session.rounds,
                sent_bytes=sum(link.sent_bytes for link in links),
                received_bytes=sum(link.received_bytes for link in links),
                peak_rss_bytes=session.peak_rss_bytes,
            )
            continue
        inputs, start_ns = turns.prepare(), int(rest[0])
        cpu_s = time.process_time()
        time.sleep(max(0.0, (start_ns - time.monotonic_ns()) * 1e-9))
        if profiler is not None:
            profiler.enable()
        began_ns = time.monotonic_ns()
        turns.run(inputs)
        ended_ns = time.monotonic_ns()
        if profiler is not None:
            profiler.disable()
        _say(began_ns=began_ns, ended_ns=ended_ns)


@contextmanager
def _profiled(folder: str | None, rank: int) -> Iterator[cProfile.Profile | None]:
    """A profiler whose statistics go to `folder`/rankN.prof at the end; slows what it measures."""
    if folder is None:
        yield None
        return
    profiler = cProfile.Profile()
    yield profiler
    profiler.dump_stats(Path(folder) / f"rank{rank}.prof")


def _say(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""One rank of the system `enclave`: a fresh process with a session over mutual TLS, as a job's worker has it.

Started by `benchmarks.mpc.enclave` with a JSON object as argument. It prints {"address"} and reads all addresses
(twice when the session is dealt ahead: once to deal), prints {"ready"} when every rank is connected and has agreed on
the plan, then answers lines:

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enclave.channel.buffers import hand_over_quickly, keep_freed_memory
from enclave.channel.tls import require_tls13

require_tls13()
keep_freed_memory()
hand_over_quickly()

import numpy as np  # noqa: E402

from benchmarks.measurement import versions  # noqa: E402
from benchmarks.mpc.cases import Case  # noqa: E402
from benchmarks.mpc.inputs import make_inputs  # noqa: E402
from benchmarks.mpc.programs import Words, ring_inputs  # noqa: E402
from benchmarks.mpc.repetitions import Repetitions, plan_of  # noqa: E402
from benchmarks.networks import PROFILES  # noqa: E402
from benchmarks.suite import Unavailable  # noqa: E402
from enclave.channel import Channel  # noqa: E402
from enclave.channel.grpc_link import Listener, open_channel  # noqa: E402
from enclave.channel.shaped import shape  # noqa: E402
from enclave.engines.mpc.ahead import Binding, Shelf, deal_ahead, keep_ahead  # noqa: E402
from enclave.engines.mpc.ranks import DealerSession, PartySession  # noqa: E402
from enclave.engines.mpc.session import Session  # noqa: E402
from enclave.errors import SessionError  # noqa: E402
from enclave.identity import Identity, TrustStore  # noqa: E402
from enclave.plan import Plan  # noqa: E402

__all__ = ["main"]

_DEADLINE_S = 120.0
_DEALER_PATIENCE = 60


def main(argument: str) -> int:
    """Runs the rank until it is told to stop."""
    task: dict[str, Any] = json.loads(argument)
    case, rank = Case(task["kind"], task["parameters"], task["parties"]), int(task["rank"])
    try:
        plan = plan_of(case, task["repetitions"], task["profile"])
    except Unavailable as missing:
        _say(unavailable=str(missing))
        return 1
    if plan.uses_torch:
        import torch  # noqa: F401  now, while nobody waits
    seat = _Seat(task, case, rank, plan)
    if task["ahead"]:
        return _run_ahead(seat)
    channel = seat.connect("session", len(seat.names))
    if rank == case.parties:
        return _run(seat, channel, DealerSession(channel, case.parties, plan.digest))
    return _run(seat, channel, PartySession(channel, case.parties, plan.digest))


@dataclass(frozen=True, slots=True)
class _Seat:
    """What a rank knows before it has a channel."""

    task: dict[str, Any]
    case: Case
    rank: int
    plan: Plan

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.task["names"])

    @property
    def home(self) -> Path:
        return Path(self.task["homes"]) / self.names[self.rank]

    def connect(self, session: str, count: int) -> Channel:
        """To the first `count` ranks; the last party dials, as a buyer does."""
        identity, trust = Identity.load(self.home), TrustStore(self.home)
        names, buyer = self.names[:count], self.case.parties - 1
        cards = {r: trust.by_name(name) for r, name in enumerate(names) if r != self.rank}
        sockets = bool(self.task["sockets"])
        listener = (
            None
            if self.rank == buyer
            else Listener(identity, trust, session, "127.0.0.1", range(1), cards, sockets=sockets)
        )
        _say(address=listener.address if listener else "")
        addresses = json.loads(sys.stdin.readline())
        patience = _DEALER_PATIENCE if self.rank == self.case.parties else 1
        channel = open_channel(
            session,
            self.rank,
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
        network = PROFILES[self.task["profile"]]
        return shape(channel, network.latency_s, network.bandwidth_bps)

    def turns(self, session: Session, shares: dict[str, Words] | None) -> Repetitions:
        inputs = ring_inputs(self.case, make_inputs(self.case))
        return Repetitions(session, self.case, inputs, shares, self.task["profile"])


def _run_ahead(seat: _Seat) -> int:
    """Deals every repetition to the parties' disks, then runs the session without a dealer."""
    parties, plan = seat.case.parties, seat.plan
    binding = Binding("session", parties, seat.rank, plan.digest, bytes(32), plan.dealer_bytes)
    channel = seat.connect("dealing", parties + 1)
    if seat.rank == parties:
        deal_ahead(channel, binding, lambda session: seat.turns(session, None).run_all(seat.task["repetitions"]))
        channel.close()
        return _wait_idle()
    shelf = Shelf(seat.home)
    keep_ahead(channel, binding, shelf)
    channel.close()
    channel = seat.connect("session", parties)
    with shelf.find(binding) as stock:
        return _run(seat, channel, PartySession(channel, parties, plan.digest, stock=stock))


def _wait_idle() -> int:
    """A dealer whose work is done: it has nothing to count."""
    _say(ready=True, versions=versions())
    for line in sys.stdin:
        if line.strip() == "stop":
            return 0
        if line.strip() == "count":
            _say(cpu_s=0.0, rounds=0, sent_bytes=0, received_bytes=0, peak_rss_bytes=0)
    return 1


def _run(seat: _Seat, channel: Channel, session: DealerSession | PartySession) -> int:
    shares = None
    if seat.rank < seat.case.parties:
        with np.load(seat.task["shares"]) as file:
            shares = {name: file[name] for name in file.files}
    turns = seat.turns(session, shares)
    _say(ready=True, versions=versions())
    with _profiled(seat.task.get("profile_cpu"), seat.rank) as profiler:
        _serve(turns, session, channel, profiler)
    if session.digest != seat.plan.digest:
        raise SessionError("the session did not run the plan")
    if shares is not None:
        found = {name: value.share for name, value in turns.outputs.items()}
        scales = {f"bits:{name}": np.array(value.frac_bits) for name, value in turns.outputs.items()}
        np.savez(seat.task["outputs"], **found, **scales)  # type: ignore[arg-type]  # of arrays by name
    channel.close()
    return 0


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

"""A worker: starts the ranks of a peer, has them repeat together, and adds their figures up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.peers.network import Wires, addresses
from benchmarks.peers.task import Seat, Task

__all__ = ["Fleet", "RankEnded", "serve", "summary"]

_ROOT = Path(__file__).parents[2]
_MODULES = {"crypten": "benchmarks.peers.crypten_rank", "spu": "benchmarks.peers.spu_rank"}
_STOP_S = 30.0
_PROCESS_CPU_CLOCK = 2


class RankEnded(Exception):
    """A rank that ended before it answered."""


class Fleet:
    """The processes of one worker, ranks first, then the dealer. Raises RankEnded when one does not come up."""

    def __init__(self, task: Task, python: Path) -> None:
        self.task = task
        self._folder = tempfile.mkdtemp(prefix="peers-")
        self._wires = None if task.profile == "loopback" else Wires(task.profile)
        self._processes: list[subprocess.Popen[str]] = []
        self._replies: list[Any] = []
        try:
            for rank in range(task.parties + task.dealer):
                self._start(rank, python)
            if self._wires:
                self._wires.start()
            self.versions: dict[str, str] = self._hear(0)["versions"]
            for rank in range(1, task.parties):
                self._hear(rank)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self) -> dict[str, Any]:
        """One repetition."""
        before_s = [self._cpu_s(process) for process in self._processes[self.task.parties :]]
        self._tell("run")
        figures = [self._hear(rank) for rank in range(self.task.parties)]
        after_s = [self._cpu_s(process) for process in self._processes[self.task.parties :]]
        dealer_s = [after - before for after, before in zip(after_s, before_s, strict=True)]
        peaks = [_peak_bytes(process.pid) for process in self._processes]
        return summary(figures, dealer_s, peaks, self.task.system)

    def stop(self) -> None:
        """Has the ranks write their outputs and end."""
        self._tell("stop")
        for rank in range(self.task.parties):
            self._hear(rank)
        until = time.monotonic() + _STOP_S
        for process in self._processes:
            process.wait(max(0.1, until - time.monotonic()))

    def close(self) -> None:
        """Ends what still runs."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdin is not None:
                try:
                    process.stdin.close()
                except BrokenPipeError:
                    pass
        for reply in self._replies:
            reply.close()
        if self._wires:
            self._wires.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, rank: int, python: Path) -> None:
        task = self.task
        ours, theirs = os.pipe()
        tunnel = self._wires.plug(rank) if self._wires else None
        seat = Seat(
            task=task,
            rank=rank,
            reply=theirs,
            folder=self._folder,
            interface="wire0" if tunnel else "lo",
            addresses=addresses(task.profile, task.parties + task.dealer),
            tunnel=tunnel.fileno() if tunnel else -1,
        )
        self._processes.append(
            subprocess.Popen(
                [str(python), "-W", "ignore", "-m", _MODULES[task.system.partition("-")[0]], seat.to_json()],
                stdin=subprocess.PIPE,
                text=True,
                pass_fds=[theirs, *([tunnel.fileno()] if tunnel else [])],
                cwd=_ROOT,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "MKL_NUM_THREADS": "1",
                    "GLOO_SOCKET_IFNAME": seat.interface,
                },
            )
        )
        os.close(theirs)
        if tunnel:
            tunnel.close()
        self._replies.append(os.fdopen(ours))

    def _tell(self, line: str) -> None:
        for process in self._processes[: self.task.parties]:
            assert process.stdin is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()

    def _hear(self, rank: int) -> dict[str, Any]:
        line = self._replies[rank].readline()
        if not line:
            raise RankEnded(f"rank {rank} of {self.task.system} ended with status {self._processes[rank].poll()}")
        found: dict[str, Any] = json.loads(line)
        return found

    @staticmethod
    def _cpu_s(process: subprocess.Popen[str]) -> float:
        """CPU time of another process, all its threads, to the nanosecond: Linux makes a clock of its number."""
        return time.clock_gettime(((~process.pid) << 3) | _PROCESS_CPU_CLOCK)


def summary(
    figures: Iterable[dict[str, Any]], dealer_cpu_s: Iterable[float], peaks_bytes: Iterable[int], system: str
) -> dict[str, Any]:
    """One line of a worker from what its ranks told, in the order of the ranks.

    `rounds`, `sent`, `received` of a rank are as its library counts them; None where nothing was counted.
    """
    ranks = list(figures)
    found: dict[str, Any] = {
        "wall_s": max(rank["wall_s"] for rank in ranks),
        "cpu_s": [*(rank["cpu_s"] for rank in ranks), *dealer_cpu_s],
        "peak_rss_bytes": max(peaks_bytes),
    }
    if ranks[0].get("rounds") is None:
        return found
    found["rounds"] = ranks[0]["rounds"]
    if system.startswith("crypten"):  # only rank 0 talks to the dealer; what it counts is both directions
        dealer_bytes = ranks[0]["bytes"] - ranks[1]["bytes"]
        found |= {"sent_bytes": ranks[1]["bytes"] // 2, "received_bytes": ranks[1]["bytes"] // 2}
        found["dealer_bytes"] = dealer_bytes
    else:
        found |= {name: max(rank[name] for rank in ranks) for name in ("sent_bytes", "received_bytes")}
        found["dealer_bytes"] = 0
    return found


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def serve(task: Task, python: Path) -> int:
    """The worker's side of the protocol in `benchmarks.mpc.workers`."""
    try:
        fleet = Fleet(task, python)
    except OSError as error:
        if task.profile == "loopback":
            raise
        print(json.dumps({"unavailable": f"the profile {task.profile} needs network namespaces: {error}"}), flush=True)
        return 0
    with fleet:
        print(json.dumps({"ready": True, "versions": fleet.versions}), flush=True)
        for line in sys.stdin:
            if line.strip() == "run":
                print(json.dumps(fleet.run()), flush=True)
            elif line.strip() == "stop":
                fleet.stop()
                return 0
    return 1

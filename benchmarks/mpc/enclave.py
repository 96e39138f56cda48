"""The systems `enclave`, `enclave-online` and `enclave-socket`: this project as it ships.

A process per rank and one for the dealer, mutual TLS with generated identities over loopback, sessions that compare
plan digests. All ranks start at one instant of the machine's monotonic clock; the time ends with the last party.
`enclave-online`: the dealer deals all repetitions to the parties' disks before the session, in which it has no part;
reading, unsealing and deleting what was dealt is in the time. `enclave-socket`: all nodes offer TLS sockets in the
place of gRPC. `enclave-online-socket`: both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mpc.cases import Case
from benchmarks.mpc.inputs import Arrays

__all__ = ["main"]

_ROOT = Path(__file__).parents[2]
_LEAD_NS = 10_000_000  # until all ranks have read when to start


class Ranks:
    """The processes of one session."""

    def __init__(self, task: dict[str, Any], folder: Path) -> None:
        self._case = Case(task["kind"], task["parameters"], task["parties"])
        self._online = "online" in task["system"]
        self._folder = folder
        self.unavailable = ""
        self.versions: dict[str, str] = {}
        self._counted: dict[str, int] = {}
        names = [*(f"party{rank}" for rank in range(self._case.parties)), "dealer"]
        _identities(folder, names)
        _share(self._case, Path(task["inputs"]), folder)
        self._processes = [self._start(task, names, rank) for rank in range(len(names))]

    def _start(self, task: dict[str, Any], names: list[str], rank: int) -> subprocess.Popen[str]:
        argument = {
            "kind": task["kind"],
            "parameters": task["parameters"],
            "parties": task["parties"],
            "profile": task["profile"],
            "repetitions": task["repetitions"],
            "ahead": self._online,
            "sockets": "socket" in task["system"],
            "rank": rank,
            "names": names,
            "homes": str(self._folder),
            "shares": str(self._folder / f"shares{rank}.npz"),
            "outputs": str(self._folder / f"outputs{rank}.npz"),
            "profile_cpu": os.environ.get("BENCHMARKS_PROFILE_CPU"),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.mpc.rank", json.dumps(argument)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )

    def connect(self) -> bool:
        """Tells all ranks where the others are; False when the case cannot run, with `unavailable` saying why."""
        everybody, parties = range(len(self._processes)), range(self._case.parties)
        for ranks in (everybody, parties) if self._online else (everybody,):
            hellos = [self._hear(rank) for rank in ranks]
            if "unavailable" in hellos[0]:
                self.unavailable = str(hellos[0]["unavailable"])
                return False
            self._tell(json.dumps([hello["address"] for hello in hellos]), ranks)
        ready = [self._hear(rank) for rank in range(len(self._processes))]
        self.versions = ready[0]["versions"]
        self._counted = self._totals(self._count())
        return True

    def run(self) -> dict[str, Any]:
        """One repetition."""
        dealer = self._case.parties
        working = range(dealer if self._online else dealer + 1)
        self._tell(f"go {time.monotonic_ns() + _LEAD_NS}", working)
        parties = [self._hear(rank) for rank in working][:dealer]
        counts = self._count()
        totals = self._totals(counts)
        gained = {name: value - self._counted[name] for name, value in totals.items()}
        self._counted = totals
        return {
            "wall_s": (max(p["ended_ns"] for p in parties) - min(p["began_ns"] for p in parties)) * 1e-9,
            "cpu_s": [count["cpu_s"] for count in counts],
            "peak_rss_bytes": max(count["peak_rss_bytes"] for count in counts),
            "rounds": gained["rounds"],
            "dealer_bytes": gained["dealer"],
            "sent_bytes": max(gained[f"sent{rank}"] for rank in range(dealer)),
            "received_bytes": max(gained[f"received{rank}"] for rank in range(dealer)),
        }

    def outputs(self) -> Arrays:
        """Ends the ranks and puts the shares of their outputs together."""
        self._tell("stop")
        for process in self._processes:
            if process.wait(60):
                raise RuntimeError("a rank failed at its end")
        found: Arrays = {}
        bits: dict[str, int] = {}
        for rank in range(self._case.parties):
            with np.load(self._folder / f"outputs{rank}.npz") as file:
                for name in file.files:
                    if name.startswith("bits:"):
                        bits[name.removeprefix("bits:")] = int(file[name])
                    else:
                        found[name] = file[name] + found.get(name, np.uint64(0))
        return {name: words.view(np.int64) / float(1 << bits[name]) for name, words in found.items()}

    def end(self) -> None:
        """Ends what still runs."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def _count(self) -> list[dict[str, Any]]:
        self._tell("count")
        return [self._hear(rank) for rank in range(len(self._processes))]

    def _totals(self, counts: list[dict[str, Any]]) -> dict[str, int]:
        totals = {"rounds": counts[0]["rounds"], "dealer": counts[-1]["sent_bytes"]}
        for rank, count in enumerate(counts[:-1]):
            totals |= {f"sent{rank}": count["sent_bytes"], f"received{rank}": count["received_bytes"]}
        return totals

    def _tell(self, line: str, ranks: Sequence[int] | None = None) -> None:
        for rank, process in enumerate(self._processes):
            if ranks is None or rank in ranks:
                assert process.stdin is not None
                process.stdin.write(line + "\n")
                process.stdin.flush()

    def _hear(self, rank: int) -> dict[str, Any]:
        out = self._processes[rank].stdout
        assert out is not None
        line = out.readline()
        if not line:
            raise RuntimeError(f"rank {rank} ended with status {self._processes[rank].wait(10)}")
        found: dict[str, Any] = json.loads(line)
        return found


def _identities(folder: Path, names: list[str]) -> None:
    """Parties that trust each other, at home in `folder`."""
    from enclave.identity import Identity, TrustStore

    people = [Identity.create(folder / name, "dealer" if name == "dealer" else "owner", name) for name in names]
    for me in people:
        trust = TrustStore(me.home)
        for other in people:
            if other is not me:
                trust.add(other.card.encoded)


def _share(case: Case, inputs: Path, folder: Path) -> None:
    """Every party's additive shares of the inputs, in files. Made-up values: a seeded generator will do."""
    from benchmarks.mpc.programs import ring_inputs

    with np.load(inputs) as file:
        rings = ring_inputs(case, {name: file[name] for name in file.files})
    generator = np.random.default_rng()
    shares: list[dict[str, Any]] = [{} for _ in range(case.parties)]
    for name, ring in rings.items():
        assert ring.words is not None
        rest = ring.words.copy()
        for share in shares[1:]:
            share[name] = generator.integers(0, 1 << 64, ring.shape, np.uint64, endpoint=False)
            rest -= share[name]
        shares[0][name] = rest
    for rank, share in enumerate(shares):
        np.savez(folder / f"shares{rank}.npz", **share)


def main(argument: str) -> int:
    """The worker: see `benchmarks.mpc.workers`."""
    task: dict[str, Any] = json.loads(argument)
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        ranks = Ranks(task, Path(folder))
        try:
            if not ranks.connect():
                _say({"unavailable": ranks.unavailable})
                return 1
            _say({"ready": True, "versions": ranks.versions})
            for line in sys.stdin:
                if line.strip() == "stop":
                    np.savez(task["outputs"], **ranks.outputs())  # type: ignore[arg-type]  # of arrays by name
                    return 0
                _say(ranks.run())
        finally:
            ranks.end()
    return 1


def _say(fields: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

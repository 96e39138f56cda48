"""`enclave crypten run`: a CrypTen program by real processes on this machine, one for each party and the dealer."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import enclave
from enclave.engines.mpc.fence.loopback import make_homes, names_of
from enclave.errors import BadInput, EnclaveError, SessionError
from parties.cli.console import Answer, Console
from parties.cli.units import bytes_text, seconds_text

__all__ = ["COMMANDS"]

_START_S, _GRACE_S = 120.0, 10.0
_ECHOES = ("session.peer_lost", "session.desynchronised")  # what the other ranks say when one has failed


@dataclass(slots=True)
class Seat:
    """One rank's process, and what it has said."""

    rank: int
    name: str
    process: subprocess.Popen[str]
    control: socket.socket
    threads: list[threading.Thread] = field(default_factory=list)
    buffer: bytes = b""
    address: str = ""
    report: dict[str, Any] | None = None  # {"done": ...} or {"error": ...}
    reported_s: float = 0.0

    def hear(self) -> None:
        """Takes in what the process said; the end of the socket is the end of the process."""
        data = self.control.recv(1 << 16)
        self.buffer += data
        *lines, self.buffer = self.buffer.split(b"\n")
        for line in lines:
            value = json.loads(line)
            if "address" in value:
                self.address = value["address"]
            else:
                self._end(value)
        if not data and self.report is None:
            self._end({"error": {"code": "program.died", "type": "", "message": self._how_it_died(), "trace": ""}})

    def _end(self, report: dict[str, Any]) -> None:
        self.report, self.reported_s = report, time.monotonic()

    def _how_it_died(self) -> str:
        code = self.process.wait()
        if code < 0:
            return f"the process was killed by {signal.Signals(-code).name}"
        return f"the process ended with exit code {code} and did not say why"

    @property
    def failed(self) -> bool:
        """Whether the rank has reported an error."""
        return self.report is not None and "error" in self.report


def _run(args: Namespace, console: Console) -> Answer:
    script: Path = args.script
    if not script.is_file():
        raise BadInput(f"there is no script {script}", hint="name a Python file", code="input.script")
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="enclave-program-") as folder:
        make_homes(Path(folder), args.parties)
        seats: list[Seat] = []
        try:
            for rank in range(args.parties + 1):
                seats.append(_start(rank, Path(folder), args, console))
            _attend(seats, lambda: all(seat.address for seat in seats), _START_S)
            if all(seat.address for seat in seats):
                addresses = json.dumps({"addresses": [seat.address for seat in seats]}).encode() + b"\n"
                for seat in seats:
                    seat.control.sendall(addresses)
                _attend(seats, lambda: all(seat.report for seat in seats), None)
        finally:
            _stop(seats)
    _raise_cause(seats, script, console)
    return _answer(seats[:-1], time.monotonic() - started_s, console)


def _start(rank: int, folder: Path, args: Namespace, console: Console) -> Seat:
    ours, theirs = socket.socketpair()
    first = rank == 0
    shown = first or args.all_ranks
    command = [sys.executable, "-P", "-m", "enclave.engines.mpc.fence.rank", str(theirs.fileno()), str(folder)]
    command += [str(rank), str(args.parties), str(args.deadline), str(args.script), *args.arguments]
    process = subprocess.Popen(  # noqa: S603  our own interpreter and module, no shell
        command,
        stdin=None if first else subprocess.DEVNULL,
        stdout=(2 if console.as_json else None) if first else subprocess.PIPE if shown else subprocess.DEVNULL,
        stderr=None if first else subprocess.PIPE if shown else subprocess.DEVNULL,
        text=True,
        pass_fds=[theirs.fileno()],
        env=_environment(args.parties),
    )
    theirs.close()
    seat = Seat(rank, names_of(args.parties)[rank], process, ours)
    sources: list[IO[str] | None] = [] if first else [process.stdout, process.stderr]
    for source in sources:
        if source is not None:
            thread = threading.Thread(target=_prefixed, args=(source, seat.name, console), daemon=True)
            thread.start()
            seat.threads.append(thread)
    return seat


def _environment(parties: int) -> dict[str, str]:
    """The processes find this code where we found it, and share the cores."""
    root = str(Path(enclave.__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH", "")])]
    threads = str(max(1, (os.cpu_count() or 1) // parties))
    return {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _prefixed(source: IO[str], name: str, console: Console) -> None:
    for line in source:
        console.note(f"[{name}] {line.rstrip()}")


def _attend(seats: Sequence[Seat], ready: Callable[[], bool], limit_s: float | None) -> None:
    """Listens to all ranks until `ready`, or some moments after the first failure, when the others are stopped."""
    end_s = None if limit_s is None else time.monotonic() + limit_s
    with selectors.DefaultSelector() as selector:
        for seat in seats:
            if seat.report is None:
                selector.register(seat.control, selectors.EVENT_READ, seat)
        while not ready():
            failures = [seat.reported_s for seat in seats if seat.failed]
            limits = [limit for limit in (end_s, min(failures) + _GRACE_S if failures else None) if limit is not None]
            wait_s = min(limits) - time.monotonic() if limits else None
            if wait_s is not None and wait_s <= 0:
                return
            for key, _ in selector.select(wait_s):
                seat = key.data
                seat.hear()
                if seat.report is not None:
                    selector.unregister(seat.control)


def _stop(seats: Sequence[Seat]) -> None:
    """Ends what still runs, and waits for all."""
    for seat in seats:
        seat.control.close()
        if seat.report is None:
            seat.process.kill()
    for seat in seats:
        seat.process.wait()
        for thread in seat.threads:
            thread.join(1.0)
        for stream in (seat.process.stdout, seat.process.stderr):
            if stream is not None:
                stream.close()


def _raise_cause(seats: Sequence[Seat], script: Path, console: Console) -> None:
    """Raises what went wrong first, named with its rank; the others' echoes of it are left out."""
    errors = [(seat, seat.report["error"]) for seat in seats if seat.report is not None and "error" in seat.report]
    if not errors:
        silent = [seat.name for seat in seats if seat.report is None]
        if silent:
            raise SessionError(f"{', '.join(silent)} did not start within {_START_S:g} s", hint="see standard error")
        return
    seat, error = min(errors, key=lambda e: (e[1]["code"] in _ECHOES, e[0].rank == len(seats) - 1, e[0].reported_s))
    ended = [s for s in seats if s.report is not None and "done" in s.report]
    if error["code"] in _ECHOES and ended:
        gone = ended[0]
        code = (gone.report or {})["done"]["exit_code"]
        raise EnclaveError(
            f"{gone.name} ended with exit code {code} while {seat.name} was still computing",
            hint="all ranks must make the same calls of CrypTen, whatever they print or read",
            code="program",
        )
    if error["trace"].count("\n") > 1:
        console.note(f"at {seat.name}:\n{error['trace'].rstrip()}")
    kind = "" if error["code"] != "program" else error["type"] + (": " if error["message"] else "")
    where = f"line {error['line']} of {script.name}" if error.get("line") else ""
    hint = "; ".join(part for part in (error.get("hint", ""), where) if part)
    raise EnclaveError(f"{seat.name}: {kind}{error['message']}", hint=hint, code=error["code"])


def _answer(seats: Sequence[Seat], seconds: float, console: Console) -> Answer:
    ranks = [{"rank": seat.rank, **(seat.report or {})["done"]} for seat in seats]
    code = next((rank["exit_code"] for rank in ranks if rank["exit_code"]), 0)
    leader = ranks[0]
    value = {
        "parties": len(ranks),
        "exit_code": code,
        "rounds": leader["rounds"],
        "sent_bytes": sum(rank["sent_bytes"] for rank in ranks),
        "dealer_bytes": leader["dealer_bytes"],
        "seconds": round(seconds, 3),
        "ranks": ranks,
    }
    if not console.as_json:
        sent = "/".join(bytes_text(rank["sent_bytes"]) for rank in ranks)
        console.note(
            f"{len(ranks)} parties, {leader['rounds']:,} rounds, {sent} sent, {bytes_text(leader['dealer_bytes'])} "
            f"dealt, {seconds_text(leader['wall_s'])} in the session, {seconds_text(seconds)} in all"
        )
    return Answer(value, "", code)


COMMANDS: Mapping[str, Callable[[Namespace, Console], Answer]] = {"crypten run": _run}

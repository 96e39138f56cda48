"""One rank, or the dealer, of stock CrypTen: torch.distributed with gloo over TCP, as its own launcher sets it up."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Any

from benchmarks.peers import rank, stub
from benchmarks.peers.task import Seat

__all__ = ["main"]


class _Party:
    """See `benchmarks.peers.rank.Party`."""

    def __init__(self, seat: Seat) -> None:
        import crypten
        import numpy as np

        from benchmarks.peers.crypten_kinds import program

        self._crypten, self._numpy, self._seat = crypten, np, seat
        self._communicator = crypten.communicator.get()
        task = seat.task
        with np.load(task.inputs) as file:
            inputs = {name: file[name] for name in file.files}
        skip_loss = os.environ.get("ENCLAVE_PEERS_SKIP_LOSS") == "1"
        self._program = program(task.kind, task.parameters, inputs, skip_loss)
        self._outputs: Any = {}

    @property
    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("crypten", "torch")}

    def run(self, count: bool) -> dict[str, Any]:
        state = self._program.prepare()
        self._communicator.barrier()
        if count:
            self._crypten.cfg.communicator.verbose = True
            self._communicator.reset_communication_stats()
        self._outputs, figures = rank.clocked(
            (lambda: None) if count else self._communicator.barrier, lambda: self._program.compute(state)
        )
        if count:
            stats = self._communicator.get_communication_stats()
            self._crypten.cfg.communicator.verbose = False
            figures |= {"rounds": int(stats["rounds"]), "bytes": int(stats["bytes"])}
        return figures

    def finish(self) -> None:
        opened = {name: value.get_plain_text().detach().numpy() for name, value in self._outputs.items()}
        if self._seat.rank == 0:
            self._numpy.savez(self._seat.task.outputs, **opened)
        self._crypten.uninit()


def main(argument: str) -> None:
    """Runs until it is told to stop; the dealer until rank 0 ends."""
    seat = rank.take_seat(argument)
    os.environ |= {
        "RENDEZVOUS": f"file://{seat.folder}/rendezvous",
        "WORLD_SIZE": str(seat.task.parties),
        "RANK": str(seat.rank),
        "DISTRIBUTED_BACKEND": "gloo",
    }
    stub.install()
    import crypten
    import torch

    torch.set_num_threads(1)
    crypten.cfg.mpc.provider = seat.task.system.partition("-")[2].upper()
    crypten.init()
    if seat.rank == seat.task.parties:
        crypten.mpc.provider.TTPServer()
        return
    rank.obey(seat, _Party(seat))


if __name__ == "__main__":
    main(sys.argv[1])

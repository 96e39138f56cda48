"""One rank of SPU 0.9.5: SEMI2K over the ring of 64 bits, between real processes, over its own brpc links.

Configuration is SPU's default (18 fractional bits, triples made by the first party: not a dealer's security), with two
changes, both in SPU's favour: messages of up to 32 MiB, as its own examples set for links, and one thread a rank: two
ranks with two threads each on two cores took up to three times as long on a busy machine, and no less CPU time.
"""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import spu
from spu import libspu
from spu.utils import frontend

from benchmarks.peers import rank
from benchmarks.peers.spu_kinds import function, laid_out
from benchmarks.peers.task import Seat

__all__ = ["link_details", "main"]

_PAYLOAD_BYTES = 32 << 20
_LENGTH = struct.Struct("<Q")
_DETAILS = re.compile(r"total send bytes (\d+), recv bytes (\d+), send actions (\d+), recv actions (\d+)")


def link_details(log: str) -> dict[str, int]:
    """The last count of messages and bytes that SPU logged, as this rank's figures."""
    found = _DETAILS.findall(log)
    if not found:
        return {}
    sent, received, sends, _ = (int(number) for number in found[-1])
    return {"rounds": sends, "sent_bytes": sent, "received_bytes": received}


def _config(profile: bool) -> Any:
    config = libspu.RuntimeConfig(protocol=libspu.ProtocolKind.SEMI2K, field=libspu.FieldType.FM64)
    config.max_concurrency = 1
    config.enable_pphlo_profile = profile
    return config


def _write(path: Path, share: Any) -> None:
    with path.open("wb") as file:
        for part in (share.meta, *share.share_chunks):
            file.write(_LENGTH.pack(len(part)))
            file.write(part)


def _read(path: Path) -> Any:
    parts, data, at = [], path.read_bytes(), 0
    while at < len(data):
        (size,) = _LENGTH.unpack_from(data, at)
        parts.append(data[at + _LENGTH.size : at + _LENGTH.size + size])
        at += _LENGTH.size + size
    share = libspu.Share()
    share.meta, share.share_chunks = parts[0], parts[1:]
    return share


class _Party:
    """See `benchmarks.peers.rank.Party`."""

    def __init__(self, seat: Seat) -> None:
        self._seat, self._folder = seat, Path(seat.folder)
        self._log = self._folder / f"spu{seat.rank}.log"
        options = libspu.logging.LogOptions()
        options.enable_console_logger = False
        options.system_log_path = str(self._log)
        libspu.logging.setup_logging(options)
        self._link = self._connect()
        self._io = spu.Io(seat.task.parties, _config(profile=False))
        with np.load(seat.task.inputs) as file:
            inputs = laid_out(seat.task.kind, {name: file[name] for name in file.files})
        self._compile(inputs)
        self._share(inputs)
        self._runtime = self._new_runtime(count=False)

    @property
    def versions(self) -> dict[str, str]:
        return {"spu": spu.__version__}

    def run(self, count: bool) -> dict[str, Any]:
        runtime = self._new_runtime(count=True) if count else self._runtime
        before = len(self._log_text())
        _, figures = rank.clocked(self._link.barrier, lambda: runtime.run(self._executable))
        return figures | (link_details(self._log_text()[before:]) if count else {})

    def finish(self) -> None:
        rows = self._seat.task.parties
        for name in self._executable.output_names:
            _write(self._folder / f"{name}.{self._seat.rank}", self._runtime.get_var(name))
        self._link.barrier()
        if self._seat.rank == 0:
            shares = {n: [_read(self._folder / f"{n}.{r}") for r in range(rows)] for n in self._executable.output_names}
            np.savez(self._seat.task.outputs, **{n[4:]: self._io.reconstruct(s) for n, s in shares.items()})
        self._link.stop_link()

    def _connect(self) -> Any:
        seat, description = self._seat, libspu.link.Desc()
        for i, (address, port) in enumerate(zip(seat.addresses, seat.task.ports, strict=False)):
            description.add_party(f"rank{i}", f"{address}:{port}")
        description.connect_retry_interval_ms, description.connect_retry_times = 200, 300
        description.recv_timeout_ms = 600_000
        description.http_max_payload_size = _PAYLOAD_BYTES
        return libspu.link.create_brpc(description, seat.rank)

    def _compile(self, inputs: dict[str, Any]) -> None:
        compute, names = function(self._seat.task.kind, self._seat.task.parameters), sorted(inputs)

        def flat(*values: Any) -> Any:
            return compute(dict(zip(names, values, strict=True)))

        shapes = jax.eval_shape(flat, *(inputs[name] for name in names))
        self._executable, _ = frontend.compile(
            frontend.Kind.JAX,
            flat,
            [inputs[name] for name in names],
            {},
            [f"in_{name}" for name in names],
            [libspu.Visibility.VIS_SECRET] * len(names),
            lambda _: [f"out_{name}" for name in sorted(shapes)],  # the order in which JAX flattens a dictionary
        )

    def _share(self, inputs: dict[str, Any]) -> None:
        """Rank 0 shares the inputs for all. This is before the clock starts: through files, not the network."""
        if self._seat.rank == 0:
            for name, value in inputs.items():
                for i, share in enumerate(self._io.make_shares(value, libspu.Visibility.VIS_SECRET)):
                    _write(self._folder / f"in_{name}.{i}", share)
        self._link.barrier()
        self._shares = {f"in_{name}": _read(self._folder / f"in_{name}.{self._seat.rank}") for name in inputs}

    def _new_runtime(self, count: bool) -> Any:
        runtime = spu.Runtime(self._link.spawn(), _config(profile=count))
        for name, share in self._shares.items():
            runtime.set_var(name, share)
        return runtime

    def _log_text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def main(argument: str) -> None:
    """Runs until it is told to stop."""
    seat = rank.take_seat(argument)
    rank.obey(seat, _Party(seat))


if __name__ == "__main__":
    main(sys.argv[1])

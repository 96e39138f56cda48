"""The limits of this machine, each a line with its figures.

| case | figures |
|---|---|
| aes | bytes_per_s of key stream as the engine draws it, and of OpenSSL's AES-128-CTR |
| copy | bytes_per_s copied by one core |
| gemm | multiplications per second modulo 2^64, as the engine multiplies, and by torch |
| tcp, tls | round_trip_s, bytes_per_s one way, cpu_s_per_gb of both ends: plain sockets over loopback |
| channel | the same of the channel that sessions use, gRPC with mutual TLS; exchange_s: one message each way at once |
| channel-socket | the same over the TLS sockets that nodes may offer |
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.floor.sockets import measure_sockets
from benchmarks.measurement import Measurement, Spread, versions
from benchmarks.suite import Settings

__all__ = ["FloorSuite"]

Figures = dict[str, float]
_WORDS = 1 << 19  # 4 MiB: in cache, as a session's strips are
_GEMM = (128, 784, 128)


class FloorSuite:
    """Microbenchmarks. The only system is the machine."""

    name = "floor"
    systems = ("machine",)
    usual = systems

    def listed(self) -> Sequence[tuple[str, str]]:
        """Every limit."""
        return tuple((name, text) for name, (text, _) in _LIMITS.items())

    def exists(self, name: str) -> bool:
        """Whether `name` is a limit."""
        return name in _LIMITS

    def measure(self, name: str, systems: Sequence[str], settings: Settings) -> Iterator[Measurement]:
        """One line."""
        settings.say(f"{name}: measuring")
        begin_s = time.perf_counter()
        figures = _LIMITS[name][1](max(3, settings.repeat))
        times = Spread.of([time.perf_counter() - begin_s])
        yield Measurement(
            self.name, name, "machine", median_s=times.median_s, repeats=1, figures=figures, versions=versions()
        )


def _median_s(function: Callable[[], Any], repeat: int) -> float:
    function()
    times = []
    for _ in range(repeat):
        begin_s = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin_s)
    return Spread.of(times).median_s


def _aes(repeat: int) -> Figures:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    from enclave.engines.mpc.random import KeyStream, fresh_key

    stream = KeyStream(fresh_key())
    cipher = Cipher(algorithms.AES(fresh_key()), modes.CTR(bytes(16))).encryptor()
    zeros, out = bytes(8 * _WORDS), bytearray(8 * _WORDS + 15)
    own_s = _median_s(lambda: stream.words(1, _WORDS), repeat)
    openssl_s = _median_s(lambda: cipher.update_into(zeros, out), repeat)
    return {"bytes_per_s": 8 * _WORDS / own_s, "openssl_bytes_per_s": 8 * _WORDS / openssl_s}


def _copy(repeat: int) -> Figures:
    source = np.zeros(1 << 23, np.uint64)  # 64 MiB: not in cache
    target = np.ones_like(source)
    return {"bytes_per_s": source.nbytes / _median_s(lambda: np.copyto(target, source), repeat)}


def _gemm(repeat: int) -> Figures:
    import torch

    from enclave.engines.mpc.protocols.arithmetic import MatMul

    m, k, n = _GEMM
    generator = np.random.default_rng(0)
    x, y = (generator.integers(0, 1 << 63, shape, np.int64).view(np.uint64) for shape in ((m, k), (k, n)))
    left, right = (torch.from_numpy(a.view(np.int64)) for a in (x, y))
    own_s = _median_s(lambda: MatMul().apply(x, y), repeat)
    torch_s = _median_s(lambda: torch.mm(left, right), repeat)
    return {"products_per_s": m * k * n / own_s, "torch_products_per_s": m * k * n / torch_s}


def _channel(repeat: int, transport: str = "grpc") -> Figures:
    command = [sys.executable, "-m", "benchmarks.transport", "--json", "--repeats", str(repeat)]
    command += ["--transport", transport]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    small = next(line for line in lines if line["pattern"] == "exchange" and line["size_bytes"] == 64)
    large = [line for line in lines if line["pattern"] == "one way"][-1]
    return {
        "exchange_s": small["wall_us_per_frame"] * 1e-6,
        "exchange_cpu_s": sum(small["cpu_us_per_frame"]) * 1e-6,
        "bytes_per_s": large["gigabytes_per_s"] * 1e9,
        "cpu_s_per_gb": sum(large["cpu_ms_per_megabyte"]),
    }


_LIMITS: Mapping[str, tuple[str, Callable[[int], Figures]]] = {
    "aes": ("key stream, one core", _aes),
    "copy": ("memory copied, one core", _copy),
    "gemm": ("integer matrix products modulo 2^64, one thread, 128x784x128", _gemm),
    "tcp": ("plain sockets over loopback", lambda repeat: measure_sockets(tls=False, repeat=repeat)),
    "tls": ("TLS 1.3 sockets over loopback", lambda repeat: measure_sockets(tls=True, repeat=repeat)),
    "channel": ("the channel of a session: gRPC, mutual TLS", _channel),
    "channel-socket": ("the same over TLS sockets", lambda repeat: _channel(repeat, "socket")),
}

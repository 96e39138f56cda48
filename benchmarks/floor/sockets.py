"""Plain sockets between two processes over loopback, with TLS 1.3 or without: what a transport could reach.

python -m benchmarks.floor.sockets [CERTIFICATE.pem]: the other end. Prints its port, serves one connection, and
prints the CPU seconds that it took.
"""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measurement import Spread

__all__ = ["measure_sockets"]

_HEAD = struct.Struct("<BQQ")
_ECHO, _SINK, _STOP = 0, 1, 2
_SMALL_BYTES, _BLOCK_BYTES = 64, 1 << 18
_ROUND_TRIPS, _BLOCKS = 400, 512


def measure_sockets(*, tls: bool, repeat: int) -> dict[str, float]:
    """Round-trip time of 64 bytes, throughput of 256 KiB blocks one way, CPU seconds of both ends for a gigabyte."""
    with tempfile.TemporaryDirectory() as folder:
        pem = _certificate(Path(folder)) if tls else None
        command = [sys.executable, "-m", "benchmarks.floor.sockets", *([str(pem)] if pem else [])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            with _connect(port, pem) as line:
                _echo(line, _ROUND_TRIPS // 4)
                trips = [_echo(line, _ROUND_TRIPS) for _ in range(repeat)]
                _sink(line, _BLOCKS // 4)
                line.sendall(_HEAD.pack(_STOP, 0, 0))
                before_s, cpu_s = float(server.stdout.readline()), time.process_time()
                streams = [_sink(line, _BLOCKS) for _ in range(repeat)]
                cpu_s = time.process_time() - cpu_s
                line.sendall(_HEAD.pack(_STOP, 0, 0))
                cpu_s += float(server.stdout.readline()) - before_s
    size = _BLOCKS * _BLOCK_BYTES
    return {
        "round_trip_s": Spread.of(trips).median_s / _ROUND_TRIPS,
        "bytes_per_s": size / Spread.of(streams).median_s,
        "cpu_s_per_gb": cpu_s / (size * repeat) * 1e9,
    }


def _certificate(folder: Path) -> Path:
    from enclave.identity import Identity

    someone = Identity.create(folder / "home", "owner", "someone")
    path = folder / "both.pem"
    path.touch(0o600)
    path.write_bytes(someone.tls_key_pem + someone.tls_certificate_pem)
    return path


def _connect(port: int, pem: Path | None) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", port), 30)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if pem is None:
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only the cipher's work is of interest
    return context.wrap_socket(plain)


def _echo(line: socket.socket, count: int) -> float:
    line.sendall(_HEAD.pack(_ECHO, count, _SMALL_BYTES))
    data, buffer = bytes(_SMALL_BYTES), bytearray(_SMALL_BYTES)
    begin_s = time.perf_counter()
    for _ in range(count):
        line.sendall(data)
        _fill(line, memoryview(buffer))
    return time.perf_counter() - begin_s


def _sink(line: socket.socket, count: int) -> float:
    data = bytes(_BLOCK_BYTES)
    begin_s = time.perf_counter()
    line.sendall(_HEAD.pack(_SINK, count, _BLOCK_BYTES))
    for _ in range(count):
        line.sendall(data)
    _fill(line, memoryview(bytearray(1)))
    return time.perf_counter() - begin_s


def _fill(line: socket.socket, buffer: memoryview) -> None:
    while buffer:
        got = line.recv_into(buffer)
        if not got:
            raise ConnectionError("the other end is gone")
        buffer = buffer[got:]


def _serve(pem: str | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        line, _ = server.accept()
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if pem is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(pem)
        line = context.wrap_socket(line, server_side=True)
    head = bytearray(_HEAD.size)
    with line:
        while True:
            try:
                _fill(line, memoryview(head))
            except (ConnectionError, ssl.SSLError):
                return
            kind, count, size = _HEAD.unpack(head)
            if kind == _STOP:
                print(time.process_time(), flush=True)
                continue
            buffer = memoryview(bytearray(size))
            for _ in range(count):
                _fill(line, buffer)
                if kind == _ECHO:
                    line.sendall(buffer)
            if kind == _SINK:
                line.sendall(b"x")


if __name__ == "__main__":
    _serve(sys.argv[1] if len(sys.argv) > 1 else None)

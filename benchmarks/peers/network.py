"""A LAN or a WAN between processes of one machine, for programs that know nothing of it.

Every process moves into a network namespace of its own, where its only way out is a TUN device. The packets of all
devices arrive at one thread of the worker, which holds each back as the network would and hands it to the device of
the receiver. So the peers' TCP runs as it is, whatever ports it picks, and no connection is taken apart by a proxy.

A packet of s bytes that is sent at t begins to leave at b = max(t, when the one before on this link had left), has
left at b + 8 s / bandwidth, and arrives one latency after that: the model of `enclave.channel.shaped`. Packets are
32 KiB, none is lost, queues have no bound: this favours the peers, whose TCP then starts faster than on a real WAN.

Needs Linux with /dev/net/tun, the command `ip`, and the right to make network namespaces (root or user namespaces).
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import heapq
import os
import select
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass

__all__ = ["PROFILES", "Profile", "Wires", "addresses", "enter"]

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_PACKET_BYTES = 32768
_DESTINATION = slice(16, 20)  # of an IPv4 header


@dataclass(frozen=True, slots=True)
class Profile:
    """latency_s: one way; bandwidth_bps: bits a second, each direction of each link."""

    latency_s: float
    bandwidth_bps: float


PROFILES = {"lan": Profile(0.15e-3, 1e9), "wan": Profile(20e-3, 1e8)}


def addresses(profile: str, count: int) -> tuple[str, ...]:
    """Of the ranks and the dealer: loopback, or the range that is set aside for benchmarks."""
    return ("127.0.0.1",) * count if profile == "loopback" else tuple(f"198.18.0.{i + 1}" for i in range(count))


class Wires:
    """The thread that carries the packets. `plug` once per process, start it, let it `enter`; then `start`."""

    def __init__(self, profile: str) -> None:
        self._profile = PROFILES[profile]
        self._plugs: dict[int, socket.socket] = {}
        self._tunnels: dict[bytes, int] = {}
        self._wake, self._bell = os.pipe()
        self._thread: threading.Thread | None = None

    def plug(self, rank: int) -> socket.socket:
        """The end of a socket that the process of this rank gets."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._plugs[rank] = ours
        return theirs

    def start(self) -> None:
        """Waits until all processes have entered. Raises OSError when one cannot."""
        for rank, plug in sorted(self._plugs.items()):
            with plug:
                said, tunnels, _, _ = socket.recv_fds(plug, 256, 1)
            if not tunnels:
                raise OSError(said.decode(errors="replace") or f"rank {rank} ended")
            self._tunnels[socket.inet_aton(addresses("", rank + 1)[rank])] = tunnels[0]
        self._thread = threading.Thread(target=self._carry, name="wires", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; what is on its way is lost."""
        os.write(self._bell, b"x")
        if self._thread:
            self._thread.join()
        for plug in self._plugs.values():
            plug.close()
        for descriptor in (*self._tunnels.values(), self._wake, self._bell):
            os.close(descriptor)

    def _carry(self) -> None:
        latency_s, s_per_byte = self._profile.latency_s, 8 / self._profile.bandwidth_bps
        readable = [self._wake, *self._tunnels.values()]
        free_s: dict[tuple[int, int], float] = {}
        on_way: list[tuple[float, int, int, bytes]] = []
        count = 0
        while True:
            wait_s = max(0.0, on_way[0][0] - time.monotonic()) if on_way else None
            ready, _, _ = select.select(readable, [], [], wait_s)
            if self._wake in ready:
                return
            now_s = time.monotonic()
            for tunnel in ready:
                packet = os.read(tunnel, _PACKET_BYTES + 64)
                to = self._tunnels.get(packet[_DESTINATION])
                if to is None:  # multicast and IPv6 chatter of the kernel
                    continue
                link = (tunnel, to)
                free_s[link] = max(now_s, free_s.get(link, 0.0)) + len(packet) * s_per_byte
                count += 1
                heapq.heappush(on_way, (free_s[link] + latency_s, count, to, packet))
            while on_way and on_way[0][0] <= time.monotonic():
                _, _, to, packet = heapq.heappop(on_way)
                _deliver(to, packet)


def _deliver(tunnel: int, packet: bytes) -> None:
    try:
        os.write(tunnel, packet)
    except OSError:  # the receiver has ended
        pass


def enter(plug: int, address: str) -> None:
    """Moves this process, which must not have threads yet, behind a wire. Raises OSError.

    Args:
        plug: the socket of `Wires.plug`; it is closed.
        address: this process's own.
    """
    with socket.socket(fileno=plug) as line:
        try:
            _new_namespace()
            tunnel = _open_tunnel(address)
        except (OSError, subprocess.CalledProcessError) as error:
            line.sendall(str(error)[:200].encode())
            raise
        line.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [tunnel]))])
        os.close(tunnel)


def _new_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNET) == 0:
        return
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _open_tunnel(address: str) -> int:
    tunnel = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tunnel, _TUNSETIFF, struct.pack("16sH22x", b"wire0", _IFF_TUN | _IFF_NO_PI))
    for command in (
        ("addr", "add", f"{address}/24", "dev", "wire0"),
        ("link", "set", "wire0", "mtu", str(_PACKET_BYTES), "up"),
        ("link", "set", "lo", "up"),
    ):
        subprocess.run(["ip", *command], check=True, capture_output=True)
    return tunnel

"""Where a node's things are and how much it gives: `node.toml` in its home directory, read once at start.

Nothing here decides what is computed or how exactly: that is in the job specification, on which all parties agree.
Secrets are not here either; they are files of the identity. Every key has a default, so that an empty file is a
valid one, and an unknown key is an error: a misspelt limit must not silently be no limit.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from enclave.errors import BadInput, StoreError
from enclave.identity.home import write_file

__all__ = ["FILE_NAME", "NodeConfig", "readdress", "write_default"]

FILE_NAME = "node.toml"
PROFILES = ("production", "development")
TRANSPORTS = ("grpc", "socket")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node's configuration, checked.

    Attributes:
        listen: host:port of the control port; port 0 lets the system choose.
        advertise: host:port under which others reach it; empty means as `listen`.
        worker_ports: lowest and highest port for sessions; (0, 0) lets the system choose.
        transport: `socket` offers links without gRPC to peers that offer them too; each session then takes two ports.
        profile: `production` refuses to run where a claim of the receipt would be false.
        max_jobs: sessions that run at a time; the others wait.
        max_open_jobs_per_buyer: jobs of one buyer that are not final.
        max_spec_bytes: longest job specification.
        max_rows: rows of all parties of one job together.
        max_dealer_bytes: correlated randomness dealt for one job.
        max_store_bytes: size of the store; 0 for no limit.
        max_stock_bytes: disk for what is dealt ahead to all jobs together; 0 for jobs dealt online alone.
        max_encodings_bytes: disk for rows in the form that encrypted products take, kept from job to job; 0: none.
        max_worker_bytes: memory of one session's process; 0 for no limit.
        step_deadline_s: longest wait of a session for one frame.
        peer_lost_s: a peer that shows no sign of life for this long is lost.
        lease_s: a worker that does not report for this long is taken for dead.
        max_run_s: longest session.
        max_lifetime_s: how far ahead a job may expire.
        shutdown_s: time that running sessions get when the node is asked to stop.
    """

    listen: str = "127.0.0.1:7600"
    advertise: str = ""
    worker_ports: tuple[int, int] = (0, 0)
    transport: str = "grpc"
    profile: str = "production"
    max_jobs: int = 4
    max_open_jobs_per_buyer: int = 64
    max_spec_bytes: int = 1 << 20
    max_rows: int = 100_000_000
    max_dealer_bytes: int = 1 << 40
    max_store_bytes: int = 0
    max_stock_bytes: int = 1 << 36
    max_encodings_bytes: int = 1 << 33
    max_worker_bytes: int = 1 << 35
    step_deadline_s: float = 30.0
    peer_lost_s: float = 10.0
    lease_s: int = 60
    max_run_s: int = 86_400
    max_lifetime_s: int = 30 * 86_400
    shutdown_s: float = 10.0

    def __post_init__(self) -> None:
        _address("listen", self.listen)
        if self.advertise:
            if _address("advertise", self.advertise)[1] == 0:
                raise _bad("advertise", "an address with a port that others can dial", self.advertise)
        low, high = self.worker_ports
        if (low, high) != (0, 0):
            if not 1024 <= low <= high <= 65_535:
                raise _bad("worker_ports", "[0, 0] or two ports 1024 <= low <= high <= 65535", [low, high])
            needed = self.max_jobs * (2 if self.transport == "socket" else 1)
            if high - low + 1 < needed:
                text = f"at least {needed} ports for max_jobs = {self.max_jobs}"
                raise _bad("worker_ports", text, f"{high - low + 1} ports")
            if low <= self.listen_port <= high:
                raise _bad("worker_ports", f"a range without the control port {self.listen_port}", [low, high])
        if self.transport not in TRANSPORTS:
            raise _bad("transport", " or ".join(TRANSPORTS), self.transport)
        if self.profile not in PROFILES:
            raise _bad("profile", " or ".join(PROFILES), self.profile)
        for key, (least, most) in _BOUNDS.items():
            value = getattr(self, key)
            if not least <= value <= most:
                raise _bad(key, f"between {least:g} and {most:g}", value)

    @property
    def listen_host(self) -> str:
        """The interface that the node, and the workers of its sessions, bind to."""
        return _address("listen", self.listen)[0]

    @property
    def listen_port(self) -> int:
        """The control port; 0 where the system chooses."""
        return _address("listen", self.listen)[1]

    @property
    def address(self) -> str:
        """host:port that other parties dial."""
        return self.advertise or self.listen

    @property
    def production(self) -> bool:
        """Whether the production profile's refusals apply."""
        return self.profile == "production"

    @classmethod
    def load(cls, home: Path) -> Self:
        """Reads `home`/node.toml; all defaults if there is none.

        Raises:
            BadInput: not TOML, an unknown key, or a value of the wrong type or out of its range.
            StoreError: the file is there and cannot be read.
        """
        path = home / FILE_NAME
        try:
            text = path.read_bytes().decode()
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise BadInput(f"{path} is not UTF-8 text", code="input.config") from error
        return cls.parse(text)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The configuration in the text of a node.toml; raises BadInput."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise BadInput(f"{FILE_NAME} is not TOML: {error}", code="input.config") from error
        known = {field.name: field.default for field in fields(cls)}
        unknown = sorted(set(table) - set(known))
        if unknown:
            raise BadInput(
                f"unknown key {unknown[0]!r} in {FILE_NAME}",
                hint=f"known keys: {', '.join(sorted(known))}",
                code="input.config",
            )
        return cls(**{key: _typed(key, value, known[key]) for key, value in table.items()})


def write_default(home: Path, *, listen: str = "", advertise: str = "", profile: str = "") -> Path:
    """Writes a commented node.toml into `home` and returns its path; an existing one is never overwritten.

    Raises:
        BadInput: a given value is not valid, or the file exists.
        StoreError: the disk refuses.
    """
    given = {"listen": listen, "advertise": advertise, "profile": profile}
    config = NodeConfig(**{key: value for key, value in given.items() if value})  # type: ignore[arg-type]
    path = home / FILE_NAME
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(_render(config))
    except FileExistsError as error:
        raise BadInput(f"{path} exists already", hint="edit it, or remove it first", code="input.config") from error
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
    return path


def readdress(home: Path, address: str, listen: str = "") -> NodeConfig:
    """Writes another address into `home`/node.toml and returns the new configuration. All else in the file stays.

    Args:
        address: host:port under which others reach the node.
        listen: host:port to bind to. Empty: `address`, or, where the node listened elsewhere than it was reached,
            the interface as before, with the new port if both had the same one.

    Raises:
        BadInput: an address is malformed or in conflict with another key, or the file cannot be changed line by line.
        StoreError: the disk refuses; the file is then as it was.
    """
    before = NodeConfig.load(home)
    if not listen:
        listen = _follow(before, address)
    after = replace(before, listen=listen, advertise="" if listen == address else address)
    path = home / FILE_NAME
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for key, value in (("listen", after.listen), ("advertise", after.advertise)):
        line = rf"""^([ \t]*{key}[ \t]*=[ \t]*)("[^"\n]*"|'[^'\n]*')"""
        text, count = re.subn(line, rf'\g<1>"{value}"', text, flags=re.MULTILINE)
        if not count and value:
            text = f'{key} = "{value}"\n{text}'
    # Safety: a text edit may hit a line that only looks like the key, so the outcome is read as a node would.
    if NodeConfig.parse(text) != after:
        raise BadInput(
            f"cannot change listen and advertise in {path}",
            hint="write each key on a line of its own",
            code="input.config",
        )
    write_file(path, text.encode(), 0o644)
    return after


def _follow(before: NodeConfig, address: str) -> str:
    if before.address == before.listen:
        return address
    port = _address("advertise", address)[1]
    if _address("advertise", before.address)[1] != before.listen_port:
        return before.listen
    return f"{before.listen.rpartition(':')[0]}:{port}"


_BOUNDS: Mapping[str, tuple[float, float]] = {
    "max_jobs": (1, 1024),
    "max_open_jobs_per_buyer": (1, 100_000),
    "max_spec_bytes": (1024, 1 << 20),
    "max_rows": (1, 1 << 40),
    "max_dealer_bytes": (1, 1 << 60),
    "max_store_bytes": (0, 1 << 46),
    "max_stock_bytes": (0, 1 << 60),
    "max_encodings_bytes": (0, 1 << 60),
    "max_worker_bytes": (0, 1 << 60),
    "step_deadline_s": (0.1, 86_400),
    "peer_lost_s": (0.1, 10),
    "lease_s": (2, 3600),
    "max_run_s": (1, 30 * 86_400),
    "max_lifetime_s": (1, 365 * 86_400),
    "shutdown_s": (0, 3600),
}
_COMMENTS: Mapping[str, str] = {
    "listen": "host:port of this node's control port",
    "advertise": "host:port under which others reach it; empty: as listen",
    "worker_ports": "lowest and highest port for sessions; [0, 0]: the system chooses",
    "transport": "grpc | socket; socket: less work a byte, where the other node offers it too",
    "profile": "production | development; production refuses to run where a claim would be false",
    "max_jobs": "sessions at a time; others wait",
    "max_open_jobs_per_buyer": "jobs of one buyer that are not finished",
    "max_spec_bytes": "longest job specification",
    "max_rows": "rows of all parties of one job together",
    "max_dealer_bytes": "correlated randomness dealt for one job",
    "max_store_bytes": "size of the store; 0: no limit",
    "max_stock_bytes": "disk for what is dealt ahead to all jobs; 0: nothing is",
    "max_worker_bytes": "memory of one session's process; 0: no limit",
    "max_encodings_bytes": "disk for rows encoded for encrypted products; 0: encoded anew in each job",
    "step_deadline_s": "longest wait of a session for one frame",
    "peer_lost_s": "a silent peer is lost after this time",
    "lease_s": "a silent worker is taken for dead after this time",
    "max_run_s": "longest session",
    "max_lifetime_s": "how far ahead a job may expire",
    "shutdown_s": "time that sessions get when the node stops",
}


def _render(config: NodeConfig) -> str:
    lines = ["# Configuration of this node. Every key may be left out; what stands here are the values in force."]
    for field in fields(config):
        value = getattr(config, field.name)
        text = f'"{value}"' if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)
        lines.append(f"{field.name} = {text}  # {_COMMENTS[field.name]}")
    return "\n".join(lines) + "\n"


def _typed(key: str, value: object, default: object) -> Any:
    if isinstance(default, str):
        if isinstance(value, str):
            return value
        raise _bad(key, "text", value)
    if isinstance(default, tuple):
        if isinstance(value, list) and len(value) == 2 and all(type(item) is int for item in value):
            return tuple(value)
        raise _bad(key, "a list of two port numbers", value)
    if type(value) is int:
        return float(value) if isinstance(default, float) else value
    if isinstance(default, float) and isinstance(value, float):
        return value
    raise _bad(key, "a number" if isinstance(default, float) else "a whole number", value)


def _address(key: str, text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    plain = bool(bare) and all(c.isalnum() or c in ".-_" or (c in ":%" and bare != host) for c in bare)
    if not colon or not plain or not port.isascii() or not port.isdecimal() or int(port) > 65_535:
        raise _bad(key, "host:port (IPv6 hosts in brackets)", text)
    return bare, int(port)


def _bad(key: str, expected: str, found: object) -> BadInput:
    return BadInput(f"{key} in {FILE_NAME} must be {expected}, found {str(found)[:80]!r}", code="input.config")

"""What a worker is asked for, and what it tells each of its processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

__all__ = ["KINDS", "PROFILES", "RATES", "SYSTEMS", "Seat", "Task"]

SYSTEMS = ("crypten-ttp", "crypten-tfp", "spu-semi2k")
ELEMENTWISE = ("relu", "sigmoid", "tanh", "gelu", "exp", "log", "reciprocal", "rsqrt", "mul")
KINDS = (
    *ELEMENTWISE,
    "softmax",
    "argmax",
    "max",
    "matmul",
    "mlp-inference",
    "mlp-train",
    "lr-step",
    "lr-breast-cancer",
    "lenet-inference",
)
RATES = {"mlp-train": 0.125, "lr-step": 0.125, "lr-breast-cancer": 1.0}
PROFILES = ("loopback", "lan", "wan")


@dataclass(frozen=True, slots=True)
class Task:
    """One case on one system. See `benchmarks.mpc.workers` for the fields."""

    system: str
    kind: str
    parameters: Mapping[str, int]
    parties: int
    profile: str
    ports: tuple[int, ...]
    inputs: str
    outputs: str

    @classmethod
    def parse(cls, text: str) -> Task:
        """Raises ValueError saying what is wrong. Fields that it does not know are for others."""
        fields = json.loads(text)
        names = tuple(cls.__dataclass_fields__)
        if not isinstance(fields, dict) or not set(names) <= set(fields):
            raise ValueError(f"expected an object with {', '.join(names)}, found {text[:200]}")
        task = cls(**{**{name: fields[name] for name in names}, "ports": tuple(fields["ports"])})
        for name, value, allowed in (
            ("system", task.system, SYSTEMS),
            ("kind", task.kind, KINDS),
            ("profile", task.profile, PROFILES),
        ):
            if value not in allowed:
                raise ValueError(f"expected a {name} of {', '.join(allowed)}, found {value!r}")
        if not 2 <= task.parties <= 4 or len(task.ports) < task.parties:
            raise ValueError(f"expected 2 to 4 parties and a port for each, found {task.parties}, {len(task.ports)}")
        return task

    @property
    def dealer(self) -> bool:
        """Whether a process beside the ranks deals."""
        return self.system == "crypten-ttp"


@dataclass(frozen=True, slots=True)
class Seat:
    """What one process of a worker is told.

    Args:
        rank: 0 to parties - 1; the dealer's is `parties`.
        reply: the file descriptor to answer on.
        folder: for what the ranks hand one another before the clock starts and after it stopped.
        interface: the network device to use.
        addresses: of all ranks and the dealer, by rank.
        tunnel: a Unix socket to send the network device's descriptor on, or -1 for the machine's own loopback.
    """

    task: Task
    rank: int
    reply: int
    folder: str
    interface: str
    addresses: tuple[str, ...]
    tunnel: int

    def to_json(self) -> str:
        """The process's argument."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Seat:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        task = Task.parse(json.dumps(fields["task"]))
        return cls(**{**fields, "task": task, "addresses": tuple(fields["addresses"])})

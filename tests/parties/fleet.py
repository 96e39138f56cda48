"""Parties on loopback for tests: homes that trust each other, nodes as processes or in this one, a plain buyer."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from enclave.executor.session import SessionResult, plan_job, run_session
from enclave.identity import Identity, TrustStore
from enclave.messages import (
    Architecture,
    Category,
    ClassTarget,
    DatasetRef,
    Encoding,
    Feature,
    JobSpec,
    NumericFeature,
    PartyRef,
    Signed,
    Target,
)
from enclave.models import Model, dense_architecture
from enclave.workloads import Inputs, Result, finish
from parties import owner
from parties.server import NodeClient, start_everywhere

POLICY = """
[policy]
buyers = ["buyer"]
kinds = ["evaluate", "train"]
outputs = {outputs}
engines = {engines}
minimum_rows = 20
approval = "{approval}"
"""


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def table(rows: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Separable rows: three features in [-2, 2], a class."""
    rng = np.random.default_rng(seed)
    x = np.round(rng.uniform(-2, 2, (rows, 3)), 4)
    return x, (x @ np.array([1.0, -2.0, 0.5]) + 0.3 * rng.standard_normal(rows) > 0).astype(int)


@dataclass
class Fleet:
    """`owners` owners, a dealer and a buyer under `root`."""

    root: Path
    owners: int = 1
    rows: int = 60
    approval: str = "automatic"
    settings: str = ""
    engines: tuple[str, ...] = ("mpc",)
    outputs: tuple[str, ...] = ("accuracy", "auc", "confusion")
    organisations: dict[str, str] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.owner_names = tuple(f"owner{i}" for i in range(self.owners))
        self.node_names = (*self.owner_names, "dealer")
        self.ids = {}
        for name in (*self.node_names, "buyer"):
            role = name.rstrip("0123456789")
            address = "" if role == "buyer" else f"127.0.0.1:{free_port()}"
            self.ids[name] = Identity.create(
                self.root / name, role, name, address, organisation=self.organisations.get(name, "")
            )
            if role != "buyer":
                text = f'listen = "{address}"\nprofile = "development"\nstep_deadline_s = 20\n{self.settings}'
                (self.root / name / "node.toml").write_text(text)
        for name in self.ids:
            trust = TrustStore(self.root / name)
            for other, identity in self.ids.items():
                if other != name:
                    trust.add(identity.card.encoded)
        for i, name in enumerate(self.owner_names):
            self.add_data(name, *table(self.rows, seed=i + 1))

    def add_data(self, name: str, x: np.ndarray, y: np.ndarray, *, replace_it: bool = False) -> None:
        """Registers the rows as data set "points" of one owner."""
        folder = self.root / f"{name}-data"
        folder.mkdir(exist_ok=True)
        lines = ["a,b,c,y", *(",".join(map(str, [*row, "no yes".split()[k]])) for row, k in zip(x, y, strict=True))]
        (folder / "points.csv").write_text("\n".join(lines) + "\n")
        columns = "".join(f"[columns.{c}]\ntype = 'number'\nlow = -2\nhigh = 2\n" for c in "abc")
        columns += "[columns.y]\nvalues = ['no', 'yes']\n"
        policy = POLICY.format(
            approval=self.approval, outputs=json.dumps(self.outputs), engines=json.dumps(self.engines)
        )
        text = f"[dataset]\nname = 'points'\npath = 'points.csv'\n{columns}{policy}"
        (folder / "points.toml").write_text(text)
        owner.add(self.root / name, folder / "points.toml", replace=replace_it)

    # ---- nodes as processes
    def up(self, *names: str) -> Fleet:
        """Starts nodes (all, unless named) as processes and waits until they serve."""
        for name in names or self.node_names:
            role = name.rstrip("0123456789")
            home = str(self.root / name)
            code = f"from pathlib import Path; from parties import {role}; {role}.serve(Path({home!r})).run()"
            log = open(self.root / f"{name}.out", "ab")
            environment = {k: v for k, v in os.environ.items() if k != "GRPC_SSL_CIPHER_SUITES"}
            environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-c", code], stderr=log, stdout=log, env=environment
            )
            log.close()
        for name in names or self.node_names:
            self.await_up(name)
        return self

    def await_up(self, name: str, within_s: float = 30.0) -> None:
        """Waits until the node answers."""
        end_s = time.monotonic() + within_s
        while True:
            try:
                with self.client(name) as client:
                    client.describe()
                return
            except Exception:
                if time.monotonic() > end_s or self.processes[name].poll() is not None:
                    print((self.root / f"{name}.out").read_text())
                    raise
                time.sleep(0.1)

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Sends a signal to a node and waits for its end."""
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(30)

    def down(self) -> None:
        """Ends all nodes."""
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(10)
        self.processes.clear()

    # ---- the buyer
    def client(self, name: str, caller: str = "buyer", **kwargs: float) -> NodeClient:
        """A connection of `caller` to the node called `name`."""
        return NodeClient(self.ids[caller], self.ids[name].card, **kwargs)

    def clients(self) -> list[NodeClient]:
        """The buyer's connections to all nodes."""
        return [self.client(name) for name in self.node_names]

    def model(self) -> Model:
        """A linear classifier for the table."""
        architecture = self.architecture()
        weight, bias = architecture.parameters
        values = np.array([[-1.0, 1.0], [2.0, -2.0], [-0.5, 0.5]])
        return Model(architecture, {weight.name: values, bias.name: np.zeros(2)})

    def architecture(self) -> Architecture:
        """Three features, two scores."""
        return dense_architecture(3, (), 2)

    def spec(self, **changes: object) -> JobSpec:
        """An evaluation over all owners with its plan's digest."""
        now = int(time.time())
        infos = {}
        for name in self.owner_names:
            ref = owner.datasets(self.root / name)[0]
            infos[name] = DatasetRef(name, ref.name, ref.version, ref.rows)
        numeric = NumericFeature(low=-2.0, high=2.0)
        classes = ClassTarget((Category(("no",)), Category(("yes",))))
        spec = JobSpec(
            job_id=secrets.token_hex(16),
            kind="evaluate",
            created_unix_s=now,
            expires_unix_s=now + 600,
            parties=tuple(self.party(n) for n in (*self.owner_names, "buyer", "dealer")),
            datasets=tuple(infos.values()),
            encoding=Encoding(tuple(Feature(c, numeric) for c in "abc"), Target("y", classes=classes)),
            architecture=self.architecture(),
            outputs=("accuracy",),
        )
        spec = replace(spec, **changes)
        return spec if "plan_digest" in changes else replace(spec, plan_digest=plan_job(spec).digest)

    def party(self, name: str) -> PartyRef:
        """A party as a job names it."""
        identity = self.ids[name]
        return PartyRef(name, identity.role, identity.key_id, identity.card.address, identity.card.organisation)

    def sign(self, spec: JobSpec) -> Signed:
        """The buyer's signature."""
        return self.ids["buyer"].sign("job", spec.encode())

    def run(self, spec: JobSpec, **kwargs: object) -> tuple[SessionResult, Result]:
        """Proposes, starts and runs a job as its buyer."""
        signed, clients = self.sign(spec), self.clients()
        try:
            for client in clients:
                decision = client.propose(signed)
                assert decision.state == "ADMITTED", decision
            return self.join(signed, spec, clients, **kwargs)
        finally:
            for client in clients:
                client.close()

    def join(
        self, signed: Signed, spec: JobSpec, clients: list[NodeClient], **kwargs: object
    ) -> tuple[SessionResult, Result]:
        """Starts an admitted job and runs the buyer's rank."""
        start_everywhere(clients, spec)
        by_key = {client.card.key_id: client for client in clients}
        result = run_session(
            signed,
            identity=self.ids["buyer"],
            trust=TrustStore(self.root / "buyer"),
            inputs=Inputs(model=self.model()),
            locate=lambda rank: by_key[spec.parties[rank].key_id].locate(spec.job_id),
            **{"gate": lambda sealing: sealing.outputs, **kwargs},  # type: ignore[arg-type]
        )
        assert result.opened is not None
        return result, finish(spec, result.opened)

    def expected(self) -> float:
        """The model's accuracy in plaintext."""
        x, y = (
            np.concatenate(parts) for parts in zip(*(table(self.rows, i + 1) for i in range(self.owners)), strict=True)
        )
        weights = list(self.model().weights.values())
        return float(np.mean((x @ weights[0] + weights[1]).argmax(1) == y))

"""The workers of the benchmark's peers. Where their environment is missing, only what needs none is tested.

The environment is that of $ENCLAVE_PEERS_PYTHON or of `python -m benchmarks.peers install`.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import os
import socket
import struct
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import networks
from benchmarks.mpc import cases, workers
from benchmarks.mpc.exact import bound, error_of, exact
from benchmarks.mpc.inputs import make_inputs
from benchmarks.peers import __main__, environment, network, stub, task
from benchmarks.peers.fleet import summary
from benchmarks.peers.task import Seat, Task

ROOT = Path(__file__).parent.parent
PYTHON = Path(os.environ.get("ENCLAVE_PEERS_PYTHON") or environment.DEFAULT / "bin" / "python")
ASKED: dict[str, Any] = {
    "system": "crypten-ttp",
    "kind": "relu",
    "parameters": {"n": 3},
    "parties": 2,
    "profile": "loopback",
    "ports": [40001, 40002],
    "inputs": "in.npz",
    "outputs": "out.npz",
}


# ---- what a worker is asked for


def test_a_task_survives_being_handed_to_a_process() -> None:
    asked = Task.parse(json.dumps(ASKED))
    assert asked == Task(**{**ASKED, "ports": (40001, 40002)})
    seat = Seat(asked, 1, 7, "/tmp/x", "lo", ("127.0.0.1", "127.0.0.1"), -1)
    assert Seat.parse(seat.to_json()) == seat


def test_what_a_task_says_beside_its_fields_is_ignored() -> None:
    assert Task.parse(json.dumps({**ASKED, "repetitions": 3})) == Task.parse(json.dumps(ASKED))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"system": "crypten"}, "expected a system of"),
        ({"kind": "sort"}, "expected a kind of"),
        ({"profile": "moon"}, "expected a profile of"),
        ({"parties": 1}, "2 to 4 parties"),
        ({"parties": 5}, "2 to 4 parties"),
        ({"parties": 3}, "a port for each, found 3, 2"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Task.parse(json.dumps({**ASKED, **change}))


@pytest.mark.parametrize("text", ["[]", "{}", "relu", json.dumps({**ASKED, "ports": None})[:-9]])
def test_what_is_no_task_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Task.parse(text)


@pytest.mark.parametrize("arguments", [[], ["{}"], ["install", "a", "b"], ["one", "two"], ["-h"]])
def test_wrong_arguments_say_how_it_is_used(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(arguments) == 2
    assert "usage" in capsys.readouterr().err


def test_a_missing_environment_is_said_in_the_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(environment, "DEFAULT", tmp_path)
    assert __main__.main([json.dumps(ASKED)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert list(said) == ["unavailable"]
    assert "install makes it" in said["unavailable"]


def test_each_system_runs_in_its_own_environment(tmp_path: Path) -> None:
    for peer in ("crypten", "spu"):
        (tmp_path / peer / "bin").mkdir(parents=True)
        (tmp_path / peer / "bin" / "python").touch()
    found = {system: environment.python_of(system, tmp_path).relative_to(tmp_path).parts[0] for system in task.SYSTEMS}
    assert found == {"crypten-ttp": "crypten", "crypten-tfp": "crypten", "spu-semi2k": "spu"}
    assert all("==" in package for packages in environment.PACKAGES.values() for package in packages)


def test_an_environment_that_spu_has_no_build_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    with pytest.raises(RuntimeError, match=r"expected Python 3\.11"):
        environment.install(tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- the same cases as the suite's


def test_every_case_of_the_suite_is_there() -> None:
    assert {cases.Case.parse(name).kind for name in cases.LISTED} == set(task.KINDS)
    assert task.ELEMENTWISE == cases.ELEMENTWISE
    assert task.SYSTEMS == workers.PEERS
    assert {kind: cases.learning_rate(kind) for kind in task.RATES} == task.RATES


def test_the_networks_are_those_of_the_suite() -> None:
    assert set(task.PROFILES) == set(networks.PROFILES)
    for name, profile in network.PROFILES.items():
        wanted = networks.PROFILES[name]
        assert (profile.latency_s, profile.bandwidth_bps) == (wanted.latency_s, wanted.bandwidth_bps)


@pytest.mark.parametrize("module", ["crypten_kinds", "spu_kinds"])
def test_every_kind_has_a_function_in_each_peer(module: str) -> None:
    source = (ROOT / "benchmarks" / "peers" / f"{module}.py").read_text()
    texts = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    assert [kind for kind in task.KINDS if kind not in texts and kind not in task.ELEMENTWISE] == []


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "peers").glob("*.py")), ids=lambda path: str(path.stem))
def test_what_runs_in_the_peers_environment_imports_nothing_of_the_project(path: Path) -> None:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names.append(str(node.module))
    assert [name for name in names if name.split(".")[0] in ("enclave", "parties")] == []
    assert [name for name in names if name.startswith("benchmarks") and "benchmarks.peers" not in name] == []


# ---- CrypTen's import


def test_the_stub_gives_crypten_the_name_that_it_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, stub.REGISTRATION, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert stub.install()
    assert sys.modules[stub.REGISTRATION].registry is None
    assert not stub.install()
    monkeypatch.delitem(sys.modules, stub.REGISTRATION)


def test_a_torch_that_has_the_module_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, stub.REGISTRATION, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: types.SimpleNamespace(name=name))
    assert not stub.install()
    assert stub.REGISTRATION not in sys.modules


# ---- figures


def test_crypten_counts_both_directions_and_the_dealer_at_rank_0() -> None:
    figures = [
        {"wall_s": 0.2, "cpu_s": 0.1, "rounds": 36, "bytes": 1400},
        {"wall_s": 0.3, "cpu_s": 0.05, "rounds": 9, "bytes": 1000},
    ]
    assert summary(figures, [0.02], [5, 7, 6], "crypten-ttp") == {
        "wall_s": 0.3,
        "cpu_s": [0.1, 0.05, 0.02],
        "peak_rss_bytes": 7,
        "rounds": 36,
        "sent_bytes": 500,
        "received_bytes": 500,
        "dealer_bytes": 400,
    }


def test_spu_counts_each_direction() -> None:
    rank = {"wall_s": 0.2, "cpu_s": 0.1, "rounds": 8, "sent_bytes": 10, "received_bytes": 30}
    found = summary([rank, {**rank, "sent_bytes": 20}], [], [1, 1], "spu-semi2k")
    assert (found["rounds"], found["sent_bytes"], found["received_bytes"], found["dealer_bytes"]) == (8, 20, 30, 0)


def test_what_a_peer_does_not_count_is_left_out() -> None:
    assert set(summary([{"wall_s": 1.0, "cpu_s": 1.0}] * 2, [], [1, 1], "spu-semi2k")) == {
        "wall_s",
        "cpu_s",
        "peak_rss_bytes",
    }


# ---- the network


def test_addresses_of_a_shaped_network_are_no_ones_else() -> None:
    assert network.addresses("loopback", 2) == ("127.0.0.1", "127.0.0.1")
    assert network.addresses("wan", 3) == ("198.18.0.1", "198.18.0.2", "198.18.0.3")


def test_a_process_that_cannot_enter_says_why() -> None:
    wires = network.Wires("lan")
    with wires.plug(0) as theirs:
        theirs.sendall(b"no such right")
    with pytest.raises(OSError, match="no such right"):
        wires.start()
    wires.close()


def test_a_packet_takes_its_latency_and_its_time_on_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets stand for the devices: rank 0 sends two packets to rank 1, the second while the first leaves."""
    monkeypatch.setitem(network.PROFILES, "lan", network.Profile(latency_s=0.03, bandwidth_bps=8 * 1000 / 0.05))
    wires = network.Wires("lan")
    devices = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    with devices[0][0] as sender, devices[1][0] as receiver:
        for rank, (_, inside) in enumerate(devices):
            plug = wires.plug(rank)
            socket.send_fds(plug, [b"x"], [inside.fileno()])
            for one in (plug, inside):
                one.close()
        wires.start()
        start_s = time.monotonic()
        for i in range(2):
            sender.send(struct.pack("16s4s979xB", b"", bytes([198, 18, 0, 2]), i))
            sender.send(bytes(20))  # to nobody
        arrived = []
        for _ in range(2):
            arrived.append((receiver.recv(2000)[-1], time.monotonic() - start_s))
        wires.close()
    assert [number for number, _ in arrived] == [0, 1]
    assert arrived[0][1] >= 0.08
    assert arrived[1][1] >= 0.13


# ---- with the environment

needs_peers = pytest.mark.skipif(not PYTHON.exists(), reason="python -m benchmarks.peers install was not run")


@pytest.fixture
def peers_python(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ENCLAVE_PEERS_PYTHON", str(PYTHON))
    yield


@needs_peers
@pytest.mark.usefixtures("peers_python")
@pytest.mark.parametrize(
    ("system", "name", "rounds", "sent_bytes"),
    [
        ("crypten-ttp", "relu/n=5", 36, 5 * 232),
        ("crypten-tfp", "relu/n=5", 9, 5 * 232),
        ("spu-semi2k", "relu/n=5", 8, 5 * 72),
        ("crypten-tfp", "mlp-train/batch=2", 157, None),
        ("spu-semi2k", "lenet-inference/batch=1", None, None),
        ("crypten-ttp", "argmax/rows=2/cols=3/parties=3", None, None),
    ],
)
def test_a_peer_computes_the_case(
    system: str, name: str, rounds: int | None, sent_bytes: int | None, tmp_path: Path
) -> None:
    case = cases.Case.parse(name)
    inputs = make_inputs(case)
    np.savez(tmp_path / "inputs.npz", **inputs)  # type: ignore[arg-type]
    fields = {field.name: None for field in dataclasses.fields(workers.Task)}
    known = {"system": system, "case": case, "profile": "loopback", "folder": tmp_path, "repetitions": 2}
    with workers.Worker(workers.Task(**{**fields, **known})) as worker:
        assert worker.versions
        found = [worker.run() for _ in range(2)]
        outputs = worker.stop()
    assert rounds in (None, found[1]["rounds"])
    assert sent_bytes in (None, found[1]["sent_bytes"])
    assert (found[1]["dealer_bytes"] > 0) == (system == "crypten-ttp")
    assert len(found[1]["cpu_s"]) == case.parties + (system == "crypten-ttp")
    wanted = exact(case, inputs)
    assert error_of(case, outputs, wanted) <= bound(case, system, inputs, wanted)


@needs_peers
def test_the_peers_are_stock() -> None:
    for system, code in (
        ("crypten-ttp", "import importlib.metadata as m; print(m.version('crypten'), m.version('torch'))"),
        ("spu-semi2k", "import importlib.metadata as m; print(m.version('spu'), m.version('jax'))"),
    ):
        python = environment.python_of(system, PYTHON.parent.parent)
        said = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout
        assert said.split()[0] in ("0.4.1", "0.9.5")
        assert said.split()[1].startswith(("2.13.0", "0.4.34"))

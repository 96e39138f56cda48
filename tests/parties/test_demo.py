"""The demonstration as a stranger runs it: real processes, and none of them left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from enclave.errors import BadInput, SessionError
from enclave.identity import Identity
from parties.config import write_default
from parties.demo import Figure, Job, run_demo
from parties.demo.data import OWNERS, load_split
from parties.demo.nodes import free_port, running_nodes

ROOT = Path(__file__).resolve().parents[2]


def _demo(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "parties.cli", "demo", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def _processes_in(folder: Path) -> list[str]:
    """Command lines of processes that name `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and int(entry.parent.name) != os.getpid():
            found.append(line)
    return found


def test_the_demonstration_agrees_with_plaintext_and_with_its_plan(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with _demo("--keep", str(folder), "--json") as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    outcome = json.loads(out)
    assert outcome["ok"] is True and outcome["folder"] == str(folder)
    evaluations, trainings = outcome["jobs"][:4], outcome["jobs"][4:]
    assert [job["engine"] for job in evaluations] == ["mpc", "hybrid", "he", "he"]
    assert [job["engine"] for job in trainings] == ["mpc", "hybrid", "he"]
    assert [job["dealer"] for job in outcome["jobs"]] == ["dealer", "dealer", None, "dealer", "dealer", "dealer", None]
    for job in outcome["jobs"]:
        assert job["measured"] == job["planned"] and job["planned"]["rounds"] > 0
        assert job["receipt"]["failed"] == [] and job["receipt"]["checks"] > 50
        assert Path(job["report"]["path"]).read_text().startswith("<!doctype html>")
        assert job["report"]["verdict"].startswith("Nothing undeclared was found")
        for hidden in job["hiding"]:
            assert hidden["bits"] is None or hidden["bits"] >= 40
    for job in evaluations:
        for figure in job["figures"]:
            bound = {"auc": 0.003, "mean_score": 1e-5}.get(figure["name"], 1e-9)
            assert abs(figure["encrypted"] - figure["plaintext"]) <= bound, (job["engine"], figure)
    assert len({f["encrypted"] for job in evaluations for f in job["figures"] if f["name"] == "accuracy"}) == 1
    for job in trainings:
        for figure in job["figures"]:
            assert abs(figure["encrypted"] - figure["plaintext"]) <= 0.01, (job["engine"], figure)
    assert evaluations[2]["hiding"] and trainings[2]["hiding"] and not trainings[0]["hiding"]
    assert {v["party"] for v in trainings[0]["views"]} >= {*OWNERS, "lab", "dealer"}
    assert "dealer" not in {v["party"] for v in trainings[2]["views"]}
    assert _processes_in(folder) == []
    assert err.startswith(f"Everything is kept in {folder}\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demonstration_that_is_stopped_stops_its_nodes(tmp_path: Path, number: int) -> None:
    folder = tmp_path / "demo"
    with _demo("--keep", str(folder)) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "listens on" in line:
                break
        assert len(_processes_in(folder)) >= 4
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    end_s = time.monotonic() + 10  # a worker ends when its node's pipe closes
    while _processes_in(folder) and time.monotonic() < end_s:
        time.sleep(0.1)
    assert _processes_in(folder) == []


def test_a_used_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "something").write_text("mine")
    with pytest.raises(BadInput, match="is not empty"):
        run_demo(tmp_path, say=print, report=lambda *_: None, job_done=print)
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


def test_a_node_that_does_not_start_is_named_and_the_others_stop(tmp_path: Path) -> None:
    homes = {}
    port = free_port()
    for name in ("one", "two"):
        Identity.create(tmp_path / name, "dealer", name, f"127.0.0.1:{port}")
        write_default(tmp_path / name, listen=f"127.0.0.1:{port}")
        homes[name] = ("dealer", tmp_path / name)
    with pytest.raises(SessionError, match=r"the node of (one|two) did not start: "), running_nodes(homes):
        raise AssertionError("both serve on one port")
    assert _processes_in(tmp_path) == []


def test_the_split_covers_the_data_once() -> None:
    split = load_split()
    sizes = [len(classes) for _, classes in split.owners.values()]
    assert len(split.buyer[1]) + sum(sizes) == 569 and max(sizes) - min(sizes) <= 1
    rows = {tuple(row) for features, _ in (split.buyer, *split.owners.values()) for row in features}
    assert len(rows) == 569
    for i, (low, high) in enumerate(split.ranges):
        assert all(low <= row[i] <= high for row in rows)


def test_a_job_is_in_order_only_if_all_of_it_is(tmp_path: Path) -> None:
    from parties.buyer import Cost

    cost, other = Cost(2, {("a", "b"): 8}), Cost(2, {("a", "b"): 9})

    def done(measured: Cost, failed: tuple[str, ...] = ()) -> Job:
        figures = (Figure("x", 1.0, 1.0),)
        return Job(
            "t", "mpc", "d", False, "0" * 32, figures, cost, measured, 1.0, (), 3, failed, tmp_path, tmp_path, "v"
        )

    assert done(cost).ok
    assert not done(other).ok
    assert not done(cost, ("x: failed",)).ok

"""The suites mpc and floor on tiny cases: names, inputs, the truth, workers that misbehave, a run of processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.command import main
from benchmarks.comparison import compare, table
from benchmarks.floor import suite as floor
from benchmarks.measurement import Measurement, append, read
from benchmarks.mpc import workers
from benchmarks.mpc.cases import LISTED, Case
from benchmarks.mpc.exact import bound, error_of, exact
from benchmarks.mpc.inputs import make_inputs
from benchmarks.mpc.plain import torch_outputs
from benchmarks.mpc.programs import FRAC_BITS, ring_inputs
from benchmarks.mpc.repetitions import Repetitions, plan_of
from benchmarks.mpc.work import floor_s, work_of
from benchmarks.mpc.workers import Task, Worker, WorkerFailed
from benchmarks.report import render
from benchmarks.suite import Unavailable, suites
from enclave.engines.mpc.protocols.softmax import RATIO_BITS
from enclave.engines.mpc.ranks import DealerSession, PartySession
from tests.enclave.engines.mpc.ahead_room import everyone

TINY = (
    *(f"{kind}/n=40" for kind in ("relu", "sigmoid", "tanh", "log", "reciprocal", "rsqrt", "mul", "exp", "gelu")),
    *(f"{kind}/rows=6/cols=5" for kind in ("softmax", "argmax", "max")),
    "matmul/3x4x5",
    "mlp-inference/batch=2",
    "mlp-train/batch=4",
    "lr-step/batch=8",
    "lr-breast-cancer/steps=1",
    "lenet-inference/batch=1",
)


# ---- names and inputs


@pytest.mark.parametrize("text", [*LISTED, "relu/n=7/parties=4", "matmul/1x2x3/parties=3"])
def test_a_name_survives_parsing(text: str) -> None:
    assert str(Case.parse(text)) == text
    assert suites()["mpc"].exists(text)


def test_two_parties_are_the_default() -> None:
    assert Case.parse("relu/n=5") == Case("relu", {"n": 5}, 2)
    assert str(Case.parse("matmul/2x3x4")) == "matmul/2x3x4/parties=2"


@pytest.mark.parametrize(
    "text",
    ["", "relu", "relu/n=0", "relu/n=1/n=2", "relu/m=3", "relu/n=1/parties=5", "relu/n=1/parties=1", "matmul",
     "matmul/3x4", "matmul/3x4x5/n=2", "softmax/rows=3", "cosh/n=3", "relu/n=-1", "lr-step/steps=3"],
)  # fmt: skip
def test_a_wrong_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|takes|needs"):
        Case.parse(text)
    assert not suites()["mpc"].exists(text)


@pytest.mark.parametrize("text", TINY)
def test_inputs_are_the_same_every_time_and_on_the_grid(text: str) -> None:
    case = Case.parse(text)
    first, second = make_inputs(case), make_inputs(case)
    assert list(first) == list(second) and all(np.array_equal(first[name], second[name]) for name in first)
    assert make_inputs(Case(case.kind, case.parameters, 4)).keys() == first.keys()
    for array in first.values():
        assert array.dtype == np.float64 and np.all(np.rint(array * 2**16) == array * 2**16)


def test_rows_have_no_ties() -> None:
    x = make_inputs(Case.parse("argmax/rows=300/cols=60"))["x"]
    assert all(len(set(row)) == 60 for row in x)


# ---- what is right


@pytest.mark.parametrize("text", [t for t in TINY if "/n=" in t or "rows" in t or "matmul" in t])
def test_torch_agrees_with_the_formulas(text: str) -> None:
    case = Case.parse(text)
    inputs = make_inputs(case)
    assert error_of(case, torch_outputs(case, inputs)(), exact(case, inputs)) <= bound(case, "plain", inputs, {})


def test_torch_takes_the_step_that_calculus_takes() -> None:
    case = Case.parse("lr-step/batch=6")
    t = make_inputs(case)
    p = 1 / (1 + np.exp(-(t["x"] @ t["w"] + t["b"])))
    wanted = t["w"] - 0.125 * t["x"].T @ (p - t["y"][:, None]) / 6
    assert np.abs(exact(case, t)["w"] - wanted).max() < 1e-12


def test_a_training_that_does_nothing_fails_its_line() -> None:
    case = Case.parse("mlp-train/batch=8")
    inputs = make_inputs(case)
    wanted = exact(case, inputs)
    idle = {name: inputs[name] for name in wanted}
    for system in ("enclave", "crypten-ttp", "plain"):
        assert error_of(case, idle, wanted) > bound(case, system, inputs, wanted) > 0


def test_errors_are_relative_above_one_and_argmax_counts_rows() -> None:
    case = Case.parse("mul/n=3")
    wanted = {"y": np.array([100.0, 0.0, 1.0])}
    assert error_of(case, {"y": np.array([101.0, 0.0, 1.0])}, wanted) == pytest.approx(0.01)
    assert error_of(case, {"y": np.array([100.0, np.nan, 1.0])}, wanted) > 1e100
    hot = np.eye(3)
    assert error_of(Case.parse("argmax/rows=3/cols=3"), {"y": hot[[0, 2, 1]]}, {"y": hot}) == 2.0


@pytest.mark.parametrize("found", [{}, {"y": np.zeros(4)}, {"z": np.zeros(3)}])
def test_outputs_of_another_shape_or_name_are_refused(found: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        error_of(Case.parse("relu/n=3"), found, {"y": np.zeros(3)})


# ---- the programs


def outputs_of(case: Case, repetitions: int) -> dict[str, Any]:
    """A session of threads; the opened outputs of the last repetition. Fails when a rank leaves the plan."""
    inputs = make_inputs(case)
    rings = ring_inputs(case, inputs)
    plan = plan_of(case, repetitions)
    generator = np.random.default_rng(0)
    noise = {name: generator.integers(0, 1 << 63, one.shape, np.uint64) for name, one in rings.items()}

    def rank(channel: Any) -> dict[str, Any]:
        shares: dict[str, Any] | None = {name: np.zeros(one.shape, np.uint64) for name, one in rings.items()}
        session: Any
        if channel.rank == case.parties:
            session, shares = DealerSession(channel, case.parties, plan.digest), None
        else:
            session = PartySession(channel, case.parties, plan.digest)
            if channel.rank < 2:
                shares = {
                    name: one.words - noise[name] if channel.rank == 0 else noise[name] for name, one in rings.items()
                }
        turns = Repetitions(session, case, rings, shares)
        turns.run_all(repetitions)
        assert session.digest == plan.digest
        assert session.rounds == plan.rounds
        if shares is None:
            return {}
        return {name: (value.share, value.frac_bits) for name, value in turns.outputs.items()}

    found = everyone([*(f"p{r}" for r in range(case.parties)), "dealer"], rank)[:-1]
    opened = {}
    for name, (_, bits) in found[0].items():
        assert bits in (0, FRAC_BITS, RATIO_BITS)  # a softmax is not truncated
        opened[name] = sum(one[name][0] for one in found).view(np.int64) / float(1 << bits)
    return opened


@pytest.mark.parametrize("text", TINY)
def test_our_programs_compute_the_case(text: str) -> None:
    """Also in the second repetition, which uses what the first has opened."""
    case = Case.parse(text)
    inputs = make_inputs(case)
    wanted = exact(case, inputs)
    assert error_of(case, outputs_of(case, 2), wanted) <= bound(case, "enclave", inputs, wanted)


@pytest.mark.parametrize("parties", [3, 4])
def test_our_programs_work_for_more_parties(parties: int) -> None:
    case = Case("mlp-train", {"batch": 4}, parties)
    inputs = make_inputs(case)
    wanted = exact(case, inputs)
    assert error_of(case, outputs_of(case, 1), wanted) <= bound(case, "enclave", inputs, wanted)


def test_a_warm_up_keeps_the_model_but_not_the_batch() -> None:
    case = Case.parse("mlp-inference/batch=3")
    first, both = plan_of(case, 1), plan_of(case, 2)
    saved = 2 * first.sent_bytes(0) - both.sent_bytes(0)
    assert saved == 8 * (784 * 128 + 128 * 128 + 128 * 10)
    relu = Case.parse("relu/n=100")
    assert plan_of(relu, 2).sent_bytes(0) == 2 * plan_of(relu, 1).sent_bytes(0)


def test_the_work_of_a_case() -> None:
    found = work_of(Case.parse("matmul/3x4x5"))
    assert found["products"] == 2 * 3 * 4 * 5
    assert found["link_bytes"] >= 8 * (3 * 4 + 4 * 5) and found["key_bytes"] >= found["link_bytes"]
    limits = {
        "gemm": {"products_per_s": 1e9, "torch_products_per_s": 2e9},
        "aes": {"bytes_per_s": 1e9, "openssl_bytes_per_s": 5e8},
        "tcp": {"bytes_per_s": 1e9, "round_trip_s": 2e-5},
    }
    parts = floor_s({"rounds": 3, "products": 2e9, "link_bytes": 1e9, "key_bytes": 1e8}, limits, 0.04, 1e9)
    assert parts["products"] == 1.0 and parts["wire"] == 8.0 and parts["key stream"] == pytest.approx(0.1)
    assert parts["floor"] == pytest.approx(8.0 + 3 * 0.02001)


# ---- workers


def fake(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Makes every worker run `script`, which sees its task as `task`."""
    head = "import json, sys\ntask = json.loads(sys.argv[1])\nsay = lambda **f: print(json.dumps(f), flush=True)\n"
    monkeypatch.setattr(Task, "command", lambda self: [sys.executable, "-c", head + script, self.to_json()])


def task(folder: Path) -> Task:
    return Task("plain", Case.parse("relu/n=3"), "loopback", folder, 2)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("sys.exit('no luck')", "no luck"),
        ("print('hello', flush=True)", "expected a JSON object"),
        ("say(ready=True)\nsys.exit('gone')", "gone"),
        ("say(ready=True)\ninput()\nprint([], flush=True)", "expected a JSON object"),
        ("say(ready=True)\ninput()\nsay(wall_s=1, cpu_s=[1])\ninput()", "status 0"),
        ("say(ready=True)\ninput()\nsay(wall_s=1, cpu_s=[1])\ninput()\nsys.exit(3)", "status 3"),
        ("say(ready=True)\ninput()\nimport time\ntime.sleep(60)", "said nothing"),
    ],
)
def test_a_worker_that_fails_says_why(script: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, script)
    with pytest.raises(WorkerFailed, match=error), Worker(task(tmp_path), limit_s=2.0) as worker:
        worker.greet()
        worker.run()
        worker.stop()


def test_a_missing_environment_of_the_peers_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCLAVE_PEERS_PYTHON", str(tmp_path / "python"))
    out = tmp_path / "out.jsonl"
    arguments = ["run", "--suite", "mpc", "--cases", "relu/n=3", "--systems", "crypten-ttp,plain", "--out", str(out)]
    assert main(arguments) == 1
    peer, plain = read(out)
    assert "make bench-peers" in (peer.error or "") and plain.error is None


def test_a_wrong_result_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = "import numpy\nsay(ready=True)\nfor line in sys.stdin:\n    if line == 'stop\\n':\n"
    wrong += "        numpy.savez(task['outputs'], y=numpy.full(3, 99.0))\n        break\n"
    wrong += "    say(wall_s=0.5, cpu_s=[0.1, 0.2], rounds=4)\n"
    fake(monkeypatch, wrong)
    out = tmp_path / "out.jsonl"
    arguments = ["run", "--suite", "mpc", "--cases", "relu/n=3", "--systems", "spu-semi2k", "--out", str(out)]
    assert main(arguments) == 1
    (line,) = read(out)
    assert "wrong" in (line.error or "") and line.median_s is None and line.max_error is not None


def test_a_worker_without_the_case_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "say(unavailable='no gelu')")
    with pytest.raises(Unavailable, match="no gelu"), Worker(task(tmp_path)) as worker:
        worker.greet()


# ---- whole runs


def lines_of(out: Path, arguments: Sequence[str]) -> list[Measurement]:
    assert main(["run", *arguments, "--out", str(out)]) == 0
    return list(read(out))


def test_a_run_of_real_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours over mutual TLS with its dealer, ours dealt ahead, and plaintext: the lines, the table and the page."""
    out = tmp_path / "out.jsonl"
    systems = ["--systems", "enclave,enclave-online,plain,plan", "--repeat", "2"]
    promised, own, online, plain = lines_of(out, ["--suite", "mpc", "--cases", "relu/n=300", *systems])
    plan = [plan_of(Case.parse("relu/n=300"), count) for count in (1, 2)]
    assert own.case == "relu/n=300/parties=2" and own.repeats == 2
    assert (promised.rounds, promised.sent_bytes, promised.received_bytes, promised.dealer_bytes) == (
        own.rounds, own.sent_bytes, own.received_bytes, own.dealer_bytes,
    )  # fmt: skip
    assert own.rounds == plan[1].rounds - plan[0].rounds
    assert own.sent_bytes == plan[0].sent_bytes(0) and own.dealer_bytes == plan[0].dealer_bytes > 0
    assert own.received_bytes == own.sent_bytes + own.dealer_bytes
    assert online.dealer_bytes == 0 and online.received_bytes == online.sent_bytes == own.sent_bytes
    assert own.cpu_s is not None and len(own.cpu_s) == 3 and min(own.cpu_s) > 0
    assert own.max_error is not None and own.max_error < 1e-5
    assert own.figures is not None and own.figures["rounds"] == own.rounds
    assert plain.rounds is None and plain.median_s is not None and plain.median_s > 0
    capsys.readouterr()
    assert main(["compare", str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[3]["times_plain"] == 1.0 and rows[2]["times_enclave"] > 0 and "times_enclave" not in rows[1]
    page = tmp_path / "page.html"
    assert main(["report", str(out), "-o", str(page)]) == 0
    text = page.read_text()
    assert "relu/n=300" in text and "<svg" in text and "http://" not in text.replace("http://www.w3.org", "")


def test_a_slow_network_costs_a_latency_a_round(tmp_path: Path) -> None:
    (own,) = lines_of(
        tmp_path / "out.jsonl",
        ["--suite", "mpc", "--cases", "mul/n=3", "--systems", "enclave", "--profile", "wan"],
    )
    assert own.profile == "wan" and own.rounds is not None and own.median_s is not None
    assert own.rounds * 0.02 <= own.median_s < own.rounds * 0.02 + 0.5


@pytest.mark.parametrize("name", ["aes", "copy"])
def test_a_limit_of_the_machine(name: str, tmp_path: Path) -> None:
    (line,) = lines_of(tmp_path / "out.jsonl", ["--suite", "floor", "--cases", name])
    assert line.system == "machine" and line.figures is not None and line.figures["bytes_per_s"] > 1e6


def test_sockets_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.floor import sockets

    monkeypatch.setattr(sockets, "_ROUND_TRIPS", 8)
    monkeypatch.setattr(sockets, "_BLOCKS", 8)
    for tls in (False, True):
        found = sockets.measure_sockets(tls=tls, repeat=1)
        assert 0 < found["round_trip_s"] < 1 and found["bytes_per_s"] > 1e5 and found["cpu_s_per_gb"] > 0


def test_every_limit_is_listed() -> None:
    assert [name for name, _ in floor.FloorSuite().listed()] == [
        "aes", "copy", "gemm", "tcp", "tls", "channel", "channel-socket",
    ]  # fmt: skip


# ---- comparison and page


def made_up_lines() -> list[Measurement]:
    work = {"rounds": 4.0, "link_bytes": 1e6, "key_bytes": 1e6, "products": 0.0}
    lines = []
    for n in (1000, 10000):
        case = f"relu/n={n}/parties=2"
        for system, seconds in (("enclave", n * 1e-6), ("crypten-ttp", n * 1e-5), ("plain", n * 1e-8)):
            for profile in ("loopback", "wan"):
                lines.append(
                    Measurement(
                        "mpc", case, system, profile, median_s=seconds, p10_s=seconds, p90_s=seconds, rounds=4,
                        sent_bytes=n, dealer_bytes=n, cpu_s=[seconds, seconds], max_error=0.0,
                        figures=work if system == "enclave" else None, versions={"<b>": "&"},
                    )
                )  # fmt: skip
    limits = {
        "aes": {"bytes_per_s": 1e9, "openssl_bytes_per_s": 1e9},
        "tcp": {"bytes_per_s": 1e9, "round_trip_s": 1e-5},
    }
    limits["gemm"] = {"products_per_s": 1e9, "torch_products_per_s": 1e9}
    lines += [Measurement("floor", name, "machine", figures=figures) for name, figures in limits.items()]
    return [*lines, Measurement("mpc", "gelu/n=3/parties=2", "spu-semi2k", error="<script>no</script>")]


def test_ratios_stay_within_a_network() -> None:
    rows = compare([*made_up_lines(), Measurement("mpc", "relu/n=1000/parties=2", "crypten-ttp", "wan", median_s=3.0)])
    ratio = {(r["case"], r["system"], r["profile"]): r.get("times_enclave") for r in rows}
    assert ratio["relu/n=1000/parties=2", "crypten-ttp", "loopback"] == pytest.approx(10)
    assert ratio["relu/n=1000/parties=2", "crypten-ttp", "wan"] == pytest.approx(3000)
    text = table(rows)
    assert "wan" in text and "gelu/n=3/parties=2 on spu-semi2k failed" in text and "aes: bytes_per_s 1e+09" in text


def test_the_page_has_every_plot_and_escapes_what_it_shows() -> None:
    page = render(made_up_lines())
    for profile in ("loopback", "wan"):
        for plot in ("time", "rounds", "sent", "dealt", "cpu", "relu-2", "floor"):
            assert f'id="plot-{profile}-{plot}"' in page, plot
    assert "<script" not in page and "&lt;script&gt;" in page and "&lt;b&gt;" in page
    assert "crypten-ttp ÷" in page
    with pytest.raises(ValueError, match="found none"):
        render([])


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--suite", "mpc", "--cases", "relu/n=x"],
        ["run", "--suite", "mpc", "--cases", "relu/n=3", "--systems", "abacus"],
        ["run", "--suite", "floor", "--cases", "speed"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--out", str(tmp_path / "out.jsonl")]) == 2
    assert "error:" in capsys.readouterr().err


def test_a_report_of_nothing_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.jsonl"
    append(path, Measurement("jobs", "evaluate/rows=3", "plain"))
    assert main(["report", str(path), "-o", str(tmp_path / "page.html")]) == 2
    assert "expected lines of the suites mpc, he or floor" in capsys.readouterr().err


def test_ports_are_free_and_distinct() -> None:
    assert len(set(workers.free_ports(8))) == 8

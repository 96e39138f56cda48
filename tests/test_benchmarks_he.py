"""The suite he on small cases: names, the truth, whole runs, and peers where they are there."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.command import main
from benchmarks.comparison import compare, table
from benchmarks.he.cases import LISTED, OPERATIONS, Case, systems_of
from benchmarks.he.inputs import make_inputs
from benchmarks.he.plain import exact
from benchmarks.he.suite import HeSuite, Task
from benchmarks.he.truth import Truth, error_of
from benchmarks.measurement import Measurement, read
from benchmarks.peers import environment
from benchmarks.peers.serving import clocked
from benchmarks.report import render
from benchmarks.suite import Unavailable, suites

TINY = (
    "matvec/20x3",
    "scoring/n=300/d=3",
    "rmse/n=50/d=3",
    "hybrid/n=9000/d=20",
    "train/breast-cancer/epochs=1",
)


# ---- names


@pytest.mark.parametrize("text", [*LISTED, *TINY])
def test_a_name_survives_parsing(text: str) -> None:
    assert str(Case.parse(text)) == text
    assert suites()["he"].exists(text)
    assert "enclave" in systems_of(Case.parse(text))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("sort/n=3", "expected a case of"),
        ("matvec", "expected a case of"),
        ("matvec/0x3", "expected matvec/DxM"),
        ("matvec/5000x3", "at most 4096 inputs"),
        ("cnn/lenet", "expected a case of"),
        ("scoring/n=3", "needs d=NUMBER"),
        ("scoring/n=3/d=0", "takes n, d"),
        ("scoring/n=3/d=2/d=3", "takes n, d"),
        ("operation/divide/n=8192", "expected operation/ and one of"),
        ("operation/add/n=4096", "expected n of 8192, 16384"),
        ("train/adult/rows=3", "takes epochs"),
        ("train/iris", "one of breast-cancer, adult"),
    ],
)
def test_a_name_that_makes_no_sense_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Case.parse(text)
    assert not suites()["he"].exists(text)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--cases", "sort/n=3"], "no case of suite he matches 'sort/n=3'"),
        (["--cases", "matvec/20x3", "--systems", "seal"], "suite he has no system 'seal'"),
        (["--profile", "wan"], "suite he takes no --profile"),
    ],
)
def test_what_the_suite_does_not_have_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert main(["run", "--suite", "he", "--out", str(tmp_path / "he.jsonl"), *arguments]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "he.jsonl").exists()


# ---- the truth


@pytest.mark.parametrize("name", [*TINY[:4], *(f"operation/{name}/n=8192" for name in OPERATIONS), "cnn/tutorial"])
def test_float64_is_right_and_anything_else_is_not(name: str) -> None:
    case = Case.parse(name)
    truth, found = Truth(case, None), exact(case, make_inputs(case))()
    line = Measurement("he", name, "enclave")
    assert truth.judged(line, found).max_error == 0.0
    key = next(iter(found))
    with pytest.raises(ValueError, match="wrong: the error is"):
        truth.judged(line, {key: found[key] + 1.0})
    with pytest.raises(ValueError, match="of shape"):
        truth.judged(line, {key: found[key][:-1]})
    with pytest.raises(ValueError, match="expected the outputs"):
        truth.judged(line, {})
    with pytest.raises(ValueError, match="found none"):
        truth.judged(line, {key: np.full_like(found[key], np.nan)})


def test_decisions_are_compared() -> None:
    case = Case.parse("scoring/n=20000/d=3")
    truth, found = Truth(case, None), exact(case, make_inputs(case))()["y"]
    found[np.argmin(np.abs(found))] *= -1
    assert truth.judged(Measurement("he", str(case), "enclave"), {"y": found}).figures == {"equal": 19999 / 20000}


def test_images_that_were_not_computed_do_not_count() -> None:
    case = Case.parse("cnn/tutorial")
    found = exact(case, make_inputs(case))()["y"]
    found[3:] = np.nan
    assert Truth(case, None).judged(Measurement("he", "cnn", "x"), {"y": found}).figures == {"equal": 1.0}
    assert error_of({"y": found}, {"y": np.nan_to_num(found)}) == 0.0


def test_inputs_are_the_same_every_time() -> None:
    one, two = (make_inputs(Case.parse("scoring/n=30/d=3")) for _ in range(2))
    assert all((one[name] == two[name]).all() for name in one)


# ---- runs


def run(tmp_path: Path, cases: str, systems: str) -> list[Measurement]:
    out = tmp_path / "he.jsonl"
    status = main(["run", "--suite", "he", "--cases", cases, "--systems", systems, "--out", str(out)])
    lines = list(read(out))
    assert status == int(any(line.error for line in lines))
    return lines


def test_jobs_and_products_against_float64(tmp_path: Path) -> None:
    lines = {line.case: line for line in run(tmp_path, ",".join(TINY), "enclave") if line.error is None}
    assert set(lines) == set(TINY)
    for line in lines.values():
        assert line.median_s and line.cpu_s and line.median_s == pytest.approx(sum(line.cpu_s), rel=1e-3, abs=1e-6)
        assert line.max_error is not None and line.max_error < 1e-3
        assert line.peak_rss_bytes and line.figures
    scoring = lines["scoring/n=300/d=3"].figures or {}
    assert scoring["equal"] == 1.0 and scoring["hiding_bits"] >= 40
    assert scoring["rows_per_s"] > 0 and scoring["up_bytes"] == lines["scoring/n=300/d=3"].sent_bytes
    hybrid = lines["hybrid/n=9000/d=20"].figures or {}
    assert hybrid["wrong_shares"] == 0 and hybrid["share_error"] < 0.5 and hybrid["fewer_bytes"] > 1
    training = lines["train/breast-cancer/epochs=1"]
    assert training.difference_points == 0.0 and (training.reference_accuracy or 0) > 0.9
    page = render(lines.values())
    assert all(case in page for case in TINY)


def test_stock_tenseal_beside_ours(tmp_path: Path) -> None:
    lines = run(tmp_path, "matvec/20x3,operation/decrypt/n=8192,rmse/n=50/d=3", "enclave,tenseal")
    assert [line.error for line in lines] == [None] * 5, "TenSEAL has no rmse"
    rows = compare(lines)
    stock = next(row for row in rows if row["system"] == "tenseal")
    assert stock["times_enclave"] > 1
    text = table(rows)
    assert "matvec/20x3 on tenseal: wall_s" in text and "x enclave" in text


def test_a_peer_that_is_not_there_gives_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCLAVE_PEERS_PYTHON", str(tmp_path / "bin" / "python"))
    (line,) = run(tmp_path, "matvec/20x3", "openfhe")
    assert line.error is not None and "benchmarks.peers install" in line.error
    assert "failed" in table(compare([line]))


def test_a_data_set_that_is_not_there_gives_a_line(tmp_path: Path) -> None:
    out = tmp_path / "he.jsonl"
    arguments = ["--suite", "he", "--cases", "train/adult", "--data", str(tmp_path), "--out", str(out)]
    assert main(["run", *arguments, "--systems", "enclave"]) == 1
    (line,) = read(out)
    assert line.error is not None and "adult_train.parquet" in line.error


def test_openfhe_on_the_same_parameters(tmp_path: Path) -> None:
    try:
        Task("openfhe", Case.parse("matvec/20x3"), tmp_path, None).command()
    except Unavailable as missing:
        pytest.skip(str(missing))
    lines = run(tmp_path, "matvec/20x3,matvec/5x9,operation/multiply/n=8192", "openfhe")
    assert [line.error for line in lines] == [None] * 3


def test_a_worker_that_fails_gives_a_line_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(self: Task) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('no luck')"]

    settings: Any = type("S", (), {"repeat": 1, "profile": "loopback", "data": None, "say": lambda self, text: None})()
    monkeypatch.setattr(Task, "command", command)
    (line,) = HeSuite().measure("matvec/20x3", ["plain"], settings)
    assert line.error == "the worker ended: no luck"


# ---- pieces


def test_the_clock_gives_the_mean_of_enough_calls() -> None:
    calls: list[int] = []
    found, times = clocked(lambda: calls.append(1) or len(calls), 0.02)
    assert found == len(calls) > 1
    assert times["cpu_s"][0] * len(calls) >= 0.02 and math.isclose(times["cpu_s"][0], times["wall_s"], rel_tol=100)


def test_where_no_openfhe_wheel_loads_the_reason_is_kept(tmp_path: Path) -> None:
    home = tmp_path / "openfhe"
    home.mkdir()
    (home / environment.REASON).write_text("libgomp.so.1 is missing")
    with pytest.raises(FileNotFoundError, match=r"libgomp\.so\.1 is missing"):
        environment.python_of("openfhe", tmp_path)


def test_a_machine_without_a_python_for_openfhe_gets_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment, "_OPENFHE", (("9.9", "openfhe==1"),))
    environment.install(tmp_path, ("openfhe",))
    assert "no wheel of OpenFHE loads here: there is no Python 9.9" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="openfhe does not load on this machine: there is no Python"):
        environment.python_of("openfhe", tmp_path)


def test_a_wheel_that_does_not_load_is_followed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complaints = iter(["", "GLIBC_2.99 not found", "", "", ""])  # a venv, no wheel; a venv, a wheel, it loads
    asked: list[list[str]] = []

    def complaint(command: list[str]) -> str:
        asked.append(command)
        return next(complaints)

    monkeypatch.setattr(environment, "_OPENFHE", (("3.10", "openfhe==2"), ("3.10", "openfhe==1")))
    monkeypatch.setattr(environment, "_interpreters", lambda version: [Path("python3.10")])
    monkeypatch.setattr(environment, "_complaint", complaint)
    environment.install(tmp_path, ("openfhe",))
    assert [command[-2] for command in asked if "pip" in command] == ["openfhe==2", "openfhe==1"]
    assert not (tmp_path / "openfhe" / environment.REASON).exists()


def test_a_line_survives_the_file() -> None:
    line = Measurement("he", "matvec/2x2", "enclave", figures={"product_s": 0.1}, median_s=1.0)
    assert Measurement.from_json(line.to_json()) == line
    assert json.loads(line.to_json())["figures"] == {"product_s": 0.1}

"""The benchmark harness on tiny cases: names, encodings, lines, comparison, and plaintext twins against each other."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.command import main
from benchmarks.comparison import compare, table
from benchmarks.jobs.encodings import classes, encoding_toml, fitted, joint
from benchmarks.jobs.inprocess import run_memory, run_oracle
from benchmarks.jobs.job import Job
from benchmarks.jobs.names import Name
from benchmarks.jobs.plain import run_plain
from benchmarks.jobs.tables import load, made_up, owners_of
from benchmarks.measurement import Measurement, Spread, read
from benchmarks.suite import Unavailable, suites
from enclave.datasets import RowSource
from enclave.messages import Category, Feature, NumericFeature, OneHotFeature
from parties.buyer import Schedule
from parties.buyer.encodings import read_encoding


def job(schedule: Schedule | None, *, rows: int = 90, owners: int = 1) -> Job:
    """A training over made-up rows of four columns, the last third held out."""
    values, encoding, _ = made_up(rows, 4)
    cut = 2 * rows // 3
    held = {f"owner{i}": values.slice(0, cut).take(pa.array(np.arange(i, cut, owners))) for i in range(owners)}
    return Job("train/tiny", held, encoding, schedule=schedule, test=values.slice(cut))


LOGISTIC = Schedule("logistic", epochs=3, batch_rows=16, learning_rate=0.2, momentum=0.9, l2=0.01)


@pytest.mark.parametrize("text", ["evaluate/rows=20/cols=3", "train/heart-lr/owners=4", "evaluate/adult-dice"])
def test_a_name_survives_parsing(text: str) -> None:
    assert str(Name.parse(text)) == text
    assert suites()["jobs"].exists(text)


@pytest.mark.parametrize(
    "text",
    ["", "score/adult-lr", "train/heart-lr/owners", "train/heart-lr/owners=0", "train/heart-lr/owners=1/owners=2",
     "train/rows=9", "evaluate/cols=3", "train/nothing-lr", "evaluate/adult-lr/epochs=2"],
)  # fmt: skip
def test_a_wrong_name_is_no_case(text: str) -> None:
    assert not suites()["jobs"].exists(text)


def test_every_listed_case_exists() -> None:
    for suite in suites().values():
        assert [name for name, _ in suite.listed() if not suite.exists(name)] == []


# ---- encodings


def people() -> pa.Table:
    """Forty rows: numbers with gaps, text with a rare value and gaps."""
    town = ["a"] * 20 + ["b"] * 3 + [None] * 2 + ["c"] * 15
    return pa.table({"age": [None, *map(float, range(1, 40))], "town": town, "y": [0, 1] * 20})


def test_the_encoding_is_that_of_the_references() -> None:
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    values, training = people(), np.arange(30)
    found = RowSource(values, fitted(values, training, classes("y", "0", "1"), ["age", "town"])).features(0, 40)
    age = np.array(values["age"].to_pylist(), dtype=float).reshape(-1, 1)
    town = np.array([v or "NA" for v in values["town"].to_pylist()], dtype=object).reshape(-1, 1)
    both = np.concatenate([age.astype(object), town], axis=1)
    pipeline = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), [0]),
        (OneHotEncoder(handle_unknown="ignore", min_frequency=20, sparse_output=False), [1]),
    )
    expected = pipeline.fit(both[training]).transform(both)
    assert np.allclose(found, np.asarray(expected, dtype=float))


def test_the_encoding_file_says_what_the_encoding_says(tmp_path: Path) -> None:
    values = people()
    encoding = fitted(values, np.arange(30), classes("y", "0", "1"), ["age", "town"])
    other = OneHotFeature((Category(('say "x"', "\\"), missing=True), Category(other=True)))
    pixels = NumericFeature(1e-7, 255.0, -3.0, 1e9, fill=2.0, clip=True, width=5)
    encoding = replace(encoding, features=(*encoding.features, Feature("o", one_hot=other), Feature("p", pixels)))
    path = tmp_path / "encoding.toml"
    for written in (encoding, joint(encoding)):
        path.write_text(encoding_toml(written))
        assert tomllib.loads(path.read_text())
        assert read_encoding(path) == written


def test_owners_hold_every_row_once() -> None:
    split = load("breast-cancer", None)
    held = owners_of(split, 3)
    assert [t.num_rows for t in held.values()] == [133, 133, 132]
    assert sorted(np.concatenate([t.column(0).to_numpy() for t in held.values()])) == sorted(
        split.train.column(0).to_pylist()
    )


def test_missing_data_are_reported_not_raised(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="ENCLAVE_DATA"):
        load("adult", None)
    out = tmp_path / "out.jsonl"
    arguments = ["run", "--suite", "jobs", "--cases", "evaluate/adult-dice", "--systems", "plain", "--out", str(out)]
    assert main([*arguments, "--data", str(tmp_path)]) == 1
    assert "adult_train.parquet" in (next(read(out)).error or "")


# ---- twins


@pytest.mark.parametrize("owners", [1, 3])
@pytest.mark.parametrize(
    "schedule", [LOGISTIC, replace(LOGISTIC, momentum=0.0), Schedule("mlp", (5,), epochs=2, batch_rows=16)]
)
def test_torch_and_the_workload_take_the_same_steps(schedule: Schedule, owners: int) -> None:
    """Two implementations that share no gradient agree to rounding: batches, order, decay and momentum are the same."""
    tiny = job(schedule, owners=owners)
    torch_model, own = run_plain(tiny).model, run_oracle(tiny, rounded=False).model
    assert torch_model is not None and own is not None
    for name, weight in own.weights.items():
        assert np.abs(weight - torch_model.weights[name]).max() < 1e-10


@pytest.mark.parametrize("owners", [1, 3])
def test_joint_standardisation_is_that_of_all_rows(owners: int) -> None:
    tiny = job(LOGISTIC, owners=owners)
    tiny = replace(tiny, encoding=joint(tiny.encoding))
    twin, own = run_plain(tiny).model, run_oracle(tiny, rounded=False).model
    assert twin is not None and own is not None
    for name, weight in own.weights.items():
        assert np.abs(weight - twin.weights[name]).max() < 1e-9


def test_a_training_in_memory_agrees_with_its_twin() -> None:
    tiny = job(LOGISTIC, owners=2)
    twin, found = run_plain(tiny), run_memory(tiny)
    assert found.model is not None and twin.model is not None and found.traffic is not None
    for name, weight in found.model.weights.items():
        assert np.abs(weight - twin.model.weights[name]).max() < 1e-3
    assert found.traffic.rounds > 0 and found.traffic.dealer_bytes > 0
    assert found.traffic.received_bytes >= found.traffic.sent_bytes > 0


def test_a_training_between_nodes_agrees_with_its_twin() -> None:
    """Real processes, mutual TLS, and the buyer's command: what the suite measures as `enclave`."""
    from benchmarks.jobs.nodes import fleet

    tiny = job(replace(LOGISTIC, epochs=1))
    with fleet(tiny) as nodes:
        found = nodes.run()
    twin, memory = run_plain(tiny), run_memory(tiny)
    assert found.model is not None and twin.model is not None
    for name, weight in found.model.weights.items():
        assert np.abs(weight - twin.model.weights[name]).max() < 1e-3
    assert found.traffic == memory.traffic
    assert found.peak_rss_bytes is not None and set(found.peak_rss_bytes) == {"owner0", "buyer", "dealer"}
    assert found.session_s is not None and found.session_s < found.seconds


# ---- lines and commands


def test_run_and_compare_write_what_they_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    arguments = ["run", "--suite", "jobs", "--cases", "evaluate/rows=300/cols=3", "--out", str(out)]
    assert main([*arguments, "--systems", "plain,oracle20", "--repeat", "2"]) == 0
    plain, oracle = read(out)
    assert (plain.system, oracle.system) == ("plain", "oracle20")
    assert oracle.repeats == 2 and oracle.difference_points == 0.0 and oracle.versions["numpy"]
    assert oracle.max_error is not None and oracle.max_error < 1e-5
    assert main(["compare", str(out)]) == 0
    assert "evaluate/rows=300/cols=3" in capsys.readouterr().out
    assert main(["compare", str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["system"] for row in rows] == ["plain", "oracle20"] and rows[1]["times_plain"] > 0


def test_one_failing_system_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.jobs import inprocess

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(inprocess, "run_memory", broken)
    out = tmp_path / "out.jsonl"
    arguments = ["run", "--suite", "jobs", "--cases", "evaluate/rows=30/cols=2", "--systems", "memory,plain"]
    assert main([*arguments, "--out", str(out)]) == 1
    memory, plain = read(out)
    assert memory.error == "RuntimeError: no luck" and plain.error is None
    assert "failed: RuntimeError" in table(compare([memory, plain]))


@pytest.mark.parametrize(
    "arguments",
    [["--cases", "nothing/*"], ["--systems", "abacus"], ["--out", "/nonexistent/out.jsonl"], ["--profile", "wan"]],
)
def test_wrong_usage_ends_with_2(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    defaults = ["run", "--suite", "jobs", "--cases", "evaluate/rows=30", "--out", str(tmp_path / "out.jsonl")]
    assert main([*defaults, "--systems", "plain", *arguments]) == 2
    assert "error:" in capsys.readouterr().err


def test_a_damaged_results_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(Measurement("jobs", "a", "plain").to_json() + '\n{"case": "a"}\n')
    with pytest.raises(ValueError, match="line 2"):
        list(read(path))
    path.write_bytes(b"\xb8")
    with pytest.raises(ValueError, match="not UTF-8"):
        list(read(path))


def test_an_interrupted_run_ends_with_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.command.append", interrupt)
    arguments = ["run", "--suite", "jobs", "--cases", "evaluate/rows=30/cols=2", "--systems", "plain"]
    assert main([*arguments, "--out", str(tmp_path / "out.jsonl")]) == 130


def test_an_empty_results_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("\n")
    assert main(["compare", str(path)]) == 2
    assert "holds no measurement" in capsys.readouterr().err


def test_a_later_line_replaces_an_earlier_one() -> None:
    lines = [Measurement("jobs", "a", "plain", median_s=s) for s in (1.0, 2.0)]
    (row,) = compare(
        [
            *lines,
        ]
    )
    assert row["median_s"] == 2.0 and row["times_plain"] == 1.0


def test_the_spread_of_repeats() -> None:
    spread = Spread.of([3.0, 1.0, 2.0])
    assert (spread.median_s, spread.repeats) == (2.0, 3) and spread.p10_s < 2.0 < spread.p90_s
    with pytest.raises(ValueError, match="no times"):
        Spread.of([])

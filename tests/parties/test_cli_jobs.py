"""The commands of a job as transcripts, against the node of one owner who agrees to every job by hand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from enclave.models import forward_float, read_model, write_onnx
from parties import owner
from parties.buyer import Buyer
from parties.cli import main
from tests.parties.fleet import Fleet, free_port, table
from tests.parties.shell import Shell, enclave

__all__ = ["enclave"]

ENCODING = """
[[features]]
columns = ["a", "b", "c"]
low = -2
high = 2

[target]
column = "y"
classes = ["no", "yes"]
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), approval="manual")
    (fleet.root / "points.toml").write_text(ENCODING)
    (fleet.root / "model.onnx").write_bytes(write_onnx(fleet.model()))
    folder = fleet.root / "owner0-data"
    text = (folder / "points.toml").read_text().replace("name = 'points'", "name = 'open'")
    text = text.replace('"manual"', '"automatic"').replace('"accuracy", ', '"accuracy", "model", "predictions", ')
    (folder / "open.toml").write_text(text)
    (folder / "third.toml").write_text(text.replace("'open'", "'third'"))
    owner.add(fleet.root / "owner0", folder / "open.toml")
    try:
        yield fleet.up()
    finally:
        fleet.down()


@pytest.fixture
def at(enclave: Shell, fleet: Fleet) -> Callable[..., int]:
    """`at("owner0", "owner", "jobs")` runs a command in a party's home."""
    return lambda name, *words: enclave(*words, "--home", fleet.root / name)


def _job(fleet: Fleet, dataset: str = "open") -> list[object]:
    return ["--data", f"owner0/{dataset}", "--encoding", fleet.root / "points.toml"]


def test_an_owner_adds_a_data_set(enclave: Shell, fleet: Fleet, at: Callable[..., int]) -> None:
    toml = fleet.root / "owner0-data" / "third.toml"
    assert at("owner0", "owner", "add", toml) == 0
    assert re.fullmatch(
        r"data set third: 60 rows, 4 columns\n"
        r"version  [0-9a-f]{32}\n"
        r"buyers   buyer\n"
        r"jobs     evaluate, train\n"
        r"outputs  accuracy, model, predictions, auc, confusion\n"
        r"needs    20 rows, automatic approval\n",
        enclave.out,
    )
    assert at("owner0", "owner", "add", toml) == 1
    assert "is registered already" in enclave.err and "--replace" in enclave.err
    assert at("owner0", "owner", "add", toml, "--replace", "--json") == 0
    assert enclave.json()["rows"] == 60
    assert at("owner0", "owner", "add", fleet.root / "absent.toml") == 1
    assert "absent.toml" in enclave.err
    assert at("buyer", "owner", "add", toml) == 1
    assert "is the home of buyer buyer, expected an owner's" in enclave.err


def test_an_owner_adds_only_what_is_sound(enclave: Shell, fleet: Fleet, at: Callable[..., int], tmp_path: Path) -> None:
    source = (fleet.root / "owner0-data" / "points.toml").read_text().replace("'points'", "'other'", 1)
    rows = (fleet.root / "owner0-data" / "points.csv").read_text()
    for change, rows_change, message in (
        (("approval", "aproval"), ("", ""), "unknown key 'aproval'"),
        (("[dataset]", "[data]"), ("", ""), "data"),
        (("path = 'points.csv'", "path = 'absent.csv'"), ("", ""), "absent.csv does not exist"),
        (("high = 2", "high = 1"), ("", ""), "'a'"),
        (("", ""), ("\n1", "\nNaN,1"), "points.csv"),
        (("", ""), (rows, "a,b,c,y\n"), "no rows"),
        (("values = ['no', 'yes']", "values = ['no']"), ("", ""), "'y'"),
    ):
        (tmp_path / "points.csv").write_text(rows.replace(*rows_change) if rows_change[0] else rows)
        (tmp_path / "other.toml").write_text(source.replace(*change) if change[0] else source)
        assert at("owner0", "owner", "add", tmp_path / "other.toml") == 1, change
        assert enclave.err.startswith("error: ") and "Traceback" not in enclave.err
        assert message in enclave.err, (change, enclave.err)


def test_a_buyer_looks_around(enclave: Shell, fleet: Fleet, at: Callable[..., int], tmp_path: Path) -> None:
    assert at("buyer", "buyer", "datasets", "--mock", tmp_path / "mock") == 0
    header, *lines = enclave.out.splitlines()
    assert header.split() == ["data", "set", "rows", "columns", "jobs", "outputs", "engines", "approval"]
    assert any(
        re.match(r"owner0/points +60 +4 +evaluate, train +accuracy, auc, confusion +mpc +manual$", x) for x in lines
    )
    assert re.search(r"^owner0/points.*\n  column +type\n  a +number\n(  .*\n)*  y +text$", enclave.out, re.MULTILINE)
    assert (tmp_path / "mock" / "owner0-points.parquet").read_bytes()[:4] == b"PAR1"
    assert at("buyer", "buyer", "datasets", "--json") == 0
    found = enclave.json()["datasets"]
    assert isinstance(found, list) and found[0]["columns"][0]["name"] == "a"


def test_a_buyer_asks_for_a_price(enclave: Shell, fleet: Fleet, at: Callable[..., int]) -> None:
    words = ["buyer", "quote", "evaluate", "--model", fleet.root / "model.onnx", *_job(fleet, "points")]
    assert at("buyer", *words, "--bandwidth", "10Mbit", "--latency", "40ms") == 0
    assert re.fullmatch(
        r"evaluate over 60 rows\n"
        r"engine   mpc, dealer dealer\n"
        r"rounds   \d+\n"
        r"bytes    [\d.]+ kB, of these [\d.]+ kB from the dealer\n"
        r"time     [\d.]+ s at 10 Mbit/s, 40 ms one way\n"
        r"\n"
        r"party +sends +receives\n"
        r"owner0 .*\nbuyer .*\ndealer .* 0 B\n"
        r"\n"
        r"number +at most +limit +bits +error +missed\n"
        r"input +encoding +[\d.]+ +2\.199e\+12 +20 +4\.8e-07 +none\n"
        r"(.+ none\n)+"
        r"\n"
        r"fixed point with 20 fractional bits; error of an output: at most [\d.e-]+\n"
        r"\n"
        r"engine +dealer +rounds +bytes +of 10 models +time\n"
        r"\*mpc +dealer +\d+ +[\d.]+ [kM]B +[\d.]+ [kM]B +[\d.]+ m?s\n"
        r"hybrid +dealer .* policy\.engine: owner0/points allows mpc\n"
        r"he .*\n"
        r"\n"
        r"\* is what was asked for; --engine auto chooses\n",
        enclave.out,
    )
    assert at("buyer", *words, "--json") == 0
    online = enclave.json()
    assert at("buyer", *words, "--rows", "60", "--dealer", "dealer", "--json") == 0
    assert enclave.json()["rounds"] == online["rounds"] and enclave.json()["bytes"] == online["bytes"]
    train = ["buyer", "quote", "train", *_job(fleet), "--rows", "1000"]
    assert at("buyer", *train, "--kind", "mlp", "--hidden", "8,4", "--buyer-rows", "100") == 0
    assert enclave.out.startswith("train over 1,100 rows\n")
    assert re.search(r"^weights +any step +watched +4096 +50 +[\d.e-]+ +0\.\d+$", enclave.out, re.MULTILINE)
    assert "watched: a number beyond its limit is noticed at the end; all outputs of the job become" in enclave.out
    assert "missed: the probability that one number" in enclave.out
    assert at("buyer", *train, "--kind", "mlp") == 1
    assert "an mlp needs them" in enclave.err
    assert at("buyer", *train, "--kind", "linear") == 1
    assert "linear regression needs a number" in enclave.err


def test_a_job_that_needs_a_person_exits_with_75_and_goes_on(
    enclave: Shell, fleet: Fleet, at: Callable[..., int]
) -> None:
    words = ["buyer", "evaluate", "--model", fleet.root / "model.onnx", *_job(fleet, "points")]
    assert at("buyer", *words, "--metric", "accuracy", "--metric", "confusion", "--json") == 75
    error = enclave.json()["error"]
    assert isinstance(error, dict) and error["code"] == "not_ready"
    job = str(error["job_id"])
    assert at("buyer", "buyer", "result", job) == 75
    assert re.search(rf"^error: job {job} waits for approval by owner0\nhint: .*", enclave.err, re.MULTILINE)
    assert enclave.out == ""
    assert at("owner0", "owner", "jobs") == 0
    assert re.search(rf"^{job} .* buyer +evaluate +points +accuracy, confusion +PROPOSED", enclave.out, re.MULTILINE)
    assert at("owner0", "owner", "approve", job[:10]) == 0
    assert enclave.out == f"approved {job}; the buyer can go on\n"
    assert at("buyer", "buyer", "result", job[:10]) == 0
    assert re.match(
        r"accuracy     0\.\d{4}\n"
        r"confusion +said no +said yes\n"
        r"  is no +\d+ +\d+\n"
        r"  is yes +\d+ +\d+\n"
        r"\n"
        rf"job          {job}\n"
        r"rows         60\n"
        r"engine       mpc, dealer dealer\n"
        r"took         .*, as planned\n"
        r"receipt      .*/receipt\.pb\n"
        r"report       .*/report\.html\n$",
        enclave.out,
    )
    assert (fleet.root / "buyer" / "jobs" / job / "report.html").is_file()
    assert at("buyer", "buyer", "jobs") == 0
    assert re.search(rf"^{job} .* evaluate +RELEASED +owner0/points", enclave.out, re.MULTILINE)
    for verb, text in (("approve", "has ended as"), ("withdraw", "is")):
        assert at("owner0", "owner", verb, job) == 1
        assert f"job {job} {text} RELEASED: " in enclave.err


def test_an_owner_withdraws_a_job(enclave: Shell, fleet: Fleet, at: Callable[..., int]) -> None:
    words = ["buyer", "evaluate", "--model", fleet.root / "model.onnx", *_job(fleet, "points")]
    assert at("buyer", *words, "--json") == 75
    error = enclave.json()["error"]
    assert isinstance(error, dict)
    job = str(error["job_id"])
    assert at("owner0", "owner", "withdraw", job) == 0
    assert enclave.out == f"job {job} is withdrawn\n"
    assert at("owner0", "owner", "approve", job) == 1
    assert "WITHDRAWN" in enclave.err
    assert at("buyer", "buyer", "result", job) == 1
    assert "withdrawn at owner0" in enclave.err
    for verb in ("approve", "withdraw"):
        assert at("owner0", "owner", verb, "f" * 32) == 1
        assert "no job" in enclave.err
        assert at("owner0", "owner", verb, "zz") == 1
        assert "expected a job id of hex digits" in enclave.err


def test_training_and_predicting_write_files(
    enclave: Shell, fleet: Fleet, at: Callable[..., int], tmp_path: Path
) -> None:
    onnx, csv = tmp_path / "trained.onnx", tmp_path / "predictions.csv"
    train = ["buyer", "train", "--kind", "logistic", *_job(fleet), "--epochs", "3", "--batch", "20"]
    assert at("buyer", *train, "--metric", "accuracy", "--out", onnx, "--mock") == 0
    assert f"written      {onnx}" in enclave.out
    assert re.search(r"^mock run  passed: accuracy 0\.\d{4} on made-up rows", enclave.err, re.MULTILINE)
    assert at("buyer", *train, "--out", onnx) == 1
    assert "exists already" in enclave.err
    assert at("buyer", *train, "--out", tmp_path / "m.pickle") == 1
    assert "ends in .onnx or .safetensors" in enclave.err
    assert at("buyer", *train, "--out", tmp_path / "m.onnx", "--keep-shared") == 1
    assert "cannot be written" in enclave.err
    assert at("buyer", "buyer", "predict", "--model", onnx, *_job(fleet), "--out", csv, "--json") == 0
    assert enclave.json()["out"] == str(csv)
    files = enclave.json()["files"]
    assert isinstance(files, dict) and Path(files["predictions"]).read_bytes() == csv.read_bytes()
    lines = csv.read_text().splitlines()
    assert lines[0] == "data,row,prediction" and lines[1].startswith("owner0/open,1,") and len(lines) == 61
    job = str(enclave.json()["job_id"])
    predictions = np.loadtxt(csv, delimiter=",", skiprows=1, usecols=2)
    assert at("buyer", "buyer", "result", job, "--json") == 0
    with Buyer(fleet.root / "buyer") as buyer:
        assert np.array_equal(buyer.result(job).predictions_, predictions)
    expected = forward_float(read_model(onnx), table(60, seed=1)[0])[:, 0]
    assert np.allclose(predictions, expected, atol=7e-4)  # a sigmoid is stated to 6e-4
    assert at("buyer", "buyer", "predict", "--model", onnx, *_job(fleet, "points"), "--json") == 1
    error = enclave.json()["error"]
    assert isinstance(error, dict) and (error["code"], error["rules"]) == (
        "policy",
        ["policy.output", "policy.approval"],
    )


def test_an_auditor_checks_a_receipt(enclave: Shell, fleet: Fleet, at: Callable[..., int], tmp_path: Path) -> None:
    words = ["buyer", "evaluate", "--model", fleet.root / "model.onnx", *_job(fleet), "--purpose", "audit"]
    assert at("buyer", *words, "--json") == 0
    folder = Path(str(enclave.json()["folder"]))
    enclave("init", "auditor", "eye", "--home", tmp_path / "eye")
    receipt, report = folder / "receipt.pb", folder / "report.json"
    # The auditor knows nobody yet: it may not call the signatures the parties' own.
    assert enclave("auditor", "verify", receipt, "--home", tmp_path / "eye") == 1
    assert "checks failed" in enclave.out and "card.trusted [owner0]" in enclave.out
    for name in ("owner0", "dealer", "buyer"):
        enclave("trust", fleet.root / name / "card", "--home", tmp_path / "eye")
    assert enclave("auditor", "verify", receipt, "--report", report, "--home", tmp_path / "eye") == 0
    assert re.search(r"^verdict  all \d+ checks passed: signed by parties whose cards", enclave.out, re.MULTILINE)
    assert "data     owner0/open (60 rows)\n" in enclave.out
    assert enclave("auditor", "verify", receipt) == 0, "without a home"
    assert "whose keys these are was not checked" in enclave.out
    assert enclave("auditor", "verify", receipt, "--home", tmp_path / "ey") == 1, "a misspelt home"
    assert "is not a home" in enclave.err
    changed = bytearray(receipt.read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "changed.pb").write_bytes(changed)
    assert enclave("auditor", "verify", tmp_path / "changed.pb", "--json") == 1
    assert enclave.json()["ok"] is False
    assert enclave("auditor", "verify", tmp_path / "absent.pb") == 1
    assert "cannot read" in enclave.err
    assert enclave("auditor", "report", report, "--out", tmp_path / "page.html") == 0
    assert enclave.out == f"page     {tmp_path / 'page.html'}\n"
    assert enclave("auditor", "report", receipt) == 1
    assert "not a leakage report" in enclave.err


def test_serve_says_when_it_serves_and_ends_on_a_signal(tmp_path: Path) -> None:
    home = tmp_path / "dealer"
    address = f"127.0.0.1:{free_port()}"
    assert main(["init", "dealer", "dealer", "--home", str(home), "--listen", address]) == 0
    command = [sys.executable, "-m", "parties.cli", "dealer", "serve", "--home", str(home), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        event = json.loads(process.stdout.readline())
        assert event == {"event": "serving", "name": "dealer", "role": "dealer", "address": address}
        # A second node at the same home, or at the same port, is refused in one line.
        second = subprocess.run(command[:-1], capture_output=True, text=True, env=environment)
        assert second.returncode == 1 and "error: " in second.stderr and "Traceback" not in second.stderr
        process.terminate()
        assert json.loads(process.stdout.readline())["event"] == "stopped"
        assert process.wait(30) == 0


def test_a_port_in_use_is_an_error_with_a_hint(enclave: Shell, fleet: Fleet, tmp_path: Path) -> None:
    taken = fleet.ids["dealer"].card.address
    enclave("init", "owner", "clinic", "--home", tmp_path / "clinic", "--listen", taken)
    assert enclave("owner", "serve", "--home", tmp_path / "clinic") == 1
    assert "error: " in enclave.err and taken.rpartition(":")[2] in enclave.err and "Traceback" not in enclave.err
    assert enclave("dealer", "serve", "--home", tmp_path / "clinic") == 1
    assert "is the home of a owner, expected dealer" in enclave.err or "expected dealer" in enclave.err

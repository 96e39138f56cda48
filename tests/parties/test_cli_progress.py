"""Progress on a terminal and elsewhere, and how answers and errors are printed."""

from __future__ import annotations

import io
import json

import pytest

from enclave.errors import BadData, NotReady, PolicyRefused
from parties.cli.console import FAILED, NOT_READY, Answer, Console, table
from parties.cli.progress import ProgressLine


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_bar_on_a_terminal_is_exact_and_is_cleared() -> None:
    stream, clock = io.StringIO(), Clock()
    line = ProgressLine(stream, interactive=True, now_s=clock)
    line.update("planning")
    clock.now_s += 5
    line.update("epoch 1", 0, 200, 0)
    clock.now_s += 2
    line.update("epoch 1", 50, 200, 1_500_000)
    last = stream.getvalue().rsplit("\x1b[K", 1)[1]
    assert last == "[######..................]  25%  50/200 steps  1.50 MB  2.00 s  epoch 1"
    line.update("epoch 1", 51, 200, 1_500_000)
    assert stream.getvalue().endswith(last), "not drawn again within a tenth of a second"
    line.close()
    assert stream.getvalue().endswith("\r\x1b[K") and "\n" not in stream.getvalue()


def test_elsewhere_it_is_a_line_now_and_then() -> None:
    stream, clock = io.StringIO(), Clock()
    line = ProgressLine(stream, interactive=False, now_s=clock)
    line.update("planning")
    line.update("proposing")
    for step in range(1000):
        clock.now_s += 0.05
        line.update("epoch 1", step, 1000)
    line.close()
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["planning ...", "proposing ..."]
    assert 3 <= len(lines[2:]) <= 6 and all("epoch 1" in text for text in lines[2:])
    assert "\r" not in stream.getvalue()


def test_two_jobs_have_two_clocks() -> None:
    stream, clock = io.StringIO(), Clock()
    line = ProgressLine(stream, interactive=True, now_s=clock)
    line.update("first", 90, 100)
    clock.now_s += 60
    line.update("second", 0, 100)
    clock.now_s += 1
    line.update("second", 10, 100)
    assert stream.getvalue().endswith("1.00 s  second")


@pytest.mark.parametrize("as_json", [False, True])
def test_answers_and_errors_have_one_form_for_people_and_one_for_machines(as_json: bool) -> None:
    out, err, done = io.StringIO(), io.StringIO(), []
    console = Console(out, err, as_json=as_json)
    assert console.answer(Answer({"a": 1}, "text", 1, lambda: done.append(out.getvalue()))) == 1
    assert done == ['{"a": 1}\n' if as_json else "text\n"], "what follows comes after the answer"
    assert console.error(PolicyRefused("no", rules=("policy.kind",), hint="ask")) == FAILED
    assert console.error(NotReady("later", job_id="ab")) == NOT_READY
    assert console.error(BadData("wrong", detail="3 rows")) == FAILED
    if as_json:
        errors = [json.loads(line)["error"] for line in out.getvalue().splitlines()[1:]]
        assert errors[0] == {"code": "policy", "message": "no", "hint": "ask", "rules": ["policy.kind"]}
        assert errors[1]["job_id"] == "ab" and errors[2]["detail"] == "3 rows"
        assert err.getvalue() == ""
    else:
        assert err.getvalue() == "error: no\nhint: ask\nerror: later\nerror: wrong\ndetail: 3 rows\n"


def test_columns_are_aligned() -> None:
    text = table(("name", "rows"), [("a", "1"), ("long name", "1,000")], right=(1,))
    assert text.splitlines() == ["name        rows", "a              1", "long name  1,000"]

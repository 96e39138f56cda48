"""`enclave crypten run`: scripts for stock CrypTen, run by real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import sys
import crypten, torch
from beside import FACTOR

crypten.init()
rank = crypten.communicator.get().get_rank()
x = crypten.cryptensor(torch.tensor([1.0, -2.0, 3.0]), src=1)
print("rank", rank, sys.argv[1:], (x.relu() * FACTOR).get_plain_text().tolist())
if "exit" in sys.argv:
    sys.exit(3)
if "raise" in sys.argv and rank == 1:
    raise ZeroDivisionError("of its own")
if "early" in sys.argv and rank == 1:
    sys.exit(0)
if "process" in sys.argv:
    import multiprocessing
    multiprocessing.Process(target=print).start()
if "died" in sys.argv and rank == 1:
    import os
    os.kill(os.getpid(), 9)
print(x.sum().get_plain_text().item())
"""
MULTIPROCESS = """
import crypten, torch
from crypten import mpc

@mpc.run_multiprocess(world_size=3)
def main(scale):
    rank = crypten.communicator.get().get_rank()
    return (crypten.cryptensor(torch.ones(2), src=2) * scale + rank * 0).sum().get_plain_text().item()

print(main(4.0))
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    (folder / "beside.py").write_text("FACTOR = 2\n")
    (folder / "program.py").write_text(SCRIPT)
    (folder / "multiprocess.py").write_text(MULTIPROCESS)
    return folder / "program.py"


def enclave(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "parties.cli", "crypten", "run", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def test_a_script_runs_and_only_rank_0_is_heard(script: Path) -> None:
    ran = enclave(script, "--parties", 2, "--", "a", "--json")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["rank 0 ['a', '--json'] [2.0, 0.0, 6.0]", "2.0"]
    assert "2 parties, " in ran.stderr and "rank 1" not in ran.stderr


def test_exit_codes_and_the_summary_for_machines(script: Path) -> None:
    ran = enclave(script, "--parties", 3, "--json", "--all-ranks", "--", "exit")
    assert ran.returncode == 3, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    assert found["parties"] == 3 and found["exit_code"] == 3 and len(found["ranks"]) == 3
    assert all(rank["exit_code"] == 3 and rank["rounds"] == found["rounds"] for rank in found["ranks"])
    assert found["rounds"] >= 2 and found["dealer_bytes"] > 0
    assert found["sent_bytes"] == sum(rank["sent_bytes"] for rank in found["ranks"])
    for rank in (1, 2):
        assert f"[rank{rank}] rank {rank} ['exit'] [2.0, 0.0, 6.0]" in ran.stderr


@pytest.mark.parametrize(
    ("argument", "message", "hint"),
    [
        ("raise", "rank1: ZeroDivisionError: of its own", "line 13 of program.py"),
        ("early", "rank1 ended with exit code 0 while rank0 was still computing", "the same calls"),
        ("process", "a process of the program's own is refused", "started once for each rank"),
        ("died", "rank1: the process was killed by SIGKILL", ""),
    ],
)
def test_what_goes_wrong_is_named_with_its_rank(script: Path, argument: str, message: str, hint: str) -> None:
    ran = enclave(script, "--json", "--", argument)
    assert ran.returncode == 1
    error = json.loads(ran.stdout)["error"]
    assert message in error["message"] and hint in error["hint"]
    if argument == "raise":
        assert 'program.py", line 13' in ran.stderr and "launch.py" not in ran.stderr


def test_a_function_for_several_processes_runs_at_each_rank(script: Path) -> None:
    ran = enclave(script.with_name("multiprocess.py"), "--parties", 3)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["[8.0, None, None]"]


def test_a_function_for_another_number_of_processes_is_refused(script: Path) -> None:
    ran = enclave(script.with_name("multiprocess.py"), "--parties", 2)
    assert ran.returncode == 1
    assert "the program wants 3 parties, the session has 2" in ran.stderr and "with 3 parties" in ran.stderr


def test_a_script_that_is_not_there(tmp_path: Path) -> None:
    ran = enclave(tmp_path / "nothing.py")
    assert ran.returncode == 1 and "there is no script" in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize("parties", ["1", "17", "two", "0"])
def test_a_number_of_parties_that_cannot_be(script: Path, parties: str) -> None:
    ran = enclave(script, "--parties", parties)
    assert ran.returncode == 2 and "expected 2 to 16 parties" in ran.stderr

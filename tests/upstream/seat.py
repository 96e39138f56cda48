"""One rank of a run of upstream's tests, as a process: `python -m tests.upstream.seat FOLDER RANK PARTIES CHECKOUT`.

Reads one JSON line for each test, joins a session of its own, runs the test at this rank (the dealer: deals), and
writes one JSON line. Upstream's launcher of processes is not used: a test method is called at every rank, as its
`_run` does.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import os
import sys
import traceback
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from enclave.channel.tls import require_tls13

require_tls13()

from enclave.engines.mpc.fence.install import install  # noqa: E402
from enclave.engines.mpc.fence.launch import run_program, serve_program  # noqa: E402
from enclave.engines.mpc.fence.loopback import join  # noqa: E402


def one_test(order: dict[str, Any], rank: int, parties: int) -> None:
    """Runs a test method behind the current fence."""
    import torch

    torch.manual_seed(order["seed"])  # a fresh process has the same state at every rank
    case_class = getattr(importlib.import_module(f"test.{order['module']}"), order["class"])
    case = case_class(order["test"])
    case.rank, case.processes, case.file = rank, [], os.devnull
    case.world_size = parties
    case.setUp()
    try:
        getattr(case, order["test"])()
    finally:
        case.processes = []
        case.tearDown()


def main(folder: Path, rank: int, parties: int, checkout: str) -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what tests print goes elsewhere
    sys.path.insert(0, checkout)
    warnings.simplefilter("ignore")
    if rank < parties:
        install()
    logging.getLogger().addHandler(logging.NullHandler())

    def say(value: Any) -> None:
        out.write(json.dumps(value) + "\n")
        out.flush()

    def exchange(address: str) -> Any:
        say(address)
        return json.loads(sys.stdin.readline())

    for line in sys.stdin:
        order = json.loads(line)
        source = json.dumps(order, sort_keys=True).encode()
        try:
            channel = join(folder, rank, parties, exchange, session_id=order["session"], deadline_s=order["limit_s"])
            if rank == parties:
                serve_program(channel, parties, source)
            else:
                run_program(channel, parties, partial(one_test, order, rank, parties), source=source)
            say({"ok": True})
        except BaseException as error:
            text = io.StringIO()
            traceback.print_exception(error, file=text)
            say({"ok": False, "kind": type(error).__name__, "text": str(error)[:400], "trace": text.getvalue()[-6000:]})


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])

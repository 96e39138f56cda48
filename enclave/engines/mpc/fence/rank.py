"""One rank of a program as a process: `python -m enclave.engines.mpc.fence.rank FD FOLDER RANK PARTIES DEADLINE_S
SCRIPT [ARGUMENT ...]`.

Standard input and output are the script's. With whoever started it, the process talks JSON lines over the socket FD:
it says `{"address": ...}` and reads `{"addresses": [...]}`; at its end it says `{"done": {...}}` or `{"error": {...}}`.
When the socket closes, the process ends: nobody waits for it any more.
"""

from __future__ import annotations

import json
import multiprocessing.process
import os
import socket
import sys
import threading
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from enclave.channel.buffers import hand_over_quickly, keep_freed_memory
from enclave.channel.tls import require_tls13
from enclave.errors import EnclaveError, Unsupported

__all__ = ["main"]

_LOADERS = "torch.utils.data."


class Control:
    """The rank's end of the socket."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._lines = self._socket.makefile("r", encoding="utf-8")

    def say(self, value: dict[str, Any]) -> None:
        """One line."""
        try:
            self._socket.sendall(json.dumps(value).encode() + b"\n")
        except OSError:
            os._exit(1)  # nobody listens: see `watch`

    def exchange(self, address: str) -> list[str]:
        """Says where this rank listens, and waits to be told where all do."""
        self.say({"address": address})
        line = self._lines.readline()
        if not line:
            os._exit(1)
        threading.Thread(target=self._watch, name="control", daemon=True).start()
        return [str(a) for a in json.loads(line)["addresses"]]

    def _watch(self) -> None:
        self._lines.readline()
        os._exit(1)


def main(arguments: list[str]) -> int:
    """Runs the rank and returns the process's exit code."""
    require_tls13()  # before anything imports grpc
    keep_freed_memory()
    hand_over_quickly()
    from enclave.engines.mpc.fence.install import install
    from enclave.engines.mpc.fence.launch import Usage, run_program, script_source, serve_program
    from enclave.engines.mpc.fence.loopback import join

    descriptor, folder, rank, parties, deadline_s, path = arguments[:6]
    control, script, number = Control(int(descriptor)), Path(path), int(rank)
    given, count = arguments[6:], int(parties)
    usage: list[Usage] = []
    code = 0
    try:
        if number < count:
            install()  # before the session: importing torch takes seconds
            _refuse_processes()
        channel = join(Path(folder), number, count, control.exchange, deadline_s=float(deadline_s))
        if number == count:
            serve_program(channel, count, script_source(script, given))
        else:
            run_program(channel, count, script, arguments=given, used=usage.append)
    except SystemExit as stop:
        code = _exit_code(stop)
    except BaseException as error:  # noqa: BLE001  reported for what it is, whatever the program raised
        control.say({"error": _described(error, script)})
        return 1
    sys.stdout.flush()
    control.say({"done": {"exit_code": code, **(asdict(usage[0]) if usage else {})}})
    return code


def _exit_code(stop: SystemExit) -> int:
    """As Python: a text is written to standard error and counts as 1."""
    if isinstance(stop.code, int) or stop.code is None:
        return (stop.code or 0) & 0xFF
    sys.stderr.write(f"{stop.code}\n")
    return 1


def _described(error: BaseException, script: Path) -> dict[str, Any]:
    """What the error was and where in the script; frames of the launcher are left out."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [k for k, frame in enumerate(frames) if frame.filename == str(script)]
    shown = frames[inside[0] :] if inside else []
    lines = [*traceback.format_list(shown), *traceback.format_exception_only(error)]
    known = isinstance(error, EnclaveError)
    return {
        "type": type(error).__name__,
        "code": error.code if known else "program",  # type: ignore[attr-defined]
        "message": error.public if known else str(error),  # type: ignore[attr-defined]
        "hint": error.hint if known else "",  # type: ignore[attr-defined]
        "line": frames[inside[-1]].lineno if inside else 0,
        "trace": "".join(lines),
    }


def _refuse_processes() -> None:
    """A process that a program starts has no session, and would run stock CrypTen: only torch's data loaders may."""
    start = multiprocessing.process.BaseProcess.start

    def checked(self: Any) -> None:
        target = vars(self).get("_target")
        if target is not None and not str(target.__module__).startswith(_LOADERS):
            raise Unsupported(
                "a process of the program's own",
                "every party is a process already, and a new one has no session",
                hint="let the script be one party's program: it is started once for each rank",
            )
        start(self)

    multiprocessing.process.BaseProcess.start = checked  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`enclave ...`: arguments become one call, its outcome becomes output and an exit code.

Nothing heavy is imported until the command is known, so that `--help` and mistakes answer at once.
"""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence

from enclave.errors import EnclaveError
from parties.cli.arguments import UsageError, build_parser
from parties.cli.console import DONE, FAILED, USAGE, Answer, Console

__all__ = ["main"]

Command = Callable[[Namespace, Console], Answer]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Expected errors never show a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parsed = build_parser().parse_command(given)
    except UsageError as error:
        return _usage(error, as_json="--json" in given)
    except SystemExit as stop:  # --help
        return stop.code if isinstance(stop.code, int) else DONE
    console = Console(sys.stdout, sys.stderr, as_json=parsed.json)
    try:
        return console.answer(_commands(parsed.group)[parsed.command](parsed, console))
    except EnclaveError as error:
        return console.error(error)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # The reader of our output went away; Python would complain again while flushing at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        return console.error(_file_error(error))
    except KeyboardInterrupt:
        return console.interrupted()


def _commands(group: str) -> Mapping[str, Command]:
    match group:
        case "owner" | "dealer":
            from parties.cli.nodes import COMMANDS as commands
        case "buyer":
            from parties.cli.buying import COMMANDS as commands
        case "auditor":
            from parties.cli.auditing import COMMANDS as commands
        case "crypten":
            from parties.cli.programs import COMMANDS as commands
        case "demo":
            from parties.cli.showing import COMMANDS as commands
        case _:
            from parties.cli.identities import COMMANDS as commands
    return commands


def _usage(error: UsageError, *, as_json: bool) -> int:
    hint = f"see {error.prog} --help"
    if as_json:
        print(json.dumps({"error": {"code": "usage", "message": str(error), "hint": hint}}), flush=True)
    else:
        sys.stderr.write(f"{error.usage}error: {error}\nhint: {hint}\n")
    return USAGE


def _file_error(error: OSError) -> EnclaveError:
    where = f" {error.filename}" if error.filename else ""
    reason = (error.strerror or str(error)).lower()
    return EnclaveError(f"cannot use{where}: {reason}", code="file", hint="check the path and its permissions")

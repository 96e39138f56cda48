"""`python -m benchmarks.peers`: see the package."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import CalledProcessError

from benchmarks.peers import environment
from benchmarks.peers.fleet import serve
from benchmarks.peers.task import Task

_USAGE = "usage: python -m benchmarks.peers install [--peer NAME] [DIR] | JSON (the task of a worker)"


def main(arguments: list[str]) -> int:
    """0; 1 when an environment cannot be made; 2 with a line on standard error when the arguments make no sense."""
    if arguments[:1] == ["install"]:
        rest, peers = arguments[1:], environment.PEERS
        if rest[:1] == ["--peer"] and rest[1:2] and rest[1] in environment.PEERS:
            rest, peers = rest[2:], (rest[1],)
        if len(rest) > 1 or any(text.startswith("-") for text in rest):
            print(f"peers: {', '.join(environment.PEERS)}\n{_USAGE}", file=sys.stderr)
            return 2
        try:
            environment.install(Path(rest[0]) if rest else environment.DEFAULT, peers)
        except (RuntimeError, CalledProcessError) as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    if len(arguments) != 1:
        print(_USAGE, file=sys.stderr)
        return 2
    try:
        task = Task.parse(arguments[0])
    except ValueError as error:
        print(f"{error}\n{_USAGE}", file=sys.stderr)
        return 2
    try:
        python = environment.python_of(task.system)
    except FileNotFoundError as error:
        print(json.dumps({"unavailable": str(error)}), flush=True)
        return 0
    return serve(task, python)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

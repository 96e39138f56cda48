"""What a command says: one answer on stdout, everything else on stderr.

A command returns an `Answer`: a machine-readable value and the text for a person. `--json` decides which of the
two is printed, so the two cannot drift apart in what they report, and nothing else ever reaches stdout.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from enclave.errors import BadData, EnclaveError, NotReady, PolicyRefused

__all__ = ["DONE", "FAILED", "INTERRUPTED", "NOT_READY", "USAGE", "Answer", "Console", "exit_code", "table"]

DONE, FAILED, USAGE, NOT_READY, INTERRUPTED = 0, 1, 2, 75, 130
_STYLES = {"bold": "1", "dim": "2", "good": "32", "bad": "31", "head": "1;36"}


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a command.

    Attributes:
        value: for machines, JSON types only.
        text: for people.
        after: what is done once the answer has been printed, because nobody needs to wait for it.
    """

    value: Mapping[str, Any]
    text: str = ""
    code: int = DONE
    after: Callable[[], object] | None = None


class Console:
    """Standard output and error of one command."""

    def __init__(self, stdout: TextIO, stderr: TextIO, *, as_json: bool) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.as_json = as_json

    @property
    def interactive(self) -> bool:
        """Whether stderr is a terminal, so that a line may be drawn over."""
        return self.stderr.isatty()

    def style(self, kind: str, text: str) -> str:
        """`text` in the style `kind` where stdout is a terminal that wants colours, else unchanged."""
        if self.as_json or not self.stdout.isatty() or os.environ.get("NO_COLOR") or kind not in _STYLES:
            return text
        return f"\x1b[{_STYLES[kind]}m{text}\x1b[0m"

    def answer(self, answer: Answer) -> int:
        """Prints the answer in the form asked for and returns its exit code."""
        self.event(answer.value, answer.text)
        if answer.after is not None:
            answer.after()
        return answer.code

    def event(self, value: Mapping[str, Any], text: str) -> None:
        """One line of a command that keeps running, for example `serve`."""
        if self.as_json:
            print(json.dumps(value), file=self.stdout, flush=True)
        elif text:
            print(text, file=self.stdout, flush=True)

    def note(self, text: str) -> None:
        """Something a person may want to know while waiting."""
        print(text, file=self.stderr, flush=True)

    def interrupted(self) -> int:
        """Says that the user stopped the command, and returns the exit code."""
        if self.as_json:
            body = {"code": "interrupted", "message": "interrupted", "hint": ""}
            print(json.dumps({"error": body}), file=self.stdout, flush=True)
        else:
            self.note("interrupted")
        return INTERRUPTED

    def error(self, error: EnclaveError) -> int:
        """Prints the error (and, with --json, its object on stdout) and returns the exit code."""
        notes: list[str] = getattr(error, "__notes__", [])
        if self.as_json:
            body: dict[str, Any] = {"code": error.code, "message": error.public, "hint": error.hint}
            if isinstance(error, BadData) and error.detail:
                body["detail"] = error.detail
            if isinstance(error, PolicyRefused):
                body["rules"] = list(error.rules)
            if isinstance(error, NotReady) and error.job_id:
                body["job_id"] = error.job_id
            if notes:
                body["notes"] = notes
            print(json.dumps({"error": body}), file=self.stdout, flush=True)
        else:
            print(f"error: {error.public}", file=self.stderr)
            detail = error.detail if isinstance(error, BadData) else ""
            if detail:
                print(f"detail: {detail}", file=self.stderr)
            if error.hint:
                print(f"hint: {error.hint}", file=self.stderr)
            for note in notes:
                print(f"note: {note}", file=self.stderr)
        return exit_code(error)


def exit_code(error: EnclaveError) -> int:
    """75 where nothing is wrong but somebody else has to act first, else 1."""
    return NOT_READY if isinstance(error, NotReady) else FAILED


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[int] = ()) -> str:
    """Aligned columns, two blanks apart; the columns in `right` are aligned to the right."""
    cells = [list(map(str, headers)), *[list(map(str, row)) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    lines = []
    for row in cells:
        parts = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)

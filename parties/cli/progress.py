"""Progress of long work on stderr: a bar on a terminal, occasional plain lines elsewhere.

The plan of a job says how many steps it has, so the bar is exact and needs no estimate of its own.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import TextIO

from parties.cli.units import bytes_text, seconds_text

__all__ = ["ProgressLine"]

_REDRAW_S = 0.1
_PLAIN_S = 10.0
_BAR = 24


class ProgressLine:
    """One line that follows one piece of work. Cheap to call often: it draws at most ten times a second."""

    def __init__(self, stream: TextIO, *, interactive: bool, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._stream = stream
        self._interactive = interactive
        self._started_s = now_s()
        self._drawn_s = float("-inf")
        self._stage = ""
        self._open = False
        self._done: int | None = None

    def update(self, stage: str, done: int = 0, total: int = 0, size_bytes: int = 0) -> None:
        """Says that `done` of `total` steps are done in the stage called `stage`, with `size_bytes` sent so far."""
        now_s = self._now_s()
        if total and (self._done is None or done < self._done):
            self._started_s = now_s  # the first step of a piece of work: the clock shows this piece alone
        self._done = done if total else None
        changed = stage != self._stage
        wait_s = _REDRAW_S if self._interactive else _PLAIN_S
        first_plain = changed and not self._interactive and not total
        if now_s - self._drawn_s < wait_s and not first_plain and not (changed and self._interactive):
            return
        self._stage, self._drawn_s = stage, now_s
        text = self._text(stage, done, total, size_bytes, now_s - self._started_s)
        if self._interactive:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write("\r\x1b[K" + text[:width])
            self._open = True
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Clears the line, so that the next output starts on a clean one."""
        if self._open:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._open = False

    def _text(self, stage: str, done: int, total: int, size_bytes: int, elapsed_s: float) -> str:
        if not total:
            return f"{stage} ..."
        share = min(1.0, done / total)
        filled = int(share * _BAR)
        bar = "#" * filled + "." * (_BAR - filled)
        size = f"  {bytes_text(size_bytes)}" if size_bytes else ""
        return f"[{bar}] {share:4.0%}  {done:,}/{total:,} steps{size}  {seconds_text(elapsed_s)}  {stage}"

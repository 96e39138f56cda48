"""Running a CrypTen program as one party of a session, and serving it as its dealer."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enclave.channel import Channel
from enclave.engines.mpc.fence.active import DEFAULT_FRAC_BITS, Fence, behind
from enclave.engines.mpc.fence.free import DealerLimits, FreeDealer, FreeSession, program_digest
from enclave.engines.mpc.fence.install import install
from enclave.errors import EnclaveError

__all__ = ["Usage", "run_program", "script_source", "serve_program"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a program took at one rank; bytes are those of frames with all other ranks, the dealer included."""

    rounds: int
    sent_bytes: int
    received_bytes: int
    dealer_bytes: int
    wall_s: float


def run_program(
    channel: Channel,
    parties: int,
    program: Path | Callable[[], Any],
    *,
    source: bytes = b"",
    arguments: Sequence[str] = (),
    frac_bits: int = DEFAULT_FRAC_BITS,
    progress: Callable[[int, str], None] | None = None,
    used: Callable[[Usage], None] | None = None,
) -> Any:
    """Runs a program at this rank to its end and closes the channel.

    The program is what all parties agreed to compute: it may reveal values. All ranks must bring the same one, with
    the same arguments; they compare digests before they start. A program that exits (`sys.exit`) has ended.

    Args:
        program: a script, run as `__main__`, or a function.
        source: of a function: bytes that name it, equal at all parties and the dealer. A script's are its own.
        arguments: of a script: its `sys.argv` from 1 on.
        used: is told what the program took, once it has ended.

    Returns: the function's result, or the script's globals.
    """
    if isinstance(program, Path):
        source = script_source(program, arguments)
    try:
        install()
        session = FreeSession(channel, parties, program_digest(parties, source), progress=progress)
        with behind(Fence(session, allow_open=True, frac_bits=frac_bits)):
            try:
                result = program() if not isinstance(program, Path) else _run_script(program, arguments)
            except SystemExit:
                _end(session, used)
                raise
        _end(session, used)
    except SystemExit:
        raise
    except BaseException as error:
        channel.close(error if isinstance(error, EnclaveError) else EnclaveError("the program failed"))
        raise
    channel.close()
    return result


def script_source(script: Path, arguments: Sequence[str] = ()) -> bytes:
    """What all ranks agree on: the script, and its arguments."""
    return b"\0".join([script.read_bytes(), *(argument.encode() for argument in arguments)])


def _end(session: FreeSession, used: Callable[[Usage], None] | None) -> None:
    session.finish()
    links = session.channel.stats()
    sent, received = sum(link.sent_bytes for link in links), sum(link.received_bytes for link in links)
    if used is not None:
        used(Usage(session.rounds, sent, received, session.dealt_bytes, session.wall_s))
    session.channel.close()


def _run_script(script: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """As `python SCRIPT ARGUMENTS` does: the script's folder is where its imports are looked for first."""
    before = sys.argv, sys.path
    sys.argv, sys.path = [str(script), *arguments], [str(script.resolve().parent), *sys.path]
    try:
        return runpy.run_path(str(script), None, "__main__")
    finally:
        sys.argv, sys.path = before


def serve_program(channel: Channel, parties: int, source: bytes, limits: DealerLimits | None = None) -> None:
    """Deals for a program until it ends and closes the channel. The dealer needs the source's digest, not its sense."""
    try:
        FreeDealer(channel, parties, program_digest(parties, source), limits).serve()
    except BaseException as error:
        channel.close(error if isinstance(error, EnclaveError) else EnclaveError("the dealer failed"))
        raise
    channel.close()

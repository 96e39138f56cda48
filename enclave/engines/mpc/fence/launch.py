"""Running a CrypTen program as one party of a session, and serving it as its dealer."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from enclave.channel import Channel
from enclave.engines.mpc.fence.active import DEFAULT_FRAC_BITS, Fence, behind
from enclave.engines.mpc.fence.free import DealerLimits, FreeDealer, FreeSession, program_digest
from enclave.engines.mpc.fence.install import install
from enclave.errors import EnclaveError

__all__ = ["run_program", "serve_program"]


def run_program(
    channel: Channel,
    parties: int,
    program: Path | Callable[[], Any],
    *,
    source: bytes = b"",
    frac_bits: int = DEFAULT_FRAC_BITS,
    progress: Callable[[int, str], None] | None = None,
) -> Any:
    """Runs a program at this rank to its end and closes the channel.

    The program is what all parties agreed to compute: it may reveal values. All ranks must bring the same one;
    they compare digests before they start.

    Args:
        program: a script, run as `__main__`, or a function.
        source: of a function: bytes that name it, equal at all parties and the dealer. A script's are its own.

    Returns: the function's result, or the script's globals.
    """
    if isinstance(program, Path):
        source = program.read_bytes()
    try:
        install()
        session = FreeSession(channel, parties, program_digest(parties, source), progress=progress)
        with behind(Fence(session, allow_open=True, frac_bits=frac_bits)):
            main = program if not isinstance(program, Path) else partial(runpy.run_path, str(program), None, "__main__")
            result = main()
        session.finish()
    except BaseException as error:
        channel.close(error if isinstance(error, EnclaveError) else EnclaveError("the program failed"))
        raise
    channel.close()
    return result


def serve_program(channel: Channel, parties: int, source: bytes, limits: DealerLimits | None = None) -> None:
    """Deals for a program until it ends and closes the channel. The dealer needs the source's digest, not its sense."""
    try:
        FreeDealer(channel, parties, program_digest(parties, source), limits).serve()
    except BaseException as error:
        channel.close(error if isinstance(error, EnclaveError) else EnclaveError("the dealer failed"))
        raise
    channel.close()

"""A job tried out here, in plaintext, on the mock twins of its data sets: nothing leaves this machine.

It finds what would otherwise end a session: an encoding that does not fit the columns, a model that does not fit
the encoding, values that leave the fixed-point range. The figures mean nothing, the rows are made up.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from enclave.engines.interface import Permit
from enclave.errors import BadInput, EnclaveError
from enclave.messages import JobSpec, PartyRef
from parties.buyer.preparing import Draft

if TYPE_CHECKING:
    from enclave.datasets import RowSource
    from enclave.workloads import Result

__all__ = ["in_the_clear", "outcome", "rehearse"]


def rehearse(draft: Draft) -> Result:
    """Runs the draft's job on mock rows with the plain engine; raises what the job would raise, with a note."""
    try:
        return _tried(draft)
    except EnclaveError as error:
        error.add_note("this came up on the mock twins, on this machine: no job was proposed")
        raise


def outcome(result: Result) -> str:
    """What a trial found, in one line for the user."""
    said = ", ".join(f"{name} {figure:.4f}" for name, figure in result.figures.items())
    made_up = f": {said} on made-up rows, which mean nothing" if said else ""
    return f"mock run  passed{made_up}; now the job itself"


def _tried(draft: Draft) -> Result:
    from enclave.engines.plain import InsecurePlainEngine
    from enclave.workloads import Inputs, finish, opened_outputs, release, run

    if draft.parties is None or not draft.parties.offers:
        raise BadInput("a trial needs the mock twins, which come from the owners' nodes")
    with tempfile.TemporaryDirectory() as scratch:
        rows = _mock_rows(draft, Path(scratch))
        spec = _resized(draft.spec, rows)
        if draft.own is not None:
            rows[len(spec.datasets)] = draft.own
        # Rounded to the job's fractional bits, and refusing products that the ring could not hold.
        spec = in_the_clear(spec)
        engine = InsecurePlainEngine(spec.frac_bits, parties=len(spec.compute_parties), round_to=spec.frac_bits)
        sealed = run(engine, spec, Inputs(model=draft.model, by_rank=rows))
        permit = Permit(spec.job_id, opened_outputs(spec))
        return finish(spec, release(engine, spec, sealed, permit) or {})


def in_the_clear(spec: JobSpec) -> JobSpec:
    """The same job for the plain engine, which knows one way to compute: a dealer stands in where there is none.

    A training without a dealer goes other ways than one on shares: its figures are not those of the job.
    """
    standing_in = () if spec.has_dealer else (PartyRef("nobody", "dealer", bytes(32)),)
    return replace(spec, engine="mpc", parties=(*spec.parties, *standing_in))


def _mock_rows(draft: Draft, scratch: Path) -> dict[int, RowSource]:
    from enclave.datasets import RowSource

    assert draft.parties is not None
    found: dict[int, RowSource] = {}
    for rank, offer in enumerate(draft.parties.offers):
        if not offer.info.mock_parquet:
            raise BadInput(f"{offer.name} has no mock twin", hint="leave out --mock")
        path = scratch / f"{rank}.parquet"
        path.write_bytes(offer.info.mock_parquet)
        found[rank] = RowSource(path, draft.spec.encoding)
        found[rank].check()
    return found


def _resized(spec: JobSpec, rows: dict[int, RowSource]) -> JobSpec:
    datasets = tuple(replace(ref, rows=rows[rank].rows) for rank, ref in enumerate(spec.datasets))
    return replace(spec, datasets=datasets)

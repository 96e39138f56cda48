"""Is what the store says of the past still true? Asked at every start, before anything is served."""

from __future__ import annotations

from enclave.errors import EnclaveError, StoreError
from enclave.identity import Card
from enclave.ledger import verify_chain
from enclave.messages import LedgerEntry
from enclave.store import Store

_HINT = "keep the store as it is for the auditor, and restore a copy of it"


def checked_ledger(store: Store, card: Card) -> tuple[LedgerEntry, ...]:
    """All entries, after checking every signature and link, and that the last word on each job is the job's state.

    Raises:
        StoreError: it does not hold.
    """
    signed, states = store.read("check ledger", lambda tx: (tx.entries(), tx.states()))
    try:
        chain = verify_chain(signed, card)
    except EnclaveError as error:
        raise StoreError(f"the ledger is damaged: {error.public}", hint=_HINT) from error
    said = {entry.job_id: entry.event for entry in chain}
    known = {job_id: state.lower() for job_id, state in states.items()}
    if said != known:
        wrong = min(job_id for job_id in said.keys() | known.keys() if said.get(job_id) != known.get(job_id))
        raise StoreError(
            f"the ledger disagrees with the jobs: for {wrong} it says {said.get(wrong)}, the job is {known.get(wrong)}",
            hint=_HINT,
        )
    return chain

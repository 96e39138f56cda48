"""A node's durable memory: one SQLite file, one door (`Store.run_tx`)."""

from enclave.store.database import Store
from enclave.store.records import DOCUMENTS, FINAL, STATES, JobRecord, StoredApproval
from enclave.store.transaction import Tx

__all__ = ["DOCUMENTS", "FINAL", "STATES", "JobRecord", "Store", "StoredApproval", "Tx"]

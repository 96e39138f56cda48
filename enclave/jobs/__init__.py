"""The life of a job at one party: one set of allowed transitions, each recorded in the signed ledger.

                     ┌──────────► REFUSED ◄───────────────────────┐
                     │               ▲                            │ the gate
                     │ policy        │ policy changed             │
      propose ──► PROPOSED ──────► ADMITTED ──────► RUNNING ──► SEALED ──────► RELEASED
                   │    │ decide    │  │  │  lease   │  │        │  │  gate
                   │    │           │  │  └──────────┼──┴────────┴──┼───────► FAILED
                   │    └───────────┼──┴─────────────┴──────────────┴───────► WITHDRAWN
                   └────────────────┴───────────────────────────────────────► EXPIRED

A transition and its ledger entry are one transaction; there is no other way to change a state. The graph has no
cycle, so no job enters a state twice, and the store refuses a second entry of one kind for one job.

RELEASED is committed *before* this party's share of the result leaves. After a crash between the two the job stays
RELEASED although nothing left: releasing at most once is what the owner was promised, and asking again is a new job.

A restart (`recover`) leaves no job between two chairs:
- PROPOSED is kept. It waits for a person, or the crash came before the policy was asked: `decide` may be called again.
- ADMITTED is kept, its start is forgotten: the peers of that start are gone. It runs when it is started again, or
  becomes EXPIRED.
- RUNNING becomes FAILED with the rule `node.restarted`. The session died with its worker, and its masks must not be
  used a second time: a retry is a new job with a new session.
- SEALED becomes FAILED as well: its shares were in the dead worker, and no release was committed.
"""

from enclave.jobs.book import Jobs
from enclave.jobs.rules import TRANSITIONS, History, JobLimits, Judge, spec_digest
from enclave.store import DOCUMENTS, FINAL, STATES, JobRecord

__all__ = [
    "DOCUMENTS",
    "FINAL",
    "STATES",
    "TRANSITIONS",
    "History",
    "JobLimits",
    "JobRecord",
    "Jobs",
    "Judge",
    "spec_digest",
]

"""Receipts: what all parties of a finished job sign, and the offline check of it.

    statement      each party signs what it says of the job             (domain "statement")
    body           the buyer puts the signed spec and all statements together
    countersign    each party signs SHA-256(body) after checking it     (domain "receipt")
    receipt        body, countersignatures in rank order, cards in rank order

Equivocation shows: every party's statement lies in the body that every party signs, and what one party says it
sent must be what the other says it received. A receipt has one encoding only: whatever is not signed (the outer
envelope) must be byte for byte what its fields encode to, so no bytes ride along unsigned.

`verify_receipt` needs the file and nothing else. With the cards of the parties at hand (`trusted`) it says that
*these* parties signed ("authenticated"); without them, that whoever signed agrees with itself ("consistent").

A receipt that releases something says RELEASED for every party. One that releases nothing may name different ends:
one owner refused, the others were told that the job is withdrawn. No party of it may say RELEASED.

Claims are lines "key=value". A key that two parties state must have one value, except keys that begin with
"node.": those describe a single machine.

Inclusion proofs of the ledger are not part of this version; a statement carries its ledger's head and index.
"""

from enclave.receipts.checks import FINAL_STATES, MAX_RECEIPT_BYTES, OWN_CLAIMS, SMALLEST_P, Check, Checks, digest
from enclave.receipts.receipt import (
    Verified,
    assemble,
    complete,
    countersign,
    outputs_digest,
    sign_statement,
    verify_receipt,
)

__all__ = [
    "FINAL_STATES",
    "MAX_RECEIPT_BYTES",
    "OWN_CLAIMS",
    "SMALLEST_P",
    "Check",
    "Checks",
    "Verified",
    "assemble",
    "complete",
    "countersign",
    "digest",
    "outputs_digest",
    "sign_statement",
    "verify_receipt",
]

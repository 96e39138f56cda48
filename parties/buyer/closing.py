"""The end of a job for all its parties: every statement collected, one receipt that all sign, and all keep it.

A job that was released has one end. Any other job may have several: one owner refused it, a session failed at two
nodes, the rest is withdrawn. The buyer sees to it that every node has reached some end, and then asks all of them
to sign one receipt that releases nothing. It needs everybody's answer; what cannot be had now is asked for again by
the next `result`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enclave.clock import Clock
from enclave.errors import EnclaveError, NotReady, Refused, SessionError
from enclave.identity import Identity, TrustStore
from enclave.messages import JobSpec, Signed, Statement
from parties.buyer.book import Book
from parties.buyer.network import Network, everywhere
from parties.buyer.records import OUTPUTS, RECEIPT, JobFolder
from parties.node.statements import Statements

if TYPE_CHECKING:
    from parties.server import NodeClient

__all__ = ["Closing", "Ended", "no_claims"]

_NOTHING: Mapping[str, Any] = {"digest": "", "released": ()}
_STATEMENT_S = 10.0
_ANSWER_S = 5.0  # a node that is gone must not hold up the command that failed because of it


@dataclass(frozen=True, slots=True)
class Ended:
    """What there is to show for the end of a job.

    Attributes:
        statements: what each party said, by name; the receipt needs all of them.
        receipt: the receipt's file, None when there is none yet.
        problems: one line each.
    """

    statements: Mapping[str, Statement]
    receipt: Path | None
    problems: tuple[str, ...]

    def line(self, job_id: str) -> str:
        """The outcome in one line, for a person."""
        said = "; ".join(self.problems)
        if self.receipt is None:
            return f"no receipt yet: {said}; `enclave buyer result {job_id}` tries again"
        return f"the receipt of this end, signed by all, is {self.receipt}" + (f"; {said}" if said else "")


class Closing:
    """Closes jobs that are final in the buyer's own book."""

    def __init__(self, *, identity: Identity, trust: TrustStore, book: Book, clock: Clock) -> None:
        self._identity = identity
        self._trust = trust
        self._book = book
        self._statements = Statements(book.jobs, identity, clock, no_claims)

    def close(self, folder: JobFolder, clients: Sequence[NodeClient] | None = None) -> Ended:
        """Ends the job at every node where it has not ended, then makes the receipt and hands it out.

        Never raises for what others do or fail to do: that is in the problems. What was signed by those who answered
        is kept in the folder.

        Args:
            clients: connections to all nodes of the job; new ones, with less patience, if there are none.
        """
        said: dict[str, Signed] = {}
        problems: list[str] = []
        try:
            if clients is not None:
                self._close(folder, clients, said, problems)
            else:
                with Network(self._identity, self._trust, deadline_s=_ANSWER_S) as network:
                    self._close(folder, network.clients(folder.spec()), said, problems)
            if not folder.has(RECEIPT):
                for name, signed in said.items():
                    folder.write(f"statement-{name}.pb", signed.encode())
        except EnclaveError as error:
            problems.append(error.public)
        receipt = folder.path / RECEIPT if folder.has(RECEIPT) else None
        statements = {name: Statement.decode(signed.body) for name, signed in said.items()}
        return Ended(statements, receipt, tuple(problems))

    def _close(
        self, folder: JobFolder, clients: Sequence[NodeClient], said: dict[str, Signed], problems: list[str]
    ) -> None:
        spec, signed = folder.spec(), folder.signed()
        own = said[self._identity.name] = self._statements.write(spec.job_id)
        released = Statement.decode(own.body).state == "RELEASED"
        end_s = time.monotonic() + _STATEMENT_S

        def ask(client: NodeClient) -> Signed:
            if not released:
                _end_at(client, signed, spec.job_id)
            return _statement(client, spec.job_id, end_s)

        for client, answer in zip(clients, everywhere(ask, clients), strict=True):
            if isinstance(answer, EnclaveError):
                problems.append(answer.public)
            else:
                said[client.card.name] = answer
        problems += _contradictions(said, released)
        if problems:
            return
        receipt = self._receipt(folder, spec, signed, said, clients, released)
        folder.write(RECEIPT, receipt)
        self._book.jobs.save_document(spec.job_id, "receipt", receipt)
        kept = everywhere(lambda client: client.deposit(receipt), clients)
        problems += [
            f"{client.card.name} did not keep the receipt: {answer.public}"
            for client, answer in zip(clients, kept, strict=True)
            if isinstance(answer, EnclaveError)
        ]

    def _receipt(
        self,
        folder: JobFolder,
        spec: JobSpec,
        signed: Signed,
        said: Mapping[str, Signed],
        clients: Sequence[NodeClient],
        released: bool,
    ) -> bytes:
        from enclave.receipts import assemble, complete, countersign

        outputs = folder.read_json(OUTPUTS) if released else _NOTHING
        body = assemble(
            signed,
            [said[party.name] for party in spec.parties],
            outputs_digest=bytes.fromhex(outputs["digest"]),
            released=tuple(outputs["released"]),
        )
        identity = self._identity
        cards = [identity.card if p.role == "buyer" else self._trust.by_key_id(p.key_id) for p in spec.parties]
        own = countersign(identity, body, statement=said[identity.name], spec=signed, cards=cards)
        asked = identity.sign("receipt", body)
        by_key: dict[bytes, Signed] = {identity.key_id: own}
        for client, answer in zip(clients, everywhere(lambda c: c.countersign(asked), clients), strict=True):
            if isinstance(answer, EnclaveError):
                raise answer
            by_key[client.card.key_id] = answer
        return complete(body, [by_key[card.key_id] for card in cards], cards)


def no_claims(spec: JobSpec) -> tuple[str, ...]:
    """What a node claims of itself concerns its server and its profile; a buyer has neither."""
    return ()


def _end_at(client: NodeClient, signed: Signed, job_id: str) -> None:
    """Withdraws the job at a node; a node where it is final already leaves it as it is."""
    try:
        client.withdraw(job_id)
    except Refused as error:
        if error.code != "job.unknown":
            raise
        # It was unreachable when the job was proposed. It learns of the job in order to sign that it has ended.
        client.propose(signed)
        client.withdraw(job_id)


def _statement(client: NodeClient, job_id: str, end_s: float) -> Signed:
    """The node's statement, which it writes a moment after its worker has ended."""
    while True:
        try:
            documents = client.fetch(job_id)
            if "statement" in documents:
                return Signed.decode(documents["statement"])
        except NotReady:
            pass
        if time.monotonic() > end_s:
            raise SessionError(f"{client.card.name} has made no statement about job {job_id}", code="session.statement")
        time.sleep(0.05)


def _contradictions(said: Mapping[str, Signed], released: bool) -> list[str]:
    """Parties that released a job which is not released here, or the other way round: no receipt can hold both."""
    found = []
    for name, signed in said.items():
        state = Statement.decode(signed.body).state
        if (state == "RELEASED") != released:
            found.append(f"{name} states that the job is {state.lower()}")
    return found

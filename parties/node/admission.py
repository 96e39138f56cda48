"""What a node decides about a job, and from which facts. The rules themselves are in `enclave.policy`."""

from __future__ import annotations

import threading
from collections.abc import Callable

from enclave.clock import Clock
from enclave.errors import BadData, BadInput, EnclaveError
from enclave.executor.catalogue import Catalogue, Registered
from enclave.executor.dealing import stock_bytes
from enclave.executor.session import Sealing
from enclave.identity import Card, Identity, TrustStore
from enclave.jobs import History, JobRecord, Judge
from enclave.messages import DatasetInfo, JobSpec, Reason, Transcript
from enclave.policy import Facts, Policy, awaits_approval
from enclave.receipts import SMALLEST_P
from parties.config import NodeConfig

__all__ = ["Admission"]

# A caller who may not ask at all learns nothing about the data set it named, not even whether there is one.
_CALLER_RULES = ("policy.caller", "policy.buyer")


class Admission:
    """Owner and dealer alike: an owner has a policy for each data set, a dealer has limits.

    Args:
        check_plan: raises EnclaveError unless the plan derived here is the one that the job names.
    """

    def __init__(
        self,
        identity: Identity,
        trust: TrustStore,
        catalogue: Catalogue,
        config: NodeConfig,
        clock: Clock,
        check_plan: Callable[[JobSpec], int],
    ) -> None:
        self._identity = identity
        self._trust = trust
        self._catalogue = catalogue
        self._config = config
        self._clock = clock
        self._check_plan = check_plan
        # One plan at a time: many at once would add up their memory, and gain nothing on one interpreter.
        self._planning = threading.Lock()

    def offers(self, caller: Card) -> tuple[DatasetInfo, ...]:
        """The data sets whose policy lets the caller ask, with what it could allow."""
        found = []
        for registered in self._catalogue.all():
            policy = Policy.parse(registered.description)
            own = caller.key_id == self._identity.key_id
            if own or policy.allows_buyer(caller.name, production=self._config.production):
                found.append(_offer(registered, policy))
        return tuple(found)

    def judge(self, spec: JobSpec) -> Judge:
        """The decision about a proposal, ready to be made within a transaction.

        What takes time or touches the disk happens here, before the transaction.
        """
        caller = self._trust.by_key_id(spec.buyer.key_id)
        registered = self._registered(spec)
        policy = Policy.parse(registered.description) if registered else Policy()

        def reasons(history: History) -> tuple[Reason, ...]:
            if self._identity.role == "dealer":
                return self._against_limits(spec)
            unknown = (Reason("policy.dataset", f"{self._identity.name} offers {caller.name} no such data set"),)
            if registered is None:
                return unknown
            facts = self._facts(caller, registered, history)
            found = (*self._against_limits(spec), *policy.admit(spec, facts))
            if any(reason.rule in _CALLER_RULES for reason in found):
                return unknown
            if any(reason.rule == "policy.column" for reason in found):
                # What does not fit a column that may not be used would describe it.
                return found
            return (*found, *_against_encoding(spec, registered))

        first = reasons(History(granted=0, approved=False))
        # The plan of a job that is refused anyway is not worth deriving, and a stranger must not make us derive it.
        planned = self._against_plan(spec) if not first or awaits_approval(first) else ()

        def judge(record: JobRecord, history: History) -> tuple[str, tuple[Reason, ...]]:
            found = (*reasons(history), *planned)
            if not found:
                return "ADMITTED", ()
            return ("PROPOSED" if awaits_approval(found) else "REFUSED"), found

        return judge

    def release(self, spec: JobSpec, sealing: Sealing, history: History) -> tuple[Reason, ...]:
        """Every reason why a sealed result must not leave, as the policy stands now; empty if it may."""
        found = list(_against_transcript(sealing.transcript))
        if self._identity.role == "dealer":
            return tuple(found)
        registered = self._registered(spec)
        if registered is None:
            return (*found, Reason("policy.dataset", "the data set is no longer registered"))
        try:
            caller = self._trust.by_key_id(spec.buyer.key_id)
            policy = Policy.parse(registered.description)
        except EnclaveError as error:
            return (*found, Reason("policy.caller", error.public))
        return (*found, *policy.release(spec, sealing.outputs, self._facts(caller, registered, history)))

    def _registered(self, spec: JobSpec) -> Registered | None:
        name = next((d.name for d in spec.datasets if d.owner == self._identity.name), "")
        try:
            return self._catalogue.get(name) if name else None
        except BadInput:
            return None

    def _facts(self, caller: Card, registered: Registered, history: History) -> Facts:
        ref = registered.info.ref
        cards = (*self._trust.cards(), self._identity.card)
        return Facts(
            caller=caller.name,
            caller_role=caller.role,
            caller_key_id=caller.key_id,
            owner=self._identity.name,
            dataset=ref.name,
            version=ref.version,
            rows=ref.rows,
            columns=tuple(column.name for column in registered.info.columns),
            trusted=frozenset((card.name, card.role, card.key_id) for card in cards),
            unix_s=self._clock.unix_s(),
            production=self._config.production,
            approved=history.approved,
            granted_jobs=history.granted,
        )

    def _against_limits(self, spec: JobSpec) -> tuple[Reason, ...]:
        found = []
        if spec.rows > self._config.max_rows:
            found.append(Reason("node.rows", f"{spec.rows} rows in all, at most {self._config.max_rows} here"))
        dealer = spec.dealer
        if self._config.production and dealer is not None and spec.dealer_kin:
            kin = ", ".join(party.name for party in spec.dealer_kin)
            text = f"{dealer.run_by} runs the dealer {dealer.name} and {kin}: they could pool what they have"
            found.append(Reason("node.dealer.organisation", text))
        if self._identity.role == "dealer":
            # An owner's policy says the same for owners; a dealer has no policy.
            cards = (*self._trust.cards(), self._identity.card)
            known = {(card.name, card.role, card.key_id) for card in cards}
            for party in spec.parties:
                if (party.name, party.role, party.key_id) not in known:
                    text = f"{party.role} {party.name} with key {party.key_id.hex()[:16]} is not trusted here"
                    found.append(Reason("policy.party", text))
        return tuple(found)

    def _against_plan(self, spec: JobSpec) -> tuple[Reason, ...]:
        try:
            with self._planning:
                dealer_bytes = self._check_plan(spec)
        except EnclaveError as error:
            return (Reason("plan.mismatch" if error.code == "plan" else error.code, error.public),)
        if self._identity.role == "dealer" and dealer_bytes > self._config.max_dealer_bytes:
            text = f"the job needs {dealer_bytes} dealer bytes, at most {self._config.max_dealer_bytes} here"
            return (Reason("dealer.bytes", text),)
        need = stock_bytes(spec, spec.rank(self._identity.name), dealer_bytes) if spec.deal_ahead else 0
        if need > self._config.max_stock_bytes:
            text = f"dealing ahead needs {need} bytes of disk, at most {self._config.max_stock_bytes} here"
            return (Reason("node.stock", text),)
        return ()


def _offer(registered: Registered, policy: Policy) -> DatasetInfo:
    info = registered.info
    columns = info.columns if policy.columns is None else tuple(c for c in info.columns if c.name in policy.columns)
    return DatasetInfo(
        ref=info.ref,
        description=info.description,
        columns=columns,
        job_kinds=policy.kinds,
        outputs=policy.outputs,
        minimum_rows=policy.minimum_rows,
        approval=policy.approval,
        mock_parquet=info.mock_parquet,
        engines=policy.engines,
    )


def _against_encoding(spec: JobSpec, registered: Registered) -> tuple[Reason, ...]:
    try:
        registered.cover(spec.encoding)
    except BadData as error:
        return (Reason("encoding.column", error.public),)
    return ()


def _against_transcript(transcript: Transcript) -> tuple[Reason, ...]:
    found = []
    if not transcript.equals_plan:
        found.append(Reason("leakage.plan", "the transcript is not the plan's"))
    if transcript.reused_masks:
        found.append(Reason("leakage.masks", f"{transcript.reused_masks} masks were used twice"))
    if transcript.uniformity_p < SMALLEST_P:
        text = f"opened values are not uniform: p = {transcript.uniformity_p:.3g}, at least {SMALLEST_P:.3g} expected"
        found.append(Reason("leakage.uniformity", text))
    return tuple(found)

"""The nodes that a buyer talks to: who they are, what they offer, and calls to several of them at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from enclave.errors import BadInput, EnclaveError, SessionError, Untrusted
from enclave.identity import Card, Identity, TrustStore
from enclave.messages import JobSpec
from parties.buyer.preparing import Parties, imagined
from parties.buyer.specs import Offer, split_data

if TYPE_CHECKING:
    from parties.server import NodeClient

__all__ = ["Catalogue", "Network", "everywhere", "gather"]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What all reachable owners offer; `problems` says of the others why they are missing."""

    offers: tuple[Offer, ...]
    problems: Mapping[str, EnclaveError]


class Network:
    """Connections to nodes, opened when first needed and closed together."""

    def __init__(self, identity: Identity, trust: TrustStore, *, deadline_s: float = 15.0) -> None:
        self._identity = identity
        self._trust = trust
        self._deadline_s = deadline_s
        self._clients: dict[bytes, NodeClient] = {}

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def client(self, card: Card) -> NodeClient:
        """The connection to the node of `card`."""
        from parties.server import NodeClient

        if card.key_id not in self._clients:
            self._clients[card.key_id] = NodeClient(self._identity, card, deadline_s=self._deadline_s)
        return self._clients[card.key_id]

    def clients(self, spec: JobSpec) -> tuple[NodeClient, ...]:
        """Connections to all nodes of a job: the owners in rank order, then the dealer."""
        cards = [self._trust.by_key_id(p.key_id) for p in spec.parties if p.role != "buyer"]
        return tuple(self.client(card) for card in cards)

    def trusted(self, role: str) -> tuple[Card, ...]:
        """Trusted cards of one role."""
        return tuple(card for card in self._trust.cards() if card.role == role)

    def owner(self, name: str) -> Card:
        """The trusted owner called `name`."""
        card = self._trust.by_name(name)
        if card.role != "owner":
            raise BadInput(f"{name} is not an owner: its card says {card.role}")
        return card

    def dealer(self, name: str | None) -> Card:
        """The dealer called `name`, or the only trusted one."""
        dealers = self.trusted("dealer")
        if name is not None:
            for card in dealers:
                if card.name == name:
                    return card
            raise Untrusted(f"no dealer called {name[:80]!r} is trusted", hint="run `enclave trust CARD` with its card")
        if len(dealers) != 1:
            found = ", ".join(card.name for card in dealers) or "none"
            raise BadInput(
                f"expected one trusted dealer, found {found}",
                hint="name one with --dealer"
                if dealers
                else "run `enclave trust CARD` with the card of a dealer, or take --engine he, which can do without",
            )
        return dealers[0]

    def catalogue(self) -> Catalogue:
        """Asks every trusted owner what it offers."""
        owners = self.trusted("owner")
        replies = everywhere(lambda card: self.client(card).describe(), owners)
        offers: list[Offer] = []
        problems: dict[str, EnclaveError] = {}
        for card, reply in zip(owners, replies, strict=True):
            if isinstance(reply, EnclaveError):
                problems[card.name] = reply
            else:
                offers += [Offer(card, info, reply.code_version) for info in reply.datasets]
        return Catalogue(tuple(offers), problems)

    def offers(self, wanted: Sequence[tuple[str, str]], dealer: Card | None) -> tuple[Offer, ...]:
        """The data sets `wanted` as (owner, data set). The dealer, if there is one, must answer too.

        Raises: SessionError or Untrusted naming the node that does not answer; BadInput when a data set is unknown.
        """
        cards = [self.owner(owner) for owner, _ in wanted]
        asked = cards if dealer is None else [*cards, dealer]
        replies = _all(everywhere(lambda card: self.client(card).describe(), asked))
        found = []
        for (owner, name), card, reply in zip(wanted, cards, replies, strict=False):
            infos = {info.ref.name: info for info in reply.datasets}
            if name not in infos:
                offered = ", ".join(infos) or "nothing"
                raise BadInput(f"{owner} offers no data set {name[:80]!r}: it offers {offered}")
            if infos[name].ref.owner != owner:
                raise SessionError(f"{owner} describes a data set of {infos[name].ref.owner} as its own")
            found.append(Offer(card, infos[name], reply.code_version))
        return tuple(found)


def gather(
    network: Network, data: Sequence[str], dealer: str | None, rows: Sequence[int] | None, buyer: Card, engine: str
) -> Parties:
    """Who takes part in a job on `data`.

    Args:
        dealer: its name, None for the only trusted one. Where the engine can do without, there may be none.
        rows: one count per data set, of a quote for which nobody is asked; else None.
        engine: "mpc", "hybrid", "he" or "auto".

    Raises: as `Network.offers`; BadInput when the engine needs a dealer and none can be told.
    """
    wanted, needed = split_data(data), engine not in ("he", "auto")
    if rows is not None:
        known = [card.name for card in network.trusted("dealer")]
        return imagined(wanted, rows, buyer, dealer or (known[0] if known else "dealer" if needed else ""))
    card, missing = None, None
    try:
        card = network.dealer(dealer)
        if engine == "auto":
            network.client(card).describe()
    except EnclaveError as error:
        if needed or dealer is not None:
            raise
        card, missing = None, error
    # Safety: engine he tells a dealer nothing of a job that it may turn out to do without.
    offers = network.offers(wanted, card if needed else None)
    return Parties(
        owners=tuple(offer.owner for offer in offers),
        datasets=tuple(offer.info.ref for offer in offers),
        buyer=buyer,
        dealer=card,
        offers=offers,
        no_dealer=missing,
    )


def everywhere(call: Callable[[T], R], targets: Sequence[T]) -> list[R | EnclaveError]:
    """`call` for every target at the same time: each result, or the error it ended with, in order."""

    def one(target: T) -> R | EnclaveError:
        try:
            return call(target)
        except EnclaveError as error:
            return error

    if len(targets) <= 1:
        return [one(target) for target in targets]
    with ThreadPoolExecutor(max_workers=min(16, len(targets))) as pool:
        return list(pool.map(one, targets))


def _all(results: Sequence[R | EnclaveError]) -> list[R]:
    kept: list[R] = []
    for result in results:
        if isinstance(result, EnclaveError):
            raise result
        kept.append(result)
    return kept

"""Which engine a job runs on: the one asked for, or with "auto" the best of those that everybody allows.

Only public facts decide: the plans' quotes, the owners' policies, and whether a dealer is trusted. Of the engines that
could do a job the fastest is best; but one without a dealer, which trusts a party less, is better while it takes at
most `DEALER_PRICE` times as long, and a few seconds more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from enclave.errors import BadInput, EnclaveError, PolicyRefused
from enclave.messages import ENGINES, Encoding
from parties.buyer.preparing import Draft, Parties, evaluation, training
from parties.buyer.pricing import price
from parties.buyer.results import Option, Quote
from parties.buyer.specs import Schedule, Terms

__all__ = ["ASKED", "DEALER_PRICE", "Comparison", "Make", "compare", "drafted", "evaluating", "teaching"]

ASKED = (*ENGINES, "auto")
DEALER_PRICE, DEALER_PRICE_S = 2.0, 5.0
_DEALT = ("mpc", "hybrid")

Make = Callable[[Parties, Terms], Draft]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What each engine would cost, and which one the job runs on."""

    options: tuple[Option, ...]
    quote: Quote
    why: str
    draft: Draft = field(repr=False)

    def to_quote(self) -> Quote:
        """The chosen engine's quote, with the others beside it."""
        return replace(self.quote, options=self.options, why=self.why)


def evaluating(encoding: Encoding, model: Any, metrics: Sequence[str], predictions: bool) -> Make:
    """How an evaluation is drafted; see `preparing.evaluation`."""
    return lambda parties, terms: evaluation(parties, encoding, model, metrics, predictions, terms)


def teaching(encoding: Encoding, schedule: Schedule, metrics: Sequence[str], buyer_rows: int) -> Make:
    """How a training is drafted; see `preparing.training`."""
    return lambda parties, terms: training(parties, encoding, schedule, metrics, buyer_rows, terms)


def drafted(make: Make, parties: Parties, terms: Terms) -> Draft:
    """The draft on the engine of the terms, which is not "auto".

    Engine "he" takes no dealer where it can do without.

    Raises: BadInput, BadModel for what the engine cannot do, or when it needs a dealer and there is none.
    """
    alone = replace(parties, dealer=None)
    if terms.engine in _DEALT:
        if parties.dealer is None:
            raise parties.no_dealer or BadInput(f"engine {terms.engine} needs a dealer")
        return make(parties, terms)
    try:
        return make(alone, terms)
    except BadInput as error:
        if parties.dealer is None:
            raise
        try:
            return make(parties, terms)
        except BadInput:
            raise error from None


def compare(
    make: Make, parties: Parties, terms: Terms, *, bandwidth_bps: float = 1e8, latency_s: float = 0.02
) -> Comparison:
    """All engines side by side, and the one that the terms ask for, or the best.

    Raises: what stands in the way of the engine asked for; BadInput naming every obstacle when "auto" finds none.
    """
    tried = [_tried(make, parties, replace(terms, engine=engine), bandwidth_bps, latency_s) for engine in ENGINES]
    options = tuple(option for option, _, _ in tried)
    possible = [(option, found) for option, found, _ in tried if found is not None]
    if terms.engine != "auto":
        index = ENGINES.index(terms.engine)
        option, draft, error = tried[index]
        if draft is None or option.quote is None:
            assert error is not None
            raise error
        return Comparison(options, option.quote, "asked for", draft)
    allowed = [(option, draft) for option, draft in possible if not option.obstacle]
    if not allowed:
        raise _nothing_left([error for _, _, error in tried if error is not None], options)
    option, draft = _best(allowed)
    assert option.quote is not None
    return Comparison(options, option.quote, _why(option, options), draft)


def _tried(
    make: Make, parties: Parties, terms: Terms, bandwidth_bps: float, latency_s: float
) -> tuple[Option, Draft | None, EnclaveError | None]:
    try:
        draft = drafted(make, parties, terms)
        quote = price(draft, bandwidth_bps=bandwidth_bps, latency_s=latency_s)
    except EnclaveError as error:
        return Option(terms.engine, None, error.public), None, error
    refusal = _barred(parties, terms.engine)
    return Option(terms.engine, quote, refusal.public if refusal else ""), draft, refusal


def _barred(parties: Parties, engine: str) -> PolicyRefused | None:
    """The owners whose policies do not allow the engine; None where nobody was asked, or all do."""
    found = [
        f"{offer.name} allows {', '.join(offer.info.engines) or 'no engine'}"
        for offer in parties.offers
        if engine not in offer.info.engines
    ]
    return PolicyRefused(f"policy.engine: {'; '.join(found)}", rules=("policy.engine",)) if found else None


def _best(allowed: list[tuple[Option, Draft]]) -> tuple[Option, Draft]:
    def cost(candidate: tuple[Option, Draft]) -> float:
        quote = candidate[0].quote
        assert quote is not None
        return DEALER_PRICE * quote.seconds + DEALER_PRICE_S if quote.dealer else quote.seconds

    return min(allowed, key=cost)


def _why(best: Option, options: tuple[Option, ...]) -> str:
    assert best.quote is not None
    reasons = []
    for other in options:
        if other is best:
            continue
        if other.quote is None or other.obstacle:
            reasons.append(f"{other.engine} cannot: {other.obstacle}")
            continue
        times = other.quote.seconds / best.quote.seconds
        text = f"{other.engine} would take {times:.2g} times as long"
        if other.quote.dealer and not best.quote.dealer:
            text += " and need a dealer"
        reasons.append(text)
    mine = "needs no dealer, and takes" if not best.quote.dealer else "takes"
    return f"{best.engine} {mine} {best.quote.seconds:.2g} s; {'; '.join(reasons)}"


def _nothing_left(errors: list[EnclaveError], options: tuple[Option, ...]) -> EnclaveError:
    text = "no engine can do this job: " + "; ".join(f"{option.engine}: {option.obstacle}" for option in options)
    if all(isinstance(error, PolicyRefused) for error in errors):
        return PolicyRefused(text, rules=("policy.engine",))
    return BadInput(text, code=errors[-1].code, hint="change what stands in the way of one of them")

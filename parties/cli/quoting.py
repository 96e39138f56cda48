"""A quote for a person to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parties.buyer import Quote
from parties.buyer.results import MANY
from parties.cli.console import table
from parties.cli.units import bytes_text, seconds_text

if TYPE_CHECKING:
    from enclave.workloads.numeric import NumericPlan

__all__ = ["quote_text"]


def quote_text(quote: Quote) -> str:
    """The price of the chosen engine in full, then all engines in a line each."""
    rows = [(name, bytes_text(quote.cost.sent_by(name)), bytes_text(_received(quote, name))) for name in quote.parties]
    rate = f"{quote.bandwidth_bps / 1e6:g} Mbit/s, {quote.latency_s * 1e3:g} ms one way"
    return "\n".join(
        [
            f"{quote.kind} over {quote.rows:,} rows",
            f"engine   {quote.engine}, {f'dealer {quote.dealer}' if quote.dealer else 'without a dealer'}",
            f"rounds   {quote.cost.rounds:,}",
            f"bytes    {bytes_text(quote.cost.total_bytes)}, of these {bytes_text(quote.dealer_bytes)} from the dealer",
            f"time     {seconds_text(quote.seconds)} at {rate}",
            "",
            table(("party", "sends", "receives"), rows, right=(1, 2)),
            "",
            *([_hiding_text(quote), ""] if quote.hiding else []),
            _numbers_text(quote.numbers) if quote.dealer else _rounding_text(quote),
            *([_engines_text(quote)] if quote.options else []),
        ]
    )


def _hiding_text(quote: Quote) -> str:
    rows = [(h.label, "all" if h.bits is None else f"{h.bits:.0f}", h.method) for h in quote.hiding]
    return table(("rows leave an owner in", "hidden bits", "by"), rows, right=(1,))


def _engines_text(quote: Quote) -> str:
    rows = []
    for option in quote.options:
        mark, found = "*" if option.engine == quote.engine else "", option.quote
        if found is None:
            rows.append((f"{mark}{option.engine}", "", "", "", "", "", f"cannot: {option.obstacle}"))
            continue
        size = found.cost.total_bytes
        rows.append(
            (
                f"{mark}{option.engine}",
                found.dealer or "none",
                f"{found.cost.rounds:,}",
                bytes_text(size),
                bytes_text(MANY * size),
                seconds_text(found.seconds),
                option.obstacle,
            )
        )
    heads = ("engine", "dealer", "rounds", "bytes", f"of {MANY} models", "time", "")
    best = f"chosen: {quote.why}" if quote.why != "asked for" else "* is what was asked for; --engine auto chooses"
    return "\n".join(["", table(heads, rows, right=(2, 3, 4, 5)), "", best])


def _rounding_text(quote: Quote) -> str:
    text = f"rows are rounded to at most {quote.numbers.frac_bits} fractional bits"
    error = quote.numbers.output_error
    return text if quote.kind == "train" or error is None else f"{text}; error of an output: at most {error:.2g}"


def _numbers_text(numbers: NumericPlan) -> str:
    rows = [
        (
            step.name,
            step.op,
            "watched" if step.bound is None else f"{step.bound:.4g}",
            f"{step.limit:.4g}",
            step.digits,
            "not stated" if step.error is None else f"{step.error:.2g}",
            "none" if step.failure == 0 else f"{step.failure:.1g}",
        )
        for step in numbers.steps
    ]
    stated = "depends on the data" if numbers.output_error is None else f"at most {numbers.output_error:.2g}"
    lines = [
        table(("number", "", "at most", "limit", "bits", "error", "missed"), rows, right=(2, 3, 4, 5, 6)),
        "",
        f"fixed point with {numbers.frac_bits} fractional bits; error of an output: {stated}",
    ]
    watched = dict.fromkeys(step.on_failure for step in numbers.steps if step.failure)
    return "\n".join(
        [
            *lines,
            *(f"watched: a number beyond its limit is noticed at the end; {text}" for text in watched),
            *(["missed: the probability that one number beyond its limit is not noticed"] if watched else []),
        ]
    )


def _received(quote: Quote, name: str) -> int:
    return sum(size for (_, target), size in quote.cost.link_bytes.items() if target == name)

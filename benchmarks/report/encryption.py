"""The part of the page about the suite `he`: every system beside this project, and the figures of each line."""

from __future__ import annotations

import html
from collections.abc import Sequence

from benchmarks.measurement import Measurement
from benchmarks.report.plots import readable_bytes, readable_seconds

__all__ = ["encryption"]

_OWN, _PLAIN = "enclave", "plain"
_BYTES = ("bytes", "masked_bytes", "up_bytes", "row_bytes")


def encryption(measured: Sequence[Measurement]) -> str:
    """A section: times, ratios, bytes, errors and figures."""
    by_case: dict[str, dict[str, Measurement]] = {}
    for one in measured:
        by_case.setdefault(one.case, {})[one.system] = one
    systems = [name for name in dict.fromkeys(one.system for one in measured) if name not in (_OWN, _PLAIN)]
    heads = [
        "case",
        _OWN,
        *(f"{name} \u00f7" for name in systems),
        _PLAIN,
        "sent",
        "received",
        "peak",
        "error",
        "figures",
    ]
    rows = []
    for case, found in by_case.items():
        own, plain = found.get(_OWN), found.get(_PLAIN)
        shown = own or next(iter(found.values()))
        cells = [
            _time(own),
            *(_ratio(found.get(name), own) for name in systems),
            _time(plain),
            _bytes(shown.sent_bytes),
            _bytes(shown.received_bytes),
            _bytes(max(shown.peak_rss_bytes.values()) if shown.peak_rss_bytes else None),
            "" if shown.max_error is None else f"{shown.max_error:.1e}",
        ]
        row = "".join(f'<td class="n">{html.escape(cell)}</td>' for cell in cells)
        rows.append(f"<tr><td>{html.escape(case)}</td>{row}<td>{html.escape(_figures(shown))}</td></tr>")
    head = "".join(
        f"<th{'' if i in (0, len(heads) - 1) else ' class=n'}>{html.escape(n)}</th>" for i, n in enumerate(heads)
    )
    return (
        "<section><h2>Homomorphic encryption</h2>"
        '<p class="note">CPU time of all threads and parties, one thread for each library. Columns with \u00f7 are '
        "times over that of enclave, followed by the time itself. Bytes, errors and figures are those of enclave where "
        "it was measured. What each case holds: <code>benchmarks/he/cases.py</code>.</p>"
        f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div></section>'
    )


def _time(one: Measurement | None) -> str:
    return readable_seconds(one.median_s) if one is not None and one.median_s else ""


def _ratio(other: Measurement | None, own: Measurement | None) -> str:
    if other is None or not other.median_s:
        return ""
    if own is None or not own.median_s:
        return readable_seconds(other.median_s)
    ratio = other.median_s / own.median_s
    return f"{f'{ratio:.2f}' if ratio < 10 else f'{ratio:,.0f}'} ({readable_seconds(other.median_s)})"


def _bytes(count: int | None) -> str:
    return "" if count is None else readable_bytes(count)


def _figures(one: Measurement) -> str:
    parts = []
    if one.accuracy is not None:
        parts.append(f"accuracy {one.accuracy:.4f}, in the clear {one.plain_accuracy:.4f}")
    if one.reference_accuracy is not None:
        parts.append(f"scikit-learn {one.reference_accuracy:.4f}")
    for name, value in (one.figures or {}).items():
        text = readable_bytes(value) if name in _BYTES else f"{value:,.4g}"
        text = readable_seconds(value) if name.endswith("_s") and not name.endswith("per_s") else text
        parts.append(f"{name.replace('_', ' ')} {text}")
    return ", ".join(parts)

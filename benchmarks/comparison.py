"""Systems side by side, case by case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.measurement import Measurement

__all__ = ["compare", "table"]

BASELINE = "plain"
_COLUMNS = (
    ("case", "case", ""),
    ("system", "system", ""),
    ("accuracy", "accuracy", ".4f"),
    ("difference_points", "points", "+.3f"),
    ("reference_accuracy", "reference", ".4f"),
    ("auc", "auc", ".4f"),
    ("difference_auc", "d auc", "+.4f"),
    ("median_s", "s", ".2f"),
    ("ratio", "x plain", ".1f"),
    ("rounds", "rounds", ",d"),
    ("sent_mb", "MB sent", ",.2f"),
    ("dealer_mb", "MB dealt", ",.2f"),
    ("peak_mb", "MB peak", ",.0f"),
)


def compare(found: Iterable[Measurement]) -> list[dict[str, Any]]:
    """One row per case and system, in order of first appearance; a later line of the same pair replaces an earlier.

    `ratio` is the system's median time over that of the plain one, where both were measured.
    """
    latest: dict[tuple[str, str], Measurement] = {}
    for one in found:
        latest[one.case, one.system] = one
    return [_row(one, latest.get((one.case, BASELINE))) for one in latest.values()]


def _row(one: Measurement, plain: Measurement | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "case": one.case,
        "system": one.system,
        "accuracy": one.accuracy,
        "difference_points": one.difference_points,
        "reference_accuracy": one.reference_accuracy,
        "auc": one.auc,
        "difference_auc": one.difference_auc,
        "median_s": one.median_s,
        "rounds": one.rounds,
        "sent_mb": _mega(one.sent_bytes),
        "dealer_mb": _mega(one.dealer_bytes),
        "peak_mb": _mega(max(one.peak_rss_bytes.values()) if one.peak_rss_bytes else None),
        "error": one.error,
    }
    if plain is not None and plain.median_s and one.median_s:
        row["ratio"] = one.median_s / plain.median_s
    return {name: value for name, value in row.items() if value is not None}


def _mega(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as aligned text; columns that no row fills are left out, errors stand below."""
    kept = [(key, title, form) for key, title, form in _COLUMNS if any(key in row for row in rows)]
    cells = [[title for _, title, _ in kept]]
    for row in rows:
        cells.append([format(row[key], form) if key in row else "" for key, _, form in kept])
    widths = [max(len(line[i]) for line in cells) for i in range(len(kept))]
    lines = [
        "  ".join(
            c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    lines += [f"{row['case']} on {row['system']} failed: {row['error']}" for row in rows if "error" in row]
    return "\n".join(lines)

"""Systems side by side, case by case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.measurement import Measurement

__all__ = ["compare", "latest", "table"]

BASELINE, OWN = "plain", "enclave"
_MACHINE = "machine"  # the system of the suite floor, whose lines are limits
_COLUMNS = (
    ("case", "case", ""),
    ("system", "system", ""),
    ("profile", "network", ""),
    ("accuracy", "accuracy", ".4f"),
    ("difference_points", "points", "+.3f"),
    ("reference_accuracy", "reference", ".4f"),
    ("auc", "auc", ".4f"),
    ("difference_auc", "d auc", "+.4f"),
    ("median_s", "s", ".4g"),
    ("times_plain", "x plain", ",.1f"),
    ("times_enclave", "x enclave", ",.2f"),
    ("cpu_s", "cpu s", ".4g"),
    ("rounds", "rounds", ",d"),
    ("sent_mb", "MB sent", ",.2f"),
    ("received_mb", "MB received", ",.2f"),
    ("dealer_mb", "MB dealt", ",.2f"),
    ("peak_mb", "MB peak", ",.0f"),
    ("max_error", "error", ".1e"),
)
_LEFT = ("case", "system", "profile")


def latest(found: Iterable[Measurement]) -> list[Measurement]:
    """The last line of each case, system and network, in order of first appearance."""
    lines: dict[tuple[str, str, str, str], Measurement] = {}
    for one in found:
        lines[one.suite, one.case, one.system, one.profile] = one
    return list(lines.values())


def compare(found: Iterable[Measurement]) -> list[dict[str, Any]]:
    """One row per case, system and network.

    `times_plain` is the system's median time over that of plaintext, `times_enclave` over that of this project as it
    ships (above 1: this project is faster), where both were measured. Plaintext has no network: its time on one
    serves them all.
    """
    lines = latest(found)
    times = {(m.suite, m.case, m.system, m.profile): m.median_s for m in lines if m.median_s}
    plain = {(m.suite, m.case): m.median_s for m in lines if m.system == BASELINE and m.median_s}
    rows = []
    for one in lines:
        row = _row(one)
        base = times.get((one.suite, one.case, BASELINE, one.profile), plain.get((one.suite, one.case)))
        own = times.get((one.suite, one.case, OWN, one.profile))
        if one.median_s and base:
            row["times_plain"] = one.median_s / base
        if one.median_s and own and one.suite in ("mpc", "he") and one.system != OWN:
            row["times_enclave"] = one.median_s / own
        rows.append(row)
    return rows


def _row(one: Measurement) -> dict[str, Any]:
    row: dict[str, Any] = {
        "case": one.case,
        "system": one.system,
        "profile": one.profile,
        "accuracy": one.accuracy,
        "difference_points": one.difference_points,
        "reference_accuracy": one.reference_accuracy,
        "auc": one.auc,
        "difference_auc": one.difference_auc,
        "median_s": one.median_s,
        "cpu_s": sum(one.cpu_s) if one.cpu_s else None,
        "rounds": one.rounds,
        "sent_mb": _mega(one.sent_bytes),
        "received_mb": _mega(one.received_bytes) if one.suite == "he" else None,
        "dealer_mb": _mega(one.dealer_bytes),
        "peak_mb": _mega(max(one.peak_rss_bytes.values()) if one.peak_rss_bytes else None),
        "max_error": one.max_error if one.suite in ("mpc", "he") else None,
        "figures": dict(one.figures) if one.suite in ("floor", "he") and one.figures else None,
        "error": one.error,
    }
    return {name: value for name, value in row.items() if value is not None}


def _mega(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as aligned text; columns that no row fills are left out, errors, figures and limits stand below."""
    kept = [(key, title, form) for key, title, form in _COLUMNS if any(key in row for row in rows)]
    if all(row.get("profile") == "loopback" for row in rows):
        kept = [column for column in kept if column[0] != "profile"]
    cells = [[title for _, title, _ in kept]]
    measured = [row for row in rows if row["system"] != _MACHINE]
    for row in measured:
        cells.append([format(row[key], form) if key in row else "" for key, _, form in kept])
    widths = [max(len(line[i]) for line in cells) for i in range(len(kept))]
    left = [key in _LEFT for key, _, _ in kept]
    lines = [
        "  ".join(
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in (cells if measured else [])
    ]
    for row in rows:
        if "figures" in row:
            figures = ", ".join(f"{name} {value:.4g}" for name, value in row["figures"].items())
            system = "" if row["system"] == _MACHINE else f" on {row['system']}"
            lines.append(f"{row['case']}{system}: {figures}")
    lines += [f"{row['case']} on {row['system']} failed: {row['error']}" for row in rows if "error" in row]
    return "\n".join(lines)

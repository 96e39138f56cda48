"""The report's figures as inline SVG, drawn by matplotlib.

Colours are drawn as marker values and replaced by the page's CSS variables, so that one figure serves a light
page, a dark page and paper. Text stays text; it is never read as mathematics.
"""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from enclave.leakage.audit import LabelResult
from enclave.leakage.report import LinkFigures, PlannedStage
from enclave.receipts import SMALLEST_P

__all__ = ["bytes_by_link", "bytes_by_stage", "p_by_label", "readable_bytes", "visible"]

_INK, _MUTED, _PLAN, _MEASURED, _WRONG = "#a1b2c1", "#a1b2c2", "#a1b2c3", "#a1b2c4", "#a1b2c5"
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _PLAN: "var(--plan)",
    _MEASURED: "var(--accent)",
    _WRONG: "var(--bad)",
}
_ROWS = 14
_UNSHOWN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_WIDTH_IN = 9.2


def readable_bytes(count: float) -> str:
    """12_345_678 as "12.35 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def visible(text: str) -> str:
    """`text` with every character replaced that is not shown as itself: control, reordering, surrogate, unassigned.

    A text that reorders its line could make a bad name read as a good one; a lone surrogate cannot be written.
    """
    return "".join("\ufffd" if unicodedata.category(c) in _UNSHOWN else c for c in text)


def bytes_by_link(links: Sequence[LinkFigures]) -> str:
    """Planned beside measured bytes, one row per direction that this party can measure."""
    rows = [link for link in links if link.measured_bytes is not None][:_ROWS]
    figure, axes = _figure(len(rows), 0.5)
    for y, link in enumerate(rows):
        measured = link.measured_bytes or 0
        colour = _MEASURED if measured == link.planned_bytes else _WRONG
        axes.barh(y - 0.19, link.planned_bytes, height=0.3, color=_PLAN)
        axes.barh(y + 0.19, measured, height=0.3, color=colour)
        _beside(axes, max(link.planned_bytes, measured), y, readable_bytes(measured))
    _rows(axes, [f"{link.sender} → {link.receiver}" for link in rows])
    _bytes_axis(axes)
    axes.margins(x=0.16)
    return _svg(figure, "links", "Bytes by link: planned (pale) and measured")


def bytes_by_stage(stages: Sequence[PlannedStage]) -> str:
    """Where the planned bytes go: the largest stages, in the order of the plan."""
    largest = sorted(stages, key=lambda stage: -stage.bytes)[:_ROWS]
    rows = [stage for stage in stages if stage in largest][:_ROWS]
    figure, axes = _figure(len(rows), 0.34)
    for y, stage in enumerate(rows):
        axes.barh(y, stage.bytes, height=0.55, color=_PLAN)
        _beside(axes, stage.bytes, y, f"{readable_bytes(stage.bytes)}, {stage.rounds} round{'s' * (stage.rounds != 1)}")
    _rows(axes, [stage.name for stage in rows])
    _bytes_axis(axes)
    axes.margins(x=0.3)
    return _svg(figure, "stages", "Planned bytes by stage")


def p_by_label(labels: Sequence[LabelResult]) -> str:
    """-log10 of the corrected p of each label's openings, against the threshold; the smallest p first."""
    rows = sorted(labels, key=lambda label: label.p)[:_ROWS]
    figure, axes = _figure(len(rows), 0.34)
    limit = -math.log10(SMALLEST_P)
    for y, label in enumerate(rows):
        score = min(-math.log10(max(label.p, 1e-300)), 3 * limit)
        colour = _MEASURED if label.p >= SMALLEST_P else _WRONG
        axes.plot([0, score], [y, y], color=colour, linewidth=1.4, solid_capstyle="butt")
        axes.plot([score], [y], marker="o", markersize=6, color=colour, clip_on=False)
    axes.axvline(limit, color=_WRONG, linewidth=1, linestyle=(0, (4, 3)))
    _beside(axes, limit, -0.75, "threshold", colour=_WRONG)
    axes.set_xlim(0, max(limit * 1.15, 3 * limit if any(r.p < SMALLEST_P for r in rows) else 0))
    axes.set_ylim(len(rows) - 0.4, -1.1)
    _rows(axes, [label.label for label in rows])
    axes.set_xlabel("surprise, as digits of p (0 is what honest masks give)", color=_MUTED)
    return _svg(figure, "labels", "Uniformity of opened words by label")


def _figure(rows: int, row_in: float) -> tuple[Any, Any]:
    # The object interface only: pyplot would keep figures in a global registry and choose a window system.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_IN, 0.75 + row_in * max(1, rows)), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_MUTED)
    axes.tick_params(axis="x", colors=_MUTED, labelsize=9)
    axes.tick_params(axis="y", length=0, pad=8, labelsize=10)
    return figure, axes


def _beside(axes: Any, x: float, y: float, text: str, colour: str = _INK) -> None:
    at = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(text, (x, y), color=colour, annotation_clip=False, parse_math=False, **at)


def _rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)))
    clean = [visible(name) for name in names]
    shown = [name if len(name) <= 36 else name[:17] + "…" + name[-18:] for name in clean]
    axes.set_yticklabels(shown, color=_INK, parse_math=False)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()


def _bytes_axis(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: readable_bytes(value) if value >= 0 else ""))


def _svg(figure: Any, name: str, description: str) -> str:
    """The figure as an <svg> element without prologue and metadata; ids are unlike those of other figures."""
    from matplotlib import rc_context

    target = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": f"enclave.{name}", "svg.id": f"plot-{name}"}):
        figure.savefig(target, format="svg", metadata=nothing)
    text = target.getvalue()
    text = text[text.index("<svg") :]
    # Attributes of the root are ours; what came from the report is inside, escaped by the backend.
    text = text.replace("<svg ", f'<svg role="img" aria-label="{description}" class="plot" ', 1)
    for marker, variable in _VARIABLES.items():
        text = text.replace(marker, variable)
    return text

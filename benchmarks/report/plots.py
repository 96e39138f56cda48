"""The page's figures as inline SVG, drawn by matplotlib.

Colours are drawn as marker values and replaced by the page's CSS variables, so that one figure serves a light page,
a dark page and paper.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["COLOURS", "Dot", "Stack", "curves", "dots", "readable_bytes", "readable_seconds", "stacks"]

_INK, _MUTED, _LINE = "#a1b2c1", "#a1b2c2", "#a1b2c3"
# System -> (marker value, CSS variable, shape). Shapes tell systems apart without colour.
COLOURS: Mapping[str, tuple[str, str, str]] = {
    "enclave": ("#a1b3c1", "--s-enclave", "o"),
    "enclave-online": ("#a1b3c2", "--s-online", "o"),
    "enclave-socket": ("#a1b3c7", "--s-socket", "o"),
    "enclave-online-socket": ("#a1b3c8", "--s-socket", "o"),
    "crypten-ttp": ("#a1b3c3", "--s-ttp", "s"),
    "crypten-tfp": ("#a1b3c4", "--s-tfp", "D"),
    "spu-semi2k": ("#a1b3c5", "--s-spu", "^"),
    "plain": ("#a1b3c6", "--s-plain", "|"),
    "products": ("#a1b4c1", "--f-products", ""),
    "key stream": ("#a1b4c2", "--f-key", ""),
    "wire": ("#a1b4c3", "--f-wire", ""),
    "rounds": ("#a1b4c4", "--f-rounds", ""),
}
_OTHER = ("#a1b2c2", "--muted", "x")
_WIDTH_IN = 9.2


@dataclass(frozen=True, slots=True)
class Dot:
    """One value of a row; low and high are its spread, where there is one."""

    series: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Stack:
    """One row of `stacks`: parts that add up, and the measured value beside them."""

    name: str
    parts: Mapping[str, float]
    measured: float


def readable_bytes(count: float) -> str:
    """12_345_678 as "12.3 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def readable_seconds(seconds: float) -> str:
    """0.0123 as "12.3 ms"."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= 0.9995 * size or unit == "µs":
            return f"{seconds / size:.3g} {unit}"
    raise AssertionError


def dots(name: str, description: str, rows: Mapping[str, Sequence[Dot]], form: Callable[[float], str]) -> str:
    """A row per case, a mark per system, on a logarithmic axis; zeros are left out."""
    figure, axes = _figure(len(rows), 0.36)
    axes.set_xscale("log")
    for y, row in enumerate(rows.values()):
        shown = [dot for dot in row if dot.value > 0]
        if not shown:
            continue
        values = [dot.value for dot in shown]
        axes.plot([min(values), max(values)], [y, y], color=_LINE, linewidth=1, zorder=1)
        for dot in shown:
            colour, _, shape = COLOURS.get(dot.series, _OTHER)
            hollow = "online" in dot.series
            if dot.low is not None and dot.high is not None and dot.low > 0:
                axes.plot([dot.low, dot.high], [y, y], color=colour, linewidth=3, alpha=0.5, zorder=2)
            axes.plot(
                [dot.value],
                [y],
                marker=shape,
                markersize=10 if shape == "|" else 7,
                markerfacecolor="none" if hollow else colour,
                markeredgecolor=colour,
                markeredgewidth=1.8 if hollow or shape in "|x" else 0,
                zorder=4 if dot.series == "enclave" else 3,
            )
    _rows(axes, list(rows))
    _axis(axes, axes.xaxis, form)
    axes.grid(axis="x", color=_LINE, linewidth=0.6)
    axes.margins(x=0.06)
    return _svg(figure, name, description)


def curves(
    name: str,
    description: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    label: str,
    form: Callable[[float], str],
) -> str:
    """A line per system over sizes, both axes logarithmic."""
    figure, axes = _figure(9, 0.36)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.spines["left"].set_visible(True)
    axes.spines["left"].set_color(_MUTED)
    for system, points in lines.items():
        colour, _, shape = COLOURS.get(system, _OTHER)
        xs, ys = zip(*sorted(points), strict=True)
        style = "--" if "online" in system else "-"
        axes.plot(xs, ys, style, color=colour, marker=shape, markersize=6, linewidth=1.6)
    axes.set_xlabel(label, color=_MUTED)
    axes.tick_params(axis="y", colors=_MUTED, labelsize=9)
    _axis(axes, axes.xaxis, lambda value: f"{value:,.0f}")
    _axis(axes, axes.yaxis, form)
    axes.grid(color=_LINE, linewidth=0.6)
    return _svg(figure, name, description)


def stacks(name: str, description: str, rows: Sequence[Stack]) -> str:
    """The floor's parts as a bar and the measured time as a mark, as multiples of the floor on a logarithmic axis."""
    figure, axes = _figure(len(rows), 0.42)
    axes.set_xscale("log")
    for y, row in enumerate(rows):
        floor = sum(row.parts.values())
        # A bar on a logarithmic axis has no parts that add up by length: the bar's length is the distance, and the
        # parts are shown within the first unit, in proportion.
        start = 0.1
        for part, value in row.parts.items():
            stop = start * 10 ** (value / floor) if floor else start
            axes.barh(y, stop - start, left=start, height=0.55, color=COLOURS.get(part, _OTHER)[0])
            start = stop
        times = row.measured / floor
        axes.plot([1, times], [y, y], color=_LINE, linewidth=1.4)
        axes.plot([times], [y], marker="o", markersize=7, color=COLOURS["enclave"][0])
        axes.annotate(
            f"{times:.3g} times: {readable_seconds(row.measured)} / {readable_seconds(floor)}",
            (times, y),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=_INK,
            fontsize=9,
            annotation_clip=False,
        )
    _rows(axes, [row.name for row in rows])
    highest = max((row.measured / sum(row.parts.values()) for row in rows), default=10.0)
    axes.set_xlim(0.1, max(10.0, highest) * 12)
    axes.set_xlabel("times the floor", color=_MUTED)
    _axis(axes, axes.xaxis, lambda value: f"{value:g}" if 1 <= value <= highest * 1.01 else "")
    return _svg(figure, name, description)


def _figure(rows: int, row_in: float) -> tuple[Any, Any]:
    # The object interface only: pyplot would keep figures in a global registry and choose a window system.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_IN, 0.6 + row_in * max(1, rows)), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_MUTED)
    axes.tick_params(which="both", axis="x", colors=_MUTED, labelsize=9)
    axes.tick_params(which="both", axis="y", length=0, pad=8, labelsize=10)
    return figure, axes


def _rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)))
    axes.set_yticklabels(names, color=_INK, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)


def _axis(axes: Any, axis: Any, form: Callable[[float], str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_data_interval()
    narrow = low > 0 and high / low < 200
    axis.set_major_locator(LogLocator(10.0, subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
    axis.set_minor_formatter(NullFormatter())


def _svg(figure: Any, name: str, description: str) -> str:
    """The figure as an <svg> element without prologue and metadata; ids are unlike those of other figures."""
    from matplotlib import rc_context

    target = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": f"benchmarks.{name}", "svg.id": f"plot-{name}"}):
        figure.savefig(target, format="svg", metadata=nothing)
    text = target.getvalue()
    text = text[text.index("<svg") :]
    text = text.replace("<svg ", f'<svg role="img" aria-label="{description}" class="plot" ', 1)
    variables = {_INK: "--ink", _MUTED: "--muted", _LINE: "--line"}
    variables |= {marker: variable for marker, variable, _ in COLOURS.values()}
    for marker, variable in variables.items():
        text = text.replace(marker, f"var({variable})")
    return text

"""The page: what was measured, side by side, on each network, and how far it is from what the machine could do."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks.comparison import latest
from benchmarks.measurement import Measurement
from benchmarks.mpc.cases import Case
from benchmarks.networks import PROFILES
from benchmarks.report.encryption import encryption
from benchmarks.report.plots import (
    COLOURS,
    Dot,
    Stack,
    curves,
    dots,
    readable_bytes,
    readable_seconds,
    stacks,
)
from enclave.leakage.style import CSS

__all__ = ["render"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_OWN, _PLAIN = "enclave", "plain"
_COLOURS = """
:root { --s-enclave: #14655b; --s-online: #14655b; --s-socket: #6fae2f;
  --s-ttp: #b3361f; --s-tfp: #d98a2b; --s-spu: #4a5fb0;
  --s-plain: #676e79; --f-products: #7d6bb0; --f-key: #c7a13a; --f-wire: #4a8fb0; --f-rounds: #b9d3cd; }
@media (prefers-color-scheme: dark) { :root { --s-enclave: #5cc3b0; --s-online: #5cc3b0; --s-socket: #a8d672;
  --s-ttp: #f08a72; --s-tfp: #e8b366; --s-spu: #93a4ee; --s-plain: #99a1ab; --f-products: #a99ad6;
  --f-key: #d8bb63; --f-wire: #7fbbd8; --f-rounds: #2f5850; } }
.legend { color: var(--muted); font-size: .88rem; margin: .6rem 0; }
.legend b { font-weight: 500; margin-right: 1.1rem; white-space: nowrap; color: var(--ink); }
.legend i { font-style: normal; margin-right: .35em; }
main { max-width: 66rem; } td { white-space: nowrap; }
"""
_SHAPES = {"o": "●", "s": "■", "D": "◆", "^": "▲", "|": "❙", "": "■", "x": "+"}


def render(lines: Iterable[Measurement]) -> str:
    """The whole page. Raises ValueError when there is nothing that it could show."""
    found = latest(lines)
    measured = [one for one in found if one.suite == "mpc" and one.error is None and one.median_s]
    limits = {one.case: one.figures for one in found if one.suite == "floor" and one.figures}
    encrypted = [one for one in found if one.suite == "he" and one.error is None and one.median_s]
    if not measured and not limits and not encrypted:
        raise ValueError("expected lines of the suites mpc, he or floor, found none")
    sections = [_head(measured or encrypted)]
    for profile in PROFILES:
        on_network = [one for one in measured if one.profile == profile]
        if on_network:
            sections.append(_network(profile, on_network, limits))
    if encrypted:
        sections.append(encryption(encrypted))
    if limits:
        sections.append(_limits(limits))
    failed = [one for one in found if one.error is not None]
    if failed:
        sections.append(_failed(failed))
    sections.append(_foot(found))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Benchmarks</title>\n<style>{CSS}{_COLOURS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(measured: Sequence[Measurement]) -> str:
    machine = next((one.versions["machine"] for one in measured if "machine" in one.versions), "")
    cases, systems = {one.case for one in measured}, dict.fromkeys(one.system for one in measured)
    told = ""
    if any(one.suite == "mpc" for one in measured):
        told = (
            " Every system computes the same outputs from the same secret-shared inputs, and takes turns with the "
            "others repetition by repetition. <b>enclave</b> is this project as it ships: a process per party and one "
            "for the dealer, mutual TLS, the dealer's work on the clock. <b>enclave-online</b> is the same session "
            "with its randomness dealt ahead to the parties' disks, <b>-socket</b> with TLS sockets, not gRPC."
        )
    return (
        f'<header><p class="kicker">Benchmarks · {html.escape(machine)}</p>\n'
        "<h1>Secure computation, side by side</h1>\n"
        f'<p class="note">{len(cases)} cases on {len(systems)} systems.{told}</p></header>'
    )


def _network(profile: str, measured: Sequence[Measurement], limits: Mapping[str, Mapping[str, float]]) -> str:
    network = PROFILES[profile]
    told = (
        "Loopback of one machine"
        if not network.round_trip_s
        else f"{readable_seconds(network.round_trip_s)} round trip, {network.bandwidth_bps / 1e6:g} Mbit/s each way"
    )
    secret = [one for one in measured if one.system != _PLAIN]
    parts = [
        f"<section><h2>{html.escape(profile.upper() if profile != 'loopback' else 'Loopback')}</h2>",
        f'<p class="note">{html.escape(told)}.</p>',
        _legend(dict.fromkeys(one.system for one in measured)),
        _figure("Time, median and spread from the 10th to the 90th percentile", _times(profile, measured)),
        _table(measured),
    ]
    figures: tuple[tuple[str, str, Callable[[Measurement], float], Callable[[float], str]], ...] = (
        ("rounds", "Rounds", lambda one: float(one.rounds or 0), lambda value: f"{value:g}"),
        ("sent", "Bytes sent by the party that sends most", lambda one: float(one.sent_bytes or 0), readable_bytes),
        ("dealt", "Bytes sent by the dealer", lambda one: float(one.dealer_bytes or 0), readable_bytes),
        ("cpu", "CPU time of all processes together", lambda one: sum(one.cpu_s or ()), readable_seconds),
    )
    for name, title, value, form in figures:
        rows = _by_case(secret, lambda one, value=value: Dot(one.system, value(one)))  # type: ignore[misc]
        if any(dot.value > 0 for row in rows.values() for dot in row):
            parts.append(_figure(title, dots(f"{profile}-{name}", title, rows, form)))
    parts += _scaling(profile, measured)
    if {"gemm", "aes", "tcp"} <= set(limits):
        parts.append(_distance(profile, measured, limits))
    return "\n".join(parts) + "</section>"


def _by_case(measured: Sequence[Measurement], dot: Callable[[Measurement], Dot]) -> dict[str, list[Dot]]:
    rows: dict[str, list[Dot]] = {}
    for one in measured:
        rows.setdefault(_short(one.case), []).append(dot(one))
    return rows


def _short(case: str) -> str:
    return case.removesuffix("/parties=2")


def _times(profile: str, measured: Sequence[Measurement]) -> str:
    rows = _by_case(measured, lambda one: Dot(one.system, one.median_s or 0.0, one.p10_s, one.p90_s))
    return dots(f"{profile}-time", "Time by case and system", rows, readable_seconds)


def _scaling(profile: str, measured: Sequence[Measurement]) -> list[str]:
    """One plot for every kind that was measured at several sizes with the same number of parties."""
    sizes: dict[tuple[str, int, str], dict[str, list[tuple[float, float]]]] = {}
    for one in measured:
        case = Case.parse(one.case)
        if len(case.parameters) == 1 and one.median_s:
            (name, size), *_ = case.parameters.items()
            lines = sizes.setdefault((case.kind, case.parties, name), {})
            lines.setdefault(one.system, []).append((float(size), one.median_s))
    found = []
    for (kind, parties, name), lines in sizes.items():
        if max(len({size for size, _ in points}) for points in lines.values()) < 2:
            continue
        title = f"{kind}, {parties} parties: time by size"
        svg = curves(f"{profile}-{kind}-{parties}", title, lines, name, readable_seconds)
        found.append(_figure(title, _legend(lines) + svg))
    return found


def _distance(profile: str, measured: Sequence[Measurement], limits: Mapping[str, Mapping[str, float]]) -> str:
    """How far this project is from max(products, key stream, wire) + rounds one way."""
    from benchmarks.mpc.work import floor_s

    network, rows = PROFILES[profile], []
    for one in measured:
        if one.system != _OWN or not one.figures or not one.median_s:
            continue
        floor = floor_s(one.figures, limits, network.round_trip_s, network.bandwidth_bps)
        largest = max(("products", "key stream", "wire"), key=lambda part: floor[part])
        rows.append(Stack(_short(one.case), {largest: floor[largest], "rounds": floor["rounds"]}, one.median_s))
    if not rows:
        return ""
    used = dict.fromkeys(part for row in rows for part in row.parts)
    title = (
        "Distance to the physical floor: the largest of integer products, key stream and bytes on the wire, plus one "
        "way per round over plain sockets. The bar shows which part of the floor is which."
    )
    return _figure(title, _legend(used) + stacks(f"{profile}-floor", "Distance to the physical floor", rows))


def _table(measured: Sequence[Measurement]) -> str:
    """Ratios to this project as it ships, and its own figures."""
    systems = [name for name in dict.fromkeys(one.system for one in measured) if name != _OWN]
    by_case: dict[str, dict[str, Measurement]] = {}
    for one in measured:
        by_case.setdefault(one.case, {})[one.system] = one
    heads = [
        "case",
        "enclave",
        *(f"÷ {name}" if name == _PLAIN else f"{name} ÷" for name in systems),
        "rounds",
        "sent",
        "dealt",
        "error",
    ]
    body = []
    for case, found in by_case.items():
        own = found.get(_OWN)
        cells = [readable_seconds(own.median_s) if own and own.median_s else ""]
        for name in systems:
            other = found.get(name)
            ratio = other.median_s / own.median_s if own and own.median_s and other and other.median_s else None
            if ratio is not None and name == _PLAIN:
                ratio = 1 / ratio
            cells.append("" if ratio is None else f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}")
        if own:
            cells += [
                str(own.rounds),
                readable_bytes(own.sent_bytes or 0),
                readable_bytes(own.dealer_bytes or 0),
                f"{own.max_error:.1e}" if own.max_error is not None else "",
            ]
        else:
            cells += [""] * 4
        row = "".join(f'<td class="n">{html.escape(cell)}</td>' for cell in cells)
        body.append(f"<tr><td>{html.escape(_short(case))}</td>{row}</tr>")
    head = "".join(f"<th{'' if i == 0 else ' class=n'}>{html.escape(name)}</th>" for i, name in enumerate(heads))
    return (
        '<p class="note">Columns with ÷ are times over that of enclave: above 1 a system takes longer; ÷ plain is '
        "enclave over plaintext. Rounds, bytes and errors are those of enclave. Errors are the largest difference from "
        "float64, relative to max(1, |exact|); for argmax the number of wrong rows.</p>"
        f'<div class="scroll"><table><tr>{head}</tr>{"".join(body)}</table></div>'
    )


def _limits(limits: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for case, figures in limits.items():
        for name, value in figures.items():
            rows.append(
                f"<tr><td>{html.escape(case)}</td><td>{html.escape(name.rsplit('_s', 1)[0].replace('_', ' '))}</td>"
                f'<td class="n">{html.escape(_limit(name, value))}</td></tr>'
            )
    return (
        "<section><h2>Limits of this machine</h2>"
        '<p class="note">One thread, or one process at each end, as the suite <code>floor</code> measured them.</p>'
        f'<table><tr><th>what</th><th>figure</th><th class="n">value</th></tr>{"".join(rows)}</table></section>'
    )


def _limit(name: str, value: float) -> str:
    if name.endswith("bytes_per_s"):
        return f"{readable_bytes(value)}/s"
    if name.endswith("products_per_s"):
        return f"{value / 1e9:.3g} G/s"
    if name == "cpu_s_per_gb":
        return f"{value:.3g} ms/MB"
    return readable_seconds(value)


def _failed(failed: Sequence[Measurement]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(one.case)}</td><td>{html.escape(one.system)}</td><td>{html.escape(one.profile)}</td>"
        f'<td style="white-space:normal">{html.escape(one.error or "")}</td></tr>'
        for one in failed
    )
    heads = "".join(f"<th>{name}</th>" for name in ("case", "system", "network", "why"))
    return f"<section><h2>Not measured</h2><table><tr>{heads}</tr>{rows}</table></section>"


def _foot(found: Sequence[Measurement]) -> str:
    versions: dict[str, str] = {}
    for one in found:
        for name, version in one.versions.items():
            versions.setdefault(
                name if one.system.startswith(_OWN) or one.system in (_PLAIN, "machine") else f"{one.system}: {name}",
                version,
            )
    cells = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in versions.items())
    return f"<footer><dl>{cells}</dl></footer>"


def _legend(names: Iterable[str]) -> str:
    items = []
    for name in names:
        _, variable, shape = COLOURS.get(name, ("", "--muted", "x"))
        mark = "○" if "online" in name else _SHAPES[shape]
        items.append(f'<b><i style="color:var({variable})">{mark}</i>{html.escape(name)}</b>')
    return f'<p class="legend">{"".join(items)}</p>'


def _figure(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{svg}</figure>"

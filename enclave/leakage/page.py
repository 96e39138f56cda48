"""The leakage report as one HTML page for a reader who knows nothing of the project.

Every text of a report may come from a stranger. All of it goes through `text`, which escapes markup and replaces
characters that control or reorder what is shown; and the page forbids itself scripts and foreign resources, so
that a slip would still run nothing.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

from enclave.leakage import plots
from enclave.leakage.declared import PartyView
from enclave.leakage.plots import readable_bytes, visible
from enclave.leakage.report import LeakageReport
from enclave.leakage.style import CSS
from enclave.receipts import SMALLEST_P

__all__ = ["render"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_SHOWN = 200


def text(value: object) -> str:
    """`value` as it may stand in an element or an attribute."""
    return html.escape(visible(str(value)), quote=True)


def render(report: LeakageReport) -> str:
    """The whole page."""
    title = f"Leakage report: {report.kind} {report.job_id[:8]}"
    sections = (
        _head(report),
        _outputs(report),
        _views(report),
        _transcript(report),
        _openings(report),
        *([_hiding(report)] if report.hiding else []),
        _claims(report),
        _policy(report),
        _list("Public by design", "All parties of the job may know this; it is not protected.", report.public),
        _list("What was not tested", "This report says nothing about the following.", report.limits),
        _foot(report),
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{text(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(report: LeakageReport) -> str:
    verb = "Trained on" if report.kind == "train" else "Evaluated on"
    passed = [name for name in report.checks if name not in {f.check for f in report.findings}]
    findings = "".join(f"<li>{text(f.text)} <code>{text(f.check)}</code></li>" for f in report.findings[:_SHOWN])
    looked = f"Checked: {', '.join(_CHECKS.get(name, name) for name in passed)}." if passed else ""
    purpose = f'<p class="note">Stated purpose: {text(report.purpose)}</p>' if report.purpose else ""
    moved = sum(link.measured_bytes or 0 for link in report.links)
    facts = (
        ("Rows", f"{report.rows:,}", _plural(len(report.datasets), "data set")),
        ("Outputs tell", _bits(report.bits), f"at most, in {_plural(len(report.outputs), 'output')}"),
        ("Rounds", f"{report.rounds:,}", f"{report.planned_rounds:,} planned"),
        ("Traffic", readable_bytes(moved), "sent and received"),
        ("Masked openings", f"{report.openings:,}", f"{report.audit.words:,} words seen"),
        ("Time", f"{report.wall_s:.2f} s", f"peak memory {readable_bytes(report.peak_rss_bytes)}"),
    )
    cells = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}{f'<small>{text(more)}</small>' if more else ''}</dd></div>"
        for name, value, more in facts
    )
    kicker = f"Leakage report · seen by {report.party}, {report.role} · job {report.state.lower()}"
    return f"""<header>
<p class="kicker">{text(kicker)}</p>
<h1>{verb} {text(_enumerate(report.datasets))} for {text(report.buyer)}</h1>
{purpose}
</header>
<section class="verdict{" bad" if report.findings else ""}">
<strong>{"✗" if report.findings else "✓"} {text(report.verdict)}</strong>
{f"<ul>{findings}</ul>" if findings else ""}
<p>{text(looked)} What was not looked at is listed at the end.</p>
</section>
<dl class="facts">{cells}</dl>"""


_CHECKS = {
    "openings.uniform": "opened values are uniform",
    "openings.fresh": "no mask was used twice",
    "transcript.steps": "the steps are the planned ones",
    "transcript.bytes": "bytes per link are the planned ones",
    "transcript.rounds": "rounds are the planned ones",
    "transcript.openings": "the number of openings is the planned one",
}


def _outputs(report: LeakageReport) -> str:
    rows = [
        (f"<strong>{text(o.name)}</strong>", text(o.type), text(o.values), text(_bits(o.bits)), text(o.to))
        for o in report.outputs
    ]
    note = (
        "What the job was declared to give away. The bound is the logarithm of the number of values that an output "
        "can take: it limits what this one release can tell about the rows, and it is not a privacy guarantee."
    )
    return _section("Declared outputs", note, _table(("Output", "What it is", "Values", "#Bits", "To"), rows))


def _views(report: LeakageReport) -> str:
    note = "By the protocol, as long as the dealer does not join forces with a party that computes."
    if not any(view.role == "dealer" for view in report.views):
        note = "By the protocol. The job had no dealer: nobody else can help a party to see more."
    return _section("What each party sees", note, f'<div class="views">{"".join(map(_view, report.views))}</div>')


def _view(view: PartyView) -> str:
    def lines(items: Sequence[str]) -> str:
        return "".join(f"<li>{text(item)}</li>" for item in items)

    foreign = view.organisation not in ("", view.name)
    role = f"{view.role}, run by {view.organisation}" if foreign else view.role
    return (
        f'<div class="view"><h3>{text(view.name)}</h3><p class="role">{text(role)}</p>'
        f"<h4>Sees</h4><ul>{lines(view.sees)}</ul><h4>Does not see</h4><ul>{lines(view.hidden)}</ul></div>"
    )


def _transcript(report: LeakageReport) -> str:
    measured = [link for link in report.links if link.measured_bytes is not None]
    equal = all(link.measured_bytes == link.planned_bytes for link in measured)
    steps = (
        '<span class="good">Every step was the planned one.</span>'
        if report.transcript_equals_plan
        else '<span class="bad">The steps were not (all) the planned ones.</span>'
    )
    figures = ""
    if measured:
        legend = '<span class="swatch plan"></span>planned<span class="swatch measured"></span>measured'
        figures += f"<figure><figcaption>Bytes by link{legend}</figcaption>{plots.bytes_by_link(measured)}</figure>"
    if report.stages:
        figures += (
            "<figure><figcaption>Planned bytes by stage, all links together; the largest stages"
            f"</figcaption>{plots.bytes_by_stage(report.stages)}</figure>"
        )
    rows = []
    for link in report.links[:_SHOWN]:
        found = "not seen from here" if link.measured_bytes is None else f"{link.measured_bytes:,}"
        mark = "" if link.measured_bytes is None else _mark(link.measured_bytes == link.planned_bytes)
        rows.append((text(link.sender), text(link.receiver), f"{link.planned_bytes:,}", text(found), mark))
    table = _table(("From", "To", "#Planned bytes", "#Measured bytes", ""), rows)
    note = (
        "The sequence of steps follows from the public specification, before any data is read. If the run keeps to "
        "it, sizes and counts of messages tell nothing about the data."
    )
    if report.dealer_bytes:
        note += f" The dealer sends {readable_bytes(report.dealer_bytes)} of correlated randomness."
    body = f"<p>{steps} {'Bytes agree.' if equal and measured else ''}</p>{figures}{table}"
    return _section("Transcript against plan", note, body)


def _openings(report: LeakageReport) -> str:
    audit = report.audit
    uniform = f"smallest corrected p {audit.uniformity_p:.2g}" + (
        f", at {audit.uniformity_at}" if audit.uniformity_at else ""
    )
    rows = [
        ("Words tested", f"{audit.sampled_words:,} of {audit.words:,}, in {audit.openings:,} openings", ""),
        (f"Uniform (p at least {SMALLEST_P:g})", text(uniform), _mark(audit.uniform)),
        ("Words opened twice", f"{audit.duplicate_words:,}", _mark(audit.duplicate_words == 0)),
        (
            "Openings under related masks",
            text(f"{max(audit.reused_pairs, audit.repeated_starts):,} {audit.reused_at}"),
            _mark(max(audit.reused_pairs, audit.repeated_starts) == 0),
        ),
    ]
    body = _table(("Test", "Found", ""), rows)
    if audit.labels:
        body += (
            "<figure><figcaption>Uniformity by label: how unlikely the openings are under honest masks</figcaption>"
            f"{plots.p_by_label(audit.labels)}</figure>"
        )
    note = (
        "On the way a protocol opens values under one-time masks. They must look like coin tosses and be unrelated "
        "to each other: this was tested on what this party received."
    )
    return _section("Values opened on the way", note, body)


def _hiding(report: LeakageReport) -> str:
    rows = [
        (text(h.label), "all" if h.bits is None else f"{math.floor(h.bits)}", text(h.method))
        for h in report.hiding[:_SHOWN]
    ]
    note = (
        "What an owner computes from its own rows leaves it inside ciphertexts, whose noise and unused places could "
        "tell more than the result. What is added before they leave covers that: the number of bits says how well. "
        "At 40 bits, whoever has the key tells the real ciphertext from one made without the rows with a chance of "
        "at most one in 2^40. A mask that is uniform hides perfectly; its bits are those of the assumption that all "
        "encryption here rests on. A line that says masked is no ciphertext: these rows left under one-time masks, "
        "which hide all bits, for the reason that it gives. Distances add up: among a "
        "thousand ciphertexts of a kind one of them may tell with ten bits less."
    )
    return _section("What hid the rows", note, _table(("What", "#Hidden bits", "How"), rows))


def _claims(report: LeakageReport) -> str:
    rows = []
    for line in report.claims[:_SHOWN]:
        key, _, value = line.partition("=")
        rows.append((f"<code>{text(key)}</code>", text(value)))
    note = "Computed from the configuration that ran; the parties' signed statements carry the same lines."
    return _section("Claims", note, _table(("Claim", "Value"), rows) if rows else "<p>None were made.</p>")


def _policy(report: LeakageReport) -> str:
    rows = [(f"<code>{text(r.rule)}</code>", text(r.text)) for r in report.reasons[:_SHOWN]]
    body = _table(("Rule", "What it said"), rows) if rows else "<p>No rule objected.</p>"
    return _section("Policy", f"The job ended in the state {report.state.lower()}.", body)


def _list(title: str, note: str, items: Iterable[str]) -> str:
    return _section(title, note, f'<ul class="plain">{"".join(f"<li>{text(i)}</li>" for i in items)}</ul>')


def _foot(report: LeakageReport) -> str:
    entries = (
        ("Job", report.job_id),
        ("Specification", report.spec_digest),
        ("Plan", report.plan_digest),
        ("Transcript", report.transcript_digest or "none"),
    )
    lines = "".join(f'<dt>{text(name)}</dt><dd class="hex">{text(value)}</dd>' for name, value in entries)
    return (
        f"<footer><dl>{lines}</dl><p>Digests are SHA-256. The receipt of this job, signed by all parties, "
        "carries the same digests and can be checked offline.</p></footer>"
    )


def _section(title: str, note: str, body: str) -> str:
    return f'<section>\n<h2>{text(title)}</h2>\n<p class="note">{text(note)}</p>\n{body}\n</section>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; columns whose head begins with # hold numbers."""
    number = [' class="n"' if head.startswith("#") else "" for head in heads]
    head = "".join(f"<th{c}>{text(h.removeprefix('#'))}</th>" for c, h in zip(number, heads, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{c}>{cell}</td>" for c, cell in zip(number, row, strict=True)) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _mark(ok: bool) -> str:
    return '<span class="good">✓</span>' if ok else '<span class="bad">✗</span>'


def _bits(bits: float) -> str:
    if bits < 10_000:
        return f"{bits:.1f} bits"
    return f"{bits / 8_000:,.1f} kB" if bits < 8e6 else f"{bits / 8e6:,.1f} MB"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _enumerate(names: Sequence[str]) -> str:
    shown = list(names[:4]) + ([f"{len(names) - 4} more"] if len(names) > 4 else [])
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1] if shown else "nothing"

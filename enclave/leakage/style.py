"""The look of the report's page: light, dark and on paper, with no resource from anywhere."""

__all__ = ["CSS"]

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --card: #ffffff; --ink: #1c1f24; --muted: #676e79; --line: #e3e0da;
  --accent: #14655b; --plan: #b9d3cd; --good: #14655b; --good-wash: #e6f1ee;
  --bad: #b3361f; --bad-wash: #fbeae5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --card: #1b1f23; --ink: #e7e5e1; --muted: #99a1ab; --line: #30363c;
    --accent: #5cc3b0; --plan: #2f5850; --good: #5cc3b0; --good-wash: #17302c;
    --bad: #f08a72; --bad-wash: #3a211b;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: 3rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 60rem; margin: 0 auto; }
.kicker { margin: 0; color: var(--muted); font-size: .8rem; letter-spacing: .09em; text-transform: uppercase; }
h1 { margin: .3rem 0 .5rem; font-size: 2rem; line-height: 1.2; letter-spacing: -.015em; font-weight: 650; }
h2 { margin: 3rem 0 .4rem; font-size: 1.22rem; letter-spacing: -.005em; font-weight: 650; }
h3 { margin: 0; font-size: 1rem; font-weight: 650; }
p { margin: .4rem 0; }
.note { color: var(--muted); max-width: 46rem; }
.verdict {
  margin: 1.6rem 0; padding: 1.1rem 1.3rem; border-radius: 10px; border-left: 6px solid var(--good);
  background: var(--good-wash);
}
.verdict.bad { border-color: var(--bad); background: var(--bad-wash); }
.verdict strong { display: block; font-size: 1.2rem; line-height: 1.35; }
.verdict p { margin: .35rem 0 0; }
.verdict ul { margin: .5rem 0 0; padding-left: 1.2rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.8rem, 1fr)); gap: .8rem; margin: 1.4rem 0; }
.facts div, .view { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.facts div { padding: .75rem .95rem; }
.facts dt { color: var(--muted); font-size: .8rem; }
.facts dd { margin: .1rem 0 0; font-size: 1.22rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.facts dd small { display: block; color: var(--muted); font-size: .8rem; font-weight: 400; }
dl { margin: 0; }
.scroll { overflow-x: auto; }
table { width: 100%; margin: .9rem 0; border-collapse: collapse; font-size: .93rem; }
th { padding: .4rem .8rem .4rem 0; text-align: left; color: var(--muted); font-size: .8rem; font-weight: 500; }
td { padding: .5rem .8rem .5rem 0; border-top: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
th.n, td.n { padding-right: 1.6rem; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr > :last-child { padding-right: 0; }
code, .hex { font: .86em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.good { color: var(--good); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; }
.verdict.bad, .verdict.bad ul { color: inherit; font-weight: 400; }
.views { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: .9rem; margin: 1rem 0; }
.view { padding: 1rem 1.1rem 1.1rem; font-size: .92rem; }
.view .role { margin: 0 0 .6rem; color: var(--muted); font-size: .8rem; }
.view h4 { margin: .7rem 0 .15rem; font-size: .8rem; font-weight: 600; color: var(--muted); }
.view ul { margin: 0; padding-left: 1.1rem; }
.view li { overflow-wrap: anywhere; }
.plain { margin: .8rem 0; padding-left: 1.2rem; }
.plain li { margin: .25rem 0; overflow-wrap: anywhere; }
figure { margin: 1.2rem 0; }
figcaption { color: var(--muted); font-size: .85rem; margin-bottom: .3rem; }
.swatch { display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin: 0 .25em 0 .6em; }
.swatch.plan { background: var(--plan); } .swatch.measured { background: var(--accent); }
svg.plot { width: 100%; height: auto; display: block; }
svg.plot text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif !important; }
footer { margin-top: 3.5rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--muted); }
footer dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; font-size: .85rem; }
footer dd { margin: 0; }
@media print {
  :root {
    color-scheme: light;
    --paper: #fff; --card: #fff; --ink: #111; --muted: #555; --line: #ccc; --accent: #14655b; --plan: #b9d3cd;
    --good: #14655b; --good-wash: #fff; --bad: #9c2a15; --bad-wash: #fff;
  }
  @page { margin: 16mm 15mm; }
  body { padding: 0; font-size: 10.5pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; }
  .verdict { border: 1px solid var(--line); border-left: 6px solid var(--good); }
  .verdict.bad { border-left-color: var(--bad); }
  h2, h3 { break-after: avoid; }
  .view, .facts div, tr, figure { break-inside: avoid; }
}
"""

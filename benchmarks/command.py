"""The command line of the benchmarks.

    python -m benchmarks list [--suite jobs]
    python -m benchmarks run --suite mpc --cases 'relu/*' --systems enclave,plain --out results.jsonl
    python -m benchmarks compare results.jsonl [--json]
    python -m benchmarks report results.jsonl -o page.html

Data sets are read from --data, by default $ENCLAVE_DATA; cases that need none run without.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.comparison import compare, table
from benchmarks.measurement import append, read
from benchmarks.networks import PROFILES
from benchmarks.suite import Suite, suites

__all__ = ["main"]


@dataclass(frozen=True, slots=True)
class _Settings:
    repeat: int
    profile: str
    data: Path | None
    say: Callable[[str], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 a case failed, 2 wrong usage, 130 interrupted."""
    args = _parser().parse_args(arguments)
    try:
        return int(args.command(args))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what this project computes.")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = verbs.add_parser("list", help="name the cases")
    listing.add_argument("--suite", choices=sorted(suites()), help="default: all")
    listing.set_defaults(command=_list)

    run = verbs.add_parser("run", help="measure cases and append one JSON line per case and system")
    run.add_argument("--suite", choices=sorted(suites()), required=True)
    run.add_argument("--cases", default="*", metavar="GLOB", help="patterns or names of unlisted cases, with commas")
    run.add_argument("--systems", metavar="A,B", help="default enclave,plain")
    run.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl", help="lines are appended")
    run.add_argument("--repeat", type=_count, default=1, metavar="N", help="default 1")
    run.add_argument(
        "--profile", choices=sorted(PROFILES), default="loopback", help="the network (suite mpc); default loopback"
    )
    run.add_argument(
        "--profile-cpu", type=Path, metavar="DIR", help="also write cProfile statistics of every rank there (suite mpc)"
    )
    default = os.environ.get("ENCLAVE_DATA")
    run.add_argument("--data", type=Path, default=Path(default) if default else None, metavar="DIR")
    run.set_defaults(command=_run)

    comparing = verbs.add_parser("compare", help="set the systems of a results file side by side")
    comparing.add_argument("file", type=Path, metavar="FILE.jsonl")
    comparing.add_argument("--json", action="store_true", help="print JSON for machines")
    comparing.set_defaults(command=_compare)
    reporting = verbs.add_parser("report", help="draw a results file as one self-contained HTML page")
    reporting.add_argument("file", type=Path, metavar="FILE.jsonl")
    reporting.add_argument("-o", "--output", type=Path, required=True, metavar="PAGE.html")
    reporting.set_defaults(command=_report)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def _list(args: argparse.Namespace) -> int:
    for name, suite in suites().items():
        if args.suite in (None, name):
            print(f"suite {name}, systems {', '.join(suite.systems)}")
            rows = suite.listed()
            width = max(len(case) for case, _ in rows)
            for case, text in rows:
                print(f"  {case.ljust(width)}  {text}")
    return 0


def _run(args: argparse.Namespace) -> int:
    suite = suites()[args.suite]
    wanted = [name.strip() for name in args.systems.split(",")] if args.systems else list(suite.usual)
    unknown = sorted(set(wanted) - set(suite.systems))
    if unknown:
        raise ValueError(f"suite {suite.name} has no system {unknown[0]!r}: expected {', '.join(suite.systems)}")
    if suite.name != "mpc" and (args.profile != "loopback" or args.profile_cpu is not None):
        raise ValueError(f"suite {suite.name} takes no --profile and no --profile-cpu: only mpc does")
    if not args.out.parent.is_dir():
        raise ValueError(f"the directory {args.out.parent} does not exist")
    if args.profile_cpu is not None:
        args.profile_cpu.mkdir(parents=True, exist_ok=True)
        os.environ["BENCHMARKS_PROFILE_CPU"] = str(args.profile_cpu.resolve())  # for the ranks, which are processes
    settings = _Settings(args.repeat, args.profile, args.data, _say)
    failed = 0
    for name in _select(suite, args.cases):
        for found in suite.measure(name, list(dict.fromkeys(wanted)), settings):
            append(args.out, found)
            failed += found.error is not None
            _say(f"{found.case}  {found.system}  {found.error or _summary(found.accuracy, found.auc, found.median_s)}")
    return 1 if failed else 0


def _select(suite: Suite, patterns: str) -> list[str]:
    """The listed cases that any pattern matches, and the unlisted ones that are named; in the order of the patterns."""
    found: dict[str, None] = {}
    for pattern in (text.strip() for text in patterns.split(",")):
        matched = [name for name, _ in suite.listed() if fnmatchcase(name, pattern)]
        if not matched and suite.exists(pattern):
            matched = [pattern]
        if not matched:
            raise ValueError(f"no case of suite {suite.name} matches {pattern!r}: see `python -m benchmarks list`")
        found |= dict.fromkeys(matched)
    return list(found)


def _summary(accuracy: float | None, auc: float | None, median_s: float | None) -> str:
    figures = (("accuracy", accuracy, ".4f"), ("auc", auc, ".4f"), ("s", median_s, ".4g"))
    return ", ".join(f"{name} {value:{form}}" for name, value, form in figures if value is not None)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _compare(args: argparse.Namespace) -> int:
    rows = compare(read(args.file))
    if not rows:
        raise ValueError(f"{args.file} holds no measurement")
    print(json.dumps(rows, indent=2) if args.json else table(rows))
    return 0


def _report(args: argparse.Namespace) -> int:
    from benchmarks.report import render

    page = render(read(args.file))
    args.output.write_text(page, encoding="utf-8")
    _say(f"wrote {args.output}, {len(page) / 1e6:.2f} MB")
    return 0

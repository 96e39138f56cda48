"""The command line as data: which commands there are and what they take. Imports nothing heavy.

A leaf sets `command` to its full name, for example "buyer evaluate"; `parties.cli` maps that to a function.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from parties.cli.units import bandwidth_bps, duration_s, endpoint

__all__ = ["METRICS", "UsageError", "build_parser"]

METRICS = ("accuracy", "confusion", "auc", "brier", "rmse", "r2", "mean_score")
NETWORKS = ("lan", "wan")
ENGINES = ("mpc", "hybrid", "he", "auto")
KINDS = ("logistic", "linear", "softmax", "mlp", "lenet")
_EPILOG = """exit codes: 0 done, 1 refused or failed, 2 wrong usage, 75 not ready yet

--home is $ENCLAVE_HOME or ~/.enclave unless given; with --json, stdout carries JSON and nothing else."""
Subparsers = Any  # argparse's own class for this is private


class UsageError(Exception):
    """Arguments that the command does not take."""

    def __init__(self, text: str, usage: str, prog: str) -> None:
        super().__init__(text)
        self.usage = usage
        self.prog = prog


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, self.format_usage(), self.prog)

    def parse_command(self, given: Sequence[str]) -> argparse.Namespace:
        """The parsed command line. What follows `--` is a script's, and never looked at."""
        end = list(given).index("--") if "crypten" in given and "--" in given else len(given)
        parsed = self.parse_args(given[:end])
        parsed.arguments = list(given[end + 1 :])
        return parsed


def build_parser() -> _Parser:
    """The parser of the whole command line; `parse_command` and `parse_args` raise UsageError."""
    parser = _Parser(
        prog="enclave",
        description="Evaluate and train models on data you never see.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default_home = Path(os.environ.get("ENCLAVE_HOME") or Path.home() / ".enclave")
    parser.add_argument("--home", type=Path, default=default_home, help="directory of this party")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    parser.set_defaults(default_home=default_home)
    groups = parser.add_subparsers(dest="group", metavar="COMMAND", required=True)
    _identity(groups)
    _owner(groups)
    _dealer(groups)
    _buyer(groups)
    _auditor(groups)
    _crypten(groups)
    demo = _leaf(groups, "demo", "demo", "run an evaluation and a training between real processes on this machine")
    demo.add_argument("--keep", type=Path, metavar="DIR", help="work in DIR (new or empty) and leave everything there")
    return parser


def _leaf(parent: Subparsers, name: str, command: str, text: str) -> argparse.ArgumentParser:
    leaf: argparse.ArgumentParser = parent.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    leaf.add_argument("--home", type=Path, default=argparse.SUPPRESS, help="directory of this party")
    leaf.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON for machines")
    leaf.set_defaults(command=command)
    return leaf


def _group(parent: Subparsers, name: str, text: str) -> Subparsers:
    group = parent.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    return group.add_subparsers(dest="verb", metavar="COMMAND", required=True)


def _identity(groups: Subparsers) -> None:
    init = _leaf(groups, "init", "init", "make this party's home: keys, certificate, public card")
    init.add_argument("role", choices=("owner", "dealer", "buyer", "auditor"))
    init.add_argument("name", metavar="NAME")
    init.add_argument(
        "--listen", type=endpoint, metavar="HOST:PORT", help="where the node of an owner or dealer listens"
    )
    init.add_argument("--organisation", default="", metavar="TEXT", help="who runs this party; default: NAME")
    init.add_argument("--advertise", type=endpoint, metavar="HOST:PORT", help="where others reach it, if elsewhere")
    trust = _leaf(groups, "trust", "trust", "accept another party by its card")
    trust.add_argument("card", type=Path, metavar="CARD")
    trust.add_argument("--replace", action="store_true", help="replace a card of the same name")
    card = _leaf(groups, "card", "card", "show this party's public card")
    card.add_argument("--out", type=Path, metavar="FILE", help="write a copy of the card there")
    move = _leaf(groups, "move", "move", "give the node of an owner or dealer another address, and make its new card")
    move.add_argument("address", type=endpoint, metavar="HOST:PORT", help="where others reach it from now on")
    move.add_argument("--listen", type=endpoint, metavar="HOST:PORT", help="where it listens, if elsewhere")
    rotate = _leaf(groups, "rotate", "rotate", "make a new TLS certificate and card under the same signing key")
    rotate.add_argument("--drop-old", action="store_true", help="the old TLS key may be stolen: refuse it at once")


def _owner(groups: Subparsers) -> None:
    owner = _group(groups, "owner", "host data")
    add = _leaf(owner, "add", "owner add", "offer a data set described by a TOML file")
    add.add_argument("dataset", type=Path, metavar="DATASET.toml")
    add.add_argument("--replace", action="store_true", help="replace a data set of the same name")
    _leaf(owner, "serve", "owner serve", "run the node until it is told to stop")
    approve = _leaf(owner, "approve", "owner approve", "agree to a job that waits for a person")
    approve.add_argument("job", metavar="JOB")
    withdraw = _leaf(owner, "withdraw", "owner withdraw", "end a job that has not released anything")
    withdraw.add_argument("job", metavar="JOB")
    _leaf(owner, "jobs", "owner jobs", "list the jobs of this node")


def _dealer(groups: Subparsers) -> None:
    dealer = _group(groups, "dealer", "deal correlated randomness")
    _leaf(dealer, "serve", "dealer serve", "run the node until it is told to stop")


def _buyer(groups: Subparsers) -> None:
    buyer = _group(groups, "buyer", "evaluate and train models")
    datasets = _leaf(buyer, "datasets", "buyer datasets", "list what the trusted owners offer")
    datasets.add_argument("--mock", type=Path, metavar="DIR", help="write the public mock twin of each data set there")

    quote = _group(buyer, "quote", "price a job before proposing it")
    for name in ("evaluate", "train"):
        leaf = _leaf(quote, name, f"buyer quote {name}", f"rounds, bytes and time of `{name}`")
        _job(leaf)
        _model(leaf) if name == "evaluate" else _schedule(leaf)
        leaf.add_argument("--bandwidth", type=bandwidth_bps, default="100Mbit", metavar="RATE", help="default 100Mbit")
        leaf.add_argument("--latency", type=duration_s, default="20ms", metavar="TIME", help="one way, default 20ms")
        leaf.add_argument("--rows", type=_counts, metavar="N[,N]", help="rows of each owner: contacts nobody")
        if name == "evaluate":
            _metrics(leaf)
        else:
            leaf.add_argument(
                "--buyer-rows", type=_count, default=0, metavar="N", help="training rows of the buyer's own"
            )

    evaluate = _leaf(buyer, "evaluate", "buyer evaluate", "score a model on owners' rows; only the metrics come back")
    _job(evaluate)
    _model(evaluate)
    _metrics(evaluate)
    _conduct(evaluate)

    train = _leaf(buyer, "train", "buyer train", "train a model on the rows of all owners together")
    _job(train)
    _schedule(train)
    train.add_argument("--out", type=Path, metavar="MODEL", help="write the model there: .onnx or .safetensors")
    train.add_argument("--rows", type=Path, metavar="FILE", help="Parquet or CSV with training rows of the buyer's own")
    train.add_argument("--keep-shared", action="store_true", help="release nothing: the model stays in shares")
    _conduct(train)

    predict = _leaf(buyer, "predict", "buyer predict", "a prediction for every row, where the owner's policy allows it")
    _job(predict)
    _model(predict)
    predict.add_argument("--out", type=Path, metavar="FILE.csv", help="write the predictions there")
    _conduct(predict)

    _leaf(buyer, "jobs", "buyer jobs", "list the jobs of this buyer")
    result = _leaf(buyer, "result", "buyer result", "show a job's result; runs a job that was waiting for approval")
    result.add_argument("job", metavar="JOB")
    result.add_argument(
        "--wait", type=duration_s, default=0.0, metavar="TIME", help="how long to wait for approval, default 0s"
    )
    withdraw = _leaf(buyer, "withdraw", "buyer withdraw", "cancel a job that waits or runs, at all of its nodes")
    withdraw.add_argument("job", metavar="JOB")


def _auditor(groups: Subparsers) -> None:
    auditor = _group(groups, "auditor", "check what others claim")
    verify = _leaf(auditor, "verify", "auditor verify", "check a receipt, offline")
    verify.add_argument("receipt", type=Path, metavar="RECEIPT")
    verify.add_argument("--report", type=Path, metavar="REPORT.json", help="also compare this leakage report with it")
    report = _leaf(auditor, "report", "auditor report", "turn a job's leakage report into one HTML page")
    report.add_argument("report", type=Path, metavar="REPORT.json")
    report.add_argument("--out", type=Path, metavar="FILE.html", help="default: beside the report")


def _crypten(groups: Subparsers) -> None:
    crypten = _group(groups, "crypten", "run programs written for CrypTen")
    run = _leaf(crypten, "run", "crypten run", "run a script by real processes on this machine, with a dealer")
    run.epilog = "what follows -- are the script's own arguments"
    run.add_argument("script", type=Path, metavar="SCRIPT.py")
    run.add_argument("--parties", type=_parties, default=2, metavar="N", help="2 to 16, default 2")
    run.add_argument("--all-ranks", action="store_true", help="show what all ranks print, not only rank 0")
    run.add_argument(
        "--deadline", type=duration_s, default="1h", metavar="TIME", help="longest local work of a rank, default 1h"
    )


def _job(leaf: argparse.ArgumentParser) -> None:
    leaf.add_argument("--data", action="append", required=True, metavar="OWNER/DATASET", help="repeat for more owners")
    leaf.add_argument("--encoding", type=Path, required=True, metavar="FILE.toml", help="how rows become numbers")
    leaf.add_argument("--dealer", metavar="NAME", help="default: the only trusted dealer")
    leaf.add_argument(
        "--engine",
        choices=ENGINES,
        default="mpc",
        help="mpc (default): all on shares; hybrid: rows times weights encrypted, the rest on shares; he: encrypted, "
        "with no dealer where it can do without; auto: the best that the owners allow",
    )
    leaf.add_argument(
        "--frac-bits", type=int, metavar="N", help="fractional bits of fixed point; default 20, or fewer to make room"
    )
    leaf.add_argument(
        "--network", choices=NETWORKS, default="lan", help="what protocols are chosen for: wan takes fewer rounds"
    )


def _model(leaf: argparse.ArgumentParser) -> None:
    leaf.add_argument("--model", type=Path, required=True, metavar="MODEL.onnx")
    leaf.add_argument("--block-rows", type=_count, default=4096, metavar="N", help="rows at a time, default 4096")


def _metrics(leaf: argparse.ArgumentParser) -> None:
    leaf.add_argument("--metric", action="append", choices=METRICS, help="repeat for more; default accuracy")
    leaf.add_argument(
        "--predictions", action="store_true", help="also a prediction for every row, if the policy allows"
    )


def _schedule(leaf: argparse.ArgumentParser) -> None:
    leaf.add_argument("--kind", choices=KINDS, required=True)
    leaf.add_argument("--hidden", type=_counts, default=(), metavar="N[,N]", help="widths of an MLP's hidden layers")
    leaf.add_argument(
        "--image", type=_image, default=(), metavar="HxW", help="size of a lenet's images; default square, 1 channel"
    )
    leaf.add_argument("--epochs", type=_count, default=10, metavar="N", help="passes over the rows, default 10")
    leaf.add_argument("--batch", type=_count, default=64, metavar="ROWS", help="rows of one step, default 64")
    leaf.add_argument("--learning-rate", type=float, default=0.1, metavar="RATE", help="default 0.1")
    leaf.add_argument(
        "--momentum", type=float, default=0.9, metavar="M", help="default 0.9; 0 for plain gradient descent"
    )
    leaf.add_argument(
        "--average-epochs",
        type=_count,
        default=0,
        metavar="N",
        help="mean of the weights over the last N; default none",
    )
    leaf.add_argument("--l2", type=float, default=0.0, metavar="PENALTY", help="weight decay, default 0")
    leaf.add_argument("--metric", action="append", choices=METRICS, help="on the training rows; repeat for more")
    leaf.add_argument(
        "--seed", type=int, default=0, metavar="N", help="public: order of rows and initial weights; default 0"
    )


def _conduct(leaf: argparse.ArgumentParser) -> None:
    leaf.add_argument(
        "--mock", action="store_true", help="before the job itself, try it here in plaintext on the mock twins"
    )
    leaf.add_argument(
        "--wait", type=duration_s, default=0.0, metavar="TIME", help="how long to wait for approval, default 0s"
    )
    leaf.add_argument(
        "--deal-ahead", action="store_true", help="deal to the parties' disks first, so that the job itself is shorter"
    )
    leaf.add_argument(
        "--prepare", action="store_true", help="deal ahead and stop there; `enclave buyer result` starts the job"
    )
    leaf.add_argument(
        "--expires", type=duration_s, default="1d", metavar="TIME", help="lifetime of the job, default 1d"
    )
    leaf.add_argument(
        "--purpose", default="", metavar="TEXT", help="shown to the owners, and part of the receipt; default none"
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def _image(text: str) -> tuple[int, ...]:
    sides = tuple(_count(part.strip()) for part in text.split("x"))
    if len(sides) not in (2, 3):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH or CHANNELSxHEIGHTxWIDTH, found {text!r}")
    return sides


def _parties(text: str) -> int:
    if not text.isdecimal() or not 2 <= int(text) <= 16:
        raise argparse.ArgumentTypeError(f"expected 2 to 16 parties, found {text!r}")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_count(part.strip()) for part in text.split(","))

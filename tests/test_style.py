"""House rules that a reader of one file cannot see broken: sizes, names, forbidden calls, imports with effects."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_LINES = 600
FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "common", "misc"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "__import__"}
# Everything that draws from a generator which an observer of its outputs can continue.
WEAK_RANDOM = ("random", "numpy.random", "torch.random", "torch.Generator", "torch.manual_seed", "torch.seed")
WEAK_TORCH = ("bernoulli", "multinomial", "normal", "poisson", "rand")  # and all that begin so: randn, randint_like …
WEAK_METHODS = {"random_", "normal_", "uniform_", "bernoulli_", "exponential_", "geometric_", "cauchy_", "log_normal_"}
# A computed name may come from a peer. Exempt: code that goes through the fields of its own dataclasses.
DYNAMIC_GETATTR = {
    "enclave.engines.mpc.fence.records",
    "enclave.leakage.report",
    "enclave.messages.codec",
    "parties.config",
}
# Public values only; each with the reason why predictable is right there.
PREDICTABLE: dict[str, str] = {}


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "_pb2" not in path.name:
                yield path


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    """The full name behind `a.b.c`, with what `a` was imported as put in; empty for other expressions."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        base = dotted(node.value, aliases)
        return f"{base}.{node.attr}" if base else ""
    return ""


def breaches(source: str, *, may_print: bool = False, may_draw: bool = False, may_reflect: bool = False) -> list[str]:
    """One line for each forbidden import, call or name in `source`."""
    found, aliases = [], {}
    tree = ast.parse(source)
    names: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                names.append((node.lineno, alias.name))
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                names += [(node.lineno, str(node.module)), (node.lineno, f"{node.module}.{alias.name}")]
        elif isinstance(node, ast.Global):
            found.append(f"{node.lineno}: global {', '.join(node.names)}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and (name := dotted(node, aliases)):
            names.append((node.lineno, name))
        if isinstance(node, ast.Call):
            called = dotted(node.func, aliases)
            if isinstance(node.func, ast.Attribute) and node.func.attr in WEAK_METHODS and not may_draw:
                found.append(f"{node.lineno}: .{node.func.attr}()")
            if called == "getattr" and not may_reflect and not isinstance(node.args[1], ast.Constant):
                found.append(f"{node.lineno}: getattr() with a computed name")
            if called in FORBIDDEN_CALLS or (called == "print" and not may_print):
                found.append(f"{node.lineno}: {called}()")
    for line, name in names:
        if name.split(".")[0] in FORBIDDEN_MODULES or name in ("torch.load", "torch.hub.load", "numpy.load"):
            found.append(f"{line}: {name}")
        torch = name.removeprefix("torch.") if name.startswith("torch.") else ""
        weak = any(name == w or name.startswith(w + ".") for w in WEAK_RANDOM) or torch.startswith(WEAK_TORCH)
        if weak and not may_draw:
            found.append(f"{line}: {name}")
    return sorted(set(found))


@pytest.mark.parametrize("folder", ["enclave", "parties"])
def test_nothing_forbidden_is_used(folder: str) -> None:
    found = {}
    for path in sources(folder):
        module = name_of(path)
        lines = breaches(
            path.read_text(),
            may_print=module == "parties.cli" or module.startswith("parties.cli."),
            may_draw=folder != "enclave" or module in PREDICTABLE,
            may_reflect=module in DYNAMIC_GETATTR,
        )
        if lines:
            found[module] = lines
    assert found == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import pickle", "pickle"),
        ("def f():\n    from pickle import loads", "pickle"),
        ("import pickle as p", "pickle"),
        ("eval('1')", "eval()"),
        ("print(1)", "print()"),
        ("import torch\ntorch.load('x')", "torch.load"),
        ("from torch import load as l\nl('x')", "torch.load"),
        ("import random", "random"),
        ("import numpy as np\nnp.random.default_rng(0)", "numpy.random"),
        ("from numpy import random", "numpy.random"),
        ("import torch\ntorch.randn(3)", "torch.randn"),
        ("import torch as t\nt.randint_like(x, 3)", "torch.randint_like"),
        ("import torch\ntorch.Generator()", "torch.Generator"),
        ("import torch\ntorch.empty(3).random_()", ".random_()"),
        ("getattr(self, message.function)()", "getattr()"),
        ("def f():\n    global x", "global x"),
    ],
)
def test_a_forbidden_use_is_found(source: str, expected: str) -> None:
    assert any(expected in line for line in breaches(source))


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "import secrets\nsecrets.token_bytes()",
        "x = 'import pickle'",
        "self.random.words(3)",
        "e.exec()",
    ],
)
def test_a_permitted_use_passes(source: str) -> None:
    assert breaches(source) == []


def test_files_are_short() -> None:
    counts = {
        str(p.relative_to(ROOT)): len(p.read_text().splitlines())
        for p in sources("enclave", "parties", "benchmarks", "tests")
    }
    assert {name: lines for name, lines in counts.items() if lines > MAX_LINES} == {}


def test_names_say_what_a_file_is_for() -> None:
    paths = [p for folder in ("enclave", "parties", "benchmarks", "tests") for p in (ROOT / folder).rglob("*")]
    parts = {part for p in paths for part in p.relative_to(ROOT).with_suffix("").parts}
    assert parts & FORBIDDEN_NAMES == set()


def test_every_module_has_a_docstring() -> None:
    assert [name_of(p) for p in sources("enclave", "parties") if not ast.get_docstring(ast.parse(p.read_text()))] == []


# The audit hook sees what any module, ours or a library's, does while it is imported.
IMPORT_ALL = """
import importlib, json, os, sys, threading
names, before = json.loads(sys.argv[1]), dict(os.environ)
sys.argv = ["enclave-import-test", "--no-such-option"]
sys.stdin.close()
seen = []
FORBIDDEN = ("socket.connect", "socket.bind", "socket.getaddrinfo", "os.fork", "os.forkpty")
def hook(event, args):
    if event in FORBIDDEN:
        seen.append(event)
sys.addaudithook(hook)
for name in names:
    importlib.import_module(name)
    if seen:
        sys.exit(f"importing {name} caused {seen}")
changed = {k for k in before.keys() | os.environ.keys() if before.get(k) != os.environ.get(k)}
threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
print(json.dumps({"environment": sorted(changed), "threads": threads, "files": os.listdir(".")}))
"""


def test_importing_everything_has_no_effects(tmp_path: Path) -> None:
    names = [name_of(p) for p in sources("enclave", "parties") if p.stem != "__main__"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, json.dumps(names)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == {"environment": [], "threads": [], "files": []}

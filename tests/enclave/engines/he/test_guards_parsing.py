"""What is foreign is never given to SEAL's parser, nor to anything that reads by more than a length."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import enclave
from enclave.engines.he import engine as he_engine
from enclave.engines.he.engine import HeEngine
from enclave.engines.he.lattice.wire import unpack
from enclave.engines.he.linear import weights as linear
from enclave.engines.he.linear.gram import evaluate_functional, plan_functional
from enclave.engines.mpc.recorder import Recorder
from tests.enclave.engines.he.linear.test_scoring import made, scored

PACKAGE = Path(enclave.__file__).parent


def imports(path: Path) -> set[str]:
    """Top-level names that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_one_module_loads_seal_objects() -> None:
    """From arrays that were checked: see `seal`. The others evaluate, and ask about parameters."""
    users = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if "tenseal" in imports(path)}
    assert users == {"engines/he/ckks/evaluator.py", "engines/he/lattice/parameters.py", "engines/he/ckks/seal.py"}
    loaders = {path.name for path in (PACKAGE / "engines/he").rglob("*.py") if ".load(" in path.read_text()}
    assert loaders == {"seal.py"}


def test_owners_make_no_secret_key(run_he: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that reads foreign ciphertexts has nothing to lose but rows that it has anyway."""
    made_by: list[int] = []
    announced = HeEngine.announced

    def watched(self: HeEngine, *args: Any, **rest: Any) -> Any:
        keys, items = announced(self, *args, **rest)
        if keys.secret is not None:
            assert self.rank is not None
            made_by.append(self.rank)
        return keys, items

    monkeypatch.setattr(HeEngine, "announced", watched)
    x, w = made(50, 3)
    scored(run_he, [x[:30], x[30:]], w)
    assert set(made_by) == {2}, "the buyer alone"


def test_every_residue_goes_through_one_check(run_he: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an owner receives before it computes is unpacked by `wire.unpack`, to the last word."""
    seen: list[int] = []

    def watched(words: Any, primes: Any, shape: Any) -> Any:
        seen.append(words.size)
        return unpack(words, primes, shape)

    for module in (he_engine, linear):
        monkeypatch.setattr(module, "unpack", watched)
    x, w = made(50, 3)
    ran = scored(run_he, [x], w)
    assert sum(seen) == sum(words.size for _, words in ran.opened[0])


def test_sizes_follow_from_public_shapes() -> None:
    """Of two jobs of one shape every message has the same size: lengths say nothing of rows or weights."""

    def sizes(values: float) -> list[Any]:
        recorder, plan = Recorder(2, has_dealer=False), plan_functional(10, 10.0)
        engine = HeEngine(recorder)
        numbers = np.full(10, values)
        sealed = engine.run(evaluate_functional(engine, plan, [0], numbers, numbers, 1.0, "he:sum"))
        engine.run(sealed.release(recorder, "sum", 1))
        return list(recorder.records)

    assert sizes(0.0) == sizes(9.5)

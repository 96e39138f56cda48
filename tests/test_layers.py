"""The module table of pyproject.toml, enforced: who may import whom, and the only doors to heavy dependencies."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("enclave", "parties")
Rows = Sequence[Sequence[str]]
Doors = Mapping[str, Sequence[str]]


def read_table() -> tuple[Rows, Doors]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["layers"]
    return table["rows"], table["doors"]


def read_sources() -> dict[str, str]:
    """Module name → source, of everything that is installed; packages carry their own name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def is_under(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def place(module: str, rows: Rows) -> tuple[int, str] | None:
    """Row number and entry of the longest prefix of `module` in the table."""
    hits = [(i, entry) for i, row in enumerate(rows) for entry in row if is_under(module, entry)]
    return max(hits, key=lambda hit: len(hit[1]), default=None)


def imports(source: str, modules: set[str]) -> list[str]:
    """Every module that `source` imports, anywhere in it; `from a import b` is a.b when that is a module."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found += [
                n if (n := f"{base}.{alias.name}") in modules or base == "google" else base for alias in node.names
            ]
    return found


def violations(sources: Mapping[str, str], rows: Rows, doors: Doors) -> list[str]:
    """One line for each breach of the table."""
    modules, found = set(sources), []
    entries = [entry for row in rows for entry in row]
    found += [f"{entry} stands twice in the table" for entry in sorted(set(entries)) if entries.count(entry) > 1]
    for module, source in sorted(sources.items()):
        own, targets = place(module, rows), imports(source, modules)
        if own is None:
            # The package above several entries (enclave, enclave.engines) belongs to none: it must be empty.
            if not any(entry.startswith(module + ".") for entry in entries):
                found.append(f"{module} is in no row")
            elif any(is_under(t, p) for t in targets for p in PACKAGES):
                found.append(f"{module} is a bare package and must not import")
        for target in targets:
            if target.startswith("."):
                found.append(f"{module} uses a relative import")
            if own is not None and any(is_under(target, p) for p in PACKAGES):
                other = place(target, rows)
                if other is None:
                    if target not in PACKAGES and not any(e.startswith(target + ".") for e in entries):
                        found.append(f"{module} imports {target}, which is in no row")
                elif other[1] != own[1] and other[0] >= own[0]:
                    found.append(f"{module} (row {own[0]}) must not import {target} (row {other[0]})")
            for door, allowed in doors.items():
                if is_under(target, door) and not any(is_under(module, a) for a in allowed):
                    found.append(f"{module} must not import {target}: the door is {', '.join(allowed)}")
    return found


def test_every_import_goes_to_an_earlier_row() -> None:
    assert violations(read_sources(), *read_table()) == []


def test_every_door_and_row_is_spelt_like_a_module_of_the_project() -> None:
    rows, doors = read_table()
    names = [entry for row in rows for entry in row] + [entry for allowed in doors.values() for entry in allowed]
    assert [n for n in names if n.split(".")[0] not in PACKAGES] == []


ROWS: Rows = [["enclave.low"], ["enclave.mid.a", "enclave.mid.b"], ["parties.top"]]
DOORS: Doors = {"torch": ["enclave.mid.a"], "google.protobuf": ["enclave.low"]}
GOOD = {
    "enclave": '"""Nothing."""',
    "enclave.mid": "",
    "enclave.low": "from google.protobuf import message\nimport enclave",
    "enclave.mid.a": "import torch.nn\nfrom enclave.mid.a import inner\nfrom enclave import low",
    "enclave.mid.a.inner": "from enclave.mid.a import other",
    "enclave.mid.b": "from enclave.low import x",
    "parties.top": "def f():\n    import enclave.mid.b",
}


def test_a_good_tree_passes() -> None:
    assert violations(GOOD, ROWS, DOORS) == []


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("enclave.low", "import enclave.mid.a", "must not import enclave.mid.a (row 1)"),
        ("enclave.low", "def f():\n    from enclave.mid import a", "must not import enclave.mid.a (row 1)"),
        ("enclave.mid.a", "from enclave.mid import b", "must not import enclave.mid.b (row 1)"),
        ("enclave.mid.b", "import parties.top", "must not import parties.top (row 2)"),
        ("enclave.mid.b", "import torch", "the door is enclave.mid.a"),
        ("enclave.mid.b", "from torch.nn import Linear", "the door is enclave.mid.a"),
        ("enclave.mid.b", "from google import protobuf", "the door is enclave.low"),
        ("enclave.mid.b", "from . import a", "relative import"),
        ("enclave.mid", "import enclave.low", "bare package"),
        ("enclave.stray", "", "enclave.stray is in no row"),
        ("parties.top", "import enclave.gone", "enclave.gone, which is in no row"),
        ("enclave.mid.b", "if TYPE_CHECKING:\n    from parties import top", "must not import parties.top"),
    ],
)
def test_a_breach_is_found(module: str, source: str, expected: str) -> None:
    found = violations({**GOOD, module: source}, ROWS, DOORS)
    assert len(found) == 1 and expected in found[0], found


def test_an_entry_in_two_rows_is_found() -> None:
    assert violations(GOOD, [*ROWS, ["enclave.low"]], DOORS)[0] == "enclave.low stands twice in the table"

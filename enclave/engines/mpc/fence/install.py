"""The door to CrypTen: a finder that decides over every module of the package. See the package's docstring."""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from enclave.engines.mpc.fence.catalogue import KEPT, OURS, REFUSED, VERSION
from enclave.errors import Unsupported

__all__ = ["install", "installed"]

_PACKAGE = "crypten"


class _KeptLoader(importlib.machinery.SourceFileLoader):
    """Runs a stock file if it is the one that was reviewed; no cached bytecode is used."""

    def get_code(self, fullname: str) -> CodeType:
        data = Path(self.path).read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != KEPT[fullname]:
            raise Unsupported(
                fullname,
                f"its source is not the one reviewed for CrypTen {VERSION}: expected {KEPT[fullname][:16]}, "
                f"found {found[:16]}",
                hint=f"install crypten=={VERSION}",
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler, about escapes in stock's docstrings
            code: CodeType = self.source_to_code(data, self.path)
        return code


class _OwnLoader(importlib.abc.Loader):
    """Makes a module of CrypTen's name with our functions; every other name in it refuses."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        why = REFUSED.get(name, f"it has no counterpart in this project's {name}")

        def missing(attribute: str) -> Any:
            if attribute.startswith("__") and attribute.endswith("__"):
                raise AttributeError(f"module {name} has no attribute {attribute}")
            raise Unsupported(f"{name}.{attribute}", why)

        if name in OURS:
            module.__dict__.update(OURS[name]())
        module.__dict__["__getattr__"] = missing


class _Finder(importlib.abc.MetaPathFinder):
    """Decides over `crypten` and everything below it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _PACKAGE and not fullname.startswith(_PACKAGE + "."):
            return None
        if fullname not in KEPT and fullname not in OURS and fullname not in REFUSED:
            raise Unsupported(fullname, f"it is not a module of CrypTen {VERSION}")
        stock = importlib.machinery.PathFinder.find_spec(fullname, path)
        if fullname in KEPT:
            if stock is None or stock.origin is None:
                raise Unsupported(fullname, "it is not installed", hint=f"install crypten=={VERSION}")
            stock.loader = _KeptLoader(fullname, stock.origin)
            return stock
        spec = importlib.machinery.ModuleSpec(
            fullname, _OwnLoader(), is_package=stock is not None and stock.submodule_search_locations is not None
        )
        if stock is not None and stock.submodule_search_locations is not None:
            spec.submodule_search_locations = list(stock.submodule_search_locations)
        return spec


def installed() -> bool:
    """Whether CrypTen in this process is ours."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


def install() -> ModuleType:
    """Fences CrypTen in this process and returns the package. Further calls change nothing.

    Raises Unsupported when stock CrypTen was imported before, or is not the version that was reviewed.
    """
    if not installed():
        if _PACKAGE in sys.modules:
            raise Unsupported(_PACKAGE, "it was imported before the fence", hint="call install() first")
        sys.meta_path.insert(0, _Finder())
    crypten = importlib.import_module(_PACKAGE)
    if "__enclave_fence__" not in crypten.__dict__:
        from enclave.engines.mpc.fence.patches import apply

        apply()
        crypten.__dict__["__enclave_fence__"] = VERSION
    return crypten

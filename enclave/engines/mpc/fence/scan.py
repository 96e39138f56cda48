"""What of the installed CrypTen touches transport, randomness, providers, protocols or reveals.

For whoever reviews a new version: the list is read off the sources, and each name in a kept module must either be
replaced after import (`patches`) or stand in `REVIEWED` with the reason why it may stay.
"""

from __future__ import annotations

import ast
import warnings
from pathlib import Path

from enclave.engines.mpc.fence.catalogue import KEPT

__all__ = ["REVIEWED", "SENSITIVE", "sensitive_names", "stock_modules", "top_level_names"]

SENSITIVE = {
    "transport": (
        "distributed dist send recv isend irecv scatter gather all_gather broadcast reduce all_reduce broadcast_obj "
        "send_obj recv_obj barrier comm communicator init_process_group new_group pickle dumps loads restricted_loads "
        "serial load save socket"
    ),
    "randomness": (
        "Generator generators rand randn randint rand_like randn_like randperm manual_seed seed urandom bernoulli "
        "bernoulli_ normal normal_ uniform_ random_ random generate_random_ring_element generate_kbit_random_tensor "
        "PRZS PRSS"
    ),
    "providers": "provider get_default_provider ttp_provider tfp_provider TTPServer TTPClient TupleProvider",
    "protocols": "beaver replicated converters circuit convert BinarySharedTensor wraps truncate",
    "reveals": "reveal reveal_batch get_plain_text decrypt validation_mode debug_mode",
    "code": "eval exec compile __import__ import_module",
}

# Names of kept modules that stay stock: module and qualified name -> why.
REVIEWED: dict[str, str] = {
    "crypten": "imports of the package's own parts, and the empty generators that are replaced",
    "crypten.print_communication_stats": "asks our communicator, which prints nothing",
    "crypten.reset_communication_stats": "asks our communicator, which counts from the session's start",
    "crypten.rand": "asks our tensor",
    "crypten.randn": "asks our tensor",
    "crypten.bernoulli": "asks our tensor",
    "crypten.__multiprocess_print_helper": "prints at this rank; its barrier is a round of a public word",
    "crypten.communicator": "imports our classes",
    "crypten.gradients": "functools.reduce",
    "crypten.gradients.AutogradBatchNorm.backward": "functools.reduce; the class is replaced in the registry",
    "crypten.gradients.AutogradDropout.forward": "replaced in the registry",
    "crypten.gradients.AutogradFeatureDropout.forward": "replaced in the registry",
    "crypten.gradients.AutogradGather.forward": "the tensor's local gather, not the communicator's",
    "crypten.gradients.AutogradMean.backward": "functools.reduce; the class is replaced in the registry",
    "crypten.gradients.AutogradScatter.backward": "the tensor's local scatter, not the communicator's",
    "crypten.gradients.AutogradScatter.forward": "the tensor's local scatter, not the communicator's",
    "crypten.nn.module.Module.decrypt": "calls encrypt(mode=False)",
    "crypten.nn.module.Module.encrypt": "decrypts through our get_plain_text, which a job refuses",
    "crypten.nn.module.Module.load_state_dict": "a local function of that name",
    "crypten.nn.module.Module.load_state_dict.load": "a local function of that name",
}


def stock_modules(root: Path) -> dict[str, Path]:
    """Module -> file, of the package that lies at `root` (the folder `crypten`)."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def sensitive_names(root: Path) -> dict[str, set[str]]:
    """Qualified name in a kept module -> the kinds of `SENSITIVE` words that its own body uses."""
    kinds = {word: kind for kind, words in SENSITIVE.items() for word in words.split()}
    found: dict[str, set[str]] = {}
    for module, path in stock_modules(root).items():
        if module in KEPT:
            _walk(_parsed(path), module, kinds, found)
    return found


def _parsed(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, about escapes in stock's docstrings
        return ast.parse(path.read_text())


def _walk(node: ast.AST, place: str, kinds: dict[str, str], found: dict[str, set[str]]) -> None:
    for child in ast.iter_child_nodes(node):
        inner = place
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{place}.{child.name}"
        for word in _words(child):
            if word in kinds:
                found.setdefault(place, set()).add(kinds[word])
        _walk(child, inner, kinds, found)


def _words(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.Import):
        return [part for alias in node.names for part in alias.name.split(".")]
    if isinstance(node, ast.ImportFrom):
        return [*(node.module or "").split("."), *(alias.name for alias in node.names)]
    return []


def top_level_names(path: Path) -> set[str]:
    """Functions, classes and constants that a file defines at its top."""
    found: set[str] = set()
    for node in _parsed(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return found - {"__all__"}

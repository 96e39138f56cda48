"""Nothing of stock CrypTen that touches transport, randomness, providers, protocols or reveals is reachable.

The lists are read off the installed package, so that another version fails here before it can restore a stock path.
"""

from __future__ import annotations

import gc
import importlib
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from enclave.engines.mpc.fence.catalogue import KEPT, OURS, REFUSED
from enclave.engines.mpc.fence.gradients import replacements
from enclave.engines.mpc.fence.patches import locate, patched
from enclave.engines.mpc.fence.scan import REVIEWED, sensitive_names, stock_modules, top_level_names
from enclave.errors import BadData, EnclaveError, PeerLost, RangeExceeded, Unsupported
from tests.enclave.engines.mpc.fence_parties import attempt, crypten, run
from tests.enclave.engines.mpc.test_fence import CASES

ROOT = Path(crypten.__file__).parent
REPOSITORY = Path(__file__).parents[4]


def ours(value: Any) -> bool:
    """Whether a function, class or instance was defined by this project."""
    value = value.__func__ if isinstance(value, classmethod | staticmethod | types.MethodType) else value
    home = getattr(value, "__module__", None) or type(value).__module__
    return home.startswith("enclave.") or type(value).__module__.startswith("enclave.")


def test_every_module_of_the_installed_package_is_accounted_for() -> None:
    assert set(stock_modules(ROOT)) == {*KEPT, *OURS, *REFUSED}
    assert not set(KEPT) & {*OURS, *REFUSED} and not set(OURS) & set(REFUSED)


def test_every_sensitive_name_in_a_kept_module_is_replaced_or_reviewed() -> None:
    replaced = {f"{place}.{name}" for place, names in patched().items() for name in names}
    found = set(sensitive_names(ROOT))
    assert found - replaced - set(REVIEWED) == set(), "unknown names that touch what is fenced"
    assert set(REVIEWED) - found <= {"crypten.nn.module.Module.decrypt"}, "reviewed names that are gone"


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("def push(x):\n    torch.distributed.all_reduce(x)", "transport"),
        ("def mask(n):\n    return torch.randint(0, 9, (n,))", "randomness"),
        ("class A:\n    def push(self):\n        import crypten.mpc.provider", "providers"),
        ("push = lambda x: x.get_plain_text()", "reveals"),
    ],
)
def test_the_scan_finds_what_a_later_version_adds(tmp_path: Path, source: str, kind: str) -> None:
    (tmp_path / "crypten").mkdir()
    (tmp_path / "crypten" / "gradients.py").write_text(source)
    assert any(kind in kinds for kinds in sensitive_names(tmp_path / "crypten").values())


def test_every_patch_is_in_place() -> None:
    for place, names in patched().items():
        for name in names:
            assert ours(vars(locate(place))[name]), f"{place}.{name}"


@pytest.mark.parametrize("module", sorted({*OURS, *REFUSED}))
def test_a_replaced_module_has_our_names_or_refuses(module: str) -> None:
    live = importlib.import_module(module)
    assert not hasattr(live, "__file__") or live.__file__ is None
    for name in top_level_names(stock_modules(ROOT)[module]) | {"some_name_of_a_later_version"}:
        if name in vars(live):
            value = vars(live)[name]
            constant = isinstance(value, int | bool | types.ModuleType)
            assert constant or ours(value) or value is importlib.import_module("crypten.config").cfg, name
        else:
            with pytest.raises(Unsupported, match=name):
                getattr(live, name)


def test_no_stock_function_lives_that_was_not_reviewed() -> None:
    """Of all functions in this process, those of CrypTen come from kept files."""
    kept = {str(path) for module, path in stock_modules(ROOT).items() if module in KEPT}
    files = {f.__code__.co_filename for f in gc.get_objects() if type(f) is types.FunctionType}
    assert {name for name in files if name.startswith(str(ROOT))} <= kept
    assert any(name.startswith(str(ROOT)) for name in files)


def test_every_method_of_a_tensor_is_ours_or_local() -> None:
    """Methods that are stock's come from the base class and from `regular`: they only rearrange shares."""
    tensor = crypten.mpc.MPCTensor
    homes = set()
    for base in tensor.__mro__:
        for name, value in vars(base).items():
            function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            if isinstance(function, types.FunctionType) and name in vars(base) and _reached(tensor, name, value):
                homes.add(function.__module__)
    assert {home for home in homes if home.startswith("crypten")} == {
        "crypten.cryptensor",
        "crypten.common.functions.regular",
    }
    assert crypten.CrypTensor.__CRYPTENSOR_TYPES__ == {"mpc": tensor}


def _reached(cls: type, name: str, value: Any) -> bool:
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None) is value


# Derivatives that stay stock's; `test_fence` compares each with torch, under these names where they differ.
STOCK_DERIVATIVES = {
    "__rsub__": "float sub",
    "__rtruediv__": "float div",
    "abs": "",
    "add": "",
    "cat": "",
    "clone": "dropout off",
    "cos": "",
    "cosine_similarity": "",
    "cumsum": "",
    "dot": "",
    "erf": "",
    "exp": "",
    "flatten": "",
    "flip": "",
    "gather": "",
    "ger": "",
    "index_select": "",
    "log_softmax": "",
    "matmul": "",
    "max": "",
    "min": "",
    "mul": "",
    "narrow": "",
    "neg": "",
    "pad": "",
    "permute": "",
    "rappor_loss": "rappor",
    "reshape": "",
    "roll": "",
    "scatter": "",
    "sigmoid": "",
    "sign": "",
    "sin": "",
    "softmax": "",
    "square": "",
    "squeeze": "",
    "stack": "",
    "sub": "",
    "t": "",
    "take": "",
    "tanh": "",
    "trace": "",
    "transpose": "",
    "unsqueeze": "",
    "view": "",
}


def test_every_derivative_is_ours_or_compared_with_torch() -> None:
    registry = importlib.import_module("crypten.gradients").FUNCTION_REGISTRY
    stock = {name for name, functions in registry.items() if not ours(functions)}
    assert stock == set(STOCK_DERIVATIVES)
    assert {name for name in registry if ours(registry[name])} == set(replacements())
    assert {case or name for name, case in STOCK_DERIVATIVES.items()} <= set(CASES)


def test_an_unknown_module_is_refused() -> None:
    with pytest.raises(Unsupported, match="not a module of CrypTen"):
        importlib.import_module("crypten.communicator.quic_communicator")


CHANGED = """
import sys
from enclave.engines.mpc.fence.install import install
from enclave.errors import Unsupported
try:
    install()
except Unsupported as error:
    print(error.public)
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        ("", "not the one reviewed"),
        ("import types, sys; sys.modules['crypten'] = types.ModuleType('crypten')", "before"),
    ],
)
def test_another_version_and_an_earlier_import_are_refused(tmp_path: Path, prepare: str, expected: str) -> None:
    shutil.copytree(ROOT, tmp_path / "crypten", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "crypten" / "__init__.py").open("a") as file:
        file.write("\nimport torch.distributed\n")
    done = subprocess.run(
        [sys.executable, "-c", prepare + CHANGED],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert expected in done.stdout and not done.stderr


REFUSALS = {
    "provider": lambda c: setattr(c.cfg.mpc, "provider", "mine"),
    "provider by name": lambda c: c.cfg.__setitem__("mpc.provider", "mine"),
    "protocol": lambda c: setattr(c.cfg.mpc, "protocol", "mine"),
    "active security": lambda c: setattr(c.cfg.mpc, "active_security", True),
    "debug mode": lambda c: setattr(c.cfg.debug, "debug_mode", True),
    "validation mode": lambda c: c.cfg.temp_override({"debug.validation_mode": True}).__enter__(),
    "config file": lambda c: c.cfg.load_config("x.yaml"),
    "config object": lambda c: c.cfg.set_config(object()),
    "unknown setting": lambda c: setattr(c.cfg.mpc, "backdoor", True),
    "precision": lambda c: setattr(c.cfg.encoder, "precision_bits", 40),
    "default provider": lambda c: c.mpc.get_default_provider(),
    "provider classes": lambda c: c.mpc.provider.TrustedFirstParty(),
    "tfp": lambda c: importlib.import_module("crypten.mpc.provider.tfp_provider").TrustedFirstParty(),
    "ttp client": lambda c: importlib.import_module("crypten.mpc.provider.ttp_provider").TTPClient.get(),
    "ttp server": lambda c: c.mpc.provider.TTPServer(),
    "beaver": lambda c: importlib.import_module("crypten.mpc.primitives.beaver").mul(1, 2),
    "replicated": lambda c: importlib.import_module("crypten.mpc.primitives.replicated").mul(1, 2),
    "send_obj": lambda c: c.communicator.get().send_obj({}, 1),
    "broadcast_obj": lambda c: c.communicator.get().broadcast_obj({}, 0),
    "isend": lambda c: c.communicator.get().isend(torch.ones(2), 1),
    "module of a party": lambda c: c.load_from_party(preloaded=torch.nn.Linear(2, 2), src=0),
    "unpickle": lambda c: importlib.import_module("crypten.common.serial").restricted_loads(b""),
    "threads": lambda c: c.init_thread(0, 2),
    "generators": lambda c: c.generators["local"],
    "seed": lambda c: c.manual_seed(1, 2, 3),
    "ring generator": lambda c: importlib.import_module("crypten.common.rng").generate_random_ring_element(
        (2,), generator=torch.Generator()
    ),
    "trace": lambda c: c.trace(),
    "save": lambda c: c.save(torch.ones(2), "x", save_closure=torch.save),
    "load": lambda c: c.load("x", load_closure=torch.load),
    "privacy": lambda c: importlib.import_module("crypten.nn.privacy").DPSplitModel(),
    "models": lambda c: importlib.import_module("crypten.models").resnet18(),
    "cuda": lambda c: c.cryptensor(torch.ones(2)).cuda(),
    "bool": lambda c: bool(c.cryptensor(torch.ones(1)) > 0),
    "infinite factor": lambda c: c.cryptensor(torch.ones(2)) * float("inf"),
    "division by zero": lambda c: c.cryptensor(torch.ones(2)) / 0,
    "fractional power": lambda c: c.cryptensor(torch.ones(2)).pow(0.5),
    "receiver": lambda c: c.cryptensor(torch.ones(2)).get_plain_text(dst=7),
    "source": lambda c: c.cryptensor(torch.ones(2), src=5),
    "shapes": lambda c: c.cryptensor(torch.ones(2, 3)) @ c.cryptensor(torch.ones(2, 3)),
}


def test_what_is_refused_is_refused_with_a_typed_error() -> None:
    def program(rank: int) -> dict[str, BaseException | None]:
        found: dict[str, BaseException | None] = {}
        for name, call in REFUSALS.items():
            try:
                call(crypten)
                found[name] = None
            except Exception as error:
                found[name] = error
        return found

    for found in run(2, program).results[:2]:
        wrong = {
            name: repr(error) for name, error in found.items() if not isinstance(error, EnclaveError | RuntimeError)
        }
        assert wrong == {}
        assert isinstance(found["provider"], Unsupported) and "provider" in str(found["provider"])


def encrypt(value: torch.Tensor) -> Any:
    return lambda: crypten.cryptensor(value, size=(1,), src=0).get_plain_text()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (encrypt(torch.tensor([float("nan")])), BadData),
        (encrypt(torch.tensor([1e16])), RangeExceeded),
        (encrypt(torch.ones(2, dtype=torch.complex64)), Unsupported),
    ],
)
def test_what_only_its_holder_can_see_ends_the_session(call: Any, error: type[EnclaveError]) -> None:
    """The others learn that the holder left."""
    ran = attempt(2, lambda rank: call())
    assert isinstance(ran.errors[0], error)
    assert isinstance(ran.errors[1], PeerLost) and ran.errors[1].who == "p0"

"""Names of kept CrypTen modules that are replaced after import."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from enclave.engines.mpc.fence import gradients, modules, program, saved
from enclave.engines.mpc.fence.active import current, current_or_none

__all__ = ["apply", "patched"]


def patched() -> dict[str, dict[str, Any]]:
    """Where (a module, or a class in one) -> name -> what stands there now."""
    return {
        "crypten": {
            "_setup_prng": program.setup_prng,
            "_sync_seeds": program.sync_seeds,
            "fill_cache": program.fill_cache,
            "generators": program.Generators(),
            "init": program.init,
            "init_thread": program.init_thread,
            "is_initialized": program.is_initialized,
            "load": saved.load,
            "load_from_party": program.load_from_party,
            "manual_seed": program.manual_seed,
            "save": saved.save,
            "save_from_party": program.save_from_party,
            "trace": program.trace,
            "trace_once": program.trace_once,
            "uninit": program.uninit,
        },
        "crypten.communicator": {"_init": program.init_thread, "uninit": program.uninit},
        "crypten.cryptensor.CrypTensor": {"__torch_function__": classmethod(torch_function)},
        "crypten.nn.module.Module": {
            "_load_from_state_dict_crypten": modules.load_state,
            "update_parameters": modules.update_parameters,
        },
        "crypten.nn.module._BatchNorm": {"train": modules.train_batch_norm},
        "crypten.nn.module.AdaptiveAvgPool2d": {"forward": modules.adaptive_avg_forward},
        "crypten.nn.module.AdaptiveMaxPool2d": {"forward": modules.adaptive_max_forward},
        "crypten.nn.module.GlobalAveragePool": {"forward": modules.global_average_forward},
        "crypten.nn.module.BatchNormalization": {"forward": modules.stateless_batch_norm_forward},
        "crypten.nn.module.Graph": {"to_pytorch": modules.to_pytorch},
    }


# torch's function -> our tensor's method, for a plaintext on the left: `plain + encrypted`, `plain @ encrypted` ...
_REFLECTED: dict[Callable[..., Any], Callable[[Any, Any], Any]] = {
    torch.Tensor.add: lambda x, y: y.add(x),
    torch.Tensor.__radd__: lambda x, y: y.add(x),
    torch.Tensor.sub: lambda x, y: y.neg().add(x),
    torch.Tensor.__rsub__: lambda x, y: y.sub(x),
    torch.Tensor.mul: lambda x, y: y.mul(x),
    torch.Tensor.div: lambda x, y: y.reciprocal().mul(x),
    torch.Tensor.matmul: lambda x, y: y.new(x).matmul(y),
    torch.Tensor.__matmul__: lambda x, y: y.new(x).matmul(y),
}


def torch_function(
    cls: Any, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
) -> Any:
    """torch's functions on encrypted tensors: cat and stack, and operators with a plaintext on the left."""
    crypten = importlib.import_module("crypten")
    if func is torch.cat or func is torch.stack:
        call = crypten.cat if func is torch.cat else crypten.stack
        return call(*args, **(kwargs or {}))
    if func in _REFLECTED and len(args) == 2 and torch.is_tensor(args[0]):
        return _REFLECTED[func](*args)
    return NotImplemented


def _grad_enabled(cls: Any) -> bool:
    fence = current_or_none()
    return True if fence is None else fence.grad_enabled


def _set_grad_enabled(cls: Any, mode: bool) -> None:
    current().grad_enabled = bool(mode)


def apply() -> None:
    """Replaces the names. Called once, by `install`."""
    for place, names in patched().items():
        target = locate(place)
        for name, value in names.items():
            setattr(target, name, value)
    registry = importlib.import_module("crypten.gradients").FUNCTION_REGISTRY
    for name, functions in gradients.replacements().items():
        vars_of = functions
        vars_of.name = name  # type: ignore[attr-defined]
        registry[name] = functions
    # Whether autograd records is a global of CrypTen's; here it belongs to the session.
    metaclass: Any = type(locate("crypten.cryptensor.CrypTensor"))
    metaclass.AUTOGRAD_ENABLED = property(_grad_enabled, _set_grad_enabled)


def locate(place: str) -> Any:
    """The module, or the class in a module, of this name."""
    head, _, tail = place.rpartition(".")
    if tail[:1].isupper() or tail.startswith("_B"):
        return vars(importlib.import_module(head))[tail]
    return importlib.import_module(place)

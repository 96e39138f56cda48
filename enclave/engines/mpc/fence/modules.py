"""Methods of `crypten.nn` that replace stock's wrong ones."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from enclave.engines.mpc.fence.mistakes import BadShape, BadState
from enclave.engines.mpc.fence.tensor import TensorMethods
from enclave.errors import BadModel, Unsupported

__all__ = [
    "adaptive_avg_forward",
    "adaptive_max_forward",
    "global_average_forward",
    "load_state",
    "stateless_batch_norm_forward",
    "to_pytorch",
    "train_batch_norm",
    "update_parameters",
]


def load_state(self: Any, state_dict: Any, prefix: str, strict: bool) -> None:
    """Copies parameters and buffers of one module; stock leaves the buffers (running statistics) behind."""
    crypten = importlib.import_module("crypten")
    own = {**dict(self.named_parameters(recurse=False)), **dict(self.named_buffers(recurse=False))}
    for name, target in own.items():
        if target is None:
            continue
        key = prefix + name
        if key not in state_dict:
            if strict:
                raise BadModel(f"{key} is missing in the state")
            continue
        source = state_dict[key]
        if tuple(source.size()) != tuple(target.size()):
            raise BadModel(f"{key} has shape {tuple(source.size())}, expected {tuple(target.size())}")
        if isinstance(source, TensorMethods) != self.encrypted:
            raise BadState(f"{key}: state and model must both be encrypted, or neither")
        with crypten.no_grad(), torch.no_grad():
            target.copy_(source)


def update_parameters(self: Any, learning_rate: float, grad_threshold: float | None = None) -> None:
    """A plain gradient step.

    Stock zeroes gradients beyond 100 by default, because its truncation sometimes returns large wrong numbers. There
    are none here, so nothing is zeroed unless the program asks for it.
    """
    crypten = importlib.import_module("crypten")
    if not self.training:
        raise BadModel("parameters are updated in training mode")
    with crypten.no_grad(), torch.no_grad():
        for parameter in self.parameters():
            gradient = parameter.grad
            if gradient is None:
                continue
            if not self.encrypted and isinstance(gradient, TensorMethods):
                raise BadModel("encrypted gradients cannot update a model that is not encrypted")
            if self.encrypted and grad_threshold is not None:
                gradient = gradient.mul(gradient.square().lt(grad_threshold * grad_threshold))
            parameter.sub_(gradient.mul(learning_rate))


def train_batch_norm(self: Any, mode: bool = True) -> Any:
    """Sets the mode. Stock freezes 1/sqrt(variance) here, in the clear when the model is encrypted afterwards."""
    module = importlib.import_module("crypten.nn.module")
    module.Module.train(self, mode=mode)
    self.inv_var = None
    return self


def adaptive_avg_forward(self: Any, input_tensor: Any, output_size: Any = None) -> Any:
    """Means of windows that give an output of the wanted size."""
    return input_tensor.adaptive_avg_pool2d(_wanted(self, output_size))


def adaptive_max_forward(self: Any, input_tensor: Any, output_size: Any = None) -> Any:
    """Maxima of windows that give an output of the wanted size."""
    return input_tensor.adaptive_max_pool2d(_wanted(self, output_size))


def _wanted(module: Any, output_size: Any) -> Any:
    wanted = module.output_size if output_size is None else output_size
    if wanted is None:
        raise BadModel("an adaptive pooling layer needs an output size")
    return wanted


def global_average_forward(self: Any, input: Any) -> Any:
    """The mean of every channel. Stock loses the gradient here."""
    if input.dim() < 3:
        raise BadModel("global pooling needs axes beyond batch and channel")
    count = input.nelement() // (input.size(0) * input.size(1))
    for axis in range(2, input.dim()):
        input = input.sum(axis, keepdim=True)
    return input.div(count)


def stateless_batch_norm_forward(self: Any, x: Any) -> Any:
    """Batch normalisation of (input, weight, bias, mean, variance)."""
    if len(x) != 5:
        raise BadModel(f"batch normalisation takes 5 inputs, found {len(x)}")
    value, weight, bias, mean, variance = x
    found = value.batchnorm(
        weight,
        bias,
        running_mean=mean,
        running_var=variance,
        training=self.training,
        eps=self.eps,
        momentum=self.momentum,
    )
    return (found, mean, variance, None, None) if self.training else found


def to_pytorch(self: Any) -> Any:
    """A torch module with the parameters of a graph that was made by `from_pytorch` and is not encrypted."""
    if self.encrypted:
        raise BadShape("an encrypted graph has no plaintext parameters", hint="decrypt() it first")
    form = vars(self).get("form")
    if form is None:
        raise Unsupported("Graph.to_pytorch", "the graph was not made by from_pytorch")
    return form.filled(self)

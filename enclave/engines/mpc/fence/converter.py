"""`crypten.nn.from_pytorch`: a torch module to a CrypTen graph, by torch.fx.

All parties call it with the same architecture; `encrypt(src=...)` then takes the weights of one. Stock goes through
an ONNX exporter that torch no longer has. A module or a function that is not in the tables is refused by name, and
so are settings that CrypTen has no counterpart for.
"""

from __future__ import annotations

import copy
import importlib
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from enclave.engines.mpc.fence.active import refuse
from enclave.engines.mpc.fence.onnx_import import from_onnx, step_class
from enclave.errors import BadModel

__all__ = ["from_onnx", "from_pytorch", "from_tensorflow"]

from_tensorflow = refuse("crypten.nn.from_tensorflow", "bring a torch module")


def _one(value: Any, what: str) -> Any:
    values = value if isinstance(value, tuple | list) else (value,)
    if len(set(values)) != 1:
        raise BadModel(f"{what} {value} must be the same along all axes")
    return values[0]


def _zeros(module: Any) -> None:
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        raise BadModel(f"a convolution padded by {module.padding}, mode {module.padding_mode}; expected zeros, numbers")


def _linear(cnn: Any, m: Any) -> Any:
    return cnn.Linear(m.in_features, m.out_features, m.bias is not None)


def _conv2d(cnn: Any, m: Any) -> Any:
    _zeros(m)
    settings = (m.kernel_size, m.stride, m.padding, m.dilation, m.groups, m.bias is not None)
    return cnn.Conv2d(m.in_channels, m.out_channels, *settings)


def _conv1d(cnn: Any, m: Any) -> Any:
    _zeros(m)
    numbers = (m.kernel_size[0], m.stride[0], m.padding[0], m.dilation[0])
    return cnn.Conv1d(m.in_channels, m.out_channels, *numbers, m.groups, m.bias is not None)


def _batch_norm(kind: str) -> Callable[[Any, Any], Any]:
    def make(cnn: Any, m: Any) -> Any:
        if not m.affine or not m.track_running_stats or m.momentum is None:
            raise BadModel("batch normalisation needs weights, running statistics and a momentum")
        kinds = {"1d": cnn.BatchNorm1d, "2d": cnn.BatchNorm2d, "3d": cnn.BatchNorm3d}
        return kinds[kind](m.num_features, eps=m.eps, momentum=m.momentum)

    return make


def _max_pool(cnn: Any, m: Any) -> Any:
    if _one(m.dilation, "dilation") != 1 or m.return_indices:
        raise BadModel("max pooling with dilation or indices")
    return cnn.MaxPool2d(m.kernel_size, stride=m.stride, padding=m.padding, ceil_mode=m.ceil_mode)


def _avg_pool(cnn: Any, m: Any) -> Any:
    padded = m.padding not in (0, (0, 0))
    if m.ceil_mode or m.divisor_override or (padded and not m.count_include_pad):
        raise BadModel("average pooling with ceil_mode, a divisor, or padding that does not count")
    return cnn.AvgPool2d(m.kernel_size, stride=m.stride, padding=m.padding)


# torch module -> a CrypTen module of the same settings; weights follow by name.
_MODULES: dict[type, Callable[[Any, Any], Any]] = {
    nn.Linear: _linear,
    nn.Conv1d: _conv1d,
    nn.Conv2d: _conv2d,
    nn.BatchNorm1d: _batch_norm("1d"),
    nn.BatchNorm2d: _batch_norm("2d"),
    nn.BatchNorm3d: _batch_norm("3d"),
    nn.ReLU: lambda cnn, m: cnn.ReLU(),
    nn.ReLU6: lambda cnn, m: cnn.ReLU6(),
    nn.Hardtanh: lambda cnn, m: cnn.Hardtanh(m.min_val, m.max_val),
    nn.Sigmoid: lambda cnn, m: cnn.Sigmoid(),
    nn.Softmax: lambda cnn, m: cnn.Softmax(_dim(m.dim)),
    nn.LogSoftmax: lambda cnn, m: cnn.LogSoftmax(_dim(m.dim)),
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: lambda cnn, m: cnn.AdaptiveAvgPool2d(m.output_size),
    nn.AdaptiveMaxPool2d: lambda cnn, m: cnn.AdaptiveMaxPool2d(m.output_size),
    nn.Dropout: lambda cnn, m: cnn.Dropout(m.p),
    nn.Dropout2d: lambda cnn, m: cnn.Dropout2d(m.p),
    nn.Dropout3d: lambda cnn, m: cnn.Dropout3d(m.p),
}


def _dim(dim: int | None) -> int:
    if dim is None:
        raise BadModel("softmax without a dim")
    return dim


def _flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    return x.flatten(start_dim, end_dim)


def _relu(x: Any, inplace: bool = False) -> Any:
    return x.relu()


def _softmax(x: Any, dim: int | None = None, _stacklevel: int = 3, dtype: None = None) -> Any:
    return x.softmax(_dim(dim))


def _log_softmax(x: Any, dim: int | None = None, _stacklevel: int = 3, dtype: None = None) -> Any:
    return x.log_softmax(_dim(dim))


def _max_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    if return_indices or _one(dilation, "dilation") != 1:
        raise BadModel("max pooling with dilation or indices")
    return x.max_pool2d(kernel_size, stride=stride or kernel_size, padding=padding, ceil_mode=ceil_mode)


def _avg_pool2d(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0) -> Any:
    return x.avg_pool2d(kernel_size, stride=stride or kernel_size, padding=padding)


def _cat(tensors: Any, dim: int = 0) -> Any:
    return importlib.import_module("crypten").cat(list(tensors), dim=dim)


def _stack(tensors: Any, dim: int = 0) -> Any:
    return importlib.import_module("crypten").stack(list(tensors), dim=dim)


# torch function, or name of a tensor's method -> the same on encrypted tensors.
_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    operator.add: lambda x, y: x + y,
    operator.iadd: lambda x, y: x + y,
    operator.getitem: lambda x, index: x[index],
    operator.matmul: lambda x, y: x @ y,
    operator.mul: lambda x, y: x * y,
    operator.neg: lambda x: x.neg(),
    operator.pow: lambda x, p: x.pow(p),
    operator.sub: lambda x, y: x - y,
    operator.truediv: lambda x, y: x / y,
    functional.adaptive_avg_pool2d: lambda x, output_size: x.adaptive_avg_pool2d(output_size),
    functional.avg_pool2d: _avg_pool2d,
    functional.log_softmax: _log_softmax,
    functional.max_pool2d: _max_pool2d,
    functional.relu: _relu,
    functional.relu6: lambda x, inplace=False: x.relu6(),
    functional.sigmoid: lambda x: x.sigmoid(),
    functional.softmax: _softmax,
    functional.tanh: lambda x: x.tanh(),
    torch.abs: lambda x: x.abs(),
    torch.add: lambda x, y: x + y,
    torch.cat: _cat,
    torch.exp: lambda x: x.exp(),
    torch.flatten: _flatten,
    torch.log: lambda x: x.log(),
    torch.log_softmax: _log_softmax,
    torch.matmul: lambda x, y: x @ y,
    torch.mean: lambda x, *args, **kwargs: x.mean(*args, **kwargs),
    torch.mul: lambda x, y: x * y,
    torch.relu: _relu,
    torch.sigmoid: lambda x: x.sigmoid(),
    torch.softmax: _softmax,
    torch.sqrt: lambda x: x.sqrt(),
    torch.stack: _stack,
    torch.sub: lambda x, y: x - y,
    torch.sum: lambda x, *args, **kwargs: x.sum(*args, **kwargs),
    torch.tanh: lambda x: x.tanh(),
    "abs": lambda x: x.abs(),
    "add": lambda x, y: x + y,
    "exp": lambda x: x.exp(),
    "flatten": _flatten,
    "log_softmax": _log_softmax,
    "matmul": lambda x, y: x @ y,
    "mean": lambda x, *args, **kwargs: x.mean(*args, **kwargs),
    "mul": lambda x, y: x * y,
    "permute": lambda x, *dims: x.permute(dims[0] if isinstance(dims[0], tuple | list) else dims),
    "pow": lambda x, p: x.pow(p),
    "relu": _relu,
    "reshape": lambda x, *shape: x.reshape(*shape),
    "sigmoid": lambda x: x.sigmoid(),
    "size": lambda x, *axis: x.size(*axis),
    "softmax": _softmax,
    "square": lambda x: x.square(),
    "squeeze": lambda x, *dim: x.squeeze(*dim),
    "sub": lambda x, y: x - y,
    "sum": lambda x, *args, **kwargs: x.sum(*args, **kwargs),
    "t": lambda x: x.t(),
    "tanh": lambda x: x.tanh(),
    "transpose": lambda x, a, b: x.transpose(a, b),
    "unsqueeze": lambda x, dim: x.unsqueeze(dim),
    "view": lambda x, *shape: x.reshape(*shape),
}
# Modules without weights that CrypTen lacks.
_STATELESS: dict[type, Callable[[Any], Callable[[Any], Any]]] = {
    nn.Flatten: lambda m: lambda x: x.flatten(m.start_dim, m.end_dim),
    nn.Identity: lambda m: lambda x: x,
    nn.Tanh: lambda m: lambda x: x.tanh(),
}


def from_pytorch(pytorch_model: nn.Module, dummy_input: Any = None) -> Any:
    """A `crypten.nn.Graph` of a torch module, not encrypted, in the module's mode.

    Args:
        dummy_input: not needed; stock traces with it.

    Raises BadModel for what cannot be traced or has no counterpart.
    """
    cnn = importlib.import_module("crypten.nn")

    step = step_class()
    if type(pytorch_model) in _MODULES or type(pytorch_model) in _STATELESS:
        pytorch_model = nn.Sequential(pytorch_model)  # a layer, not its own forward function
    try:
        traced = fx.symbolic_trace(pytorch_model)
    except Exception as error:
        raise BadModel(f"torch.fx cannot trace {type(pytorch_model).__name__}: {error}") from error
    nodes = list(traced.graph.nodes)
    modules = dict(traced.named_modules())
    result = next(node.args[0] for node in nodes if node.op == "output")
    if not isinstance(result, fx.Node):
        raise BadModel("a model must return one tensor")
    graph = cnn.Graph([node.name for node in nodes if node.op == "placeholder"], [result.name])
    for node in nodes:
        inputs = list(dict.fromkeys(n.name for n in node.all_input_nodes))
        if node.op == "call_module":
            graph.add_module(node.name, _module(cnn, step, modules[str(node.target)]), inputs)
        elif node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(traced)
            kept = cnn.Parameter(value.detach().clone(), trainable=isinstance(value, nn.Parameter))
            graph.add_module(node.name, kept, [])
        elif node.op in ("call_function", "call_method"):
            if node.target not in _FUNCTIONS:
                raise BadModel(f"{node.target} has no counterpart in CrypTen", hint=f"in node {node.name}")
            graph.add_module(node.name, step(_step(node, inputs)), inputs)
    graph.train(pytorch_model.training)
    graph.form = Form(_emptied(pytorch_model), {node.name: str(node.target) for node in nodes})
    return graph


@dataclass(frozen=True, slots=True)
class Form:
    """The torch module that a graph was made from, its weights set to zero, and where each node comes from."""

    module: nn.Module
    targets: dict[str, str]

    def filled(self, graph: Any) -> nn.Module:
        """A torch module with the graph's parameters and buffers."""
        made = copy.deepcopy(self.module)
        places = {**dict(made.named_parameters()), **dict(made.named_buffers())}
        with torch.no_grad():
            for node, part in graph._modules.items():
                target = self.targets[node]
                own = {**dict(part.named_parameters(recurse=False)), **dict(part.named_buffers(recurse=False))}
                for name, value in own.items():
                    key = target if target in places else f"{target}.{name}"
                    if value is not None:
                        places[key].copy_(value.detach())
        return made.train(graph.training)


def _emptied(module: nn.Module) -> nn.Module:
    found = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in (*found.parameters(), *found.buffers()):
            tensor.zero_()
    return found


def _step(node: fx.Node, inputs: list[str]) -> Callable[[list[Any]], Any]:
    function = _FUNCTIONS[node.target]

    def call(values: list[Any]) -> Any:
        known = dict(zip(inputs, values, strict=True))
        args = fx.node.map_arg(node.args, lambda n: known[n.name])
        kwargs = fx.node.map_arg(node.kwargs, lambda n: known[n.name])
        return function(*args, **kwargs)

    return call


def _module(cnn: Any, step: Any, module: nn.Module) -> Any:
    if type(module) in _STATELESS:
        function = _STATELESS[type(module)](module)
        return step(lambda values: function(values[0]))
    if type(module) not in _MODULES:
        raise BadModel(f"{type(module).__name__} has no counterpart in CrypTen")
    made = _MODULES[type(module)](cnn, module)
    for name, value in module.named_parameters(recurse=False):
        made.set_parameter(name, nn.Parameter(value.detach().clone()))
    for name, buffer in module.named_buffers(recurse=False):
        if name != "num_batches_tracked":
            made.set_buffer(name, buffer.detach().clone())
    return made

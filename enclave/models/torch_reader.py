"""torch.nn modules to the project's graph, through torch.fx.

The module is traced as in evaluation mode; it is neither run on data nor changed. Modules and functions are looked
up in tables by type and identity, so a module is read by what it is, not by what it is called. Control flow that
depends on values can't be traced, and is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from enclave.errors import BadModel
from enclave.models.builder import GraphBuilder
from enclave.models.graph import INPUT
from enclave.models.model import Model
from enclave.models.torch_functions import FUNCTIONS, METHODS
from enclave.models.torch_modules import MODULES
from enclave.models.torch_values import Row, TorchGraph, Weight

__all__ = ["read_torch"]


def read_torch(module: Any, input_shape: Sequence[int]) -> Model:
    """The model of a torch.nn.Module for rows of `input_shape` (without the batch axis).

    Raises: BadModel naming the module or function that cannot be run, or why tracing failed.
    """
    import torch
    from torch import fx

    if not isinstance(module, torch.nn.Module):
        raise BadModel(f"expected a torch.nn.Module, found {type(module).__name__}")
    evaluated = copy.deepcopy(module).eval()
    # A single layer of torch.nn would be traced through; wrapped, it is a node that is read by its type.
    single = fx.Tracer().is_leaf_module(evaluated, "")
    root = torch.nn.Sequential(evaluated) if single else evaluated
    try:
        traced = fx.symbolic_trace(root)
    except (fx.proxy.TraceError, TypeError, RuntimeError, ValueError, NotImplementedError) as error:
        raise BadModel(
            f"cannot trace {type(module).__name__}: {str(error).splitlines()[0] if str(error) else error!r}",
            hint="control flow that depends on values is not supported; export the model as ONNX instead",
        ) from error
    graph = TorchGraph(GraphBuilder(input_shape), dict(root.named_modules()))
    values: dict[Any, Any] = {}
    for node in traced.graph.nodes:
        values[node] = _value(graph, node, fx.node.map_arg(node.args, values.__getitem__), values, fx)
        if node.op == "output":
            output = values[node]
            if not isinstance(output, Row):
                raise BadModel("the module must return one tensor that depends on its input")
            return graph.builder.build(output.layer)
    raise BadModel("the module returns nothing")


def _value(graph: TorchGraph, node: Any, args: Any, values: dict[Any, Any], fx: Any) -> Any:
    kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
    if node.op == "placeholder":
        if any(isinstance(v, Row) for v in values.values()):
            raise BadModel(f"a model must have one input, found a second one, {node.target!r}")
        return Row(INPUT)
    if node.op == "output":
        return args[0]
    if node.op == "get_attr":
        return Weight(str(node.target), graph.attribute(str(node.target)))
    label = f"{node.name!r} ({_described(graph, node)})"
    handler: Any
    if node.op == "call_module":
        module = graph.modules[node.target]
        handler, args = MODULES.get(type(module)), (module, *args)
    elif node.op == "call_function":
        handler = FUNCTIONS.get(node.target)
    else:
        handler = METHODS.get(node.target)
    if handler is None:
        raise BadModel(f"{label} is not supported")
    try:
        return handler(graph, str(node.target if node.op == "call_module" else node.name), *args, **kwargs)
    except BadModel as error:
        raise BadModel(f"{label}: {error.public}", hint=error.hint) from error
    except TypeError as error:
        raise BadModel(f"{label} is called in a way that is not supported: {error}") from error


def _described(graph: TorchGraph, node: Any) -> str:
    if node.op == "call_module":
        return type(graph.modules[node.target]).__name__
    return str(getattr(node.target, "__name__", node.target))

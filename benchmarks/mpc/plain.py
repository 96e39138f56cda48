"""The system `plain`: torch on numbers in the clear, float32, one thread unless OMP_NUM_THREADS says otherwise."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.measurement import versions
from benchmarks.mpc.cases import Case, learning_rate
from benchmarks.mpc.inputs import Arrays

__all__ = ["main", "torch_outputs"]

Tensor = torch.Tensor
_SIMPLE: Mapping[str, Callable[[dict[str, Tensor]], Tensor]] = {
    "relu": lambda t: torch.relu(t["x"]),
    "sigmoid": lambda t: torch.sigmoid(t["x"]),
    "tanh": lambda t: torch.tanh(t["x"]),
    "gelu": lambda t: functional.gelu(t["x"]),
    "exp": lambda t: torch.exp(t["x"]),
    "log": lambda t: torch.log(t["x"]),
    "reciprocal": lambda t: torch.reciprocal(t["x"]),
    "rsqrt": lambda t: torch.rsqrt(t["x"]),
    "mul": lambda t: t["x"] * t["y"],
    "softmax": lambda t: torch.softmax(t["x"], -1),
    "argmax": lambda t: functional.one_hot(t["x"].argmax(-1), t["x"].shape[-1]),
    "max": lambda t: t["x"].amax(-1),
    "matmul": lambda t: t["x"] @ t["y"],
}


def torch_outputs(case: Case, arrays: Arrays, *, double: bool = False) -> Callable[[], Arrays]:
    """A function that computes the outputs once more; conversion from numpy is done here, before."""
    kind = torch.float64 if double else torch.float32
    tensors = {name: torch.from_numpy(array).to(kind) for name, array in arrays.items()}

    def run() -> Arrays:
        return {name: value.detach().numpy() for name, value in _outputs(case, tensors).items()}

    return run


def _outputs(case: Case, t: dict[str, Tensor]) -> dict[str, Tensor]:
    if case.kind in _SIMPLE:
        return {"y": _SIMPLE[case.kind](t)}
    if case.kind == "lenet-inference":
        with torch.no_grad():
            return {"y": _lenet(t)}
    if case.kind == "mlp-inference":
        with torch.no_grad():
            return {"y": _mlp(t)}
    return _trained(case, t)


def _mlp(t: Mapping[str, Tensor]) -> Tensor:
    hidden = torch.relu(t["x"] @ t["w1"] + t["b1"])
    hidden = torch.relu(hidden @ t["w2"] + t["b2"])
    return hidden @ t["w3"] + t["b3"]


def _lenet(t: Mapping[str, Tensor]) -> Tensor:
    image = functional.max_pool2d(torch.relu(functional.conv2d(t["x"], t["w1"], t["b1"])), 2)
    image = functional.max_pool2d(torch.relu(functional.conv2d(image, t["w2"], t["b2"])), 2)
    return torch.relu(image.flatten(1) @ t["w3"] + t["b3"]) @ t["w4"] + t["b4"]


def _trained(case: Case, t: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients are torch's own."""
    names = [name for name in t if name[0] in "wb"]
    weights = {name: t[name] for name in names}
    rate = learning_rate(case.kind)
    for _ in range(case.parameters.get("steps", 1)):
        live = {name: value.detach().requires_grad_() for name, value in weights.items()}
        if case.kind == "mlp-train":
            loss = functional.cross_entropy(_mlp({**t, **live}), t["y"].to(torch.int64))
        else:
            logits = (t["x"] @ live["w"] + live["b"])[:, 0]
            loss = functional.binary_cross_entropy_with_logits(logits, t["y"])
        gradients = torch.autograd.grad(loss, [live[name] for name in names])
        weights = {name: live[name].detach() - rate * g for name, g in zip(names, gradients, strict=True)}
    return weights


def main(argument: str) -> int:
    """The worker: see `benchmarks.mpc.workers`."""
    task: dict[str, Any] = json.loads(argument)
    case = Case(task["kind"], task["parameters"], task["parties"])
    torch.set_num_threads(int(torch.get_num_threads()))
    with np.load(task["inputs"]) as file:
        run = torch_outputs(case, {name: file[name] for name in file.files})
    _say(ready=True, versions=versions())
    outputs: Arrays = {}
    for line in sys.stdin:
        if line.strip() == "stop":
            np.savez(task["outputs"], **outputs)  # type: ignore[arg-type]  # of arrays by name
            return 0
        started_s, cpu_s = time.perf_counter(), time.process_time()
        outputs = run()
        wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        _say(wall_s=wall_s, cpu_s=[cpu_s], peak_rss_bytes=peak_bytes)
    return 1


def _say(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

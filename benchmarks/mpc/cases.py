"""The cases of the suite `mpc`: names, inputs, and what every system must compute from them.

A name is KIND, for `matmul` also its sizes, then parameters in any order:

    relu/n=100000/parties=2    softmax/rows=1000/cols=10/parties=3    matmul/128x784x128    mlp-inference/batch=128

`parties` (ranks that hold shares, 2 to 4) is 2 when left out. All other parameters must be there.

**Inputs** are float64 arrays in one npz file, made by `benchmarks.mpc.inputs`, equal for all systems, and multiples
of 2^-16, so that any fixed-point system with 16 fractional bits or more starts from the same numbers. All of them are
secret: shared among the parties before the clock starts, and no party knows one in the clear. What is public: shapes,
ranges (below), signs that follow from a range, learning rates, numbers of steps.

**Outputs** stay shared when the clock stops; they are opened once, after the last repetition, and written to an npz
file under the names below. U[a, b] is uniform; "log-uniform" is uniform in the logarithm.

| kind | parameters | inputs | outputs |
|---|---|---|---|
| relu | n | x (n,) U[-16, 16] | y = max(x, 0) |
| sigmoid, tanh, gelu | n | x (n,) U[-8, 8] | y; gelu is x Phi(x), the exact one (no tanh in it) |
| exp | n | x (n,) U[-8, 2] | y = e^x |
| log | n | x (n,) log-uniform [1/16, 64] | y = natural logarithm |
| reciprocal | n | x (n,) log-uniform [1/16, 64] | y = 1/x; that x is positive is public |
| rsqrt | n | x (n,) log-uniform [1/16, 64] | y = x^-1/2; that x is positive is public |
| mul | n | x, y (n,) U[-8, 8] | y = x y, element by element |
| softmax | rows, cols | x (rows, cols) U[-8, 8] | y (rows, cols), each row sums to 1 |
| argmax | rows, cols | x (rows, cols) U[-16, 16], no ties in a row | y (rows, cols), one-hot, 0 or 1 |
| max | rows, cols | x as argmax | y (rows,) |
| matmul | MxKxN in the name; worker: m, k, n | x (m, k), y (k, n) U[-1, 1] | y = x @ y |
| mlp-inference | batch | x (batch, 784) U[0, 1]; w1 (784, 128) b1 (128,) w2 (128, 128) b2 w3 (128, 10) b3 | y: logits |
| mlp-train | batch | the same, and y (batch,) class indices 0..9 | w1 b1 w2 b2 w3 b3 after one step of SGD |
| lr-step | batch | x (batch, 784) U[0, 1], w (784, 1), b (1,), y (batch,) 0 or 1 | w, b after one step of SGD |
| lr-breast-cancer | steps | x (569, 30) real data, w (30, 1) and b (1,) zeros, y (569,) | w, b after `steps` steps |
| lenet-inference | batch | x (batch, 1, 28, 28) U[0, 1], w1 b1 ... w4 b4 as below | y: logits |

Models: a linear layer is x @ w + b, so w is (inputs, outputs). The MLP has ReLU after layers 1 and 2. LeNet is
MiniONN's network: conv 5x5, ReLU, max-pool 2x2, conv 5x5, ReLU, max-pool 2x2, flatten (channel, row, column) to 256,
linear, ReLU, linear; convolutions without padding, stride 1; w1 (16, 1, 5, 5) b1 (16,) w2 (16, 16, 5, 5) b2 (16,)
w3 (256, 100) b3 (100,) w4 (100, 10) b4 (10,), convolutions' weights as torch's conv2d takes them. All weights and
biases are U[-1, 1] / sqrt(inputs of a unit).

Training: loss = mean over the batch of the cross-entropy of softmax(logits) (mlp-train), or of the logistic loss of
sigmoid(x @ w + b) (lr-*). One step: parameter -= LEARNING_RATE * gradient; the rate is 0.125, for lr-breast-cancer
1.0. Every repetition starts again from the weights in the file (lr-breast-cancer: does all its steps). Labels are
shared too: as one-hot rows for mlp-train, as 0/1 for lr-*.

**What a warm-up may do.** One repetition is run and not timed. A system may keep, from it, what belongs to a value
that does not change between repetitions: for inference the model (weights of one model, many batches), for training
the data (rows of one data set, many epochs). Never kept: the batch of an inference, the weights of a training, the
single inputs of the element-wise kinds, `matmul` and lr-breast-cancer: they are new values in every repetition.

**Time** is wall-clock, from the start of the slowest party's work (all processes connected and waiting) to the end of
the last party's; a dealer or third party starts with the parties, unless the system's name says otherwise.

**Error**: largest absolute difference from float64 (`max_error`), relative to max(1, |exact|); for argmax the number
of wrong rows. A line fails above `benchmarks.mpc.exact.bound`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["ELEMENTWISE", "LEARNING_RATE", "LISTED", "ROWWISE", "Case", "learning_rate"]

ELEMENTWISE = ("relu", "sigmoid", "tanh", "gelu", "exp", "log", "reciprocal", "rsqrt", "mul")
ROWWISE = ("softmax", "argmax", "max")
LEARNING_RATE = 0.125
_SIZES = re.compile(r"([1-9][0-9]*)x([1-9][0-9]*)x([1-9][0-9]*)")
_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(ELEMENTWISE, ("n",)),
    **dict.fromkeys(ROWWISE, ("rows", "cols")),
    "matmul": ("m", "k", "n"),
    "mlp-inference": ("batch",),
    "mlp-train": ("batch",),
    "lr-step": ("batch",),
    "lr-breast-cancer": ("steps",),
    "lenet-inference": ("batch",),
}


def learning_rate(kind: str) -> float:
    """The public step width of a training kind."""
    return 1.0 if kind == "lr-breast-cancer" else LEARNING_RATE


@dataclass(frozen=True, slots=True)
class Case:
    """A parsed name. `parameters` are as a worker gets them, without `parties`."""

    kind: str
    parameters: Mapping[str, int] = field(default_factory=dict)
    parties: int = 2

    @classmethod
    def parse(cls, text: str) -> Case:
        """Raises ValueError saying what is wrong."""
        kind, *parts = text.split("/")
        if kind not in _PARAMETERS:
            raise ValueError(f"expected a case of {', '.join(_PARAMETERS)}, found {text!r}")
        values: dict[str, int] = {}
        if kind == "matmul":
            sizes = _SIZES.fullmatch(parts.pop(0) if parts else "")
            if sizes is None:
                raise ValueError(f"expected matmul/MxKxN, found {text!r}")
            values = dict(zip("mkn", (int(size) for size in sizes.groups()), strict=True))
        for part in parts:
            key, sign, value = part.partition("=")
            allowed = key == "parties" or (kind != "matmul" and key in _PARAMETERS[kind])
            if not (sign and allowed and key not in values and value.isdecimal() and int(value) > 0):
                raise ValueError(
                    f"{kind} takes {', '.join((*_PARAMETERS[kind], 'parties'))}: found {part!r} in {text!r}"
                )
            values[key] = int(value)
        parties = values.pop("parties", 2)
        if not 2 <= parties <= 4:
            raise ValueError(f"expected 2, 3 or 4 parties, found {parties} in {text!r}")
        missing = [key for key in _PARAMETERS[kind] if key not in values]
        if missing:
            raise ValueError(f"{kind} needs {missing[0]}=NUMBER: found {text!r}")
        return cls(kind, {key: values[key] for key in _PARAMETERS[kind]}, parties)

    def __str__(self) -> str:
        if self.kind == "matmul":
            middle = ["x".join(str(size) for size in self.parameters.values())]
        else:
            middle = [f"{key}={value}" for key, value in self.parameters.items()]
        return "/".join((self.kind, *middle, f"parties={self.parties}"))


_LISTED = (
    *(f"relu/n={n}" for n in (1, 1000, 10000, 100000, 1000000)),
    *(f"{kind}/n=100000" for kind in ELEMENTWISE if kind != "relu"),
    *(f"{kind}/rows=1000/cols=10" for kind in ROWWISE),
    "matmul/128x784x128",
    *(f"mlp-inference/batch={n}" for n in (1, 128)),
    "mlp-train/batch=128",
    "lr-step/batch=128",
    "lr-breast-cancer/steps=10",
    "lenet-inference/batch=32",
    "relu/n=100000/parties=3",
    "mlp-inference/batch=128/parties=3",
)
LISTED = tuple(str(Case.parse(name)) for name in _LISTED)

"""Gradient descent on shares, laid out so that a step truncates each weight once.

The loss is the mean over a batch of (output - target)^2 / 2, of the logistic loss or of the cross-entropy, plus
l2 / 2 times the squared weights (not the biases). Momentum is v = m v + gradient, w = w - rate v.

Precision. A gradient summed over a batch comes out of a product of rows with f fractional bits, and is not truncated.
The learning rate over the batch's size is alpha 2^-s with 1/2 < alpha <= 1: dividing by 2^s is a change of scale, and
alpha, rounded to ALPHA_BITS, multiplies the derivative by the outputs, which has OUTPUT_BITS and so room for that: a
probability is not known better. The weights are kept with all fractional bits and once a step truncated to f, with
the velocity where there is one. So no bit of a small gradient is lost, and a step opens each weight twice: to
truncate it, and under the mask of its products.

Where weights or steps would leave that room (a large s, the squared loss with its unbounded gradients), gradients
and steps are truncated as they come: two rounds and two openings more, and weights of f fractional bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from enclave.engines.interface import Engine, FloatArray, Secret
from enclave.messages import Training
from enclave.workloads.trainable import TrainableNetwork
from enclave.workloads.watch import Watch

__all__ = ["Descent", "Layout"]

ALPHA_BITS, OUTPUT_BITS = 8, 13
_ROOM_BITS = 8  # integer bits of a weight whose gradients are not truncated


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the binary point of a training's numbers is; public.

    Attributes:
        wide: whether gradients and weights keep all their fractional bits.
        shift, alpha: the learning rate over the batch's size is alpha 2^-shift where wide; alpha is 1 elsewhere.
        gradient_bits, weight_bits: fractional bits of a gradient and of a weight before it is truncated.
    """

    wide: bool
    shift: int
    alpha: float
    gradient_bits: int
    weight_bits: int

    @classmethod
    def of(cls, training: Training, frac_bits: int, largest: float = 0.0) -> Layout:
        """The layout of a training with numbers of `frac_bits` fractional bits.

        Args:
            largest: what a gradient can be, as far as it is known; it and its velocity must have room.
        """
        fraction, exponent = math.frexp(training.learning_rate / training.batch_rows)
        gradient = frac_bits + OUTPUT_BITS + ALPHA_BITS
        fits = gradient - exponent <= 62 - _ROOM_BITS and largest < (1.0 - training.momentum) * 2.0 ** (62 - gradient)
        if training.loss != "squared" and exponent <= 0 and fits:
            return cls(True, -exponent, fraction, gradient, gradient - exponent)
        return cls(False, -exponent, 1.0, 2 * frac_bits, frac_bits)


class Descent:
    """Weights and velocity, flat; the velocity in units of alpha times a gradient summed over a full batch.

    Args:
        watch: is shown what a training that diverges spoils first.
        start: the first weights, flat, where they are not the public ones of the training's seed.
        largest: what a gradient can be, as far as it is known.
    """

    def __init__(
        self,
        engine: Engine,
        network: TrainableNetwork,
        training: Training,
        watch: Watch | None = None,
        *,
        start: Secret | None = None,
        largest: float = 0.0,
    ) -> None:
        self._engine, self._network, self._training, self.watch = engine, network, training, watch
        layout = Layout.of(training, engine.frac_bits, largest)
        self._wide, self._shift, self._alpha = layout.wide, layout.shift, layout.alpha
        self._half_room = 2.0 ** (61 - layout.weight_bits)
        self._inside: Secret | None = None
        self._inspections = 0
        self._decay = network.decayed()
        self._velocity: Secret | None = None
        self._sum: Secret | None = None
        self._averaged = 0
        # Where only shapes are known the values are not made: a plan must not cost what its model costs.
        if start is None and engine.rank is None:
            start = engine.zeros((network.size,))
        self._weights = engine.public(network.initial(training.init_seed)) if start is None else start

    def inspect(self) -> None:
        """Counts the weights within half of their room, where it is small: two comparisons a weight.

        Safety: a weight that leaves its room would be misread. It is found outside of half of it here, unless it went
        out and came back between two inspections; of the first step alone it is known that it is shorter than that.
        """
        if not self._wide:
            return
        engine = self._engine
        both = engine.concat([self._weights, engine.neg(self._weights)], axis=0)
        inside = engine.sum(engine.ge_zero(engine.add(both, self._half_room)), 0, keepdims=True)
        self._inside = inside if self._inside is None else engine.add(self._inside, inside)
        self._inspections += 1

    def steady(self, calm: Secret) -> Secret:
        """The bit `calm` (1,), or 0 where an inspection found a weight outside."""
        if self._inside is None:
            return calm
        engine = self._engine
        found = engine.add(self._inside, -2 * self._network.size * self._inspections)
        return engine.mul(calm, engine.ge_zero(found))

    def step(self, x: Secret, y: Secret) -> None:
        """One batch: forward, backward, update. x (rows, *input shape), y (rows, outputs); classes are integers."""
        engine, network = self._engine, self._network
        weights, velocity = self._settled()
        if self._averaged:
            self._sum = weights if self._sum is None else engine.add(self._sum, weights)
        named = network.unflatten(engine, weights)
        outputs, cache = network.forward(engine, named, x)
        gradient = network.flatten(engine, network.backward(engine, named, cache, self._delta(outputs, y)))
        if self.watch is not None:
            self.watch.see(outputs, gradient)
        self._update(gradient, x.shape[0], weights, velocity)

    def average(self, steps: int) -> None:
        """The result becomes the mean of the weights that the next `steps` steps start from: all that there are."""
        self._averaged = steps

    def result(self) -> Secret:
        """The weights, flat. Cost of a mean: two truncations more."""
        engine, (weights, _) = self._engine, self._settled()
        if self._sum is None:
            return weights
        # The power of two first: what is left of the factor keeps its precision, and the sum its room.
        power = (self._averaged - 1).bit_length()
        return engine.scale(engine.scale(self._sum, 2.0**-power), 2.0**power / self._averaged)

    def _settled(self) -> tuple[Secret, Secret | None]:
        """Weights and velocity as they enter products; the watch's notes share their round."""
        moving = () if self._velocity is None or not self._training.momentum else (self._velocity,)
        noted = () if self.watch is None else self.watch.noted
        weights, *rest = self._engine.settled(self._weights, *moving, *noted)
        if self.watch is not None:
            self.watch.take(rest[len(moving) :])
        return weights, rest[0] if moving else None

    def _delta(self, outputs: Secret, y: Secret) -> Secret:
        """alpha times the derivative of each row's loss by the outputs; alpha is left out in the narrow case."""
        engine, loss = self._engine, self._training.loss
        if loss == "squared":
            return engine.sub(engine.settled(outputs)[0], y)
        bits = OUTPUT_BITS if self._wide else None
        found = (engine.sigmoid if loss == "logistic" else engine.softmax)(outputs, frac_bits=bits)
        delta = engine.sub(found, y)
        return engine.scale_wide(delta, self._alpha, ALPHA_BITS) if self._wide else delta

    def _update(self, gradient: Secret, rows: int, weights: Secret, velocity: Secret | None) -> None:
        engine, training = self._engine, self._training
        full = training.batch_rows
        if not self._wide:
            (gradient,) = engine.settled(gradient)
        if rows != full:
            gradient = engine.scale(gradient, full / rows)
        if training.l2:
            gradient = engine.add(gradient, self._times(weights, full * training.l2 * self._alpha * self._decay))
        if velocity is not None:
            gradient = engine.add(gradient, self._times(velocity, training.momentum))
        self._velocity = gradient
        if self._wide:
            step = engine.scale_wide(gradient, 2.0**-self._shift, self._shift)
        else:
            step = engine.scale(gradient, training.learning_rate / full)
        self._weights = engine.sub(self._weights, step)

    def _times(self, x: Secret, factor: float | FloatArray) -> Secret:
        engine = self._engine
        return engine.scale_wide(x, factor, engine.frac_bits) if self._wide else engine.scale(x, factor)

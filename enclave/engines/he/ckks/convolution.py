"""A convolutional network with square activations on an encrypted image, and a plaintext model.

The network of TenSEAL's tutorial: a convolution, a square, a dense layer, a square, a dense layer. The image comes as
its windows (im2col) in one ciphertext: slot k T + w holds pixel k of window w, T the windows rounded up to a power of
two. Then, with Q channels rounded up:

    convolution   a matrix on blocks of T slots: channel c of window w ends up in every slot (j, w), j = c mod Q,
                  which is the vector of Q T features again and again
    first dense   its rows dealt out to these copies: with 64 rows and 16 copies four plaintext products do it
    second dense  a matrix on blocks of Q T slots that takes the features where they are, and log2 4 folds

12 or fewer rotation keys, all powers of two; four levels. Scales are kept: a plaintext factor is encoded at the prime
that the rescaling drops. The last product is not rescaled: the bottom prime has room for both scales.

Safety: slots that are no output hold partial sums, and a result of CKKS carries noise that depends on the model. What
is returned here hides the image from who computes; it does not hide the model from who has the key. For a model or
rows that must stay hidden see `polynomial`.

**Reference** Gilad-Bachrach et al., "CryptoNets", ICML 2016, for the square activation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from enclave.engines.he.ckks.evaluator import Encrypted, Evaluator, Plain
from enclave.engines.he.ckks.rotations import SlotMatrix, power_of_two
from enclave.engines.he.lattice.parameters import Parameters, checked, primes_of
from enclave.errors import BadSpec

__all__ = ["LEVELS", "EncodedNetwork", "ImageNetwork", "image_parameters", "image_windows"]

Floats = NDArray[np.float64]
LEVELS = 4
SCALE = 2.0**27
_LAST_SCALE = 2.0**17  # of the last layer's weights
_DEGREE, _BOTTOM_BITS, _LEVEL_BITS = 8192, 52, 27  # a result below 2^7 in magnitude
# Switching a digit of a prime q multiplies the key's errors by (q / 2) / P in the slots next to slot 0, where digits
# that are not centred all add up; six bits more than the largest prime make that a sixtieth.
_SPECIAL_BITS = 58


def image_parameters() -> Parameters:
    """N = 8192, [52, 27 x 4 | 58], 218 of 218 bits: four levels at 128 bits of security."""
    bottom, *levels, special = primes_of(_DEGREE, [_BOTTOM_BITS, *[_LEVEL_BITS] * LEVELS, _SPECIAL_BITS])
    return checked("ckks", _DEGREE, (bottom, *levels), special)


def image_windows(image: Floats, kernel: tuple[int, int], stride: int) -> Floats:
    """Every pixel of every window of an image [height, width]: [kernel's pixels, windows], both row-major."""
    views = sliding_window_view(image, kernel)[::stride, ::stride]
    return views.reshape(-1, kernel[0] * kernel[1]).T


@dataclass(frozen=True, slots=True, repr=False)
class ImageNetwork:
    """Weights of the network, float64.

    Attributes:
        image: height and width. kernel: [channels, kh, kw], used every `stride` pixels. first: [channels windows,
            hidden], channel-major. second: [hidden, outputs].
    """

    image: tuple[int, int]
    stride: int
    kernel: Floats
    kernel_bias: Floats
    first: Floats
    first_bias: Floats
    second: Floats
    second_bias: Floats

    def __repr__(self) -> str:
        return f"ImageNetwork({self.image}, {self.kernel.shape}, {self.first.shape}, {self.second.shape})"

    @property
    def windows(self) -> int:
        """Positions of the kernel."""
        height, width = (
            (size - extent) // self.stride + 1 for size, extent in zip(self.image, self.kernel.shape[1:], strict=True)
        )
        return int(height * width)

    def predict(self, image: Floats) -> Floats:
        """The outputs in float64."""
        patches = image_windows(image, (self.kernel.shape[1], self.kernel.shape[2]), self.stride)
        features = self.kernel.reshape(len(self.kernel), -1) @ patches + self.kernel_bias[:, None]
        hidden = np.square(features).reshape(-1) @ self.first + self.first_bias
        outputs: Floats = np.square(hidden) @ self.second + self.second_bias
        return outputs


class EncodedNetwork:
    """A network laid out in slots and encoded, once for all images.

    Raises: BadSpec: naming the layer that does not fit into the slots.
    """

    def __init__(self, network: ImageNetwork, slots: int) -> None:
        self._network, self._slots = network, slots
        channels, pixels = len(network.kernel), int(network.kernel[0].size)
        self._width = power_of_two(network.windows)  # T
        features = power_of_two(channels) * self._width  # Q T
        hidden, outputs = network.second.shape
        for layer, needed in (
            ("the convolution", max(pixels * self._width, features)),
            ("the first dense layer", hidden),
            ("the second dense layer", power_of_two(outputs) * features),
        ):
            if needed > slots:
                raise BadSpec(f"{layer} needs {needed} slots, found {slots}")
        self._features = features
        self.convolution = SlotMatrix.of_blocks(self._kernel_blocks(), slots)
        self.first = SlotMatrix.of_copies(self._first_matrix(), slots)
        self._spread = len(self.first.diagonals)  # rows in one copy
        self.second = SlotMatrix.of_blocks(self._second_blocks(), slots)
        self._sums = tuple(1 << i for i in range(self._spread.bit_length() - 1))

    def __repr__(self) -> str:
        return f"EncodedNetwork({self._network})"

    @property
    def rotations(self) -> tuple[int, ...]:
        """Steps that keys are needed for."""
        layers = (self.convolution, self.first, self.second)
        return tuple(sorted({step for layer in layers for step in layer.rotations} | set(self._sums)))

    def slots_of(self, image: Floats) -> Floats:
        """An image as it is to be encrypted."""
        kernel = self._network.kernel.shape
        patches = image_windows(image, (kernel[1], kernel[2]), self._network.stride)
        found = np.zeros((self._slots // self._width, self._width))
        found[: len(patches), : patches.shape[1]] = patches
        return found.reshape(-1)

    def outputs_of(self, slots: Floats) -> Floats:
        """The network's outputs in the slots of a decrypted result."""
        return slots[:: self._features][: self._network.second.shape[1]]

    def encode(self, evaluator: Evaluator) -> list[list[list[Plain]]]:
        """The three matrices, for the levels that they are used on."""
        return [
            self.convolution.encoded(evaluator, LEVELS + 1),
            self.first.encoded(evaluator, LEVELS - 1),
            self.second.encoded(evaluator, LEVELS - 3, _LAST_SCALE),
        ]

    def forward(self, evaluator: Evaluator, plains: list[list[list[Plain]]], image: Encrypted) -> Encrypted:
        """The encrypted outputs of an encrypted image. Cost: 4 levels."""
        x = self.convolution.product(evaluator, plains[0], image)
        x = self._biased(evaluator, x, self._kernel_bias())
        x = evaluator.rescale(evaluator.square(x))
        x = self.first.product(evaluator, plains[1], x)
        x = self._biased(evaluator, x, self._hidden_slots(self._network.first_bias))
        x = evaluator.rescale(evaluator.square(x))
        x = self.second.product(evaluator, plains[2], x, rescaled=False)
        for step in self._sums:
            x = evaluator.add(x, evaluator.rotate(x, step))
        bias = np.zeros(self._slots)
        bias[:: self._features][: len(self._network.second_bias)] = self._network.second_bias
        return self._biased(evaluator, x, bias)

    def _biased(self, evaluator: Evaluator, x: Encrypted, bias: Floats) -> Encrypted:
        return evaluator.add_plain(x, evaluator.encode(bias, x.count, x.scale))

    # ---- layout
    def _kernel_blocks(self) -> Floats:
        flat = self._network.kernel.reshape(len(self._network.kernel), -1)
        found = np.zeros((len(flat), self._slots // self._width, self._width))
        found[:, : flat.shape[1], : self._network.windows] = flat[:, :, None]
        return found

    def _kernel_bias(self) -> Floats:
        feature = np.zeros((self._features // self._width, self._width))
        feature[: len(self._network.kernel), : self._network.windows] = self._network.kernel_bias[:, None]
        return np.tile(feature.reshape(-1), self._slots // self._features)

    def _first_matrix(self) -> Floats:
        channels, hidden = len(self._network.kernel), self._network.first.shape[1]
        found = np.zeros((hidden, self._features // self._width, self._width))
        found[:, :channels, : self._network.windows] = self._network.first.T.reshape(hidden, channels, -1)
        return found.reshape(hidden, -1)

    def _hidden_slots(self, values: Floats) -> Floats:
        """Values of the hidden layer where the first dense layer leaves them."""
        index = np.arange(len(values))
        found = np.zeros(self._slots)
        found[index // self._spread * self._features + index % self._spread] = values
        return found

    def _second_blocks(self) -> Floats:
        columns = [self._hidden_slots(column) for column in self._network.second.T]
        return np.stack(columns).reshape(len(columns), -1, self._features)

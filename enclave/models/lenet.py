"""LeNet as MiniONN has it for MNIST, for images of any size that it fits."""

from __future__ import annotations

from collections.abc import Sequence

from enclave.errors import BadModel
from enclave.messages import Architecture, Layer, TensorType
from enclave.models.graph import shapes

__all__ = ["lenet_architecture"]

_CHANNELS, _KERNEL, _HIDDEN = 16, 5, 100
_CONV = (1, 1, 0, 0, 0, 0, 1, 1, 1)
_POOL = (2, 2, 2, 2, 0, 0, 0, 0)


def lenet_architecture(image: Sequence[int], outputs: int) -> Architecture:
    """Twice convolution 5x5 to 16 channels, ReLU and maximum of 2x2, then linear to 100, ReLU, linear to `outputs`.

    Args:
        image: (channels, height, width), at least 16 by 16.
        outputs: width of the last layer; the loss of a training brings its own sigmoid or softmax.

    Reference: Liu, Juuti, Lu, Asokan, "Oblivious neural network predictions via MiniONN" (CCS 2017), figure 12.
    Raises: BadModel when the image is too small.
    """
    if len(image) != 3 or image[0] < 1 or min(image[1:]) < 16:
        raise BadModel(f"lenet takes images (channels, height, width) of at least 16 by 16, found {tuple(image)}")
    height, width = (((side - 4) // 2 - 4) // 2 for side in image[1:])
    sizes = {
        "conv0.weight": (_CHANNELS, image[0], _KERNEL, _KERNEL),
        "conv0.bias": (_CHANNELS,),
        "conv1.weight": (_CHANNELS, _CHANNELS, _KERNEL, _KERNEL),
        "conv1.bias": (_CHANNELS,),
        "dense0.weight": (_CHANNELS * height * width, _HIDDEN),
        "dense0.bias": (_HIDDEN,),
        "dense1.weight": (_HIDDEN, outputs),
        "dense1.bias": (outputs,),
    }
    layers = (
        Layer("conv2d", "conv0", ("input",), ("conv0.weight", "conv0.bias"), _CONV),
        Layer("relu", "act0", ("conv0",)),
        Layer("max_pool2d", "pool0", ("act0",), (), _POOL),
        Layer("conv2d", "conv1", ("pool0",), ("conv1.weight", "conv1.bias"), _CONV),
        Layer("relu", "act1", ("conv1",)),
        Layer("max_pool2d", "pool1", ("act1",), (), _POOL),
        Layer("flatten", "flat", ("pool1",)),
        Layer("linear", "dense0", ("flat",), ("dense0.weight", "dense0.bias")),
        Layer("relu", "act2", ("dense0",)),
        Layer("linear", "dense1", ("act2",), ("dense1.weight", "dense1.bias")),
    )
    architecture = Architecture(tuple(image), layers, tuple(TensorType(name, size) for name, size in sizes.items()))
    shapes(architecture)
    return architecture

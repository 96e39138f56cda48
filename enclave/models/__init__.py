"""Models: one small typed graph of layers, read from ONNX, torch modules, safetensors and scikit-learn.

The readers import their libraries when they are called, not before.
"""

from enclave.models.graph import output_shape, shapes
from enclave.models.lenet import lenet_architecture
from enclave.models.model import Model, dense_architecture
from enclave.models.onnx_writer import write_onnx
from enclave.models.ranges import check_ranges, ranges
from enclave.models.read import read_model
from enclave.models.reference import forward_all, forward_float
from enclave.models.safetensors_file import read_safetensors, write_safetensors

__all__ = [
    "Model",
    "check_ranges",
    "dense_architecture",
    "forward_all",
    "forward_float",
    "lenet_architecture",
    "output_shape",
    "ranges",
    "read_model",
    "read_safetensors",
    "shapes",
    "write_onnx",
    "write_safetensors",
]

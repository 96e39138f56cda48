"""Models: one small typed graph of layers, read from ONNX, torch modules, safetensors and scikit-learn."""

from enclave.models.graph import output_shape, shapes
from enclave.models.model import Model, dense_architecture
from enclave.models.reference import forward_float

__all__ = ["Model", "dense_architecture", "forward_float", "output_shape", "shapes"]

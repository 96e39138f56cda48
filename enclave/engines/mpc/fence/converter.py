"""`crypten.nn.from_pytorch` by torch.fx."""

from __future__ import annotations

from enclave.engines.mpc.fence.active import refuse

__all__ = ["from_onnx", "from_pytorch", "from_tensorflow"]

from_onnx = refuse("crypten.nn.from_onnx", "ONNX files are read by enclave.models")
from_tensorflow = refuse("crypten.nn.from_tensorflow", "bring a torch module")
from_pytorch = refuse("crypten.nn.from_pytorch", "not yet")

"""What becomes of every module of CrypTen 0.4.1: kept as it is, replaced by ours, or refused.

A kept module is loaded only if its source has the digest written here. Whoever changes a digest has read the file:
`tests/enclave/engines/mpc/test_fence_scan.py` lists what in it touches transport, randomness, providers, protocols or
reveals.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["KEPT", "OURS", "REFUSED", "VERSION"]

VERSION = "0.4.1"

# Module -> SHA-256 of its source.
KEPT: dict[str, str] = {
    "crypten": "f2df9395a0fef0ba2aa66eca456bbdebd3668af462c7199810809c4ab906421f",
    "crypten.common": "7e117ef5128c374960c3ebf98c2f4ee294281092a9cda6039246e449515ea0ad",
    "crypten.common.util": "43508210d4b46532171c337dab5a146587b0053336ca757d1342a408c3e6021b",
    "crypten.common.tensor_types": "d9a3ee7f0f926966439d3396f37042eba33c67c952ff01ac1c43197d5655dcb6",
    "crypten.common.functions": "f328213938333d16c8fc4989db5af9cb0d8085988b2afa7c67f24e57b2216604",
    "crypten.common.functions.regular": "273d47cde1095ec02e2bb7c7ef619e4530bbfab9ae4b6732f39b2cf356e2f569",
    "crypten.communicator": "5ebdafe44274804f84edfc11e3fb1c3fd63e67cb6a9f08ec7089afd495a18f12",
    "crypten.config": "6968cbde408b4687029e776ea0a56f793d3cb65742af0e4e9d3f3859d015a9f7",
    "crypten.cryptensor": "73da53f882a24b44a7deaf77f1cbf812253bfc69020b07143911c5f703e23a18",
    "crypten.gradients": "5af4b9d010d59307b71a5014ba23e4d69282cc7c851eb074b2465652c9cf0b99",
    "crypten.autograd_cryptensor": "a736602d2181a07a7ec424f39cddd89df89f0f6f777e3720d1f8eda6f02aa51d",
    "crypten.nn": "97d78b674fff0995551f6df2ecd2ce56c8a14b078acda398da62e4174008a81b",
    "crypten.nn.distances": "61474cc86a283f38670d5ecd5237f40f1802c9f2cc46ed96419f354f97e54de2",
    "crypten.nn.init": "3cd53cbea7584bbf1ba74ba0d2c92e4aeeb40d9f00f03d2284fe1a1a94bdd259",
    "crypten.nn.loss": "d8e81b0ec47779c860096a8880c66910962e02f36c9ac3dddcaf4ac600eaef46",
    "crypten.nn.module": "9d01dc4920dcabb554fb4b773d2e71a83909af64dff3e2d3a759ef23971b3712",
    "crypten.optim": "e6846191a31e8f6244221b67493f87b3caec9e26a2d86e66a102f6309904ce49",
    "crypten.optim.optimizer": "578bcb454efecb69b64b258948bf96a08eb83aacc789eb5114e6f9539e02fe97",
    "crypten.optim.sgd": "9a3fb17738c84cc4c1c45a2dfb71d2e6a6ed25a4b89641b6a0aa06e0af4f11ab",
}

# Module -> why.
REFUSED: dict[str, str] = {
    "crypten.common.serial": "objects do not travel: stock unpickles what a peer sends",
    "crypten.debug.debug": "it decrypts operands to compare them",
    "crypten.models": "it copies torchvision's modules; bring a model of your own through from_pytorch",
    "crypten.mpc.primitives.beaver": "products are the engine's",
    "crypten.mpc.primitives.circuit": "comparisons are the engine's",
    "crypten.mpc.primitives.converters": "comparisons are the engine's",
    "crypten.mpc.primitives.replicated": "its products are not re-randomised: inputs can be recovered",
    "crypten.mpc.provider": "correlated randomness comes from the session's dealer",
    "crypten.mpc.provider.homomorphic_provider": "correlated randomness comes from the session's dealer",
    "crypten.mpc.provider.provider": "correlated randomness comes from the session's dealer",
    "crypten.mpc.provider.tfp_provider": "rank 0 would make all correlated randomness in the clear",
    "crypten.mpc.provider.ttp_provider": "its seeds have 32 bits and it calls functions that a peer names",
    "crypten.mpc.provider.tuple_cache": "correlated randomness is used once",
    "crypten.nn.privacy": "it hands out gradients with noise from torch's generator",
    "crypten.nn.privacy.dp_split": "it hands out gradients with noise from torch's generator",
    "crypten.nn.tensorboard": "it writes graphs through a package that is not installed",
}


def _methods(names: str) -> Callable[[], dict[str, Any]]:
    """Exports of our tensor's methods, which CrypTen registers on its base class too."""

    def exports() -> dict[str, Any]:
        from enclave.engines.mpc.fence.tensor import TensorMethods

        methods: dict[str, Any] = {}
        for base in reversed(TensorMethods.__mro__):
            methods.update(vars(base))
        return {"__all__": names.split(), **{name: methods[name] for name in names.split()}}

    return exports


def _pooling() -> dict[str, Any]:
    from enclave.engines.mpc.fence.active import refuse
    from enclave.engines.mpc.fence.program import window_rows

    found = _methods("adaptive_max_pool2d adaptive_avg_pool2d max_pool2d")()
    # crypten.nn imports the first name, though the layers that call it are replaced; programs may use the other.
    return {
        **found,
        "_pool2d_reshape": window_rows,
        "_adaptive_pool2d_helper": refuse("_adaptive_pool2d_helper", "adaptive windows are ours"),
    }


def _encoder() -> dict[str, Any]:
    from enclave.engines.mpc.fence import encoder

    return {
        "FixedPointEncoder": encoder.FixedPointEncoder,
        "nearest_integer_division": encoder.nearest_integer_division,
    }


def _config() -> dict[str, Any]:
    from enclave.engines.mpc.fence.settings import CrypTenConfig

    return {"CrypTenConfig": CrypTenConfig}


def _rng() -> dict[str, Any]:
    from enclave.engines.mpc.fence import program

    return {
        "generate_random_ring_element": program.generate_random_ring_element,
        "generate_kbit_random_tensor": program.generate_kbit_random_tensor,
    }


def _communicator() -> dict[str, Any]:
    from enclave.engines.mpc.fence.communicator import Communicator

    return {"Communicator": Communicator}


def _distributed() -> dict[str, Any]:
    from enclave.engines.mpc.fence.communicator import DistributedCommunicator

    return {"DistributedCommunicator": DistributedCommunicator}


def _in_process() -> dict[str, Any]:
    from enclave.engines.mpc.fence.communicator import InProcessCommunicator

    return {"InProcessCommunicator": InProcessCommunicator}


def _cuda() -> dict[str, Any]:
    from enclave.engines.mpc.fence.program import CUDALongTensor

    return {"CUDALongTensor": CUDALongTensor}


def _debug() -> dict[str, Any]:
    from enclave.engines.mpc.fence import program

    return {
        "register_validation": program.register_validation,
        "configure_logging": program.configure_logging,
        "debug": importlib.import_module("crypten.debug.debug"),
    }


def _primitives() -> dict[str, Any]:
    from enclave.engines.mpc.fence.binary import BinaryShare
    from enclave.engines.mpc.fence.share import Share

    return {"ArithmeticSharedTensor": Share, "BinarySharedTensor": BinaryShare}


def _arithmetic() -> dict[str, Any]:
    from enclave.engines.mpc.fence.share import SENTINEL, Share

    return {"ArithmeticSharedTensor": Share, "SENTINEL": SENTINEL}


def _binary() -> dict[str, Any]:
    from enclave.engines.mpc.fence.binary import BinaryShare
    from enclave.engines.mpc.fence.words import SENTINEL

    return {"BinarySharedTensor": BinaryShare, "SENTINEL": SENTINEL}


def _context() -> dict[str, Any]:
    from enclave.engines.mpc.fence.program import run_multiprocess

    return {"run_multiprocess": run_multiprocess}


def _ptype() -> dict[str, Any]:
    from enclave.engines.mpc.fence.tensor import ptype

    return {"ptype": ptype}


def _tensor() -> dict[str, Any]:
    from enclave.engines.mpc.fence.tensor import tensor_class

    return {"MPCTensor": tensor_class()}


def _mpc() -> dict[str, Any]:
    from enclave.engines.mpc.fence import program
    from enclave.engines.mpc.fence.tensor import ptype

    return {
        "MPCTensor": importlib.import_module("crypten.mpc.mpc").MPCTensor,
        "arithmetic": ptype.arithmetic,
        "binary": ptype.binary,
        "cfg": importlib.import_module("crypten.config").cfg,
        "get_default_provider": program.get_default_provider,
        "primitives": importlib.import_module("crypten.mpc.primitives"),
        "provider": importlib.import_module("crypten.mpc.provider"),
        "ptype": ptype,
        "run_multiprocess": program.run_multiprocess,
        "ttp_required": program.ttp_required,
        "__all__": ["MPCTensor", "primitives", "provider", "ptype", "run_multiprocess"],
    }


def _converter() -> dict[str, Any]:
    from enclave.engines.mpc.fence import converter

    return {
        "TF_AND_TF2ONNX": False,
        "from_onnx": converter.from_onnx,
        "from_pytorch": converter.from_pytorch,
        "from_tensorflow": converter.from_tensorflow,
    }


# Module -> what it exports.
OURS: dict[str, Callable[[], dict[str, Any]]] = {
    "crypten.common.functions.approximations": _methods(
        "exp log reciprocal inv_sqrt sqrt _eix cossin cos sin sigmoid tanh erf softmax log_softmax"
    ),
    "crypten.common.functions.dropout": _methods("dropout"),
    "crypten.common.functions.logic": _methods(
        "__eq__ __ge__ __gt__ __le__ __lt__ __ne__ abs eq ge gt hardtanh le lt ne relu sign where"
    ),
    "crypten.common.functions.maximum": _methods("argmax argmin max min"),
    "crypten.common.functions.pooling": _pooling,
    "crypten.common.functions.power": _methods("norm polynomial pos_pow pow"),
    "crypten.common.functions.sampling": _methods("bernoulli randn weighted_index weighted_sample"),
    "crypten.common.rng": _rng,
    "crypten.communicator.communicator": _communicator,
    "crypten.communicator.distributed_communicator": _distributed,
    "crypten.communicator.in_process_communicator": _in_process,
    "crypten.config.config": _config,
    "crypten.cuda": _cuda,
    "crypten.cuda.cuda_tensor": _cuda,
    "crypten.debug": _debug,
    "crypten.encoder": _encoder,
    "crypten.mpc": _mpc,
    "crypten.mpc.context": _context,
    "crypten.mpc.mpc": _tensor,
    "crypten.mpc.primitives": _primitives,
    "crypten.mpc.primitives.arithmetic": _arithmetic,
    "crypten.mpc.primitives.binary": _binary,
    "crypten.mpc.ptype": _ptype,
    "crypten.nn.onnx_converter": _converter,
}

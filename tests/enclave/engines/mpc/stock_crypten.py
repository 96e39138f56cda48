"""Stock CrypTen 0.4.1, attacked and asked for wrong numbers; prints one JSON object. A script of its own process.

`python stock_crypten.py`: parties are forked processes that talk over gloo on the loopback device. The test that runs
it (`test_stock_attacks`) shows that each attack works here and fails behind the fence.
"""

from __future__ import annotations

import json
import sys
import types
import warnings

warnings.filterwarnings("ignore")


def _import_crypten():
    """Stock's ONNX converter imports a module that torch no longer has; nothing here needs it."""
    converter = types.ModuleType("crypten.nn.onnx_converter")
    converter.from_pytorch = converter.from_onnx = converter.from_tensorflow = None
    converter.TF_AND_TF2ONNX = False
    sys.modules["crypten.nn.onnx_converter"] = converter
    import crypten

    return crypten


crypten = _import_crypten()

import crypten.communicator as comm  # noqa: E402
import crypten.mpc as mpc  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from crypten.mpc.primitives import ArithmeticSharedTensor  # noqa: E402

SECRET = [1.5, -2.25, 3.0]
SCALE = 65536


def opened_pairs():
    """What a Beaver product opens, as every rank sees it."""
    seen, original = [], ArithmeticSharedTensor.reveal_batch

    def spy(tensors, dst=None):
        found = original(tensors, dst)
        seen.append([t.clone() for t in found])
        return found

    ArithmeticSharedTensor.reveal_batch = staticmethod(spy)
    return seen


def first_party():
    """The default provider: rank 0 draws the masks, so it adds the mask it drew to what is opened."""

    @mpc.run_multiprocess(2)
    def program():
        import crypten.mpc.provider.tfp_provider as provider

        drawn, opened, original = [], opened_pairs(), provider.generate_random_ring_element

        def record(*args, **kwargs):
            drawn.append(original(*args, **kwargs))
            return drawn[-1]

        provider.generate_random_ring_element = record
        x = crypten.cryptensor(torch.tensor(SECRET), src=1)
        x * x
        return ((opened[0][0] + drawn[0]).double() / SCALE).tolist() if comm.get().get_rank() == 0 else None

    return program()[0]


def dealer_calls_what_it_is_told():
    """The dealer process calls the method that a request names: rank 0 asks for the next mask in the clear."""
    crypten.cfg.mpc.provider = "TTP"

    @mpc.run_multiprocess(2)
    def program():
        from crypten.mpc.provider.ttp_provider import TTPClient

        rank, opened = comm.get().get_rank(), opened_pairs()
        x = crypten.cryptensor(torch.tensor(SECRET), src=1)
        y = crypten.cryptensor(torch.ones(3), src=1)
        if rank == 0:
            mask = TTPClient.get().ttp_request("_get_additive_PRSS", None, torch.Size([3]))
        x * y
        return ((opened[0][0] + mask).double() / SCALE).tolist() if rank == 0 else None

    found = program()[0]
    crypten.cfg.mpc.provider = "TFP"
    return found


def reduction_leaks():
    """A value revealed to rank 0: the fraction of it that rank 1's buffer holds afterwards."""

    def share_of(parties):
        @mpc.run_multiprocess(parties)
        def program():
            values = torch.arange(600.0)
            x, seen, original = crypten.cryptensor(values, src=0), [], dist.reduce

            def spy(tensor, dst, **kwargs):
                found = original(tensor, dst, **kwargs)
                seen.append(tensor.clone())
                return found

            dist.reduce = spy
            x.get_plain_text(dst=0)
            held = (x.encoder.decode(seen[0]) - values).abs() < 1e-3
            return (held & (values > 0)).float().mean().item()

        return program()[1]

    return {parties: share_of(parties) for parties in (2, 3)}


def seeds_have_32_bits():
    first, second = torch.Generator(), torch.Generator()
    seed = 0x091A2B3C4D5E6F78
    first.manual_seed(seed)
    second.manual_seed(seed & 0xFFFFFFFF)
    return torch.equal(torch.randint(1 << 62, (9,), generator=first), torch.randint(1 << 62, (9,), generator=second))


def buffers_are_broadcast():
    """load_from_party hides parameters, not buffers: what rank 1 receives of rank 0's running mean."""

    @mpc.run_multiprocess(2)
    def program():
        module = None
        if comm.get().get_rank() == 0:
            module = torch.nn.BatchNorm1d(3)
            module.running_mean[:] = torch.tensor([11.0, 22.0, 33.0])
        return crypten.load_from_party(preloaded=module, src=0).running_mean.tolist()

    return program()[1]


def wrong_numbers():
    """Name -> [what stock returns, what is right]."""

    @mpc.run_multiprocess(2)
    def program():
        found = {}

        def note(name, tensor, expected):
            found[name] = [tensor.get_plain_text().reshape(-1).tolist(), expected]

        def encrypt(values, **settings):
            return crypten.cryptensor(torch.tensor(values), **settings)

        note("pow 5", encrypt([1.5, -1.2]).pow(5), [1.5**5, (-1.2) ** 5])
        note("erf", encrypt([-0.9, 0.9]).erf(), [-0.79691, 0.79691])
        v = encrypt([-1.0, 2.0, 3.0])
        note("comparison times float", (v > 0) * 0.5, [0.0, 0.5, 0.5])
        note("comparison plus float", (v > 0) + 0.25, [0.25, 1.25, 1.25])
        note("float minus comparison", 1.5 - (v > 0), [1.5, 0.5, 0.5])
        note("mean of a comparison", (v > 0).mean(), [2 / 3])
        note("var", encrypt([1.0, 2.0, 3.0, 6.0]).var(unbiased=True), [14 / 3])
        hard = encrypt([-0.9, 0.2, 0.9], requires_grad=True).hardtanh(-0.5, 0.5)
        note("hardtanh", hard, [-0.5, 0.2, 0.5])
        note("numpy", crypten.cryptensor(np.array([0.5, 1.7])), [0.5, 1.7])
        for name, value, right in (("sigmoid", 600.0, 1.0), ("reciprocal", 300.0, 1 / 300), ("log", 300.0, 5.70378)):
            tensor = encrypt([value])
            call = {"sigmoid": tensor.sigmoid, "reciprocal": tensor.reciprocal, "log": tensor.log}[name]
            note(f"{name} of {value:g}", call(), [right])
        note("sqrt of 400", encrypt([400.0]).sqrt(), [20.0])
        note("softmax", encrypt([[0.0, 600.0, 10.0]]).softmax(1), [0.0, 1.0, 0.0])
        note("stack", crypten.stack([v > 0, v]), [0.0, 1.0, 1.0, -1.0, 2.0, 3.0])
        indexed = encrypt([1.0, 2.0], requires_grad=True)
        found["gradient through an index"] = [[float(indexed[0].requires_grad)], [1.0]]
        many = torch.full((200_000,), 2.0**12)
        product = crypten.cryptensor(many) * crypten.cryptensor(many)
        found["truncation"] = [[float((product.get_plain_text() - 2.0**24).abs().max())], [0.0]]
        return found

    return program()[0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    report = {
        "first_party": first_party(),
        "dealer_calls": dealer_calls_what_it_is_told(),
        "reduction": reduction_leaks(),
        "seeds": seeds_have_32_bits(),
        "buffers": buffers_are_broadcast(),
        "wrong": wrong_numbers(),
    }
    sys.stdout.write(json.dumps(report))

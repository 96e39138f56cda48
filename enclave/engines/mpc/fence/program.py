"""What CrypTen gives to programs beside tensors: starting, saving, randomness, launching. Ours, or refused."""

from __future__ import annotations

import functools
import importlib
import io
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from enclave.engines.mpc.fence.active import current, current_or_none, refuse
from enclave.engines.mpc.fence.mistakes import BadType
from enclave.engines.mpc.fence.ordering import Windows
from enclave.engines.mpc.random import KeyStream, fresh_key
from enclave.errors import BadData, BadSpec, Unsupported

__all__ = [
    "CUDALongTensor",
    "configure_logging",
    "generate_kbit_random_tensor",
    "generate_random_ring_element",
    "get_default_provider",
    "register_validation",
    "run_multiprocess",
    "ttp_required",
]


# ---- sessions
def init(config_file: None = None, party_name: str | None = None, device: None = None) -> None:
    """Nothing but a check that this thread has a session: whoever started the program opened it."""
    fence = current()
    if config_file is not None or device not in (None, "cpu", torch.device("cpu")):
        raise Unsupported("crypten.init", "configuration files and devices are not taken over")
    if party_name is not None:
        fence.party_name = party_name


def uninit() -> None:
    """Nothing: whoever opened the session closes it."""


def is_initialized() -> bool:
    """Whether this thread has a session."""
    return current_or_none() is not None


def run_multiprocess(world_size: int, maxsize: int | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a program's main function: every party is in its own process already, so it runs here.

    The results of the other parties are None: a value that one party computed stays with it.
    """

    def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> list[Any]:
            fence = current()
            if world_size != fence.parties:
                raise BadSpec(
                    f"the program wants {world_size} parties, the session has {fence.parties}",
                    hint=f"start it with {world_size} parties",
                )
            results: list[Any] = [None] * world_size
            results[fence.rank] = function(*args, **kwargs)
            return results

        return wrapper

    return decorator


def ttp_required() -> bool:
    """False: the session's dealer needs no process of the program's."""
    return False


get_default_provider = refuse(
    "crypten.mpc.get_default_provider", "correlated randomness comes from the session's dealer"
)


# ---- randomness
def generate_random_ring_element(
    size: Any, ring_size: int = 1 << 64, generator: None = None, **kwargs: Any
) -> torch.Tensor:
    """Uniform integers of a signed ring, known to this party alone: from a fresh AES key of the operating system's."""
    bits = int(ring_size).bit_length() - 1
    if ring_size != 1 << bits or not 0 < bits <= 64:
        raise Unsupported(f"a ring of {ring_size} elements", "rings have a power of two")
    return generate_kbit_random_tensor(size, bits, generator) - (1 << (bits - 1) if bits < 64 else 0)


def generate_kbit_random_tensor(
    size: Any, bitlength: int | None = None, generator: None = None, **kwargs: Any
) -> torch.Tensor:
    """Uniform integers of so many bits, known to this party alone."""
    if generator is not None:
        raise Unsupported("a random generator for shares", "keys are the session's")
    bits = 64 if bitlength is None else int(bitlength)
    if not 0 < bits <= 64:
        raise Unsupported(f"integers of {bits} bits", "they have 1 to 64")
    shape = tuple(size)
    words = KeyStream(fresh_key()).words(1, int(np.prod(shape, dtype=np.int64)))
    return torch.from_numpy((words >> np.uint64(64 - bits)).view(np.int64)).reshape(shape)


class Generators(Mapping[str, Any]):
    """Stands for `crypten.generators`: there are none to get at."""

    def __getitem__(self, name: str) -> Any:
        raise Unsupported(f"crypten.generators[{name!r}]", "shares and masks come from the session's key streams")

    def __iter__(self) -> Any:
        raise Unsupported("crypten.generators", "shares and masks come from the session's key streams")

    def __len__(self) -> int:
        return 0


# ---- files
def load_from_party(
    f: Any = None,
    preloaded: Any = None,
    encrypted: bool = False,
    model_class: None = None,
    src: int = 0,
    load_closure: Any = None,
    **kwargs: Any,
) -> Any:
    """A tensor that rank `src` has, encrypted. Only its shape is told to the others (one round).

    Stock sends a pickled copy of what it loads, with parameters zeroed and buffers not. Here a file is read by
    `src` itself, by `load_closure` or as NumPy's format for arrays without objects; modules are built by all
    parties and encrypted with `encrypt(src=...)`.
    """
    fence = current()
    fence.check_rank(src, "src")
    if encrypted or (kwargs and load_closure is None):
        raise Unsupported("crypten.load_from_party", "files are plaintext, and read without options")
    tensor: Any = None
    if fence.rank == src:
        if (f is None) == (preloaded is None):
            raise BadSpec("exactly one of f and preloaded must be given at the source")
        tensor = preloaded if f is None else _loaded(f, load_closure, kwargs)
    known = fence.publish(np.array([isinstance(tensor, torch.Tensor)], np.uint64), (1,), src)
    if not known[0]:
        raise BadType(f"rank {src} loaded no tensor", hint="modules are built by all and encrypted by encrypt(src=...)")
    return importlib.import_module("crypten").cryptensor(tensor, src=src, broadcast_size=True)


def _loaded(f: Any, load_closure: Any, kwargs: Any) -> Any:
    """What the program's own function reads from the source's own file; without one, an array in NumPy's format."""
    if load_closure is not None:
        return load_closure(f, **kwargs)
    try:
        return torch.from_numpy(np.lib.format.read_array(_opened(f), allow_pickle=False))
    except ValueError as error:
        raise BadData(
            "the file is not an array in NumPy's format", hint="to read another format, pass load_closure=..."
        ) from error


def _opened(f: Any) -> Any:
    return io.BytesIO(Path(f).read_bytes()) if isinstance(f, str | Path) else f


manual_seed = refuse("crypten.manual_seed", "keys come from the operating system")
init_thread = refuse("crypten.init_thread", "a party is a session of its own")
trace = refuse("crypten.trace", "the dealer is asked as the program runs")
trace_once = refuse("crypten.trace_once", "the dealer is asked as the program runs")
fill_cache = refuse("crypten.fill_cache", "the dealer is asked as the program runs")
setup_prng = refuse("crypten._setup_prng", "keys come from the operating system")
sync_seeds = refuse("crypten._sync_seeds", "keys come from the operating system")


def save_from_party(obj: Any, f: Any, src: int = 0, save_closure: Any = None, **kwargs: Any) -> None:
    """Writes a plaintext of rank `src` by the program's own function, or a tensor in NumPy's format; all wait."""
    fence = current()
    fence.check_rank(src, "src")
    if fence.rank == src and save_closure is not None:
        save_closure(obj, f, **kwargs)
    elif fence.rank == src:
        if kwargs or not isinstance(obj, torch.Tensor):
            raise Unsupported("crypten.save_from_party", "without save_closure it writes tensors in NumPy's format")
        data = io.BytesIO()
        np.save(data, obj.detach().cpu().numpy(), allow_pickle=False)
        if isinstance(f, str | Path):
            Path(f).write_bytes(data.getvalue())
        else:
            f.write(data.getvalue())
    fence.publish(None, (1,), src)


# ---- what stays a name
def window_rows(
    input: torch.Tensor,
    kernel_size: Any,
    padding: Any = 0,
    stride: Any = None,
    dilation: Any = 1,
    ceil_mode: bool = False,
    pad_value: int = 0,
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """The windows of pooling over a plaintext, one a row, and the shape of the result."""
    windows = Windows.regular(tuple(input.shape), kernel_size, stride, padding, dilation, ceil_mode)
    cells = input.reshape(*input.shape[:-2], -1)[..., torch.from_numpy(np.maximum(windows.places, 0))]
    cells = torch.where(torch.from_numpy(windows.places < 0), torch.full_like(cells, pad_value), cells)
    return cells.reshape(-1, windows.places.shape[1]), windows.out


class CUDALongTensor:
    """Refused: shares live on the CPU."""

    __init__ = refuse("CUDALongTensor", "shares live on the CPU")
    cat = staticmethod(refuse("CUDALongTensor.cat", "shares live on the CPU"))
    stack = staticmethod(refuse("CUDALongTensor.stack", "shares live on the CPU"))


def register_validation(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself: stock wraps it to decrypt operands and compare."""
    return function


def configure_logging() -> None:
    """Logs of this process at level INFO."""
    logging.basicConfig(level=logging.INFO)
